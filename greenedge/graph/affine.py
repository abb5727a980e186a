"""The affine form of a step function: integers m, b, s with clip((m*x + b) >> s, lo, hi) equal to it on every reachable
x.

Level k is reached from threshold T_k on, so (m, b, s) is right iff for every reachable threshold, with P = 2**s,

    m*T_k + b >= k*P          level k is reached at T_k          ("reach")
    m*(T_k - 1) + b < k*P     and not one below                  ("stay")

At the ends of the reachable range the conditions are one-sided. For given s and m the b that satisfy all of them are
the integers of one interval [B(m), C(m)], B = max(k*P - m*X) over "reach", C = min(k*P - 1 - m*X) over "stay". C - B is
concave in m, so its maximum over the integers is found by bisection on its slope. It is P*g(m/P) - 1 with one g for all
P, so the maximum for the largest s says where those for all smaller s lie; and doubling a solution for s gives one for
s + 1, so the smallest s is found by bisection too. Everything runs over all channels at once, in integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greenedge.graph.ops import Affine
from greenedge.graph.ops.base import Array, Ints

MAX_SHIFT = 47
_SAFE = 1 << 61  # bound on intermediate products in int64; rows beyond it are solved with Python's integers
_NEVER = 1 << 61
_FEW_CONDITIONS = 24  # of a channel, which are not worth a thought


@dataclass(frozen=True)
class _Conditions:
    """(C, n) arrays: m*reach_x + b >= reach_k*P and m*stay_x + b < stay_k*P, where the mask says the condition
    exists."""

    reach_x: Array
    reach_k: Array
    reach: NDArray[np.bool_]
    stay_x: Array
    stay_k: Array
    stay: NDArray[np.bool_]

    def select(self, rows: Ints) -> _Conditions:
        """The conditions of some channels."""
        return _Conditions(
            self.reach_x[rows],
            self.reach_k[rows],
            self.reach[rows],
            self.stay_x[rows],
            self.stay_k[rows],
            self.stay[rows],
        )

    def as_objects(self) -> _Conditions:
        """The same conditions in Python's integers, which do not overflow."""
        reach_x, reach_k, stay_x, stay_k = (
            part.astype(object) for part in (self.reach_x, self.reach_k, self.stay_x, self.stay_k)
        )
        return _Conditions(reach_x, reach_k, self.reach, stay_x, stay_k, self.stay)


_Solution = tuple[Array, Array, NDArray[np.bool_]]  # m, b, and whether they meet all conditions, per channel


def fit_affine(thresholds: Ints, lo: int, hi: int, x_lo: Ints, x_hi: Ints) -> Affine | None:
    """The affine form with the smallest shift of each channel, for rising thresholds (C, hi-lo).

    Exact for every x in [x_lo[c], x_hi[c]]: all conditions hold in integers. None where some channel has no solution
    with s <= 47 (the conditions are then contradictory, or need a longer multiplier).
    """
    return _fit(_conditions(thresholds, lo, hi, x_lo, x_hi))


def fit_affine_between(below: Ints, above: Ints, lo: int) -> Affine | None:
    """As `fit_affine`, where level lo + 1 + k need only be reached somewhere after below[c, k] and at above[c, k] at
    the latest (C, L): for inputs that take some integers only. An end of int64 stands for no such integer."""
    return _fit(_conditions_between(below, above, lo))


def find_affine_between(below: Ints, above: Ints, lo: int) -> NDArray[np.bool_]:
    """(C,) in which channels `fit_affine_between` finds a form."""
    conditions = _conditions_between(below, above, lo)
    slopes = _bound_slopes(conditions)
    return _solve(_keep_decisive(conditions, slopes), slopes, np.full(len(below), MAX_SHIFT))[2]


def _conditions_between(below: Ints, above: Ints, lo: int) -> _Conditions:
    k = np.broadcast_to(np.arange(lo + 1, lo + 1 + below.shape[1]), below.shape)
    ends = np.iinfo(np.int64)
    return _Conditions(above, k, above < ends.max, below, k, below > ends.min)


