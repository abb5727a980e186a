"""Requantisations for hardware: the forms of a step function over what really travels on a wire, and how often it
repeats.

With value = h + offset on the wire: clip((m*value + b) >> s) = clip((m*h + m*offset + b) >> s); value >= T is h >= T -
offset, and where the function falls, -value >= T is h < 1 - T - offset. A function that rises and falls is its first
level, plus one for each step up that is reached, minus one for each step down. The unit counts steps down that are not
reached instead, from a level lower by all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greenedge.backends.finn.dialect.layer import Wire
from greenedge.backends.finn.dialect.ops import AffineForm, Step
from greenedge.graph import Affine, Requantise, Steps, Table
from greenedge.graph.ops.base import Array, Ints

MAX_TABLE = 4096  # values of h that are tabulated
MAX_STEPS = 512  # thresholds of a channel: all of a function of 8 bits that falls from end to end and rises again
MAX_MULTIPLIER_BITS = 32
_MAX_BIAS_BITS = 60
Bools = NDArray[np.bool_]


def make_step(op: Requantise, name: str, wire: Wire, result: Wire) -> Step | None:
    """The layer, None where no form exists that hardware computes.

    Levels that do not fit the result's type are proved never to occur: the clip ends at the type, and their thresholds
    go.
    """
    least, largest = result.representable
    lo, hi = max(op.lo, least), min(op.hi, largest)
    channel, period = _channels(op, wire)
    offset: Ints = np.tile(wire.offset, period // len(wire.offset))

    def spread(values: Array) -> Array:
        """What a value per channel of the function is for each of the first `period` integers."""
        spread_values: Array = values[channel % len(values)]
        return spread_values

    affine, thresholds, table, start = None, None, None, lo
    falls = np.zeros((period, 0), bool)
    if lo == hi:
        affine = AffineForm(np.zeros(period, np.int64), np.full(period, lo), 0)
        return Step(name, (wire,), (result,), period, lo, hi, affine, None, falls, None)
    if op.affine is not None:
        affine = share_shift(Affine(spread(op.affine.m), spread(op.affine.b), spread(op.affine.s)), offset)
    if isinstance(op.forms, Steps):
        falls, steps = spread(op.forms.sign)[:, None] < 0, spread(op.forms.thresholds)
        steps = steps[:, lo - op.lo : hi - op.lo]
        thresholds, falls = np.where(falls, 1 - steps, steps) - offset[:, None], np.broadcast_to(falls, steps.shape)
    elif (counted := count_steps(op, op.forms)) is not None:
        start, thresholds, falls = counted.start, spread(counted.thresholds) - offset[:, None], spread(counted.falls)
    if affine is None and wire.hi - wire.lo < MAX_TABLE:
        table = _tabulate(op, channel, np.arange(wire.lo, wire.hi + 1) + offset[:, None])
    if affine is None and thresholds is None and table is None:
        return None
    return Step(name, (wire,), (result,), period, lo, hi, affine, thresholds, falls, table, wire.lo, start)


class Counted(NamedTuple):
    """level = start + how many of thresholds (C, steps) are reached, or where `falls` (C, steps) lie above."""

    start: int
    thresholds: Ints
    falls: Bools


def count_steps(op: Requantise, table: Table) -> Counted | None:
    """A function that is not monotone by its steps up and down; None where a channel has too many.

    Channels of fewer steps than others, or of a higher start, have thresholds below all values, or above.
    """
    rows = [levels[: int(high - low) + 1] for levels, low, high in zip(table.levels, op.x_lo, op.x_hi, strict=True)]
    jumps = [np.diff(row) for row in rows]
    starts = [int(row[0]) - int(np.maximum(-jump, 0).sum()) for row, jump in zip(rows, jumps, strict=True)]
    start = min(starts)
    steps = max(own - start + int(np.abs(jump).sum()) for own, jump in zip(starts, jumps, strict=True))
    if steps > MAX_STEPS:
        return None
    never = int(op.x_hi.max()) + 1
    thresholds, falls = np.full((len(rows), steps), never), np.zeros((len(rows), steps), bool)
    for c, (own, jump, low) in enumerate(zip(starts, jumps, op.x_lo, strict=True)):
        always, count = own - start, int(np.abs(jump).sum())
        thresholds[c, :always] = low
        thresholds[c, always : always + count] = int(low) + 1 + np.repeat(np.arange(len(jump)), np.abs(jump))
        falls[c, always : always + count] = np.repeat(jump < 0, np.abs(jump))
    return Counted(start, thresholds, falls)


def _channels(op: Requantise, wire: Wire) -> tuple[Ints, int]:
    """(channel of the function for each of the first `period` integers, the period after which all repeats)."""
    inner = int(np.prod(wire.shape[op.axis + 1 :]))
    channel = wire.order // inner % wire.shape[op.axis] if op.channels > 1 else np.zeros(wire.total, np.int64)
    for period in (p for p in range(1, wire.total + 1) if wire.total % p == 0 and p % len(wire.offset) == 0):
        if np.all(channel.reshape(-1, period) == channel[:period]):
            return channel[:period], period
    raise AssertionError("every sequence repeats after its own length")


def share_shift(affine: Affine, offset: Ints) -> AffineForm | None:
    """The affine form over h with one shift for all channels: (m, b, s) -> (m*2**d, b*2**d, s + d) computes the same
    integers.

    None where the function falls or its numbers are too wide for the unit.
    """
    if np.any(affine.m < 0):
        return None
    shift = int(affine.s.max())
    wider = [1 << (shift - int(s)) for s in affine.s]
    m = [int(v) * w for v, w in zip(affine.m, wider, strict=True)]
    b = [(int(v) + int(a) * int(o)) * w for v, a, o, w in zip(affine.b, affine.m, offset, wider, strict=True)]
    if max(m).bit_length() > MAX_MULTIPLIER_BITS or max(abs(v) for v in b).bit_length() > _MAX_BIAS_BITS:
        return None
    return AffineForm(np.array(m, np.int64), np.array(b, np.int64), shift)


def _tabulate(op: Requantise, channel: Ints, values: Ints) -> Ints:
    """The level of every value (period, size); outside the reachable range any level will do."""
    row = channel % len(op.x_lo)
    values = np.clip(values, op.x_lo[row][:, None], op.x_hi[row][:, None])
    if isinstance(op.forms, Table):
        levels: Ints = op.forms.levels[row[:, None], values - op.x_lo[row][:, None]]
        return levels
    rising = op.forms.sign[row][:, None] * values
    rows = op.forms.thresholds[row]
    counts = [np.searchsorted(steps, line, side="right") for steps, line in zip(rows, rising, strict=True)]
    return op.lo + np.stack(counts)
