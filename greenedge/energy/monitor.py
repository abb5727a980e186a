"""Energy of named windows around any code: `with energy.window("epoch") as w:`, or begin and end of a Monitor.

The sources are opened and proved alive once (seven seconds each, under a load of their own); a window then costs one
reading at each end. Where nothing is alive the CPU seconds of the process stand in, as an estimate, which has another
attribute and another key. A thread reads counters once a second, so that none wraps unseen in a long window.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from greenedge.energy.clock import Clock, RealClock
from greenedge.energy.cpu_share import CPU_BAND, WATTS_FROM, WATTS_PER_CORE
from greenedge.energy.evidence import evidence_class
from greenedge.energy.liveness import Load
from greenedge.energy.meters import Boundary, CounterMeter, Meter
from greenedge.energy.proving import How, MakeMeter, make_plan, prove_plan
from greenedge.energy.source import SourceFault, SourceInfo
from greenedge.errors import EvidenceError, GreenedgeError

if TYPE_CHECKING:
    from greenedge.energy.evidence import Figure

# Of the difference of two times that are uniform within a tick (a triangle of half-width 1), 95 % lie within this.
_TRIANGLE_95 = 1 - 0.05**0.5
_NORMAL_95 = 1.96
_FEW_TICKS = 10
_ESTIMATE = SourceInfo(
    "estimate:cpu",
    "model",
    "chip",
    "cpu package share",
    evidence="estimated",
    host_included=True,
    notes=(f"{WATTS_PER_CORE:g} W per core, {WATTS_FROM}, times the CPU seconds of this process",),
)


@dataclass(frozen=True)
class Part:
    """What one source says of a window: joules with their 95 % interval (None where a bound is not known)."""

    info: SourceInfo
    energy: float
    low: float | None
    high: float | None
    flags: tuple[str, ...] = ()

    @property
    def joules(self) -> float | None:
        """Of an instrument; None for an estimate."""
        return None if evidence_class(self.info.evidence) == "estimated" else self.energy

    @property
    def joules_estimate(self) -> float | None:
        """Of a model; None for an instrument."""
        return self.energy if evidence_class(self.info.evidence) == "estimated" else None


@dataclass
class EnergyWindow:
    """A named stretch of work. `begun` is in s since 1970, `seconds` and the parts are known once it has ended; parts
    of sampled sources are worked out when they are first asked for."""

    name: str
    begun: float
    seconds: float | None = None
    _finish: Callable[[], list[Part]] | None = None
    _parts: list[Part] = field(default_factory=list)

    @property
    def parts(self) -> list[Part]:
        """One for each figure. Raises GreenedgeError before the end, SourceFault where a source broke off."""
        if self.seconds is None:
            raise GreenedgeError(f"the window {self.name!r} has not ended; end it before its energy is asked for.")
        if self._finish is not None:
            self._parts, self._finish = self._finish(), None
        return self._parts

    @property
    def joules(self) -> float | None:
        """Of the first figure that an instrument gave; None where all are estimates."""
        return next((part.joules for part in self.parts if part.joules is not None), None)

    @property
    def joules_estimate(self) -> float | None:
        """Of the first estimate; None where an instrument was there."""
        return next((part.joules_estimate for part in self.parts if part.joules_estimate is not None), None)


class Monitor:
    """Measures named windows on several sources at once; windows of different names may overlap.

    `sources` are ids as of `greenedge energy probe` (ID+ID is a sum), none: what covers the work. `load` replaces the
    load of the proof of life, `required` "measured" refuses to estimate. Raises EvidenceError, SourceFault for sources
    that were named and are not alive. Close it, or use it as a context.
    """

    def __init__(
        self,
        sources: Sequence[str] = (),
        *,
        root: Path = Path("/"),
        clock: Clock | None = None,
        load: Load | None = None,
        required: str | None = None,
        make_meter: MakeMeter | None = None,
    ):
        self.clock = clock or RealClock()
        self.windows: list[EnergyWindow] = []
        self.reason = ""
        self._open: dict[str, tuple[EnergyWindow, float, float, list[list[Boundary]]]] = {}
        self._opened, self._lock, self._closing = ExitStack(), threading.Lock(), threading.Event()
        self._fault: SourceFault | None = None
        self.groups: list[tuple[Meter, ...]] = []
        self.flags: tuple[str, ...] = ()
        how = How(root, self.clock, required, make_meter=make_meter)
        try:
            plan = make_plan(sources, root, self.clock)
            proved, left = prove_plan(plan, how, load or run_load, self._opened)
            self.groups = [one.meters for one in proved]
            self.flags = (*left, *(flag for one in proved for flag in one.group.flags))
        except EvidenceError as error:
            self._opened.close()
            if sources or required:
                raise
            self.reason = str(error).splitlines()[0]
        self._start = self._boundaries()
        self._begun_cpu = time.process_time()
        if self.groups and isinstance(self.clock, RealClock):
            thread = threading.Thread(target=self._watch, name="greenedge-energy", daemon=True)
            thread.start()
            self._opened.callback(thread.join, 5)
            self._opened.callback(self._closing.set)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread and closes the sources; windows that have ended keep what they know."""
        for window in self.windows:
            if window.seconds is not None:
                _ = window.parts
        self._opened.close()

    @contextmanager
    def window(self, name: str) -> Iterator[EnergyWindow]:
        """The window around a block; it also ends where the block raises."""
        found = self.begin(name)
        try:
            yield found
        finally:
            self.end(name)

    def begin(self, name: str) -> EnergyWindow:
        """Raises GreenedgeError where a window of that name is open."""
        if name in self._open:
            raise GreenedgeError(f"the window {name!r} is open already; end it first, or give the inner another name.")
        _synchronise()
        window = EnergyWindow(name, time.time())
        self._open[name] = (window, self.clock.now(), time.process_time(), self._boundaries())
        return window

    def end(self, name: str) -> EnergyWindow:
        """The window of that name, with its energy. Raises GreenedgeError where none is open."""
        if name not in self._open:
            raise GreenedgeError(f"there is no open window {name!r}; begin it first.")
        _synchronise()
        last, now = self._boundaries(), self.clock.now()
        window, begun, cpu, first = self._open.pop(name)
        window.seconds = now - begun
        spent = time.process_time() - cpu
        window._finish = lambda: self._measure(first, last, spent)
        if all(isinstance(meter, CounterMeter) for group in self.groups for meter in group):
            _ = window.parts  # nothing to wait for, and a fault is said where it happened
        self.windows.append(window)
        return window

    def totals(self) -> list[Part]:
        """The energy of each figure since the monitor was made, for an exporter."""
        return self._measure(self._start, self._boundaries(), time.process_time() - self._begun_cpu)

    def _boundaries(self) -> list[list[Boundary]]:
        if self._fault is not None:
            raise self._fault
        with self._lock:
            return [[meter.now() for meter in group] for group in self.groups]

    def _measure(self, first: list[list[Boundary]], last: list[list[Boundary]], cpu_seconds: float) -> list[Part]:
        if not self.groups:
            joules = WATTS_PER_CORE * cpu_seconds
            return [Part(_ESTIMATE, joules, joules * CPU_BAND[0], joules * CPU_BAND[1])]
        with self._lock:
            return [_part(*group) for group in zip(self.groups, self._start, first, last, strict=True)]

    def _watch(self) -> None:
        while not self._closing.wait(1.0):
            try:
                with self._lock:
                    for group in self.groups:
                        for meter in group:
                            meter.guard()
            except SourceFault as fault:
                self._fault = fault
                return


