"""The verifier rejects: a flipped bit, a missing sample, another shape, a float, a difference that is no tie."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from fakes import make_backend

from greenedge.errors import VerificationError
from greenedge.graph import Dense, Graph, Requantise, freeze, run_graph
from greenedge.lower import lower_file, save_lowering
from greenedge.run.folder import RunFolder
from greenedge.verify import float_references, stage
from greenedge.verify.compare import compare, compare_floats
from greenedge.verify.stage import verify_stage
from tests.lower.models import Model


def test_equal_integers_pass():
    report = compare("graph", "rtl", np.arange(6).reshape(2, 3), np.arange(6).reshape(2, 3))
    report.require()
    assert (report.samples, report.outputs, report.mismatches, report.first) == (2, 3, 0, None)


def test_a_difference_names_sample_and_layer():
    expected = np.arange(12).reshape(4, 3)
    got = expected.copy()
    got[2, 1] = 9
    with pytest.raises(VerificationError) as error:
        compare("graph", "rtl", expected, got, layer="Dense_1").require()
    assert str(error.value) == (
        "rtl differs from the integer graph on 1 of 4 samples; first at sample 2, layer Dense_1: expected [7, 8], "
        "got [9, 8]."
    )
    assert error.value.exit_code == 5


@pytest.mark.parametrize(
    "expected, got, said",
    [
        (
            np.zeros((0, 3), int),
            np.zeros((0, 3), int),
            "rtl was compared with the integer graph on zero samples; give at least one.",
        ),
        (
            np.zeros((2, 3), int),
            np.zeros((2, 4), int),
            "rtl gave outputs of shape (2, 4), the integer graph (2, 3); they must be the same.",
        ),
        (np.zeros((2, 3), int), np.zeros((2, 3)), "rtl gave float64 and not integers; only integers are compared."),
        (
            np.zeros((2, 3), int),
            np.full((2, 3), np.nan),
            "rtl gave float64 and not integers; only integers are compared.",
        ),
    ],
)
def test_what_is_no_comparison_is_an_error(expected, got, said):
    with pytest.raises(VerificationError) as error:
        compare("graph", "rtl", expected, got)
    assert str(error.value) == said


class Candidate:
    """A back end that runs a graph: the good one, or one with a defect. Hooks may be added to `hooks`."""

    def __init__(self, graph: Graph):
        self.graph, self.hooks = graph, {}

    def simulate(self, folder, x, keep=(), progress=None):
        return run_graph(self.graph, x, keep)

    def load(self, name):
        return make_backend(**{"stage": "rtl", "simulate": self.simulate, **self.hooks})


def _run(tmp_path, monkeypatch, rng, change=None, samples: int = 40, **hooks):
    """A run folder of a small two-layer model, with a candidate that `change` may have damaged."""
    m = (
        Model((1, 6))
        .quant(float(np.float32(0.21)), 4)
        .node("MatMul", "w1")
        .node("Relu")
        .quant(float(np.float32(0.33)), 4, signed=0)
    )
    m.nodes[1].input[1] = m.weight(rng.integers(-7, 8, (6, 5)) * 0.5)
    m.node("MatMul", m.weight(rng.integers(-7, 8, (5, 3)) * 0.5)).quant(float(np.float32(0.4)), 8)
    m.nodes.sort(key=lambda node: not node.input[0].startswith("c"))
    run = tmp_path / "run"
    (run / "2-export").mkdir(parents=True)
    (run / "4-build").mkdir()
    lowered = lower_file(m.save(run / "2-export" / "model.onnx"))
    np.save(run / "2-export" / "inputs.npy", rng.normal(0, 1, (samples, 6)).astype(np.float32))
    np.save(run / "2-export" / "labels.npy", rng.integers(0, 3, samples))
    save_lowering(lowered, run / "3-lower")
    candidate = Candidate(change(lowered.graph) if change else lowered.graph)
    candidate.hooks.update(hooks)
    _CANDIDATES[run] = candidate
    (tmp_path / "out").mkdir()
    return RunFolder(run), tmp_path / "out", lowered


_CANDIDATES: dict[Path, Candidate] = {}


def _verify(run: RunFolder, out: Path, evidence: dict[str, int] | None = None) -> str:
    return verify_stage(run, out, _CANDIDATES[run.path].load("any"), evidence or {}, _tell)


def _tell(done, total, text):
    """Nobody watches."""


def test_a_run_of_equal_stages(tmp_path, monkeypatch, rng):
    run, out, _ = _run(tmp_path, monkeypatch, rng)
    assert _verify(run, out) == "40 samples equal in graph, qonnx, rtl"
    written = json.loads((out / "verify.json").read_text())
    assert [(e["reference"], e["candidate"], e["mismatches"]) for e in written["verify"]] == [
        ("qonnx", "graph", 0),
        ("graph", "rtl", 0),
    ]
    assert set(written["accuracy"]) == {"qonnx", "graph", "rtl"} and len(set(written["accuracy"].values())) == 1
    assert written["verify"][0]["proved"].startswith("2 requantisers equal real arithmetic on all ")


def test_slow_stages_are_compared_on_some_vectors(tmp_path, monkeypatch, rng):
    seen, wrong = [], []
    run, out, lowered = _run(
        tmp_path, monkeypatch, rng, partial_stages=lambda folder: {"netlist": lambda *call: netlist(*call)}
    )

    def netlist(folder, x, progress):
        seen.append((folder, len(x)))
        return {
            edge: values + np.arange(len(x))[:, None] // 20 * bool(wrong)
            for edge, values in run_graph(lowered.graph, x).items()
        }

    assert _verify(run, out) == "40 samples equal in graph, qonnx, rtl, 24 in netlist"
    assert seen == [(run.build, 24)]
    written = json.loads((out / "verify.json").read_text())
    assert [(e["candidate"], e["samples"]) for e in written["verify"]][-1] == (
        "netlist",
        24,
    ) and "netlist" not in written["accuracy"]
    wrong.append(True)
    with pytest.raises(
        VerificationError,
        match=r"^netlist differs from the integer graph on 4 of 24 samples; first at sample 20, layer ",
    ):
        _verify(run, out)


def test_what_a_build_foretold_of_its_difference_is_said_with_it(tmp_path, monkeypatch, rng):
    known = {"describe_deviation": lambda folder: f"as {folder.name} foretold"}
    run, out, _ = _run(tmp_path, monkeypatch, rng, _flipped, **known)
    with pytest.raises(VerificationError, match=r"^rtl differs from the integer graph on .*\]; as 4-build foretold\.$"):
        _verify(run, out)


def test_all_vectors_go_through_a_stalled_stream_too(tmp_path, monkeypatch, rng):
    """Right at full speed and wrong in a pause: that is a difference, named with the layer of the stalled run."""
    seen, wrong = [], []
    run, out, lowered = _run(tmp_path, monkeypatch, rng, simulate_with_backpressure=lambda *call: stalled(*call))
    layer = [op.output for op in lowered.graph.ops if op.inputs][1]

    def stalled(folder, x, keep=(), progress=None):
        seen.append((folder, len(x), len(keep)))
        values = run_graph(lowered.graph, x, keep)
        late = np.arange(len(x)) >= 30
        return {
            edge: v + late[:, None] * bool(wrong and edge in (layer, lowered.graph.outputs[0]))
            for edge, v in values.items()
        }

    assert _verify(run, out) == "40 samples equal in graph, qonnx, rtl, rtl-stalls"
    assert seen == [(run.build, 40, 0)]
    written = json.loads((out / "verify.json").read_text())
    assert written["verify"][-1] | {"first": None} == {
        "reference": "graph",
        "candidate": "rtl-stalls",
        "samples": 40,
        "outputs": 3,
        "mismatches": 0,
        "float_ties": 0,
        "proved": None,
        "first": None,
        "within": None,
        "largest": None,
    }
    assert (
        np.array_equal(np.load(out / "rtl-stalls.npy"), np.load(out / "graph.npy"))
        and "rtl-stalls" not in written["accuracy"]
    )
    wrong.append(True)
    with pytest.raises(VerificationError) as error:
        _verify(run, out)
    assert str(error.value).startswith(
        "rtl with random stalls differs from the integer graph on 10 of 40 samples; first at sample 30, "
        f"layer {layer}: expected ["
    )
    assert error.value.exit_code == 5 and seen[-1][1:] == (31, len(lowered.graph.ops) - 1), (
        "the pauses up to that sample again"
    )


def _with(graph: Graph, name: str, **changes) -> Graph:
    ops = tuple(dataclasses.replace(op, **changes) if op.name == name else op for op in graph.ops)
    return Graph(graph.name, ops, graph.edges, graph.outputs)


def _flipped(graph: Graph) -> Graph:
    """One bit of one weight of the first layer."""
    layer = [op for op in graph.ops if isinstance(op, Dense)][0]
    weight = layer.weight.copy()
    weight[2, 1] ^= 4
    return _with(graph, layer.name, weight=freeze(weight))


def test_a_flipped_weight_bit_names_its_layer(tmp_path, monkeypatch, rng):
    run, out, lowered = _run(tmp_path, monkeypatch, rng, _flipped)
    first = [op.name for op in lowered.graph.ops if isinstance(op, Dense)][0]
    with pytest.raises(VerificationError) as error:
        _verify(run, out)
    assert str(error.value).startswith(
        "rtl differs from the integer graph on "
    ) and f", layer {first}: expected [" in str(error.value)
    assert json.loads((out / "verify.json").read_text())["verify"][-1]["first"]["layer"] == first


def test_a_graph_that_rounds_otherwise_is_no_tie(tmp_path, monkeypatch, rng):
    """One threshold moved by one accumulator: qonnx's execution differs, and no float32 bound explains it."""
    run, out, lowered = _run(tmp_path, monkeypatch, rng, samples=200)

    def moved(source, declared=None):
        step = [op for op in lowered.graph.ops if isinstance(op, Requantise)][-1]
        moved_step = step.with_steps(thresholds=freeze(step.require_steps().thresholds + 1))
        wrong = _with(lowered.graph, step.name, forms=moved_step.forms)
        return dataclasses.replace(lowered, graph=wrong)

    monkeypatch.setattr(stage, "lower_source", moved)
    save_lowering(moved(None), run.lower)
    with pytest.raises(VerificationError) as error:
        _verify(run, out)
    step = [op.name for op in lowered.graph.ops if isinstance(op, Requantise)][-1]
    assert str(error.value).startswith("graph differs from qonnx on ") and f", layer {step}: expected [" in str(
        error.value
    )


