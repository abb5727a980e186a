"""Power sensors that Linux shows under /sys/class/hwmon: INA219/220/226/231/260/3221 and PMBus regulators.

power*_input is in µW, curr*_input mA, in*_input mV, update_interval ms (Documentation/hwmon/sysfs-interface). The power
register holds the product of one conversion, so it is read where there is one; else voltage times current of a channel.
Rail maps of boards are data: targets/rails/*.toml. Rails of a board are read one after the other, not at once.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from greenedge.energy.clock import Clock
from greenedge.energy.source import Probe, Reading, SourceFault, SourceInfo
from greenedge.errors import TargetError
from greenedge.files.package_data import data_folder

# Greatest gain error of the sensor alone, from the first page of TI's data sheets INA226 (SBOS547), INA3221 (SBOS576)
# and INA260 (SBOS656), taken as a rectangular bound; the shunt's tolerance comes on top. Other chips: unknown, --gain.
_GAIN_BOUND = {"ina226": 0.001, "ina3221": 0.0025, "ina260": 0.0015}
_FIX_ABSENT = "load the driver (sudo modprobe ina2xx or ina3221) and enable the sensor in the device tree"
_FIX_DENIED = "sudo chmod o+r on its *_input files, or run as root"
_MAX_FILE = 64 << 10


@dataclass(frozen=True)
class Rail:
    """One rail of a map: the supply `name` is `channel` of the chip named `chip` (or the channel with this `label`)."""

    name: str
    group: str
    chip: str
    channel: int | None = None
    label: str | None = None
    scope: str = "rail"


@dataclass(frozen=True)
class RailMap:
    """A board's rails by group; `groups` maps each group to its scope."""

    name: str
    title: str
    rails: tuple[Rail, ...]
    groups: dict[str, str]
    source: str
    experimental: bool = False


def load_rails(path: Path) -> RailMap:
    """A rail map. Raises TargetError with every reason."""
    if path.stat().st_size > _MAX_FILE:
        raise TargetError(f"{path.name}: is {path.stat().st_size:,} bytes; at most {_MAX_FILE:,} are read.")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"{path.name}: is not TOML: {error}.") from None
    known = {"name", "title", "source", "groups", "rail", "experimental"}
    reasons = [
        f"{path.name}: unknown key {key!r}; a rail map has: {', '.join(sorted(known))}."
        for key in data
        if key not in known
    ]
    reasons += [
        f"{path.name}: key {key!r} is missing."
        for key in ("name", "title", "source", "groups", "rail")
        if not data.get(key)
    ]
    rails = []
    for number, rail in enumerate(data.get("rail", []), 1):
        extra = set(rail) - {"name", "group", "chip", "channel", "label"}
        if extra or not {"name", "group", "chip"} <= set(rail) or ("channel" in rail) == ("label" in rail):
            reasons.append(
                f"{path.name}: rail {number} has {sorted(rail)}; it has name, group, chip and one of channel, label."
            )
        elif rail["group"] not in data.get("groups", {}):
            reasons.append(
                f"{path.name}: rail {rail['name']!r} is in group {rail['group']!r}; [groups] has none of that name."
            )
        else:
            rails.append(Rail(scope=data["groups"][rail["group"]], **rail))
    if data.get("name") != path.stem:
        reasons.append(f"{path.name}: name is {data.get('name')!r}; it must be the file's, {path.stem!r}.")
    if reasons:
        raise TargetError("\n".join(reasons))
    return RailMap(
        data["name"], data["title"], tuple(rails), data["groups"], data["source"], data.get("experimental", False)
    )


def rail_maps() -> list[RailMap]:
    """All maps that ship with greenedge. Raises TargetError."""
    return [load_rails(path) for path in sorted((data_folder("targets") / "rails").glob("*.toml"))]


def find(root: Path) -> list[Probe]:
    """Every channel with a power, and every group of a rail map whose rails are all there."""
    chips = _chips(root)
    if not chips:
        return [
            Probe(
                "hwmon",
                "rail",
                "supply rails",
                f"there is no power sensor under {root / 'sys/class/hwmon'}",
                _FIX_ABSENT,
            )
        ]
    found = []
    for chip in chips:
        for channel in _channels(chip.folder):
            source = f"hwmon:{chip.folder.name}:{channel}"
            try:
                reader = open_source(source, root, _NoClock())
                reader.read()
                found.append(Probe(source, "rail", reader.info.covers))
                reader.close()
            except SourceFault as fault:
                found.append(
                    Probe(source, "rail", f"{chip.name} channel {channel}", fault.reason, fault.fix, fault.kind)
                )
    for board in rail_maps():
        for group, scope in board.groups.items():
            if all(_locate(rail, chips) for rail in board.rails if rail.group == group):
                found.append(Probe(f"hwmon:{board.name}/{group}", scope, f"{board.name} {group}"))
    return found


def open_source(source_id: str, root: Path, clock: Clock) -> Hwmon:
    """hwmon:FOLDER:CHANNEL, or hwmon:BOARD/GROUP of a rail map. Raises SourceFault."""
    rest, chips = source_id.partition(":")[2], _chips(root)
    if "/" in rest:
        return _open_group(source_id, rest, chips, clock)
    folder, _, channel = rest.partition(":")
    chip = next((chip for chip in chips if chip.folder.name == folder), None)
    if chip is None or not channel.isdigit() or int(channel) not in _channels(chip.folder):
        raise SourceFault(source_id, "absent", "there is no such channel under /sys/class/hwmon", _FIX_ABSENT)
    label = _label(chip.folder, int(channel)) or f"{chip.name} channel {channel}"
    return Hwmon(source_id, [(chip, int(channel))], label, "rail", clock)


