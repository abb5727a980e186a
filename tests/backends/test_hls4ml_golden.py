"""What is written for every toolchain, byte for byte: the commands, and of the project what we decide in it: types,
reuse factors, strategies, the part, the clock. GOLDEN=1 writes tests/golden/hls4ml/plan-*.txt anew.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from greenedge.backends import hls4ml
from greenedge.target import load_target
from tests.backends.affine_nets import make_graph, vectors

BOARDS = {"quartus": "arria10-gx", "oneapi": "arria10-gx", "vivado-accelerator": "pynq-z2"}
_TYPES = ("firmware/defines.h", r"^typedef .*")
_CALLS = ("firmware/net.cpp", r"^ *nnet::(?!load_weights).*;")
_FOLDED = ("firmware/parameters.h", r"^struct .*|^ *static const unsigned (?:strategy|reuse_factor|n_in|n_out) = .*")
_TCL = (("project.tcl", r"^set .*"), ("vivado_synth.tcl", r"^synth_design .*"))
# file -> the lines of it that are ours to decide
ESSENTIAL = {
    "vitis": (*_TCL, ("build_opt.tcl", r".+"), _TYPES, _CALLS, _FOLDED),
    "vivado": (*_TCL, _TYPES, _FOLDED),
    "vivado-accelerator": (
        *_TCL,
        ("build_prj.tcl", r"^(?:set_top|add_files) .*"),
        _TYPES,
        _FOLDED,
        ("firmware/net_axi.h", r"^static const .*|^ *typedef .*"),
    ),
    "quartus": (("Makefile", r"^(?:DEVICE|TARGETS|SOURCE_FILES) .*"), _TYPES, _FOLDED),
    "catapult": (
        (
            "build_prj.tcl",
            r"^ *(?:project (?:new|load)|set design_top|solution file add|set hls_clock_period|"
            r"setup_xilinx_part \{).*",
        ),
        _TYPES,
        _FOLDED,
    ),
    "oneapi": (
        (
            "CMakeLists.txt",
            r"^ *set\((?:FPGA_DEVICE|USER_FPGA_FLAGS|TARGET_NAME|LIBRARY_NAME|LIB_STAMP|"
            r"SOURCE_FILES) .*",
        ),
        *((f"src/{name}", lines) for name, lines in (_TYPES, _FOLDED)),
    ),
}
OPTIONS = {"synthesis": "hls", "strategy.dense3": "resource", "reuse.dense3": 3}


def write_plan(toolchain: str, folder) -> str:
    """The plan and the essential lines of the project, as they are kept in git."""
    from greenedge.backends.hls4ml.project import write_project

    graph, _ = make_graph(np.random.default_rng(5), vectors)
    plan = hls4ml.plan(graph, load_target(BOARDS.get(toolchain, "vcu118")), {"toolchain": toolchain, **OPTIONS})
    write_project(graph, json.loads(plan.files["job.json"]), folder)
    parts = [
        *(f"{command.cwd}: {' '.join(command.argv)}" for command in plan.commands),
        "gives " + ", ".join(plan.products),
        "",
        "# job.json",
        plan.files["job.json"].decode().rstrip(),
    ]
    for name, lines in ESSENTIAL[toolchain]:
        found = re.findall(lines, (folder / "project" / name).read_text(), re.MULTILINE)
        assert found, name
        parts += ["", f"# {name}", *found]
    return "\n".join(parts) + "\n"


@pytest.mark.parametrize("toolchain", ESSENTIAL)
def test_the_project_is_as_agreed(toolchain, tmp_path, repo):
    pytest.importorskip("hls4ml")
    text = write_plan(toolchain, tmp_path)
    golden = repo / "tests" / "golden" / "hls4ml" / f"plan-{toolchain}.txt"
    if os.environ.get("GOLDEN") == "1":
        golden.write_text(text)
    assert text == golden.read_text()


def test_a_project_is_the_same_bytes_every_time(tmp_path, monkeypatch):
    """Also the stamp that hls4ml draws at random."""
    pytest.importorskip("hls4ml")
    from greenedge.backends.hls4ml.project import write_project

    graph, _ = make_graph(np.random.default_rng(5), vectors)
    for toolchain in ESSENTIAL:
        target, contents = load_target(BOARDS.get(toolchain, "vcu118")), []
        job = json.loads(hls4ml.plan(graph, target, {"toolchain": toolchain, "synthesis": "no"}).files["job.json"])
        for name in ("one", "two"):
            work = tmp_path / toolchain / name
            work.mkdir(parents=True)
            monkeypatch.chdir(work)
            write_project(graph, job, Path("."))
            contents.append({str(path): path.read_bytes() for path in Path("project").rglob("*") if path.is_file()})
        assert len(contents[0]) > 20 and contents[0] == contents[1]


def test_libero_is_refused_and_oneapi_is_not_simulated():
    graph, _ = make_graph(np.random.default_rng(5), vectors)
    refused = [str(reason) for reason in hls4ml.check(graph, load_target("arria10-gx"), {"toolchain": "libero"})]
    assert refused[0] == (
        "sketch: toolchain libero; hls4ml 1.3 asks for SmartHLS (shls) before it writes anything "
        "(cure: choose another toolchain)."
    )
    plan = hls4ml.plan(graph, load_target("arria10-gx"), {"toolchain": "oneapi", "synthesis": "no"})
    assert [command.log for command in plan.commands] == ["hls4ml.log"] and "csim.json" not in plan.products
