"""RAPL through Linux powercap: /sys/class/powercap/intel-rapl:*.

Packages, dram, core and psys are separate sources; psys contains the packages. Dies that show one counter twice (seen
on AMD) are found by reading them together. The counter is updated about every 976 µs; energy_uj is readable by root
alone since Linux 5.10 (commit 949dd0104c49).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from greenedge.energy.clock import Clock
from greenedge.energy.counter_unwrap import Unwrapper
from greenedge.energy.machine import cure_cpu, identify
from greenedge.energy.source import Probe, Reading, SourceFault, SourceInfo

_ZONE = re.compile(r"intel-rapl(-mmio)?:\d+(:\d+)?")
# Both files of every zone, until the next start; the rule for every start after it.
_FIX_DENIED = (
    "sudo chmod o+r /sys/class/powercap/intel-rapl*:*/energy_uj /sys/class/powercap/intel-rapl*:*/max_energy_range_uj; "
    'for good the udev rule SUBSYSTEM=="powercap", RUN+="/bin/chmod -f o+r /sys%p/energy_uj '
    '/sys%p/max_energy_range_uj" in /etc/udev/rules.d/60-rapl.rules'
)
_FIX_GONE = "greenedge energy probe lists the zones that there are"
_NO_RANGE = "its range is not stated: where it wraps the measurement ends"
_UPDATE_S = 976e-6
_PACKAGE_MAX_W = 1000.0


def find(root: Path) -> list[Probe]:
    """Every zone of the powercap tree."""
    folder = root / "sys/class/powercap"
    zones = [path for path in sorted(folder.glob("intel-rapl*:*")) if _ZONE.fullmatch(path.name)]
    if not zones:
        machine = identify(root)
        said = f"there is no {folder}/intel-rapl:*; this machine is {machine}"
        return [Probe("powercap", "chip", "cpu package", said, cure_cpu(machine))]
    found = []
    for zone in zones:
        try:
            covers, scope, _ = _cover(zone, zones)
            _read_number(zone / "energy_uj", f"powercap:{zone.name}")
            found.append(Probe(f"powercap:{zone.name}", scope, covers))
        except SourceFault as fault:
            found.append(Probe(f"powercap:{zone.name}", "chip", zone.name, fault.reason, fault.fix, fault.kind))
    return found


def open_source(source_id: str, root: Path, clock: Clock, max_power_w: float = _PACKAGE_MAX_W) -> Powercap:
    """powercap:ZONE. Raises SourceFault."""
    name = source_id.partition(":")[2]
    folder = root / "sys/class/powercap"
    if not _ZONE.fullmatch(name) or not (folder / name).is_dir():
        raise SourceFault(source_id, "absent", f"there is no {folder / name}", cure_cpu(identify(root)))
    return Powercap(folder / name, clock, max_power_w)


def find_mirrors(sources: list[Powercap]) -> list[tuple[str, str]]:
    """(id, id) of zones whose raw counters are equal and move together: one counter shown twice. Reads each three
    times."""
    raws: dict[str, list[float]] = {source.info.id: [] for source in sources}
    for _ in range(3):
        for source in sources:
            raws[source.info.id].append(source.raw())
        sources[0].clock.sleep(0.02)
    ids = sorted(raws)
    return [
        (a, b)
        for i, a in enumerate(ids)
        for b in ids[i + 1 :]
        if all(abs(x - y) < 1.0 for x, y in zip(raws[a], raws[b], strict=True))
        and raws[a][0] > 0
        and raws[a][0] != raws[a][-1]
    ]


class Powercap:
    """One powercap zone as a counter in joules since it was opened."""

    def __init__(self, zone: Path, clock: Clock, max_power_w: float = _PACKAGE_MAX_W):
        self.clock = clock
        source = f"powercap:{zone.name}"
        covers, scope, overlaps = _cover(zone, sorted(zone.parent.glob("intel-rapl*:*")))
        stated = (zone / "max_energy_range_uj").exists()  # some drivers of AMD's leave it out
        span = _read_number(zone / "max_energy_range_uj", source) / 1e6 if stated else None
        if span is not None and span <= 0:
            raise SourceFault(source, "implausible", f"max_energy_range_uj is {span * 1e6:g}", "report the machine")
        self.info = SourceInfo(
            source,
            "counter",
            scope,
            covers,
            update_period_s=_UPDATE_S,
            lsb_j=15.3e-6,
            range_j=span,
            max_power_w=max_power_w,
            overlaps=overlaps,
            host_included=True,
            notes=("gain is not stated by the maker", *(() if stated else (_NO_RANGE,))),
        )
        self._path = zone / "energy_uj"
        self._fd = _open(self._path, source)
        self._unwrap = Unwrapper()
        self._range_j = span

    def raw(self) -> float:
        """The counter's value in joules, below its range."""
        return _parse(self._bytes(), self.info.id, self._path) / 1e6

    def read(self) -> Reading:
        t0 = self.clock.now()
        raw = self.raw()
        t1 = self.clock.now()
        if self._range_j is not None and raw > self._range_j:
            raise SourceFault(
                self.info.id,
                "implausible",
                f"it reads {raw:.6g} J, above its range {self._range_j:.6g} J",
                "report the machine; the driver is broken",
            )
        return Reading(t0, t1, self._unwrap.add(self.info, (t0 + t1) / 2, raw))

    def close(self) -> None:
        os.close(self._fd)

    def _bytes(self) -> bytes:
        try:
            # A file that was replaced has a new inode; the old descriptor would show a frozen counter.
            data = os.pread(self._fd, 64, 0)
            if os.fstat(self._fd).st_nlink == 0:
                os.close(self._fd)
                self._fd = _open(self._path, self.info.id)
                data = os.pread(self._fd, 64, 0)
            return data
        except OSError as error:
            raise SourceFault(
                self.info.id,
                "denied" if isinstance(error, PermissionError) else "dead",
                f"reading {self._path} gives {error.strerror}",
                _FIX_DENIED,
            ) from None