def _part(
    meters: Sequence[Meter], start: Sequence[Boundary], first: Sequence[Boundary], last: Sequence[Boundary]
) -> Part:
    """The sum of the meters between their boundaries, with a 95 % interval: a counter shows its last tick, so each end
    is late by up to a tick; gains are taken as one. `start` is where the monitor began."""
    from greenedge.energy.summed import sum_infos

    found = [_energy(*one) for one in zip(meters, start, first, last, strict=True)]
    joules = [energy for energy, _, _ in found]
    infos = [meter.info for meter in meters]
    info = sum_infos(infos, joules) if len(infos) > 1 else infos[0]
    gain = sum((meter.info.gain_rel or 0.0) * energy for meter, energy in zip(meters, joules, strict=True))
    half = (sum(half**2 for _, half, _ in found) + (_NORMAL_95 * gain) ** 2) ** 0.5
    total = sum(joules)
    flags = tuple(dict.fromkeys(flag for _, _, flag in found if flag))
    return Part(info, total, max(total - half, 0.0), total + half, flags)


def _energy(meter: Meter, start: Boundary, first: Boundary, last: Boundary) -> tuple[float, float, str]:
    """(joules, half of their 95 % interval, what is odd)."""
    seconds = last.t - first.t
    if seconds <= 0:
        return 0.0, 0.0, "the window is empty"
    few = seconds < _FEW_TICKS * meter.period_s
    flag = f"shorter than {_FEW_TICKS} updates of {meter.info.id} ({meter.period_s:.3g} s)" if few else ""
    joules, u = meter.energy(first, last)
    if first.joules is None or last.joules is None or start.joules is None:
        return joules, _NORMAL_95 * u, flag
    # A window within a tick reads 0, or all of a tick: the power since the beginning then says more of its ends.
    watts = (last.joules - start.joules) / (last.t - start.t) if few else joules / seconds
    return joules, _TRIANGLE_95 * meter.period_s * watts, flag


