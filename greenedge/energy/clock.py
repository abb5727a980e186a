"""The clocks of the harness: the machine's raw monotonic one, and a virtual one that needs no real time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

_RAW = getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Monotonic seconds, and waiting."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class RealClock:
    """CLOCK_MONOTONIC_RAW, which NTP does not slew."""

    def now(self) -> float:
        return time.clock_gettime(_RAW)

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)


class VirtualClock:
    """A clock that moves only on `sleep` and `advance`, and by `read_cost` s a read; each move calls `watch(time)`."""

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
