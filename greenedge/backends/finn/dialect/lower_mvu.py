"""Rules for layers with weights, and the windows before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.builder import Builder, Image, channels_last
from greenedge.backends.finn.dialect.layer import ZERO, Wire
from greenedge.backends.finn.dialect.supported import RULES, weight_bits
from greenedge.graph import Add, Conv, Dense, Linear, Requantise
from greenedge.graph.ops.base import Ints

_LinearFields = tuple[str, tuple[Wire, ...], tuple[Wire, ...], Ints, int, Ints, bool]  # in the order of hw.Linear


@RULES.lowers(Dense)
def dense(b: Builder, op: Dense) -> None:
    """A matrix unit whose rows come in the order of the stream, where every vector comes whole and like the others."""
    wire = b.take(op.inputs[0])
    k, m = op.weight.shape
    b.begin_emission()
    row, column = np.divmod(wire.order.reshape(-1, k), k)
    if not (np.all(row == row[:, :1]) and np.all(column == column[0])):
        wire = b.put_in_order(wire, np.arange(wire.total))
        row, column = np.divmod(wire.order.reshape(-1, k), k)
    order = (row[:, :1] * m + np.arange(m)).ravel()
    b.give(hw.MatVec(*_sum_products(b, op, wire, op.weight[column[0]], 0, order)))


@RULES.lowers(Conv)
def conv(b: Builder, op: Conv) -> None:
    """Patches, then a matrix unit; a depthwise convolution has its own unit."""
    image = b.take_image(op)
    b.begin_emission()
    order = channels_last(b.graph.edges[op.output].shape)
    if op.is_depthwise:
        image = _repeat_channels(b, op, image, op.channels // image.wire.channels)
        patches = slide_conv(b, op, image, grouped=True)
        b.give(hw.Depthwise(*_sum_products(b, op, patches, op.weight.reshape(op.channels, -1), 1, order)))
        return
    weight = op.weight.reshape(*op.weight.shape[:2], -1)
    if op.groups > 1:
        weight = _spread_groups(weight, op.groups)
        b.notes.append(
            f"{op.name}: a convolution in {op.groups} groups is built as a dense one with zeros, {op.groups} times "
            "the multiplications and weight memory of its groups."
        )
    patches = slide_conv(b, op, image, grouped=False)
    matrix = weight.transpose(2, 1, 0).reshape(-1, op.channels)  # rows in (kh, kw, c) order, as patches come
    b.give(hw.MatVec(*_sum_products(b, op, patches, matrix, 0, order), spread=op.groups))


def slide_conv(b: Builder, op: Conv, image: Image, grouped: bool) -> Wire:
    """The patches that a convolution multiplies."""
    return slide_window(b, op.name, image, op.kernel, op.strides, op.dilations, op.pads, op.pad_value, grouped)


def slide_window(
    b: Builder,
    name: str,
    image: Image,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    pad: int,
    grouped: bool,
) -> Wire:
    """The patches of an image, or the image itself where every pixel is one patch. `name` is the operation's."""
    wire, height, width = image.wire, image.height, image.width
    top, left, bottom, right = around = (pads[0], pads[1], pads[2], pads[3])
    size, step, spread = (kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1])
    if any(p > (k - 1) * d for p, k, d in zip(around, size * 2, spread * 2, strict=True)):
        # a patch may consist of padding alone, which ge_window does not make
        wire = pad_image(b, f"{name}_pad", image, around, pad)
        height, width, around = height + top + bottom, width + left + right, (0, 0, 0, 0)
    if size == step == (1, 1):
        return wire
    wire = wire.holding(pad) if any(around) else wire
    layer_name = b.names.take(f"{name}_window")
    layer = hw.Window(layer_name, (wire,), (), height, width, size, step, spread, around, pad, grouped)
    rows, columns = layer.out
    total = rows * columns * layer.taps * wire.channels
    patches = replace(
        wire, name=layer_name, edge="", shape=(total,), channels=wire.channels * layer.taps, order=np.arange(total)
    )
    return b.give_inner(replace(layer, results=(patches,)))


def pad_image(b: Builder, name: str, image: Image, pads: tuple[int, int, int, int], value: int) -> Wire:
    """The image with padding around it, as a layer of its own."""
    return b.give_inner(make_pad(b, name, image, pads, value))


def make_pad(b: Builder, name: str, image: Image, pads: tuple[int, int, int, int], value: int) -> hw.Pad:
    """The layer that pads an image; its result carries no edge of the graph."""
    name, wire = b.names.take(name), image.wire.holding(value)
    shape = (wire.channels, image.height + pads[0] + pads[2], image.width + pads[1] + pads[3])
    result = replace(wire, name=name, edge="", shape=shape, order=channels_last(shape))
    return hw.Pad(name, (wire,), (result,), image.height, image.width, pads, value)


def _sum_products(b: Builder, op: Linear, wire: Wire, weight: Ints, axis: int, order: Ints) -> _LinearFields:
    """The fields of a MatVec or Depthwise; `axis` of `weight` is summed over, the other one is the outputs."""
    bits = weight_bits(weight)
    left_out = (weight < 0).sum(axis=axis) * (1 << max(bits - 2, 0))
    correct = not absorb_constants(b, op.output)
    products = np.stack([weight * wire.lo, weight * wire.hi])
    missing = 0 if correct else left_out
    lowest = int((products.min(axis=0).sum(axis=axis) - missing).min())
    highest = int((products.max(axis=0).sum(axis=axis) - missing).max())
    name = b.names.take(op.name)
    offset = ZERO if correct or not np.any(left_out) else left_out
    result = b.make_wire(name, op.output, order, weight.shape[1 - axis], (min(lowest, -1), highest), offset)
    return name, (wire,), (result,), weight, bits, left_out, correct


def absorb_constants(b: Builder, edge: str) -> bool:
    """Whether every reader takes a constant per channel into its own numbers."""
    return all(
        isinstance(reader, Requantise) or (isinstance(reader, Add) and absorb_constants(b, reader.output))
        for reader in b.find_readers(edge)
    )


def _repeat_channels(b: Builder, op: Conv, image: Image, times: int) -> Image:
    """Every channel `times` times in a row: the input of a depthwise convolution with a channel multiplier."""
    if times == 1:
        return image
    b.notes.append(f"{op.name}: a depthwise convolution with multiplier {times} reads every channel {times} times.")
    wire, name = image.wire, b.names.take(f"{op.name}_repeat")
    shape = (wire.channels * times, *wire.shape[1:])
    flat = replace(wire, channels=1)  # a row per pixel, each channel a point of it
    result = replace(wire, name=name, edge="", shape=shape, order=channels_last(shape), channels=1)
    repeat = hw.Upsample(name, (flat,), (result,), wire.pixels, wire.channels, (1, times))
    return replace(image, wire=replace(b.give_inner(repeat), channels=shape[0]))


def _spread_groups(weight: Ints, groups: int) -> Ints:
    """(O, I/g, taps) of a grouped convolution as the (O, I, taps) of a dense one, zero outside the groups."""
    outputs, per_group, taps = weight.shape
    dense = np.zeros((outputs, per_group * groups, taps), np.int64)
    for g in range(groups):
        rows = slice(g * outputs // groups, (g + 1) * outputs // groups)
        dense[rows, g * per_group : (g + 1) * per_group] = weight[rows]
    return dense
