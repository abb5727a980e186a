"""The power and energy channels that Linux shows under /sys/class/hwmon, and under the iio drivers of old Jetsons:
their files, and the scope that their driver's name gives them.

power*_input and power*_average are in µW, energy*_input in µJ, curr*_input in mA, in*_input in mV, update_interval and
power*_average_interval in ms (Documentation/hwmon/sysfs-interface). JetPack 4 has in_power*_input in mW instead
(/sys/bus/i2c/drivers/ina3221x).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from greenedge.energy.machine import Machine

# Greatest gain error of the sensor alone, from the first page of TI's data sheets INA226 (SBOS547), INA3221 (SBOS576)
# and INA260 (SBOS656), taken as a rectangular bound; the shunt's tolerance comes on top. Other chips: unknown, --gain.
_GAIN_BOUND = {"ina226": 0.001, "ina3221": 0.0025, "ina260": 0.0015}
# Chips that measure with a shunt or a known scale; what another driver says is its firmware's word.
_MEASURING = re.compile(r"(ina|ltc|max|lm25|lm50|adm1|isl|tps|ir3|irps|pmbus|bat|macsmc|mp\d|xdpe|ucd)", re.IGNORECASE)
_INPUT = ("VDD_IN", "POM_5V_IN")  # of a Jetson's module, which holds its other rails


@dataclass(frozen=True)
class Channel:
    """One figure of a driver. `files` are those whose product is watts (joules where `kind` is "counter"), with the
    factor to the unit; `product` voltage and current of the same channel, to compare with. `battery` is the folder of
    its power_supply where it is one. `told` where no chip but a firmware measures."""

    id: str
    chip: str
    number: int
    kind: str
    files: tuple[tuple[Path, float], ...]
    scope: str
    covers: str
    label: str | None = None
    product: tuple[tuple[Path, float], ...] = ()
    update_s: float | None = None
    overlaps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    battery: Path | None = None
    told: bool = False

    @property
    def gain_bound(self) -> float | None:
        """The greatest relative error of the gain; None where no data sheet states it."""
        return _GAIN_BOUND.get(re.split(r"[_-]", self.chip)[0])


def list_channels(root: Path, machine: Machine) -> list[Channel]:
    """Every channel below `root`, batteries last: they count only while they discharge."""
    found = [channel for folder in _folders(root) for channel in _of_folder(root, folder)]
    found += _iio_channels(root, machine)
    return sorted(found, key=lambda channel: channel.battery is not None)


def _folders(root: Path) -> list[Path]:
    """In the order of their numbers."""
    found = [path for path in (root / "sys/class/hwmon").glob("hwmon*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def _of_folder(root: Path, folder: Path) -> Iterator[Channel]:
    chip = _word(folder / "name")
    if not chip:
        return
    powers, currents = _numbers(folder, "power", "input|average"), _numbers(folder, "curr", "input")
    for number in sorted(powers | (currents & _numbers(folder, "in", "input"))):
        yield _power(root, folder, chip, number)
    if chip.startswith("BAT") and not powers and currents and _numbers(folder, "in", "input"):
        yield _power(root, folder, chip, min(currents))  # a battery's voltage is in0, its current curr1
    for number in sorted(_numbers(folder, "energy", "input")):
        label = _label(folder, ("energy",), number)
        scope, covers, overlaps, notes = _describe(folder, chip, label, number)
        source = f"hwmon:{folder.name}:energy{number}"
        files = ((folder / f"energy{number}_input", 1e-6),)
        yield Channel(
            source, chip, number, "counter", files, scope, covers, label, overlaps=overlaps, notes=notes, told=True
        )


def _power(root: Path, folder: Path, chip: str, number: int) -> Channel:
    power = next((p for p in (folder / f"power{number}_{w}" for w in ("input", "average")) if p.exists()), None)
    volts = folder / f"in{number}_input"
    if not volts.exists() and chip.startswith("BAT"):
        volts = folder / "in0_input"
    amps = folder / f"curr{number}_input"
    product = ((volts, 1e-3), (amps, 1e-3)) if volts.exists() and amps.exists() else ()
    label = _label(folder, ("power", "in", "curr"), number)
    scope, covers, overlaps, notes = _describe(folder, chip, label, number)
    interval = _word(folder / f"power{number}_average_interval") or _word(folder / "update_interval")
    return Channel(
        f"hwmon:{folder.name}:{number}",
        chip,
        number,
        "power",
        ((power, 1e-6),) if power else product,
        scope,
        covers,
        label,
        product if power else (),
        int(interval) / 1e3 if interval and interval.isdigit() else None,
        overlaps,
        notes,
        _battery(root, folder, chip),
        not _MEASURING.match(chip),
    )


def _describe(folder: Path, chip: str, label: str | None, number: int) -> tuple[str, str, tuple[str, ...], tuple]:
    """(scope, what it covers, what overlaps, notes) by the driver's name."""
    plain = f"{chip} {label}" if label else f"{chip} channel {number}"
    if chip == "amdgpu":
        if _word(folder / "in1_label") == "vddnb":  # which only the graphics of a processor have
            return "chip", "cpu and gpu package", ("cpu package", "cpu core"), ("the whole processor's package power",)
        return "module", "gpu (amdgpu)", (), ("package power of the GPU; whether its memory is in it depends on it",)
    if chip in ("xe", "i915"):
        if label == "pkg":
            return "chip", "gpu package", ("gpu card",), ()
        return "module", "gpu card", ("gpu package",), ()
    if chip == "amd_energy":
        socket = label is not None and label.startswith("Esocket")
        return "chip", f"cpu {'package' if socket else 'core'} {label or number}", (), ()
    if chip == "power_meter":
        note = "an ACPI power meter; whether the loss of the power supply is in it, its maker says"
        return "board", "the machine (ACPI power meter)", ("cpu package", "cpu dram"), (note,)
    if chip.startswith("BAT"):
        return "board", f"the machine, on battery {chip}", ("cpu package", "cpu dram"), ("screen and disks included",)
    if label and re.search(r"\b(board|system|total|chassis)\b", label, re.IGNORECASE):
        return "board", plain, (), ()
    return "rail", label or plain, (), ()