def _fit(conditions: _Conditions) -> Affine | None:
    """The form with the smallest shift of each channel that meets the conditions."""
    channels = len(conditions.reach)
    slopes = _bound_slopes(conditions)
    conditions = _keep_decisive(conditions, slopes)
    m, b, found = _solve(conditions, slopes, np.full(channels, MAX_SHIFT))
    if not found.all():
        return None
    peak = m.copy()
    infeasible, s = np.full(channels, -1), np.full(channels, MAX_SHIFT)
    while (open_rows := np.flatnonzero(s - infeasible > 1)).size:
        middle = (s + infeasible)[open_rows] // 2
        m_new, b_new, found = _solve(conditions.select(open_rows), slopes.select(open_rows), middle, peak[open_rows])
        good = open_rows[found]
        m[good], b[good], s[good] = m_new[found], b_new[found], middle[found]
        infeasible[open_rows[~found]] = middle[~found]
    if any(abs(int(value)) >= 1 << 62 for value in (*m, *b)):
        return None
    return Affine(m.astype(np.int64), b.astype(np.int64), s.astype(np.int64))


def _conditions(thresholds: Ints, lo: int, hi: int, x_lo: Ints, x_hi: Ints) -> _Conditions:
    """The conditions of every channel: one of each kind for each step inside its range, and one-sided ones at its
    ends."""
    channels, count = thresholds.shape
    k = np.broadcast_to(np.arange(lo + 1, hi + 1), (channels, count))
    low, high = x_lo[:, None], x_hi[:, None]
    inside = (thresholds > low) & (thresholds <= high)
    base = lo + (thresholds <= low).sum(axis=1, keepdims=True)  # level at x_lo
    top = lo + (thresholds <= high).sum(axis=1, keepdims=True)  # level at x_hi
    return _Conditions(
        np.hstack([thresholds, low]),
        np.hstack([k, base]),
        np.hstack([inside, base > lo]),
        np.hstack([thresholds - 1, high]),
        np.hstack([k, top + 1]),
        np.hstack([inside, top < hi]),
    )


