"""Reductions along any axes: the integer graph against ONNX's definitions, which are NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.backends import load_backend
from greenedge.errors import UnsupportedError
from greenedge.graph import MaxPool, SumPool, run_graph, verify_graph
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_prologue
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.lower.models import Model

OPERATORS = {"ReduceMax": np.max, "ReduceMin": np.min, "ReduceSum": np.sum, "ReduceMean": np.mean}
# (shape, axes as ONNX has them, keepdims)
CASES = [
    ((1, 4, 6, 5), [2, 3], 1),
    ((1, 4, 6, 5), [2], 0),
    ((1, 4, 6, 5), [-1], 1),
    ((1, 4, 6, 5), [1], 1),
    ((1, 4, 6, 5), [1, 3], 0),
    ((1, 4, 6, 5), [1, 2, 3], 1),
    ((1, 5, 6), [1], 0),
    ((1, 5, 6), [-1], 0),
    ((1, 2, 3, 4, 5), [2, 4], 0),
    ((1, 7), [1], 1),
]


def reduce(m, op, axes, keepdims, opset=13):
    """The axes as an attribute or an input, as the opset has it."""
    if op == "ReduceSum" or opset >= 18:
        return m.node(op, m.constant(axes, np.int64), keepdims=keepdims, name="reduce")
    return m.node(op, axes=axes, keepdims=keepdims, name="reduce")


def compare(path, x, expected):
    lowered = lower_file(path)
    verify_graph(lowered.graph)
    (got,) = run_graph(lowered.graph, run_prologue(lowered, x)).values()
    assert np.array_equal(got, expected)
    return lowered.graph


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("shape, axes, keepdims", CASES, ids=str)
def test_of_quantised_numbers(rng, tmp_path, op, shape, axes, keepdims):
    opset = 18 if len(axes) == 1 else 13
    m = reduce(Model(shape, opset=opset).quant(0.25, 4, zero=3.0), op, axes, keepdims, opset)
    path = m.quant(0.8125, 6).save(tmp_path / "m.onnx")
    x = rng.normal(0, 1.5, (20, *shape[1:])).astype(np.float32)
    real = (np.clip(np.rint(x / 0.25 + 3), -8, 7) - 3) * 0.25
    reduced = OPERATORS[op](real, axis=tuple(a % len(shape) for a in axes), keepdims=bool(keepdims))
    graph = compare(path, x, np.clip(np.rint(reduced / 0.8125), -32, 31))
    assert sum(isinstance(one, (MaxPool, SumPool)) for one in graph.ops) == 1


@pytest.mark.parametrize("op", OPERATORS)
def test_behind_a_layer_with_falling_channels(rng, tmp_path, op):
    """A negative batch norm factor turns a channel's order round; the maximum over rows is that of the real numbers."""
    weight = rng.integers(-3, 4, (3, 2, 1, 1)).astype(float)
    gamma, beta = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.6, -0.9])
    m = Model((1, 2, 4, 5)).quant(0.5, 4)
    if op in ("ReduceMax", "ReduceMin"):
        m.node("Conv", m.weight(weight * 0.5), kernel_shape=[1, 1])
        params = [m.constant(v) for v in (gamma, beta, np.zeros(3), np.full(3, 1 - 1e-5))]
        m.node("BatchNormalization", *params, epsilon=1e-5)
    else:
        m.node("Conv", m.weight(weight * 0.5), kernel_shape=[1, 1])
        gamma, beta = np.ones(3), np.zeros(3)
    path = reduce(m, op, [2], 0).quant(1.0, 7).save(tmp_path / "m.onnx")
    x = rng.normal(0, 2, (20, 2, 4, 5)).astype(np.float32)
    levels = np.clip(np.rint(x / 0.5), -8, 7) * 0.5
    sums = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0] * 0.5, levels)
    real = sums * gamma[:, None, None] + beta[:, None, None]
    compare(path, x, np.clip(np.rint(OPERATORS[op](real, axis=2)), -64, 63))


