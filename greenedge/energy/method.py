"""The settings of a measurement and its windows: [idle | window | idle] × R, idle always on both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from greenedge.energy.clock import Clock
from greenedge.energy.meters import Boundary, Meter
from greenedge.energy.source import SourceFault
from greenedge.energy.workloads import Workload
from greenedge.errors import GreenedgeError


@dataclass(frozen=True)
class Method:
    """Settings, with the specification's defaults. A window lasts at least max(min_window_s, periods · update period)
    and holds at least min_inferences.

    No setting goes below `floor_periods`: there the uncertainty of the boundaries alone exceeds 1 %. `random_delay_s`
    None is the sensor's period where the sensor averages over part of the time, else no delay.
    """

    min_window_s: float = 10.0
    periods: float = 100.0
    floor_periods: float = 10.0
    min_inferences: int = 32
    idle_s: float = 3.0
    idle_periods: float = 30.0
    # Between repetitions: without it the idle after one and the idle before the next share slow noise (correlation time
    # 3 s), and 95 % intervals of the net energy contain the truth only 92.5 % of the time.
    cooldown_s: float = 5.0
    warm_up_s: float = 30.0
    steady_slope: float = 0.005
    steady_c: float = 0.5
    steady_windows: int = 5
    min_reps: int = 10
    max_reps: int = 30
    target: float = 0.02
    random_delay_s: float | None = None

    def window_s(self, meters: list[Meter]) -> float:
        """The shortest window in s that suits every meter. Raises GreenedgeError where the settings ask for less than
        floor_periods."""
        slowest = max(meter.period_s for meter in meters)
        wanted = max(self.min_window_s, self.periods * slowest)
        floor = self.floor_periods * slowest
        # The tolerance keeps a window of exactly the floor from being refused by rounding.
        if wanted < floor * (1 - 1e-9):
            raise GreenedgeError(
                f"a window of {wanted * 1e3:.3g} ms is too short for a source that is updated every "
                f"{slowest * 1e3:.3g} ms: at least {floor:.3g} s are needed; lengthen --window."
            )
        return wanted

    def idle_window_s(self, meters: list[Meter]) -> float:
        return max(self.idle_s, self.idle_periods * max(meter.period_s for meter in meters))

    def delay_s(self, meters: list[Meter]) -> float:
        if self.random_delay_s is not None:
            return self.random_delay_s
        return max(meter.info.part_time or 0.0 for meter in meters)


@dataclass(frozen=True)
class Window:
    """What one meter measured between two boundaries (s): `joules`, their uncertainty `boundary_u` in J, `count`
    inferences (fractional where a boundary fell inside one); `active_s` of the `seconds` were inference, the rest
    delay."""

    t0: float
    t1: float
    joules: float
    boundary_u: float
    count: float
    active_s: float

    @property
    def seconds(self) -> float:
        return self.t1 - self.t0

    @property
    def watts(self) -> float:
        return self.joules / self.seconds


class Windows:
    """Runs windows of one workload on several meters at once; each meter has its own boundaries."""

    def __init__(self, meters: list[Meter], clock: Clock, rng: np.random.Generator):
        self.meters, self.clock, self.rng = meters, clock, rng

    def idle(self, seconds: float) -> list[Window]:
        """One idle window of each meter, with boundaries on ticks."""
        first = self._rest_boundaries()
        end = self.clock.now() + seconds
        while (left := end - self.clock.now()) > 0:
            self.clock.sleep(min(left, 0.5))
            self.guard()
        last = self._rest_boundaries()
        return [
            Window(a.t, b.t, *meter.energy(a, b), 0.0, 0.0)
            for meter, a, b in zip(self.meters, first, last, strict=True)
        ]

    def work(self, workload: Workload, seconds: float, least: int, latency_s: float, delay_s: float) -> list[Window]:
        """One window of each meter of at least `seconds` and `least` inferences.

        A continuous workload runs through both boundaries, so its start and stop are outside; others see `_run_whole`.
        """
        if not workload.continuous:
            return self._run_whole(workload, seconds, least)
        pieces = _Pieces(self, workload, latency_s, delay_s)
        short = min(meter.period_s for meter in self.meters) / 50
        pieces.do(short)
        first = self._boundaries(lambda: pieces.do(short))
        begun, end = pieces.calls, self.clock.now() + seconds
        while self.clock.now() < end or (pieces.calls - begun) * workload.batch < least:
            pieces.do(0.05)
            self.guard()
        last = self._boundaries(lambda: pieces.do(short))
        return [self._window(meter, a, b, pieces) for meter, a, b in zip(self.meters, first, last, strict=True)]

    def guard(self) -> None:
        """Reads every meter that needs a read now."""
        for meter in self.meters:
            meter.guard()

    def _window(self, meter: Meter, a: Boundary, b: Boundary, pieces: _Pieces) -> Window:
        ends, calls, active = np.array(pieces.log).T
        count = np.diff(np.interp([a.t, b.t], ends, calls))[0] * pieces.workload.batch
        return Window(
            a.t, b.t, *meter.energy(a, b), float(count), float(np.diff(np.interp([a.t, b.t], ends, active))[0])
        )

    def _boundaries(self, step: Callable[[], None]) -> list[Boundary]:
        """One boundary of each meter, calling `step` between reads. Raises SourceFault when a counter does not tick."""
        ready: dict[int, Boundary] = {}
        for meter in self.meters:
            meter.reset_edge()
        patience = self.clock.now() + max(2.0, 20 * max(meter.period_s for meter in self.meters))
        looks = 0
        while len(ready) < len(self.meters):
            step()
            looks += 1
            for k, meter in enumerate(self.meters):
                if k not in ready and (boundary := meter.ready()) is not None:
                    ready[k] = boundary
            if self.clock.now() > patience and looks > 20 and len(ready) < len(self.meters):
                silent = next(meter for k, meter in enumerate(self.meters) if k not in ready)
                raise SourceFault(
                    silent.info.id,
                    "frozen",
                    f"it has not moved for {self.clock.now() - patience + 2:.1f} s in the middle of a run",
                    "use another source; this one stops at times",
                )
        return [ready[k] for k in range(len(self.meters))]

    def _run_whole(self, workload: Workload, seconds: float, least: int) -> list[Window]:
        """Whole runs between boundaries on ticks before and after them. The time up to each tick is idle; it counts as
        delay, so its idle energy is subtracted."""
        first, begun, runs = self._rest_boundaries(), self.clock.now(), 0
        while self.clock.now() - begun < seconds or runs * workload.batch < least:
            workload.infer(1, self.guard)
            runs += 1
        busy = self.clock.now() - begun
        last = self._rest_boundaries()
        return [
            Window(a.t, b.t, *meter.energy(a, b), float(runs * workload.batch), min(busy, b.t - a.t))
            for meter, a, b in zip(self.meters, first, last, strict=True)
        ]

    def _rest_boundaries(self) -> list[Boundary]:
        """Boundaries while nothing runs."""
        pause = min(min(meter.period_s for meter in self.meters) / 50, 0.02)
        return self._boundaries(lambda: self.clock.sleep(pause))


class _Pieces:
    """Runs a continuous workload in pieces and logs (time, calls so far, active seconds so far)."""

    def __init__(self, windows: Windows, workload: Workload, latency_s: float, delay_s: float):
        self.windows, self.workload, self.latency_s, self.delay_s = windows, workload, latency_s, delay_s
        self.clock = windows.clock
        self.calls, self.active = 0, 0.0
        self.log: list[tuple[float, int, float]] = [(self.clock.now(), 0, 0.0)]

    def do(self, seconds: float) -> None:
        """Calls for about `seconds` (at least one). With a random delay: the delay, then calls for about half of
        `delay_s`, so that every call as long as the delay has one before it."""
        calls = 1 if self.delay_s else max(int(seconds / self.latency_s), 1)
        if self.delay_s:
            calls = max(int(self.delay_s / 2 / self.latency_s), 1)
            self.clock.sleep(float(self.windows.rng.uniform(0, self.delay_s)))
            self.log.append((self.clock.now(), self.calls, self.active))
        begun = self.clock.now()
        self.workload.infer(calls, self.windows.guard)
        now = self.clock.now()
        self.calls += calls
        self.active += now - begun
        self.log.append((now, self.calls, self.active))
