"""Rules at their exact bounds: ties of real numbers, zero points per channel, one-sided padding, last windows, fusion.

Every expectation is computed here in rationals or written out; scales are powers of two where floats are used, so that
float64 is exact.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from greenedge.frontends.input_type import parse_input_type
from greenedge.graph import Requantise, run_graph, verify_graph
from greenedge.graph.lines import is_straight
from greenedge.legalise.clamp_at_reach import clamp_step
from greenedge.legalise.fuse_steps import fuse_lines, fuse_steps
from greenedge.lower import lower_file
from greenedge.lower.expr import Const, Var
from greenedge.lower.expr_functions import Smooth
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.lower.rounding import quantiser
from greenedge.lower.step_function import step_function
from tests.lower.models import Model


def lower(model: Model, tmp_path, kind: str):
    lowered = lower_file(model.save(tmp_path / "m.onnx"), {None: parse_input_type(kind)})
    verify_graph(lowered.graph)
    return lowered


def outputs(lowered, x: np.ndarray) -> np.ndarray:
    return next(iter(run_graph(lowered.graph, x).values()))


def reals(lowered, x: np.ndarray) -> np.ndarray:
    """The model's real outputs: a quantiser that only shifts integers by a constant leaves them as they are."""
    (output,) = lowered.outputs
    return output.scale * (outputs(lowered, x) - output.zero)


def round_half_even(value: Fraction, lo: int, hi: int) -> int:
    return min(max(round(value), lo), hi)  # Python rounds Fractions half to even


# -- ties --------------------------------------------------------------------------------------------------------------


def test_a_tie_that_float64_cannot_see(rng, tmp_path):
    """x * a * b * c / b / a / c is x in real arithmetic, and not in float64: every odd x is a tie of round(x / 2)."""
    x = np.arange(-128, 128).reshape(-1, 1)
    want = [round_half_even(Fraction(int(v), 2), -128, 127) for v in x.ravel()]
    blurred = 0
    for _ in range(20):
        a, b, c = (np.float32(rng.uniform(0.5, 2)) for _ in range(3))
        model = Model((1, 1))
        for factor in (a, b, c):
            model.node("Mul", model.constant(factor))
        for factor in (b, a, c):
            model.node("Div", model.constant(factor))
        model.quant(scale=2.0, bits=8)
        assert outputs(lower(model, tmp_path, "int8:1"), x).ravel().tolist() == want
        a, b, c = float(a), float(b), float(c)
        blurred += int((x * a * b * c / b / a / c != x).sum())
    assert blurred > 500, "float64 computes these chains exactly: the test sees nothing"


@pytest.mark.parametrize("third", [Fraction(1, 3), Fraction(1, 7), Fraction(2**60 + 1, 3 * 2**61)])
def test_a_boundary_between_two_floats(third):
    """A slope that no float64 holds, so that x = 3n/2 is decided by rationals."""
    step = step_function(
        Var() * Const.of(np.array(third, dtype=object)), quantiser("ROUND", -20, 20), np.array([-60]), np.array([60])
    )
    x = np.arange(-60, 61)
    got = step.count(-20, x[:, None]).ravel()
    assert got.tolist() == [round_half_even(third * int(v), -20, 20) for v in x]


@pytest.mark.parametrize("gap", [1, -1])
def test_a_hair_beside_a_tie(gap):
    """1/2 and 1/2 ± 2**-70 differ by less than float64's spacing; half-even sends the three to 0, 1 and 0."""
    offset = Const.of(np.array(Fraction(1, 2) + Fraction(gap, 2**70), dtype=object))
    step = step_function(Var() + offset, quantiser("ROUND", -4, 4), np.array([-3]), np.array([3]))
    got = step.count(-4, np.arange(-3, 4)[:, None]).ravel()
    want = [round_half_even(v + Fraction(1, 2) + Fraction(gap, 2**70), -4, 4) for v in range(-3, 4)]
    assert got.tolist() == want


