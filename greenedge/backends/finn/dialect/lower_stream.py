"""Rules for the input, layers without weights, and what is no layer at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.builder import Builder, channels_last, make_join, make_reorder
from greenedge.backends.finn.dialect.ends import give_input
from greenedge.backends.finn.dialect.layer import Wire
from greenedge.backends.finn.dialect.lower_mvu import make_pad, slide_window
from greenedge.backends.finn.dialect.supported import RULES
from greenedge.backends.finn.dialect.thresholding import MAX_STEPS, MAX_TABLE, make_step
from greenedge.errors import ReasonKind
from greenedge.graph import (
    Add,
    ArgMax,
    Concat,
    DepthToSpace,
    Edge,
    Gather,
    Input,
    MaxPool,
    Multiply,
    Op,
    Pad,
    Requantise,
    Reshape,
    SumPool,
    Transpose,
    Upsample,
)
from greenedge.graph.ops.base import Ints

_MULTIPLIER_BITS = 32  # of ge_add's parameters


@RULES.lowers(Input)
def source(b: Builder, op: Input) -> None:
    """The host sends the elements channels-last, as they lie behind a transposition where that alone reads them."""
    shape = b.graph.edges[op.output].shape
    index = np.arange(int(np.prod(shape))).reshape(1, *shape)
    readers = b.graph.consumers(op.output)
    if len(readers) == 1 and isinstance(readers[0], Transpose):
        index = readers[0].execute([index], None)
    order = index.ravel()[channels_last(index.shape[1:])]
    if len(b.graph.inputs) > 1:
        give_input(b, op, order, index.shape[1] if shape else 1)
        return
    b.source = b.make_wire("s", op.output, order, index.shape[1] if shape else 1)
    b.offer(b.source)


@RULES.lowers(Reshape)
def reshape(b: Builder, op: Reshape) -> None:
    """The same integers in the same sequence, and row-major indices stay what they are."""
    b.view(op.output, *b.order_of(op.inputs[0]))


@RULES.lowers(Transpose)
def transpose(b: Builder, op: Transpose) -> None:
    """The same integers in the same sequence: only the index of each changes."""
    root, order = b.order_of(op.inputs[0])
    shape = b.graph.edges[op.inputs[0]].shape
    moved = np.empty(order.size, np.int64)  # where each element of the input went
    moved[np.arange(order.size).reshape(shape).transpose(op.perm).ravel()] = np.arange(order.size)
    b.view(op.output, root, moved[order])


@RULES.lowers(Gather, DepthToSpace)
def move(b: Builder, op: Op) -> None:
    """A layer that leaves elements out, or gives them in another order, by a table of places."""
    wire = b.take(op.inputs[0])
    b.begin_emission()
    source, shape = b.graph.edges[op.inputs[0]].shape, b.graph.edges[op.output].shape
    index = op.execute([np.arange(wire.total).reshape(1, *source)], None)[0]  # where each element lies in the input
    order = channels_last(shape)
    layer = make_reorder(b.names.take(op.name), wire, index.ravel()[order], shape, order)
    b.give(replace(layer, results=(replace(layer.result, edge=op.output),)))


@RULES.lowers(MaxPool)
def max_pool(b: Builder, op: MaxPool) -> None:
    """Padding with the input's least value never wins."""
    _pool(b, op, op.steps, b.graph.edges[op.inputs[0]].lo, largest=True)


@RULES.lowers(SumPool)
def sum_pool(b: Builder, op: SumPool) -> None:
    _pool(b, op, (1,) * len(op.kernel), op.pad_value, largest=False)


def _pool(b: Builder, op: MaxPool | SumPool, dilations: Sequence[int], fill: int, largest: bool) -> None:
    image = b.take_image(op)
    b.begin_emission()
    wire, order = image.wire, channels_last(b.graph.edges[op.output].shape)
    if op.kernel == (image.height, image.width) and not any(op.pads):
        name = b.names.take(op.name)
        result = b.make_wire(name, op.output, order, wire.channels, (wire.lo, wire.hi) if largest else None)
        b.give(hw.GlobalPool(name, (wire,), (result,), largest))
        return
    patches = slide_window(b, op.name, image, op.kernel, op.strides, dilations, op.pads, fill, grouped=True)
    name = b.names.take(op.name)
    result = b.make_wire(name, op.output, order, wire.channels, (patches.lo, patches.hi) if largest else None)
    b.give(hw.Pool(name, (patches,), (result,), int(np.prod(op.kernel)), largest))


@RULES.lowers(Pad)
def pad(b: Builder, op: Pad) -> None:
    image = b.take_image(op)
    front, top, left, back, bottom, right = op.pads
    more = front + back
    b.require(
        more == 0,
        f"{more} more channels of padding",
        "finn pads rows and columns",
        "concatenate the channels instead, or leave them out",
    )
    b.begin_emission()
    layer = make_pad(b, op.name, image, (top, left, bottom, right), op.value)
    shape = b.graph.edges[op.output].shape
    result = replace(layer.result, edge=op.output, shape=shape, order=channels_last(shape))
    b.give(replace(layer, results=(result,)))


