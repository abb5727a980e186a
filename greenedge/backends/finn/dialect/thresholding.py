"""Requantisations for hardware: the forms of a step function over what really travels on a wire, and how often it repeats.

With value = h + offset on the wire: clip((m*value + b) >> s) = clip((m*h + m*offset + b) >> s); value >= T is h >= T - offset,
and where the function falls, -value >= T is h < 1 - T - offset.
"""

from __future__ import annotations

import numpy as np

from greenedge.backends.finn.dialect.ops import Step, Wire
from greenedge.graph import Affine, Requantise, Steps, Table

MAX_TABLE = 4096  # values of h that are tabulated
MAX_MULTIPLIER_BITS = 32


def step_of(op: Requantise, name: str, wire: Wire, result: Wire) -> Step | None:
    """The layer, None where no form exists that hardware computes."""
    channel, period = _channels(op, wire)
    offset = np.tile(wire.offset, period // len(wire.offset))
    of = lambda values: values[channel % len(values)]
    affine = (
        None if op.affine is None else common_shift(Affine(of(op.affine.m), of(op.affine.b), of(op.affine.s)), offset)
    )
    falls, thresholds, table = np.zeros(period, bool), None, None
    if isinstance(op.forms, Steps):
        falls, steps = of(op.forms.sign) < 0, of(op.forms.thresholds)
        thresholds = np.where(falls[:, None], 1 - steps, steps) - offset[:, None]
    if affine is None and wire.hi - wire.lo < MAX_TABLE:
        table = _tabulated(op, channel, np.arange(wire.lo, wire.hi + 1) + offset[:, None])
    if affine is None and thresholds is None and table is None:
        return None
    return Step(name, (wire,), (result,), period, op.lo, op.hi, affine, thresholds, falls, table, wire.lo)


def _channels(op: Requantise, wire: Wire) -> tuple[np.ndarray, int]:
    """(channel of the function for each of the first `period` integers, the period after which all repeats)."""
    inner = int(np.prod(wire.shape[op.axis + 1 :]))
    channel = wire.order // inner % wire.shape[op.axis] if op.channels > 1 else np.zeros(wire.total, np.int64)
    for period in (p for p in range(1, wire.total + 1) if wire.total % p == 0 and p % len(wire.offset) == 0):
        if np.all(channel.reshape(-1, period) == channel[:period]):
            return channel[:period], period
    raise AssertionError("every sequence repeats after its own length")


def common_shift(affine: Affine, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray, int] | None:
    """The affine form over h with one shift for all channels: (m, b, s) -> (m*2**d, b*2**d, s + d) computes the same integers.

    None where the function falls or its numbers are too wide for the unit.
    """
    if np.any(affine.m < 0):
        return None
    shift = int(affine.s.max())
    wider = [1 << (shift - int(s)) for s in affine.s]
    m = [int(v) * w for v, w in zip(affine.m, wider)]
    b = [(int(v) + int(a) * int(o)) * w for v, a, o, w in zip(affine.b, affine.m, offset, wider)]
    if max(m).bit_length() > MAX_MULTIPLIER_BITS or max(abs(v) for v in b).bit_length() > 60:
        return None
    return np.array(m, np.int64), np.array(b, np.int64), shift


def _tabulated(op: Requantise, channel: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The level of every value (period, size); outside the reachable range any level will do."""
    row = channel % len(op.x_lo)
    values = np.clip(values, op.x_lo[row][:, None], op.x_hi[row][:, None])
    if isinstance(op.forms, Table):
        return op.forms.levels[row[:, None], values - op.x_lo[row][:, None]]
    rising = op.forms.sign[row][:, None] * values
    rows = op.forms.thresholds[row]
    return op.lo + np.stack(
        [np.searchsorted(steps, line, side="right") for steps, line in zip(rows, rising, strict=True)]
    )