@pytest.mark.parametrize("steepness", [2.0**-8, 2.0**-12, 2.0**-16])
def test_steps_far_from_where_straight_lines_guess_them(steepness):
    """A curve over a million accumulators, flat at both ends: its steps lie up to thousands from the first guess."""
    limit = 1 << 20
    curve = Smooth((Var() * Const.of(steepness),), "tanh") * Const.of(100.0)
    step = step_function(curve, quantiser("ROUND", -100, 100), np.array([-limit]), np.array([limit]))
    x = np.arange(-limit, limit + 1)
    real = 100.0 * np.tanh(x * steepness)
    clear = np.abs(real - np.floor(real) - 0.5) > 1e-9  # elsewhere float64 cannot tell
    got = step.count(-100, x[:, None]).ravel()
    assert (got == np.rint(real))[clear].all() and clear.mean() > 0.99


# -- zero points -------------------------------------------------------------------------------------------------------


def convolve(x, weight, strides, pads, groups):
    """2-d cross-correlation of reals with zero padding, written out; pads are (top, left, bottom, right)."""
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    per_group, per_out = x.shape[1] // groups, len(weight) // groups
    size = [(x.shape[2 + a] - weight.shape[2 + a]) // strides[a] + 1 for a in (0, 1)]
    y = np.zeros((len(x), len(weight), *size))
    for o in range(len(weight)):
        first = o // per_out * per_group
        for i in range(size[0]):
            for j in range(size[1]):
                top, left = i * strides[0], j * strides[1]
                part = x[:, first : first + per_group, top : top + weight.shape[2], left : left + weight.shape[3]]
                y[:, o, i, j] = (part * weight[o]).sum(axis=(1, 2, 3))
    return y


@pytest.mark.parametrize("groups, out", [(1, 3), (2, 4), (2, 6), (4, 8)])
def test_input_channels_with_zero_points_of_their_own(rng, tmp_path, groups, out):
    """scale*(q - zero[c]) through a grouped convolution: every group subtracts the zero points of its own channels."""
    channels, zero = 4, np.array([3.0, 0.0, 7.0, 12.0]).reshape(1, 4, 1, 1)
    weight = rng.integers(-7, 8, (out, channels // groups, 2, 2)) * 0.5
    model = Model((1, channels, 3, 4)).quant(0.25, 4, signed=0, zero=zero)
    model.node("Conv", model.weight(weight), group=groups).quant(1.0, 8)
    lowered = lower_file(model.save(tmp_path / "m.onnx"))
    verify_graph(lowered.graph)
    levels = rng.integers(0, 16, (20, channels, 3, 4))
    real = convolve(0.25 * (levels - zero), weight, (1, 1), (0, 0, 0, 0), groups)
    assert len(np.unique(real)) > 20
    assert np.array_equal(outputs(lowered, levels), np.clip(np.rint(real), -128, 127))


def test_a_dense_layer_of_features_with_zero_points_of_their_own(rng, tmp_path):
    zero, weight = np.array([[3.0, 0.0, 7.0, 12.0]]), rng.integers(-7, 8, (4, 3)) * 0.5
    model = Model((1, 4)).quant(0.25, 4, signed=0, zero=zero)
    model.node("MatMul", model.weight(weight)).quant(1.0, 8)
    lowered = lower_file(model.save(tmp_path / "m.onnx"))
    levels = rng.integers(0, 16, (50, 4))
    want = np.clip(np.rint(0.25 * (levels - zero) @ weight), -128, 127)
    assert np.array_equal(outputs(lowered, levels), want)


def test_input_channels_with_scales_in_whole_ratios(rng, tmp_path):
    scale, weight = np.array([0.25, 0.5, 1.0, 0.25]).reshape(1, 4, 1, 1), rng.integers(-7, 8, (3, 4, 2, 2)) * 0.5
    model = Model((1, 4, 3, 3)).quant(scale, 4)
    model.node("Conv", model.weight(weight)).quant(2.0, 8)
    lowered = lower_file(model.save(tmp_path / "m.onnx"))
    levels = rng.integers(-8, 8, (20, 4, 3, 3))
    real = convolve(scale * levels, weight, (1, 1), (0, 0, 0, 0), 1)
    assert np.array_equal(outputs(lowered, levels), np.clip(np.rint(real / 2), -128, 127))


def test_padding_stands_for_real_zero(rng, tmp_path):
    """Padded pixels are the zero point, so they add nothing."""
    weight = rng.integers(-7, 8, (2, 1, 3, 3)) * 0.5
    model = Model((1, 1, 3, 3)).quant(0.25, 4, signed=0, zero=5.0)
    model.node("Conv", model.weight(weight), pads=[1, 0, 0, 1]).quant(1.0, 8)
    levels = rng.integers(0, 16, (20, 1, 3, 3))
    real = convolve(0.25 * (levels - 5), weight, (1, 1), (1, 0, 0, 1), 1)
    got = outputs(lower_file(model.save(tmp_path / "m.onnx")), levels)
    assert np.array_equal(got, np.clip(np.rint(real), -128, 127))


# -- windows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "auto_pad, kernel, strides, pads",
    [
        ("SAME_UPPER", (2, 2), (1, 1), (0, 0, 1, 1)),
        ("SAME_LOWER", (2, 2), (1, 1), (1, 1, 0, 0)),
        ("SAME_UPPER", (3, 4), (1, 2), (1, 1, 1, 1)),
        ("SAME_LOWER", (4, 3), (1, 2), (2, 1, 1, 0)),
        ("SAME_LOWER", (3, 2), (2, 1), (1, 1, 1, 0)),
        ("VALID", (2, 3), (1, 1), (0, 0, 0, 0)),
    ],
)
def test_automatic_padding_is_on_the_side_that_onnx_names(rng, tmp_path, auto_pad, kernel, strides, pads):
    """An odd pad has its larger half at the end for SAME_UPPER and at the begin for SAME_LOWER; the image is 5 x 6."""
    weight = rng.integers(1, 8, (2, 1, *kernel)) * 0.5
    model = Model((1, 1, 5, 6)).quant(0.25, 4)
    model.node("Conv", model.weight(weight), auto_pad=auto_pad, strides=list(strides)).quant(1.0, 8)
    levels = rng.integers(-8, 8, (20, 1, 5, 6))
    real = convolve(0.25 * levels, weight, strides, pads, 1)
    if auto_pad != "VALID":
        assert real.shape[2:] == tuple(-(-d // s) for d, s in zip((5, 6), strides, strict=True))
    got = outputs(lower_file(model.save(tmp_path / "m.onnx")), levels)
    assert np.array_equal(got, np.clip(np.rint(real), -128, 127))


@pytest.mark.parametrize(
    "size, kernel, stride, pads, want",
    [
        (
            5,
            2,
            3,
            (1, 1),
            [[0], [1, 2, 3][1:]],
        ),  # a third window would start at 5, the end of the image: it is left out
        (6, 2, 3, (1, 1), [[0], [2, 3], [5]]),
        (5, 3, 2, (0, 0), [[0, 1, 2], [2, 3, 4]]),
        (6, 3, 2, (0, 0), [[0, 1, 2], [2, 3, 4], [4, 5]]),
        (4, 2, 4, (0, 0), [[0, 1]]),
        (4, 1, 2, (0, 0), [[0], [2]]),
        (5, 2, 2, (1, 0), [[0], [1, 2], [3, 4]]),
    ],
)
def test_the_last_window_of_a_pool_that_rounds_up(tmp_path, size, kernel, stride, pads, want):
    """ceil_mode: a window may hang over the end, and must start inside the image or its left padding."""
    model = Model((1, 1, size), opset=13).quant(1.0, 4)
    model.node("MaxPool", kernel_shape=[kernel], strides=[stride], pads=list(pads), ceil_mode=1)
    levels = np.array([[(3 * i) % 7 - 8 for i in range(size)]])[None]
    got = outputs(lower_file(model.save(tmp_path / "m.onnx")), levels)
    assert got.ravel().tolist() == [max(levels[0, 0, i] for i in window) for window in want]


def test_the_largest_of_falling_channels(rng, tmp_path):
    """A negative factor per channel before a max pool: the weights of these channels change sign in the layer
    before."""
    weight, factor = rng.integers(-7, 8, (3, 1, 1, 1)) * 0.5, np.array([0.5, -0.25, -1.0]).reshape(3, 1, 1)
    weight[weight == 0] = 0.5
    model = Model((1, 1, 4, 4)).quant(0.25, 4)
    model.node("Conv", model.weight(weight)).node("Mul", model.constant(factor))
    model.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).quant(0.125, 8)
    levels = rng.integers(-8, 8, (20, 1, 4, 4))
    real = convolve(0.25 * levels, weight, (1, 1), (0, 0, 0, 0), 1) * factor
    real = real.reshape(20, 3, 2, 2, 2, 2).max(axis=(3, 5))
    lowered = lower_file(model.save(tmp_path / "m.onnx"))
    verify_graph(lowered.graph)
    assert np.array_equal(outputs(lowered, levels), np.clip(np.rint(real * 8), -128, 127))


# -- structure ---------------------------------------------------------------------------------------------------------


def test_branches_of_different_scales_are_joined_along_their_axis(rng, tmp_path):
    """Concat along channels keeps each branch's scale; along the image it makes scales vary, which a layer refuses."""
    model = Model((1, 2, 2, 2)).quant(0.25, 4)
    first = model.tensor
    model.quant(0.5, 4, source=first)
    model.node("Concat", first, axis=1)
    model.node("Mul", model.constant(1.0)).quant(0.25, 8)
    levels = rng.integers(-8, 8, (20, 2, 2, 2))
    coarse = np.clip(np.rint(levels * 0.25 / 0.5), -8, 7) * 0.5
    want = np.concatenate([coarse, levels * 0.25], axis=1) / 0.25
    assert np.array_equal(outputs(lower_file(model.save(tmp_path / "m.onnx")), levels), want)


def test_padding_of_channels_with_scales_of_their_own(rng, tmp_path):
    """Channels that a Pad adds hold real zero, which every channel's function gives at the same level."""
    scale = np.array([0.25, 1.0]).reshape(1, 2, 1)
    model = Model((1, 2, 3)).quant(scale, 4)
    model.node("Pad", model.constant([0, 1, 0, 0, 2, 1], np.int64)).quant(0.5, 8)
    levels = rng.integers(-8, 8, (20, 2, 3))
    real = np.pad(levels * scale, ((0, 0), (1, 2), (0, 1)))
    lowered = lower_file(model.save(tmp_path / "m.onnx"))
    verify_graph(lowered.graph)
    assert np.array_equal(outputs(lowered, levels), np.clip(np.rint(real / 0.5), -128, 127))


def test_a_pool_of_rectified_levels_as_the_last_layer(rng, tmp_path):
    """Its output is no multiple of an integer, so the integers end at the quantiser and the host does the rest."""
    model = Model((1, 1, 4)).quant(0.25, 4, signed=1)
    model.node("Relu").node("MaxPool", kernel_shape=[2], strides=[2])
    path = model.save(tmp_path / "m.onnx")
    lowered = lower_file(path)
    x = rng.normal(size=(10, 1, 4)).astype(np.float32)
    floats = run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, x)))
    levels = np.clip(np.rint(x.astype(np.float64) / 0.25), -8, 7)
    want = np.maximum(levels * 0.25, 0).reshape(10, 1, 2, 2).max(axis=-1)
    assert np.array_equal(next(iter(floats.values())), want)


