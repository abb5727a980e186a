"""The vendors' tools and their reports: each toolchain's are read, a damaged one is told, fakes stand for the tools."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys

import numpy as np
import pytest

from greenedge.backends import hls4ml
from greenedge.backends.hls4ml.reports import amd, catapult, intel, read_reports
from greenedge.backends.hls4ml.reports.reading import count, number
from greenedge.errors import ToolError
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.backends.affine_nets import make_graph, vectors

ESTIMATED = "estimated by the HLS compiler"
SOLUTION = "net_prj/solution1/syn/report"
CATAPULT = "net_prj/net.v1"
INTEL = "net-fpga.prj/reports/lib"
ONEAPI = "build/net.fpga.prj/reports/resources/json"


@pytest.fixture
def lay(repo, tmp_path):
    """lay("where/name", "golden"): a golden report at its place in a project; gives the project."""

    def laid(place: str, golden: str | None = None):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repo / "tests" / "golden" / "hls4ml" / (golden or path.name), path)
        return tmp_path

    return laid


def test_without_a_report_nothing_is_known(tmp_path):
    for toolchain in ("vitis", "vivado", "vivado-accelerator", "quartus", "oneapi", "catapult", "libero"):
        assert read_reports(tmp_path, toolchain) == ({}, {})


@pytest.mark.parametrize(
    "toolchain, name",
    [("vitis", "net_csynth.xml"), ("vivado", "net_csynth.xml"), ("vivado-accelerator", "net_axi_csynth.xml")],
)
def test_of_vivado_hls_and_vitis(lay, toolchain, name):
    found, evidence = read_reports(lay(f"{SOLUTION}/{name}", "net_csynth.xml"), toolchain)
    assert found == {
        "lut": 63251,
        "ff": 4394,
        "dsp": 38,
        "uram": 0,
        "bram_bits": 36864,
        "clock_hz": 2e8,
        "fmax_hz": 1e9 / 3.625,
        "latency_cycles": 9,
        "cycles_per_inference": 1,
        "latency_s": pytest.approx(45e-9),
        "ips": 2e8,
    }
    assert evidence.pop("clock_hz") == "asked for" and set(evidence.values()) == {ESTIMATED}
    found, evidence = read_reports(lay("vivado_synth.rpt"), toolchain)
    assert (found["lut"], found["ff"], found["dsp"], found["bram_bits"]) == (15102, 3120, 0, 3 * 18432)
    assert found["hls_estimates"] == {"lut": 63251, "ff": 4394, "dsp": 38, "uram": 0, "bram_bits": 36864}
    assert evidence["lut"] == "reported by Vivado after logic synthesis" and evidence["latency_s"] == ESTIMATED


def test_of_the_accelerators_block_design(lay):
    lay("util.rpt")
    routed = "net_vivado_accelerator/project_1.runs/impl_1/design_1_wrapper_timing_summary_routed.rpt"
    found, evidence = read_reports(lay(routed, "timing_summary.rpt"), "vivado-accelerator")
    assert found == {
        "lut": 6180,
        "ff": 8122,
        "dsp": 38,
        "bram_bits": 7 * 18432,
        "fmax_hz": 125_000_000,
        "clock_hz": 100_000_000,
    }
    assert set(evidence.values()) == {"reported by Vivado after routing, with the block design around it"}
    found, evidence = read_reports(lay(f"{SOLUTION}/net_axi_csynth.xml", "net_csynth.xml"), "vivado-accelerator")
    assert (found["latency_cycles"], found["latency_s"], found["ips"]) == (9, pytest.approx(90e-9), 100_000_000)
    assert found["lut"] == 6180 and found["hls_estimates"]["lut"] == 63251 and evidence["ips"] == ESTIMATED


def test_of_intels_compiler(lay):
    lay(f"{INTEL}/report_data.js")
    lay(f"{INTEL}/verification_data.js")
    found, evidence = read_reports(lay(f"{INTEL}/quartus_data.js"), "quartus")
    assert found == {
        "alut": 24953,
        "ff": 21004,
        "ram_blocks": 2,
        "dsp": 48,
        "mlab": 30,
        "alm": 9120.5,
        "latency_cycles": 15,
        "cycles_per_inference": 1,
        "fmax_hz": 312_500_000,
        "hls_estimates": {"ff": 58241, "ram_blocks": 2, "dsp": 48, "mlab": 31},
    }
    assert evidence == {
        "alut": ESTIMATED,
        **dict.fromkeys(("alm", "ff", "ram_blocks", "dsp", "mlab", "fmax_hz"), "reported by Quartus after fitting"),
        **dict.fromkeys(("latency_cycles", "cycles_per_inference"), "simulated by the HLS compiler's tools"),
    }


def test_of_intels_compiler_alone(lay, tmp_path):
    """Before the simulator and the fitter have run their files are there, and say nothing."""
    lay(f"{INTEL}/report_data.js")
    (tmp_path / INTEL / "verification_data.js").write_text("var verifJSON={};\n")
    fitter = {
        "quartusFitClockSummary": {"nodes": [{"clock": "TBD"}]},
        "quartusFitResourceUsageSummary": {"nodes": [{"name": "net", "alm": "TBD"}]},
    }
    (tmp_path / INTEL / "quartus_data.js").write_text(f"var quartusJSON={json.dumps(fitter)};")
    found, evidence = read_reports(tmp_path, "quartus")
    assert found == {"alut": 24953, "ff": 58241, "ram_blocks": 2, "dsp": 48, "mlab": 31}
    assert set(evidence.values()) == {ESTIMATED}


def test_of_oneapi(lay, tmp_path):
    early = ONEAPI.replace("fpga", "report")
    lay(f"{early}/summary.ndjson")
    found, evidence = read_reports(lay(f"{early}/loop_attr.ndjson"), "oneapi")
    assert found == {
        "alut": 2462,
        "ff": 7938,
        "ram_blocks": 77,
        "dsp": 0,
        "mlab": 92,
        "fmax_hz": 210_500_000,
        "loop_interval_cycles": 1,
        "loop_latency_cycles": 176,
    }
    assert set(evidence.values()) == {ESTIMATED}
    for name in ("summary", "loop_attr", "quartus"):
        lay(f"{ONEAPI}/{name}.ndjson")
    found, evidence = read_reports(tmp_path, "oneapi")
    assert (found["alm"], found["alut"], found["ff"], found["fmax_hz"]) == (1520, 4181, 16410, 298_060_000)
    assert found["hls_estimates"]["alut"] == 2462 and evidence["alut"] == "reported by Quartus after fitting"
    assert evidence["loop_latency_cycles"] == ESTIMATED


def test_of_catapult(lay, tmp_path):
    lay(f"{CATAPULT}/cycle.rpt")
    found, evidence = read_reports(lay(f"{CATAPULT}/rtl.rpt"), "catapult")
    assert found == {
        "clock_hz": 200_000_000,
        "latency_cycles": 12,
        "cycles_per_inference": 1,
        "ips": 200_000_000,
        "latency_s": pytest.approx(60e-9),
        "lut": 820,
        "ff": 183,
        "area_score": 2205.1,
        "fmax_hz": pytest.approx(1e9 / 4.237),
    }  # and no DSPs: the library counts them in two ways
    assert evidence.pop("clock_hz") == "asked for" and set(evidence.values()) == {ESTIMATED}
    lay(f"{CATAPULT}/vivado_concat_v/utilization_synth.rpt", "vivado_synth.rpt")
    found, evidence = read_reports(
        lay(f"{CATAPULT}/vivado_concat_v/timing_summary_synth.rpt", "timing_summary.rpt"), "catapult"
    )
    assert (found["lut"], found["dsp"], found["fmax_hz"]) == (15102, 0, 125_000_000)
    assert found["hls_estimates"]["lut"] == 820 and evidence["lut"] == "reported by Vivado after logic synthesis"
    newest = tmp_path / "net_prj" / "net.v10"  # a later solution of the same project
    newest.mkdir()
    (newest / "cycle.rpt").write_text((tmp_path / CATAPULT / "cycle.rpt").read_text().replace("      12 ", "      -1 "))
    assert "latency_cycles" not in read_reports(tmp_path, "catapult")[0]


def test_what_a_report_does_not_know_is_absent(repo, tmp_path):
    text = (repo / "tests" / "golden" / "hls4ml" / "net_csynth.xml").read_text()
    path = tmp_path / "net_csynth.xml"
    path.write_text(text.replace("<LUT>63251</LUT>", "<LUT>?</LUT>").replace(">9<", ">undef<"))
    known = {key: value for reading in amd.parse_csynth(path) for key, value in reading.drop_unknown().items()}
    assert not {"lut", "latency_cycles", "latency_s"} & set(known) and known["ff"] == 4394
    written = ("1,526", "0", "-2.5", "undef", "N/A", "1e999", "", "9" * 40, True, float("inf"))
    assert [number(text) for text in written] == [1526, 0, -2.5, *[None] * 7]
    assert count("-1") is None and count("0") == 0


SPOILED = [
    (amd.parse_csynth, "net_csynth.xml", lambda t: t[:60], "is damaged (unclosed token: line 3, column 0)"),
    (amd.parse_csynth, "net_csynth.xml", lambda t: "<profile/>", "is damaged (it has no estimates)"),
    (
        amd.parse_csynth,
        "net_csynth.xml",
        lambda t: '<!DOCTYPE x [<!ENTITY a "b">]><profile/>',
        "is no report (it declares entities)",
    ),
    (amd.parse_utilisation, "vivado_synth.rpt", lambda t: t.replace("|", " "), "is no utilisation report"),
    (amd.parse_hierarchy, "util.rpt", lambda t: t.replace("(top)", "(low)"), "is no utilisation report"),
    (amd.parse_timing, "timing_summary.rpt", lambda t: t.replace("WNS", "TNS"), "is no timing summary"),
    (
        catapult.parse_cycles,
        "cycle.rpt",
        lambda t: t.replace("Design Total", "Sum"),
        "is no report of Catapult's cycles",
    ),
    (catapult.parse_rtl, "rtl.rpt", lambda t: t[:300], "is no report of Catapult's RTL"),
    (intel.parse_area, "report_data.js", lambda t: t.replace("areaJSON", "aJSON"), "is damaged (it has no areaJSON)"),
    (
        intel.parse_area,
        "report_data.js",
        lambda t: "var areaJSON=alert(1);",
        "is damaged (Expecting value: line 1 column 1 (char 0))",
    ),
    (intel.parse_area, "report_data.js", lambda t: "var areaJSON=[];", "is damaged (it has no total)"),
    (
        intel.parse_area,
        "report_data.js",
        lambda t: 'var areaJSON={"total":[1]};',
        "is damaged (its totals are not those of a design)",
    ),
    (
        intel.parse_summary,
        "summary.ndjson",
        lambda t: t.replace('"Total"', '"Sum"'),
        "is damaged (it has no line Total)",
    ),
    (
        intel.parse_summary,
        "summary.ndjson",
        lambda t: t.replace("7938", "NaN"),
        "is damaged (NaN is no number of a report)",
    ),
    (intel.parse_loops, "loop_attr.ndjson", lambda t: "[" * 100_000, "is damaged ("),
    (
        lambda path: intel.parse_fit(path, intel.variable(path, "quartusJSON")),
        "quartus_data.js",
        lambda t: t.replace("quartusFitClockSummary", "clocks"),
        "is damaged (it has no quartusFitClockSummary)",
    ),
]


@pytest.mark.parametrize("parse, golden, spoil, wrong", SPOILED)
def test_a_report_that_is_none_is_told_in_one_sentence(repo, tmp_path, parse, golden, spoil, wrong):
    path = tmp_path / golden
    path.write_text(spoil((repo / "tests" / "golden" / "hls4ml" / golden).read_text()))
    with pytest.raises(ToolError) as error:
        parse(path)
    assert str(error.value).startswith(f"{path} {wrong}") and str(error.value).endswith("; run the synthesis again.")


def test_a_report_too_long_to_be_one_is_not_read(tmp_path):
    path = tmp_path / "net_csynth.xml"
    with open(path, "wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(ToolError) as error:
        amd.parse_csynth(path)
    assert str(error.value) == f"{path} has 67,108,865 bytes; a report has at most 67,108,864."


# -- fakes ------------------------------------------------------------------------------------------------------------

# toolchain -> (programs, options, {golden report: where the tool leaves it})
FAKES = {
    "vitis": (("vitis-run",), {}, {"net_csynth.xml": f"{SOLUTION}/net_csynth.xml"}),
    "vivado": (
        ("vivado_hls",),
        {"synthesis": "logic"},
        {"net_csynth.xml": f"{SOLUTION}/net_csynth.xml", "vivado_synth.rpt": "vivado_synth.rpt"},
    ),
    "quartus": (("i++", "make"), {}, {"report_data.js": f"{INTEL}/report_data.js"}),
    "oneapi": (("icpx", "cmake"), {}, {"summary.ndjson": f"{ONEAPI.replace('fpga', 'report')}/summary.ndjson"}),
    "catapult": (("catapult",), {}, {"rtl.rpt": f"{CATAPULT}/rtl.rpt", "cycle.rpt": f"{CATAPULT}/cycle.rpt"}),
    "vivado-accelerator": (
        ("vivado_hls", "vivado"),
        {"synthesis": "bitstream"},
        {
            "net_csynth.xml": f"{SOLUTION}/net_axi_csynth.xml",
            "util.rpt": "util.rpt",
            "rtl.rpt": "net_vivado_accelerator/project_1.runs/impl_1/design_1_wrapper.bit",
        },
    ),
}
BOARDS = {"quartus": "arria10-gx", "oneapi": "arria10-gx", "vivado-accelerator": "pynq-z2"}


@pytest.fixture
def tools(tmp_path, monkeypatch, repo):
    """tools(toolchain): fakes on PATH that leave its golden reports and C++ of their own beside them, or fail."""

    def install(toolchain: str) -> dict:
        programs, options, reports = FAKES[toolchain]
        folder, golden = tmp_path / "bin", repo / "tests" / "golden" / "hls4ml"
        folder.mkdir()
        for program in programs:
            (folder / program).write_text(f"""#!{sys.executable}
