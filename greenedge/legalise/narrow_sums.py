"""Sums of two branches whose scales are in no small ratio, with shorter multipliers.

A model that adds branches of different scales becomes Add(p, r; a, b) with p/r the exact ratio of two floats, 24 bits
each. The quantisers behind it look at the sum only through their thresholds, so other multipliers do as well, as long
as no threshold has a pair (a, b) on its wrong side:

    step(p*a + r*b) = step'(m1*a + m2*b)  for all a, b  iff  for every threshold T of step
        max over {p*a + r*b < T} of m1*a + m2*b  <  min over {p*a + r*b >= T} of m1*a + m2*b

Both sides run along the staircase of T, one pair for each b, so a candidate is decided exactly with as many values as
there are thresholds times values of b. Candidates are the best rational approximations of p/r, shortest first; the
last is p/r itself, so one is always right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from greenedge.graph import Add, Affine, Edge, Graph, Op, Requantise, Steps, freeze
from greenedge.graph.affine import fit_affine_between
from greenedge.graph.ops.base import Ints

T = TypeVar("T")

_NEVER_BELOW, _NEVER_REACHED = np.iinfo(np.int64).min, np.iinfo(np.int64).max  # where there is no such pair
SHORT = 256  # multipliers up to this are left as they are
MOST_PAIRS = 1 << 20  # thresholds times values of the shorter branch that are looked at for a candidate
AFFINE_TRIES = 8  # further candidates looked at for one with an affine form
_STEPS = 8  # approximations between one convergent and the next


def narrow_sums(graph: Graph) -> Graph:
    """Requantise(Add(p, r; a, b)) → Requantise'(Add(m1, m2; a, b)) with short m1, m2, where quantisers alone read the
    sum."""
    for add in [op for op in graph.ops if isinstance(op, Add)]:
        readers = _find_quantisers(graph, add)
        if readers and len(add.inputs) == 2 and max(map(abs, add.multipliers)) > SHORT:
            graph = _narrow(graph, add, readers)
    return graph


def _find_quantisers(graph: Graph, add: Add) -> list[tuple[Requantise, Steps]]:
    """The readers of the sum where all of them count thresholds from below; none otherwise."""
    readers = graph.consumers(add.output)
    steps = [
        (op, op.forms) for op in readers if isinstance(op, Requantise) and isinstance(op.forms, Steps) and op.steps
    ]
    is_read_by_others = add.output in graph.outputs or len(steps) < len(readers)
    return [] if is_read_by_others or not all(form.rises for _, form in steps) else steps


def _narrow(graph: Graph, add: Add, readers: Sequence[tuple[Requantise, Steps]]) -> Graph:
    """The graph with the shortest multipliers with which every reader keeps its levels; an affine form counts for
    more than a few bits."""
    first, second = graph.input_edges(add)
    p, r = add.multipliers
    cuts = [Cuts(first, second, add.multipliers, form.thresholds) for _, form in readers]
    if max(cut.pairs for cut in cuts) > MOST_PAIRS:
        return graph
    spans = [
        span_levels(op, graph.edges[op.output], *cut.bound((p, r))) for (op, _), cut in zip(readers, cuts, strict=True)
    ]
    if any(low >= high for low, high in spans):  # nothing is rounded, or so little that it is not worth a thought
        return graph
    best: list[Requantise] | None = None
    chosen, left = (p, r), AFFINE_TRIES
    for multipliers in approximate_ratio(p, r):
        bounds = [cut.bound(multipliers) for cut in cuts]
        if any((below >= above).any() for below, above in bounds):
            continue
        total = sum_edge(graph.edges[add.output], (first, second), multipliers)
        steps = [
            fit_steps(op, span, *find_reach(op, form, *_ends(op, total), *ends), *ends)
            for (op, form), span, ends in zip(readers, spans, bounds, strict=True)
        ]
        is_affine = all(step.affine is not None for step in steps)
        if best is None or is_affine:
            best, chosen = steps, multipliers
        left -= 1
        if is_affine or not left:
            break
    if best is None or chosen == (p, r):
        return graph
    return _replace(graph, add, chosen, best)


def _replace(graph: Graph, add: Add, multipliers: tuple[int, int], steps: Sequence[Requantise]) -> Graph:
    first, second = graph.input_edges(add)
    changed: dict[str, Op] = {step.output: step for step in steps}
    changed[add.output] = dataclasses.replace(add, multipliers=multipliers)
    edges = graph.edges | {add.output: sum_edge(graph.edges[add.output], (first, second), multipliers)}
    return dataclasses.replace(graph, ops=tuple(changed.get(op.output, op) for op in graph.ops), edges=edges)


class Cuts:
    """For every threshold and every value of the shorter branch, the first value of the other that reaches it."""

    def __init__(self, first: Edge, second: Edge, multipliers: Sequence[int], thresholds: Ints) -> None:
        self._long = int(first.levels < second.levels)  # which of the two takes more values
        (long, short), (p, r) = self._order((first, second)), self._order(multipliers)
        self._sign = -1 if p < 0 else 1  # the long branch is counted upwards
        low, high = sorted((self._sign * long.lo, self._sign * long.hi))
        self.pairs = thresholds.size * short.levels
        if self.pairs > MOST_PAIRS:
            return
        self._short = np.arange(short.lo, short.hi + 1)
        reach = -((r * self._short - thresholds[..., None]) // abs(p))  # ceil((T - r*b) / |p|)
        self._reach = np.clip(reach, low, high + 1)
        self._ends = low, high

    def _order(self, pair: Sequence[T]) -> tuple[T, T]:
        """(that of the longer branch, that of the shorter one)."""
        return pair[self._long], pair[1 - self._long]

    def bound(self, multipliers: tuple[int, int]) -> tuple[Ints, Ints]:
        """(C, L) largest m1*a + m2*b below each threshold and the smallest at or above it; far outside where there is
        none."""
        m_long, m_short = self._order(multipliers)
        rest = m_short * self._short
        at = self._sign * m_long * self._reach + rest
        before = at - self._sign * m_long
        low, high = self._ends
        above = np.where(self._reach <= high, at, _NEVER_REACHED).min(axis=-1)
        below = np.where(self._reach > low, before, _NEVER_BELOW).max(axis=-1)
        return below, above


def approximate_ratio(p: int, r: int) -> Iterator[tuple[int, int]]:
    """Ever better (m1, m2) with m1/m2 near p/r and their signs, up to p/r itself: convergents of the continued
    fraction, and some of the fractions between one and the next."""
    signs = (-1 if p < 0 else 1), (-1 if r < 0 else 1)
    a, b = abs(p), abs(r)
    (n0, d0), (n1, d1) = (0, 1), (1, 0)
    while b:
        whole, rest = divmod(a, b)
        places = sorted({max(1, whole * k // _STEPS) for k in range(_STEPS // 2, _STEPS)} | {whole}) if whole else [0]
        for k in places:
            n, d = n0 + k * n1, d0 + k * d1
            if n and d:
                yield signs[0] * n, signs[1] * d
        (n0, d0), (n1, d1) = (n1, d1), (n0 + whole * n1, d0 + whole * d1)
        a, b = b, rest


def sum_edge(edge: Edge, branches: Sequence[Edge], multipliers: Sequence[int]) -> Edge:
    """The edge of the sum with the range that these multipliers give it."""
    ends = [sorted((m * branch.lo, m * branch.hi)) for m, branch in zip(multipliers, branches, strict=True)]
    return dataclasses.replace(edge, lo=sum(low for low, _ in ends), hi=sum(high for _, high in ends))


def span_levels(op: Requantise, result: Edge, below: Ints, above: Ints) -> tuple[int, int]:
    """The lowest and highest level that some pair has and that the edge's proved range, which may come from ranges per
    channel, allows. A ReLU is the clamp of the affine form then."""
    lo = op.lo + int((below == _NEVER_BELOW).sum(axis=1).min())
    hi = op.lo + int((above < _NEVER_REACHED).sum(axis=1).max())
    return max(lo, result.lo), min(hi, result.hi)


def _ends(op: Requantise, total: Edge) -> tuple[Ints, Ints]:
    """(C,) ends of what the quantiser reads from the sum."""
    return np.full(op.channels, total.lo), np.full(op.channels, total.hi)


def fit_steps(op: Requantise, span: tuple[int, int], low: Ints, high: Ints, below: Ints, above: Ints) -> Requantise:
    """The quantiser of the levels in `span` with thresholds between `below` and `above` (C, L) on the new sum, which
    lies in `low` … `high` (C,): those of an affine form where one passes between them all, otherwise the first sums
    that reach each level."""
    lo, hi = span
    inside = slice(lo - op.lo, hi - op.lo)
    below, above, op = below[:, inside], above[:, inside], dataclasses.replace(op, lo=lo, hi=hi)
    affine = fit_affine_between(below, above, op.lo)
    clipped = np.clip(above, low[:, None], high[:, None] + 1)
    thresholds = clipped if affine is None else _thresholds_of(affine, op, low, high)
    forms = Steps(freeze(np.ones(len(below), np.int64)), freeze(thresholds), affine)
    return dataclasses.replace(op, forms=forms, x_lo=freeze(low), x_hi=freeze(high))


def find_reach(op: Requantise, form: Steps, low: Ints, high: Ints, below: Ints, above: Ints) -> tuple[Ints, Ints]:
    """(C,) lowest and highest new sums, within `low` … `high` (C,), of the levels that each channel of `op` was proved
    to give: what comes behind may rely on that proof."""
    first, last = (form.count(op.lo, reach)[:, None] - op.lo for reach in (op.x_lo, op.x_hi))
    least = np.take_along_axis(np.hstack([low[:, None], above]), first, axis=1)[:, 0]
    most = np.take_along_axis(np.hstack([below, high[:, None]]), last, axis=1)[:, 0]
    least = np.clip(least, low, high)
    return least, np.clip(most, least, high)


def _thresholds_of(affine: Affine, op: Requantise, low: Ints, high: Ints) -> Ints:
    """(C, L) smallest x in low … high + 1 with (m*x + b) >> s at least each level."""
    levels = np.arange(op.lo + 1, op.hi + 1).astype(object)
    m, b, s = (part.astype(object)[:, None] for part in (affine.m, affine.b, affine.s))
    rising = np.maximum(m, 1)
    first = -((b - levels * 2**s) // rising)  # ceil((level*2**s - b) / m)
    first = np.where(m > 0, first, np.where(b >> s >= levels, low[:, None], high[:, None] + 1))
    return np.clip(first, low[:, None], high[:, None] + 1).astype(np.int64)