# -- passes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first, second", [(0.5, 1.5), (2.0, 1.0), (1.0, 3.0), (3.0, 7.0), (0.75, 0.5), (0.5, 4.0)])
@pytest.mark.parametrize("signed", [0, 1])
def test_two_quantisers_in_a_row_are_one(tmp_path, first, second, signed):
    """Both roundings happen, in two requantisers and in the one that they become, for every integer; of 4-bit levels
    the 6-bit ones reach all or a few."""
    model = Model((1, 1)).quant(first, 6, signed=signed, narrow=1).quant(second, 4)
    lowered = lower(model, tmp_path, "int8:1")
    fused = fuse_steps(lowered.graph)
    verify_graph(fused)
    assert (len(lowered.graph.requantisers), len(fused.requantisers)) == (2, 1)
    x = np.arange(-128, 128)[:, None]
    lo, hi = (-31, 31) if signed else (0, 62)
    once = [round_half_even(Fraction(int(v)) / Fraction(first), lo, hi) for v in x.ravel()]
    want = [round_half_even(level * Fraction(first) / Fraction(second), -8, 7) for level in once]
    assert outputs(lowered, x).ravel().tolist() == want
    assert run_graph(fused, x)[fused.outputs[0]].ravel().tolist() == want
    line = fuse_lines(lowered.graph)
    assert len(line.requantisers) == (1 if is_straight(clamp_step(fused.requantisers[0])) else 2)
    assert run_graph(line, x)[line.outputs[0]].ravel().tolist() == want


