"""Meters: what measures the energy of windows. A `Boundary` is a time with the energy up to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from greenedge.energy.clock import Clock, VirtualClock
from greenedge.energy.liveness import Liveness, Load, check_with
from greenedge.energy.sampler import SamplerProcess
from greenedge.energy.source import Reading, Source, SourceFault, SourceInfo, Trace, integrate

_LOOK_S = 1.0
_SILENT = "see that nothing else uses it, and unplug it and plug it in again"


@dataclass(frozen=True)
class Boundary:
    """A time `t` in s, known to within `resolution_s`; `joules` of a counter up to it, None for sampled meters."""

    t: float
    resolution_s: float
    joules: float | None = None


class MeterRecord(Protocol):
    """What a row needs of a meter after the session: also of the sum of several."""

    info: SourceInfo
    period_s: float

    def trace(self) -> Trace | None: ...

    def digest(self) -> str: ...


class Meter(Protocol):
    """`ready` is called repeatedly until it returns a boundary on a tick; `now` returns one at once, less precise.

    `energy` is (joules, their standard uncertainty) between two boundaries, `trace` the power over time, `digest` the
    sha256 of all readings.
    """

    info: SourceInfo
    period_s: float

    def start(self) -> None: ...

    def reset_edge(self) -> None: ...

    def ready(self) -> Boundary | None: ...

    def now(self) -> Boundary: ...

    def guard(self) -> None: ...

    def energy(self, a: Boundary, b: Boundary) -> tuple[float, float]: ...

    def trace(self) -> Trace | None: ...

    def digest(self) -> str: ...

    def stop(self) -> None: ...


class CounterMeter:
    """A counter read at window boundaries, aligned to its ticks, and often enough that no wrap is missed."""

    def __init__(self, source: Source, clock: Clock, period_s: float | None = None):
        self.source, self.clock, self.info = source, clock, source.info
        self.period_s = period_s or source.info.update_period_s or 0.1
        self._last: Reading  # set by `start`
        self._log: list[tuple[float, float]] = []

    def start(self) -> None:
        self._read()

    def reset_edge(self) -> None:
        """Reads, so that the next boundary is on a later tick."""
        self._read()

    def ready(self) -> Boundary | None:
        """A boundary half-way between the last two reads if the counter has ticked between them, else None."""
        before, after = self._last, self._read()
        if after.value == before.value:
            return None
        gap = after.t1 - before.t0
        return Boundary((before.t + after.t) / 2, min(gap, self.period_s), after.value)

    def now(self) -> Boundary:
        reading = self._read()
        return Boundary(reading.t, self.period_s, reading.value)

    def guard(self) -> None:
        """Reads often enough that no wrap is missed, and once a second for the power over time."""
        if self.clock.now() - self._last.t > min(self.info.guard_s or _LOOK_S, _LOOK_S):
            self._read()

    def energy(self, a: Boundary, b: Boundary) -> tuple[float, float]:
        """(joules, their standard uncertainty from the two boundaries)."""
        assert a.joules is not None and b.joules is not None, "a boundary of a sampled meter"
        joules = b.joules - a.joules
        power = joules / (b.t - a.t)
        # Each boundary is uniformly distributed within its resolution: variance resolution²/12 each.
        return joules, power * ((a.resolution_s**2 + b.resolution_s**2) / 12) ** 0.5

    def trace(self) -> Trace | None:
        """Mean power between readings at least a period apart, as steps; None for fewer than three readings."""
        points = [self._log[0]] if self._log else []
        for point in self._log:
            if point[0] - points[-1][0] >= max(self.period_s, 0.1):
                points.append(point)
        if len(points) < 3:
            return None
        t, joules = np.array(points).T
        length = np.diff(t)
        ends = np.stack([t[:-1], t[1:] - 1e-6 * length], axis=1).ravel()
        return Trace(ends, np.repeat(np.diff(joules) / length, 2))

    def digest(self) -> str:
        """sha256 over all logged readings (time and joules, little-endian doubles)."""
        return hashlib.sha256(np.array(self._log, "<f8").tobytes()).hexdigest()

    def stop(self) -> None:
        self.source.close()

    def _read(self) -> Reading:
        self._last = self.source.read()
        if not self._log or self._last.value != self._log[-1][1]:
            self._log.append((self._last.t, self._last.value))
        return self._last


class SampledMeter:
    """Power sampled by `recorder`, as a rule a process of its own; energy is the integral of its rows."""

    def __init__(self, info: SourceInfo, recorder: Recorder, clock: Clock, hz: float):
        self.info, self.recorder, self.clock = info, recorder, clock
        self.period_s = max(info.update_period_s or 0.0, 1 / hz)

    @classmethod
    def of(cls, source_id: str, root: Path, info: SourceInfo, clock: Clock, hz: float = 10.0) -> SampledMeter:
        """A meter whose sampler process opens the source by its id."""
        return cls(info, SamplerProcess(source_id, root, hz), clock, hz)

    def start(self) -> None:
        self.recorder.start()

    def reset_edge(self) -> None:
        """Sampled meters have no ticks."""

    def ready(self) -> Boundary | None:
        return self.now()

    def now(self) -> Boundary:
        # The time is exact; power changes between samples are in the uncertainty of integrate().
        return Boundary(self.clock.now(), 0.0)

    def guard(self) -> None:
        """Nothing wraps."""

    def energy(self, a: Boundary, b: Boundary) -> tuple[float, float]:
        return integrate(self._until(b.t), a.t, b.t)

    def trace(self) -> Trace | None:
        rows = self.recorder.rows()
        return _as_trace(rows) if len(rows) > 1 else None

    def digest(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.recorder.rows(), "<f8").tobytes()).hexdigest()

    def check_liveness(self, load: Load | None, seconds: float = 1.0) -> Liveness:
        """The liveness test on the recorder's rows, in turns of rest and load of at least `seconds`."""
        return check_with(self._watch, self.info, load, max(seconds, 5 * self.period_s))

    def _watch(self, load: Load | None, seconds: float) -> tuple[np.ndarray, np.ndarray]:
        begun = self.clock.now()
        if load:
            load(lambda: self.clock.now() < begun + seconds)
        else:
            self.clock.sleep(seconds)
        trace = self._until(self.clock.now())
        # The first tenth is left out: an averaging sensor still shows the turn before.
        inside = (trace.t > begun + seconds / 10) & (trace.t <= self.clock.now())
        if np.sum(inside) < 2:
            raise SourceFault(self.info.id, "dead", f"it gave {np.sum(inside)} samples in {seconds:.1f} s", _SILENT)
        return trace.t[inside], trace.watts[inside]

    def stop(self) -> None:
        self.recorder.stop()

    def _until(self, t: float) -> Trace:
        for _ in range(200):
            rows = self.recorder.rows()
            if len(rows) > 2 and rows[-1, 0] > t:
                return _as_trace(rows)
            self.clock.sleep(self.period_s / 4)
        raise SourceFault(self.info.id, "dead", f"its sampler gave nothing after {t:.3f} s", _SILENT)


class Recorder(Protocol):
    """Samples for a SampledMeter: `rows` is (n, 2), times in s and watts."""

    def start(self) -> None: ...

    def rows(self) -> np.ndarray: ...

    def stop(self) -> None: ...


class InlineRecorder:
    """Samples at every `1 / hz` s of a virtual clock, through its `watch`."""

    def __init__(self, read: Callable[[], float], clock: VirtualClock, hz: float):
        self.read, self.clock, self.step = read, clock, 1 / hz
        self._rows: list[tuple[float, float]] = []
        self._due = -np.inf

    def start(self) -> None:
        outer = self.clock.watch

        def hear(t: float) -> None:
            if outer:
                outer(t)
            if t >= self._due:
                self._due = t + self.step
                self._rows.append((t, self.read()))

        self.clock.watch = hear

    def rows(self) -> np.ndarray:
        return np.array(self._rows).reshape(-1, 2)

    def stop(self) -> None:
        """Nothing to end: the rows stay."""


def _as_trace(rows: np.ndarray) -> Trace:
    return Trace(rows[:, 0].copy(), rows[:, 1].copy())
