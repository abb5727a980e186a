"""Simulated sources that can fail: a machine of known power on a virtual clock, and its counter and sensor with faults.

Used by the tests, the benchmark and `greenedge energy selftest`. Readings have the evidence `simulated`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from greenedge.energy.clock import VirtualClock
from greenedge.energy.counter_unwrap import Unwrapper
from greenedge.energy.source import Reading, SourceFault, SourceInfo

FAULTS = ("zero", "frozen", "reset", "denied", "nan", "implausible", "unmoved")


class FakeMachine:
    """Draws idle_w + extra(t) watts, and `busy_w` more while `busy`; `joules` is exact."""

    def __init__(
        self,
        clock: VirtualClock,
        idle_w: float = 20.0,
        busy_w: float = 10.0,
        extra: Callable[[float], float] = lambda t: 0.0,
    ):
        self.clock, self.idle_w, self.busy_w, self.extra = clock, idle_w, busy_w, extra
        self.busy, self.joules, self._last, self._outer = False, 0.0, clock.time, clock.watch
        clock.watch = self._on_move

    def power(self, t: float) -> float:
        return self.idle_w + self.extra(t) + (self.busy_w if self.busy else 0.0)

    def work(self, seconds: float) -> None:
        """One call that takes `seconds`."""
        self.busy = True
        self.clock.advance(seconds)
        self.busy = False

    def load(self, going: Callable[[], bool]) -> None:
        """The load of the liveness test."""
        while going():
            self.work(0.002)

    def _on_move(self, t: float) -> None:
        if self._outer:
            self._outer(self._last)
        # Trapezoidal rule: exact for a power that is linear between the two times.
        self.joules += (self.power(self._last) + self.power(t)) / 2 * (t - self._last)
        self._last = t


class FakeCounter:
    """The machine's energy as a counter: updated every `period_s`, wrapping at `range_j`, with one fault or none."""

    def __init__(
        self,
        machine: FakeMachine,
        period_s: float = 976e-6,
        range_j: float | None = 262143.328850,
        start_j: float = 100.0,
        lsb_j: float = 15.3e-6,
        fault: str | None = None,
        max_power_w: float = 1000.0,
        scope: str = "chip",
        covers: str = "cpu package-0",
        evidence: str = "simulated",
    ):
        assert fault in (None, *FAULTS)
        self.period_s, self.lsb_j, self.range_j = period_s, lsb_j, range_j
        self.machine, self.clock, self.fault, self.start_j = machine, machine.clock, fault, start_j
        self.info = SourceInfo(
            "fake:counter",
            "counter",
            scope,
            covers,
            evidence=evidence,
            update_period_s=period_s,
            lsb_j=lsb_j,
            range_j=range_j,
            max_power_w=max_power_w,
        )
        self._unwrap = Unwrapper()
        self._held: tuple[int, float] = (-1, 0.0)  # (tick, joules at it)
        self._zero: float | None = None  # where the fault "reset" began
        outer = self.clock.watch
        self._outer, self.clock.watch = outer, self._on_move

    def raw(self) -> float:
        """The counter in J as a driver shows it, with its fault."""
        if self.fault == "denied":
            raise SourceFault(self.info.id, "denied", "it may be read by root alone", "the udev rule")
        if self.fault == "nan":
            return float("nan")
        if self.fault == "zero":
            return 0.0
        if self.fault == "frozen":
            return self.start_j
        value = self._held[1]
        if self.fault == "implausible":
            value = value + 10_000 * (self.clock.time - 1000)
        if self.fault == "unmoved":
            value = self.machine.idle_w * (self._held[0] * self.period_s - 1000)
        if self.fault == "reset" and self.clock.time > 1001:
            self._zero = self._zero if self._zero is not None else value
            value = value - self._zero
        else:
            value += self.start_j
        value = round(value / self.lsb_j) * self.lsb_j
        return value % self.range_j if self.range_j else value

    def read(self) -> Reading:
        t0 = self.clock.now()
        raw = self.raw()
        t1 = self.clock.now()
        return Reading(t0, t1, self._unwrap.add(self.info, (t0 + t1) / 2, raw))

    def close(self) -> None:
        """Nothing was opened."""

    def _on_move(self, t: float) -> None:
        before = self.machine.joules
        if self._outer:
            self._outer(t)
        tick = int(t / self.period_s)
        if tick != self._held[0]:
            # The value at the tick, not at the end of the move.
            share = (t - tick * self.period_s) * self.machine.power(t)
            self._held = (tick, max(self.machine.joules - share, before))


class FakePower:
    """The machine's power as a sensor, with one fault or none."""

    def __init__(
        self,
        machine: FakeMachine,
        fault: str | None = None,
        scope: str = "rail",
        covers: str = "VCCINT",
        max_power_w: float = 1000.0,
        update_period_s: float | None = None,
    ):
        self.machine, self.clock, self.fault = machine, machine.clock, fault
        self.info = SourceInfo(
            "fake:power",
            "power",
            scope,
            covers,
            evidence="simulated",
            max_power_w=max_power_w,
            update_period_s=update_period_s,
            gain_rel=0.001,
        )
        self._last = (self.clock.time, machine.joules)

    def read(self) -> Reading:
        t = self.clock.now()
        if self.fault == "denied":
            raise SourceFault(self.info.id, "denied", "it may be read by root alone", "the udev rule")
        (before, held), self._last = self._last, (t, self.machine.joules)
        # Averages since the last read, as real sensors do.
        mean = (self._last[1] - held) / (t - before) if t > before else self.machine.power(t)
        watts = {
            None: mean,
            "zero": 0.0,
            "frozen": 7.0,
            "nan": float("nan"),
            "implausible": 10_000.0,
            "unmoved": self.machine.idle_w * (1 + 1e-6 * (t % 1)),
        }.get(self.fault, mean)
        if watts != watts or watts > self.info.max_power_w:
            raise SourceFault(self.info.id, "implausible", f"it reads {watts!r} W", "report the driver")
        return Reading(t, t, watts)

    def close(self) -> None:
        """Nothing is open."""


class FakePowercapTree:
    """Powercap zones as files under `root`; `tick` writes a zone's counter in place."""

    def __init__(self, root: Path, zones: dict[str, str], range_uj: int = 262_143_328_850):
        self.root, self.range_uj = root, range_uj
        self._fds: dict[str, int] = {}
        for zone, name in zones.items():
            folder = root / "sys/class/powercap" / zone
            folder.mkdir(parents=True)
            (folder / "name").write_text(name + "\n")
            (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
            (folder / "energy_uj").write_text("0".rjust(18) + "\n")
            self._fds[zone] = os.open(folder / "energy_uj", os.O_WRONLY)

    def tick(self, zone: str, joules: float) -> None:
        value = int(joules * 1e6) % self.range_uj
        os.pwrite(self._fds[zone], f"{value:18d}\n".encode(), 0)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)


class MachineWorkload:
    """A workload of the fake machine: every call takes `latency_s`."""

    kind, continuous, together = "callable", True, False
    host_included: bool | None = None
    accuracy: float | None = None

    def __init__(self, machine: FakeMachine, latency_s: float = 0.004, name: str = "fake", batch: int = 1):
        self.machine, self.latency_s, self.name, self.batch = machine, latency_s, name, batch

    def setup(self) -> None:
        """Nothing to prepare."""

    def infer(self, n: int, on_wait: Callable[[], object]) -> None:
        for _ in range(n):
            self.machine.work(self.latency_s)

    def teardown(self) -> None:
        """Nothing was opened."""
