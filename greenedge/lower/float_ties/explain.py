"""Where a float32 execution may differ from the integer graph: only where its own rounding decides.

A difference is *proven* a float32 tie when, on the float execution's own upstream integers, the real value lies within
the float32 rounding error bound of every rounding boundary between the two levels. Anything else is a defect.

The bound is derived, not tuned: a dot product of n dequantised terms in any order errs by at most gamma(n + 2) times
the sum of the terms' magnitudes (n - 1 additions, one product, one rounding for each dequantised factor; Higham, §3.1),
with gamma(k) = k*u / (1 - k*u) and u = 2**-24; from there the running bound of `expr.approximate` with the same u takes
over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from greenedge.graph import ArgMax, Graph, Op, Requantise
from greenedge.graph.ops.base import Array, Floats, Ints, Range
from greenedge.lower.builder import Quantised, Trace
from greenedge.lower.expr import U32
from greenedge.lower.prologue_epilogue import require_dequantiser


@dataclass(frozen=True)
class Difference:
    """One integer that a float execution rounded otherwise, and the integers among which float32 rounding decides
    there."""

    sample: int
    layer: str
    index: tuple[int, ...]
    expected: int
    got: int
    lowest: int
    highest: int

    @property
    def proven_tie(self) -> bool:
        """Whether float32 may round to either integer."""
        return all(self.lowest <= level <= self.highest for level in (self.expected, self.got))


def explain(graph: Graph, trace: Trace, observed: Mapping[str, Array]) -> list[Difference]:
    """Every element at which the float execution's integers `observed` (by edge, batch first) differ from the graph's.

    Each operation is applied to the float execution's own upstream integers, so one difference is never the echo of
    another.
    """
    values: dict[str, Array] = {}
    errors: dict[str, Array] = {}
    differences: list[Difference] = []
    requantisers = {op.output for op in graph.requantisers}
    for op in graph.ops:
        if not op.inputs:
            values[op.output] = observed[op.output]
            errors[op.output] = np.zeros(values[op.output].shape)
            continue
        values[op.output] = op.execute([values[e] for e in op.inputs], graph.input_edges(op))
        errors[op.output] = error_of(op, graph, trace, values, errors)
        if op.output in observed:
            differences += _differences(op, trace, values, errors, observed[op.output])
            if op.output in requantisers or op.output in trace.defined:
                values[op.output] = observed[op.output]
    return differences


def possible_levels(op: Op, trace: Trace, x: Ints, error: Floats) -> Range:
    """(lowest, highest) level that a float32 execution of the requantiser may give for each integer of x (batch
    first)."""
    return _levels_within(trace.quantised[op.output], x, error)


def find_possible(op: Op, trace: Trace, values: Mapping[str, Array], errors: Mapping[str, Array]) -> Range:
    """(lowest, highest) level that a float32 execution may give for an operation whose levels are the model's."""
    if op.output in trace.quantised:
        return possible_levels(op, trace, values[op.inputs[0]], errors[op.inputs[0]])
    return op.bound_levels([values[e] for e in op.inputs])


def _levels_within(quantised: Quantised, x: Ints, error: Floats) -> Range:
    """(lowest, highest) level of any real number that float32 may make of y(x), x known to within `error`."""
    y, bound = _evaluate(quantised, x, error)
    # One more rounding at most: a comparison, or the half that some rounding modes add.
    margin = bound + U32 * (np.abs(y) + 0.5)
    boundary, axis = np.asarray(quantised.levels.boundary), quantised.axis + 1
    below, above = _count_below(boundary, y - margin, axis, "left"), _count_below(boundary, y + margin, axis, "right")
    return quantised.levels.lo + below, quantised.levels.lo + above


def _evaluate(quantised: Quantised, x: Ints, error: Floats) -> tuple[Floats, Floats]:
    """(y, bound on what float32 makes of it) with the batch axis in front."""
    with np.errstate(all="ignore"):
        y, bound = quantised.y.approximate(x.astype(np.float64), U32, error)
    y, bound = np.broadcast_to(y, x.shape), np.broadcast_to(bound, x.shape)
    return np.nan_to_num(y), np.where(np.isfinite(y) & np.isfinite(bound), bound, np.inf)


def _count_below(boundary: Floats, y: Floats, axis: int, side: Literal["left", "right"]) -> Ints:
    """How many boundaries lie below each y ('right': or at it); boundary is (L,) or (C, L) along `axis` of y."""
    if boundary.ndim == 1 or len(boundary) == 1:
        counts: Ints = np.searchsorted(boundary.reshape(-1), y, side=side)
        return counts
    channels = np.moveaxis(y, axis, 0)
    rows = np.stack([np.searchsorted(row, part, side=side) for row, part in zip(boundary, channels, strict=True)])
    return np.moveaxis(rows, 0, axis)