@RULES.lowers(Requantise)
def requantise(b: Builder, op: Requantise) -> None:
    wire = b.take(op.inputs[0])
    name = b.names.take(op.name)
    step = make_step(op, name, wire, b.make_wire(name, op.output, wire.order, wire.channels))
    b.require(
        step is not None,
        f"a function of {wire.hi - wire.lo + 1:,} values that is not monotone",
        f"finn counts at most {MAX_STEPS} steps up and down, or tabulates at most {MAX_TABLE:,} values",
        "use a monotone activation such as ReLU, or quantise to fewer bits before it",
    )
    b.begin_emission()
    assert step is not None
    b.give(step)


@RULES.lowers(Add)
def add(b: Builder, op: Add) -> None:
    """Streams are added as they come; one that comes in another order than the first is put in its order."""
    wires = b.take_all(op)
    b.require(len(wires) > 1, "an Add of one input", "finn adds two or more", "scale in the next quantiser instead")
    widest = max(abs(m).bit_length() for m in op.multipliers)
    b.require(
        widest < _MULTIPLIER_BITS,
        f"a multiplier of {widest} bits",
        f"its adder multiplies by {_MULTIPLIER_BITS - 1} bits and a sign",
        "quantise both branches to 8 bits before they are added",
        ReasonKind.TOO_WIDE,
    )
    b.begin_emission()
    pair = wires[0], b.put_in_order(wires[1], wires[0].order)
    give_sum(b, op, pair, (op.multipliers[0], op.multipliers[1]))


def give_sum(b: Builder, op: Op, pair: tuple[Wire, Wire], factors: tuple[int, int]) -> None:
    """Appends the layer that adds two wires in one order, each times a factor, and writes the edge of `op`."""
    name, about = b.names.take(op.name), b.graph.edges[op.output]
    result = _sum_wires(name, *pair, factors)
    result = replace(  # the edge's proved range may be tighter than the sum of the branches' ranges
        result,
        edge=op.output,
        shape=about.shape,
        lo=max(result.lo, min(-1, about.lo - int(result.offset.max()))),
        hi=min(result.hi, about.hi - int(result.offset.min())),
    )
    b.give(hw.Add(name, pair, (result,), factors))


