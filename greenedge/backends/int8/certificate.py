"""What was proved about one requantisation: per channel, at how many accumulators a runtime's arithmetic differs from
the graph.

A layer's channels are rows of a `Problem`: the thresholds of the integer graph over the reachable accumulators x, and
how the file computes: k*x + constant in int32, times a scale, plus the zero point, clamped. All of that is monotone
in x, as is the graph's own step function, so comparing the two at T-1 and T of every threshold and at both ends of
the range compares them everywhere. Where they differ the emulated thresholds are found by bisection and the differing
accumulators counted exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from greenedge.backends.int8.arithmetic import EMULATIONS, Emulation, Float32s, requantise
from greenedge.graph.ops.base import Array, Floats, Ints

_BLOCK = 1 << 21  # elements of one intermediate array
_NEAR = (0, -1, 16, -16, 256, -256)  # accumulators from the graph's threshold at which the runtime's is looked for
_INT32 = 1 << 31


@dataclass(frozen=True, eq=False)
class Problem:
    """R channels of one operator; level = lo + count(x >= thresholds), for x_lo <= x <= x_hi.

    thresholds (R, L) ascending, x_lo, x_hi, factor (R,) int64; `factor` is k, 0 for a channel whose level never
    changes. It is a multiple of `lift`, by which the input was multiplied beforehand. zero_level is the level that
    the zero point stands for; bounds are the stored values the fused activation leaves.
    """

    operator: str
    thresholds: Ints
    x_lo: Ints
    x_hi: Ints
    factor: Ints
    lo: int
    zero_level: int
    zero_point: int
    bounds: tuple[int, int]
    scale_in: float = 1.0
    scale_out: float = 1.0
    lift: int = 1
    own: Mapping[str, Emulation] | None = None  # where an operator's arithmetic depends on more than its name

    def __post_init__(self) -> None:
        rows = len(self.thresholds)
        assert all(a.shape == (rows,) for a in (self.x_lo, self.x_hi, self.factor)), "one value per channel"

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernel sets that run this operator, the one that counts most first."""
        return tuple(self.emulations)

    @property
    def emulations(self) -> Mapping[str, Emulation]:
        """{kernel set: its arithmetic}."""
        return EMULATIONS[self.operator] if self.own is None else self.own

    @property
    def rounds_early(self) -> bool:
        """Whether a kernel set rounds twice, so that its steps come up to an accumulator early."""
        return any(emulation.rounds_twice for emulation in self.emulations.values())

    @property
    def halves(self) -> Floats:
        """(L,) real level, counted from the zero level, at which the stored level steps up: level - zero_level -
        1/2."""
        halves: Floats = (self.lo + 1 + np.arange(self.thresholds.shape[1]) - self.zero_level).astype(np.float64) - 0.5
        return halves

    @property
    def reachable_thresholds(self) -> Ints:
        """(R, L) thresholds within x_lo … x_hi + 1; at x_lo always reached, at x_hi + 1 never."""
        inside: Ints = np.clip(self.thresholds, self.x_lo[:, None], self.x_hi[:, None] + 1)
        return inside

    def rows(self, index: Ints) -> Problem:
        """The same operator with these channels alone."""
        return replace(
            self,
            thresholds=self.thresholds[index],
            x_lo=self.x_lo[index],
            x_hi=self.x_hi[index],
            factor=self.factor[index],
        )

    def with_factor(self, factor: Ints) -> Problem:
        """The same channels with other factors."""
        return replace(self, factor=factor)


@dataclass(frozen=True, eq=False)
class Verdict:
    """Per channel (R,): how many reachable accumulators give another level, and by how many levels at most."""

    differing: Ints
    largest: Ints


@dataclass(frozen=True, eq=False)
class Solution:
    """The chosen factors, float32 weight scales and integer constants (R,), and the verdict for each kernel set."""

    factor: Ints
    weight_scale: Float32s
    constant: Ints
    verdicts: dict[str, Verdict]


def critical_points(problem: Problem) -> tuple[Ints, Ints]:
    """(R, 2L+2) accumulators that decide equality, and the graph's level at each."""
    clipped = problem.reachable_thresholds
    ends = np.stack([problem.x_lo, problem.x_hi], axis=1)
    points = np.concatenate([np.maximum(clipped - 1, ends[:, :1]), np.minimum(clipped, ends[:, 1:]), ends], axis=1)
    levels = np.empty_like(points)
    for row, thresholds in enumerate(problem.thresholds):
        levels[row] = np.searchsorted(thresholds, points[row], side="right")
    return points, levels + problem.lo


def emulate_levels(problem: Problem, kernels: str, x: Ints, scale: Float32s, constant: Ints) -> Ints:
    """Levels the runtime gives at accumulators x; x, scale and constant broadcast, rows first."""
    shape = (-1,) + (1,) * (np.ndim(x) - 1)
    acc = problem.factor.reshape(shape) * x + constant
    value = requantise(
        problem.emulations[kernels], acc, problem.scale_in, scale, problem.scale_out, problem.zero_point, problem.bounds
    )
    return value - problem.zero_point + problem.zero_level


