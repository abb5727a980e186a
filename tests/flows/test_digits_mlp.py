"""The whole flow with real tools: the recipe digits-mlp to a bitstream and an edge binary."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

TOOLS = ("g++", "make", "perl", "verilator", "yosys", "nextpnr-ecp5")
pytestmark = [pytest.mark.slow, *(pytest.mark.tool(name) for name in TOOLS)]
SAMPLES = 450
PIXEL = 28  # in the middle of the image; the corners are black in every digit, so their weights meet only zeros


def _greenedge(*words) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "greenedge.cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """A finished run for the board and for x86 Linux."""
    folder = tmp_path_factory.mktemp("digits") / "both"
    done = _run(folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {folder / 'report.html'}"
    return folder


def _run(folder: Path) -> subprocess.CompletedProcess:
    return _greenedge("run", "digits-mlp", "--target", "ulx3s-85f", "--target", "linux-x86", "-o", folder)


def _summary(run: Path) -> dict:
    return json.loads((run / "7-report" / "summary.json").read_text())


@pytest.mark.parametrize("target, stage", [("ulx3s-85f", "rtl"), ("linux-x86", "tflite")])
def test_every_stage_gives_the_same_integers(both, target, stage):
    summary = _summary(both / target)
    entries = {(entry["reference"], entry["candidate"]): entry for entry in summary["verify"]}
    assert (("graph", "rtl-stalls") in entries) == (stage == "rtl")
    on_board = {"board"} if stage == "rtl" else set()  # the virtual one, every byte through its pins
    assert {("qonnx", "graph"), ("graph", stage), *(("graph", each) for each in on_board)} <= set(entries)
    if stage == "rtl":
        placed, again = entries.pop(("graph", "netlist")), entries.pop(("graph", "rtl-faults"))
        assert (placed["samples"], placed["outputs"], placed["mismatches"]) == (24 + 96, 10, 0)
        assert (again["outputs"], again["mismatches"]) == (10, 0)
        total = placed["coverage"]["total"]
        assert again["coverage"]["seen"] + again["coverage"]["proved_unseen"] == total, "every memory bit"
        assert 0.9 * total < placed["coverage"]["seen"] < again["coverage"]["seen"]
        read = {entry["what"]: entry for entry in summary["read_back"]}
        assert set(read) >= {"memory files and RTL", "netlist memories", "bitstream", "bitstream, unpacked"}
        assert not any(entry["differs"] for entry in read.values())
        assert read["netlist memories"]["items"] + read["netlist memories"]["unread"] == total
    for entry in entries.values():
        assert (entry["samples"], entry["outputs"], entry["mismatches"]) == (SAMPLES, 10, 0)
    assert set(summary["accuracy"]) == {"torch", "qonnx", "graph", stage} | on_board
    assert min(summary["accuracy"].values()) >= 0.96 and len(set(summary["accuracy"].values())) == 1


def test_the_bitstream_and_its_numbers(both):
    summary = _summary(both / "ulx3s-85f")
    assert summary["files"]["4-build/top.bit"] > 100_000
    hardware = summary["hardware"]
    assert hardware["part"] == "LFE5U-85F-6BG381C"
    assert all(hardware[key] > 0 for key in ("lut4", "ff", "bram_bits", "fmax_hz", "cycles_per_inference", "latency_s"))
    assert hardware["fmax_hz"] > hardware["clock_hz"] == 50_000_000
    core = hardware["core"]
    assert core["fmax_hz"] > hardware["clock_hz"] and all(
        0 < core[key] < hardware[key] for key in ("lut4", "ff", "bram_bits")
    )
    assert hardware["host_interface"] == "uart, 3,000,000 baud"
    (reason,) = (note.split(" (")[0] for note in summary["notes"])
    assert reason == "The back end finn was chosen because da4ml refuses the model"


def test_the_virtual_board_classifies_every_image(both, tmp_path):
    run = both / "ulx3s-85f"
    done = _greenedge("infer", run, "--virtual", "--inputs", run / "2-export" / "inputs.npy", "-o", tmp_path / "y.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'y.csv'}: {SAMPLES} × 10 from the virtual board\n"
    assert re.search(
        rf"^{SAMPLES} samples, every integer equal to the integer graph's; latency [\d.]+\u202fµs by the board's own "
        r"counters \(simulated\)",
        done.stderr,
        re.MULTILINE,
    ), done.stderr


def test_the_virtual_board_passes_what_a_real_one_must(both, tmp_path):
    """What `make board-test` asks of a board on a cable, with noise and resets in the soak."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "greenedge.boards.acceptance",
            both / "ulx3s-85f",
            "--virtual",
            "--soak",
            "300",
            "-o",
            tmp_path / "record.json",
        ],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["passed"] and record["samples"]["count"] == SAMPLES and record["soak"]["right"] == 300
    assert record["evidence"] == record["measure"]["evidence"] == "simulated" and record["soak"]["bad_frames"]
    simulated = _summary(both / "ulx3s-85f")["hardware"]["cycles_per_inference"]
    assert abs(record["measure"]["cycles_per_inference"] / simulated - 1) < 0.1


def test_the_edge_binary(both):
    summary = _summary(both / "linux-x86")
    assert summary["edge"]["bytes"] == summary["files"]["4-build/model.tflite"] > 1000
    assert "hardware" not in summary


def test_one_training_serves_both(both):
    stages = json.loads((both / "linux-x86" / "manifest.json").read_text())["stages"]
    assert [stages[name]["reused_from"] for name in ("train", "export", "lower", "build")] == ["ulx3s-85f"] * 3 + [None]


