"""Sums of branches with unlike scales: their multipliers become short, and no level changes on any pair."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from greenedge.frontends.input_type import parse_input_type
from greenedge.graph import Add, Requantise, run_graph, verify_graph
from greenedge.graph.affine import fit_affine, fit_affine_between
from greenedge.legalise import NARROW_SUMS, legalise_graph
from greenedge.legalise.narrow_sums import narrow_sums
from greenedge.lower import lower_file
from tests.lower.models import Model


def write_pair(path, scales, zeros, bits, out, relu=False, op="Add"):
    """A model of two inputs in one: columns 0 and 1 of x are the branches, each with its own scale and zero point."""
    m = Model((1, 2))
    first, last, ones = (m.constant([value], np.int64) for value in (0, 1, 1))
    ends = []
    for k, (scale, zero) in enumerate(zip(scales, zeros, strict=True)):
        start, end = (first, last) if k == 0 else (last, m.constant([2], np.int64))
        m.node("Slice", start, end, ones, source="x")
        sliced = m.tensor
        m.node("Sub", m.constant(float(zero)), source=sliced)
        ends.append(m.node("Mul", m.constant(scale)).tensor)
    m.node(op, ends[1], source=ends[0])
    if relu:
        m.node("Relu")
    return m.quant(*out[:2], signed=0, zero=float(out[2])).save(path)


def all_pairs(bits):
    a, b = np.meshgrid(np.arange(1 << bits), np.arange(1 << bits))
    return np.stack([a.ravel(), b.ravel()], axis=1)


def expect(x, scales, zeros, out, relu=False, sign=1):
    """The levels by Fractions, from the definition of Quant."""
    scale, bits, zero = Fraction(out[0]), out[1], out[2]
    values = []
    for a, b in x.tolist():
        real = Fraction(scales[0]) * (a - zeros[0]) + sign * Fraction(scales[1]) * (b - zeros[1])
        real = max(real, 0) if relu else real
        values.append(min(max(round(real / scale + zero), 0), (1 << bits) - 1))
    return np.array(values)


CASES = [
    *(
        (bits, kind, relu, op)
        for bits in (4, 8)
        for kind in ("random", "ties")
        for relu, op in ((0, "Add"), (1, "Sub"))
    ),
    (8, "far", 0, "Add"),
]


@pytest.mark.parametrize("bits, kind, relu, op", CASES)
def test_every_pair_keeps_its_level(rng, tmp_path, bits, kind, relu, op):
    top = (1 << bits) - 1
    for _ in range(4 if bits == 4 else 2):
        if kind == "ties":
            scales = tuple(float(2 * rng.integers(200, 900) + 1) / 2**14 for _ in range(2))
            out = (float(2 * rng.integers(200, 900) + 1) / 2**13, bits, int(rng.integers(0, top)))
        else:
            spread = (1, 1000) if kind == "far" else (1, 1)
            scales = tuple(float(np.float32(rng.uniform(0.005, 0.05) / s)) for s in spread)
            out = (float(np.float32(sum(scales) * rng.uniform(0.5, 1.3))), bits, int(rng.integers(0, top)))
        zeros = tuple(int(v) for v in rng.integers(0, top, 2))
        path = write_pair(tmp_path / "pair.onnx", scales, zeros, bits, out, relu, op)
        graph = lower_file(path, {None: parse_input_type(f"uint{bits}:1")}).graph
        x = all_pairs(bits)
        some = x if bits == 4 else x[rng.permutation(len(x))[:4000]]
        wide = run_graph(graph, x)[graph.outputs[0]].ravel()
        picked = run_graph(graph, some)[graph.outputs[0]].ravel()
        assert np.array_equal(picked, expect(some, scales, zeros, out, relu, 1 if op == "Add" else -1))
        short = legalise_graph(graph, (NARROW_SUMS,))
        verify_graph(short)
        assert np.array_equal(run_graph(short, x)[graph.outputs[0]].ravel(), wide)
        before, after = (
            max(abs(m) for one in g.ops if isinstance(one, Add) for m in one.multipliers) for g in (graph, short)
        )
        if kind == "random":
            assert before > 1 << 18 and after < (1 << 6 if bits == 4 else 1 << 13), (before, after)
            assert all(
                step.affine is not None for step in short.requantisers if "Add" in short.producer(step.inputs[0]).kind
            )


def test_the_proved_range_of_the_levels_is_kept(tmp_path):
    """Ranges per channel may prove less than the branches' own: the levels stay within what the edge claims."""
    path = write_pair(tmp_path / "pair.onnx", (0.37, 0.1), (3, 1), 4, (0.5, 4, 2))
    graph = lower_file(path, {None: parse_input_type("uint4:1")}).graph
    output = graph.outputs[0]
    for low, high, changes in ((3, 9, True), (4, 4, False)):
        claim = replace(graph.edges[output], lo=low, hi=high)
        short = narrow_sums(replace(graph, edges=graph.edges | {output: claim}))
        (step,) = (op for op in short.requantisers if op.output == output)
        assert (max(map(abs, short.producer(step.inputs[0]).multipliers)) < 1 << 8) == changes
        assert not changes or (step.lo, step.hi) == (low, high)


