"""A run that comes from a stranger, with a manifest that fits it, executes nothing: a test for each road."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import sha256_file
from greenedge.frontends.import_onnx import ModelFile
from greenedge.run.board_verbs import infer_on_board
from greenedge.run.jobs import jobs_for
from greenedge.run.loop import run_job
from greenedge.run.runs import infer, verify_again

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "unit"))
from fakes import write_model

TOOLS = {
    "c99": ("g++",),
    "hls4ml": ("g++",),
    "finn": ("g++", "make", "perl", "verilator", "yosys", "nextpnr-ecp5"),
}


def _tell(done, total, text):
    """Nobody watches."""


def _build(folder: Path, target: str, backend: str) -> Path:
    np.save(folder / "x.npy", np.random.default_rng(3).integers(0, 15, (8, 6)).astype(np.float32))
    source = ModelFile(write_model(folder / "small.onnx"), folder / "x.npy")
    (job,) = jobs_for(source, [target], backend)
    run_job(job, folder / "run")
    return folder / "run"


def _forge(run: Path, name: str) -> None:
    """Writes the digest of what lies there now wherever the manifest has one of that file."""
    data = json.loads((run / "manifest.json").read_text())
    for record in data["stages"].values():
        for table in ("inputs", "outputs"):
            if name in record[table] or (
                table == "outputs" and name.startswith("4-build") and record is data["stages"]["build"]
            ):
                record[table][name] = sha256_file(run / name)
    (run / "manifest.json").write_text(json.dumps(data))


def _change(run: Path, name: str, change: Callable[[str], str]) -> None:
    path = run / "4-build" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(change(path.read_text() if path.exists() else ""))
    _forge(run, f"4-build/{name}")


def _c(mark: Path) -> str:
    return f'\n#include <stdlib.h>\n__attribute__((constructor)) static void own(void) {{ system("touch {mark}"); }}\n'


def _sv(mark: Path) -> Callable[[str], str]:
    return lambda text: text.replace("endmodule", f'    initial $system("touch {mark}");\nendmodule', 1)


def _json(key: str, value: object) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | {key: value})


def _cell(text: str) -> str:
    """A netlist whose core has a cell that prints."""
    data = json.loads(text)
    core = next(module for name, module in data["modules"].items() if "top" in name and module["cells"])
    core["cells"]["own"] = {
        "type": "$print",
        "parameters": {},
        "attributes": {},
        "port_directions": {},
        "connections": {},
    }
    return json.dumps(data)


ROADS: dict[str, tuple[str, str, str, Callable[[Path], Callable[[str], str]]]] = {
    "C": ("cortex-m4", "c99", "model.c", lambda mark: lambda text: text + _c(mark)),
    "a C header": ("cortex-m4", "c99", "ge_kernels.h", lambda mark: lambda text: text + _c(mark)),
    "C++": ("pynq-z1", "hls4ml", "project/firmware/net.cpp", lambda mark: lambda text: text + _c(mark)),
    "a C++ header more": ("pynq-z1", "hls4ml", "ap_int.h", lambda mark: lambda text: _c(mark)),
    "a list of sources": ("pynq-z1", "hls4ml", "project.json", lambda mark: _json("sources", ["job.json"])),
    "RTL": ("ulx3s-25f", "finn", "rtl/top.sv", _sv),
    "RTL of a unit": ("ulx3s-25f", "finn", "rtl/ge_fifo.sv", _sv),
    "RTL of the board": ("ulx3s-25f", "finn", "board/board.sv", _sv),
    "names of streams": ("ulx3s-25f", "finn", "streams.json", lambda mark: _json("top", 'x); initial $system("x")')),
    "names of the board's": ("ulx3s-25f", "finn", "board.json", lambda mark: _json("sources", ["rtl/own.sv"])),
    "netlist": ("ulx3s-25f", "finn", "netlist.json", lambda mark: _cell),
}
SLOW = ("hls4ml", "finn")
BUILT: dict[str, Path] = {}


@pytest.fixture
def run(road, tmp_path, tmp_path_factory, request) -> Path:
    """A copy of the road's run, built once."""
    target, backend, _, _ = ROADS[road]
    if backend not in BUILT:
        BUILT[backend] = _build(tmp_path_factory.mktemp(backend), target, backend)
    shutil.copytree(BUILT[backend], tmp_path / "run")
    return tmp_path / "run"


def _params():
    for road, (_, backend, _, _) in ROADS.items():
        marks = [pytest.mark.tool(name) for name in TOOLS[backend]]
        yield pytest.param(road, marks=[*marks, pytest.mark.slow] if backend in SLOW else marks)


@pytest.mark.parametrize("road", _params())
def test_nothing_of_a_strangers_run_is_executed(run, road, tmp_path):
    _, backend, name, change = ROADS[road]
    mark = tmp_path / "executed"
    if name != "ap_int.h":
        assert (run / "4-build" / name).is_file(), "a road that is there"
    _change(run, name, change(mark))
    _forge(run, "4-build/build.json")
    x = run / "2-export" / "inputs.npy"
    verbs: list[Callable[[], object]] = [
        lambda: verify_again(run, _tell),
        lambda: infer(run, x, "build", _tell),
    ]
    if backend == "finn":
        verbs.append(lambda: infer_on_board(run, x, None, None, _tell))
    refused = 0
    for verb in verbs:
        try:
            verb()
        except GreenedgeError as error:
            refused += 1
            assert "\n" not in str(error)
        assert not mark.exists(), road
    # a header more is in no list of what is compiled; the netlist is compiled by verify alone
    least = {"ap_int.h": 0, "netlist.json": 1}
    assert refused >= least.get(name, len(verbs)), road
