"""Several inputs as one: what a design with one input stream takes, all integers of a sample side by side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from greenedge.graph.graph import Graph
from greenedge.graph.ops import Edge
from greenedge.graph.ops.base import Array, Ints

_JOINED = "inputs"


def join_input_edges(graph: Graph) -> Edge:
    """The graph's input where it has one; else one of a single axis that holds the values of all, in their order, each
    row by row."""
    edges = [graph.edges[name] for name in graph.inputs]
    if len(edges) == 1:
        return edges[0]
    total = sum(int(np.prod(edge.shape)) for edge in edges)
    return Edge(_JOINED, (total,), min(edge.lo for edge in edges), max(edge.hi for edge in edges))


def join_inputs(graph: Graph, x: Array | Mapping[str, Array]) -> Ints:
    """The values (N, *shape) of `join_input_edges` from an array for each input, or from the one array of one input."""
    if not isinstance(x, Mapping):
        return np.asarray(x)
    if len(graph.inputs) == 1:
        return np.asarray(x[graph.inputs[0]])
    return np.concatenate([np.asarray(x[edge]).reshape(len(x[edge]), -1) for edge in graph.inputs], axis=1)
