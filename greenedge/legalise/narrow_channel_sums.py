"""Sums of two branches whose ratio of scales differs by channel, with shorter multipliers: `narrow_sums` channel by
channel.

    step_c(p_c*a + r_c*b) = step'_c(m1_c*a + m2_c*b)  for all a, b and every channel c

Every channel is a sum of its own there. One step function for all channels becomes one for each, also where the
multipliers stay: what back ends see behind such a sum always runs along its axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.graph import Affine, ChannelAdd, Edge, Graph, Op, Requantise, Steps, freeze
from greenedge.graph.affine import find_affine_between
from greenedge.graph.ops.base import Ints
from greenedge.legalise.narrow_sums import (
    AFFINE_TRIES,
    MOST_PAIRS,
    SHORT,
    Cuts,
    approximate_ratio,
    find_reach,
    fit_steps,
    span_levels,
    sum_edge,
)


def narrow_channel_sums(graph: Graph) -> Graph:
    """Requantise(ChannelAdd(p, r; a, b)) → Requantise'(ChannelAdd(m1, m2; a, b)) with short m1, m2, where quantisers
    alone read the sum."""
    for add in [op for op in graph.ops if isinstance(op, ChannelAdd)]:
        graph = spread_steps(graph, add)
        readers = graph.consumers(add.output)
        steps = [op for op in readers if isinstance(op, Requantise) and op.steps is not None and op.axis == add.axis]
        is_alone = add.output not in graph.outputs and len(steps) == len(readers) > 0
        if is_alone and len(add.inputs) == 2 and int(np.abs(add.multipliers).max()) > SHORT:
            graph = _narrow(graph, add, [(op, op.require_steps()) for op in steps])
    return graph


def spread_steps(graph: Graph, add: ChannelAdd) -> Graph:
    """The graph in which every quantiser that reads the sum has a step function for each of its channels."""
    ops = [
        spread_step(op, add) if isinstance(op, Requantise) and op.inputs[0] == add.output else op for op in graph.ops
    ]
    return graph if all(one is other for one, other in zip(ops, graph.ops, strict=True)) else graph.replace_ops(ops)


def spread_step(step: Requantise, add: ChannelAdd) -> Requantise:
    """One step function for all as one for each channel of the sum; another as it is."""
    if step.channels > 1 or step.steps is None:
        return step
    count = add.channels

    def repeat(rows: Ints) -> Ints:
        return freeze(np.repeat(rows, count, axis=0))

    steps = step.steps
    affine = steps.affine and Affine(repeat(steps.affine.m), repeat(steps.affine.b), repeat(steps.affine.s))
    forms = Steps(repeat(steps.sign), repeat(steps.thresholds), affine)
    return dataclasses.replace(step, axis=add.axis, forms=forms, x_lo=repeat(step.x_lo), x_hi=repeat(step.x_hi))


@dataclass
class _Channel:
    """One channel's sum: its candidates, and what is the best so far for every reader."""

    candidates: Iterator[tuple[int, int]]
    cuts: Sequence[Cuts]
    chosen: tuple[int, int]
    bounds: Sequence[tuple[Ints, Ints]]
    left: int = AFFINE_TRIES
    is_affine: bool = False

    def find_next(self) -> tuple[tuple[int, int], list[tuple[Ints, Ints]]] | None:
        """The next candidate with which no threshold has a pair on its wrong side, and its (below, above) for every
        reader; None where there is none, or enough have been looked at."""
        for multipliers in self.candidates:
            bounds = [cut.bound(multipliers) for cut in self.cuts]
            if any((below >= above).any() for below, above in bounds):
                continue
            self.left -= 1
            return multipliers, bounds
        return None


def _narrow(graph: Graph, add: ChannelAdd, readers: Sequence[tuple[Requantise, Steps]]) -> Graph:
    """The graph with the shortest multipliers of each channel with which every reader keeps its levels; an affine form
    counts for more than a few bits."""
    first, second = graph.input_edges(add)
    if not all(form.rises for _, form in readers) or _count_pairs(readers, first, second) > MOST_PAIRS:
        return graph
    channels = [_start(add, c, readers, first, second) for c in range(add.channels)]
    spans = [
        span_levels(op, graph.edges[op.output], *_stack([one.bounds[k] for one in channels]))
        for k, (op, _) in enumerate(readers)
    ]
    if any(low >= high for low, high in spans):  # nothing is rounded, or so little that it is not worth a thought
        return graph
    _search(channels, [op for op, _ in readers], spans)
    factors = np.array([one.chosen for one in channels], np.int64).T
    if np.array_equal(factors, add.multipliers):
        return graph
    new = dataclasses.replace(add, multipliers=freeze(factors))
    ends = [sum_edge(graph.edges[add.output], (first, second), one.chosen) for one in channels]
    lows, highs = (freeze([getattr(edge, end) for edge in ends]) for end in ("lo", "hi"))
    edge = dataclasses.replace(ends[0], lo=int(lows.min()), hi=int(highs.max()))
    changed: dict[str, Op] = {add.output: new}
    for k, (op, form) in enumerate(readers):
        below, above = _stack([one.bounds[k] for one in channels])
        reach = find_reach(op, form, lows, highs, below, above)
        changed[op.output] = fit_steps(op, spans[k], *reach, below, above)
    ops = tuple(changed.get(op.output, op) for op in graph.ops)
    return dataclasses.replace(graph, ops=ops, edges=graph.edges | {add.output: edge})


def _count_pairs(readers: Sequence[tuple[Requantise, Steps]], first: Edge, second: Edge) -> int:
    """The most thresholds of one channel, times values of the shorter branch."""
    steps = max(int(form.thresholds.shape[1]) for _, form in readers)
    return steps * min(first.levels, second.levels)


def _start(add: ChannelAdd, c: int, readers: Sequence[tuple[Requantise, Steps]], first: Edge, second: Edge) -> _Channel:
    exact = int(add.multipliers[0, c]), int(add.multipliers[1, c])
    cuts = [Cuts(first, second, exact, form.thresholds[c : c + 1]) for _, form in readers]
    return _Channel(approximate_ratio(*exact), cuts, exact, [cut.bound(exact) for cut in cuts])


def _search(channels: Sequence[_Channel], steps: Sequence[Requantise], spans: Sequence[tuple[int, int]]) -> None:
    """Sets the multipliers of every channel: the first candidate, or the first with an affine form. The affine forms of
    all channels that are still open are looked for together."""
    is_first = True
    while rows := [one for one in channels if not one.is_affine and one.left]:
        tried = [(one, found) for one in rows if (found := one.find_next()) is not None]
        for one in rows:
            one.left = one.left if any(one is other for other, _ in tried) else 0
        if not tried:
            return
        fits = np.ones(len(tried), bool)
        for k, (step, span) in enumerate(zip(steps, spans, strict=True)):
            below, above = _stack([found[1][k] for _, found in tried])
            inside = slice(span[0] - step.lo, span[1] - step.lo)
            fits &= find_affine_between(below[:, inside], above[:, inside], span[0])
        for (one, (multipliers, bounds)), fit in zip(tried, fits.tolist(), strict=True):
            if is_first or fit:
                one.chosen, one.bounds = multipliers, bounds
            one.is_affine = fit
        is_first = False


def _stack(bounds: Sequence[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """(C, L) of the bounds of one channel each."""
    below, above = (np.concatenate(parts) for parts in zip(*bounds, strict=True))
    return below, above
