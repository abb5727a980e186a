"""Time, injected everywhere: the machine's raw monotonic clock, or a virtual one that makes hours pass in a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

_RAW = getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Seconds that never go back, and a way to wait."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class RealClock:
    """CLOCK_MONOTONIC_RAW: not slewed by NTP, so a second is a second."""

    def now(self) -> float:
        return time.clock_gettime(_RAW)

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)


class VirtualClock:
    """A clock that moves only when something sleeps or computes; `watch` hears of every move."""

    def __init__(self, start: float = 1000.0, read_cost: float = 2e-6, watch: Callable[[float], None] | None = None):
        self.time = start
        self.read_cost = read_cost
        self.watch = watch

    def now(self) -> float:
        self.advance(self.read_cost)
        return self.time

    def sleep(self, seconds: float) -> None:
        self.advance(max(seconds, 0.0))

    def advance(self, seconds: float) -> None:
        self.time += seconds
        if self.watch:
            self.watch(self.time)