def test_a_lowering_of_another_model_is_refused(tmp_path, monkeypatch, rng):
    run, out, _ = _run(tmp_path, monkeypatch, rng)
    Model((1, 6)).quant().dense(6, 3).quant(0.5, 8).save(run.model)
    with pytest.raises(VerificationError) as error:
        _verify(run, out)
    assert str(error.value) == (
        f"{run.lower} does not hold the integer graph of {run.model}; run the lower stage again."
    )


def _tie_model(tmp_path):
    """1/3 is no float32: 3 * fl(1/3) is 1 + 3e-8 in real arithmetic and 1 in float32, a tie at the boundary 2.5 ·
    0.4."""
    scale = np.float32(1) / np.float32(3)
    m = Model((1, 1)).quant(float(scale), 4)
    m.node("Mul", m.constant(np.float32(2.5))).quant(float(scale), 8)
    return m.save(tmp_path / "m.onnx")


def test_a_genuine_float32_tie_is_proven_and_counted(tmp_path, rng):
    """Levels k with 2.5*k on a half: real arithmetic ties exactly, to even; float32's quotient falls on either side."""
    from greenedge.lower.float_io import run_prologue
    from greenedge.lower.float_ties.explain import explain
    from greenedge.verify.reference import qonnx_integers

    path = _tie_model(tmp_path)
    lowered = lower_file(path)
    x = (np.arange(-8, 8, dtype=np.float32) / 3).reshape(-1, 1)
    given = qonnx_integers(lowered, path, x, _tell)
    ours = run_graph(lowered.graph, run_prologue(lowered, x))[lowered.graph.outputs[0]]
    wanted = [round(2.5 * k) for k in range(-8, 8)]
    assert ours.ravel().tolist() == wanted
    forged = {edge: values.copy() for edge, values in given.items()}
    output = lowered.graph.outputs[0]
    at = int(np.flatnonzero(np.arange(-8, 8) % 2 == 1)[0])  # 2.5 * odd is a half
    forged[output][at] = ours[at] + (1 if wanted[at] < 2.5 * (at - 8) else -1)
    differences = explain(lowered.graph, lowered.trace, forged)
    tied = [d for d in differences if d.sample == at]
    assert tied and all(d.proven_tie for d in tied)
    forged[output][at] = ours[at] + 3
    assert not all(d.proven_tie for d in explain(lowered.graph, lowered.trace, forged) if d.sample == at)
    even = int(np.flatnonzero(np.arange(-8, 8) % 2 == 0)[1])
    forged = {edge: values.copy() for edge, values in given.items()}
    forged[output][even] = ours[even] + 1
    assert not all(d.proven_tie for d in explain(lowered.graph, lowered.trace, forged) if d.sample == even)


