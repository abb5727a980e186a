"""Products of two activations, softmax and norms: their definitions against exact arithmetic, the rules that lower
them, and blocks of Brevitas layers against qonnx."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

from greenedge.errors import Refused, UnsupportedError
from greenedge.graph import Edge, MatMul, Normalise, Softmax, freeze, run_graph, verify_graph
from greenedge.graph.ops.normalise import count_quarters, define_norm, fill_quarters, isqrt, make_root_table
from greenedge.graph.ops.softmax import choose_table_bits, make_exponential_tables
from greenedge.graph.qonnx import to_qonnx
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_prologue
from greenedge.lower.float_ties.explain import explain
from greenedge.verify.reference import qonnx_integers
from tests.lower.models import Model
from tests.lower.transformers import BLOCKS, export_block

ROWS = 2000  # rows of random levels for each form


def _softmax(scale=0.1, levels=256, length=8, unit=255, per=1, most=255, mask=None) -> Softmax:
    table, fine = make_exponential_tables(scale, levels, choose_table_bits(unit, per, length))
    return Softmax("p", ("x",), "p", table, fine, unit, per, most, mask)


def _rows(rng, low, high, shape) -> np.ndarray:
    """Rows that are spread, narrow, constant, and at both ends."""
    x = rng.integers(low, high + 1, (ROWS, *shape))
    x[::5] = rng.integers(low, low + 3, x[::5].shape)
    x[1], x[2] = low, high
    x[3, ..., 0] = high
    x[3, ..., 1:] = low
    return x


@pytest.mark.parametrize("levels, unit, per, most", [(256, 255, 1, 255), (256, 39700, 64, 255), (1 << 15, 255, 1, 255)])
def test_softmax_is_its_definition_and_near_the_real_one(rng, levels, unit, per, most):
    op = _softmax(0.05 if levels == 256 else 0.001, levels, unit=unit, per=per, most=most)
    assert (op.fine is not None) == (levels > 256)
    x = _rows(rng, -levels // 2, levels // 2 - 1, (8,))
    edges = [Edge("x", (8,), -levels // 2, levels // 2 - 1)]
    shape, (low, high) = op.infer(edges, [(np.array([edges[0].lo]), np.array([edges[0].hi]))])
    found = op.execute([x], edges)
    for row, ours in zip(x[:300].tolist(), found[:300].tolist(), strict=True):
        e = [_exponential(op, max(row) - value) for value in row]
        total = sum(e)
        assert ours == [min(math.floor(Fraction(unit * part, per * total) + Fraction(1, 2)), most) for part in e]
    assert shape == (8,) and low.min() <= found.min() and found.max() <= high.max()
    scale = 0.05 if levels == 256 else 0.001
    real = np.exp(scale * (x - x.max(-1, keepdims=True)))
    real = unit / per * real / real.sum(-1, keepdims=True)
    off = np.abs(np.minimum(real, most) - found)
    assert (off <= op.bound_deviation([x])).all()
    assert off.max() > 0.4  # the bound is no looser than it has to be
    assert (op.bound_deviation([x]) < 1).mean() > 0.9


def _exponential(op: Softmax, d: int) -> int:
    step = 1 if op.fine is None else len(op.fine)
    if d >= step * len(op.table):
        return 0
    e = int(op.table[d // step])
    return e if op.fine is None else (e * int(op.fine[d % step]) + int(op.fine[0]) // 2) // int(op.fine[0])


def test_all_differences_of_eight_bits():
    """The table holds every one of the 256 differences, rounded to the nearest."""
    op = _softmax(0.07)
    bits = choose_table_bits(255, 1, 8)
    for d in range(256):
        value = op.table[d] if d < len(op.table) else 0
        assert abs(int(value) - math.exp(-0.07 * d) * 2**bits) <= 0.5 + 1e-6


def test_what_is_masked_gets_nothing_and_is_no_maximum(rng):
    mask = freeze(np.tril(np.ones((8, 8), np.int64)))
    op = _softmax(mask=mask)
    x = _rows(rng, -128, 127, (8, 8))
    found = op.execute([x], None)
    assert (found[:, mask == 0] == 0).all()
    for k in range(8):  # a row of a triangle is a softmax of its first elements
        alone = _softmax(length=8)
        assert np.array_equal(found[:, k, : k + 1], alone.execute([x[:, k, : k + 1]], None))
    with pytest.raises(Refused, match="a row of its mask that leaves nothing"):
        op = _softmax(mask=freeze(np.zeros((8, 8), np.int64)))
        op.infer([Edge("x", (8, 8), -128, 127)], [(np.array([[-128]]), np.array([[127]]))])


@pytest.mark.parametrize(
    "change", [{"per": 0}, {"unit": -1}, {"most": 0}, {"table": freeze([0, 1])}, {"fine": freeze([3, 2])}]
)
def test_a_softmax_that_is_none_is_refused(change):
    """As a stored graph may have one."""
    op = dataclasses.replace(_softmax(), **change)
    with pytest.raises(Refused, match="a softmax of .* exponentials in units"):
        op.infer([Edge("x", (8,), -128, 127)], [(np.array([-128]), np.array([127]))])


@pytest.mark.parametrize(
    "change", [{"norm": "batch"}, {"constant": 0}, {"shift": 0}, {"shift": 99}, {"epsilon": -1}, {"table": freeze([1])}]
)
def test_a_norm_that_is_none_is_refused(change):
    op = dataclasses.replace(_norm("rms", 8, "root"), **change)
    with pytest.raises(Refused, match="a norm .* with the constant"):
        op.infer([Edge("x", (8,), -128, 127)], [(np.array([-128]), np.array([127]))])


def _norm(kind: str, length: int, form: str, epsilon=3, zero=0) -> Normalise:
    share = length if kind == "rms" else 1
    if form == "root":
        return dataclasses.replace(define_norm("z", "x", kind, length, Fraction(1, 50), zero, 1e-5), epsilon=epsilon)
    constant = share << 24
    return Normalise("z", ("x",), "z", kind, zero, epsilon, constant, 4, make_root_table(constant))


@pytest.mark.parametrize("form", ["root", "table"])
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norms_are_their_definition_and_near_the_real_one(rng, kind, form):
    op, length = _norm(kind, 12, form, zero=3 if kind == "rms" else 0), 12
    x = _rows(rng, -128, 127, (length,))
    edge = Edge("x", (length,), -128, 127)
    _, (low, high) = op.infer([edge], [(np.array([-128]), np.array([127]))])
    found = op.execute([x], [edge])
    assert low.min() <= found.min() and found.max() <= high.max()
    for row, ours in zip(x[:300].tolist(), found[:300].tolist(), strict=True):
        n = [value - op.zero for value in row] if kind == "rms" else [length * value - sum(row) for value in row]
        square = sum(value * value for value in n) if kind == "rms" else None
        if square is None:
            square = length * sum(value * value for value in row) - sum(row) ** 2
        square, h = max(square + op.epsilon, 1), 0
        if op.table is None:
            while h < 30 and (op.constant // square) << (2 * (h + 1)) < 1 << 62:
                h += 1
            root = math.isqrt((op.constant // square) << (2 * h))
        else:
            while square >> (2 * h) >= 1024:
                h += 1
            root = int(op.table[square >> (2 * h)])
        assert ours == [(value * root + (1 << (op.shift + h - 1))) >> (op.shift + h) for value in n]
    n, square = op.split_row(x)
    real = n * np.sqrt(op.constant / square) / 2.0**op.shift
    assert (np.abs(real - found) <= op.bound_deviation([x])).all()


def test_roots_at_the_ends_of_what_they_hold():
    values = [0, 1, 2, 3, 4, *(k * k + d for k in (7, 1 << 15, (1 << 31) - 1) for d in (-1, 0, 1)), 1 << 62]
    assert isqrt(np.array(values)).tolist() == [math.isqrt(value) for value in values]
    squares = [1, 1023, 1024, 4095, 4096, (1 << 60) - 1, 1 << 60]
    assert count_quarters(np.array(squares)).tolist() == [0, 0, 1, 1, 2, 25, 26]
    quotients = [0, 1, 3, 4, (1 << 60) - 1, 1 << 60, 1 << 62]
    assert fill_quarters(np.array(quotients)).tolist() == [30, 30, 30, 29, 1, 0, 0]


def test_a_product_of_matrices_and_its_range(rng):
    op = MatMul("y", ("a", "b"), "y", (3, -2), 5)
    edges = [Edge("a", (2, 4, 5), -8, 7), Edge("b", (2, 5, 3), 0, 15)]
    ones = (1, 1, 1)
    ranges = [(np.full(ones, edge.lo), np.full(ones, edge.hi)) for edge in edges]
    shape, (low, high) = op.infer(edges, ranges)
    a, b = (rng.integers(edge.lo, edge.hi + 1, (50, *edge.shape)) for edge in edges)
    found = op.execute([a, b], edges)
    assert shape == (2, 4, 3) and np.array_equal(found, np.einsum("nhij,nhjk->nhik", a - 3, b + 2))
    a[0], b[0] = -8, 15
    a[1], b[1] = 7, 15
    ends = op.execute([a, b], edges)
    assert (low.min(), high.max()) == (ends[0].min(), ends[1].max()) == (5 * -11 * 17, 5 * 4 * 17)


def _attention(mask=None, soft=None) -> Model:
    """A head of four places on a tensor of levels: softmax(x @ x) @ x."""
    m = Model((1, 4, 4)).quant(0.25, 4)
    x = m.tensor
    m.node("MatMul", x, name="qk").quant(0.5, 8)
    if mask is not None:
        m.node("Add", m.constant(mask), name="mask")
    return (
        (soft or (lambda m: m.node("Softmax", axis=-1, name="p")))(m)
        .quant(1 / 255, 8, signed=0)
        .node("MatMul", x, name="pv")
    )


def _spelled_softmax(m: Model) -> Model:
    x = m.tensor
    largest = m.node("ReduceMax", axes=[-1], keepdims=1).tensor
    e = m.node("Sub", largest, source=x).node("Exp").tensor
    total = m.node("ReduceSum", m.constant([-1], np.int64), keepdims=1).tensor
    return m.node("Div", total, source=e, name="p")


CAUSAL = np.where(np.tril(np.ones((4, 4))), 0, -np.inf).astype(np.float32)


@pytest.mark.parametrize("mask", [None, CAUSAL, CAUSAL.clip(-1e9)], ids=["none", "infinite", "finite"])
@pytest.mark.parametrize("soft", [None, _spelled_softmax], ids=["node", "spelled"])
def test_attention_lowers(rng, tmp_path, mask, soft):
    m = _attention(mask, soft).quant(0.25, 4)
    lowered = lower_file(m.save(tmp_path / "m.onnx"))
    assert [op.kind for op in lowered.graph.ops] == ["Input", "MatMul", "Requantise", "Softmax", "MatMul", "Requantise"]
    (op,) = (op for op in lowered.graph.ops if isinstance(op, Softmax))
    assert (op.mask is None) == (mask is None) and (op.unit, op.per, op.most) == (255, 1, 255)
    _compare_with_qonnx(lowered, tmp_path / "m.onnx", rng.normal(0, 1, (40, 4, 4)).astype(np.float32))


def _compare_with_qonnx(lowered, path, x) -> dict:
    """Every integer of the graph: qonnx's, or a difference that the definitions and float32 explain; the saved form
    gives the same integers."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    verify_graph(lowered.graph)
    ints = run_prologue(lowered, x)
    ours = run_graph(lowered.graph, ints, keep=[op.output for op in lowered.graph.ops])
    observed = qonnx_integers(lowered, path, x, lambda *_: None)
    assert lowered.trace.defined <= observed.keys()
    differences = explain(lowered.graph, lowered.trace, observed)
    assert all(one.proven_tie for one in differences), differences[:3]
    assert len(differences) < 0.01 * sum(values.size for values in observed.values())
    model = ModelWrapper(to_qonnx(lowered.graph))
    for k in (0, 7):
        feeds = {edge: values[k : k + 1] for edge, values in ints.items()}
        kind = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
        feeds = {e: v.astype(np.float64 if kind[e] == 11 else np.float32) for e, v in feeds.items()}
        context = execute_onnx(model, feeds, return_full_exec_context=True)
        for edge, values in ours.items():
            assert np.array_equal(context[edge], values[k : k + 1]), f"{edge} differs in the saved form"
    return observed


