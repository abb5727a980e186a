"""A model that ends in the index of its largest score: in the graph where that is exact, left on the host elsewhere."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from greenedge.errors import GreenedgeError
from greenedge.graph import ArgMax, Edge, Graph, Input, graph_digest, run_graph
from greenedge.graph.qonnx import to_qonnx
from greenedge.legalise.argmax_to_host import drop_argmax, move_argmax_to_host
from greenedge.lower import load_lowering, lower_file, save_lowering
from greenedge.lower.float_io import classes, run_epilogue, run_prologue
from greenedge.lower.float_ties.explain import may_win
from greenedge.verify.reference import _executor
from tests.lower.models import Model

SAMPLES = 200


def _model(rng, outputs: int = 5, bits: int = 2, quantised: bool = True, weight_scale=0.5) -> Model:
    """x → quantiser → 8 × `outputs` → quantiser of few levels, so that many scores are equal."""
    m = Model((1, 8)).quant(0.25, 4)
    m.node("MatMul", m.weight(rng.integers(-7, 8, (8, outputs)) * 0.5, weight_scale))
    m.nodes.sort(key=lambda node: not node.input[0].startswith("c"))
    return m.quant(1.0, bits) if quantised else m


def _x(rng, samples: int = SAMPLES) -> np.ndarray:
    return rng.normal(0, 1, (samples, 8)).astype(np.float32)


def _reference(path, x) -> np.ndarray:
    """The model's own output, by qonnx, sample by sample."""
    (run, (name,), _), output = _executor(path, 1), onnx.load(str(path)).graph.output[0].name
    return np.concatenate([run({name: sample[None]})[output] for sample in x])


def _find_index(lowered, x) -> np.ndarray:
    return next(iter(run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, x))).values()))


@pytest.mark.parametrize(
    "end",
    [
        lambda m: m.node("ArgMax", axis=1, keepdims=1),
        lambda m: m.node("ArgMax", axis=-1, keepdims=0),
        lambda m: m.node("Mul", m.constant(3.0)).node("Add", m.constant(-0.5)).node("ArgMax", axis=1),
    ],
)
def test_the_index_is_the_graphs(rng, tmp_path, end):
    path = end(_model(rng)).save(tmp_path / "m.onnx")
    lowered = lower_file(path)
    last = lowered.graph.ops[-1]
    edge = lowered.graph.edges[last.output]
    assert (
        isinstance(last, ArgMax)
        and lowered.graph.outputs == (last.output,)
        and (edge.shape, edge.lo, edge.hi) == ((1,), 0, 4)
    )
    x = _x(rng)
    scores = run_graph(lowered.graph, run_prologue(lowered, x), keep=last.inputs)[last.inputs[0]]
    assert ((scores == scores.max(axis=1, keepdims=True)).sum(axis=1) > 1).mean() > 0.3, "ties in many samples"
    expected, got = _reference(path, x[:40]), _find_index(lowered, x)
    assert (
        got.dtype == np.int64
        and np.array_equal(got[:40], expected)
        and np.array_equal(classes(got), scores.argmax(axis=1))
    )


def test_what_follows_the_index_runs_on_the_host(rng, tmp_path):
    path = (
        _model(rng).node("ArgMax", axis=1, keepdims=0).node("Cast", to=onnx.TensorProto.FLOAT).save(tmp_path / "m.onnx")
    )
    lowered = lower_file(path)
    assert isinstance(lowered.graph.ops[-1], ArgMax)
    got = _find_index(lowered, _x(rng, 20))
    assert got.dtype == np.float32 and got.shape == (20,)


def test_topk_of_one_is_an_index_too(rng, tmp_path):
    m = _model(rng)
    m.nodes.append(
        onnx.helper.make_node("TopK", [m.tensor, m.constant([1], np.int64)], ["values", "indices"], name="top")
    )
    path = m.save(tmp_path / "m.onnx", ["indices"])
    lowered = lower_file(path)
    assert isinstance(lowered.graph.ops[-1], ArgMax)
    x = _x(rng)
    assert np.array_equal(_find_index(lowered, x[:40]), _reference(path, x[:40]))
    assert _hosted_topk(rng, tmp_path, 2, 1) and _hosted_topk(rng, tmp_path, 1, 0), "two of them, or the smallest"
    both = lower_file(m.save(tmp_path / "both.onnx", ["values", "indices"]))
    assert not [op for op in both.graph.ops if isinstance(op, ArgMax)], "whoever wants the value gets the scores"


def _hosted_topk(rng, tmp_path, count: int, largest: int) -> bool:
    m = _model(rng)
    node = onnx.helper.make_node(
        "TopK", [m.tensor, m.constant([count], np.int64)], ["values", "indices"], largest=largest
    )
    m.nodes.append(node)
    return not [op for op in lower_file(m.save(tmp_path / "m.onnx", ["indices"])).graph.ops if isinstance(op, ArgMax)]


def test_every_pixel_has_an_index(rng, tmp_path):
    m = Model((1, 3, 4, 5)).quant(0.25, 4)
    m.node("Conv", m.weight(rng.integers(-3, 4, (4, 3, 1, 1)) * 0.5)).quant(1.0, 3).node("ArgMax", axis=1, keepdims=0)
    m.nodes.sort(key=lambda node: not node.input[0].startswith("c"))
    path = m.save(tmp_path / "m.onnx")
    lowered = lower_file(path)
    assert lowered.graph.edges[lowered.graph.outputs[0]].shape == (1, 4, 5)
    x = rng.normal(0, 1, (9, 3, 4, 5)).astype(np.float32)
    got = _find_index(lowered, x)
    assert got.shape == (9, 4, 5) and np.array_equal(got, _reference(path, x)) and classes(got) is None


