"""NVIDIA GPUs through NVML (`nvidia-ml-py`): the energy counter and the instantaneous power, always both.

The counter integrates the sensor that the power reading shows, and that sensor may average over a quarter of the time
only (A100/H100: 25 ms in 100 ms, arXiv 2312.02741). Runs therefore need random delays, and the two are compared (a flag
above 5 %).
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

from greenedge.energy.clock import Clock
from greenedge.energy.counter_unwrap import Unwrapper
from greenedge.energy.machine import identify
from greenedge.energy.source import Probe, Reading, SourceFault, SourceInfo

_FIX_PACKAGE = 'pip install "greenedge[nvidia]"'
_FIX_DENIED = "run as root; of a MIG slice only the whole GPU can be read, by the administrator of the machine"
_FIX_JETSON = "a Jetson's GPU has no sensor in NVML: use the rails of the module, hwmon:… in `greenedge energy probe`"
_FIX_DRIVER = "install the NVIDIA driver, or give the container the GPU (--gpus all)"
_MAX_W = 2000.0
_SENSOR_S = 0.1
FIELD_ENERGY, FIELD_INSTANT = 83, 186


def find(root: Path) -> list[Probe]:
    """The counter and the power of every GPU."""
    jetson = identify(root).kind == "jetson"
    try:
        library = _library()
        count = library.nvmlDeviceGetCount()
    except SourceFault as fault:
        return [Probe("nvml", "module", "gpu", fault.reason, _FIX_JETSON if jetson else fault.fix, fault.kind)]
    found = []
    for index in range(count):
        covers = f"gpu {index}"
        for kind, open_one in (("energy", NvmlEnergy), ("power", NvmlPower)):
            try:
                open_one(library, index, _NoClock(), root).read()
                found.append(Probe(f"nvml:{index}:{kind}", "module", covers))
            except SourceFault as fault:
                found.append(Probe(f"nvml:{index}:{kind}", "module", covers, fault.reason, fault.fix, fault.kind))
    return found


def visible_gpus(text: str | None = None) -> tuple[list[int], str]:
    """(NVML's numbers of the GPUs that CUDA programs see, what is uncertain about it or "").

    `text` is CUDA_VISIBLE_DEVICES (None: that of the environment): numbers, or beginnings of UUIDs, up to the first
    that is none (CUDA C++ Programming Guide, environment variables). CUDA numbers GPUs by speed and NVML by their place
    on the bus, so GPUs of several models are all taken unless CUDA_DEVICE_ORDER is PCI_BUS_ID. Raises SourceFault."""
    library = _library()
    everyone = list(range(library.nvmlDeviceGetCount()))
    text = os.environ.get("CUDA_VISIBLE_DEVICES") if text is None else text
    if text is None:
        return everyone, ""
    entries = [entry.strip() for entry in text.split(",")]
    if any(entry.startswith("MIG-") for entry in entries):
        return everyone, "CUDA_VISIBLE_DEVICES names a MIG slice, whose GPU it does not say: all GPUs are taken"
    handles = [library.nvmlDeviceGetHandleByIndex(index) for index in everyone]
    chosen: list[int] = []
    for entry in entries:
        if entry.isdigit() and int(entry) < len(everyone):
            chosen.append(int(entry))
        elif entry.startswith("GPU-"):
            named = [k for k in everyone if _text(library.nvmlDeviceGetUUID(handles[k])).startswith(entry)]
            if len(named) != 1:
                break
            chosen += named
        else:
            break
    models = {_text(library.nvmlDeviceGetName(handle)) for handle in handles}
    by_number = any(entry.isdigit() for entry in entries[: len(chosen)])
    if by_number and len(models) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        said = (
            "CUDA_VISIBLE_DEVICES numbers GPUs of several models by speed, which NVML does not: all are taken "
            "(CUDA_DEVICE_ORDER=PCI_BUS_ID makes them agree)"
        )
        return everyone, said
    return sorted(set(chosen)), ""


def _text(name: object) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def open_source(source_id: str, root: Path, clock: Clock) -> NvmlEnergy | NvmlPower:
    """nvml:INDEX:energy or nvml:INDEX:power. Raises SourceFault."""
    _, index, kind = (source_id.split(":") + ["energy"])[:3]
    if not index.isdigit() or kind not in ("energy", "power"):
        raise SourceFault(
            source_id, "absent", "a GPU is nvml:INDEX:energy or nvml:INDEX:power", "greenedge energy probe lists them"
        )
    return (NvmlEnergy if kind == "energy" else NvmlPower)(_library(), int(index), clock, root)


class _NoClock:
    """For probing, which reads once and needs no times."""

    def now(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("probing does not wait")


def _library() -> ModuleType:
    """pynvml, initialised. Raises SourceFault."""
    try:
        import pynvml
    except ImportError:
        raise SourceFault("nvml", "absent", "nvidia-ml-py is not installed", _FIX_PACKAGE) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise SourceFault("nvml", "absent", f"NVML says {error}", _FIX_DRIVER) from None
    return pynvml


class _Gpu:
    """A handle to one GPU. Raises SourceFault where NVML has none."""

    def __init__(self, library: ModuleType, index: int, clock: Clock, suffix: str, root: Path):
        self.library, self.clock, self.source = library, clock, f"nvml:{index}:{suffix}"
        self.root = root
        try:
            self.handle = library.nvmlDeviceGetHandleByIndex(index)
        except library.NVMLError as error:
            raise self.fault(error) from None
        try:
            self.named: tuple[str, ...] = (str(library.nvmlDeviceGetName(self.handle)),)
        except (library.NVMLError, AttributeError):
            self.named = ()
        if self._is_sliced():
            self.named = (*self.named, "the GPU is cut in MIG slices: this is the whole GPU, also the work of others")

    def _is_sliced(self) -> bool:
        try:
            return bool(self.library.nvmlDeviceGetMigMode(self.handle)[0] == 1)
        except (self.library.NVMLError, AttributeError):
            return False

    def fault(self, error: Exception) -> SourceFault:
        text = str(error)
        denied = "permission" in text.lower()
        fix = _FIX_DENIED if denied else self._other() if "Not Supported" in text else _FIX_DRIVER
        return SourceFault(self.source, "denied" if denied else "absent", f"NVML says {text}", fix)

    def _other(self) -> str:
        """The cure where NVML has not this figure of the GPU: another figure only where it can be read."""
        index = self.source.split(":")[1]
        if self.source.endswith(":energy"):
            try:
                self.library.nvmlDeviceGetPowerUsage(self.handle)
                return f"use nvml:{index}:power: this GPU has no energy counter (before Volta)"
            except self.library.NVMLError:
                pass
        if identify(self.root).kind == "jetson":
            return _FIX_JETSON
        return "this GPU shows neither energy nor power: put a meter into the supply of the machine, or use its hwmon"

    def close(self) -> None:
        self.library.nvmlShutdown()


class NvmlEnergy(_Gpu):
    """nvmlDeviceGetTotalEnergyConsumption: millijoules since the driver was loaded, 64 bits."""

    def __init__(self, library: ModuleType, index: int, clock: Clock, root: Path = Path("/")):
        super().__init__(library, index, clock, "energy", root)
        self.info = SourceInfo(
            self.source,
            "counter",
            "module",
            f"gpu {index}",
            update_period_s=_SENSOR_S,
            lsb_j=1e-3,
            max_power_w=_MAX_W,
            host_included=False,
            part_time=_SENSOR_S,
            notes=(
                *self.named,
                "integrates the power sensor, which may see a quarter of the time",
            ),
        )
        self._unwrap = Unwrapper()

    def read(self) -> Reading:
        t0 = self.clock.now()
        try:
            millijoules = self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle)
        except self.library.NVMLError as error:
            raise self.fault(error) from None
        t1 = self.clock.now()
        return Reading(t0, t1, self._unwrap.add(self.info, (t0 + t1) / 2, millijoules / 1e3))


class NvmlPower(_Gpu):
    """Field 186, instantaneous milliwatts, where the driver has it; else nvmlDeviceGetPowerUsage (1 s average on
    many)."""

    def __init__(self, library: ModuleType, index: int, clock: Clock, root: Path = Path("/")):
        super().__init__(library, index, clock, "power", root)
        self._instant = self._field() is not None
        note = (
            "instantaneous (field 186)"
            if self._instant
            else "nvmlDeviceGetPowerUsage: a 1 s average on Ampere and later"
        )
        self.info = SourceInfo(
            self.source,
            "power",
            "module",
            f"gpu {index}",
            update_period_s=_SENSOR_S,
            lsb_j=None,
            max_power_w=_MAX_W,
            host_included=False,
            part_time=_SENSOR_S,
            notes=(*self.named, note),
        )

    def read(self) -> Reading:
        t0 = self.clock.now()
        try:
            milliwatts = self._field() if self._instant else self.library.nvmlDeviceGetPowerUsage(self.handle)
        except self.library.NVMLError as error:
            raise self.fault(error) from None
        t1 = self.clock.now()
        if milliwatts is None or not 0 <= milliwatts / 1e3 <= self.info.max_power_w:
            raise SourceFault(
                self.source, "implausible", f"it reads {milliwatts!r} mW", "report the GPU and its driver"
            )
        return Reading(t0, t1, milliwatts / 1e3)

    def _field(self) -> int | None:
        try:
            value = self.library.nvmlDeviceGetFieldValues(self.handle, [FIELD_INSTANT])[0]
        except (self.library.NVMLError, AttributeError):
            return None
        return value.value.uiVal if value.nvmlReturn == 0 else None


def disagreement(counter_j: float, sampled_j: float) -> float:
    """Relative difference of the counter and the integrated instantaneous power; above 0.05 it is flagged."""
    return abs(counter_j - sampled_j) / max(abs(counter_j), abs(sampled_j), 1e-12)
