"""What machine this is, by its device tree or its DMI tables: only the board that a rail map names has its rails, and
a cure names what its reader has in front of him."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_VIRTUAL = re.compile(
    r"kvm|qemu|virtualbox|vmware|virtual machine|bochs|xen|google compute|amazon ec2|openstack|hvm domu|firecracker",
    re.IGNORECASE,
)
# SMBIOS 3.6, table 17: chassis types.
_LAPTOP = {"8", "9", "10", "14", "30", "31", "32"}
_SERVER = {"17", "23", "25", "28", "29"}
_MAX_BYTES = 4096


@dataclass(frozen=True)
class Machine:
    """`kind` is jetson, pi, board (another with a device tree), laptop, server, pc, vm or unknown; `model` its name as
    the firmware writes it; `compatible` the words of its device tree."""

    kind: str
    model: str = ""
    compatible: tuple[str, ...] = ()

    def is_named(self, words: tuple[str, ...]) -> bool:
        """Whether a word of the device tree is one of these, or one of them with a revision ("word-revC"); without a
        device tree: whether the model begins with one."""
        if self.compatible:
            return any(own == word or own.startswith(f"{word}-") for own in self.compatible for word in words)
        return any(self.model.lower().startswith(word.lower()) for word in words if self.model)

    def __str__(self) -> str:
        known = {"vm": "a virtual machine", "unknown": "not known: it has neither a device tree nor DMI tables"}
        what = known.get(self.kind, {"pc": "a PC", "board": "a board"}.get(self.kind, f"a {self.kind}"))
        return f"{what} ({self.model})" if self.model else what


def identify(root: Path = Path("/")) -> Machine:
    """The machine whose firmware tables lie below `root`."""
    tree = next((t for t in (root / "proc/device-tree", root / "sys/firmware/devicetree/base") if t.is_dir()), None)
    dmi = root / "sys/class/dmi/id"
    if tree is not None and (words := _read(tree / "compatible") + _read(tree / "model")):
        model = next(iter(_read(tree / "model")), "")
        compatible = tuple(_read(tree / "compatible"))
        return Machine(_kind_of_tree(model, compatible, words), model, compatible)
    vendor, product, chassis = (" ".join(_read(dmi / n)) for n in ("sys_vendor", "product_name", "chassis_type"))
    model = " ".join(filter(None, (vendor, product)))
    if _VIRTUAL.search(model) or _is_guest(root):
        return Machine("vm", model)
    if not model and not chassis:
        return Machine("laptop" if _has_battery(root) else "unknown")
    kind = "laptop" if chassis in _LAPTOP or _has_battery(root) else "server" if chassis in _SERVER else "pc"
    return Machine(kind, model)


def _kind_of_tree(model: str, compatible: tuple[str, ...], words: list[str]) -> str:
    if any(word.startswith(("nvidia,tegra", "nvidia,p3", "nvidia,jetson")) for word in compatible) or "Jetson" in model:
        return "jetson"
    if any(word.startswith("raspberrypi,") for word in compatible) or model.startswith("Raspberry Pi"):
        return "pi"
    return "vm" if any(word.startswith(("linux,dummy-virt", "qemu")) for word in words) else "board"


def _is_guest(root: Path) -> bool:
    """Whether the CPU says that a hypervisor is below it."""
    try:
        with open(root / "proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return re.search(r"^flags\s*:.*\bhypervisor\b", file.read(1 << 14), re.MULTILINE) is not None
    except OSError:
        return False


def _has_battery(root: Path) -> bool:
    return any((root / "sys/class/power_supply").glob("BAT*")) or any(
        text.startswith("BAT") for path in (root / "sys/class/hwmon").glob("hwmon*/name") for text in _read(path)
    )


def _read(path: Path) -> list[str]:
    """The words of a firmware file: NUL ends each; empty where there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES)
    except OSError:
        return []
    return [word for part in data.split(b"\0") if (word := part.decode("utf-8", "replace").strip())]


_METER = "put a meter into its supply (greenedge energy measure --external), or ask for --source estimate"
# How each kind of machine gets a figure of its CPU, and of its supply.
_CPU_CURES = {
    "vm": "a virtual machine has no counter: measure on its host, or ask for --source estimate",
    "jetson": "a Jetson has no RAPL: use its power rails, hwmon:… in `greenedge energy probe`",
    "pi": f"a Raspberry Pi has no RAPL: {_METER}",
    "board": f"this board has no RAPL: use its rails, hwmon:… in `greenedge energy probe`, or {_METER}",
    "laptop": "sudo modprobe intel_rapl_msr; or unplug it and measure its battery, hwmon:…",
    "server": "sudo modprobe intel_rapl_msr; or its ACPI power meter, sudo modprobe acpi_power_meter",
    "pc": f"sudo modprobe intel_rapl_msr; or {_METER}",
    "unknown": "sudo modprobe intel_rapl_msr; in a virtual machine there is no counter: use an external meter",
}
_RAIL_CURES = {
    "vm": "a virtual machine has no supply of its own: measure on its host, or ask for --source estimate",
    "jetson": "sudo modprobe ina3221, or ina3221x on JetPack 4",
    "pi": f"a Raspberry Pi has no power sensor that Linux shows: {_METER}; or wire an INA226 and load ina2xx",
    "board": "load the driver (sudo modprobe ina2xx or ina3221) and enable the sensor in the device tree",
    "laptop": "unplug it, so that its battery shows what it takes; or measure its CPU, powercap:…",
    "server": "sudo modprobe acpi_power_meter; or measure its CPUs, powercap:…",
    "pc": f"a PC shows no supply rails: measure its CPU, powercap:…, or {_METER}",
    "unknown": f"this machine shows no power sensor: {_METER}",
}


def cure_cpu(machine: Machine) -> str:
    """What to do where there is no counter of the CPU."""
    return _CPU_CURES[machine.kind]


def cure_rails(machine: Machine) -> str:
    """What to do where there is no power sensor under hwmon."""
    return _RAIL_CURES[machine.kind]