def test_quantisers_of_falling_functions_are_one(tmp_path):
    model = Model((1, 1)).quant(1.5, 6).node("Neg").quant(2.5, 4)
    lowered = lower(model, tmp_path, "int8:1")
    fused = fuse_steps(lowered.graph)
    x = np.arange(-128, 128)[:, None]
    once = [round_half_even(Fraction(int(v)) / Fraction(3, 2), -32, 31) for v in x.ravel()]
    want = [round_half_even(-level * Fraction(3, 2) / Fraction(5, 2), -8, 7) for level in once]
    assert outputs(lowered, x).ravel().tolist() == want
    assert run_graph(fused, x)[fused.outputs[0]].ravel().tolist() == want


def test_signs_go_into_the_weights(rng, tmp_path):
    """Falling channels flip their weights: every step rises, ranges stay proved, and no integer changes."""
    weight, factor = rng.integers(-7, 8, (4, 5)) * 0.5, np.array([0.5, -0.5, -0.25, 1.0, -1.0])
    model = Model((1, 4))
    model.node("MatMul", model.weight(weight)).node("Mul", model.constant(factor))
    model.node("Add", model.constant(np.array([0.25, 0.5, -0.75, 1.0, 0.125]))).quant(1.0, 6)
    lowered = lower(model, tmp_path, "int5:1")
    (step,) = lowered.graph.requantisers
    assert isinstance(step, Requantise) and step.require_steps().rises
    x = rng.integers(-16, 16, (200, 4))
    real = x @ weight * factor + np.array([0.25, 0.5, -0.75, 1.0, 0.125])
    assert np.array_equal(outputs(lowered, x), np.clip(np.rint(real), -32, 31))
    edge = lowered.graph.edges[step.inputs[0]]
    assert (edge.lo, edge.hi) == (int(step.reach[0].min()), int(step.reach[1].max()))