def summarise(windows: Sequence[EnergyWindow], name: str) -> list[tuple[SourceInfo, Figure, list[Part]]]:
    """Of all windows of that name: (source, the mean with its 95 % interval over them, their parts) for each figure. A
    single window has the interval of its own ends."""
    from greenedge.energy.evidence import Figure
    from greenedge.energy.stats import mean_interval

    series = [window.parts for window in windows if window.name == name and window.seconds is not None]
    if not series:
        raise GreenedgeError(
            f"no window {name!r} has ended; names are: {', '.join(sorted({w.name for w in windows}))}."
        )
    found = []
    for parts in zip(*series, strict=True):
        own, info = list(parts), parts[0].info
        interval = mean_interval([part.energy for part in own])
        low, high = interval.low, interval.high
        if low is None:
            low, high = own[0].low, own[0].high
        elif evidence_class(info.evidence) == "estimated":  # the band of the model, which no repetition narrows
            low, high = interval.mean * CPU_BAND[0], interval.mean * CPU_BAND[1]
        figure = Figure(interval.mean, "energy", "j", info.scope, info.evidence, low, high, covers=info.covers)
        found.append((info, figure, own))
    return found


def run_load(going: Callable[[], bool]) -> None:
    """Keeps a core busy while `going()`, and the GPU where torch is loaded and has one."""
    import numpy as np

    torch = sys.modules.get("torch")
    gpu = torch is not None and torch.cuda.is_available()
    b = torch.ones((2048, 2048), device="cuda") if torch is not None and gpu else None
    a = np.ones((128, 128), np.float32)
    while going():
        a = np.tanh(a @ a)
        if torch is not None and b is not None:
            b = torch.tanh(b @ b)
            torch.cuda.synchronize()


def _synchronise() -> None:
    """Waits for the work that a GPU was given: what is not done yet would be in the next window."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


@cache
def shared_monitor() -> Monitor:
    """The monitor of this process: opened at the first `window`, closed at its end."""
    import atexit

    monitor = Monitor()
    atexit.register(monitor.close)
    return monitor


def window(name: str) -> AbstractWindow:
    """`with window("epoch") as w:` on the shared monitor; afterwards w.joules, or w.joules_estimate without a meter."""
    return shared_monitor().window(name)


if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    AbstractWindow = AbstractContextManager[EnergyWindow]
