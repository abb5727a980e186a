"""Power sensors and energy counters that Linux shows under /sys/class/hwmon: INA219/220/226/231/260/3221, PMBus
regulators, GPUs (amdgpu, xe, i915), ACPI power meters, management controllers, batteries.

The power register holds the product of one conversion, so it is read where there is one; else voltage times current of
a channel. Rail maps of boards are data: targets/rails/*.toml, and count only on the board that they name. Rails of a
board are read one after the other, not at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from greenedge.energy.clock import Clock
from greenedge.energy.counter_unwrap import Unwrapper
from greenedge.energy.machine import Machine, cure_rails, identify
from greenedge.energy.source import Probe, Reading, SourceFault, SourceInfo
from greenedge.energy.sources.hwmon_tree import Channel, list_channels
from greenedge.energy.sources.rails import Rail, RailMap, load_rails, rail_maps
from greenedge.energy.sources.settings import Settings, split_settings

__all__ = ["Hwmon", "HwmonCounter", "find", "load_rails", "open_source", "rail_maps"]

_MAX_W = 500.0
_MACHINE_W = 5000.0  # of a whole machine: a server with eight GPUs stays below
_LEAST_W = 0.5  # of what a firmware reports on: below, its unit may not be the one of hwmon
_APART = 4.0  # power over voltage times current, which are of different moments: beyond, one of them is wrong
_LOOKS = 3


def find(root: Path) -> list[Probe]:
    """Every channel with a power or an energy, and every group of this board's rail map whose rails are all there."""
    machine = identify(root)
    channels = list_channels(root, machine)
    if not channels:
        said = f"there is no power sensor under {root / 'sys/class/hwmon'}; this machine is {machine}"
        return [Probe("hwmon", "rail", "supply rails", said, cure_rails(machine))]
    found = []
    for board in rail_maps():
        for group, scope in board.groups.items():
            rails = [rail for rail in board.rails if rail.group == group]
            if machine.is_named(board.machine) and all(_locate(rail, channels) for rail in rails):
                found.append(Probe(f"hwmon:{board.name}/{group}", scope, f"{board.name} {group}"))
    for channel in channels:
        try:
            reader = _open(channel.id, [channel], channel.covers, channel.scope, _NoClock(), Settings(), machine)
            reader.read()
            reader.close()
            found.append(Probe(channel.id, channel.scope, channel.covers))
        except SourceFault as fault:
            found.append(Probe(channel.id, channel.scope, channel.covers, fault.reason, fault.fix, fault.kind))
    return found


def open_source(source_id: str, root: Path, clock: Clock) -> Hwmon | HwmonCounter:
    """hwmon:FOLDER:CHANNEL, hwmon:FOLDER:energyCHANNEL, or hwmon:BOARD/GROUP of a rail map; settings may follow (see
    `settings`). Raises SourceFault."""
    bare, settings = split_settings(source_id)
    machine = identify(root)
    channels = list_channels(root, machine)
    if "/" in bare:
        board, group = _board_of(bare, machine)
        places = {rail.name: _locate(rail, channels) for rail in board.rails if rail.group == group}
        missing = [name for name, place in places.items() if place is None]
        if missing:
            said = f"rails without a sensor: {', '.join(missing)}"
            raise SourceFault(source_id, "absent", said, cure_rails(machine))
        rails = [place for place in places.values() if place is not None]
        return _open(source_id, rails, f"{board.name} {group}", board.groups[group], clock, settings, machine)
    channel = next((channel for channel in channels if channel.id == bare), None)
    if channel is None:
        said = f"there is no such channel under {root / 'sys/class/hwmon'}"
        fix = "greenedge energy probe lists them" if channels else cure_rails(machine)
        raise SourceFault(source_id, "absent", said, fix)
    return _open(source_id, [channel], channel.covers, channel.scope, clock, settings, machine)


def _board_of(bare: str, machine: Machine) -> tuple[RailMap, str]:
    """(rail map, group) of hwmon:BOARD/GROUP. Raises SourceFault where there is none, or on another machine."""
    name, _, group = bare.partition(":")[2].partition("/")
    board = next((board for board in rail_maps() if board.name == name and group in board.groups), None)
    if board is None:
        raise SourceFault(
            bare, "absent", f"no rail map has {name + '/' + group!r}", "greenedge energy probe lists them"
        )
    if not machine.is_named(board.machine):
        said = f"its rails are those of {board.title.partition(':')[0]}, and this machine is {machine}"
        fix = (
            "name the sensor itself, hwmon:hwmonN:CHANNEL, whose scope is one rail (greenedge energy probe lists them)"
        )
        raise SourceFault(bare, "absent", said, fix)
    return board, group