def test_the_affine_form_is_that_of_the_steps(rng, tmp_path):
    """Thresholds and clip((m*x + b) >> s) at every accumulator that can occur, falling channels flipped."""
    weight, factor = rng.integers(-7, 8, (4, 5)) * 0.5, rng.uniform(0.05, 0.3, 5).astype(np.float32)
    factor *= np.array([1, -1, 1, -1, -1], np.float32)
    model = Model((1, 4))
    model.node("MatMul", model.weight(weight)).node("Mul", model.constant(factor)).quant(0.5, 4)
    (step,) = lower(model, tmp_path, "uint4:1").graph.requantisers
    affine = step.affine
    assert affine is not None
    for c in range(step.channels):
        x = np.arange(step.x_lo[c], step.x_hi[c] + 1)
        line = np.clip((affine.m[c] * x + affine.b[c]) >> affine.s[c], step.lo, step.hi)
        count = step.lo + (x[:, None] >= step.require_steps().thresholds[c]).sum(axis=1)
        real = [round_half_even(Fraction(int(v)) * abs(Fraction(float(factor[c]))), -8, 7) for v in x]
        assert line.tolist() == count.tolist() == real


def test_an_unread_layer_goes_with_its_edge(tmp_path):
    model = Model((1, 4)).quant(0.5, 4)
    first = model.tensor
    model.dense(4, 3).quant(0.5, 4)
    model.node("MatMul", model.weight(np.ones((4, 2))), source=first).quant(0.5, 4)
    graph = lower_file(model.save(tmp_path / "m.onnx")).graph
    assert [op.kind for op in graph.ops] == ["Input", "Dense", "Requantise"]
    assert set(graph.edges) == {op.output for op in graph.ops}