def _battery(root: Path, folder: Path, chip: str) -> Path | None:
    """The folder with the battery's `status`; of a battery without one, its hwmon folder."""
    if not chip.startswith("BAT"):
        return None
    places = (folder / "device", root / "sys/class/power_supply" / chip)
    return next((place for place in places if (place / "status").exists()), folder)


def _iio_channels(root: Path, machine: Machine) -> Iterator[Channel]:
    """The INA3221 of Jetsons before JetPack 5, in milliwatts."""
    for path in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*/in_power*_input"))[:64]:
        match = re.fullmatch(r"in_power(\d)_input", path.name)
        if match is None:
            continue
        number = int(match[1])
        label = _word(path.parent / f"rail_name_{number}")
        whole = label in _INPUT and machine.kind == "jetson"
        source = f"hwmon:{path.parent.name.removeprefix('iio:')}:{number}"
        covers = f"jetson module, {label}" if whole else label or f"ina3221x channel {number}"
        parts = [path.parent / f"in_{what}{number}_input" for what in ("voltage", "current")]
        product = tuple((part, 1e-3) for part in parts) if all(part.exists() for part in parts) else ()
        yield Channel(
            source,
            "ina3221",
            number,
            "power",
            ((path, 1e-3),),
            "module" if whole else "rail",
            covers,
            label,
            product,
        )


def _numbers(folder: Path, kind: str, words: str) -> set[int]:
    found = (re.fullmatch(rf"{kind}(\d{{1,3}})_(?:{words})", path.name) for path in folder.glob(f"{kind}*_*"))
    return {int(match.group(1)) for match in found if match}


def _label(folder: Path, kinds: tuple[str, ...], number: int) -> str | None:
    return next(filter(None, (_word(folder / f"{kind}{number}_label") for kind in kinds)), None)


def _word(path: Path) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(64).strip() or None
    except OSError:
        return None
