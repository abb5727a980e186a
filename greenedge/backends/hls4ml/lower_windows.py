"""The rules of layers with weights or windows: dense layers, convolutions, max pools, padding.

What hls4ml has no layer for becomes one that it has, with the same integers: a grouped convolution one with zeros, a
dilated kernel one with holes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from greenedge.backends.hls4ml.layers import (
    RULES,
    LayerBuilder,
    channels_last_shape,
    emit_transpose,
    name_axes,
    sum_types,
    window_attributes,
)
from greenedge.backends.hls4ml.line import emit_shift
from greenedge.backends.hls4ml.precision import range_type
from greenedge.graph import Conv, Dense, Edge, Input, MaxPool, Op, Pad
from greenedge.graph.ops.base import Ints

_OTHER = "use layers of these kinds, or choose another back end"


@RULES.lowers(Input)
def read_input(b: LayerBuilder, op: Input) -> None:
    b.begin_emission()
    edge = b.result(op)
    attributes = {"input_shape": channels_last_shape(edge.shape), "data_format": "channels_last"}
    b.emit("InputLayer", (), op, attributes, edge=edge)


@RULES.lowers(Dense)
def dense(b: LayerBuilder, op: Dense) -> None:
    """Over a vector; or over the last axis of a map, as a convolution of one tap whose channels that axis is."""
    rank = len(b.source(op).shape)
    b.require(
        rank <= 3,
        f"a dense layer over {b.source(op).shape}",
        "hls4ml has two axes beside the features",
        "join the axes before the last",
    )
    b.begin_emission()
    if rank > 1:
        _emit_at_each_position(b, op, rank)
        return
    edge, weight = b.result(op), op.weight[b.layouts[op.inputs[0]].order]
    n_in, n_out = weight.shape
    attributes = {"n_in": n_in, "n_out": n_out, "weight_data": weight.astype(np.float64), "bias_data": None}
    b.emit(
        "Dense",
        b.source_layers(op),
        op,
        attributes,
        edge=edge,
        precision=sum_types(edge, weight),
        weights=(n_in, n_out),
    )


def _emit_at_each_position(b: LayerBuilder, op: Dense, rank: int) -> None:
    """(T, F) lies as (F, T): turned to (T, F), convolved to (T, M), turned to (M, T); likewise with two axes T."""
    edge, source = b.result(op), b.source(op)
    inner = source.shape[:-1]
    layer = emit_transpose(b, op, b.layouts[op.inputs[0]].layer, source, (rank - 1, *range(rank - 1)), "_features")
    attributes = {
        "bias_data": None,
        **window_attributes(inner, inner, (1,) * (rank - 1), (0,) * 2 * (rank - 1)),
        **name_axes("filt", (1,) * (rank - 1)),
        "n_chan": source.shape[-1],
        "n_filt": edge.shape[-1],
        "padding": "valid",
        "weight_data": op.weight.reshape(*(1,) * (rank - 1), *op.weight.shape).astype(np.float64),
    }
    precision = {"result": range_type(edge.lo, edge.hi), **sum_types(edge, op.weight)}
    n_in, n_out = op.weight.shape
    layer = b.emit(
        f"Conv{rank - 1}D",
        (layer,),
        op,
        attributes,
        "_each",
        precision=precision,
        weights=(n_in, n_out),
        vectors=math.prod(inner),
    )
    emit_transpose(b, op, layer, edge, (*range(1, rank), 0), "", edge)


@RULES.lowers(Conv)
def conv(b: LayerBuilder, op: Conv) -> None:
    b.begin_emission()
    edge, source, n = b.result(op), b.source(op), len(op.kernel)
    is_depthwise = b.has_depthwise and op.groups == source.shape[0] == op.channels and op.groups > 1
    weight = _dilate_kernel(op.weight, op.dilations)
    if op.groups > 1 and not is_depthwise:
        weight = _join_groups(weight, op.groups)
    layer, bias = _subtract_padding(b, op)
    # (O, I, *kernel) -> (*kernel, I, O); depthwise (C, 1, *kernel) -> (*kernel, C, 1)
    axes = (*range(2, 2 + n), 0, 1) if is_depthwise else (*range(2, 2 + n), 1, 0)
    data = weight.transpose(axes).astype(np.float64)
    attributes = {
        "bias_data": None if bias is None else bias.astype(np.float64),
        **window_attributes(source.shape[1:], edge.shape[1:], op.strides, op.pads),
        **name_axes("filt", weight.shape[2:]),
        "n_chan": source.shape[0],
        "n_filt": edge.shape[0],
        "padding": "valid" if not any(op.pads) else "same",
        **({"depthwise_data": data, "depth_multiplier": 1} if is_depthwise else {"weight_data": data}),
    }
    types = sum_types(edge, weight)
    if bias is not None:
        types["bias"] = range_type(int(bias.min()), int(bias.max()))
    b.emit(
        f"{'Depthwise' if is_depthwise else ''}Conv{n}D",
        (layer,),
        op,
        attributes,
        edge=edge,
        precision=types,
        weights=(math.prod(weight.shape[1:]), weight.shape[0]),
        vectors=math.prod(edge.shape[1:]),
    )


def _subtract_padding(b: LayerBuilder, op: Conv) -> tuple[str, Ints | None]:
    """(the input, biases) for hls4ml, which pads with 0: sum(w*x) = sum(w*(x - z)) + z*sum(w), and z - z is 0."""
    layer, zero = b.layouts[op.inputs[0]].layer, op.pad_value
    if not any(op.pads) or zero == 0:
        return layer, None
    layer = emit_shift(b, op, layer, b.source(op), -zero, "_shift")
    return layer, zero * op.weight.reshape(op.channels, -1).sum(axis=1)


def _dilate_kernel(weight: Ints, dilations: Sequence[int]) -> Ints:
    """A dilated kernel as a larger one with zeros between its taps."""
    spread = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    wide = np.zeros((*weight.shape[:2], *spread), np.int64)
    wide[(slice(None), slice(None), *(slice(None, None, d) for d in dilations))] = weight
    return wide


def _join_groups(weight: Ints, groups: int) -> Ints:
    """A grouped kernel (O, I/g, …) as one over all channels, with zeros for those of other groups."""
    per_out, per_in = len(weight) // groups, weight.shape[1]
    wide = np.zeros((len(weight), per_in * groups, *weight.shape[2:]), np.int64)
    for g in range(groups):
        rows = slice(g * per_out, (g + 1) * per_out)
        wide[rows, g * per_in : (g + 1) * per_in] = weight[rows]
    return wide


@RULES.lowers(MaxPool)
def max_pool(b: LayerBuilder, op: MaxPool) -> None:
    edge, source, n = b.result(op), b.source(op), len(op.kernel)
    b.require(
        all(d == 1 for d in op.steps), f"dilations {tuple(op.steps)}", "hls4ml's pools have none", "use dilation 1"
    )
    b.require(
        not any(op.pads) or source.lo >= 0,
        "padding of levels below 0",
        "hls4ml pads with 0, which would win",
        "put the pool after a ReLU",
    )
    b.require(
        not b.is_streamed or tuple(op.kernel) == tuple(op.strides),
        f"windows {tuple(op.kernel)} every {tuple(op.strides)}",
        "hls4ml's streamed pools take windows side by side",
        "choose --set build.io=io_parallel",
    )
    b.begin_emission()
    inner, sources = source.shape[1:], b.source_layers(op)
    if any(op.pads):  # the levels are not negative, so a zero never wins
        inner = tuple(size + op.pads[i] + op.pads[n + i] for i, size in enumerate(inner))
        sources = (_emit_padding(b, op, sources[0], source, inner, op.pads, "_pad"),)
    attributes: dict[str, object] = {
        "n_filt": edge.shape[0],
        "padding": "valid",
        "count_pad": False,
        **window_attributes(inner, edge.shape[1:], op.strides, (0,) * 2 * n),
        **name_axes("pool", op.kernel),
    }
    if n == 1:
        attributes |= {"n_in": inner[0], "n_out": edge.shape[1]}
    precision = {"accum": range_type(source.lo, source.hi)}
    b.emit(f"MaxPooling{n}D", sources, op, attributes, edge=edge, precision=precision)


@RULES.lowers(Pad)
def pad(b: LayerBuilder, op: Pad) -> None:
    """Padding with another number is subtracted before and added after."""
    n = len(op.pads) // 2
    b.require(
        n in (2, 3) and op.pads[0] == op.pads[n] == 0,
        f"padding {tuple(op.pads)}",
        "hls4ml pads height and width",
        _OTHER,
    )
    b.begin_emission()
    edge, source, layer = b.result(op), b.source(op), b.layouts[op.inputs[0]].layer
    pads = (*op.pads[1:n], *op.pads[n + 1 :])
    if op.value == 0:
        _emit_padding(b, op, layer, source, edge.shape[1:], pads, "", edge)
        return
    low = emit_shift(b, op, layer, source, -op.value, "_down")
    shifted = replace(source, lo=source.lo - op.value, hi=source.hi - op.value)
    wide = _emit_padding(b, op, low, shifted, edge.shape[1:], pads, "_pad")
    ends = replace(edge, lo=min(shifted.lo, 0), hi=max(shifted.hi, 0))
    emit_shift(b, op, wide, ends, op.value, "", edge)


def _emit_padding(
    b: LayerBuilder,
    op: Op,
    layer: str,
    source: Edge,
    inner: Sequence[int],
    pads: Sequence[int],
    part: str,
    edge: Edge | None = None,
) -> str:
    """The output of `layer`, which has the shape and range of `source`, padded with 0 to the spatial size `inner`."""
    n = len(inner)
    attributes = {"n_chan": source.shape[0], **window_attributes(source.shape[1:], inner, (1,) * n, pads)}
    precision = {"result": range_type(min(source.lo, 0), max(source.hi, 0))}
    return b.emit(f"ZeroPadding{n}D", (layer,), op, attributes, part=part, edge=edge, precision=precision)
