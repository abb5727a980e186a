"""RAPL through perf events: the `power` PMU, opened with perf_event_open and read as a 64-bit count.

The kernel accumulates in 64 bits, so a count does not wrap in any session. A virtual machine may offer energy-psys and
always answer 0, with exit status 0: only the liveness test detects that (research/energy-measurement.md §0.4).
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

from greenedge.energy.clock import Clock
from greenedge.energy.counter_unwrap import Unwrapper
from greenedge.energy.machine import cure_cpu, identify
from greenedge.energy.source import Probe, Reading, SourceFault, SourceInfo

_PMU = "sys/bus/event_source/devices/power"
_COVERS = {
    "energy-pkg": ("cpu package", "chip", ("psys", "cpu core", "cpu gpu")),
    "energy-psys": ("psys", "board", ("cpu package", "cpu dram", "cpu core", "cpu gpu")),
    "energy-ram": ("cpu dram", "module", ("psys",)),
    "energy-cores": ("cpu core", "chip", ("psys", "cpu package")),
    "energy-gpu": ("cpu gpu", "chip", ("psys", "cpu package")),
}
_FIX_DENIED = "run as root, or sudo sysctl kernel.perf_event_paranoid=0"
_FIX_ABSENT = "use powercap, or an external meter: this kernel or virtual machine has no power PMU"
_MAX_W = 1000.0
# perf_event_open's number by machine (Linux syscall tables).
_SYSCALL = {"x86_64": 298, "aarch64": 241}
_NAME = re.compile(r"energy-[a-z]+")

# (type, config, CPU) -> file descriptor; raises OSError
EventOpener = Callable[[int, int, int], int]


def find(root: Path) -> list[Probe]:
    """The energy events of the power PMU."""
    events = sorted((root / _PMU / "events").glob("energy-*"))
    events = [path for path in events if _NAME.fullmatch(path.name)]
    if not events:
        machine = identify(root)
        said = f"there is no {root / _PMU}; this machine is {machine}"
        return [Probe("perf", "chip", "cpu package", said, cure_cpu(machine))]
    return [
        Probe(f"perf:{path.name}", *reversed(_COVERS.get(path.name, (path.name, "chip", ()))[:2])) for path in events
    ]


def open_source(source_id: str, root: Path, clock: Clock, opener: EventOpener | None = None) -> PerfEvent:
    """perf:EVENT; `opener` replaces perf_event_open (tests). Raises SourceFault."""
    return PerfEvent(source_id.partition(":")[2], root, clock, opener or perf_event_open)


class PerfEvent:
    """One energy event over every CPU in the PMU's cpumask (one per package), in joules since it was opened."""

    def __init__(self, event: str, root: Path, clock: Clock, opener: EventOpener):
        self.clock, source, folder = clock, f"perf:{event}", root / _PMU
        if not _NAME.fullmatch(event):
            raise SourceFault(source, "absent", f"{event!r} is no energy event", "greenedge energy probe lists them")
        config = _match(folder / f"events/{event}", r"event=(0x[0-9a-fA-F]+)", source)
        self._scale = float(_match(folder / f"events/{event}.scale", r"([0-9.eE+-]+)", source))
        unit = _match(folder / f"events/{event}.unit", r"(\w+)", source)
        if unit != "Joules":
            raise SourceFault(source, "implausible", f"its unit is {unit!r}, not Joules", "report the machine")
        kind = int(_match(folder / "type", r"(\d+)", source))
        covers, scope, overlaps = _COVERS.get(event, (event, "chip", ()))
        self.info = SourceInfo(
            source,
            "counter",
            scope,
            covers,
            lsb_j=self._scale,
            max_power_w=_MAX_W,
            update_period_s=976e-6,
            overlaps=overlaps,
            host_included=True,
            notes=("gain is not stated by the maker",),
        )
        cpus = _match(folder / "cpumask", r"([0-9,-]+)", source)
        self._fds = [_open_event(opener, kind, int(config, 16), cpu, source) for cpu in cpu_list(cpus)]
        self._unwrap = Unwrapper()

    def read(self) -> Reading:
        t0 = self.clock.now()
        counts = [self._count(fd) for fd in self._fds]
        t1 = self.clock.now()
        return Reading(t0, t1, self._unwrap.add(self.info, (t0 + t1) / 2, sum(counts) * self._scale))

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)

    def _count(self, fd: int) -> int:
        # A test's file is read at offset 0 each time; a perf descriptor has no offset and refuses pread.
        data = os.pread(fd, 8, 0) if os.path.isfile(f"/proc/self/fd/{fd}") else os.read(fd, 8)
        if len(data) != 8:
            raise SourceFault(self.info.id, "dead", f"reading it gives {len(data)} bytes instead of 8", _FIX_ABSENT)
        return struct.unpack("<Q", data)[0]


def perf_event_open(kind: int, config: int, cpu: int) -> int:
    """The system call for one event on one CPU, every process. Raises OSError."""
    number = _SYSCALL.get(os.uname().machine)
    if number is None:
        raise OSError(38, f"perf_event_open is not known for {os.uname().machine}")
    # struct perf_event_attr, first version (64 bytes): type, size, config, and zeros for all that follows.
    attributes = ctypes.create_string_buffer(struct.pack("<IIQ", kind, 64, config).ljust(64, b"\0"), 64)
    fd = ctypes.CDLL(None, use_errno=True).syscall(number, attributes, -1, cpu, -1, 0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def cpu_list(text: str) -> list[int]:
    """ "0,4-6" → [0, 4, 5, 6]."""
    cpus: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def _open_event(opener: EventOpener, kind: int, config: int, cpu: int, source: str) -> int:
    try:
        return opener(kind, config, cpu)
    except OSError as error:
        denied = error.errno in (1, 13)
        raise SourceFault(
            source,
            "denied" if denied else "absent",
            f"perf_event_open says {error.strerror or error}",
            _FIX_DENIED if denied else _FIX_ABSENT,
        ) from None


def _match(path: Path, pattern: str, source: str) -> str:
    try:
        text = path.read_text(encoding="ascii", errors="replace")[:256].strip()
    except OSError as error:
        raise SourceFault(
            source,
            "denied" if isinstance(error, PermissionError) else "absent",
            f"{path}: {error.strerror}",
            _FIX_ABSENT,
        ) from None
    found = re.match(pattern, text)
    if not found:
        raise SourceFault(source, "implausible", f"{path} holds {text[:40]!r}", "report the machine")
    return found.group(1)
