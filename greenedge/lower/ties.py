"""Why a float32 execution may differ from the integer graph: only where its own rounding decides.

A difference is *proven* a float32 tie when, on the float execution's own upstream integers, the real value lies within the
float32 rounding error bound of every rounding boundary between the two levels. Anything else is a defect.

The bound is derived, not tuned: a dot product of n dequantised terms in any order errs by at most gamma(n + 2) times the
sum of the terms' magnitudes (n - 1 additions, one product, one rounding for each dequantised factor; Higham, §3.1), with
gamma(k) = k*u / (1 - k*u) and u = 2**-24; from there the running bound of `expr.approximate` with the same u takes over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from greenedge.graph.execute import execute_op
from greenedge.graph.ops import Add, Conv, ConvTranspose, Dense, Graph, Input, Op, Pad, Requantise, SumPool
from greenedge.lower.builder import Trace
from greenedge.lower.ends import dequantiser
from greenedge.lower.expr import U32


@dataclass(frozen=True)
class Difference:
    """One integer that a float execution rounded otherwise: where, both levels, and how far from the boundary (in levels)."""

    sample: int
    layer: str
    index: tuple[int, ...]
    expected: int
    got: int
    distance: float
    bound: float

    @property
    def proven_tie(self) -> bool:
        return self.distance <= self.bound


def explain(graph: Graph, trace: Trace, given: Mapping[str, np.ndarray]) -> list[Difference]:
    """Every element at which the float execution's integers `given` (by edge, batch first) differ from the graph's step.

    Each requantiser is applied to the float execution's own upstream integers, so one difference is never the echo of
    another.
    """
    values: dict[str, np.ndarray] = {}
    errors: dict[str, np.ndarray] = {}
    found: list[Difference] = []
    for op in graph.ops:
        if isinstance(op, Input):
            values[op.output] = given[op.output]
        else:
            xs, edges = [values[e] for e in op.inputs], [graph.edges[e] for e in op.inputs]
            values[op.output] = execute_op(op, xs, edges)
        if isinstance(op, Requantise) and op.output in given:
            found += _differences(op, trace, values[op.inputs[0]], errors[op.inputs[0]], values[op.output], given[op.output])
            values[op.output] = given[op.output]
        errors[op.output] = _error(op, graph, trace, values, errors)
    return found


def near_boundary(graph: Graph, trace: Trace, values: Mapping[str, np.ndarray], errors, op: Requantise):
    """Indices at which a float32 execution of `op` might round otherwise, with the levels it might give."""
    y, bound = _evaluated(op, trace, values[op.inputs[0]], errors[op.inputs[0]])
    boundary = _boundaries(op, trace, y.ndim)
    gap = np.abs(y[..., None] - boundary)
    return [(tuple(int(i) for i in at[:-1]), op.lo + 1 + int(at[-1])) for at in np.argwhere(gap <= _margin(y, bound)[..., None])]


def _evaluated(op: Requantise, trace: Trace, x: np.ndarray, error: np.ndarray):
    """(y, float32 error bound) with the batch axis kept in front."""
    quantised = trace.quantised[op.output]
    y, bound = quantised.y.approximate(x.astype(np.float64), U32, error)
    return np.broadcast_to(y, x.shape), np.broadcast_to(bound, x.shape)


def _margin(y: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """The bound plus one more rounding: adding the zero point or comparing in float32."""
    return bound + U32 * np.abs(y)


def _boundaries(op: Requantise, trace: Trace, rank: int) -> np.ndarray:
    """(…, L) boundaries that broadcast against (batch, *shape, L)."""
    boundary = np.asarray(trace.quantised[op.output].levels.boundary)
    if boundary.ndim == 1:
        return boundary
    spread = [1] * rank + [boundary.shape[1]]
    spread[op.axis + 1] = boundary.shape[0]
    return boundary.reshape(spread)


def _differences(op: Requantise, trace: Trace, x, error, expected, got) -> list[Difference]:
    where = np.argwhere(expected != got)
    if not len(where):
        return []
    if op.output not in trace.quantised:
        return [Difference(int(at[0]), op.name, tuple(int(i) for i in at[1:]), int(expected[tuple(at)]), int(got[tuple(at)]), np.inf, 0.0)
                for at in where]
    y, bound = _evaluated(op, trace, x, error)
    boundary = np.broadcast_to(_boundaries(op, trace, y.ndim), (*y.shape, op.hi - op.lo))
    margin = _margin(y, bound)
    found = []
    for at in map(tuple, where):
        low, high = sorted((int(expected[at]), int(got[at])))
        crossed = boundary[at][max(0, low - op.lo):max(0, high - op.lo)]
        distance = float(np.abs(y[at] - crossed).max()) if crossed.size and op.lo <= low and high <= op.hi else np.inf
        found.append(Difference(int(at[0]), op.name, tuple(int(i) for i in at[1:]), int(expected[at]), int(got[at]), distance, float(margin[at])))
    return found


def _gamma(n: int) -> float:
    return n * U32 / (1 - n * U32)


def _error(op: Op, graph: Graph, trace: Trace, values, errors) -> np.ndarray:
    """Bound on the error of the float tensor behind op.output, in units of its integers."""
    x = values[op.output]
    if isinstance(op, (Input, Requantise)):
        return U32 * np.abs(x - _zero(trace, op.output))
    if not isinstance(op, (Dense, Conv, ConvTranspose, SumPool, Add)):
        moved = dataclasses.replace(op, value=0) if isinstance(op, Pad) else op  # padding is exact
        return execute_op(moved, [errors[e] for e in op.inputs], [graph.edges[e] for e in op.inputs])
    size = [np.abs(values[e] - _zero(trace, e)) for e in op.inputs]
    inherited = _on_magnitudes(op, [errors[e] for e in op.inputs])
    return inherited + _gamma(_terms(op) + 2) * (_on_magnitudes(op, size) + inherited)


def _zero(trace: Trace, edge: str) -> np.ndarray | float:
    """The integer that stands for real zero on an edge (0 where that is unknown: an accumulator)."""
    birth = trace.births.get(edge)
    parts = dequantiser(birth.expr) if birth is not None else None
    return parts[1] if parts is not None else 0.0


def _terms(op: Op) -> int:
    """Products that go into one sum."""
    if isinstance(op, Dense):
        return op.weight.shape[0]
    if isinstance(op, Conv):
        return int(np.prod(op.weight.shape[1:]))
    if isinstance(op, ConvTranspose):
        return int(np.prod(op.weight.shape[2:])) * op.weight.shape[0]
    return int(np.prod(op.kernel)) if isinstance(op, SumPool) else len(op.inputs)


def _on_magnitudes(op: Op, xs: list[np.ndarray]) -> np.ndarray:
    """The operation with absolute weights on non-negative float arrays (padding contributes nothing: it is real zero)."""
    from greenedge.graph import execute

    if isinstance(op, Add):
        return sum(abs(m) * x for m, x in zip(op.multipliers, xs))
    if isinstance(op, SumPool):
        return execute.execute_op(dataclasses.replace(op, pad_value=0), xs, None)
    return execute.linear_float(dataclasses.replace(op, weight=np.abs(op.weight), **({"pad_value": 0} if isinstance(op, Conv) else {})), xs[0])