def test_a_wrong_level_of_a_softmax_is_no_tie(rng, tmp_path):
    m = _attention().quant(0.25, 4)
    lowered = lower_file(m.save(tmp_path / "m.onnx"))
    x = rng.normal(0, 1, (10, 4, 4)).astype(np.float32)
    observed = qonnx_integers(lowered, tmp_path / "m.onnx", x, lambda *_: None)
    (edge,) = lowered.trace.defined
    observed[edge] = observed[edge] + 2 * (observed[edge] == observed[edge].max())
    wrong = [one for one in explain(lowered.graph, lowered.trace, observed) if not one.proven_tie]
    assert wrong and {one.layer for one in wrong} >= {edge}


def _spell_norm(m: Model, kind: str, mean_first: bool) -> Model:
    """The norm node by node, as exporters and hand-written modules have it."""
    x = m.tensor
    if kind == "layer":
        mean = m.node("ReduceMean", axes=[-1], keepdims=1).tensor
        x = m.node("Sub", mean, source=x).tensor
    squares = m.node("Pow", m.constant(2.0), source=x) if mean_first else m.node("Mul", x, source=x)
    root = squares.node("ReduceMean", axes=[-1], keepdims=1).node("Add", m.constant(1e-5)).node("Sqrt").tensor
    if mean_first:
        return m.node("Div", root, source=x, name="norm")
    inverse = m.node("Reciprocal", source=root).tensor
    return m.node("Mul", inverse, source=x, name="norm")


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_a_norm_spelled_out(rng, tmp_path, kind, first):
    m = _spell_norm(Model((1, 3, 8)).quant(0.05, 8), kind, first)
    m.node("Mul", m.constant(np.linspace(0.5, 1.5, 8).astype(np.float32))).quant(0.03, 8).dense(8, 3)
    lowered = lower_file(m.save(tmp_path / "m.onnx"))
    assert [op.kind for op in lowered.graph.ops] == ["Input", "Normalise", "Requantise", "Dense"]
    assert lowered.graph.ops[1].norm == kind
    _compare_with_qonnx(lowered, tmp_path / "m.onnx", rng.normal(0, 2, (40, 3, 8)).astype(np.float32))


