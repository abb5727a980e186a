"""A measuring session: warm-up, bracketed repetitions of several workloads in random order, stop rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from greenedge.energy.clock import Clock
from greenedge.energy.meters import Meter, MeterRecord
from greenedge.energy.method import Method, Window, Windows
from greenedge.energy.stats import mean_interval
from greenedge.energy.workloads import Workload, inferences_at_once
from greenedge.progress import ProgressFn, no_progress

_DRIFT = 0.05  # of the net power: above it a row is flagged


@dataclass(frozen=True)
class Repetition:
    """One bracketed window of one workload on one meter; joules per inference follow from it."""

    round: int
    place: int
    before: Window
    window: Window
    after: Window
    at_once: int = 1  # inferences whose answers come together

    @property
    def idle_w(self) -> float:
        """Mean of the brackets: a linear drift of the idle power cancels."""
        return (self.before.watts + self.after.watts) / 2

    @property
    def drift(self) -> float:
        """Difference of the brackets over the net power of the window."""
        net = self.window.watts - self.idle_w
        return (self.after.watts - self.before.watts) / net if net else float("inf")

    @property
    def total_j(self) -> float:
        """Joules per inference, idle included; random delays are subtracted at the idle power."""
        window = self.window
        paused = window.seconds - window.active_s
        return (window.joules - self.idle_w * paused) / window.count

    @property
    def net_j(self) -> float:
        """Joules per inference without idle: (E_window − P_idle · T) / N."""
        return (self.window.joules - self.idle_w * self.window.seconds) / self.window.count

    @property
    def latency_s(self) -> float:
        """Seconds from request to answer: of a whole batch where its inferences are computed at once."""
        return self.window.active_s / self.window.count * self.at_once


@dataclass
class Session:
    """The repetitions of one workload on one meter; temperature (°C) and CPU clock (Hz) before and after."""

    workload: Workload
    meter: MeterRecord
    delay_s: float
    reps: list[Repetition] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    temperature_c: tuple[float | None, float | None] = (None, None)
    clock_hz: tuple[float | None, float | None] = (None, None)

    def has_reached_target(self, method: Method) -> bool:
        """Whether the relative half-width of the interval is within the method's target."""
        if len(self.reps) < method.min_reps:
            return False
        half = mean_interval([rep.total_j for rep in self.reps]).half_width_rel
        return half is not None and half <= method.target


def run_session(
    workloads: Sequence[Workload],
    meters: Sequence[Meter],
    method: Method,
    clock: Clock,
    rng: np.random.Generator,
    progress: ProgressFn = no_progress,
    sysfs: Path | None = None,
) -> list[Session]:
    """A session for each workload and meter. The caller has started the meters, tested that they are alive and set up
    the workloads; temperatures and clocks are read below `sysfs`.

    A round takes the workloads in random order, the next one in reverse (ABBA). Stops when the interval of every
    session is within the target, or after max_reps. Raises SourceFault or GreenedgeError.
    """
    meters = list(meters)
    windows = Windows(meters, clock, rng)
    length, rest, delay = method.window_s(meters), method.idle_window_s(meters), method.delay_s(meters)
    sessions = {(w.name, m.info.id): Session(w, m, delay) for w in workloads for m in meters}
    heat, pace = temperature(sysfs), clock_rate(sysfs)
    latency = {
        workload.name: _warm_up(workload, windows, method, length, sessions, progress, lambda: temperature(sysfs))
        for workload in workloads
    }
    order: list[int] = []
    for number in range(method.max_reps):
        order = order[::-1] if number % 2 else [int(i) for i in rng.permutation(len(workloads))]
        for place, index in enumerate(order):
            workload = workloads[index]
            progress(number + 1, method.max_reps, workload.name)
            # Cool down so that no slow noise is shared with the last repetition; the random sleep below varies the
            # phase against the sensor's period.
            if number or place:
                clock.sleep(method.cooldown_s)
                windows.guard()
            clock.sleep(float(rng.uniform(0, max(meter.period_s for meter in meters))))
            before = windows.idle(rest)
            during = windows.work(workload, length, method.min_inferences, latency[workload.name], delay)
            after = windows.idle(rest)
            for meter, idle_before, window, idle_after in zip(meters, before, during, after, strict=True):
                rep = Repetition(number, place, idle_before, window, idle_after, inferences_at_once(workload))
                sessions[workload.name, meter.info.id].reps.append(rep)
        if all(session.has_reached_target(method) for session in sessions.values()):
            break
    for session in sessions.values():
        session.temperature_c, session.clock_hz = (heat, temperature(sysfs)), (pace, clock_rate(sysfs))
        session.flags += find_flags(session, method)
    return list(sessions.values())