# -- sums of branches, fills, averages, transposed convolutions -------------------------------------------------------


@pytest.mark.parametrize("op, sign", [("Add", 1), ("Sub", -1)])
def test_branches_whose_scales_are_in_a_whole_ratio(rng, tmp_path, op, sign):
    """0.75 a ± 0.5 b with zero points 3 and 5 is 0.25 * (3 a ± 2 b - (9 ± 10))."""
    model = Model((1, 6)).quant(0.75, 4, signed=0, zero=3.0)
    first = model.tensor
    model.quant(0.5, 4, signed=0, zero=5.0, source=first)
    second, model.tensor = model.tensor, first
    model.node(op, second).quant(0.5, 8)
    levels = rng.integers(0, 16, (50, 6))
    a = 0.75 * (levels - 3)
    b = 0.5 * (np.clip(np.rint(a / 0.5 + 5), 0, 15) - 5)
    lowered = lower_file(model.save(tmp_path / "m.onnx"))
    verify_graph(lowered.graph)
    assert np.array_equal(reals(lowered, levels), np.clip(np.rint((a + sign * b) / 0.5), -128, 127) * 0.5)


@pytest.mark.parametrize("fill", [0.0, 1.5, -0.75])
def test_a_pad_fills_with_the_level_of_its_value(rng, tmp_path, fill):
    """fill = 0.25 * (level - 6)."""
    model = Model((1, 1, 3)).quant(0.25, 4, signed=0, zero=6.0)
    model.node("Pad", model.constant([0, 0, 2, 0, 0, 1], np.int64), model.constant(fill)).quant(0.125, 8)
    levels = rng.integers(0, 16, (20, 1, 3))
    real = np.pad(0.25 * (levels - 6), ((0, 0), (0, 0), (2, 1)), constant_values=fill)
    got = outputs(lower_file(model.save(tmp_path / "m.onnx")), levels)
    assert np.array_equal(got, np.clip(np.rint(real / 0.125), -128, 127))


def test_an_average_counts_its_padding_as_real_zero(rng, tmp_path):
    """(sum of 0.5 * (q - 3) under windows of 4) / 4; padded places are the zero point."""
    model = Model((1, 1, 4, 4)).quant(0.5, 4, signed=0, zero=3.0)
    model.node("AveragePool", kernel_shape=[2, 2], strides=[1, 1], pads=[1, 0, 0, 1], count_include_pad=1)
    model.quant(0.125, 8)
    levels = rng.integers(0, 16, (20, 1, 4, 4))
    real = convolve(0.5 * (levels - 3), np.full((1, 1, 2, 2), 0.25), (1, 1), (1, 0, 0, 1), 1)
    got = reals(lower_file(model.save(tmp_path / "m.onnx")), levels)
    assert np.array_equal(got, np.clip(np.rint(real / 0.125), -128, 127) * 0.125)


@pytest.mark.parametrize("pads, extra", [([0, 0], 0), ([1, 0], 1), ([0, 1], 1)])
def test_a_transposed_convolution(rng, tmp_path, pads, extra):
    """y[2*i + k - begin] += x[i] * w[k]; output padding adds places at the end."""
    weight = rng.integers(-7, 8, (2, 3, 3)) * 0.5
    model = Model((1, 2, 4)).quant(0.25, 4)
    model.node("ConvTranspose", model.weight(weight), strides=[2], pads=pads, output_padding=[extra]).quant(1.0, 8)
    levels = rng.integers(-8, 8, (20, 2, 4))
    full = np.zeros((20, 3, 2 * 3 + 3 + extra))
    for i in range(4):
        for k in range(3):
            full[:, :, 2 * i + k] += np.einsum("nc,co->no", 0.25 * levels[:, :, i], weight[:, :, k])
    real = full[:, :, pads[0] : full.shape[2] - pads[1]]
    lowered = lower_file(model.save(tmp_path / "m.onnx"))
    verify_graph(lowered.graph)
    assert np.array_equal(outputs(lowered, levels), np.clip(np.rint(real), -128, 127))
