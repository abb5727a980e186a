"""The page and summary.json: what they say, what they leave out, and that nothing in a name becomes markup."""

import json
import re

import fakes
import numpy as np
import pytest

from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import sha256_file
from greenedge.frontends.import_onnx import ModelFile
from greenedge.report import summarise, write_report
from greenedge.report.format import count, duration, hertz, percent, size
from greenedge.report.page import curve
from greenedge.run.jobs import jobs_for
from greenedge.run.loop import run_job
from greenedge.run.runs import verify_again


@pytest.fixture
def backend(monkeypatch):
    return fakes.install(monkeypatch)


def _run(tmp_path, name="small", labels=True, until="report"):
    model = fakes.write_model(tmp_path / f"{name}.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(3).integers(0, 15, (20, 6)).astype(np.float32))
    np.save(tmp_path / "y.npy", np.arange(20) % 3)
    source = ModelFile(model, tmp_path / "x.npy", tmp_path / "y.npy" if labels else None)
    run_job(jobs_for(source, [str(fakes.write_board(tmp_path))])[0], tmp_path / "run", until)
    return tmp_path / "run"


def _record(run, path):
    """Puts the present content of a file of the verify stage into the manifest, as if that stage had written it."""
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["verify"]["outputs"][path.relative_to(run).as_posix()] = sha256_file(path)
    (run / "manifest.json").write_text(json.dumps(manifest))


def test_the_summary_holds_what_the_stages_wrote(tmp_path, backend):
    run = _run(tmp_path)
    summary = json.loads((run / "7-report" / "summary.json").read_text())
    verified = json.loads((run / "5-verify" / "verify.json").read_text())
    assert summary["accuracy"] == verified["accuracy"] and set(summary["accuracy"]) == {"qonnx", "graph", "fake"}
    assert summary["verify"] == verified["verify"]
    assert summary["edge"] == backend.report(run / "4-build")["edge"]
    assert summary["format"] == "greenedge-summary/1"
    assert {"2-export/model.onnx", "3-lower/graph.onnx"} <= set(summary["files"])


def test_an_unknown_number_is_absent(tmp_path, backend):
    summary = json.loads((_run(tmp_path, labels=False) / "7-report" / "summary.json").read_text())
    assert summary["accuracy"] == {} and "hardware" not in summary
    assert "null" not in json.dumps(summary["edge"])


def test_the_page_stands_alone(tmp_path, backend):
    page = (_run(tmp_path) / "7-report" / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!#)""", page) and "url(" not in page and "<script" not in page
    assert "QONNX, the integer graph and fake gave the same integers on all 20 samples." in page
    assert "20 of 20 equal" in page


def test_what_cannot_be_run_here_is_said_not_to_be_verified(tmp_path, monkeypatch):
    why = "the project cannot be simulated here: only its maker compiles it."
    fakes.install(monkeypatch, why_not_runnable=lambda folder: why)
    run = _run(tmp_path)
    summary, page = (
        json.loads((run / "7-report" / "summary.json").read_text()),
        (run / "7-report" / "report.html").read_text(),
    )
    assert (
        summary["unverified"] == why and set(summary["accuracy"]) == {"qonnx", "graph"} and len(summary["verify"]) == 1
    )
    assert (
        f"gave the same integers on all 20 samples. What was built is not verified: {why}" in page
        and 'class="card verdict open"' in page
    )
    with pytest.raises(GreenedgeError, match="^the project cannot be simulated here"):
        verify_again(run, lambda *words: None)


def test_nothing_in_a_name_becomes_markup(tmp_path, backend):
    page = (_run(tmp_path, name="<script>alert(1)<") / "7-report" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page


def test_a_bitstream_without_a_host_interface_says_so(tmp_path, backend):
    from greenedge.report.summary import NO_HOST

    run = _run(tmp_path)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["build"]["outputs"]["4-build/top.bit"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "4-build" / "top.bit").write_bytes(b"x")
    assert summarise(run)["notes"] == [NO_HOST]


def test_a_difference_is_shown(tmp_path, backend):
    run = _run(tmp_path)
    path = run / "5-verify" / "verify.json"
    verified = json.loads(path.read_text())
    verified["verify"][1] |= {
        "mismatches": 3,
        "first": {"sample": 17, "layer": "fc2", "expected": [2, 3], "got": [2, 9]},
    }
    path.write_text(json.dumps(verified))
    _record(run, path)
    page = write_report([run], tmp_path / "page.html").read_text()
    assert "fake differs from the integer graph on 3 of 20 samples; first at sample 17, layer fc2." in page
    assert 'class="hero differs"' in page


def test_a_simulated_netlist_says_its_vectors_and_coverage(tmp_path, backend):
    """In the sentence, in the row, and beside it what was read back without running anything."""
    run = _run(tmp_path)
    path = run / "5-verify" / "verify.json"
    verified = json.loads(path.read_text())
    coverage = {"total": 42_906, "seen": 41_150, "proved_unseen": 758, "open": 998, "open_places": []}
    row = verified["verify"][-1] | {"candidate": "netlist", "samples": 120, "coverage": coverage}
    again = row | {"candidate": "rtl-faults", "samples": 423}
    entry = {"what": "netlist memories", "against": "the memory files", "items": 42_496, "unit": "bits"}
    entry |= {"unread": 410, "differs": None}
    path.write_text(json.dumps(verified | {"verify": [*verified["verify"], again, row], "read_back": [entry]}))
    _record(run, path)
    page = write_report([run], tmp_path / "page.html").read_text()
    assert (
        "gave the same integers on all 20 samples; the RTL again on 423 vectors, coverage 97.67 % of 42,906 memory "
        "bits; the simulated netlist on 120 vectors, coverage 97.67 % of 42,906 memory bits." in page
    )
    assert "Simulated netlist" in page and "758 proved unseen, 998 open" in re.sub(r"\s+", " ", page)
    assert "42\u202f496 bits equal" in page and "410 more are not found there and are simulated only" in page
    assert summarise(run)["read_back"] == [entry]


def test_an_estimate_is_drawn_hollow(tmp_path, backend, monkeypatch):
    run = _run(tmp_path)
    fakes.install(
        monkeypatch,
        report=lambda folder: {
            "hardware": {"lut4": 1200, "fmax_hz": 71.3e6, "cycles_per_inference": 1024, "ips": None},
            "evidence": {"fmax_hz": "estimated by nextpnr", "cycles_per_inference": "simulated"},
        },
    )
    page = write_report([run], tmp_path / "page.html").read_text()
    assert re.search(
        r'<div class="estimated"><dt>highest clock</dt><dd><span class="value">71.3\u202fMHz</span> '
        r'<em class="evidence hollow">estimated by nextpnr</em>',
        page,
    )
    assert re.search(
        r'<div class=""><dt>cycles per inference</dt><dd><span class="value">1\u202f024</span> '
        r'<em class="evidence">simulated</em>',
        page,
    )
    assert "inferences per second" not in page  # unknown


def test_a_run_that_stopped_early_has_a_page_too(tmp_path, backend):
    run = _run(tmp_path, until="lower")
    page = write_report([run], tmp_path / "page.html").read_text()
    assert "Nothing has been compared yet." in page


def test_a_damaged_file(tmp_path, backend):
    run = _run(tmp_path)
    path = run / "5-verify" / "verify.json"
    path.write_text("{")
    _record(run, path)
    with pytest.raises(GreenedgeError) as error:
        summarise(run)
    assert str(error.value) == (
        f"{path} is damaged (Expecting property name enclosed in double quotes: line 1 column 2 "
        "(char 1)); run the same command again to write it anew."
    )


def test_records_of_another_greenedge(tmp_path, backend, monkeypatch):
    """A build folder whose JSON is whole but has other keys: a sentence, no traceback."""
    run = _run(tmp_path)
    fakes.install(monkeypatch, report=lambda folder: {}["cycles_per_beat"])
    with pytest.raises(GreenedgeError) as error:
        summarise(run)
    assert str(error.value) == (
        f"{run / '4-build'} has records that are damaged or of another greenedge (KeyError: 'cycles_per_beat'); "
        "run the build stage again."
    )


@pytest.mark.parametrize(
    "text, expected",
    [
        (count(1234567), "1\u202f234\u202f567"),
        (count(0.12345), "0.1235"),
        (hertz(25_000_000), "25\u202fMHz"),
        (duration(3.68e-6), "3.68\u202fµs"),
        (duration(2e-9), "2\u202fns"),
        (size(999), "999 bytes"),
        (size(1_913_000), "1.913\u202fMB"),
        (percent(0.97777), "97.78\u202f%"),
        (curve([1.0]), ""),
        (curve([2.0, 1.0]), "0.0,0.0 320.0,72.0"),
    ],
)
def test_numbers_as_text(text, expected):
    assert text == expected


def test_an_estimated_resource_is_told_from_a_counted_one():
    from greenedge.report.page import _resources

    summary = {
        "hardware": {"lut": 15102, "dsp": 38, "alm": 9120.5, "hls_estimates": {"lut": 63251}},
        "evidence": {"lut": "reported by Vivado after logic synthesis", "dsp": "estimated by the HLS compiler"},
    }
    rows = {row["label"]: row for row in _resources(summary, {"lut": 1_182_240})}
    assert list(rows) == ["LUTs", "ALMs", "DSP blocks"]
    assert (rows["LUTs"]["estimated"], rows["LUTs"]["before"], rows["LUTs"]["total"]) == (False, 63251, 1_182_240)
    assert rows["DSP blocks"]["estimated"] and rows["DSP blocks"]["before"] is None


def test_layers_in_hardware_are_shown_as_their_maker_records_them():
    from greenedge.report.page import _build_heading, _hardware_layers

    layers = [
        {
            "layer": "fc1",
            "kind": "Dense n1_fc1",
            "result": "fixed<9,9>",
            "accum": "fixed<9,9>",
            "weight": "fixed<4,4>",
            "reuse_factor": 2,
            "strategy": "resource",
            "cycles": 2,
        },
        {"layer": "act", "kind": "BatchNormalization n2_act", "result": "ufixed<4,4>", "scale": "a", "bias": "b"},
    ]
    shown = _hardware_layers({"hardware": {"layers": layers}})
    assert shown["columns"] == ["built as", "reuse factor", "strategy", "cycles, estimated", "result", "types within"]
    assert shown["rows"][0] == (
        "fc1",
        ["Dense n1_fc1", 2, "resource", 2, "fixed<9,9>", "weights fixed<4,4>, accumulator fixed<9,9>"],
    )
    assert shown["rows"][1][1][1:4] == [None] * 3 and shown["rows"][1][1][-1] == "scale a, bias b"
    assert _hardware_layers({}) == {"columns": [], "rows": []}
    assert [_build_heading({"hardware": h}) for h in ({"lut": 0}, {"toolchain": "vitis"}, None)] == [
        "On the chip",
        "The HLS project",
        "The binary",
    ]


def test_a_terminal_is_told_the_figures_in_a_line():
    from greenedge.report.summary import hardware_phrases

    board = {
        "cycles_per_inference": 5120.0,
        "fmax_hz": 105.1e6,
        "clock_hz": 50_000_000,
        "core": {"lut4": 1777},
        "estimated_lut4_error": "+10%",
    }
    assert hardware_phrases(board) == [
        "5,120 cycles an inference (simulated)",
        "105.1 MHz reached of 50",
        "core of 1,777 LUT4 (estimate +10%)",
    ]
    assert hardware_phrases({"cycles_per_inference": None, "clock_hz": 1e8}) == []
