"""The affine form of a step function: integers m, b, s with clip((m*x + b) >> s, lo, hi) equal to it on every reachable
x.

Level k is reached from threshold T_k on, so (m, b, s) is right iff for every reachable threshold, with P = 2**s,

    m*T_k + b >= k*P          level k is reached at T_k          ("reach")
    m*(T_k - 1) + b < k*P     and not one below                  ("stay")

At the ends of the reachable range the conditions are one-sided. For given s and m the b that satisfy all of them are
the integers of one interval [B(m), C(m)], B = max(k*P - m*X) over "reach", C = min(k*P - 1 - m*X) over "stay". C - B is
concave in m, so its maximum over the integers is found by bisection on its slope; and doubling a solution for s gives
one for s + 1, so the smallest s is found by bisection too. Everything runs over all channels at once, in integers.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    climb = _steepest_climb(conditions)
    _, _, found = _solve(_keep_decisive(conditions), climb, np.full(len(below), MAX_SHIFT))
    return found


def _conditions_between(below: Ints, above: Ints, lo: int) -> _Conditions:
    k = np.broadcast_to(np.arange(lo + 1, lo + 1 + below.shape[1]), below.shape)
    ends = np.iinfo(np.int64)
    return _Conditions(above, k, above < ends.max, below, k, below > ends.min)


def _fit(conditions: _Conditions) -> Affine | None:
    """The form with the smallest shift of each channel that meets the conditions."""
    channels = len(conditions.reach)
    climb = _steepest_climb(conditions)
    conditions = _keep_decisive(conditions)
    m, b, found = _solve(conditions, climb, np.full(channels, MAX_SHIFT))
    if not found.all():
        return None
    infeasible, s = np.full(channels, -1), np.full(channels, MAX_SHIFT)
    while (open_rows := np.flatnonzero(s - infeasible > 1)).size:
        middle = (s + infeasible)[open_rows] // 2
        m_new, b_new, found = _solve(conditions.select(open_rows), [climb[row] for row in open_rows], middle)
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


def _keep_decisive(conditions: _Conditions) -> _Conditions:
    """The conditions without those that others imply, whatever m and P are.

    B(m) is the largest of k*P - m*X and C(m) the least, so a point (X, k) on or below the line between two others
    decides no B, one on or above it no C: the corners of the two hulls are left, a dozen of 256 steps on a line.
    """
    reach = _prune(conditions.reach_x, conditions.reach_k, conditions.reach, 1)
    stay = _prune(conditions.stay_x, conditions.stay_k, conditions.stay, -1)
    return _Conditions(*reach, *stay)


def _prune(x: Array, k: Array, mask: NDArray[np.bool_], sign: int) -> tuple[Array, Array, NDArray[np.bool_]]:
    """(x, k, mask) without points on or below the line between neighbours, k counted times `sign`.

    Every second point is tried in a round, so that its neighbours stay. What is left after two rounds almost in vain
    may hold more than the corners.
    """
    rows = mask.any(axis=1)
    if not rows.all() or mask.shape[1] < _FEW_CONDITIONS:
        return x, k, mask
    first = mask.argmax(axis=1)[:, None]  # a point that exists stands in for those that do not
    x, k = (np.where(mask, part, np.take_along_axis(part, first, axis=1)) for part in (x, k))
    if int(np.ptp(x, axis=1).max()) * max(int(np.ptp(k, axis=1).max()), 1) >= _SAFE:
        return x, k, np.ones(x.shape, bool)
    order = np.lexsort((sign * k, x), axis=1)
    x, k = (np.take_along_axis(part, order, axis=1) for part in (x, k))
    start, in_vain = 0, 0
    while (count := x.shape[1]) >= _FEW_CONDITIONS and in_vain < 2:
        start = 1 - start
        end = start + (count - start - 1) // 2 * 2  # of the last neighbour that there is
        a, j, c = slice(start, end, 2), slice(start + 1, end, 2), slice(start + 2, end + 1, 2)
        rise, run = sign * (k[:, c] - k[:, a]), x[:, c] - x[:, a]
        gone = np.zeros(x.shape, bool)
        gone[:, j] = sign * (k[:, j] - k[:, a]) * run <= rise * (x[:, j] - x[:, a])
        left = count - int(gone.sum(axis=1).min())
        in_vain = in_vain + 1 if 20 * left > 19 * count else 0
        if left == count:
            continue
        # what goes is put last, and the last point that stays takes its place
        order = np.argsort(gone, axis=1, kind="stable")
        kept = count - gone.sum(axis=1)
        order = np.take_along_axis(order, np.minimum(np.arange(left)[None, :], kept[:, None] - 1), axis=1)
        x, k = (np.take_along_axis(part, order, axis=1) for part in (x, k))
    return x, k, np.ones(x.shape, bool)


def _solve(conditions: _Conditions, climb: Sequence[_Climb], s: Ints) -> _Solution:
    """(m, b, found) per channel for the given shifts; m and b are object arrays (Python integers)."""
    channels = len(s)
    m, b = np.zeros(channels, object), np.zeros(channels, object)
    found = np.zeros(channels, bool)
    bound = np.array([(one.rise << int(shift)) // one.run + 1 for one, shift in zip(climb, s, strict=True)], object)
    safe = np.array([int(limit) * one.extent < _SAFE for limit, one in zip(bound, climb, strict=True)])
    for rows, kind in ((np.flatnonzero(safe), np.int64), (np.flatnonzero(~safe), object)):
        if rows.size:
            part = conditions.select(rows) if kind is np.int64 else conditions.select(rows).as_objects()
            m[rows], b[rows], found[rows] = _search(part, s[rows], bound[rows], kind)
    return m, b, found


@dataclass(frozen=True)
class _Climb:
    """A channel's line rises by less than rise * P over `run` steps; `extent`, at least 1, is the largest distance
    between two x of its conditions."""

    rise: int
    run: int
    extent: int


def _steepest_climb(conditions: _Conditions) -> list[_Climb]:
    """What bounds the slope that need be tried, for each channel.

    Between the first "reach" and the last "stay" condition the line rises by less than (stay_k - reach_k) * P over
    stay_x - reach_x steps. Where that pair says nothing, one step may climb through all levels.
    """
    extents, climbs = _extent(conditions), []
    for c in range(len(conditions.reach)):
        reach, stay = np.flatnonzero(conditions.reach[c]), np.flatnonzero(conditions.stay[c])
        rise, run = 1, 1
        if reach.size and stay.size:
            first = reach[conditions.reach_x[c, reach].argmin()]
            last = stay[conditions.stay_x[c, stay].argmax()]
            run = int(conditions.stay_x[c, last] - conditions.reach_x[c, first])
            rise = int(conditions.stay_k[c, last] - conditions.reach_k[c, first])
            if run <= 0:
                lowest = min(conditions.reach_k[c, reach].min(), conditions.stay_k[c, stay].min())
                rise, run = int(conditions.stay_k[c, stay].max() - lowest) + 2, 1
        climbs.append(_Climb(max(rise, 1), run, int(extents[c])))
    return climbs


def _extent(conditions: _Conditions) -> Ints:
    """Largest distance between two x of a channel's conditions, at least 1."""
    x = np.hstack([conditions.reach_x, conditions.stay_x])
    used = np.hstack([conditions.reach, conditions.stay])
    low = np.where(used, x, np.iinfo(np.int64).max).min(axis=1)
    high = np.where(used, x, np.iinfo(np.int64).min).max(axis=1)
    return np.where(used.any(axis=1), np.maximum(high - np.minimum(low, high), 1), 1)


def _search(conditions: _Conditions, s: Ints, bound: Array, kind: type[np.int64] | type[object]) -> _Solution:
    """Bisection on the slope of the concave slack; all rows together, in int64 or in Python's integers."""
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

    low: Array = np.zeros(len(s), kind)
    high: Array = bound.astype(kind)
    while (low < high).any():
        middle = (low + high) // 2
        (b_low, b_high), (next_low, next_high) = interval(middle), interval(middle + 1)
        rising = next_high - next_low > b_high - b_low
        done = b_low <= b_high
        low = np.where(done, middle, np.where(rising, np.minimum(middle + 1, high), low))
        high = np.where(done | ~rising, middle, high)
    b_low, b_high = interval(low)
    found = b_low <= b_high
    # A channel without one kind of condition is constant on its range: any b on the right side will do.
    b = np.where(b_low > -never, b_low, b_high) + k0 * power - low * x0
    return low, b, found