def _open(
    source: str,
    channels: Sequence[Channel],
    covers: str,
    scope: str,
    clock: Clock,
    settings: Settings,
    machine: Machine,
) -> Hwmon | HwmonCounter:
    if channels[0].kind == "counter":
        return HwmonCounter(source, channels[0], clock, settings)
    return Hwmon(source, channels, covers, scope, clock, settings, machine)


class Hwmon:
    """The watts of one channel or the sum of several. Files stay open and are read with pread."""

    def __init__(
        self,
        source: str,
        channels: Sequence[Channel],
        covers: str,
        scope: str,
        clock: Clock,
        settings: Settings,
        machine: Machine,
    ):
        self.clock, self._channels, self._settings, self._machine = clock, channels, settings, machine
        periods = [channel.update_s for channel in channels if channel.update_s is not None]
        gains = [channel.gain_bound for channel in channels if channel.gain_bound is not None]
        whole = channels[0].told or channels[0].battery is not None
        notes = [*channels[0].notes] if whole else ["shunt tolerance is the board's and not included"]
        notes += [f"{len(channels)} rails are read one after the other"] if len(channels) > 1 else []
        self.info = SourceInfo(
            source,
            "power",
            scope,
            covers,
            max_power_w=_MACHINE_W if whole or scope == "board" else _MAX_W,
            notes=(*notes, *settings.notes),
            update_period_s=max(periods) if len(periods) == len(channels) else None,
            gain_rel=max(gains) / 3**0.5 if len(gains) == len(channels) else None,
            host_included=True if channels[0].battery or channels[0].chip == "power_meter" else None,
            overlaps=channels[0].overlaps,
        )
        product = settings.take == "product"
        self._files = [_open_files(c.product if product and c.product else c.files, source, machine) for c in channels]
        try:
            self._signs = [self._compare(channel) for channel in channels]
        except SourceFault:
            self.close()
            raise

    def read(self) -> Reading:
        for channel in self._channels:
            if channel.battery is not None:
                self._require_discharge(channel)
        t0 = self.clock.now()
        watts = sum(sign * self._product(files) for sign, files in zip(self._signs, self._files, strict=True))
        t1 = self.clock.now()
        watts *= (self._settings.scale or 1) * (self._settings.sign or 1)
        self._require_plausible(watts)
        return Reading(t0, t1, watts)

    def close(self) -> None:
        for files in self._files:
            for fd, _ in files:
                os.close(fd)

    def _require_plausible(self, watts: float) -> None:
        source, told = self.info.id, self._channels[0].told
        if watts < 0 and self._settings.sign is None:
            said = f"it reads {watts:.6g} W: its current flows the other way than its driver counts"
            raise SourceFault(source, "implausible", said, f"--source {source},sign=-1 where it is wired that way")
        if not 0 <= watts <= self.info.max_power_w:
            said = f"it reads {watts:.6g} W"
            raise SourceFault(
                source, "implausible", said, f"check the shunt of the sensor, or --source {source},scale=…"
            )
        # A device that is off takes 0 W; what a firmware reports on takes watts while it is on.
        if told and 0 < watts < _LEAST_W and self._settings.scale is None:
            said = f"{self._channels[0].covers} reads {watts:.3g} W, less than what a firmware reports on takes"
            fix = (
                f"its driver may not give µW: --source {source},scale=1000 if mW ({watts * 1e3:.3g} W), "
                f"{source},scale=1000000 if W ({watts * 1e6:.3g} W), "
                f"scale=1 if it is right, whichever the machine's own display says"
            )
            raise SourceFault(source, "implausible", said, fix)

    def _require_discharge(self, channel: Channel) -> None:
        """Raises SourceFault unless all that the machine takes comes from the battery."""
        assert channel.battery is not None
        source = self.info.id
        try:
            status = (channel.battery / "status").read_text(encoding="ascii", errors="replace")[:64].strip()
        except OSError:
            status = ""
        if status == "Discharging" or (not status and self._settings.sign is not None):
            return
        if status:
            said = f"the battery says {status!r}: what flows through it is not what the machine takes"
            raise SourceFault(source, "implausible", said, "unplug the power supply while it is measured")
        said = f"whether {channel.chip} charges or discharges is not said: there is no {channel.battery / 'status'}"
        fix = f"unplug the power supply and say --source {source},sign=1, or sign=-1 where it counts discharge below 0"
        raise SourceFault(source, "implausible", said, fix)

    def _compare(self, channel: Channel) -> float:
        """The sign of the channel's current, for a power register that has none. Raises SourceFault where the power is
        far from voltage times current."""
        if not channel.product or self._settings.take == "product" or channel.battery is not None:
            return 1.0
        files = _open_files(channel.product, self.info.id, self._machine)
        power = _open_files(channel.files, self.info.id, self._machine)
        try:
            for _ in range(_LOOKS):
                watts, other = self._product(power), self._product(files)
                small, great = sorted((abs(watts), abs(other)))
                if great <= max(_APART * small, 0.05) or self._settings.take == "power":
                    return -1.0 if other < 0 < watts and self._settings.take is None else 1.0
        finally:
            for fd, _ in (*files, *power):
                os.close(fd)
        raise SourceFault(
            self.info.id,
            "implausible",
            f"its power is {watts:.3g} W and its voltage times its current {other:.3g} W",
            f"--source {self.info.id},take=power or {self.info.id},take=product, whichever a second meter confirms",
        )

    def _product(self, files: list[tuple[int, float]]) -> float:
        return _product(files, self.info.id)