def wrong_points(
    problem: Problem, scales: Float32s, constants: Ints, sets: Sequence[str] | None = None
) -> dict[str, Ints]:
    """For candidates (R, N): at how many critical points each kernel set (of `sets`, or all) differs; a candidate that
    could leave int32 differs at all of them."""
    points, levels = critical_points(problem)
    rows, candidates = scales.shape
    sets = problem.kernels if sets is None else sets
    counts = {kernels: np.empty((rows, candidates), np.int64) for kernels in sets}
    step = max(1, _BLOCK // (candidates * points.shape[1]))
    for begin in range(0, rows, step):
        part = slice(begin, begin + step)
        some = problem.rows(np.arange(rows)[part])
        for kernels in sets:
            got = emulate_levels(some, kernels, points[part, None, :], scales[part, :, None], constants[part, :, None])
            counts[kernels][part] = (got != levels[part, None, :]).sum(axis=2)
    unsafe = ~_within_int32(problem, scales, constants)
    return {kernels: np.where(unsafe, points.shape[1], count) for kernels, count in counts.items()}


def _within_int32(problem: Problem, scales: Float32s, constants: Ints) -> Array:
    """Whether accumulator, and accumulator shifted left as the reference kernels do for a scale above 1, fit int32."""
    reach = np.maximum(np.abs(problem.x_lo), np.abs(problem.x_hi)) * problem.factor
    largest = reach[:, None] + np.abs(constants)
    growth = np.maximum(1.0, 2.0 * scales.astype(np.float64) * problem.scale_in / problem.scale_out)
    fits: Array = largest * growth < _INT32
    return fits


def judge(problem: Problem, scale: Float32s, constant: Ints) -> dict[str, Verdict]:
    """The exact verdict on one (scale, constant) per channel."""
    wrong = wrong_points(problem, scale[:, None], constant[:, None])
    verdicts = {}
    for kernels in problem.kernels:
        differing = np.zeros(len(scale), np.int64)
        largest = np.zeros(len(scale), np.int64)
        rows = np.flatnonzero(wrong[kernels][:, 0])
        if len(rows):
            differing[rows], largest[rows] = count_differing(problem.rows(rows), kernels, scale[rows], constant[rows])
        verdicts[kernels] = Verdict(differing, largest)
    return verdicts


def count_differing(problem: Problem, kernels: str, scale: Float32s, constant: Ints) -> tuple[Ints, Ints]:
    """Per channel: the number of reachable accumulators with another level, and the largest difference in levels. What
    lies below the first level or above the last one counts too: not every operator clamps there."""
    ends = np.stack([problem.x_lo, problem.x_hi], axis=1)
    wanted = np.concatenate([ends[:, :1], problem.reachable_thresholds, ends[:, 1:] + 1], axis=1)
    got = _emulate_thresholds(problem, kernels, wanted, scale, constant)
    at_ends = emulate_levels(problem, kernels, ends, scale[:, None], constant[:, None])
    outside = np.maximum(problem.lo - at_ends, at_ends - problem.lo - problem.thresholds.shape[1])
    differing = np.zeros(len(scale), np.int64)
    largest = np.zeros(len(scale), np.int64)
    for row, (a, b) in enumerate(zip(wanted, got, strict=True)):
        edges = np.unique(np.concatenate([a, b]))
        apart = np.abs(np.searchsorted(a, edges[:-1], side="right") - np.searchsorted(b, edges[:-1], side="right"))
        differing[row] = (np.diff(edges) * (apart > 0)).sum()
        largest[row] = max(apart.max(initial=0), outside[row].max())
    return differing, largest


def _emulate_thresholds(problem: Problem, kernels: str, wanted: Ints, scale: Float32s, constant: Ints) -> Ints:
    """(R, L + 2): the smallest accumulator in x_lo … x_hi + 1 at which the emulated level reaches lo, lo + 1, … and one
    more than the last level; they lie near `wanted` as a rule."""
    levels = problem.lo + np.arange(wanted.shape[1])
    low = np.broadcast_to(problem.x_lo[:, None], wanted.shape).copy()
    high = np.broadcast_to(problem.x_hi[:, None] + 1, wanted.shape).copy()
    attempt = 0
    while np.any(low < high):
        # The runtime's steps lie near the graph's as a rule: look there first, then halve what is left.
        near = wanted + _NEAR[attempt] if attempt < len(_NEAR) else (low + high) >> 1
        middle = np.clip(near, low, np.maximum(low, high - 1))
        x = np.minimum(middle, problem.x_hi[:, None])
        reached = emulate_levels(problem, kernels, x, scale[:, None], constant[:, None]) >= levels
        searching = low < high
        high = np.where(searching & reached, middle, high)
        low = np.where(searching & ~reached, middle + 1, low)
        attempt += 1
    return low
