"""How long a call takes, several side by side: in turns, so that a busy machine is busy for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

SLICE_S = 0.004  # one turn of one call lasts about this long, whole calls
_WARM_S = 0.05
_LEAST = 9  # calls in a slice
_AGAIN = 3  # calls before it


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
    """seconds[name]: (rounds,) seconds of the median call of a round, on the wall clock, the rounds of all names interleaved."""

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


def interleaved(
    calls: Mapping[str, Callable[[], object]], rounds: int = 50, clock: Callable[[], float] = time.perf_counter
) -> Timings:
    """Times every call once a round, in an order that turns by one each round. What a call starts it must have ended."""
    names = list(calls)
    count = {name: _calls_per_slice(call, clock) for name, call in calls.items()}
    seconds = {name: np.empty(rounds) for name in names}
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            seconds[name][k] = _median_of(calls[name], count[name], clock)
    return Timings(seconds)


def _median_of(call: Callable[[], object], n: int, clock: Callable[[], float]) -> float:
    """Of n calls timed one by one, after a few that bring caches and clocks back from the call before: where another process took
    the core in the middle of one, that one does not count."""
    for _ in range(_AGAIN):
        call()
    ends = [clock()]
    for _ in range(n):
        call()
        ends.append(clock())
    return float(np.median(np.diff(ends)))


def _calls_per_slice(call: Callable[[], object], clock: Callable[[], float]) -> int:
    """Warms the call up; how many of it fill one slice, at least a few."""
    begun, ends = clock(), [clock()]
    while ends[-1] - begun < _WARM_S or len(ends) <= _LEAST:
        call()
        ends.append(clock())
    return max(_LEAST, round(SLICE_S / max(float(np.median(np.diff(ends))), 1e-9)))