class HwmonCounter:
    """An energy counter (energy*_input), in joules since it was opened."""

    def __init__(self, source: str, channel: Channel, clock: Clock, settings: Settings):
        self.clock, self._scale = clock, settings.scale or 1.0
        if settings.sign == -1 or settings.take:
            raise SourceFault(
                source, "absent", "a counter has neither a sign nor a choice", "leave sign= and take= out"
            )
        self.info = SourceInfo(
            source,
            "counter",
            channel.scope,
            channel.covers,
            lsb_j=1e-6 * self._scale,
            max_power_w=2000.0,
            overlaps=channel.overlaps,
            host_included=False if channel.covers.startswith("gpu") else None,
            notes=(*channel.notes, *settings.notes, "gain is not stated by the maker"),
        )
        self._files = _open_files(channel.files, source, Machine("unknown"))
        self._unwrap = Unwrapper()

    def read(self) -> Reading:
        t0 = self.clock.now()
        joules = _product(self._files, self.info.id) * self._scale
        t1 = self.clock.now()
        return Reading(t0, t1, self._unwrap.add(self.info, (t0 + t1) / 2, joules))

    def close(self) -> None:
        for fd, _ in self._files:
            os.close(fd)


class _NoClock:
    """For probing, which reads once and needs no times."""

    def now(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("probing does not wait")


def _product(files: list[tuple[int, float]], source: str) -> float:
    """The product of the files' whole numbers, each with its factor. Raises SourceFault."""
    product = 1.0
    for fd, scale in files:
        try:
            text = os.pread(fd, 32, 0).strip()
        except OSError as error:
            raise SourceFault(
                source, "dead", f"reading it gives {error.strerror}", "check the bus of the sensor"
            ) from None
        if not re.fullmatch(rb"-?\d+", text):
            said = f"it holds {text[:24]!r}, not a whole number"
            raise SourceFault(source, "implausible", said, "report the driver")
        product *= int(text) * scale
    return product


def _open_files(wanted: Sequence[tuple[Path, float]], source: str, machine: Machine) -> list[tuple[int, float]]:
    files: list[tuple[int, float]] = []
    for path, scale in wanted:
        try:
            files.append((os.open(path, os.O_RDONLY), scale))
        except OSError as error:
            for fd, _ in files:
                os.close(fd)
            denied = isinstance(error, PermissionError)
            needed = " ".join(str(path) for path, _ in wanted)
            raise SourceFault(
                source,
                "denied" if denied else "absent",
                f"{path}: {error.strerror}",
                f"sudo chmod o+r {needed}, or run as root" if denied else cure_rails(machine),
            ) from None
    return files


def _locate(rail: Rail, channels: Sequence[Channel]) -> Channel | None:
    """The channel of a rail."""
    for channel in channels:
        if channel.chip == rail.chip and channel.kind == "power":
            if channel.number == rail.channel or (rail.label and channel.label == rail.label):
                return channel
    return None