def test_the_reach_of_every_channel_is_kept(tmp_path):
    """One channel of the branch cannot leave level 0; what is behind the sum was proved with that."""
    m = Model((1, 1, 2, 2)).quant(1.0, 4, signed=0)
    image = m.tensor
    weights = m.weight(np.array([1.0, -1.0]).reshape(2, 1, 1, 1), scale=1.0)
    gains = m.constant(np.array([1.0, 1.3]).reshape(1, 2, 1, 1))
    ends = [
        m.node("Conv", weights, source=image).node("Mul", gains).quant(scale, 3, 0).tensor for scale in (1.01, 0.37)
    ]
    m.node("Add", ends[1], source=ends[0]).node("Mul", gains).quant(0.7, 4, signed=0)
    graph = lower_file(m.node("GlobalAveragePool").node("Mul", gains).quant(0.5, 4).save(tmp_path / "m.onnx")).graph
    verify_graph(graph)
    short = narrow_sums(graph)
    (add,) = (op for op in short.ops if isinstance(op, Add))
    assert max(map(abs, add.multipliers)) < 1 << 8 and short is not graph
    verify_graph(short)
    (step,) = short.consumers(add.output)
    assert step.reach[1].tolist()[1] == 0 < step.reach[1].tolist()[0]


def test_what_is_left_as_it_is(tmp_path):
    """A sum that is an output, that another layer reads, or whose multipliers are short already."""
    path = write_pair(tmp_path / "pair.onnx", (0.37, 0.1), (3, 1), 4, (0.5, 4, 2))
    graph = lower_file(path, {None: parse_input_type("uint4:1")}).graph
    (add,) = (op for op in graph.ops if isinstance(op, Add))
    assert max(add.multipliers) > 1 << 18 and narrow_sums(graph) is not graph
    shown = replace(graph, outputs=(*graph.outputs, add.output))
    assert narrow_sums(shown) is shown
    path = write_pair(tmp_path / "small.onnx", (0.5, 0.375), (3, 1), 4, (0.5, 4, 2))
    small = lower_file(path, {None: parse_input_type("uint4:1")}).graph
    assert narrow_sums(small) is small
    wide = replace(graph, edges={name: replace(edge, hi=1 << 20) for name, edge in graph.edges.items()})
    assert narrow_sums(wide) is wide, "too many pairs to look at"


def test_the_saved_form_is_wide_enough_for_the_terms_of_a_sum(tmp_path):
    """Terms of 30 bits whose difference is small: float32 would round them."""
    import onnx

    from greenedge.graph.qonnx import to_qonnx

    path = write_pair(tmp_path / "pair.onnx", (0.37, 0.3699), (3, 1), 4, (0.5, 4, 2), op="Sub")
    graph = lower_file(path, {None: parse_input_type("uint4:1")}).graph
    (add,) = (op for op in graph.ops if isinstance(op, Add))
    assert max(abs(m) for m in add.multipliers) * 15 > 1 << 24
    small = replace(graph, edges=graph.edges | {add.output: replace(graph.edges[add.output], lo=-99, hi=99)})
    (first, *_) = to_qonnx(small).graph.input
    assert first.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE


def test_a_line_between_two_rows_of_points():
    """Thresholds that may lie anywhere in a gap: the line through 2k that no T - 1, T of one integer would allow."""
    below, above = np.array([[4, 14, 24]]), np.array([[11, 16, 31]])
    affine = fit_affine_between(below, above, 0)
    assert affine is not None
    level = lambda x: int(np.clip((affine.m[0] * x + affine.b[0]) >> affine.s[0], 0, 3))  # noqa: E731
    assert [level(x) for x in (4, 11, 14, 16, 24, 31)] == [0, 1, 1, 2, 2, 3]
    same = fit_affine_between(np.array([[4, 9]]), np.array([[5, 10]]), 0)
    other = fit_affine(np.array([[5, 10]]), 0, 2, np.array([0]), np.array([20]))
    assert same is not None and other is not None and same.s[0] == other.s[0]
    assert fit_affine_between(np.array([[4, 4]]), np.array([[5, 1000]]), 0) is not None
    assert fit_affine_between(np.array([[4, 6, 1000]]), np.array([[5, 7, 1001]]), 0) is None, "no line bends"


def test_several_quantisers_read_one_sum(rng, tmp_path):
    """Short multipliers serve all of them."""
    m = Model((1, 2))
    one = m.constant([1], np.int64)
    ends = []
    for k, scale in enumerate((0.37, 0.1)):
        m.node("Slice", m.constant([k], np.int64), m.constant([k + 1], np.int64), one, source="x")
        ends.append(m.node("Mul", m.constant(scale)).tensor)
    total = m.node("Add", ends[1], source=ends[0]).tensor
    first = m.quant(0.21, 4, signed=0, source=total).tensor
    second = m.quant(0.05, 6, signed=1, source=total).tensor
    graph = lower_file(m.save(tmp_path / "two.onnx", [first, second]), {None: parse_input_type("uint4:1")}).graph
    short = narrow_sums(graph)
    assert short is not graph and len(short.outputs) == 2
    verify_graph(short)
    x = all_pairs(4)
    assert all(np.array_equal(run_graph(graph, x)[edge], run_graph(short, x)[edge]) for edge in graph.outputs)
    assert sum(isinstance(op, Requantise) for op in short.ops) == 2
