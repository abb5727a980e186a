"""Layers without weights, the input, and what is no layer at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.builder import MAX_BITS, Builder, Refused, channels_last, too_wide
from greenedge.backends.finn.dialect.lower_mvu import image, padded, pair, window
from greenedge.backends.finn.dialect.thresholding import MAX_TABLE, step_of
from greenedge.errors import ReasonKind
from greenedge.graph import (
    Add,
    ArgMax,
    Concat,
    Input,
    MaxPool,
    Op,
    Pad,
    Requantise,
    Reshape,
    SumPool,
    Transpose,
    Upsample,
)


def source(builder: Builder, op: Input) -> None:
    edge = builder.graph.edges[op.output]
    order = channels_last(edge.shape)
    builder.source = builder.wire("s", op.output, order, edge.shape[0] if edge.shape else 1)
    builder.offer(builder.source)
    if edge.bits > MAX_BITS:
        raise too_wide(f"input of {edge.bits} bits")


def view(builder: Builder, op: Reshape | Transpose) -> None:
    """The same integers in the same sequence: only what each is called changes."""
    root, order = builder.views.get(op.inputs[0], (op.inputs[0], None))
    if root not in builder.free:
        return
    shape = builder.graph.edges[op.inputs[0]].shape
    order = builder.written(root).order if order is None else order
    if isinstance(op, Transpose):  # where each element of the input went
        moved = np.empty(order.size, np.int64)
        moved[np.arange(order.size).reshape(shape).transpose(op.perm).ravel()] = np.arange(order.size)
        order = moved[order]
    builder.views[op.output] = (root, order)


def pool(builder: Builder, op: MaxPool | SumPool) -> None:
    wire = builder.take(op.inputs[0])
    if wire is None:
        return
    wire, height, width = image(builder, op, wire)
    largest = isinstance(op, MaxPool)
    fill = builder.graph.edges[op.inputs[0]].lo if largest else op.pad_value  # padding never wins
    order = channels_last(builder.graph.edges[op.output].shape)
    if pair(op.kernel) == (height, width) and not any(op.pads):
        name = builder.names.take(op.name)
        same = {"lo": wire.lo, "hi": wire.hi} if largest else {}
        builder.give(
            hw.GlobalPool(name, (wire,), (builder.wire(name, op.output, order, wire.channels, **same),), largest)
        )
        return
    patches = window(builder, op, wire, op.kernel, op.strides, getattr(op, "dilations", ()), op.pads, fill, True)
    name = builder.names.take(op.name)
    same = {"lo": patches.lo, "hi": patches.hi} if largest else {}
    result = builder.wire(name, op.output, order, wire.channels, **same)
    builder.give(hw.Pool(name, (patches,), (result,), int(np.prod(op.kernel)), largest))


def pad(builder: Builder, op: Pad) -> None:
    wire = builder.take(op.inputs[0])
    if wire is None:
        return
    wire, height, width = image(builder, op, wire)
    half = len(op.pads) // 2
    if op.pads[0] or op.pads[half]:
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"{op.pads[0] + op.pads[half]} more channels of padding",
            "finn pads rows and columns",
            "concatenate the channels instead, or leave them out",
        )
    (top, left), (bottom, right) = pair(op.pads[1:half], 0), pair(op.pads[half + 1 :], 0)
    made = padded(builder, op.name, wire, height, width, (top, left, bottom, right), op.value)
    shape = builder.graph.edges[op.output].shape
    builder.give(
        replace(builder.layers.pop(), results=(replace(made, edge=op.output, shape=shape, order=channels_last(shape)),))
    )


def requantise(builder: Builder, op: Requantise) -> None:
    edge = builder.graph.edges[op.output]
    if edge.bits > MAX_BITS:
        builder.refuse(op.name, *too_wide(f"output of {edge.bits} bits").args)
    wire = builder.take(op.inputs[0])
    if wire is None:
        return
    name = builder.names.take(op.name)
    made = step_of(op, name, wire, builder.wire(name, op.output, wire.order, wire.channels))
    if made is None:
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"a function of {wire.hi - wire.lo + 1:,} values that is not monotone",
            f"finn counts thresholds, or tabulates at most {MAX_TABLE:,} values",
            "use a monotone activation such as ReLU, or quantise to fewer bits before it",
        )
    builder.give(made)


def add(builder: Builder, op: Add) -> None:
    wires = builder.sources(op)
    if wires is None:
        return
    if len(wires) == 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            "an Add of one input",
            "finn adds two or more",
            "scale in the next quantiser instead",
        )
    if any(not np.array_equal(wire.order, wires[0].order) for wire in wires):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            "branches whose elements come in another order",
            "finn adds streams as they come",
            "reshape or transpose both branches alike",
        )
    total, factor = wires[0], op.multipliers[0]
    for k, (wire, other) in enumerate(zip(wires[1:], op.multipliers[1:]), 2):
        last = k == len(wires)
        name = builder.names.take(op.name if last else f"{op.name}_of_{k}")
        ends = [(factor * a + other * b) for a in (total.lo, total.hi) for b in (wire.lo, wire.hi)]
        offset = _sum_of(factor * total.offset, other * wire.offset)
        result = replace(
            total,
            name=name,
            edge="",
            lo=min(*ends, -1),
            hi=max(ends),
            offset=offset,
            channels=max(total.channels, wire.channels),
        )
        if last:
            about = builder.graph.edges[op.output]  # its proved range may be tighter
            result = replace(
                result,
                edge=op.output,
                shape=about.shape,
                lo=max(result.lo, min(-1, about.lo - int(offset.max()))),
                hi=min(result.hi, about.hi - int(offset.min())),
            )
        layer = hw.Add(name, (total, wire), (result,), (factor, other))
        if last:
            builder.give(layer)
        else:
            total, factor = builder.inner(layer), 1


def _sum_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two repeating sequences added: repeats after their common multiple."""
    length = int(np.lcm(len(a), len(b)))
    return np.tile(a, length // len(a)) + np.tile(b, length // len(b))


def concat(builder: Builder, op: Concat) -> None:
    wires = builder.sources(op)
    if wires is None:
        return
    if len(wires[0].shape) > 1:
        wires = [image(builder, op, wire)[0] for wire in wires]
    # integers of each branch per turn: a pixel's channels, or a row or image of them
    chunks = [w.shape[0] * (int(np.prod(w.shape[op.axis :])) if op.axis else 1) for w in wires]
    total, taken = wires[0], chunks[0]
    out = builder.graph.edges[op.output].shape
    for k, (wire, chunk) in enumerate(zip(wires[1:], chunks[1:]), 2):
        last = k == len(wires)
        name = builder.names.take(op.name if last else f"{op.name}_of_{k}")
        both = (total.holding(wire.lo, wire.hi), wire.holding(total.lo, total.hi))
        channels = taken + chunk if op.axis == 0 else total.channels
        result = replace(
            both[0],
            name=name,
            edge="",
            shape=(total.total + wire.total,),
            order=np.arange(total.total + wire.total),
            channels=channels,
        )
        if last:
            order = (
                channels_last(out)
                if len(out) > 1
                else np.concatenate([w.order + start for w, start in zip(wires, _starts(chunks))])
            )
            result = replace(result, edge=op.output, shape=out, order=order)
        layer = hw.Concat(name, both, (result,), (taken, chunk))
        if last:
            builder.give(layer)
        else:
            total, taken = builder.inner(layer), taken + chunk


def _starts(chunks: list[int]) -> list[int]:
    return [sum(chunks[:k]) for k in range(len(chunks))]


def upsample(builder: Builder, op: Upsample) -> None:
    wire = builder.take(op.inputs[0])
    if wire is None:
        return
    wire, height, width = image(builder, op, wire)
    if op.factors[0] != 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"{op.factors[0]} times as many channels",
            "finn repeats rows and columns",
            "upsample rows and columns only",
        )
    name = builder.names.take(op.name)
    order = channels_last(builder.graph.edges[op.output].shape)
    result = replace(wire, name=name, edge=op.output, shape=builder.graph.edges[op.output].shape, order=order)
    builder.give(hw.Upsample(name, (wire,), (result,), height, width, pair(op.factors[1:])))


def arg_max(builder: Builder, op: ArgMax) -> None:
    wire = builder.take(op.inputs[0])
    if wire is None:
        return
    shape = builder.graph.edges[op.inputs[0]].shape
    if op.axis or not np.array_equal(wire.order, channels_last(shape)):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"an ArgMax along axis {op.axis} of {shape}",
            "finn compares channels, as they come one after another",
            "take it over the channels, or on the host",
        )
    name = builder.names.take(op.name)
    result = builder.wire(name, op.output, channels_last(builder.graph.edges[op.output].shape), 1)
    builder.give(hw.ArgMax(name, (replace(wire, channels=shape[0]),), (result,)))


def unbuilt(value: str, cure: str) -> Callable[[Builder, Op], None]:
    def build(builder: Builder, op: Op) -> None:
        raise Refused(ReasonKind.UNSUPPORTED_OP, value, "finn has no unit for it", cure)

    return build
