"""A model that ends in an ArgMax, whole: found in hardware by finn, on the host behind every other back end."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from greenedge.backends import BACKENDS, finn, load_backend
from greenedge.backends.preflight import check_model
from greenedge.errors import VerificationError
from greenedge.frontends.import_onnx import ModelFile
from greenedge.graph import ArgMax, load_graph, run_graph
from greenedge.legalise import legalise_graph
from greenedge.run.board_verbs import infer_on_board
from greenedge.run.job import Job
from greenedge.run.loop import run_job
from greenedge.run.runs import infer, verify_again
from greenedge.target import load_target
from greenedge.tools.run import execute
from greenedge.verify.built import compare_build
from tests.backends.finn_sketches import classified
from tests.backends.graphs import Sketch
from tests.backends.nets import inputs
from tests.lower.models import Model

SAMPLES = 40
VERILATOR = [pytest.mark.tool("verilator"), pytest.mark.tool("g++")]


@pytest.fixture
def model(rng, tmp_path):
    """(model file, inputs file, the classes that NumPy finds): quantiser, dense, ReLU, dense, quantiser, ArgMax."""
    m = Model((1, 8)).quant(0.25, 4)
    first, second = (rng.integers(-7, 8, shape) * 0.5 for shape in ((8, 6), (6, 5)))
    m.node("MatMul", m.weight(first)).node("Relu").quant(0.5, 4, signed=0)
    m.node("MatMul", m.weight(second)).quant(4.0, 3)
    m.nodes.sort(key=lambda node: not node.input[0].startswith("c"))
    path = m.node("ArgMax", axis=1, keepdims=0).save(tmp_path / "model.onnx")
    x = rng.normal(0, 1, (SAMPLES, 8)).astype(np.float32)
    levels = np.clip(np.rint(x / 0.25), -8, 7) * 0.25
    hidden = np.clip(np.rint(np.maximum(levels @ first, 0) / 0.5), 0, 15) * 0.5
    scores = np.clip(np.rint(hidden @ second / 4.0), -4, 3)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "labels.npy", scores.argmax(axis=1))
    return path, tmp_path / "x.npy", scores.argmax(axis=1)


def _run(model, tmp_path, target: str, backend: str):
    path, x, _ = model
    source = ModelFile(path, x, tmp_path / "labels.npy")
    run_job(Job(source, load_target(target), backend), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "backend, target",
    [
        ("tflite", "linux-x86"),
        ("onnxruntime", "linux-x86"),
        pytest.param("c99", "cortex-m4", marks=pytest.mark.tool("g++")),
        pytest.param("hls4ml", "vcu118", marks=[pytest.mark.slow, pytest.mark.tool("g++")]),
    ],
)
def test_behind_other_back_ends_the_host_finds_it(model, tmp_path, backend, target):
    run = _run(model, tmp_path, target, backend)
    summary = json.loads((run / "7-report" / "summary.json").read_text())
    built = [entry for entry in summary["verify"] if entry["reference"] == "graph"]
    assert built, "the scores are compared"
    assert all((entry["samples"], entry["outputs"], entry["mismatches"]) == (SAMPLES, 5, 0) for entry in built)
    assert set(summary["accuracy"].values()) == {1.0}
    got = next(iter(infer(run, model[1], "build", lambda *_: None).values()))
    assert np.array_equal(got, model[2])
    note = (
        f"{load_graph(run / '3-lower').outputs[0]} runs on the host: {backend} gives the scores that it chooses from."
    )
    assert note in check_model(model[0], load_target(target), backend).notes


def test_every_back_end_plans_what_it_builds(model, tmp_path):
    """da4ml and hls4ml too, without their tools: finn has the index in its graph, the others the scores."""
    from greenedge.lower import lower_file

    graph = lower_file(model[0]).graph
    targets = {
        "c99": "cortex-m4",
        "da4ml": "ulx3s-85f",
        "finn": "ulx3s-85f",
        "hls4ml": "vcu118",
        "onnxruntime": "linux-x86",
        "tflite": "linux-x86",
    }
    assert set(targets) == set(BACKENDS)
    for name, target in targets.items():
        module = load_backend(name)
        part = legalise_graph(graph, module.passes)
        assert module.check(part, load_target(target), {}) == [], name
        assert module.plan(part, load_target(target), {}).files
        assert isinstance(part.producer(part.outputs[0]), ArgMax) == (name == "finn")
        notes = check_model(model[0], load_target(target), name).notes
        assert any("runs on the host" in note for note in notes) == (name != "finn")


class TestInHardware:
    pytestmark = VERILATOR

    def test_the_stream_carries_the_index(self, rng, tmp_path):
        graph = classified(rng)
        plan = finn.plan(graph, load_target("ulx3s-85f"), {"fps": 1_000_000})
        execute(dataclasses.replace(plan, commands=plan.commands[:2], products=plan.products[:3]), tmp_path)
        x = inputs(rng, graph, 300)
        keep = [op.output for op in graph.ops if op.inputs]
        expected, got = run_graph(graph, x, keep=keep), finn.simulate(tmp_path, x, keep)
        assert all(np.array_equal(got[edge], expected[edge]) for edge in keep) and got[graph.outputs[0]].shape == (
            300,
            1,
        )
        scores = expected[keep[-2]]
        assert ((scores == scores.max(axis=1, keepdims=True)).sum(axis=1) > 1).any(), "equal scores are among them"
        assert np.array_equal(
            finn.simulate_with_backpressure(tmp_path, x)[graph.outputs[0]], expected[graph.outputs[0]]
        )
        assert json.loads((tmp_path / "streams.json").read_text())["streams"][-1]["bits"] == 3

        unit = tmp_path / "rtl" / "ge_argmax.sv"
        unit.write_text(unit.read_text().replace("(x > largest)", "(x >= largest)"))
        report = compare_build(graph, finn.simulate, "rtl", tmp_path, x, expected, {}, lambda *_: None)
        assert report.mismatches and report.first.layer == graph.outputs[0], "it takes the last of equals"

    @pytest.mark.slow
    @pytest.mark.tool("nextpnr-ecp5")
    def test_from_model_to_the_boards_answer(self, model, tmp_path):
        """Bitstream, RTL with and without stalls, netlist, virtual board; an altered unit is not simulated."""
        run = _run(model, tmp_path, "ulx3s-85f", "finn")
        summary = json.loads((run / "7-report" / "summary.json").read_text())
        entries = {entry["candidate"]: entry for entry in summary["verify"] if entry["reference"] == "graph"}
        assert set(entries) == {"rtl", "rtl-stalls", "rtl-faults", "board", "netlist"}
        assert all(entry["outputs"] == 1 and not entry["mismatches"] for entry in entries.values())
        assert summary["accuracy"]["board"] == 1.0
        outputs, _ = infer_on_board(run, model[1], None, None, lambda *_: None)
        assert np.array_equal(next(iter(outputs.values())), model[2])
        unit = run / "4-build" / "rtl" / "ge_argmax.sv"
        unit.write_text(unit.read_text().replace("(x > largest)", "(x >= largest)"))
        with pytest.raises(VerificationError, match=r"ge_argmax\.sv is not what greenedge writes for the "):
            verify_again(run, lambda *_: None)


def test_other_axes_are_refused(rng):
    s = Sketch(rng, (3, 4, 5))
    graph = s.graph(s.arg_max(s.step(s.conv("x", 4, (1, 1)), "u4"), 1))
    assert [str(reason) for reason in finn.check(graph, load_target("ulx3s-85f"), {})] == [
        f"{graph.ops[-1].name}: an ArgMax along axis 1 of (4, 4, 5); finn compares channels, as they come one after "
        "another "
        "(cure: take it over the channels, or on the host)."
    ]