def test_a_square_that_others_read_stays_what_it_is(tmp_path):
    """Its mean is an average of squares then, which no norm hides."""
    m = Model((1, 3, 8)).quant(0.05, 8)
    _spell_norm(m, "rms", True)
    squares = m.nodes[1].output[0]
    m.node("Add", squares).quant(0.03, 8).dense(8, 3)
    with pytest.raises(UnsupportedError, match="Sqrt"):
        lower_file(m.save(tmp_path / "m.onnx"))


def test_an_attention_with_the_sequence_first(rng, tmp_path):
    """The batch moves behind the sequence and is merged with the heads: (L, 1, D) → (L, heads, d) → (heads, L, d)."""
    m = Model((1, 6, 8)).quant(0.25, 4)
    x = m.node("Transpose", perm=[1, 0, 2]).tensor
    m.node("Reshape", m.constant([6, 2, 4], np.int64))
    heads = m.node("Transpose", perm=[1, 0, 2]).tensor
    m.node("Transpose", source=heads, perm=[0, 2, 1])
    m.node("MatMul", m.tensor, source=heads).quant(0.5, 8)
    m.node("Softmax", axis=2).quant(1 / 255, 8, signed=0).node("MatMul", heads).quant(0.25, 4)
    m.node("Transpose", perm=[1, 0, 2]).node("Reshape", m.constant([6, 1, 8], np.int64))
    m.node("Concat", x, axis=2).node("Transpose", perm=[1, 0, 2]).dense(16, 3).quant(0.5, 8)
    lowered = lower_file(m.save(tmp_path / "m.onnx"))
    _compare_with_qonnx(lowered, tmp_path / "m.onnx", rng.normal(0, 1, (20, 6, 8)).astype(np.float32))


