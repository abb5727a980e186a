"""Whether a float reference that shows only its outputs is explained by float32 ties.

A search over the network: wherever a float32 execution could round otherwise (the real value is within the derived
bound of a boundary), both levels are tried, in topological order, until the reference's outputs appear. What is found
is a sequence of ties that gives exactly those integers; where there is none, the outputs stay a mismatch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from greenedge.graph import ArgMax, Op, Requantise
from greenedge.graph.ops.base import Array, Ints
from greenedge.lower import Lowered
from greenedge.lower.builder import Trace
from greenedge.lower.float_ties.explain import error_of, find_possible, may_win

_MAX_TRIED = 256  # executions of the network per sample

_State = tuple[int, dict[str, Array], dict[str, Array]]  # operations done, integers and error bounds by edge


def reachable_by_ties(lowered: Lowered, ints: Mapping[str, Ints], wanted: Ints) -> bool:
    """Whether flipping ties of this one sample leads to `wanted` on the (single) output edge."""
    graph, trace = lowered.graph, lowered.trace
    (output,) = graph.outputs
    steps = {edge for edge in graph.edges if edge in trace.quantised or edge in trace.defined}
    pending: list[_State] = [(0, {edge: ints[edge] for edge in graph.inputs}, {})]
    tried = 0
    while pending and tried < _MAX_TRIED:
        start, values, errors = pending.pop()
        tried += 1
        for k in range(start, len(graph.ops)):
            op = graph.ops[k]
            if op.output not in values:
                values[op.output] = op.execute([values[e] for e in op.inputs], graph.input_edges(op))
                if op.output in steps:
                    pending += _alternatives(k, op, trace, values, errors)
            errors[op.output] = error_of(op, graph, trace, values, errors)
        if _agrees(graph.producer(output), values, errors, wanted):
            return True
    return False


def _agrees(op: Op, values: Mapping[str, Array], errors: Mapping[str, Array], wanted: Ints) -> bool:
    """Whether an integer read off a float may be `wanted`: a level is exact, an accumulator differs by the rounding of
    its sum, and which value is the largest may depend on that rounding."""
    if isinstance(op, ArgMax):  # its error bound is that of its input
        return bool(
            may_win(op, values[op.inputs[0]], errors[op.inputs[0]], wanted.reshape(values[op.output].shape)).all()
        )
    noise = 0 if isinstance(op, Requantise) else np.floor(errors[op.output] + 0.5)
    return bool((np.abs(values[op.output] - wanted) <= noise).all())


def _alternatives(k: int, op: Op, trace: Trace, values: dict[str, Array], errors: dict[str, Array]) -> list[_State]:
    """The same state with one near-boundary element on its other level."""
    states: list[_State] = []
    lowest, highest = find_possible(op, trace, values, errors)
    for at in map(tuple, np.argwhere(lowest < highest)):
        for level in range(int(lowest[at]), int(highest[at]) + 1):
            if level != values[op.output][at]:
                flipped = values[op.output].copy()
                flipped[at] = level
                states.append((k, {**values, op.output: flipped}, dict(errors)))
    return states
