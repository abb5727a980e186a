"""Sums of two branches whose units have no common one that an accumulator holds.

    y(f(a) + g(b))  →  Requantise(m1*a + m2*b)

An accumulator's unit is a product of float scales, a batch norm's a square root: a sum of whole units then needs more
bits than there are, or there is none. A quantiser behind the sum needs less: whole multipliers, near the ratio of the
slopes, that keep apart what lies on the two sides of each of its boundaries. For every integer b of the branch with few
levels, the a at which y reaches each level is found exactly (`step_function`); the least of m1*a + m2*b over all b is
the threshold, if it is above all that must stay below. Nothing but a quantiser may read such a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from greenedge.errors import Refused
from greenedge.graph import Add, ChannelAdd, Edge, Op, Steps, freeze
from greenedge.graph.ops.base import Array, Ints, Range
from greenedge.lower.expr import Const, Expr, Sum
from greenedge.lower.rounding import Quantiser
from greenedge.lower.step_function import step_function
from greenedge.lower.values import Live, cut_constant_axes

MOST_LEVELS = 256  # of the branch whose integers are gone through
_ROOM = 1 << 45  # for the sum, two bits below what accumulators hold
_MOST_STEPS = 1 << 22  # thresholds that are found for one sum
_AT_ONCE = 1 << 19


@dataclass(frozen=True, eq=False)
class WideSum:
    """m1*a + m2*b in place of f(a) + g(b), whose value is about unit * sum + offset.

    f, g            the branches' functions; constants have (C,) or (1,) numbers
    range           of the integers a, each (C,) or (1,)
    few             the integers b
    multipliers     (2, C) or (2, 1)
    unit, offset    (C,) or (1,) float64
    axis            of the tensor, along which C lies
    inputs          edges of the addition's branches
    is_first_many   whether a is the first of them
    refusal         what is said where another than a quantiser reads the sum
    """

    f: Expr
    g: Expr
    range: Range
    few: Ints
    multipliers: Ints
    unit: Array
    offset: Array
    axis: int
    inputs: tuple[str, str]
    is_first_many: bool
    refusal: Refused

    def write(self, name: str, sign: Ints | None = None) -> Op:
        """The sum, times `sign` of each channel."""
        factors = self.multipliers if self.is_first_many else self.multipliers[::-1]
        factors = factors if sign is None else factors * sign
        if factors.shape[1] > 1:
            return ChannelAdd(name, self.inputs, name, self.axis, freeze(factors))
        return Add(name, self.inputs, name, (int(factors[0, 0]), int(factors[1, 0])))

    def can_turn(self, sign: Ints, axis: int) -> bool:
        """Whether the sum has a factor for each of these signs."""
        return len(sign) == 1 or axis == self.axis

    def find_steps(self, y: Expr, levels: Quantiser, axis: int, channels: int) -> Steps:
        """The levels of y of the sum's value as steps of m1*a + m2*b; y has flat constants, one for each of the
        `channels` along `axis` or one for all.

        Raises Refused where these multipliers do not keep two sides of a boundary apart, or y is not monotone.
        """
        own = max(array.size for array in (*self.f.constants(), *self.g.constants(), self.multipliers[0]))
        rows = len(self.few) * levels.boundary.shape[-1]
        if own > 1 and (axis, channels) != (self.axis, own) or channels * rows > _MOST_STEPS:
            raise self.refusal
        size = max(1, _AT_ONCE // max(rows, 1))
        parts = [
            self._find_some(y, levels, axis, channels, np.arange(first, min(first + size, channels)))
            for first in range(0, channels, size)
        ]
        signs, thresholds = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        return Steps(freeze(signs), freeze(thresholds), None)

    def _find_some(self, y: Expr, levels: Quantiser, axis: int, count: int, channels: Ints) -> tuple[Ints, Ints]:
        """(sign, thresholds) of some of the `count` channels."""
        b = np.tile(self.few, len(channels))

        def spread(array: Array) -> Array:
            return np.repeat(array[channels], len(self.few)) if array.size > 1 else array

        real = Sum((self.f.map_constants(spread), self.g.map_constants(spread).substitute(Const.of(b.astype(float)))))
        inner = (real - Const(values=spread(self.offset))) / Const(values=spread(self.unit))
        low, high = self.range
        if len(low) != count or axis != self.axis:
            low, high = low.min(keepdims=True), high.max(keepdims=True)
        ends = np.broadcast_to(spread(low), b.shape), np.broadcast_to(spread(high), b.shape)
        some = _spread_levels(levels, channels, len(self.few))
        steps = step_function(y.map_constants(spread).substitute(inner), some, *ends)
        if not isinstance(steps, Steps):
            raise self.refusal
        return self._join(steps, channels, ends, b)

    def _join(self, steps: Steps, channels: Ints, ends: Range, b: Ints) -> tuple[Ints, Ints]:
        """Steps of a for every b as steps of the sum, for every channel."""
        shape = (len(channels), len(self.few))
        sign = steps.sign.reshape(shape)
        m1, m2 = ((m[channels] if len(m) > 1 else m)[:, None] for m in self.multipliers)
        if (sign != sign[:, :1]).any() or (m1 == 0).any():
            raise self.refusal
        of_sum = sign[:, :1] * np.sign(m1)  # the sum times it rises where the level does
        low, high = (np.where(sign > 0, *pair).reshape(*shape, 1) for pair in _turn(ends, shape))
        moved = (of_sum * m2 * b.reshape(shape))[:, :, None]
        t = steps.thresholds.reshape(*shape, -1)
        factor = np.abs(m1)[:, :, None]
        never = np.iinfo(np.int64)
        above = np.where(t <= high, factor * np.clip(t, low, high) + moved, never.max).min(axis=1)
        below = np.where(t > low, factor * np.clip(t - 1, low, high) + moved, never.min).max(axis=1)
        if (below >= above).any():
            raise self.refusal
        beyond = (factor * high + moved).max(axis=1) + 1
        return of_sum[:, 0], np.minimum(above, beyond)


def _turn(ends: Range, shape: tuple[int, int]) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
    """((low, -high), (high, -low)): the ends of a, and of -a."""
    low, high = (end.reshape(shape) for end in ends)
    return (low, -high), (high, -low)


def _spread_levels(levels: Quantiser, channels: Ints, count: int) -> Quantiser:
    if levels.boundary.ndim == 1 or len(levels.boundary) == 1:
        return levels
    inclusive = np.broadcast_to(levels.inclusive, levels.boundary.shape)
    rows = np.repeat(channels, count)
    return Quantiser(levels.lo, levels.hi, levels.boundary[rows], inclusive[rows])


def plan_wide_sum(
    branches: tuple[Live, Live], edges: tuple[Edge, Edge], ranges: tuple[Range, Range], refusal: Refused
) -> WideSum | None:
    """The sum; None where neither branch has few levels, or their slopes vary
    along more than one axis, or one is flat. `refusal` is why there is no exact sum."""
    few = min((0, 1), key=lambda k: edges[k].levels)
    if edges[few].levels > MOST_LEVELS or edges[0].shape != edges[1].shape:
        return None
    slopes = [_slope(one.expr, edge) for one, edge in zip(branches, edges, strict=True)]
    ratio = cut_constant_axes(slopes[1 - few] / slopes[few]) if np.all(slopes[few]) else np.zeros(())
    ratio, signs = np.broadcast_arrays(ratio, cut_constant_axes(np.sign(slopes[few])))
    arrays = [ratio, *(part for one in branches for part in one.expr.constants())]
    rank = len(edges[0].shape)
    varying = {axis + rank - part.ndim for part in arrays for axis in range(part.ndim) if part.shape[axis] > 1}
    if len(varying) > 1 or not np.isfinite(ratio).all() or not np.all(ratio):
        return None
    axis = varying.pop() if varying else 0
    reach = [edge.magnitude for edge in (edges[1 - few], edges[few])]
    pairs = [_approximate(float(one), *reach) for one in ratio.ravel()]
    if any(p == 0 or q == 0 for p, q in pairs):
        return None
    turn = signs.astype(np.int64).ravel()  # the sum rises with the real one
    many, small = (turn * np.array(part, np.int64) for part in zip(*pairs, strict=True))
    f, g = (branches[k].expr.map_constants(np.ravel) for k in (1 - few, few))
    unit = np.ravel(slopes[1 - few]) / many
    offset = np.ravel(f.approximate(np.zeros(1))[0] + g.approximate(np.zeros(1))[0])
    low, high = ranges[1 - few]
    others = tuple(k for k in range(rank) if k != axis)
    ends = low.min(axis=others), high.max(axis=others)
    levels = np.arange(edges[few].lo, edges[few].hi + 1)
    inputs = (branches[0].edge, branches[1].edge)
    return WideSum(f, g, ends, levels, np.stack([many, small]), unit, offset, axis, inputs, few == 1, refusal)


def _slope(expr: Expr, edge: Edge) -> Array:
    """The mean slope of a branch over its integers, broadcastable like its constants."""
    rank = len(edge.shape)
    low, high = (expr.approximate(np.full((1,) * rank, end))[0] for end in (edge.lo, max(edge.hi, edge.lo + 1)))
    return np.asarray((high - low) / (max(edge.hi, edge.lo + 1) - edge.lo))


def _approximate(ratio: float, reach: int, other_reach: int) -> tuple[int, int]:
    """The best p/q for a ratio, with p times one reach and q times the other within the room."""
    exact = Fraction(ratio)
    most = min(_ROOM // max(other_reach, 1), int(_ROOM / (max(reach, 1) * abs(exact))))
    best = exact.limit_denominator(max(most, 1))
    return best.numerator, best.denominator