@dataclass(frozen=True)
class _Slopes:
    """(C,) low_rise/low_run <= m/P <= rise/run for whatever m and P meet a channel's conditions; `extent`, at least 1,
    is the largest distance between two x of them."""

    low_rise: Ints
    low_run: Ints
    rise: Ints
    run: Ints
    extent: Ints

    def select(self, rows: Ints) -> _Slopes:
        """The bounds of some channels."""
        return _Slopes(self.low_rise[rows], self.low_run[rows], self.rise[rows], self.run[rows], self.extent[rows])

    def bound(self, s: Ints) -> tuple[Array, Array]:
        """(C,) least and largest m for P = 2**s, Python's integers."""
        powers = [1 << int(shift) for shift in s]
        low = [-(-a * p // b) for a, b, p in zip(self.low_rise.tolist(), self.low_run.tolist(), powers, strict=True)]
        high = [a * p // b for a, b, p in zip(self.rise.tolist(), self.run.tolist(), powers, strict=True)]
        return np.array(low, object), np.array(high, object)


def _bound_slopes(conditions: _Conditions) -> _Slopes:
    """What bounds the slopes that need be tried.

    Between the first "reach" and the last "stay" condition the line rises by less than (stay_k - reach_k) * P over
    stay_x - reach_x steps, and between the first "stay" and the last "reach" by more. Where the former says nothing,
    one step may climb through all levels. Without one kind of condition a channel is constant on its range: m is 0.
    """
    both = np.logical_and(conditions.reach.any(axis=1), conditions.stay.any(axis=1))
    ends = np.iinfo(np.int64)
    rows = np.arange(len(conditions.reach))

    def find_ends(x: Array, k: Array, mask: NDArray[np.bool_]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """(x, k) of the first condition and of the last."""
        first, last = np.where(mask, x, ends.max).argmin(axis=1), np.where(mask, x, ends.min).argmax(axis=1)
        return (x[rows, first], k[rows, first]), (x[rows, last], k[rows, last])

    first_reach, last_reach = find_ends(conditions.reach_x, conditions.reach_k, conditions.reach)
    first_stay, last_stay = find_ends(conditions.stay_x, conditions.stay_k, conditions.stay)
    run, rise = last_stay[0] - first_reach[0], last_stay[1] - first_reach[1]
    k = np.hstack([conditions.reach_k, conditions.stay_k])
    used = np.hstack([conditions.reach, conditions.stay])
    whole = np.where(used, k, ends.min).max(axis=1) - np.where(used, k, ends.max).min(axis=1)
    rise, run = np.where(run > 0, np.maximum(rise, 1), whole + 2), np.maximum(run, 1)
    low_run, low_rise = last_reach[0] - first_stay[0], last_reach[1] - first_stay[1]
    climbs = both & (low_run > 0) & (low_rise > 0)
    return _Slopes(
        np.where(climbs, low_rise, 0),
        np.where(climbs, low_run, 1),
        np.where(both, rise, 0),
        np.where(both, run, 1),
        _extent(conditions),
    )


def _extent(conditions: _Conditions) -> Ints:
    """Largest distance between two x of a channel's conditions, at least 1."""
    x = np.hstack([conditions.reach_x, conditions.stay_x])
    used = np.hstack([conditions.reach, conditions.stay])
    low = np.where(used, x, np.iinfo(np.int64).max).min(axis=1)
    high = np.where(used, x, np.iinfo(np.int64).min).max(axis=1)
    return np.where(used.any(axis=1), np.maximum(high - np.minimum(low, high), 1), 1)


def _keep_decisive(conditions: _Conditions, slopes: _Slopes) -> _Conditions:
    """The conditions without most of those that others imply for all slopes within the bounds.

    B(m) is the largest of k*P - m*X: a condition that is below another at both bounds is below it between them. C(m) is
    the least.
    """
    reach = _prune(conditions.reach_x, conditions.reach_k, conditions.reach, slopes, 1)
    stay = _prune(conditions.stay_x, conditions.stay_k, conditions.stay, slopes, -1)
    return _Conditions(*reach, *stay)


def _prune(
    x: Array, k: Array, mask: NDArray[np.bool_], slopes: _Slopes, sign: int
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """(x, k, mask) of what is left; k counts times `sign`.

    Each is compared with the three that decide at the bounds and between them.
    """
    run, steepest = int(max(slopes.run.max(), slopes.low_run.max())), int(max(slopes.rise.max(), slopes.low_rise.max()))
    levels = int(np.abs(np.where(mask, k, 0)).max(initial=0))
    if mask.shape[1] < _FEW_CONDITIONS or levels * run + steepest * int(slopes.extent.max()) >= _SAFE:
        return x, k, mask
    rows = np.arange(len(x))
    origin = x[rows, mask.argmax(axis=1)]
    dx = np.where(mask, x - origin[:, None], 0)
    ends = [
        np.where(mask, sign * (k * run[:, None] - rise[:, None] * dx), -_SAFE)
        for rise, run in ((slopes.low_rise, slopes.low_run), (slopes.rise, slopes.run))
    ]
    between = ends[0] / slopes.low_run[:, None] + ends[1] / slopes.run[:, None]
    kept, decisive = mask.copy(), [each.argmax(axis=1) for each in (*ends, between)]
    for at in decisive:
        kept &= (ends[0] > ends[0][rows, at, None]) | (ends[1] > ends[1][rows, at, None])
    for at in decisive:
        kept[rows, at] = mask[rows, at]
    order = np.argsort(~kept, axis=1, kind="stable")[:, : max(int(kept.sum(axis=1).max()), 1)]
    return tuple(np.take_along_axis(part, order, axis=1) for part in (x, k, kept))  # type: ignore[return-value]


def _solve(conditions: _Conditions, slopes: _Slopes, s: Ints, peak: Array | None = None) -> _Solution:
    """(m, b, found) per channel for the given shifts; m and b are object arrays (Python integers).

    peak    the m with the widest interval for MAX_SHIFT, where it is known
    """
    channels = len(s)
    m, b = np.zeros(channels, object), np.zeros(channels, object)
    found = np.zeros(channels, bool)
    low, high = slopes.bound(s)
    safe = np.array([(top + 1) * extent < _SAFE for top, extent in zip(high, slopes.extent.tolist(), strict=True)])
    for rows, kind in ((np.flatnonzero(safe), np.int64), (np.flatnonzero(~safe), object)):
        if rows.size:
            part = conditions.select(rows) if kind is np.int64 else conditions.select(rows).as_objects()
            bounds = low[rows].astype(kind), high[rows].astype(kind)
            m[rows], b[rows], found[rows] = _search(part, s[rows], bounds, None if peak is None else peak[rows])
    return m, b, found


def _search(conditions: _Conditions, s: Ints, bounds: tuple[Array, Array], peak: Array | None) -> _Solution:
    """The m with the widest interval, of those within the bounds; all rows together, in the bounds' kind of integers:
    int64 or Python's."""
    kind = bounds[0].dtype
    # With x and k counted from the first "reach" condition the products stay small; b is put back at the end.
    start = np.where(conditions.reach.any(axis=1), conditions.reach.argmax(axis=1), 0)
    rows = np.arange(len(s))
    x0, k0 = conditions.reach_x[rows, start], conditions.reach_k[rows, start]
    power: Array = np.array([1 << int(shift) for shift in s], dtype=kind)
    never: Array = np.array(_NEVER, dtype=kind)
    reach_x: Array = np.where(conditions.reach, conditions.reach_x - x0[:, None], 0).astype(kind)
    stay_x: Array = np.where(conditions.stay, conditions.stay_x - x0[:, None], 0).astype(kind)
    reach_k = np.where(conditions.reach, (conditions.reach_k - k0[:, None]).astype(kind) * power[:, None], -never)
    stay_k = np.where(conditions.stay, (conditions.stay_k - k0[:, None]).astype(kind) * power[:, None] - 1, never)

    def interval(m: Array) -> tuple[Array, Array]:
        """[B(m), C(m)], empty where B > C."""
        return (reach_k - m[:, None] * reach_x).max(axis=1), (stay_k - m[:, None] * stay_x).min(axis=1)

    def width(m: Array) -> Array:
        low, high = interval(m)
        return high - low

    m = _climb_to_peak(width, *bounds) if peak is None else _choose_near(width, *bounds, peak, s)
    b_low, b_high = interval(m)
    found = (b_low <= b_high) & (bounds[0] <= bounds[1])
    # A channel without one kind of condition is constant on its range: any b on the right side will do.
    b = np.where(b_low > -never, b_low, b_high) + k0 * power - m * x0
    return m, b, found


def _climb_to_peak(width: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """The first m of `low` to `high` at which a concave function is largest, by bisection on its slope."""
    while (low < high).any():
        middle = (low + high) // 2
        rising = width(middle + 1) > width(middle)
        open_rows = low < high
        low, high = np.where(open_rows & rising, middle + 1, low), np.where(open_rows & ~rising, middle, high)
    return low


def _choose_near(width: Callable[[Array], Array], low: Array, high: Array, peak: Array, s: Ints) -> Array:
    """The m of `low` to `high` at which the interval is widest for s, from that for MAX_SHIFT.

    The largest value of g lies between peak - 1 and peak + 1, times 2**-MAX_SHIFT; that of a concave function over
    integers is next to it, on one of its two sides.
    """
    shift = np.array([1 << (MAX_SHIFT - int(one)) for one in s], object)
    first = ((peak - 1) // shift).astype(low.dtype)
    near = np.stack([np.clip(first + k, low, high) for k in range(3)])
    widths = np.stack([width(m) for m in near])
    chosen: Array = near[widths.argmax(axis=0), np.arange(len(s))]
    return chosen