def _open_group(source_id: str, rest: str, chips: list[_Chip], clock: Clock) -> Hwmon:
    name, _, group = rest.partition("/")
    board = next((board for board in rail_maps() if board.name == name), None)
    rails = [rail for rail in board.rails if rail.group == group] if board else []
    if board is None or not rails:
        raise SourceFault(source_id, "absent", f"no rail map has {rest!r}", "greenedge energy probe lists them")
    places = {rail.name: _locate(rail, chips) for rail in rails}
    missing = [name for name, place in places.items() if place is None]
    if missing:
        raise SourceFault(source_id, "absent", f"rails without a sensor: {', '.join(missing)}", _FIX_ABSENT)
    return Hwmon(
        source_id,
        [place for place in places.values() if place is not None],
        f"{name} {group}",
        board.groups[group],
        clock,
    )


class Hwmon:
    """The watts of one channel or the sum of several. Files stay open and are read with pread."""

    def __init__(self, source: str, channels: list[tuple[_Chip, int]], covers: str, scope: str, clock: Clock):
        self.clock = clock
        periods = [chip.update_s for chip, _ in channels if chip.update_s is not None]
        kinds = [re.split(r"[_-]", chip.name)[0] for chip, _ in channels]
        gains = [_GAIN_BOUND[kind] for kind in kinds if kind in _GAIN_BOUND]
        notes = ["shunt tolerance is the board's and not included"]
        if len(channels) > 1:
            notes.append(f"{len(channels)} rails are read one after the other")
        self.info = SourceInfo(
            source,
            "power",
            scope,
            covers,
            max_power_w=500.0,
            notes=tuple(notes),
            update_period_s=max(periods) if len(periods) == len(channels) else None,
            gain_rel=max(gains) / 3**0.5 if len(gains) == len(channels) else None,
            host_included=None,
        )
        self._files = [_channel_files(chip.folder, channel, source) for chip, channel in channels]

    def read(self) -> Reading:
        t0 = self.clock.now()
        watts = sum(self._power(files) for files in self._files)
        t1 = self.clock.now()
        if not 0 <= watts <= self.info.max_power_w:
            raise SourceFault(
                self.info.id, "implausible", f"it reads {watts:.6g} W", "check the shunt in the device tree"
            )
        return Reading(t0, t1, watts)

    def close(self) -> None:
        for files in self._files:
            for fd, _ in files:
                os.close(fd)

    def _power(self, files: list[tuple[int, float]]) -> float:
        product = 1.0
        for fd, scale in files:
            try:
                text = os.pread(fd, 32, 0).strip()
            except OSError as error:
                raise SourceFault(
                    self.info.id, "dead", f"reading it gives {error.strerror}", "check the I2C bus"
                ) from None
            if not re.fullmatch(rb"-?\d+", text):
                raise SourceFault(
                    self.info.id, "implausible", f"it holds {text[:24]!r}, not a whole number", "report the driver"
                )
            product *= int(text) * scale
        return product


@dataclass(frozen=True)
class _Chip:
    """A hwmon folder, the driver's name of the chip, its update interval in s."""

    folder: Path
    name: str
    update_s: float | None


class _NoClock:
    """For probing, which reads once and needs no times."""

    def now(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("probing does not wait")


def _chips(root: Path) -> list[_Chip]:
    chips = []
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = _word(folder / "name")
        interval = _word(folder / "update_interval")
        if name and _channels(folder):
            chips.append(_Chip(folder, name, int(interval) / 1e3 if interval and interval.isdigit() else None))
    return chips


def _channels(folder: Path) -> list[int]:
    """Numbers of channels with a power register, or with both a current and a voltage."""

    def numbers(kind: str) -> set[int]:
        found = (re.fullmatch(rf"{kind}(\d+)_input", path.name) for path in folder.glob(f"{kind}*_input"))
        return {int(match.group(1)) for match in found if match}

    return sorted(numbers("power") | (numbers("curr") & numbers("in")))


def _channel_files(folder: Path, channel: int, source: str) -> list[tuple[int, float]]:
    power = folder / f"power{channel}_input"
    wanted = (
        [(power, 1e-6)]
        if power.exists()
        else [(folder / f"in{channel}_input", 1e-3), (folder / f"curr{channel}_input", 1e-3)]
    )
    files = []
    for path, scale in wanted:
        try:
            files.append((os.open(path, os.O_RDONLY), scale))
        except OSError as error:
            for fd, _ in files:
                os.close(fd)
            denied = isinstance(error, PermissionError)
            raise SourceFault(
                source,
                "denied" if denied else "absent",
                f"{path}: {error.strerror}",
                _FIX_DENIED if denied else _FIX_ABSENT,
            ) from None
    return files


def _locate(rail: Rail, chips: list[_Chip]) -> tuple[_Chip, int] | None:
    for chip in chips:
        if chip.name != rail.chip:
            continue
        for channel in _channels(chip.folder):
            if channel == rail.channel or (rail.label and _label(chip.folder, channel) == rail.label):
                return chip, channel
    return None


def _label(folder: Path, channel: int) -> str | None:
    for kind in ("power", "in", "curr"):
        text = _word(folder / f"{kind}{channel}_label")
        if text:
            return text
    return None


def _word(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")[:64].strip() or None
    except OSError:
        return None
