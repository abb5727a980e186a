"""Latency of several calls, timed in turns: what else the machine does slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

SLICE_S = 0.004  # one turn of one call takes about this long, rounded to whole calls
_WARM_S = 0.05
_MIN_CALLS = 9  # in a turn
_WARM_CALLS = 3  # before a turn, not timed


@dataclass(frozen=True)
class Spread:
    """The median over the rounds, and the middle 80 % of them."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} … {self.high:.3g})"


@dataclass(frozen=True, eq=False)
class Timings:
    """seconds[name]: (rounds,) wall-clock seconds of the median call of each round; the calls of a round take turns."""

    seconds: Mapping[str, np.ndarray]

    def latency_s(self, name: str) -> Spread:
        """Seconds per call."""
        return _spread(self.seconds[name])

    def ratio(self, name: str, base: str) -> Spread:
        """Time of `name` over time of `base`, round by round."""
        return _spread(self.seconds[name] / self.seconds[base])


def _spread(values: np.ndarray) -> Spread:
    low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
    return Spread(float(median), float(low), float(high))


def time_in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int = 50, clock: Callable[[], float] = time.perf_counter
) -> Timings:
    """Times every call once a round, in an order that rotates by one each round. A call must end all that it starts."""
    names = list(calls)
    count = {name: _calls_per_slice(call, clock) for name, call in calls.items()}
    seconds = {name: np.empty(rounds) for name in names}
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            seconds[name][k] = _median_of(calls[name], count[name], clock)
    return Timings(seconds)


def _median_of(call: Callable[[], object], n: int, clock: Callable[[], float]) -> float:
    """The median time of n calls timed one by one, after a few that restore caches and clock rate.

    The median leaves out a call during which another process took the core.
    """
    for _ in range(_WARM_CALLS):
        call()
    ends = [clock()]
    for _ in range(n):
        call()
        ends.append(clock())
    return float(np.median(np.diff(ends)))


def _calls_per_slice(call: Callable[[], object], clock: Callable[[], float]) -> int:
    """Warms the call up; how many calls fill SLICE_S, at least _MIN_CALLS."""
    started, ends = clock(), [clock()]
    while ends[-1] - started < _WARM_S or len(ends) <= _MIN_CALLS:
        call()
        ends.append(clock())
    return max(_MIN_CALLS, round(SLICE_S / max(float(np.median(np.diff(ends))), 1e-9)))