import os, pathlib, shutil, sys
with open("argv.txt", "a") as file:
    print({program!r}, *sys.argv[1:], file=file)
if os.environ.get("FAKE") == "fail":
    print("ERROR: [HLS 200-101] license not found"); sys.exit(1)
pathlib.Path("net_prj").mkdir(exist_ok=True)
pathlib.Path("net_prj/a_o.pp.cpp").write_text("int left_by_the_vendor;")
for name, place in {reports!r}.items() if os.environ.get("FAKE") != "nothing" else ():
    path = pathlib.Path(place); path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(os.path.join({str(golden)!r}, name), path)
""")
            (folder / program).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return {"toolchain": toolchain, **options}

    return install


def _plan(options, **changes):
    """The plan without its C simulation, which takes a compiler its time."""
    graph, _ = make_graph(np.random.default_rng(5), vectors)
    target = load_target(BOARDS.get(options["toolchain"], "vcu118"))
    plan = hls4ml.plan(graph, target, {**options, **changes})
    keep = [command for command in plan.commands if command.log != "csim.log"]
    return dataclasses.replace(plan, commands=tuple(keep), products=tuple(p for p in plan.products if p != "csim.json"))


@pytest.mark.parametrize("toolchain", FAKES)
def test_a_vendors_tool_runs_where_it_is_on_path(tmp_path, tools, toolchain):
    pytest.importorskip("hls4ml")
    plan = _plan(tools(toolchain))
    execute(plan, tmp_path / "build")
    ran = (tmp_path / "build" / "project" / "argv.txt").read_text().splitlines()
    assert ran == [" ".join(command.argv) for command in plan.commands[1:]]
    told = hls4ml.report(tmp_path / "build")
    assert told["evidence"] and not [note for note in told["notes"] if note.startswith("No vendor tool ran")]
    assert set(FAKES[toolchain][0]) & set(told["tools"])
    listed = json.loads((tmp_path / "build" / "project.json").read_text())["sources"]
    assert "project/net_prj/a_o.pp.cpp" not in listed and any(name.endswith("parameters.h") for name in listed)


@pytest.mark.parametrize("toolchain", ["vitis", "oneapi"])
def test_a_vendors_tool_that_fails_ends_the_build(tmp_path, tools, monkeypatch, toolchain):
    pytest.importorskip("hls4ml")
    options = tools(toolchain)
    program = FAKES[toolchain][0][0]
    monkeypatch.setenv("FAKE", "fail")
    with pytest.raises(ToolError) as error:
        execute(_plan(options), tmp_path / "build")
    assert str(error.value) == (
        f"synthesis with {program} ended with exit status 1: ERROR: [HLS 200-101] license not "
        f"found; the log is {tmp_path / 'build.part' / 'synthesis.log'}."
    )
    monkeypatch.setenv("FAKE", "nothing")
    with pytest.raises(ToolError) as error:
        execute(_plan(options), tmp_path / "build")
    assert str(error.value) == (
        f"project/{_report_of(toolchain)} is missing: "
        f"synthesis with {program} ended without an error but did not make it; the log is "
        f"{tmp_path / 'build.part' / 'synthesis.log'}."
    )


def _report_of(toolchain: str) -> str:
    return next(iter(FAKES[toolchain][2].values()))


def test_a_clock_that_is_not_met_is_said(tmp_path, tools, repo):
    pytest.importorskip("hls4ml")
    execute(_plan(tools("vitis"), clock_hz=400_000_000), tmp_path / "build")
    path = tmp_path / "build" / "project" / SOLUTION / "net_csynth.xml"
    path.write_text(path.read_text().replace("5.00<", "2.50<"))
    told = hls4ml.report(tmp_path / "build")
    assert told["notes"] == ["The clock of 400 MHz is not met: 275.9 MHz, estimated by the HLS compiler."]
    assert told["evidence"]["clock_hz"] == "asked for"


@pytest.mark.parametrize(
    "toolchain, places",
    [
        (
            "vivado-accelerator",
            {
                "net_csynth.xml": f"{SOLUTION}/net_axi_csynth.xml",
                "vivado_synth.rpt": "vivado_synth.rpt",
                "util.rpt": "util.rpt",
            },
        ),
        (
            "quartus",
            {f"{name}.js": f"{INTEL}/{name}.js" for name in ("report_data", "verification_data", "quartus_data")},
        ),
        ("oneapi", {f"{name}.ndjson": f"{ONEAPI}/{name}.ndjson" for name in ("summary", "loop_attr", "quartus")}),
        (
            "catapult",
            {
                "cycle.rpt": f"{CATAPULT}/cycle.rpt",
                "rtl.rpt": f"{CATAPULT}/rtl.rpt",
                "timing_summary.rpt": f"{CATAPULT}/vivado_concat_v/timing_summary_synth.rpt",
            },
        ),
    ],
)
def test_whatever_is_spoiled_a_report_is_read_or_told(rng, repo, tmp_path, toolchain, places):
    """Cut, with bytes changed, with numbers in place of words: numbers that are counts, or one sentence."""
    golden = {name: (repo / "tests" / "golden" / "hls4ml" / name).read_bytes() for name in places}
    told = 0
    for _ in range(60):
        for name, place in places.items():
            path = tmp_path / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_spoiled(rng, golden[name]))
        try:
            found, evidence = read_reports(tmp_path, toolchain)
            assert set(evidence) == set(found) - {"hls_estimates"}
            assert all(type(value) in (int, float) for key, value in found.items() if key != "hls_estimates")
        except ToolError as error:
            told += 1
            assert str(error).endswith("; run the synthesis again.")
    assert 0 < told < 60


def _spoiled(rng, content: bytes) -> bytes:
    kind = rng.integers(4)
    if kind == 0:
        return content
    if kind == 1:
        return content[: rng.integers(len(content))]
    spoiled = bytearray(content)
    for at in rng.integers(0, len(content), 4):
        spoiled[at] = rng.choice(list(b'{}[]",:|0 -\n\x00\xff')) if kind == 2 else content[rng.integers(len(content))]
    return bytes(spoiled)
