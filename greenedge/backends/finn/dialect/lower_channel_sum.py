"""The rule of sums whose branches have a factor for each channel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.builder import Builder
from greenedge.backends.finn.dialect.layer import ZERO, Wire, divisors
from greenedge.backends.finn.dialect.lower_mvu import absorb_constants
from greenedge.backends.finn.dialect.lower_stream import give_sum
from greenedge.backends.finn.dialect.supported import RULES, weight_bits
from greenedge.graph import ChannelAdd
from greenedge.graph.ops.base import Ints


@RULES.lowers(ChannelAdd)
def channel_add(b: Builder, op: ChannelAdd) -> None:
    """A depthwise unit of one tap multiplies each branch, whose factors lie in its memory; then the streams are added
    as they come."""
    wires = b.take_all(op)
    b.require(len(wires) == 2, f"{len(wires)} branches", "finn adds two", "add them two by two")
    b.begin_emission()
    wires = [wires[0], b.put_in_order(wires[1], wires[0].order)]
    terms, factors = zip(*(_scale(b, op, wire, k) for k, wire in enumerate(wires)), strict=True)
    give_sum(b, op, (terms[0], terms[1]), (factors[0], factors[1]))


def _scale(b: Builder, op: ChannelAdd, wire: Wire, k: int) -> tuple[Wire, int]:
    """(wire, factor) with factor * wire the term of branch `k`; the wire itself where one factor serves all."""
    sequence = _repeat_factors(op, wire, k)
    if len(sequence) == 1:
        return wire, int(sequence[0])
    weight, name = sequence[:, None], b.names.take(f"{op.name}_times{k}")
    bits, wire = weight_bits(weight), replace(wire, channels=len(sequence))
    left_out = (sequence < 0) * (1 << max(bits - 2, 0))
    correct = not absorb_constants(b, op.output)
    ends = np.stack([sequence * wire.lo, sequence * wire.hi]) - (0 if correct else left_out)
    result = replace(
        wire,
        name=name,
        edge="",
        lo=min(int(ends.min()), -1),
        hi=int(ends.max()),
        offset=ZERO if correct or not left_out.any() else left_out,
    )
    layer = hw.Depthwise(name, (wire,), (result,), weight, bits, left_out, correct)
    return b.give_inner(layer), 1


def _repeat_factors(op: ChannelAdd, wire: Wire, k: int) -> Ints:
    """The factors of branch `k` in the order of the stream, as far as they do not repeat."""
    shape = wire.shape
    channel = np.arange(wire.total) // int(np.prod(shape[op.axis + 1 :], dtype=np.int64)) % shape[op.axis]
    sequence: Ints = op.multipliers[k, channel[wire.order]]
    for period in divisors(len(sequence)):
        turns = sequence.reshape(-1, period)
        if (turns == turns[0]).all():
            return turns[0]
    return sequence
