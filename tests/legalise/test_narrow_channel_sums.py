"""Sums of branches whose ratio of scales differs by channel: exact on every pair of every channel, before and after
their multipliers become short."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from greenedge.errors import UnsupportedError
from greenedge.frontends.input_type import parse_input_type
from greenedge.graph import ChannelAdd, run_graph, verify_graph
from greenedge.legalise import NARROW_SUMS, legalise_graph
from greenedge.legalise.narrow_channel_sums import narrow_channel_sums
from greenedge.lower import lower_file
from tests.lower.models import Model

CHANNELS = 3


def write_sums(path, scales, zeros, bits, out, op="Add", last=lambda m: m):
    """Rows 0 and 1 of x are the branches, their columns the channels, each with a scale and a zero of its own."""
    m = Model((1, 2, CHANNELS))
    ends = []
    for k in range(2):
        m.node("Gather", m.constant([k], np.int64), source="x", axis=1)
        m.node("Sub", m.constant(np.reshape(zeros[k], (1, 1, -1))))
        ends.append(m.node("Mul", m.constant(np.reshape(scales[k], (1, 1, -1)))).tensor)
    last(m.node(op, ends[1], source=ends[0], name="sum"))
    return m.quant(*out[:2], signed=0, zero=float(out[2])).save(path)


def all_pairs(bits):
    a, b = np.meshgrid(np.arange(1 << bits), np.arange(1 << bits))
    return np.repeat(np.stack([a.ravel(), b.ravel()], axis=1)[:, :, None], CHANNELS, axis=2)


def expect(x, scales, zeros, out, sign=1):
    """The levels by Fractions, from the definition of Quant."""
    scale, bits, zero = Fraction(out[0]), out[1], out[2]
    levels = np.empty((len(x), CHANNELS), np.int64)
    for c in range(CHANNELS):
        (first, second), (z1, z2) = (tuple(map(Fraction, (part[0][c], part[1][c]))) for part in (scales, zeros))
        for n, (a, b) in enumerate(x[:, :, c].tolist()):
            real = first * (a - z1) + sign * second * (b - z2)
            levels[n, c] = min(max(round(real / scale + zero), 0), (1 << bits) - 1)
    return levels


def draw(rng, bits, ties=False):
    top = (1 << bits) - 1
    shape = (2, CHANNELS)
    if ties:
        scales = (2 * rng.integers(200, 900, shape) + 1) / 2**14
        out = float(2 * rng.integers(200, 900) + 1) / 2**13
    else:
        scales = rng.uniform(0.005, 0.05, shape)
        out = float(np.float32(scales.sum() / CHANNELS * rng.uniform(0.5, 1.3)))
    scales = scales.astype(np.float32).astype(float)
    return scales.tolist(), rng.integers(0, top, shape).astype(float).tolist(), (out, bits, int(rng.integers(0, top)))


def widest(graph):
    return max(int(abs(op.multipliers).max()) for op in graph.ops if isinstance(op, ChannelAdd))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("op, sign", [("Add", 1), ("Sub", -1)])
@pytest.mark.parametrize("bits", [4, 8])
def test_every_pair_of_every_channel_keeps_its_level(rng, tmp_path, bits, op, sign, ties):
    scales, zeros, out = draw(rng, bits, ties)
    path = write_sums(tmp_path / "sums.onnx", scales, zeros, bits, out, op)
    graph = lower_file(path, {None: parse_input_type(f"uint{bits}:1")}).graph
    x = all_pairs(bits)
    wide = run_graph(graph, x)[graph.outputs[0]].reshape(len(x), CHANNELS)
    some = slice(None) if bits == 4 else rng.permutation(len(x))[:2000]
    assert np.array_equal(wide[some], expect(x[some], scales, zeros, out, sign))
    short = legalise_graph(graph, (NARROW_SUMS,))
    verify_graph(short)
    assert np.array_equal(run_graph(short, x)[graph.outputs[0]].reshape(wide.shape), wide)
    if not ties:
        assert widest(graph) > 1 << 18 and widest(short) < (1 << 7 if bits == 4 else 1 << 14)
        (step,) = short.requantisers[-1:]
        assert step.affine is not None and step.channels == CHANNELS


def test_zeros_between_levels_and_a_curve_behind_the_sum(rng, tmp_path):
    scales, zeros, out = draw(rng, 4)
    zeros = [[z + 0.375 for z in row] for row in zeros]
    path = write_sums(tmp_path / "sums.onnx", scales, zeros, 4, out, last=lambda m: m.node("Relu"))
    graph = lower_file(path, {None: parse_input_type("uint4:1")}).graph
    x = all_pairs(4)
    got = run_graph(legalise_graph(graph, (NARROW_SUMS,)), x)[graph.outputs[0]].reshape(len(x), CHANNELS)
    assert np.array_equal(got, np.maximum(expect(x, scales, zeros, out), out[2]))


def test_one_step_function_for_all_becomes_one_for_each(tmp_path):
    """Scales in whole ratios leave one unit, and so one function of the sum, for all channels."""
    scales = [[0.5] * 3, [0.5, 1.0, 1.5]]
    path = write_sums(tmp_path / "sums.onnx", scales, [[0.0] * 3] * 2, 4, (1.25, 4, 0))
    graph = lower_file(path, {None: parse_input_type("uint4:1")}).graph
    (add,) = (op for op in graph.ops if isinstance(op, ChannelAdd))
    assert add.multipliers.tolist() == [[1, 1, 2], [1, 2, 3]] or add.multipliers.tolist() == [[1, 1, 1], [1, 2, 3]]
    spread = narrow_channel_sums(graph)
    (step,) = spread.requantisers
    assert step.channels == 3 and step.axis == add.axis
    x = all_pairs(4)
    (got, want) = (run_graph(g, x)[graph.outputs[0]] for g in (spread, graph))
    assert np.array_equal(got, want)


def test_what_is_left_as_it_is(rng, tmp_path):
    """A sum that is an output too keeps its integers."""
    scales, zeros, out = draw(rng, 4)
    path = write_sums(tmp_path / "sums.onnx", scales, zeros, 4, out)
    graph = lower_file(path, {None: parse_input_type("uint4:1")}).graph
    (add,) = (op for op in graph.ops if isinstance(op, ChannelAdd))
    both = replace(graph, outputs=(*graph.outputs, add.output))
    assert widest(narrow_channel_sums(both)) == widest(graph)


def test_one_ratio_stays_one_sum(tmp_path):
    """Scales that differ by channel in one ratio are one sum for the whole tensor."""
    scales = [[0.5, 0.75, 0.25], [1.0, 1.5, 0.5]]
    path = write_sums(tmp_path / "sums.onnx", scales, [[0.0] * 3] * 2, 4, (1.25, 4, 0))
    graph = lower_file(path, {None: parse_input_type("uint4:1")}).graph
    assert not any(isinstance(op, ChannelAdd) for op in graph.ops)


def test_a_ratio_that_no_accumulator_holds(tmp_path):
    """An accumulator, whose unit is a product of two scales, and a branch of 24 bits, read by a layer: quantised, they
    lower."""
    from greenedge.lower.output_quantiser import quantise_outputs

    rng = np.random.default_rng(5)
    m = Model((1, 6)).quant(0.05, 4, signed=0)
    start, steps = m.tensor, rng.uniform(0.1, 0.3, (1, 5)).astype(np.float32)
    m.node("MatMul", m.weight(rng.integers(-7, 8, (6, 5)) * 0.25, 0.25)).quant(0.0371, 4)
    branch = m.tensor
    m.node("MatMul", m.weight(rng.integers(-7, 8, (6, 5)) * steps, steps), source=start)
    m.node("Add", branch, name="sum").node("MatMul", m.weight(rng.integers(-7, 8, (5, 3)) * 0.25, 0.25), name="next")
    path = m.quant(0.1, 4).save(tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="greenedge requantise MODEL.onnx --inputs X.npy -o OUT.onnx") as caught:
        lower_file(path)
    (reason,) = caught.value.reasons
    assert reason.node == "sum" and reason.value.startswith("a ratio of scales whose numbers reach ")
    target, x = tmp_path / "q.onnx", rng.uniform(0, 0.7, (50, 6)).astype(np.float32)
    (added,) = quantise_outputs(path, target, lambda lowered: {"x": x}, keep_outputs=True)
    assert added.bits == 8 and lower_file(target).graph.outputs
