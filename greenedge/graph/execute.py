"""Runs the integer graph, exactly and in batches bounded by memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from greenedge.errors import GreenedgeError
from greenedge.graph.graph import Graph
from greenedge.graph.ops import Edge
from greenedge.graph.ops.base import Ints

_BATCH_BYTES = 256 << 20  # bound on the largest intermediate of one batch: the im2col matrix of a convolution


def run_graph(graph: Graph, x: ArrayLike | Mapping[str, ArrayLike], keep: Iterable[str] = ()) -> dict[str, Ints]:
    """The outputs of `graph` (and the edges named in `keep`) as int64 arrays, batch axis first.

    `x` is one array, or a dict from input edge to array. Raises GreenedgeError for another shape, a value outside the
    input's range, or an array that is not of integers.
    """
    given = dict(x) if isinstance(x, Mapping) else {graph.inputs[0]: x}
    feeds = {edge: accept_input(graph.edges[edge], given.get(edge)) for edge in graph.inputs}
    samples = {len(values) for values in feeds.values()}
    if len(samples) != 1:
        raise GreenedgeError(f"{graph.name}: inputs have different numbers of samples, {sorted(samples)}.")
    (total,) = samples
    wanted = list(dict.fromkeys([*graph.outputs, *keep]))
    largest = max((op.batch_elements(graph.input_edges(op), graph.edges[op.output]) for op in graph.ops), default=1)
    step = max(1, _BATCH_BYTES // (8 * max(1, largest)))
    parts = [_run_batch(graph, {e: v[i : i + step] for e, v in feeds.items()}, wanted) for i in range(0, total, step)]
    if not parts:
        return {edge: np.zeros((0, *graph.edges[edge].shape), np.int64) for edge in wanted}
    return {edge: np.concatenate([part[edge] for part in parts]) for edge in wanted}


def accept_input(edge: Edge, values: ArrayLike | None) -> Ints:
    """`values` as int64 where they may go into `edge`; raises GreenedgeError that says what is wrong."""
    if values is None:
        raise GreenedgeError(f"input {edge.name!r} is missing; it has shape {('batch', *edge.shape)}.")
    array = np.asarray(values)
    if array.shape[1:] != edge.shape:
        raise GreenedgeError(f"input {edge.name!r} has shape {array.shape}; it must be {('batch', *edge.shape)}.")
    if array.dtype.kind not in "iub":
        raise GreenedgeError(
            f"input {edge.name!r} is {array.dtype}; it takes integers (floats go through the prologue first)."
        )
    if array.size and (array.min() < edge.lo or array.max() > edge.hi):
        raise GreenedgeError(
            f"input {edge.name!r} holds {array.min()}…{array.max()}; it must lie in {edge.lo}…{edge.hi} ({edge.dtype})."
        )
    return array.astype(np.int64)


def _run_batch(graph: Graph, feeds: dict[str, Ints], wanted: list[str]) -> dict[str, Ints]:
    values = dict(feeds)
    last_use = {edge: k for k, op in enumerate(graph.ops) for edge in op.inputs}
    for k, op in enumerate(graph.ops):
        if op.output not in feeds:
            values[op.output] = op.execute([values[e] for e in op.inputs], graph.input_edges(op))
        for edge in op.inputs:
            if last_use[edge] == k and edge not in wanted:
                values.pop(edge, None)
    return {edge: values[edge] for edge in wanted}