@pytest.mark.parametrize(
    "build, said",
    [
        (lambda: _attention(np.full((4, 4), -np.inf, np.float32)), "a row of its mask that leaves nothing"),
        (lambda: _attention(CAUSAL, lambda m: m.node("Relu").node("Softmax")), "Relu of logits that a mask has left"),
        (
            lambda: (
                (m := Model((1, 4, 4)).quant(np.full((1, 1, 4), 0.5) * [1, 2, 3, 4])).node("MatMul", m.tensor).quant()
            ),
            "products of activations and rows have one scale",
        ),
        (
            lambda: (m := Model((1, 4, 4)).quant()).node("MatMul", m.tensor).node("MatMul", m.tensor).quant(),
            "",
        ),
    ],
)
def test_refusals(tmp_path, build, said):
    path = build().save(tmp_path / "m.onnx")
    if not said:
        lower_file(path)  # an accumulator is a factor as well, as long as no sum leaves its 47 bits
        return
    with pytest.raises(UnsupportedError, match=said):
        lower_file(path)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in ("layer-gelu",))) for n in BLOCKS]
)
def test_blocks_of_brevitas(tmp_path, name):
    """Nine of ten kinds of blocks lower; each integer is qonnx's, or explained."""
    x = export_block(name, tmp_path / "m.onnx")
    lowered = lower_file(tmp_path / "m.onnx")
    _compare_with_qonnx(lowered, tmp_path / "m.onnx", x)


def test_a_packed_projection_is_named_with_its_cure(tmp_path):
    from greenedge.errors import GreenedgeError
    from greenedge.frontends.brevitas import export_model
    from tests.lower.transformers import make_block

    network, x = make_block("packed")
    with pytest.raises(GreenedgeError, match=r"packed projection of m; make it with .*packed_in_proj=False"):
        export_model(network, x, tmp_path / "m.onnx")
