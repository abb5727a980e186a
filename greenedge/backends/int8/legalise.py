"""The integer graph made fit for runtimes that multiply and round once, right behind every sum. Each pass keeps all outputs.

graph = prepared(graph)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from greenedge.graph import (
    Add,
    Conv,
    ConvTranspose,
    Dense,
    Edge,
    Graph,
    MaxPool,
    Op,
    Requantise,
    Reshape,
    Steps,
    SumPool,
    Transpose,
    Upsample,
    freeze,
)

SUMS = (Dense, Conv, ConvTranspose, SumPool, Add)  # operations whose results are accumulators
STRAIGHT = 2e-6  # accumulators: what float64 makes of 0 for the largest accumulators
_HALVINGS = 80


def prepared(graph: Graph) -> Graph:
    """The same function with its quantisers where such a runtime wants them; new edges have a "/" in their names."""
    for one in PASSES:
        graph = one(graph)
    return graph


# -- quantisers right behind their sums -----------------------------------------------------------------------------------


def quantise_early(graph: Graph) -> Graph:
    """step(move(x)) → move(step(x)) for a sum x, where `move` (reshape, transpose, upsample, max) is read by the step alone.

    A step function works on every value alone, and a rising one keeps the largest the largest.
    """
    while True:
        step = next((op for op in graph.ops if isinstance(op, Requantise) and _early_axis(graph, op) is not None), None)
        if step is None:
            return graph
        graph = _swapped(graph, step, _early_axis(graph, step))


def _early_axis(graph: Graph, step: Requantise) -> int | None:
    """The axis the step function has in front of the operation before it; None where the two cannot change places."""
    move = graph.producer(step.inputs[0])
    if (
        step.steps is None
        or move.output in graph.outputs
        or len(graph.consumers(move.output)) > 1
        or not _of_a_sum(graph, move)
    ):
        return None
    shape, wanted = graph.edges[move.inputs[0]].shape, graph.edges[move.output].shape
    if isinstance(move, MaxPool):
        return step.axis if (step.require_steps().sign > 0).all() and (step.channels == 1 or step.axis == 0) else None
    if step.channels == 1:
        return 0
    if isinstance(move, Transpose):
        return move.perm[step.axis]
    if isinstance(move, Upsample):
        return step.axis if move.factors[step.axis] == 1 else None
    before, size = int(np.prod(wanted[: step.axis])), wanted[step.axis]
    return next((a for a, n in enumerate(shape) if n == size and int(np.prod(shape[:a])) == before), None)


def _of_a_sum(graph: Graph, op: Op) -> bool:
    """Whether `op` moves values (through any number of such operations) that a sum has made."""
    while isinstance(op, (Reshape, Transpose, Upsample, MaxPool)):
        op = graph.producer(op.inputs[0])
        if isinstance(op, SUMS):
            return True
    return False


def _swapped(graph: Graph, step: Requantise, axis: int) -> Graph:
    move = graph.producer(step.inputs[0])
    early = f"{step.output}/{move.name}"
    edges = {name: edge for name, edge in graph.edges.items() if name != move.output}
    edges[early] = replace(edges[step.output], name=early, shape=graph.edges[move.inputs[0]].shape)
    ops = []
    for op in graph.ops:
        if op is move:
            ops.append(replace(step, inputs=move.inputs, output=early, axis=axis))
        elif op is step:
            ops.append(replace(move, inputs=(early,), output=step.output))
        else:
            ops.append(op)
    return Graph(graph.name, tuple(ops), edges, graph.outputs)


# -- steps on a line ------------------------------------------------------------------------------------------------------


def clamp_at_reached(graph: Graph) -> Graph:
    """A step that is no line over all its levels but is one over those it reaches is clamped there: ReLU6 and its like."""
    ops = tuple(_clamped(op) if isinstance(op, Requantise) and op.steps is not None else op for op in graph.ops)
    return Graph(graph.name, ops, graph.edges, graph.outputs)


def _clamped(step: Requantise) -> Requantise:
    if is_straight(step):
        return step
    low, high = reach(step)
    least = step.lo + int((step.require_steps().thresholds <= low[:, None]).sum(axis=1).min())
    most = step.lo + int((step.require_steps().thresholds <= high[:, None]).sum(axis=1).max())
    some = replace(step, lo=least, hi=most).with_steps(
        thresholds=freeze(step.require_steps().thresholds[:, least - step.lo : most - step.lo])
    )
    return some if least < most and is_straight(some) else step


def reach(step: Requantise) -> tuple[np.ndarray, np.ndarray]:
    """(C,) ends of sign*x, which is what the thresholds are compared with."""
    falls = step.require_steps().sign < 0
    return np.where(falls, -step.x_hi, step.x_lo), np.where(falls, -step.x_lo, step.x_hi)


def is_straight(step: Requantise) -> bool:
    """Whether every channel's step function is a straight line rounded to nearest and clamped."""
    return step.affine is not None or off_line(step.require_steps().thresholds, *reach(step)).max(initial=0) <= STRAIGHT


def off_line(thresholds: np.ndarray, x_lo: np.ndarray, x_hi: np.ndarray) -> np.ndarray:
    """(R,) how far, in accumulators, the steps lie from those of the nearest straight line; 0 where one has just these steps.

    Level k is reached at T_k, so the line crosses its height somewhere in T_k - 1 … T_k (both ends count: a tie may be
    rounded either way), which for the first level that x_lo has passed, or the last that x_hi does not reach, is open to one side. A
    line through all these intervals exists iff for some slope d the smallest of (high - d*k) is not below the largest of
    (low - d*k). Their distance is concave in d and found by bisection.
    """
    clipped = np.clip(thresholds, x_lo[:, None], x_hi[:, None] + 1).astype(np.float64)
    low = np.where(clipped > x_lo[:, None], clipped - 1, -np.inf)
    high = np.where(clipped <= x_hi[:, None], clipped, np.inf)
    k = np.arange(thresholds.shape[1], dtype=np.float64)
    flat, steep = np.zeros(len(clipped)), x_hi - x_lo + 2.0
    best = np.full(len(clipped), -np.inf)
    for _ in range(_HALVINGS if len(k) else 0):
        d = (flat + steep) / 2
        above, below = high - d[:, None] * k, low - d[:, None] * k
        best = np.maximum(best, above.min(axis=1) - below.max(axis=1))
        rising = k[below.argmax(axis=1)] > k[above.argmin(axis=1)]
        flat, steep = np.where(rising, d, flat), np.where(rising, steep, d)
    return np.where(np.isfinite(best), np.maximum(0, -best) / 2, 0)


def identity(edge: Edge, output: str) -> Requantise:
    """The quantiser that changes nothing."""
    return times(edge, output, 1)


def times(edge: Edge, output: str, m: int) -> Requantise:
    """The quantiser that makes m times each level of it: level j is reached at the edge's level ceil(j / m)."""
    steps = freeze([-(-np.arange(m * edge.lo + 1, m * edge.hi + 1) // m)])
    return Requantise(
        f"{edge.name}/stored",
        (edge.name,),
        output,
        0,
        m * edge.lo,
        m * edge.hi,
        Steps(freeze([1]), steps, None),
        freeze([edge.lo]),
        freeze([edge.hi]),
    )


PASSES = (quantise_early, clamp_at_reached)
