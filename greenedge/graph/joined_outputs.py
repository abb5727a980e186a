"""Several outputs as one: what a design with one output stream gives, all integers of a sample side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.graph.graph import Graph
from greenedge.graph.ops import Edge
from greenedge.graph.ops.base import Ints

_JOINED = "outputs"


def join_output_edges(graph: Graph) -> Edge:
    """The graph's output where it has one; else an edge of a single axis that holds the values of all, in their order,
    each row by row."""
    edges = [graph.edges[name] for name in graph.outputs]
    if len(edges) == 1:
        return edges[0]
    total = sum(int(np.prod(edge.shape)) for edge in edges)
    return Edge(_JOINED, (total,), min(edge.lo for edge in edges), max(edge.hi for edge in edges))


def join_outputs(graph: Graph, outputs: Mapping[str, NDArray[Any]]) -> Ints:
    """All outputs of every sample side by side, (N, total)."""
    parts = [np.asarray(outputs[edge]).reshape(len(outputs[edge]), -1) for edge in graph.outputs]
    return np.concatenate(parts, axis=1)


def split_outputs(graph: Graph, joined: Ints) -> dict[str, Ints]:
    """What `join_outputs` put side by side, edge by edge; also from one output's own values (N, *shape)."""
    sizes = [int(np.prod(graph.edges[edge].shape)) for edge in graph.outputs]
    parts = np.split(joined.reshape(len(joined), -1), np.cumsum(sizes)[:-1], axis=1)
    return {
        edge: part.reshape(len(joined), *graph.edges[edge].shape)
        for edge, part in zip(graph.outputs, parts, strict=True)
    }