def test_torch_outputs_are_explained_by_ties_or_not_at_all(tmp_path):
    from greenedge.lower.float_io import run_prologue
    from greenedge.lower.float_ties.outputs_only import reachable_by_ties

    lowered = lower_file(_tie_model(tmp_path))
    ints = run_prologue(lowered, np.array([[1 / 3]], np.float32))  # level 1: 2.5 lies between 2 and 3
    ours = run_graph(lowered.graph, ints)[lowered.graph.outputs[0]]
    assert ours.tolist() == [[2]]
    assert reachable_by_ties(lowered, ints, np.array([[3]])) and not reachable_by_ties(lowered, ints, np.array([[4]]))


def test_outputs_that_are_no_levels_are_refused():
    assert float_references.read_levels(np.array([[0.5, 1.0]]), np.array(0.5), np.array(0.0)).tolist() == [[1, 2]]
    assert float_references.read_levels(np.array([[0.5, 1.2]]), np.array(0.5), np.array(0.0)) is None
    assert float_references.read_levels(np.array([[np.nan]]), np.array(0.5), np.array(0.0)) is None


def test_an_input_that_the_prologue_rounds_otherwise_is_a_difference(tmp_path, monkeypatch, rng):
    run, out, lowered = _run(tmp_path, monkeypatch, rng)
    from greenedge.lower.float_io import run_prologue

    def wrong(lowered, inputs):
        ints = {edge: values.copy() for edge, values in run_prologue(lowered, inputs).items()}
        ints["x"][3, 2] = -8 if ints["x"][3, 2] > -8 else -7
        return ints

    monkeypatch.setattr(stage, "run_prologue", wrong)
    with pytest.raises(VerificationError) as error:
        _verify(run, out)
    assert str(error.value).startswith(
        "graph differs from qonnx on "
    ) and "first at sample 3, layer x: expected [" in str(error.value)


