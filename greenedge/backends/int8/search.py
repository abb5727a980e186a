"""Chooses, channel by channel, the weight scale and the bias with which a runtime's arithmetic hits every threshold.

In real arithmetic a scale s = (levels per accumulator) and an integer constant B are right when, for every level with
its half h = level - zero_level - 1/2 and its threshold T,

    s * (k*(T-1) + B) < h <= s * (k*T + B)

which for each B is an interval of s. The widest intervals are tried with the emulated arithmetic of all kernel sets;
the emulation decides, never the interval. Where no candidate is right, the one with the fewest differing accumulators
is kept, the first kernel set of the operator before the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from greenedge.backends.int8.arithmetic import SCALE_LIMIT, Float32s
from greenedge.backends.int8.certificate import Problem, Solution, Verdict, count_differing, judge, wrong_points
from greenedge.graph import Requantise
from greenedge.graph.ops.base import Array, Floats, Ints

_BLOCK = 1 << 21  # elements of one intermediate array
_ROOM = 4.0  # a scale is sought within this factor of the fitted slope
_CONSTANTS = 8  # widest intervals tried per channel
_FRACTIONS = (0.5, 0.35, 0.65, 0.2, 0.8, 0.1, 0.9, 0.03, 0.97)  # places within an interval
_NEIGHBOURS = (-3, -2, -1, 1, 2, 3)  # float32 steps around its middle
_FACTORS = 24  # at most this many factors below the largest
_TOUCHING = 3e-7  # relative: an interval that shrinks to a point (a tie) still counts, its float32 may be right
_GRID = 41  # slopes per constant where no candidate is right
_FINALISTS = 6  # of those, how many are counted exactly
_UNTRIED = 1 << 40  # wrong points of no candidate at all


def solve(problem: Problem) -> Solution:
    """The best factor, weight scale and constant of every channel with their exact verdicts; `problem.factor` is the
    largest factor each channel may take. Equal channels are solved once."""
    key = np.column_stack([problem.thresholds, problem.x_lo, problem.x_hi, problem.factor])
    _, first, back = np.unique(key, axis=0, return_index=True, return_inverse=True)
    some = problem.rows(first)
    factor, scale, constant = _choose(some)
    verdicts = judge(some.with_factor(factor), scale, constant)
    back = back.reshape(-1)
    spread = {k: Verdict(v.differing[back], v.largest[back]) for k, v in verdicts.items()}
    return Solution(factor[back], scale[back], constant[back], spread)


def solve_output_scale(
    problem: Problem, zero: int, constant: int, divisor: int, ratios: tuple[float, float], all_sets: bool
) -> tuple[float, Solution] | None:
    """The output scale with which an operator without weights is right everywhere, and the proof.

    Its only freedom is the scale of what it writes, which goes into the slope scale_in / (scale_out * divisor); its
    line goes through the accumulator `zero`. `constant` is what the emulation adds to the accumulator. None where no
    scale within `ratios` (of input to output) is right for the first kernel set, or, with `all_sets`, for all.
    """
    low, high = _interval(problem, np.array([[-zero]]), 0.0, _fit(problem)[0][:, None])
    if not low[0, 0] <= high[0, 0] * (1 + _TOUCHING):
        return None
    ones, whole = np.ones(1, np.float32), np.array([constant])
    best: tuple[float, Solution] | None = None
    fewest = 1 << 62
    for fraction in _FRACTIONS:
        ratio = divisor * low[0, 0] * (high[0, 0] / low[0, 0]) ** fraction
        scale = float(np.float32(problem.scale_in / ratio))
        if not ratios[0] <= ratio < ratios[1]:
            continue
        verdicts = judge(replace(problem, scale_out=scale), ones, whole)
        wrong = [int(verdict.differing.sum()) for verdict in verdicts.values()]
        if wrong[0] == 0 and sum(wrong) < fewest and not (all_sets and any(wrong)):
            best, fewest = (scale, Solution(np.ones(1, np.int64), ones, whole, verdicts)), sum(wrong)
        if fewest == 0:
            break
    return best


def fit_line(step: Requantise) -> tuple[Floats, Floats]:
    """(C,) slope and offset of the real line behind each channel's steps: level ≈ slope*x + offset, before rounding and
    clamping. Raises Refused for a table."""
    steps, (low, high) = step.require_steps(), step.reach
    problem = Problem("CONV_2D", steps.thresholds, low, high, np.ones(len(low), np.int64), step.lo, 0, 0, (0, 0))
    slope, centre_x, centre_h = _fit(problem)
    varies = _reachable(problem).any(axis=1)
    constant = step.lo + (steps.thresholds <= low[:, None]).sum(axis=1)
    slope = np.where(varies, slope, 0)
    return slope * steps.sign, np.where(varies, centre_h - slope * centre_x, constant)


def _reachable(problem: Problem) -> Array:
    inside: Array = (problem.thresholds > problem.x_lo[:, None]) & (problem.thresholds <= problem.x_hi[:, None])
    return inside


def _fit(problem: Problem) -> tuple[Floats, Floats, Floats]:
    """Least squares through (T - 1/2, h) of the reachable thresholds: slope in levels per accumulator, and a point
    (x, h)."""
    seen = _reachable(problem)
    count = np.maximum(seen.sum(axis=1), 1)
    x, h = problem.thresholds - 0.5, np.broadcast_to(problem.halves, problem.thresholds.shape)
    centre_x, centre_h = (np.where(seen, v, 0).sum(axis=1) / count for v in (x, h))
    dx, dh = (np.where(seen, v - c[:, None], 0) for v, c in ((x, centre_x), (h, centre_h)))
    variance = (dx * dx).sum(axis=1)
    jump = dh.max(axis=1, initial=0) - dh.min(axis=1, initial=0)
    far = np.maximum(problem.x_hi - centre_x, centre_x - problem.x_lo) + 1
    # Steps at one accumulator only: steep, or too flat for a second one.
    single = np.where(jump > 0, 1 + jump, 0.5 / far)
    slope = np.where(variance > 0, (dx * dh).sum(axis=1) / np.maximum(variance, 1e-300), single)
    return slope, centre_x, centre_h


def _choose(problem: Problem) -> tuple[Ints, Float32s, Ints]:
    scale = np.full(len(problem.factor), np.float32(problem.scale_out) / np.float32(problem.scale_in), np.float32)
    level = problem.lo + (problem.thresholds <= problem.x_lo[:, None]).sum(axis=1)
    constant = level - problem.zero_level  # right for channels that never change: the accumulator is this number
    factor = problem.factor.copy()
    rows = np.flatnonzero(factor)
    if len(rows):
        factor[rows], scale[rows], constant[rows] = _choose_varying(problem.rows(rows))
    return factor, scale, constant


def _choose_varying(problem: Problem) -> tuple[Ints, Float32s, Ints]:
    """Tries one factor after another until all kernel sets are right: another factor puts the constants at other
    fractions of an accumulator, and a power of two can hold ties that 18 cannot."""
    factors = _factors(problem.factor // problem.lift) * problem.lift
    best = _Best.none(len(problem.kernels), len(factors))
    for attempt in range(factors.shape[1]):
        rows = np.flatnonzero(~best.is_final & (factors[:, attempt] > 0))
        if len(rows) == 0:
            break
        some = problem.rows(rows).with_factor(factors[rows, attempt])
        best.improve(rows, some.factor, *_try_factor(some, best.wrong[0, rows] == 0, first=attempt == 0))
    rows = np.flatnonzero(best.wrong[0] > 0)
    if len(rows):
        some = problem.rows(rows).with_factor(best.factor[rows])
        best.scale[rows], best.constant[rows] = _fewest(some, best.scale[rows], best.constant[rows])
    return best.factor, best.scale, best.constant


@dataclass
class _Best:
    """The best candidate of every channel so far, and at how many critical points each kernel set is wrong with it."""

    factor: Ints
    scale: Float32s
    constant: Ints
    wrong: Ints

    @classmethod
    def none(cls, sets: int, rows: int) -> _Best:
        return cls(
            np.zeros(rows, np.int64),
            np.ones(rows, np.float32),
            np.zeros(rows, np.int64),
            np.full((sets, rows), _UNTRIED),
        )

    @property
    def is_final(self) -> Array:
        """(R,) whether every kernel set is right."""
        right: Array = (self.wrong == 0).all(axis=0)
        return right

    def improve(self, rows: Ints, factor: Ints, scale: Float32s, constant: Ints, wrong: Ints) -> None:
        """Takes the new candidates of `rows` where they are better: the first kernel set before the others."""
        old = self.wrong[:, rows]
        better = (wrong[0] < old[0]) | ((wrong[0] == old[0]) & (wrong[1:].sum(axis=0) < old[1:].sum(axis=0)))
        at = rows[better]
        self.factor[at], self.scale[at], self.constant[at] = factor[better], scale[better], constant[better]
        self.wrong[:, at] = wrong[:, better]


def _factors(largest: Ints) -> Ints:
    """(R, tries) the factors to try for each channel: the largest, every one down to half of it, powers of two; 0 is
    none."""
    rows = []
    for top in largest.tolist():
        near = list(range(top, max(top // 2, top - _FACTORS), -1))
        powers = [1 << e for e in range(top.bit_length() - 1, -1, -1)]
        rows.append(list(dict.fromkeys(near + powers)))
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows], np.int64)


def _try_factor(problem: Problem, certified: Array, first: bool) -> tuple[Float32s, Ints, Ints]:
    """The best of this factor: scale, constant, (kernel sets, R) wrong points. Unless it is the first factor,
    channels without an interval are passed over; those already `certified` for the first kernel set want one that
    suits all."""
    constants, lows, highs, both = _candidates(problem)
    scale = _as_weight_scale(problem, np.sqrt(lows[:, :1] * highs[:, :1]))[:, 0]
    constant = constants[:, 0].copy()
    counts = wrong_points(problem, scale[:, None], constant[:, None])
    wrong = np.stack([counts[kernels][:, 0] for kernels in problem.kernels])
    possible = first | np.where(certified, both, (lows <= highs * (1 + _TOUCHING)).any(axis=1))
    rest = np.flatnonzero(wrong.any(axis=0) & possible)
    if len(rest):
        scale[rest], constant[rest], wrong[:, rest] = _wide(
            problem.rows(rest), constants[rest], lows[rest], highs[rest]
        )
    return scale, constant, wrong


def _as_weight_scale(problem: Problem, s: Floats) -> Float32s:
    """float32 weight scales whose requantisation scale is about s."""
    scale: Float32s = np.minimum(s * problem.scale_out / problem.scale_in, 3e38).astype(np.float32)
    return scale


def _candidates(problem: Problem) -> tuple[Ints, Floats, Floats, Array]:
    """(R, N) constants, the most promising first, with the ends of their intervals of s; and (R,) whether some interval
    suits all kernel sets."""
    slope, centre_x, centre_h = _fit(problem)
    middle = np.rint(problem.factor * (centre_h / slope - centre_x)).astype(np.int64)
    reach = max(3, int(problem.factor.max()))
    offsets = np.arange(-reach, reach + 1)
    keep = min(_CONSTANTS, len(offsets))
    shape = (len(middle), 2 * keep)
    constants, lows, highs = np.empty(shape, np.int64), np.empty(shape), np.empty(shape)
    both = np.empty(len(middle), bool)
    step = max(1, _BLOCK // (len(offsets) * problem.thresholds.shape[1]))
    for begin in range(0, len(middle), step):
        part = np.arange(begin, min(begin + step, len(middle)))
        some = problem.rows(part)
        b = middle[part, None] + offsets
        nominal = slope[part, None] / some.factor[:, None]
        low, high = _interval(some, b, 0.0, nominal)
        both_low, both_high = low, high
        if problem.rounds_early:
            early = 0.5 / np.frexp(nominal)[0]  # the reference convolution's first rounding comes this much early
            shifted = _interval(some, b, early, nominal)
            both_low, both_high = np.maximum(low, shifted[0]), np.minimum(high, shifted[1])
        order = np.concatenate(
            [
                np.argsort(both_low / both_high, axis=1, kind="stable")[:, :keep],
                np.argsort(low / high, axis=1, kind="stable")[:, :keep],
            ],
            axis=1,
        )
        fits = np.take_along_axis(both_low < both_high, order, axis=1)
        both[part] = fits.any(axis=1)
        constants[part] = np.take_along_axis(b, order, axis=1)
        lows[part] = np.where(fits, *(np.take_along_axis(v, order, axis=1) for v in (both_low, low)))
        highs[part] = np.where(fits, *(np.take_along_axis(v, order, axis=1) for v in (both_high, high)))
    return constants, lows, highs, both


def _interval(problem: Problem, b: Ints, early: Floats | float, nominal: Floats) -> tuple[Floats, Floats]:
    """For constants b (R, N): the ends (R, N) of the s that are right in real arithmetic; low > high where there is
    none."""
    clipped, h = problem.reachable_thresholds[:, None, :], problem.halves
    k = problem.factor[:, None, None]
    v = k * clipped + (b + early)[:, :, None]
    u = v - k
    below, reached = clipped > problem.x_lo[:, None, None], clipped <= problem.x_hi[:, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        up, down = h / u, h / v
    no = np.inf
    upper = np.where(
        h > 0,
        np.where(below & (u > 0), up, no),
        np.minimum(np.where(below & (u >= 0), 0, no), np.where(reached & (v < 0), down, no)),
    )
    lower = np.where(h > 0, np.where(reached, np.where(v > 0, down, no), 0), np.where(below & (u < 0), up, 0))
    low = np.maximum(lower.max(axis=2, initial=0), nominal / _ROOM)
    high = np.minimum(upper.min(axis=2, initial=no), np.minimum(nominal * _ROOM, SCALE_LIMIT * 0.99))
    return np.minimum(low, 1e30), np.maximum(high, 1e-30)


def _wide(problem: Problem, constants: Ints, lows: Floats, highs: Floats) -> tuple[Float32s, Ints, Ints]:
    """Several places in several intervals, judged by the emulations: scale, constant, (kernel sets, R) wrong points."""
    ratio = np.minimum(highs / lows, _ROOM**2)
    scales = _as_weight_scale(problem, np.concatenate([lows * ratio**f for f in _FRACTIONS], axis=1))
    middle = scales[:, : lows.shape[1]]
    near = [(middle.view(np.int32) + n).astype(np.int32).view(np.float32) for n in _NEIGHBOURS]
    scales = np.concatenate([scales, *near], axis=1)
    b = np.tile(constants, (1, len(_FRACTIONS) + len(_NEIGHBOURS)))
    first, *rest = problem.kernels
    wrong = wrong_points(problem, scales, b, [first])[first]
    # The other kernel sets only decide between candidates that are as good for the first one: no more are tried.
    least = wrong == wrong.min(axis=1, keepdims=True)
    count = least.sum(axis=1)
    places = np.argsort(~least, axis=1, kind="stable")[:, : count.max()]
    places = np.where(np.arange(count.max()) < count[:, None], places, places[:, :1])
    row = np.arange(len(places))
    at = row[:, None], places
    scales, b, wrong = scales[at], b[at], wrong[at]
    some = wrong_points(problem, scales, b, rest)
    others = [some[kernels] for kernels in rest]
    best = np.argmin(sum(others, np.zeros_like(places)), axis=1)
    return scales[row, best], b[row, best], np.stack([part[row, best] for part in (wrong, *others)])


def _fewest(problem: Problem, scale: Float32s, constant: Ints) -> tuple[Float32s, Ints]:
    """Of the candidate given and many lines near the fitted one: that with the fewest differing accumulators."""
    slope, centre_x, centre_h = _fit(problem)
    middle = np.rint(problem.factor * (centre_h / slope - centre_x)).astype(np.int64)
    b = middle[:, None] + np.arange(-3, 4)
    x = problem.factor[:, None] * (problem.thresholds - 0.5)
    shifted = np.where(_reachable(problem)[:, None, :], x[:, None, :] + b[:, :, None], 0)
    best = (shifted * problem.halves).sum(axis=2) / np.maximum((shifted * shifted).sum(axis=2), 1e-300)
    best = np.clip(best, (slope / problem.factor)[:, None] / _ROOM, SCALE_LIMIT * 0.99)
    width = 1.0 / np.maximum(np.abs(problem.reachable_thresholds - centre_x[:, None]).max(axis=1), 1)
    grid = best[:, :, None] * (1 + width[:, None, None] * np.linspace(-1, 1, _GRID))
    scales = _as_weight_scale(problem, grid.reshape(len(b), -1))
    constants = np.repeat(b, _GRID, axis=1)
    order = np.argsort(_real_distance(problem, scales, constants), axis=1, kind="stable")[:, :_FINALISTS]
    return _count_finalists(
        problem,
        np.column_stack([scale, np.take_along_axis(scales, order, axis=1)]),
        np.column_stack([constant, np.take_along_axis(constants, order, axis=1)]),
    )


def _real_distance(problem: Problem, scales: Float32s, constants: Ints) -> Floats:
    """(R, N) sum over thresholds of the distance to those of real arithmetic."""
    off = np.empty(scales.shape)
    wanted = problem.reachable_thresholds
    step = max(1, _BLOCK // (scales.shape[1] * wanted.shape[1]))
    for begin in range(0, len(scales), step):
        part = slice(begin, begin + step)
        s = scales[part].astype(np.float64) * problem.scale_in / problem.scale_out
        got = np.ceil((problem.halves / s[:, :, None] - constants[part, :, None]) / problem.factor[part, None, None])
        got = np.clip(got, problem.x_lo[part, None, None], problem.x_hi[part, None, None] + 1)
        off[part] = np.abs(got - wanted[part, None, :]).sum(axis=2)
    return off


def _count_finalists(problem: Problem, scales: Float32s, constants: Ints) -> tuple[Float32s, Ints]:
    """The finalist with the fewest differing accumulators, the first kernel set before the others."""
    counts = [
        [count_differing(problem, kernels, scales[:, n], constants[:, n])[0] for n in range(scales.shape[1])]
        for kernels in problem.kernels
    ]
    first, *others = (np.stack(c, axis=1).astype(np.float64) for c in counts)
    rest = sum(others, np.zeros_like(first))
    best = np.argmin(first + rest / (rest.max(initial=0) + 1), axis=1)
    row = np.arange(len(best))
    return scales[row, best], constants[row, best]