def test_scales_per_channel_are_taken_along_where_they_stay(rng, tmp_path):
    """Over the columns of every channel; over the channels themselves it is refused."""
    factors = np.array([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)
    for axes in ([3], [1]):
        m = Model((1, 3, 4, 5)).quant(0.5, 4)
        m.node("Mul", m.constant(factors))
        path = reduce(m, "ReduceMax", axes, 0).quant(1.0, 6).save(tmp_path / "m.onnx")
        x = rng.normal(0, 2, (20, 3, 4, 5)).astype(np.float32)
        real = np.clip(np.rint(x / 0.5), -8, 7) * 0.5 * factors
        if axes == [3]:
            compare(path, x, np.clip(np.rint(real.max(3)), -32, 31))
            continue
        with pytest.raises(UnsupportedError) as refusal:
            lower_file(path)
        assert (
            "reduce: a reduction over elements that have scales of their own; one scale along the axes that are "
            "reduced (cure: put a per-tensor quantiser before it)." in str(refusal.value)
        )


@pytest.mark.parametrize("op", OPERATORS)
def test_axes_that_are_not_named(rng, tmp_path, op):
    """All of them, the batch among them, which is refused; none of them where the node says so."""
    m = Model((1, 4, 5), opset=18).quant(0.5, 4).node(op, name="reduce").quant(1.0, 4)
    with pytest.raises(UnsupportedError, match="reduce: axis 0; the batch axis stays where it is"):
        lower_file(m.save(tmp_path / "m.onnx"))
    m = Model((1, 4, 5), opset=18).quant(0.5, 4).node(op, noop_with_empty_axes=1).quant(1.0, 4)
    x = rng.normal(0, 2, (20, 4, 5)).astype(np.float32)
    compare(m.save(tmp_path / "m.onnx"), x, np.clip(np.rint(np.clip(np.rint(x / 0.5), -8, 7) * 0.5), -8, 7))


def test_a_quantiser_of_one_number_a_sample(tmp_path):
    path = reduce(Model((1, 4)).quant(0.5, 4), "ReduceMax", [1], 0).quant(1.0, 4).save(tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError) as refusal:
        lower_file(path)
    assert "a tensor that has no axis beside the batch; every sample has one axis at least" in str(refusal.value)


def test_the_least_of_too_many_levels(tmp_path):
    m = Model((1, 4, 5)).quant(0.5, 16).node("GlobalAveragePool")
    path = reduce(m, "ReduceMin", [1], 0).quant(1.0, 4).save(tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError) as refusal:
        lower_file(path)
    assert (
        "reduce: the least of integers from -163,840 to 163,835; at most 65,536 levels change their sign one by one "
        "(cure: put a quantiser before it)." in str(refusal.value)
    )


@pytest.mark.parametrize("name, target", [("c99", "cortex-m4"), ("onnxruntime", "linux-x86"), ("tflite", "linux-x86")])
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("axes", [[1], [2], [1, 2, 3]], ids=str)
def test_what_is_built(rng, tmp_path, name, target, op, axes):
    backend, m = load_backend(name), Model((1, 3, 4, 5)).quant(0.25, 4)
    m.node("Conv", m.weight(rng.integers(-3, 4, (4, 3, 1, 1)) * 0.5), kernel_shape=[1, 1]).quant(1.0, 4)
    graph = lower_file(reduce(m, op, axes, int(len(axes) > 1)).quant(0.8125, 5).save(tmp_path / "m.onnx")).graph
    legal = legalise_graph(graph, backend.passes)
    verify_graph(legal)
    assert backend.check(legal, load_target(target), {}) == []
    execute(backend.plan(legal, load_target(target), {}), tmp_path / "build")
    x = rng.integers(-8, 8, (30, 3, 4, 5))
    for edge, values in run_graph(graph, x).items():
        assert np.array_equal(backend.simulate(tmp_path / "build", x)[edge], values)
