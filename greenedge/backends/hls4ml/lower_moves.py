"""The rules of operations that only move values: reshapes, transpositions, upsampling, concatenations.

hls4ml's axes are the graph's with the first moved to the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from greenedge.backends.hls4ml.layers import (
    MAX_AXES,
    LayerBuilder,
    channels_last_order,
    channels_last_shape,
    emit_transpose,
    name_axes,
)
from greenedge.backends.hls4ml.line import emit_copy
from greenedge.backends.hls4ml.lower_values import RULES
from greenedge.backends.hls4ml.precision import range_type
from greenedge.graph import Concat, Dense, Graph, Input, Reshape, Transpose, Upsample
from greenedge.graph.ops.base import Ints


@RULES.lowers(Reshape)
def reshape(b: LayerBuilder, op: Reshape) -> None:
    """Values move only where the channels of both shapes, which hls4ml has last, are not the same ones."""
    before, after = b.source(op).shape, op.shape
    if len(after) == 1 or np.array_equal(channels_last_order(before), channels_last_order(after)):
        b.begin_emission()
        layout, attributes = b.layouts[op.inputs[0]], {"target_shape": channels_last_shape(after)}
        layer = layout.layer
        if len(after) == 1 and b.find_layer(layer).kind == "Transpose":
            # hls4ml would take the transposition for one of its own and change the next layer's weights instead
            layer = emit_copy(b, op, layer, b.source(op), "_copy")
        b.emit("Reshape", (layer,), op, attributes, edge=b.result(op), order=layout.order)
        return
    _require_axes(b, before, after)
    b.require(
        len(before) > 1 or _is_row_by_row(b.graph, op.inputs[0]),
        f"a reshape from {before} to {after} of what was flattened",
        "hls4ml has the channels last, so its vector has another order",
        "reshape without the flattening in between",
    )
    b.begin_emission()
    edge, source = b.result(op), b.source(op)
    layer = b.layouts[op.inputs[0]].layer
    if len(before) > 1:
        layer = emit_transpose(b, op, layer, source, (len(before) - 1, *range(len(before) - 1)), "_rows")
    layer = b.emit("Reshape", (layer,), op, {"target_shape": list(after)}, "_shape")
    emit_transpose(b, op, layer, source, (*range(1, len(after)), 0), "", edge)


@RULES.lowers(Transpose)
def transpose(b: LayerBuilder, op: Transpose) -> None:
    n = len(op.perm)
    _require_axes(b, op.perm)
    b.begin_emission()
    if n == 1:
        b.emit("Reshape", b.source_layers(op), op, {"target_shape": list(b.result(op).shape)}, edge=b.result(op))
        return
    # position j of hls4ml's axes is the graph's axis j + 1
    perm = [(op.perm[(j + 1) % n] - 1) % n for j in range(n)]
    emit_transpose(b, op, b.layouts[op.inputs[0]].layer, b.source(op), perm, "", b.result(op))


def _require_axes(b: LayerBuilder, *shapes: Sequence[int]) -> None:
    for shape in shapes:
        b.require(
            len(shape) <= MAX_AXES,
            f"a transposition of {len(shape)} axes",
            f"hls4ml moves up to {MAX_AXES}",
            "join the axes that stay together",
        )


@RULES.lowers(Upsample)
def upsample(b: LayerBuilder, op: Upsample) -> None:
    b.require(
        op.factors[0] == 1 and len(op.factors) in (2, 3),
        f"factors {op.factors}",
        "hls4ml repeats rows and columns of an image",
        "upsample height and width only",
    )
    b.begin_emission()
    edge, source = b.result(op), b.source(op)
    attributes = {
        "in_height": 1,
        "out_height": 1,
        **name_axes("in", source.shape[1:]),
        **name_axes("out", edge.shape[1:]),
        "n_chan": edge.shape[0],
        "algorithm": "nearest",
        "data_format": "channels_last",
    }
    precision = {"result": range_type(source.lo, source.hi)}
    b.emit("Resize", b.source_layers(op), op, attributes, edge=edge, precision=precision)


@RULES.lowers(Concat)
def concat(b: LayerBuilder, op: Concat) -> None:
    """Two by two; a tensor that comes again is copied first."""
    b.require(op.axis == 0, f"a concatenation along axis {op.axis}", "channels are joined", "concatenate channels")
    b.begin_emission()
    layers: list[str] = []
    for k, name in enumerate(op.inputs):
        layer = b.layouts[name].layer
        layers.append(emit_copy(b, op, layer, b.graph.edges[name], f"_copy{k}") if layer in layers else layer)
    edge, layer, rank = b.result(op), layers[0], len(b.result(op).shape)
    order = _join_orders(b, op) if rank == 1 else None
    attributes = {"op": f"concatenate{rank}d", "axis": rank}
    for k, other in enumerate(layers[1:], 1):
        if k == len(layers) - 1:
            b.emit("Concatenate", (layer, other), op, attributes, edge=edge, order=order)
            return
        parts = [b.graph.edges[name] for name in op.inputs[: k + 1]]
        precision = {"result": range_type(min(part.lo for part in parts), max(part.hi for part in parts))}
        layer = b.emit("Concatenate", (layer, other), op, attributes, f"_join{k}", precision=precision)


def _join_orders(b: LayerBuilder, op: Concat) -> Ints:
    """The orders of the vectors that are joined, each counted on from the one before."""
    starts = np.cumsum([0, *(b.graph.edges[name].shape[0] for name in op.inputs)])
    return np.concatenate([b.layouts[name].order + start for name, start in zip(op.inputs, starts, strict=False)])


def _is_row_by_row(graph: Graph, name: str) -> bool:
    """Whether the vector on an edge is in the graph's own order, which flattening a map changes."""
    op = graph.producer(name)
    if isinstance(op, (Input, Dense)):
        return True
    if isinstance(op, Reshape):
        before = graph.edges[op.inputs[0]].shape
        if len(before) > 1:
            order = channels_last_order(before)
            return bool(np.array_equal(order, np.arange(len(order))))
    return all(_is_row_by_row(graph, source) for source in op.inputs)
