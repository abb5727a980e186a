"""Checks every edge of a graph against the rules of the operations that write it.

A graph is well-formed when its operations stand in topological order, every edge is written once and carries the shape
that its operation's rule derives, the range it claims holds every value the rule can derive, and a requantiser's
reachable range holds every value that can arrive.
"""

from __future__ import annotations

import numpy as np

from greenedge.errors import Refused
from greenedge.graph.graph import Graph
from greenedge.graph.ops import Input, Op, Requantise
from greenedge.graph.ops.base import Range


def verify_graph(graph: Graph, ranges: dict[str, Range] | None = None) -> None:
    """Raises AssertionError with every fault found. `ranges` are the per-element ranges of the inputs, where known to
    be narrower than their edges'."""
    faults = find_faults(graph, ranges)
    assert not faults, f"{graph.name} is malformed:\n" + "\n".join(faults)


def find_faults(graph: Graph, ranges: dict[str, Range] | None = None) -> list[str]:
    """What is wrong with the graph, one sentence each; empty where it is well-formed."""
    known: dict[str, Range] = dict(ranges or {})
    faults: list[str] = []
    for op in graph.ops:
        if op.output in known and not isinstance(op, Input):
            faults.append(f"{op.name}: edge {op.output!r} is written twice")
        if missing := [edge for edge in op.inputs if edge not in known]:
            faults.append(f"{op.name}: it reads {missing[0]!r} before anything has written it")
            continue
        if op.output not in graph.edges:
            faults.append(f"{op.name}: its output {op.output!r} is no edge of the graph")
            continue
        faults += _check_op(graph, op, known)
    faults += [f"output {edge!r} is written by nothing" for edge in graph.outputs if edge not in known]
    written = {op.output for op in graph.ops}
    faults += [f"edge {edge!r} is written by nothing" for edge in graph.edges if edge not in written]
    return faults


def _check_op(graph: Graph, op: Op, known: dict[str, Range]) -> list[str]:
    """The faults of one operation; `known` gets the range of its output, within what the edge claims."""
    edge = graph.edges[op.output]
    ones = (1,) * len(edge.shape)
    claim = (np.full(ones, edge.lo), np.full(ones, edge.hi))
    if isinstance(op, Input):
        known.setdefault(op.output, claim)
        return []
    faults = []
    try:
        shape, (low, high) = op.infer(graph.input_edges(op), [known[name] for name in op.inputs])
    except Refused as refusal:
        known[op.output] = claim
        return [f"{op.name}: {refusal.value}; {refusal.rule}"]
    if isinstance(op, Requantise):
        faults += _check_reach(op, known[op.inputs[0]])
    if shape != edge.shape:
        faults.append(f"{op.name}: its edge has shape {edge.shape}; the rule of {op.kind} gives {shape}")
        known[op.output] = claim
        return faults
    if int(low.min()) < edge.lo or int(high.max()) > edge.hi:
        faults.append(
            f"{op.name}: its edge claims {edge.lo}…{edge.hi}; the rule of {op.kind} gives "
            f"{int(low.min())}…{int(high.max())}"
        )
    known[op.output] = np.maximum(low, edge.lo), np.minimum(high, edge.hi)
    return faults


def _check_reach(op: Requantise, arriving: Range) -> list[str]:
    low, high = arriving
    if low.ndim:
        others = tuple(axis for axis in range(low.ndim) if axis != op.axis)
        low, high = low.min(axis=others), high.max(axis=others)
    if op.channels == 1:
        low, high = low.min(keepdims=True), high.max(keepdims=True)
    outside = (low < op.x_lo) | (high > op.x_hi)
    if not np.any(outside):
        return []
    return [
        f"{op.name}: {int(low.min())}…{int(high.max())} may arrive; it is proved on "
        f"{int(op.x_lo.min())}…{int(op.x_hi.max())}"
    ]