def _cover(zone: Path, zones: list[Path]) -> tuple[str, str, tuple[str, ...]]:
    """(what it covers, scope, what overlaps) from the zone's name file and its position in the tree."""
    label = _text(zone / "name", f"powercap:{zone.name}")
    number = zone.name.split(":")[1]
    mmio = " (mmio)" if "mmio" in zone.name else ""
    if label.startswith("psys"):
        return f"psys{mmio}", "board", ("cpu package", "cpu dram", "cpu core", "cpu uncore")
    if label.startswith("package"):
        # Dies of a package are called package-0-die-1 and are separate parts unless their counters are the same.
        twin = (f"cpu {label} (mmio)",) if not mmio else (f"cpu {label}",)
        return f"cpu {label}{mmio}", "chip", ("psys", *twin)
    holder = "psys" if any(_text(z / "name", z.name).startswith("psys") for z in zones) else ""
    parent = tuple(filter(None, (holder, f"cpu package-{number}" if label != "dram" else "")))
    return f"cpu {label}-{number}{mmio}", "chip" if label != "dram" else "module", parent


def _open(path: Path, source: str) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except PermissionError:
        raise SourceFault(source, "denied", f"{path} may be read by root alone", _FIX_DENIED) from None
    except OSError as error:
        raise SourceFault(source, "absent", f"{path}: {error.strerror}", _FIX_GONE) from None


def _text(path: Path, source: str) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")[:64].strip()
    except OSError as error:
        raise SourceFault(source, "absent", f"{path}: {error.strerror}", _FIX_GONE) from None


def _read_number(path: Path, source: str) -> float:
    fd = _open(path, source)
    try:
        return _parse(os.pread(fd, 64, 0), source, path)
    except OSError as error:
        raise SourceFault(source, "dead", f"reading {path} gives {error.strerror}", _FIX_DENIED) from None
    finally:
        os.close(fd)


def _parse(data: bytes, source: str, path: Path) -> float:
    text = data.strip()
    if not text.isdigit():
        raise SourceFault(
            source,
            "implausible",
            f"{path} holds {text[:24]!r}, not a whole number",
            "report the machine; the driver is broken",
        )
    return float(int(text))
