"""Layers with weights beyond int8 as sums of layers with less, for kernels that read int8."""

from __future__ import annotations

import dataclasses

import numpy as np

from greenedge.graph import Add, Edge, Graph, Linear, Op, freeze
from greenedge.graph.ops.base import Ints
from greenedge.legalise.edge_names import choose_name

_LOW, _HIGH = -128, 127  # int8
_MOST = 5  # layers in place of one: weights of 10 bits


def split_weights(graph: Graph) -> Graph:
    """Linear(w1 + w2 + …, x) → Add(Linear(w1, x), Linear(w2, x), …), each w_i within int8. New edges are called
    NAME_part_K. A layer that would take more than _MOST is left as it is."""
    ops: list[Op] = []
    edges = dict(graph.edges)
    for op in graph.ops:
        if isinstance(op, Linear) and 1 < _count_shares(op.weight) <= _MOST:
            ops += _split(op, edges)
        else:
            ops.append(op)
    return graph if len(ops) == len(graph.ops) else dataclasses.replace(graph, ops=tuple(ops), edges=edges)


def _split(op: Linear, edges: dict[str, Edge]) -> list[Op]:
    """The layers and their sum; the edges of the layers are added to `edges`."""
    source, total = edges[op.inputs[0]], edges[op.output]
    ones = (1,) * len(source.shape)
    parts: list[Op] = []
    for k, weight in enumerate(_share(op.weight)):
        name = choose_name(f"{op.name}_part_{k + 1}", edges)
        part = dataclasses.replace(op, name=name, output=name, weight=freeze(weight))
        _, (low, high) = part.infer([source], [(np.full(ones, source.lo), np.full(ones, source.hi))])
        edges[name] = Edge(name, total.shape, int(low.min()), int(high.max()))
        parts.append(part)
    names = tuple(part.output for part in parts)
    return [*parts, Add(op.name, names, op.output, (1,) * len(parts))]


def _count_shares(weight: Ints) -> int:
    """How many shares within int8 the weights take."""
    low, high = int(weight.min(initial=0)), int(weight.max(initial=0))
    return max(-(low // -_LOW), -(-high // _HIGH), 1)


def _share(weight: Ints) -> list[Ints]:
    """The weights as a sum of nearly equal shares within int8."""
    count = _count_shares(weight)
    return [(weight * (k + 1)) // count - (weight * k) // count for k in range(count)]
