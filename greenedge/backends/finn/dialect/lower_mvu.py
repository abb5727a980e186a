"""Layers with weights, and the windows before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.builder import MAX_BITS, MAX_SUM_BITS, Builder, Refused, channels_last, too_wide
from greenedge.errors import ReasonKind
from greenedge.graph import Add, Conv, Dense, Edge, Op, Requantise


def image(builder: Builder, op: Op, wire: hw.Wire) -> tuple[hw.Wire, int, int]:
    """(the wire in pixels, height, width) of an image or a sequence that travels channels-last."""
    shape = wire.shape
    if len(shape) not in (2, 3):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"{type(op).__name__} on {shape}",
            "finn computes on (channels, height, width) and (channels, length)",
            "use two or fewer spatial axes",
        )
    if not np.array_equal(wire.order, channels_last(shape)):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"{type(op).__name__} on {shape} after a reshape or transposition that moves channels",
            "finn streams images channels-last",
            "leave the reshape out, or put it before the model",
        )
    return replace(wire, channels=shape[0]), shape[1] if len(shape) == 3 else 1, shape[-1]


def pair(values: Sequence[int], one: int = 1) -> tuple[int, int]:
    """(vertical, horizontal) of a value per spatial axis."""
    return (values[0], values[1]) if len(values) == 2 else (one, values[0])


def window(
    builder: Builder, op: Op, wire: hw.Wire, kernel, strides, dilations, pads, pad: int, grouped: bool
) -> hw.Wire:
    """The patches of an image, or the image itself where every pixel is one patch."""
    wire, height, width = image(builder, op, wire)
    half = len(pads) // 2
    top, left = pair(pads[:half], 0)
    bottom, right = pair(pads[half:], 0)
    kernel, strides, dilations = pair(kernel), pair(strides), pair(dilations or (1,) * len(kernel))
    around = (top, left, bottom, right)
    if any(p > (k - 1) * d for p, k, d in zip(around, kernel * 2, dilations * 2)):  # a patch of nothing but padding
        wire = padded(builder, op.name + "_pad", wire, height, width, around, pad)
        height, width, around = height + top + bottom, width + left + right, (0, 0, 0, 0)
    if kernel == strides == (1, 1):
        return wire
    wire = wire.holding(pad) if any(around) else wire
    name = builder.names.take(f"{op.name}_window")
    layer = hw.Window(name, (wire,), (), height, width, kernel, strides, dilations, around, pad, grouped)
    rows, columns = layer.out
    size = rows * columns * layer.taps * wire.channels
    patches = replace(
        wire, name=name, edge="", shape=(size,), channels=wire.channels * layer.taps, order=np.arange(size)
    )
    return builder.inner(replace(layer, results=(patches,)))


def padded(
    builder: Builder, name: str, wire: hw.Wire, height: int, width: int, pads: tuple[int, int, int, int], value: int
) -> hw.Wire:
    """The image with padding around it, as a layer of its own."""
    name, wire = builder.names.take(name), wire.holding(value)
    shape = (wire.channels, height + pads[0] + pads[2], width + pads[1] + pads[3])
    result = replace(wire, name=name, edge="", shape=shape, order=channels_last(shape))
    return builder.inner(hw.Pad(name, (wire,), (result,), height, width, pads, value))


def _weight_bits(weight: np.ndarray) -> int:
    """1 for signs alone (every weight +1 or -1), else the two's-complement width, at least 2."""
    if np.all(np.abs(weight) == 1):
        return 1
    return max(2, Edge("w", (), min(int(weight.min()), -1), int(weight.max())).bits)


def _check_widths(builder: Builder, op: Dense | Conv) -> None:
    source = builder.graph.edges[op.inputs[0]]
    if source.bits > MAX_SUM_BITS:
        raise too_wide(f"input of {source.bits} bits", MAX_SUM_BITS)
    if _weight_bits(op.weight) > MAX_BITS:
        raise too_wide(f"weights of {_weight_bits(op.weight)} bits")


def _absorbed(builder: Builder, edge: str) -> bool:
    """Whether every reader takes a constant per channel into its own numbers."""
    return all(
        isinstance(reader, Requantise) or (isinstance(reader, Add) and _absorbed(builder, reader.output))
        for reader in builder.readers(edge)
    )