@pytest.mark.parametrize("apart, passes", [(1, True), (2, False)])
def test_a_prologue_that_adds_up_may_be_one_level_apart(tmp_path, apart, passes):
    """A softmax before the first quantiser sums in whatever order its runtime likes."""
    m = Model((1, 4)).node("Softmax", axis=1).quant(0.25, 4).dense()
    lowered = lower_file(m.save(tmp_path / "m.onnx"))
    ints = {"x": np.zeros((2, 4), np.int64)}
    given = {"x": ints["x"] + np.array([[0, 0, 0, 0], [0, apart, 0, 0]])}
    first = float_references._first_input(lowered, given, ints)
    assert first is None if passes else (first.sample, first.layer, first.expected[0], first.got[0]) == (1, "x", 2, 0)


@pytest.mark.parametrize("apart, mismatches", [(0.5, 0), (0.75, 1)])
def test_floats_may_be_as_far_apart_as_allowed(apart, mismatches):
    ones = np.ones((2, 3))
    report = compare_floats("epilogue", "tflite", ones, ones + [[0, 0, 0], [0, apart, 0]], 0.5, layer="y")
    assert (report.mismatches, report.largest) == (mismatches, apart)


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        ({"qonnx": 40, "rtl": 40}, None),
        ({"qonnx": 40, "rtl": 41}, "must be compared on 41 samples in rtl, and only 40 could be"),
        ({"netlist": 24}, "must be compared on 24 samples in netlist, and only 0 could be"),
        ({"torch": 1}, "must be compared on 1 samples in torch, and only 0 could be"),
    ],
)
def test_less_evidence_than_recorded_is_an_error(tmp_path, monkeypatch, rng, evidence, said):
    run, out, _ = _run(tmp_path, monkeypatch, rng)
    if said is None:
        assert _verify(run, out, evidence).startswith("40 samples equal")
        return
    with pytest.raises(VerificationError) as error:
        _verify(run, out, evidence)
    assert said in str(error.value) and str(error.value).endswith("`greenedge build` again.")


@pytest.mark.parametrize("name", ["prologue", "epilogue"])
def test_a_stored_lowering_with_something_added_is_an_error(tmp_path, monkeypatch, rng, name):
    """What `infer` takes of the host's part must be what the exported model lowers to."""
    import onnx

    run, out, _ = _run(tmp_path, monkeypatch, rng)
    path = run.lower / f"{name}.onnx"
    model = onnx.load(path)
    last = model.graph.node[-1]
    model.graph.node.append(onnx.helper.make_node("Identity", [last.output[0] + "_in"], [last.output[0]]))
    last.output[0] += "_in"
    onnx.save(model, path)
    with pytest.raises(VerificationError, match=f"{name}.onnx does not hold the {name} of"):
        _verify(run, out)
