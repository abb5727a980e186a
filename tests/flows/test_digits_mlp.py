"""The main road, end to end with real tools: the recipe digits-mlp to an edge binary, and (slow) to a bitstream."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = 450


def _greenedge(*words) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "greenedge.cli", *map(str, words)], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL)


def _checked(run: Path, stages: tuple[str, ...]) -> dict:
    """The summary of a run whose every stage gave the same integers on all samples."""
    summary = json.loads((run / "7-report" / "summary.json").read_text())
    entries = {(e["reference"], e["candidate"]): e for e in summary["verify"]}
    assert {("qonnx", "graph"), ("graph", stages[-1])} <= set(entries)
    for entry in entries.values():
        assert (entry["samples"], entry["outputs"], entry["mismatches"]) == (SAMPLES, 10, 0)
    assert set(stages) <= set(summary["accuracy"])
    assert len({summary["accuracy"][stage] for stage in ("graph", stages[-1])}) == 1
    assert min(summary["accuracy"].values()) >= 0.96
    return summary


PIXEL = 28  # in the middle of the image; the corners are black in every digit, their weights meet zeros only


def _flip_a_weight(path: Path, channel: int, pixel: int) -> None:
    """Flips one bit of a weight of the first layer, the largest buffer of a .tflite file, (128, 64)."""
    from ai_edge_litert import schema_py_generated as schema

    data = bytearray(path.read_bytes())
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytes(data), 0))
    largest = max((bytes(b.data) for b in model.buffers if b.data is not None and len(b.data)), key=len)
    start = bytes(data).index(largest)
    assert len(largest) == 128 * 64
    data[start + 64 * channel + pixel] ^= 0x40
    path.write_bytes(data)


@pytest.fixture(scope="module")
def edge(tmp_path_factory) -> Path:
    """A finished run for x86 Linux."""
    run = tmp_path_factory.mktemp("digits") / "edge"
    done = _greenedge("run", "digits-mlp", "--target", "linux-x86", "-o", run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {run / '7-report' / 'report.html'}"
    return run


def test_the_edge_binary_gives_the_graphs_integers(edge):
    summary = _checked(edge, ("torch", "qonnx", "graph", "tflite"))
    assert summary["edge"]["bytes"] > 1000
    assert "hardware" not in summary


def test_nothing_is_done_twice(edge):
    before = (edge / "manifest.json").read_bytes()
    done = _greenedge("run", "digits-mlp", "--target", "linux-x86", "-o", edge)
    assert done.returncode == 0 and done.stderr.count("unchanged") == 6, done.stderr
    assert (edge / "manifest.json").read_bytes() == before


def test_a_flipped_bit_in_the_binary_is_found(edge):
    path, = (edge / "4-build").glob("*.tflite")
    good = path.read_bytes()
    _flip_a_weight(path, channel=64, pixel=PIXEL)
    done = _greenedge("verify", edge)
    path.write_bytes(good)
    assert done.returncode == 5
    assert done.stderr.startswith("greenedge: tflite differs from the integer graph on ") and "layer relu1: expected [" in done.stderr
    assert _greenedge("verify", edge).returncode == 0


def test_a_flipped_bit_that_no_sample_reaches_is_found_too(edge):
    path, = (edge / "4-build").glob("*.tflite")
    good = path.read_bytes()
    _flip_a_weight(path, channel=64, pixel=0)
    done = _greenedge("verify", edge)
    path.write_bytes(good)
    assert (done.returncode, done.stderr) == (
        5, f"greenedge: {path} is not the file that was built, its sha256 differs, although every sample gave the same integers; run "
           "the same `greenedge run` or `greenedge build` again to build it anew.\n")


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """One training, two targets: a bitstream and an edge binary."""
    base = tmp_path_factory.mktemp("digits") / "both"
    done = _greenedge("run", "digits-mlp", "--target", "ulx3s-85f", "--target", "linux-x86", "-o", base)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {base / 'report.html'}"
    return base


_needs_the_fpga_road = [pytest.mark.tool(name) for name in ("yosys", "nextpnr-ecp5", "verilator", "g++", "perl")]


def _needs(test):
    for mark in _needs_the_fpga_road:
        test = mark(test)
    return test


@_needs
def test_the_bitstream_comes_from_rtl_that_gives_the_graphs_integers(both):
    summary = _checked(both / "ulx3s-85f", ("torch", "qonnx", "graph", "rtl"))
    assert all(summary["hardware"][key] > 0 for key in ("lut4", "ff", "fmax_hz", "cycles_per_inference"))
    assert summary["files"]["4-build/top.bit"] > 100_000
    _checked(both / "linux-x86", ("torch", "qonnx", "graph", "tflite"))
    manifest = json.loads((both / "linux-x86" / "manifest.json").read_text())
    assert manifest["stages"]["train"]["reused_from"] == "ulx3s-85f"


@_needs
def test_a_flipped_bit_in_a_memory_file_is_found_with_its_layer(both):
    path = both / "ulx3s-85f" / "4-build" / "rtl" / "fc1_weights.mem"
    good = path.read_text()
    words = good.splitlines()
    row = 64 * len(words) // 128 + 1  # neuron 64 of 128, second quarter of the image: pixels 16 to 31
    words[row] = f"{int(words[row], 16) ^ (1 << (4 * (PIXEL - 16) + 2)):0{len(words[row])}x}"
    path.write_text("\n".join(words) + "\n")
    done = _greenedge("verify", both / "ulx3s-85f")
    path.write_text(good)
    assert done.returncode == 5
    assert done.stderr.startswith("greenedge: rtl differs from the integer graph on ") and ", layer fc1: expected [" in done.stderr
    assert _greenedge("verify", both / "ulx3s-85f").returncode == 0


@_needs
def test_a_bitstream_of_other_rtl_is_refused(both):
    path = both / "ulx3s-85f" / "4-build" / "rtl" / "ge_fifo.sv"
    good = path.read_text()
    path.write_text(good + "// changed after synthesis\n")
    done = _greenedge("verify", both / "ulx3s-85f")
    path.write_text(good)
    assert done.returncode == 5 and "4-build" in done.stderr
