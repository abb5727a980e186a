"""From a real function and a quantiser to the exact step function on integers.

Thresholds come from bisection over the reachable accumulators: float64 with its error bound decides nearly every
comparison, rational or interval arithmetic the few it cannot. Nothing is tabulated unless the function is not monotone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
from numpy.typing import NDArray

from greenedge.graph.ops import Steps, Table, freeze
from greenedge.graph.ops.base import Array, Ints
from greenedge.lower.expr import U64, Const, Expr, Undecidable, Var
from greenedge.lower.rounding import Quantiser

MAX_TABLE = 1 << 18  # entries per channel of a function that is not monotone
_MAX_TABLES = 1 << 25  # entries of all channels together: 256 MiB
MAX_OPEN = 1 << 12  # entries of a channel that float64 leaves open
_NARROW = 4  # accumulators on both sides of where a straight line crosses a boundary
_GUESS_POINTS = 33  # values of a function from which its steps are guessed
_NEAR = (0, 1, -1, 64, -64)  # accumulators from the guess at which a step is looked for
_PRECISIONS = (96, 256, 1024)  # bits tried before a comparison counts as undecidable


def step_function(y: Expr, levels: Quantiser, x_lo: Ints, x_hi: Ints) -> Steps | Table:
    """The levels of y(x) for every integer x in [x_lo[c], x_hi[c]]; constants of y are flat, (C,) or (1,).

    Raises Undecidable.
    """
    channels = len(x_lo)
    direction = np.broadcast_to(y.direction(), (channels,)).astype(float)
    if np.isnan(direction).any():
        return _tabulate(y, levels, x_lo, x_hi)
    sign = np.where(direction < 0, -1, 1).astype(np.int64)
    column = y.map_constants(
        lambda a: np.broadcast_to(a.reshape(-1, 1), (channels, 1)) if a.size > 1 else a.reshape(1, 1)
    )
    low, high = np.where(sign > 0, x_lo, -x_hi), np.where(sign > 0, x_hi, -x_lo)
    return Steps(freeze(sign), freeze(_bisect(column, levels, sign, low, high)), None)


def _bisect(y: Expr, levels: Quantiser, sign: Ints, low: Ints, high: Ints) -> Ints:
    """(C, L) smallest t in [low, high + 1] whose level, y(sign*t), reaches each boundary; y is rising in t."""
    shape = (len(sign), levels.hi - levels.lo)
    below = np.broadcast_to(low[:, None] - 1, shape).copy()  # known not to reach, or one below the range
    reach = np.broadcast_to(high[:, None] + 1, shape).copy()  # known to reach, or one above the range
    if levels.lo == levels.hi:
        return reach
    boundary = np.broadcast_to(levels.boundary, shape)
    inclusive = np.broadcast_to(levels.inclusive, shape)
    guess = _guess_steps(y, boundary, sign, low, high)
    attempt = 0
    while True:
        at = np.nonzero(reach - below > 1)
        if not at[0].size:
            return reach
        middle = guess[at] + _NEAR[attempt] if attempt < len(_NEAR) else below[at] + (reach[at] - below[at]) // 2
        middle = np.clip(middle, below[at] + 1, reach[at] - 1)
        reached = _reach(y, boundary[at], inclusive[at], sign[at[0]] * middle, at[0])
        reach[at] = np.where(reached, middle, reach[at])
        below[at] = np.where(reached, below[at], middle)
        attempt += 1


def _guess_steps(y: Expr, boundary: Array, sign: Ints, low: Ints, high: Ints) -> Ints:
    """(C, L) where y(sign*t) about crosses each boundary, from straight lines between a few of its values there.

    Only how soon the bisection ends depends on it.
    """

    def evaluate(t: Ints) -> Array:
        with np.errstate(all="ignore"):
            value = y.approximate(sign[:, None] * t)[0]
        return np.broadcast_to(np.nan_to_num(np.asarray(value, float)), t.shape)

    ends = boundary[:, [0, -1]]
    below, above = (np.repeat(end[:, None], 2, axis=1) for end in (low, high))
    values = evaluate(np.stack([low, high], axis=1))
    with np.errstate(all="ignore"):
        share = np.nan_to_num((ends - values[:, :1]) / (values[:, 1:] - values[:, :1]))
    crossed = np.rint(low[:, None] + np.clip(share, 0, 1) * (high - low)[:, None]).astype(np.int64)
    for near in (-_NARROW, _NARROW):  # most functions are lines: both sides of where these cross, to begin with
        below, above = _narrow(evaluate, ends, below, above, np.clip(crossed + near, below, above))
    while (above - below > 1).any():  # narrow down where the first and the last are crossed
        below, above = _narrow(evaluate, ends, below, above, below + (above - below) // 2)
    first, last = below[:, :1], above[:, 1:]
    t = first + np.rint((last - first) * np.linspace(0, 1, _GUESS_POINTS)).astype(np.int64)
    lines = [np.interp(*one) for one in zip(boundary, evaluate(t), t.astype(float), strict=True)]
    guess: Ints = np.rint(np.array(lines)).astype(np.int64)
    return guess


def _narrow(
    evaluate: Callable[[Ints], Array], ends: Array, below: Ints, above: Ints, middle: Ints
) -> tuple[Ints, Ints]:
    reached = evaluate(middle) > ends
    return np.where(reached, below, middle), np.where(reached, middle, above)


def _reach(y: Expr, boundary: Array, inclusive: Array, x: Ints, channel: Ints) -> NDArray[np.bool_]:
    """(N,) whether y(x[n]) of channel[n] reaches boundary[n], decided exactly; constants of y are (C, 1) or (1, 1)."""
    some = y.map_constants(lambda a: a[channel] if len(a) > 1 else a)
    with np.errstate(all="ignore"):  # an infinity or NaN leaves the comparison open, and the exact one decides
        value, error = (part[..., 0] for part in some.approximate(x[:, None]))
        gap = value - boundary
        margin = error + U64 * (np.abs(value) + np.abs(boundary)) * 2
        result: NDArray[np.bool_] = gap > 0
        open_cases = np.flatnonzero(~(np.abs(gap) > margin))
    for n in open_cases:
        result[n] = _exactly_reaches(y, int(x[n]), int(channel[n]), float(boundary[n]), bool(inclusive[n]))
    return result


def _exactly_reaches(y: Expr, x: int, channel: int, boundary: float, inclusive: bool) -> bool:
    """Whether y(x) of a channel reaches the boundary, by ever tighter bounds. Raises Undecidable where none decides."""
    limit = Fraction(boundary)
    for bits in _PRECISIONS:
        low, high = y.exactly(x, channel, bits)
        if low > limit or (low == limit and inclusive):
            return True
        if high < limit or (high == limit and not inclusive):
            return False
    raise Undecidable(f"the value at {x} in channel {channel} is within 2**-{_PRECISIONS[-1]} of a rounding boundary")


def _tabulate(y: Expr, levels: Quantiser, x_lo: Ints, x_hi: Ints) -> Steps | Table:
    """Every level of every reachable x; thresholds after all where the table turns out to be monotone."""
    span = int((x_hi - x_lo).max()) + 1
    if span > MAX_TABLE:
        raise Undecidable(
            f"the function is not monotone and its input takes {span:,} values; at most {MAX_TABLE:,} are tabulated"
        )
    channels = len(x_lo)
    if channels * span > _MAX_TABLES:
        raise Undecidable(
            f"the function is not monotone and its {channels:,} channels take {span:,} values each; at most "
            f"{_MAX_TABLES:,} are tabulated in all"
        )
    table = np.empty((channels, span), np.int64)
    for c in range(channels):
        one = _select_channel(y, c)
        x = np.minimum(x_lo[c] + np.arange(span), x_hi[c])
        table[c] = _levels_at(one, _row(levels, c), x)
    sign = _monotone_sign(table)
    if sign is None:
        return Table(freeze(table))
    return Steps(freeze(sign), freeze(_thresholds_of(table, levels, sign, x_lo, x_hi)), None)


def _select_channel(y: Expr, channel: int) -> Expr:
    """y of one channel, its constants (1, 1)."""
    return y.map_constants(lambda a: a.reshape(-1)[[channel if a.size > 1 else 0]].reshape(1, 1))


def _row(levels: Quantiser, channel: int) -> Quantiser:
    """The quantiser of one channel, its boundaries (L,)."""
    boundary, inclusive = levels.boundary, levels.inclusive
    if boundary.ndim > 1:
        boundary = boundary[channel if len(boundary) > 1 else 0]
    if inclusive.ndim > 1:
        inclusive = inclusive[channel if len(inclusive) > 1 else 0]
    return Quantiser(levels.lo, levels.hi, boundary, inclusive)


def _levels_at(y: Expr, levels: Quantiser, x: Ints) -> Ints:
    """Levels of one channel at each x, decided exactly."""
    with np.errstate(all="ignore"):
        value, error = (
            np.broadcast_to(part.reshape(-1), x.shape) for part in y.approximate(x.reshape(1, -1).astype(float))
        )
        margin = error + 4 * U64 * (np.abs(value) + np.abs(levels.boundary).max(initial=0))
        ends = value - margin, value + margin
    guess = np.searchsorted(levels.boundary, value, side="left")
    known = np.isfinite(value) & np.isfinite(margin)
    low = np.where(known, np.searchsorted(levels.boundary, ends[0], side="left"), 0)
    high = np.where(known, np.searchsorted(levels.boundary, ends[1], side="right"), len(levels.boundary))
    open_cases = np.flatnonzero(low != high)
    if len(open_cases) > MAX_OPEN:
        raise Undecidable(
            f"{len(open_cases):,} of its values lie beyond float64 or within its error of a rounding boundary; at most "
            f"{MAX_OPEN:,} are worked out by longer arithmetic"
        )
    for i in open_cases:
        # A value that reaches a boundary reaches all below it. Beyond float64 all of them are open, so they are halved.
        falls_short = partial(_falls_short, y, levels, int(x[i]))
        guess[i] = bisect_left(range(len(levels.boundary)), True, int(low[i]), int(high[i]), key=falls_short)
    return levels.lo + guess


def _falls_short(y: Expr, levels: Quantiser, x: int, j: int) -> bool:
    return not _exactly_reaches(y, x, 0, float(levels.boundary[j]), bool(levels.inclusive[j]))


def _monotone_sign(table: Ints) -> Ints | None:
    """(C,) +1 for a row that nowhere falls, -1 for one that nowhere rises; None where some row does both."""
    steps = np.diff(table, axis=1)
    rising, falling = (steps >= 0).all(axis=1), (steps <= 0).all(axis=1)
    return np.where(rising, 1, -1).astype(np.int64) if (rising | falling).all() else None


def _thresholds_of(table: Ints, levels: Quantiser, sign: Ints, x_lo: Ints, x_hi: Ints) -> Ints:
    """(C, L) thresholds on sign*x of monotone rows of levels; one above the range where a level is not reached."""
    wanted = np.arange(levels.lo + 1, levels.hi + 1)
    rows = []
    for c, row in enumerate(table):
        row = row[: x_hi[c] - x_lo[c] + 1]
        rising = row if sign[c] > 0 else row[::-1]
        start = x_lo[c] if sign[c] > 0 else -x_hi[c]
        rows.append(start + np.searchsorted(rising, wanted, side="left"))
    return np.array(rows, np.int64)


def negate_input(y: Expr, sign: Array) -> Expr:
    """y(sign * x)."""
    return y.substitute(Const.of(sign.astype(float)) * Var())