_HOSTED = [
    ("last of equals", lambda m: m.node("ArgMax", axis=1, select_last_index=1)),
    ("after a softmax", lambda m: m.node("Softmax", axis=1).node("ArgMax", axis=1)),
    ("turned over", lambda m: m.node("Neg").node("ArgMax", axis=1)),
    ("biases of their own", lambda m: m.node("Add", m.constant(np.arange(5))).node("ArgMax", axis=1)),
]


@pytest.mark.parametrize("end", [end for _, end in _HOSTED], ids=[name for name, _ in _HOSTED])
def test_everything_else_stays_on_the_host(rng, tmp_path, end):
    path = end(_model(rng)).save(tmp_path / "m.onnx")
    lowered = lower_file(path)
    assert not [op for op in lowered.graph.ops if isinstance(op, ArgMax)] and move_argmax_to_host(lowered) is lowered
    x = _x(rng, 20)
    assert np.array_equal(_find_index(lowered, x), _reference(path, x))


def test_check_says_that_it_stays_on_the_host(rng, tmp_path):
    from greenedge.backends.preflight import check_model
    from greenedge.target import load_target

    m = _model(rng)
    path = m.node("Add", m.constant(np.arange(5))).node("ArgMax", axis=1).save(tmp_path / "m.onnx")
    assert any(
        note.endswith(
            " runs on the host: in hardware it takes the first largest of integers of one scale and bias along the "
            "channels "
            "(cure: one per-tensor quantiser before it)."
        )
        for note in check_model(path, load_target("ulx3s-85f"), "finn").notes
    )


def test_scores_that_are_an_output_too_stay_one(rng, tmp_path):
    m = _model(rng)
    scores = m.tensor
    lowered = lower_file(m.node("ArgMax", axis=1).save(tmp_path / "m.onnx", [scores, f"t{m.count}"]))
    assert not [op for op in lowered.graph.ops if isinstance(op, ArgMax)]


def test_channels_of_unlike_scales_stay_on_the_host(rng, tmp_path):
    m = _model(rng, quantised=False, weight_scale=np.array([[0.5, 0.25, 0.5, 0.5, 0.5]]))
    lowered = lower_file(m.node("ArgMax", axis=1).save(tmp_path / "m.onnx"))
    assert not [op for op in lowered.graph.ops if isinstance(op, ArgMax)]


def test_the_host_finds_the_same_index(rng, tmp_path):
    """For a back end that gives scores; also from a stored lowering."""
    lowered = lower_file(_model(rng).node("ArgMax", axis=1, keepdims=0).save(tmp_path / "m.onnx"))
    save_lowering(lowered, tmp_path)
    stored = load_lowering(tmp_path)
    assert graph_digest(stored.graph) == graph_digest(lowered.graph)
    moved = move_argmax_to_host(stored)
    assert moved.graph.outputs == lowered.graph.ops[-1].inputs and not [
        op for op in moved.graph.ops if isinstance(op, ArgMax)
    ]
    assert drop_argmax(moved.graph) is moved.graph
    x = _x(rng)
    assert np.array_equal(_find_index(moved, x), _find_index(lowered, x)) and _find_index(moved, x).shape == (SAMPLES,)


def test_another_models_epilogue_is_an_error(rng, tmp_path):
    lowered = lower_file(_model(rng).node("ArgMax", axis=1).save(tmp_path / "m.onnx"))
    other = lower_file(_model(rng).save(tmp_path / "other.onnx"))
    with pytest.raises(GreenedgeError) as error:
        move_argmax_to_host(dataclasses.replace(lowered, epilogue=other.epilogue))
    assert str(error.value) == (
        f"epilogue.onnx reads no index {lowered.graph.outputs[0]!r}, with which the graph ends; run the lower "
        "stage again."
    )


@pytest.mark.parametrize("shape, axis", [((7,), 0), ((3, 4, 5), 0), ((3, 4, 5), 2)])
def test_the_operation_is_onnxs(rng, shape, axis):
    """Also as the QONNX form has it, run by ONNX Runtime."""
    import onnxruntime

    shape_out = tuple(1 if k == axis else size for k, size in enumerate(shape))
    graph = Graph(
        "one",
        (Input("x", (), "x"), ArgMax("y", ("x",), "y", axis)),
        {"x": Edge("x", shape, -2, 1), "y": Edge("y", shape_out, 0, shape[axis] - 1)},
        ("y",),
    )
    x = rng.integers(-2, 2, (50, *shape))
    node = onnx.helper.make_node("ArgMax", ["x"], ["y"], axis=axis + 1, keepdims=1, select_last_index=0)

    def value(name, kind):
        return onnx.helper.make_tensor_value_info(name, kind, None)

    proto = onnx.helper.make_graph(
        [node], "one", [value("x", onnx.TensorProto.FLOAT)], [value("y", onnx.TensorProto.INT64)]
    )
    model = onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    got = run_graph(graph, x)["y"]
    assert np.array_equal(got, session.run(None, {"x": x.astype(np.float32)})[0])
    stored = onnxruntime.InferenceSession(to_qonnx(graph).SerializeToString())
    assert np.array_equal(
        got[:10], np.concatenate([stored.run(None, {"x": one[None].astype(np.float32)})[0] for one in x[:10]])
    )


def test_only_float32s_own_error_may_choose_another_of_equals():
    op = ArgMax("y", ("x",), "y", 0)
    x, index = np.array([[5, 7, 7, 1]]), lambda k: np.array([[k]])
    exact, noisy = np.zeros((1, 4)), np.full((1, 4), 0.01)
    assert [bool(may_win(op, x, exact, index(k)).all()) for k in range(5)] == [False, True, False, False, False]
    assert [bool(may_win(op, x, noisy, index(k)).all()) for k in range(5)] == [False, True, True, False, False]
