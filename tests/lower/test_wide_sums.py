"""A branch without a quantiser of its own, added to levels: whole multipliers that only a quantiser may read."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from greenedge.errors import ReasonKind, Refused, UnsupportedError
from greenedge.graph import Add, ChannelAdd, Dense, Requantise, run_graph
from greenedge.legalise.narrow_channel_sums import narrow_channel_sums
from greenedge.legalise.narrow_sums import narrow_sums
from greenedge.lower import lower_file, wide_sum
from greenedge.lower.builder import Builder
from greenedge.lower.float_ties.explain import explain
from tests.lower.models import Model
from tests.lower.test_oracle import compare_graph

BATCH_NORM = ("gamma", "beta", "mean", "variance")


def write_sum(path, rng, per_channel=False, norm=False, op="Add", bits=4, behind=(), levels=4, swap=False):
    """x → layer [→ BatchNorm], and x → layer → levels; their sum [→ behind] → levels."""
    m = Model((1, 6)).quant(0.05, bits, signed=0)
    start, steps = m.tensor, rng.uniform(0.1, 0.3, (1, 5) if per_channel else ()).astype(np.float32)
    m.node("MatMul", m.weight(rng.integers(-7, 8, (6, 5)) * 0.25, 0.25)).quant(0.0371, bits)
    skip = m.tensor
    m.node("MatMul", m.weight(rng.integers(-7, 8, (6, 5)) * steps, steps), source=start)
    if norm:
        gamma, beta, mean = rng.uniform(-1.5, 1.5, 5), rng.normal(0, 0.2, 5), rng.normal(0, 0.2, 5)
        constants = [m.constant(part.astype(np.float32)) for part in (gamma, beta, mean, rng.uniform(0.3, 2, 5))]
        m.node("BatchNormalization", *constants)
    ends = (skip, m.tensor) if swap else (m.tensor, skip)
    m.node(op, ends[1], source=ends[0], name="sum")
    for name in behind:
        m.node(name)
    return (m.quant(0.1, levels) if levels else m).save(path)


@pytest.mark.parametrize("seed", range(9))
def test_the_sum_equals_exact_fractions(tmp_path, seed):
    rng = np.random.default_rng(seed)
    settings = {
        "per_channel": seed % 2 == 0,
        "norm": seed % 4 > 1,
        "op": "Sub" if seed in (3, 6, 8) else "Add",
        "bits": 7 if seed == 8 else 3 + seed % 3,
        "behind": {4: ("Neg",), 5: ("Relu",), 7: ("Relu", "Neg")}.get(seed, ()),
        "swap": seed in (2, 3, 7),
    }
    path = write_sum(tmp_path / "m.onnx", rng, **settings)
    lowered = lower_file(path)
    x = rng.uniform(-0.1, 0.05 * 2 ** settings["bits"], (64, 6)).astype(np.float32)
    compare_graph(lowered, onnx.load(path), x)
    edge, ends = lowered.graph.inputs[0], lowered.graph.edges[lowered.graph.inputs[0]]
    ints = {edge: rng.integers(ends.lo, ends.hi + 1, (400, 6))}
    short = narrow_channel_sums(narrow_sums(lowered.graph))
    (output,) = lowered.graph.outputs
    assert np.array_equal(run_graph(lowered.graph, ints)[output], run_graph(short, ints)[output])
    longest, shortest = (
        max(int(np.abs(op.multipliers).max()) for op in graph.ops if isinstance(op, (Add, ChannelAdd)))
        for graph in (lowered.graph, short)
    )
    assert shortest < 1 << 15 < longest


@pytest.mark.parametrize("swap", [False, True])
def test_what_float32_may_make_of_it_is_known(tmp_path, rng, swap):
    """The float error of both branches, in units of the sum: a level further on is none of its making."""
    lowered = lower_file(write_sum(tmp_path / "m.onnx", rng, per_channel=True, norm=True, swap=swap))
    graph = lowered.graph
    edges = [edge for edge in graph.edges if edge in lowered.trace.quantised or edge in graph.inputs]
    ints = {edge: rng.integers(0, 16, (200, 6)) for edge in graph.inputs}
    values = {**run_graph(graph, ints, keep=edges), **ints}
    assert not explain(graph, lowered.trace, values)
    (output,) = graph.outputs
    wrong = values[output] + np.where(values[output] == graph.edges[output].hi, -1, 1)
    found = explain(graph, lowered.trace, {**values, output: wrong})
    assert len(found) == wrong.size and sum(one.proven_tie for one in found) < wrong.size // 10


def test_a_threshold_lies_between_its_two_sides(tmp_path, rng):
    """Each is the least sum that reaches its level: one less belongs to a pair below, or to none."""
    path = write_sum(tmp_path / "m.onnx", rng, per_channel=True)
    graph = lower_file(path).graph
    (total,) = [op for op in graph.ops if isinstance(op, ChannelAdd)]
    (step,) = [op for op in graph.ops if isinstance(op, Requantise) and op.inputs == (total.output,)]
    a, b = (np.arange(edge.lo, edge.hi + 1) for edge in graph.input_edges(total))
    for c, row in enumerate(step.require_steps().thresholds):
        sums = total.multipliers[0, c] * a[:, None] + total.multipliers[1, c] * b[None, :]
        inside = row[(row > sums.min()) & (row <= sums.max())]
        assert len(inside) and np.isin(inside, sums).all()


@pytest.mark.parametrize(
    "behind, levels",
    [(("Relu",), None), ((), None), (("Neg", "Sin"), 4)],
    ids=["output", "plain-output", "not-monotone"],
)
def test_only_a_quantiser_may_read_it(tmp_path, rng, behind, levels):
    path = write_sum(tmp_path / "m.onnx", rng, norm=True, behind=behind, levels=levels)
    with pytest.raises(UnsupportedError) as caught:
        lower_file(path)
    assert any("its input is not quantised" in str(reason) or reason.node for reason in caught.value.reasons)


def begin_sum(rng):
    """x → layer → BatchNorm, and x → layer → levels; their sum of six numbers, by the name "sum"."""
    m = Model((1, 6)).quant(0.05, 4, signed=0)
    start = m.tensor
    m.node("MatMul", m.weight(rng.integers(-7, 8, (6, 6)) * 0.25, 0.25)).quant(0.0371, 4)
    skip = m.tensor
    scale = np.float32(0.1234567)
    m.node("MatMul", m.weight(rng.integers(-7, 8, (6, 6)) * scale, scale), source=start)
    m.node("BatchNormalization", *(m.constant(np.full(6, v, np.float32)) for v in (1.1, 0.1, 0.2, 0.7)))
    return m.node("Add", skip, name="sum")


def test_another_layer_behind_it_is_refused_as_before(tmp_path, rng):
    m = begin_sum(rng)
    m.node("MatMul", m.weight(rng.integers(-7, 8, (6, 3)) * 0.5), name="next")
    with pytest.raises(UnsupportedError, match="its input is not quantised.*greenedge requantise"):
        lower_file(m.quant(0.1, 4).save(tmp_path / "m.onnx"))


@pytest.mark.parametrize("op, words", [("Reshape", ([1, 3, 2],)), ("Slice", ([0], [3], [1]))])
def test_what_only_moves_its_integers_is_refused(tmp_path, rng, op, words):
    """Its thresholds are those of the sum itself; behind a view nobody would know of which channel."""
    m = begin_sum(rng)
    m.node(op, *(m.constant(np.array(word), np.int64) for word in words))
    with pytest.raises(UnsupportedError, match="sum: its input is not quantised"):
        lower_file(m.quant(0.1, 4).save(tmp_path / "m.onnx"))


def test_multipliers_that_cannot_keep_the_sides_apart_are_refused(tmp_path, rng, monkeypatch):
    """Too short ones: the reason is that of the exact sum."""
    path = write_sum(tmp_path / "m.onnx", rng, per_channel=True, bits=6, levels=8)
    assert lower_file(path).graph.outputs
    monkeypatch.setattr(wide_sum, "_ROOM", 1 << 12)
    with pytest.raises(UnsupportedError, match=r"accumulators must stay below 2\*\*47.*greenedge requantise"):
        lower_file(path)


def test_short_multipliers_are_refused_or_exact(tmp_path, rng, monkeypatch):
    """One sum on both sides of a boundary has no threshold."""
    path = write_sum(tmp_path / "m.onnx", rng, per_channel=True, levels=6)
    exact, found = lower_file(path).graph, []
    ints = {edge: rng.integers(exact.edges[edge].lo, exact.edges[edge].hi + 1, (3000, 6)) for edge in exact.inputs}
    for bits in range(6, 24):
        monkeypatch.setattr(wide_sum, "_ROOM", 1 << bits)
        try:
            graph = lower_file(path).graph
        except UnsupportedError:
            continue
        found.append(bits)
        assert np.array_equal(*(run_graph(one, ints)[one.outputs[0]] for one in (exact, graph))), bits
    assert found and min(found) > 6


@pytest.mark.parametrize("skip_first", [True, False])
def test_a_rectified_branch_becomes_levels_before_it_is_added(tmp_path, rng, skip_first):
    """As in most residual networks; nothing is left of it that nobody reads."""
    m = Model((1, 6)).quant(0.05, 4, signed=0)
    start = m.tensor
    m.node("MatMul", m.weight(rng.integers(-7, 8, (6, 5)) * 0.25, 0.25)).quant(0.0371, 4).node("Relu")
    skip = m.tensor
    m.node("MatMul", m.weight(rng.integers(-7, 8, (6, 5)) * 0.25, 0.25), source=start)
    m.node("BatchNormalization", *(m.constant(np.full(5, v, np.float32)) for v in (1.1, 0.1, 0.2, 0.7)))
    ends = (skip, m.tensor) if skip_first else (m.tensor, skip)
    path = m.node("Add", ends[1], source=ends[0]).node("Relu").quant(0.1, 4, signed=0).save(tmp_path / "m.onnx")
    lowered = lower_file(path)
    compare_graph(lowered, onnx.load(path), rng.uniform(-0.1, 0.9, (200, 6)).astype(np.float32))
    read = {edge for op in lowered.graph.ops for edge in op.inputs}
    assert all(op.output in read or op.output in lowered.graph.outputs for op in lowered.graph.ops)


def test_a_ratio_beyond_64_bits_is_a_sentence_or_a_wide_sum(tmp_path, rng):
    """Scales whose ratio has a numerator of more than 63 bits."""
    m = Model((1, 6)).quant(0.05, 4, signed=0)
    start = m.tensor
    m.node("MatMul", m.weight(rng.integers(-7, 8, (6, 5)) * np.float32(0.2371), np.float32(0.2371)))
    m.quant(np.float32(1e-12) / 3, 4)
    skip = m.tensor
    m.node("MatMul", m.weight(rng.integers(-7, 8, (6, 5)) * 0.25, 0.25), source=start).quant(np.float32(7e9) / 3, 4)
    m.node("Add", skip, source=m.tensor)
    with pytest.raises(UnsupportedError, match=r"2\*\*47"):
        lower_file(m.save(tmp_path / "m.onnx"))


def test_a_layer_whose_sums_would_wrap_is_refused():
    """2**40 times 2**24 is 2**64, which is 0 in 64 bits."""
    builder = Builder("m")
    edge = builder.input("x", (4,), -(1 << 40), 1 << 40)
    with pytest.raises(Refused) as caught:
        builder.emit(Dense("d", (edge,), "d", np.full((4, 1), 1 << 24)))
    assert caught.value.kind is ReasonKind.TOO_WIDE and "2**47" in caught.value.rule