def _sum_wires(name: str, a: Wire, b: Wire, factors: tuple[int, int]) -> Wire:
    """The wire of factors[0]*a + factors[1]*b; it carries no edge of the graph."""
    ends = [factors[0] * x + factors[1] * y for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    offset = _sum_repeating(factors[0] * a.offset, factors[1] * b.offset)
    low, high, channels = min(*ends, -1), max(ends), max(a.channels, b.channels)
    return replace(a, name=name, edge="", lo=low, hi=high, offset=offset, channels=channels)


def _sum_repeating(a: Ints, b: Ints) -> Ints:
    """Two repeating sequences added: repeats after their common multiple."""
    length = int(np.lcm(len(a), len(b)))
    total: Ints = np.tile(a, length // len(a)) + np.tile(b, length // len(b))
    return total


@RULES.lowers(Multiply)
def multiply(b: Builder, op: Multiply) -> None:
    """Streams are multiplied as they come; a gate is repeated for every pixel or channel that it stands for."""
    wires, shape = b.take_all(op), b.graph.edges[op.output].shape
    b.require(
        len(shape) <= 3 or all(wire.shape == shape for wire in wires),
        f"a gate over {len(shape)} axes",
        "finn repeats rows, columns and channels",
        "use two or fewer spatial axes",
    )
    b.begin_emission()
    if any(wire.shape != shape for wire in wires):
        wires = [_repeat_to(b, op, wire, shape) for wire in wires]
    factors = sorted(zip(wires, op.zeros, strict=True), key=lambda one: _factor_bits(*one), reverse=True)
    (one, other), zeros = (wire for wire, _ in factors), (factors[0][1], factors[1][1])
    other = b.put_in_order(other, one.order)
    name = b.names.take(op.name)
    result = b.make_wire(name, op.output, one.order, max(one.channels, other.channels))
    b.give(hw.Multiply(name, (one, other), (result,), zeros))


def _factor_bits(wire: Wire, zero: int) -> tuple[int, bool]:
    """(bits of the wire's integers minus `zero`, whether some are negative): ge_multiply is smallest where its second
    factor has less of both."""
    low, high = (end - zero for end in wire.representable)
    return Edge("", (), low, high).bits, low < 0


def _repeat_to(b: Builder, op: Multiply, wire: Wire, shape: tuple[int, ...]) -> Wire:
    """The wire, channels-last, with every axis of one element repeated to that of `shape`, by layers of their own."""
    wire = replace(b.put_in_order(wire, channels_last(wire.shape)), channels=wire.shape[0])
    (channels, *size), (more, *wanted) = ((*of, 1, 1)[:3] for of in (wire.shape, shape))
    pixels = int(np.prod(size))
    if pixels > 1 or channels == more:
        factors = wanted[0] // size[0], wanted[1] // size[1]
        if factors != (1, 1):
            inside = (channels, *shape[1:])
            wire = _repeat(b, op, wire, channels, (size[0], size[1]), factors, inside)
        if channels == more:
            return wire
        return replace(_repeat(b, op, wire, 1, (wire.total, 1), (1, more), shape), channels=more)
    return replace(_repeat(b, op, wire, 1, (1, 1), (int(np.prod(wanted)), more), shape), channels=more)


def _repeat(
    b: Builder,
    op: Multiply,
    wire: Wire,
    channels: int,
    size: tuple[int, int],
    factors: tuple[int, int],
    shape: tuple[int, ...],
) -> Wire:
    """The wire, taken as an image of `size` pixels of so many channels, repeated; its result has `shape`."""
    name = b.names.take(f"{op.name}_repeat")
    result = replace(wire, name=name, edge="", shape=shape, order=channels_last(shape), channels=channels)
    return b.give_inner(hw.Upsample(name, (replace(wire, channels=channels),), (result,), *size, factors))


@RULES.lowers(Concat)
def concat(b: Builder, op: Concat) -> None:
    """A chain of joins of two, each in turns: a pixel's channels, or a row or image of them; of tensors that all travel
    row-major (tokens), what lies behind the axis."""
    wires = b.take_all(op)
    b.require(len(wires) > 1, "a Concat of one input", "finn joins two or more", "leave it out")
    b.begin_emission()
    in_rows = not _all_in_order(wires, channels_last) and _all_in_order(wires, _row_major)
    if in_rows:
        chunks = [int(np.prod(wire.shape[op.axis :])) for wire in wires]
    else:
        wires = [b.require_channels_last(op, wire) for wire in wires] if len(wires[0].shape) > 1 else wires
        chunks = [wire.shape[0] * (int(np.prod(wire.shape[op.axis :])) if op.axis else 1) for wire in wires]
    total, taken, joins_pixels = wires[0], chunks[0], in_rows or op.axis == 0
    for k, (wire, chunk) in enumerate(zip(wires[1:-1], chunks[1:-1], strict=True), 2):
        name = b.names.take(f"{op.name}_of_{k}")
        layer = make_join(name, total, wire, (taken, chunk), joins_pixels)
        total, taken = b.give_inner(layer), taken + chunk
    layer = make_join(b.names.take(op.name), total, wires[-1], (taken, chunks[-1]), joins_pixels)
    shape = b.graph.edges[op.output].shape
    starts = np.cumsum([0, *chunks[:-1]])
    flat = np.concatenate([wire.order + start for wire, start in zip(wires, starts, strict=True)])
    order = _row_major(shape) if in_rows else channels_last(shape) if len(shape) > 1 else flat
    b.give(replace(layer, results=(replace(layer.result, edge=op.output, shape=shape, order=order),)))


def _row_major(shape: tuple[int, ...]) -> Ints:
    return np.arange(int(np.prod(shape)))


def _all_in_order(wires: Sequence[Wire], order_of: Callable[[tuple[int, ...]], Ints]) -> bool:
    return all(np.array_equal(wire.order, order_of(wire.shape)) for wire in wires)


@RULES.lowers(Upsample)
def upsample(b: Builder, op: Upsample) -> None:
    image = b.take_image(op)
    channels, rows, columns = op.factors
    b.require(
        channels == 1,
        f"{channels} times as many channels",
        "finn repeats rows and columns",
        "upsample rows and columns only",
    )
    b.begin_emission()
    name, shape = b.names.take(op.name), b.graph.edges[op.output].shape
    result = replace(image.wire, name=name, edge=op.output, shape=shape, order=channels_last(shape))
    b.give(hw.Upsample(name, (image.wire,), (result,), image.height, image.width, (rows, columns)))


@RULES.lowers(ArgMax)
def arg_max(b: Builder, op: ArgMax) -> None:
    wire = b.take(op.inputs[0])
    shape = b.graph.edges[op.inputs[0]].shape
    b.require(
        op.axis == 0,
        f"an ArgMax along axis {op.axis} of {shape}",
        "finn compares channels, as they come one after another",
        "take it over the channels, or on the host",
    )
    b.begin_emission()
    wire = b.put_in_order(wire, channels_last(shape))
    name = b.names.take(op.name)
    result = b.make_wire(name, op.output, channels_last(b.graph.edges[op.output].shape), 1)
    b.give(hw.ArgMax(name, (replace(wire, channels=shape[0]),), (result,)))