def test_nothing_is_done_twice(both):
    before = [(both / target / "manifest.json").read_bytes() for target in ("ulx3s-85f", "linux-x86")]
    done = _run(both)
    assert done.returncode == 0 and done.stderr.count("unchanged") == 12, done.stderr
    assert before == [(both / target / "manifest.json").read_bytes() for target in ("ulx3s-85f", "linux-x86")]


def _flip_in_memory_file(run: Path) -> Path:
    """Flips one bit of one weight in the first layer's memory file."""
    path = run / "4-build" / "rtl" / "fc1_weights.mem"
    lines = path.read_text().splitlines()
    word = lines[100]
    lines[100] = f"{word[:11]}{int(word[11], 16) ^ 1:x}{word[12:]}"
    path.write_text("\n".join(lines) + "\n")
    return path


def _flip_in_tflite(run: Path, channel: int = 64, pixel: int = PIXEL) -> Path:
    """Flips one bit of one weight of the first layer, the largest buffer of the file, (128, 64)."""
    from ai_edge_litert import schema_py_generated as schema

    path = run / "4-build" / "model.tflite"
    data = path.read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    weights = max((bytes(buffer.data) for buffer in model.buffers if buffer.data is not None), key=len)
    assert len(weights) == 128 * 64
    at = data.index(weights) + 64 * channel + pixel
    path.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
    return path


@pytest.mark.parametrize(
    "target, stage, layer, flip",
    [
        ("ulx3s-85f", "rtl", "fc1", _flip_in_memory_file),
        ("linux-x86", "tflite", "relu1", _flip_in_tflite),  # there the layer and its quantiser are one operation
    ],
)
def test_a_flipped_weight_bit_is_found_and_named(both, target, stage, layer, flip):
    run = both / target
    good = {path: path.read_bytes() for path in (run / "4-build").rglob("*") if path.is_file()}
    path = flip(run)
    done = _greenedge("verify", run)
    path.write_bytes(good[path])
    assert done.returncode == 5
    assert done.stderr.startswith(f"greenedge: {stage} differs from the integer graph on ")
    assert " samples; first at sample " in done.stderr and f", layer {layer}: expected [" in done.stderr
    assert _greenedge("verify", run).returncode == 0


def test_a_flipped_bit_that_no_sample_reaches_is_found_too(both):
    run = both / "linux-x86"
    good = (run / "4-build" / "model.tflite").read_bytes()
    path = _flip_in_tflite(run, pixel=0)
    done = _greenedge("verify", run)
    path.write_bytes(good)
    assert (done.returncode, done.stderr) == (
        5,
        f"greenedge: {path} is not the file that was built, its sha256 differs, although every sample gave the same "
        "integers; run the same `greenedge run` or `greenedge build` again to build it anew.\n",
    )


def _turn_classes_round(path):
    """Appends a Gather to a host model: class 9 for class 0, and so on."""
    model = onnx.load(path)
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [f"{output}_in" if output == name else output for output in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(10)[::-1].copy(), "turned"))
    model.graph.node.append(onnx.helper.make_node("Gather", [f"{name}_in", "turned"], [name], axis=1))
    onnx.save(model, path)


@pytest.mark.parametrize("stage", ["3-lower/epilogue.onnx", "4-build/model.tflite"])
def test_what_was_changed_since_is_neither_verified_nor_run(both, tmp_path, stage):
    run = tmp_path / "run"
    shutil.copytree(both / "linux-x86", run)
    samples = run / "2-export" / "inputs.npy"
    assert _greenedge("infer", run, "--inputs", samples, "-o", tmp_path / "y.npy").returncode == 0
    if stage.endswith("epilogue.onnx"):
        _turn_classes_round(run / stage)
    else:
        (run / stage).write_bytes((run / stage).read_bytes() + b"\0")
    done = _greenedge("infer", run, "--inputs", samples, "-o", tmp_path / "other.npy")
    assert (done.returncode, done.stderr) == (
        5,
        f"greenedge: {run / stage} is not the file that was made, its sha256 differs; run the same `greenedge run` or "
        "`greenedge build` again to make it anew.\n",
    )
    assert not (tmp_path / "other.npy").exists()
    done = _greenedge("verify", run)
    assert done.returncode == 5
    assert f"{run / stage} is not the file that was " in done.stderr or f"{run / stage} does not hold " in done.stderr


@pytest.mark.slow
def test_the_energy_of_both_is_estimated_and_kept(both, tmp_path):
    """The bitstream from its netlist's toggles, the binary from CPU time; estimates in the run's summary and page."""
    shutil.copytree(both, tmp_path / "both")
    fpga, cpu = tmp_path / "both/ulx3s-85f", tmp_path / "both/linux-x86"
    tdp = ("--tdp", "15", "--threads", "4", "--tdp-source", "a data sheet", "--window", "1")
    for run in (fpga, cpu):
        done = _greenedge("energy", "measure", run, "--source", "estimate", *tdp)
        assert done.returncode == 0 and "ESTIMATED" in done.stdout, done.stderr
    (row,) = _summary(fpga)["energy"]
    assert row["scope"] == "chip" and row["evidence"] == "estimated" and "energy_j" not in row["figures"]["total"]
    assert row["source"]["notes"][1] == (
        "toggles of the netlist of this build's core on 64 real vectors, without delays: glitches are not in it"
    )
    parts = {part["part"]: part["power_estimate_w"] for part in row["parts"]}
    assert 0 < parts["switching"] < parts["static"], "an ECP5 of this size mostly leaks"
    assert _summary(cpu)["energy"][0]["ranking"] is False
    assert "ESTIMATED" in (fpga / "7-report/report.html").read_text()