def _linear(
    builder: Builder, op: Op, kind: type, wire: hw.Wire, weight: np.ndarray, axis: int, order: np.ndarray, **more
) -> None:
    """Appends a MatVec or Depthwise; `axis` of `weight` is summed over, the other one is the outputs."""
    bits = _weight_bits(weight)
    left_out = (weight < 0).sum(axis=axis) * (1 << max(bits - 2, 0))
    correct = not _absorbed(builder, op.output)
    products = np.stack([weight * wire.lo, weight * wire.hi])
    missing = 0 if correct else left_out
    lowest = int((products.min(axis=0).sum(axis=axis) - missing).min())
    highest = int((products.max(axis=0).sum(axis=axis) - missing).max())
    name = builder.names.take(op.name)
    result = builder.wire(
        name,
        op.output,
        order,
        weight.shape[1 - axis],
        lo=min(lowest, -1),
        hi=highest,
        offset=hw.ZERO if correct or not np.any(left_out) else left_out,
    )
    builder.give(kind(name, (wire,), (result,), weight, bits, left_out, correct, **more))


def dense(builder: Builder, op: Dense) -> None:
    _check_widths(builder, op)
    wire = builder.take(op.inputs[0])
    if wire is None:
        return
    k, m = op.weight.shape
    row, column = np.divmod(wire.order.reshape(-1, k), k)
    if np.any(row != row[:, :1]) or np.any(column != column[0]):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"a dense layer along the last axis of {wire.shape}",
            "finn streams the channels innermost",
            "put the features into the channels, or use a 1×1 convolution",
        )
    order = (row[:, :1] * m + np.arange(m)).ravel()
    _linear(builder, op, hw.MatVec, wire, op.weight[column[0]], 0, order)


def conv(builder: Builder, op: Conv) -> None:
    _check_widths(builder, op)
    wire = builder.take(op.inputs[0])
    if wire is None:
        return
    wire, _, _ = image(builder, op, wire)
    order = channels_last(builder.graph.edges[op.output].shape)
    outputs, per_group = op.weight.shape[:2]
    geometry = (op.weight.shape[2:], op.strides, op.dilations, op.pads, op.pad_value)
    if op.groups > 1 and per_group == 1:
        wire = _repeated(builder, op, wire, outputs // wire.channels)
        patches = window(builder, op, wire, *geometry, True)
        _linear(builder, op, hw.Depthwise, patches, op.weight.reshape(outputs, -1), 1, order)
        return
    weight = op.weight.reshape(outputs, per_group, -1)
    if op.groups > 1:
        weight = _spread(weight, op.groups)
        builder.notes.append(
            f"{op.name}: a convolution in {op.groups} groups is built as a dense one with zeros, {op.groups} times "
            "the multiplications and weight memory of its groups."
        )
    patches = window(builder, op, wire, *geometry, False)
    matrix = weight.transpose(2, 1, 0).reshape(-1, outputs)  # rows in (kh, kw, c) order, as patches come
    _linear(builder, op, hw.MatVec, patches, matrix, 0, order, spread=op.groups)


def _repeated(builder: Builder, op: Conv, wire: hw.Wire, times: int) -> hw.Wire:
    """Every channel `times` times in a row: the input of a depthwise convolution with a channel multiplier."""
    if times == 1:
        return wire
    builder.notes.append(
        f"{op.name}: a depthwise convolution with multiplier {times} reads every channel {times} times."
    )
    name = builder.names.take(f"{op.name}_repeat")
    shape = (wire.channels * times, *wire.shape[1:])
    flat = replace(wire, channels=1)  # a row per pixel, each channel a point of it
    result = replace(wire, name=name, edge="", shape=shape, order=channels_last(shape), channels=1)
    made = builder.inner(hw.Upsample(name, (flat,), (result,), wire.pixels, wire.channels, (1, times)))
    return replace(made, channels=shape[0])


def _spread(weight: np.ndarray, groups: int) -> np.ndarray:
    """(O, I/g, taps) of a grouped convolution as the (O, I, taps) of a dense one, zero outside the groups."""
    outputs, per_group, taps = weight.shape
    dense = np.zeros((outputs, per_group * groups, taps), np.int64)
    for g in range(groups):
        rows = slice(g * outputs // groups, (g + 1) * outputs // groups)
        dense[rows, g * per_group : (g + 1) * per_group] = weight[rows]
    return dense