def temperature(sysfs: Path | None) -> float | None:
    """The hottest thermal zone in °C; None without one."""
    return max(_numbers(sysfs, "class/thermal/thermal_zone*/temp", 1e-3), default=None)


def clock_rate(sysfs: Path | None) -> float | None:
    """The mean clock of the CPUs in Hz; None where the kernel does not report it."""
    found = _numbers(sysfs, "devices/system/cpu/cpu*/cpufreq/scaling_cur_freq", 1e3)
    return float(np.mean(found)) if found else None


def _numbers(sysfs: Path | None, pattern: str, scale: float) -> list[float]:
    found = []
    for path in sorted(sysfs.glob(pattern)) if sysfs else ():
        try:
            found.append(int(path.read_text().strip()) * scale)
        except (OSError, ValueError):
            continue
    return found


def _warm_up(
    workload: Workload,
    windows: Windows,
    method: Method,
    length: float,
    sessions: dict[tuple[str, str], Session],
    progress: ProgressFn,
    read_temperature: Callable[[], float | None],
) -> float:
    """The seconds of one call, after running until power and temperature of the last windows have no slope, or for
    warm_up_s (longer for a slow meter); the sessions are flagged where a slope remains."""
    clock = windows.clock
    powers: list[list[float]] = [[] for _ in windows.meters]
    heats: list[float | None] = []
    begun, calls = clock.now(), 0
    workload.infer(1, windows.guard)
    latency = max(clock.now() - begun, 1e-7)
    slowest = max(meter.period_s for meter in windows.meters)
    piece = max(min(length / 5, method.warm_up_s / method.steady_windows), method.floor_periods * slowest)
    allowed = max(method.warm_up_s, 2 * method.steady_windows * method.floor_periods * slowest)
    while clock.now() - begun < allowed:
        progress(int(clock.now() - begun), int(allowed), f"warming up {workload.name}")
        seen = windows.work(workload, piece, 1, latency, 0.0)
        latency = max(seen[0].active_s / seen[0].count * workload.batch, 1e-7)
        calls += 1
        heats.append(read_temperature())
        for history, window in zip(powers, seen, strict=True):
            history.append(window.watts)
        if (
            calls >= method.steady_windows
            and all(is_steady(history, method) for history in powers)
            and is_cool(heats, method)
        ):
            return latency
    for meter, history in zip(windows.meters, powers, strict=True):
        if not is_steady(history, method):
            sessions[workload.name, meter.info.id].flags.append(f"power was not steady after {allowed:g} s of warm-up")
        elif not is_cool(heats, method):
            sessions[workload.name, meter.info.id].flags.append(
                f"the temperature still rose after {allowed:g} s of warm-up"
            )
    return latency


def is_cool(heats: Sequence[float | None], method: Method) -> bool:
    """Whether the slope of the temperature over the last windows is below steady_c per window; True where unknown."""
    recent = heats[-method.steady_windows :]
    last = [heat for heat in recent if heat is not None]
    if len(last) < 2 or len(last) < len(recent):
        return True
    return bool(abs(np.polyfit(np.arange(len(last)), last, 1)[0]) < method.steady_c)


def is_steady(powers: Sequence[float], method: Method) -> bool:
    """Whether the least-squares slope of the last windows is below steady_slope of their mean, per window."""
    last = np.asarray(powers[-method.steady_windows :])
    if len(last) < method.steady_windows:
        return False
    slope = np.polyfit(np.arange(len(last)), last, 1)[0]
    return bool(abs(slope) < method.steady_slope * abs(float(np.mean(last))))


def find_flags(session: Session, method: Method) -> list[str]:
    """What is odd about the repetitions of a session."""
    flags, reps = [], session.reps
    worst = max(reps, key=lambda rep: abs(rep.drift))
    if abs(worst.drift) > _DRIFT:
        flags.append(
            f"idle drift: the idle power moved by {worst.after.watts - worst.before.watts:+.3g} W around "
            f"repetition {worst.round + 1}, {abs(worst.drift):.0%} of the net power"
        )
    total = mean_interval([rep.total_j for rep in reps])
    if total.half_width_rel is None or total.half_width_rel > method.target:
        flags.append(f"interval wider than ±{method.target:.0%} after {len(reps)} repetitions")
    net = mean_interval([rep.net_j for rep in reps])
    if net.low is not None and net.low <= 0:
        flags.append("the net energy is not distinguishable from 0")
    return flags