def may_win(op: ArgMax, x: Ints, error: Floats, index: Ints) -> NDArray[np.bool_]:
    """Whether float32 may find the largest value of x (batch first, each known to `error`) at `index`.

    It finds another than the exact one only where the error decides: equal integers without an error are equal floats,
    of which every runtime takes the first.
    """
    axis = op.axis + 1
    inside = np.clip(index, 0, x.shape[axis] - 1)
    there, around = (np.take_along_axis(part, inside, axis) for part in (x, error))
    above = there + around - (x - error).max(axis=axis, keepdims=True)
    sharp = (error == 0).all(axis=axis, keepdims=True)
    may: NDArray[np.bool_] = (inside == index) & np.where(sharp, index == op.execute([x], None), above >= 0)
    return may


def _differences(
    op: Op, trace: Trace, values: Mapping[str, Array], errors: Mapping[str, Array], got: Ints
) -> list[Difference]:
    """Every element of the operation's output at which the float execution `got` another integer."""
    expected = values[op.output]
    where = np.argwhere(expected != got)
    if not len(where):
        return []
    # Which integers float32 may give depends on what the operation makes: an index, a level, or a sum. isinstance,
    # since each needs the operation's own record.
    if isinstance(op, ArgMax):
        either = may_win(op, values[op.inputs[0]], errors[op.inputs[0]], got)
        lowest, highest = (np.where(either, pick(expected, got), expected) for pick in (np.minimum, np.maximum))
    elif op.output in trace.defined:
        lowest, highest = op.bound_levels([values[e] for e in op.inputs])
    elif not isinstance(op, Requantise):  # an accumulator, read off a float by rounding to the nearest integer
        noise = np.floor(errors[op.output] + 0.5).astype(np.int64)
        lowest, highest = expected - noise, expected + noise
    elif op.output in trace.quantised:
        lowest, highest = possible_levels(op, trace, values[op.inputs[0]], errors[op.inputs[0]])
    else:
        lowest = highest = expected
    return [
        Difference(at[0], op.name, tuple(at[1:]), *(int(part[tuple(at)]) for part in (expected, got, lowest, highest)))
        for at in where.tolist()
    ]


# -- the error of a float execution ------------------------------------------------------------------------------------


def error_of(op: Op, graph: Graph, trace: Trace, values: Mapping[str, Array], errors: Mapping[str, Array]) -> Floats:
    """Bound on how far the float tensor behind op.output is from its integers, in units of them.

    A quantiser's output is exact: what dequantising it costs is counted where it is read.
    """
    if op.output in trace.quantised and op.output not in trace.births:
        # No quantiser of the model: float arithmetic whose exact values are whole numbers.
        return _evaluate(trace.quantised[op.output], values[op.inputs[0]], errors[op.inputs[0]])[1]
    if not op.inputs or op.output in trace.defined:
        return np.zeros(values[op.output].shape)
    if not op.accumulates:
        return op.execute_magnitudes([errors[e] for e in op.inputs]) + op.bound_deviation(
            [values[e] for e in op.inputs]
        )
    reads = [_read(trace, op, k, values[e], errors[e]) for k, e in enumerate(op.inputs)]
    magnitudes = [np.abs(real) for real, _ in reads]
    inherited = op.inherit_errors(magnitudes, [error for _, error in reads])
    size = op.execute_magnitudes(magnitudes)
    return inherited + _gamma(op.terms + 2) * (size + inherited)


def _read(trace: Trace, op: Op, k: int, x: Ints, error: Floats) -> tuple[Floats, Floats]:
    """(integers counted from real zero, their float32 error) of the k-th input of a sum, as the model's float tensor
    has them."""
    exprs = trace.reads.get(op.output)
    if exprs is None:
        return x.astype(np.float64), error + U32 * np.abs(x)
    value, bound = exprs[k].approximate(x.astype(np.float64), U32, error)
    slopes = trace.slopes.get(op.output)
    scale = np.abs(require_dequantiser(exprs[k])[0]) if slopes is None else slopes[k]
    return np.broadcast_to(value / scale, x.shape), np.broadcast_to(bound / scale, x.shape)


def _gamma(n: int) -> float:
    """gamma(n) = n*u / (1 - n*u)."""
    return n * U32 / (1 - n * U32)
