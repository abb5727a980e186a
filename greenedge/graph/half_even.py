"""Step functions that round to the nearest level, ties to even, of x times a power of two: they have no affine form.

Level k is reached where round_half_even((x + b) / P) >= k with P = 2**s: at x + b = k*P - P/2 for even k, which a tie
rounds up to, one later for odd k. The steps therefore alternate by one, which no multiply, add and shift gives; a
power-of-two scale without batch norm has them.
"""

from __future__ import annotations

import numpy as np

from greenedge.graph.ops import Affine, Requantise, freeze
from greenedge.graph.ops.base import Ints

_MAX_SHIFT = 46


def half_even(op: Requantise) -> Affine | None:
    """(m, b, s) per channel, m = ±1 and s >= 1, with clip(round_half_even((m*x + b) / 2**s), lo, hi) equal to the step
    function on every reachable x; None where there are none."""
    steps = op.steps
    if steps is None:
        return None
    rows = []
    for thresholds, low, high in zip(steps.thresholds, *op.reach, strict=True):
        row = _fit(thresholds, op.lo, op.hi, int(low), int(high))
        if row is None:
            return None
        rows.append(row)
    return Affine(freeze(steps.sign), freeze([b for b, _ in rows]), freeze([s for _, s in rows]))


def _fit(thresholds: Ints, lo: int, hi: int, x_lo: int, x_hi: int) -> tuple[int, int] | None:
    """(b, s) for one channel over rising x in x_lo…x_hi: tried for every s, b from the first step inside."""
    levels = np.arange(lo + 1, hi + 1)
    inside = (thresholds > x_lo) & (thresholds <= x_hi)
    clipped = np.clip(thresholds, x_lo, x_hi + 1)
    for s in range(1, _MAX_SHIFT):
        half = 1 << (s - 1)
        starts = 2 * half * levels - half + levels % 2
        bases = {int(starts[k] - thresholds[k]) for k in np.flatnonzero(inside)[:1]} or {int(2 * half * lo - x_lo)}
        for b in bases:
            if np.array_equal(np.clip(starts - b, x_lo, x_hi + 1), clipped):
                return b, s
    return None
