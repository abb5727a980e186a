"""AMD and Apple GPUs through Zeus (Apache-2.0), where it is installed; nothing else depends on it.

Zeus's running totals are read at the window boundaries. Zeus counts RAPL wraps in another process and can be off by one
range (research/energy-measurement.md §0.2), so its CPU figures on x86 are not used: only GPUs and the parts of an Apple
chip.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from greenedge.energy.clock import Clock
from greenedge.energy.counter_unwrap import Unwrapper
from greenedge.energy.source import Probe, Reading, SourceFault, SourceInfo

_FIX = 'pip install "greenedge[zeus]" on a machine with an AMD or Apple GPU; for NVIDIA use nvml'
# Part of an Apple chip -> (Zeus's field in millijoules, what it covers)
_APPLE = {
    "gpu": ("gpu_mj", "apple gpu"),
    "cpu": ("cpu_total_mj", "apple cpu"),
    "ane": ("ane_mj", "apple neural engine"),
    "dram": ("dram_mj", "apple dram"),
}


def find(root: Path) -> list[Probe]:
    """Zeus's GPUs, then the parts of an Apple chip that it has a figure for."""
    try:
        count = len(_gpus())
    except SourceFault as fault:
        missing = fault
    else:
        return [Probe(f"zeus:{index}", "module", f"gpu {index}") for index in range(count)]
    try:
        total = _soc().get_total_energy_consumption()
    except SourceFault:
        return [Probe("zeus", "module", "gpu", missing.reason, missing.fix, missing.kind)]
    parts = {part: covers for part, (field, covers) in _APPLE.items() if getattr(total, field, None) is not None}
    return [Probe(f"zeus:apple:{part}", "chip", covers) for part, covers in parts.items()]


def open_source(source_id: str, root: Path, clock: Clock, device: Any = None) -> ZeusTotal:
    """zeus:INDEX is a GPU, zeus:apple:PART a part of an Apple chip; `device` stands for Zeus's own (tests)."""
    kind, _, part = source_id.partition(":")[2].partition(":")
    if kind == "apple" and part in _APPLE:
        field, covers = _APPLE[part]
        soc = device if device is not None else _soc()
        return ZeusTotal(source_id, "chip", covers, clock, lambda: getattr(soc.get_total_energy_consumption(), field))
    if not kind.isdigit() or part:
        raise SourceFault(source_id, "absent", "a GPU is zeus:INDEX, a part of an Apple chip zeus:apple:gpu", _FIX)
    gpus, index = device if device is not None else _gpus(), int(kind)
    return ZeusTotal(source_id, "module", f"gpu {index}", clock, lambda: gpus.get_total_energy_consumption(index))


def _gpus() -> Any:
    """zeus.device.get_gpus(). Raises SourceFault."""
    return _device("get_gpus", "GPU")


def _soc() -> Any:
    """zeus.device.get_soc(). Raises SourceFault."""
    return _device("get_soc", "SoC")


def _device(name: str, what: str) -> Any:
    """What zeus.device.NAME() returns; untyped, as Zeus ships no annotations for it. Raises SourceFault."""
    try:
        import zeus.device
    except ImportError:
        raise SourceFault("zeus", "absent", "zeus is not installed", _FIX) from None
    try:
        return getattr(zeus.device, name)()
    except Exception as error:  # noqa: BLE001 - zeus wraps each vendor's own exceptions
        raise SourceFault("zeus", "absent", f"zeus finds no {what}: {error}", _FIX) from None


class ZeusTotal:
    """A running total of Zeus (millijoules) as a counter."""

    def __init__(self, source: str, scope: str, covers: str, clock: Clock, total: Callable[[], float | None]):
        self.clock, self.total = clock, total
        self.info = SourceInfo(
            source,
            "counter",
            scope,
            covers,
            update_period_s=None,
            lsb_j=1e-3,
            max_power_w=2000.0,
            host_included="cpu" in covers,
            notes=("read through zeus",),
        )
        self._unwrap = Unwrapper()

    def read(self) -> Reading:
        t0 = self.clock.now()
        try:
            millijoules = self.total()
        except Exception as error:  # noqa: BLE001 - zeus wraps each vendor's own exceptions
            raise SourceFault(self.info.id, "dead", f"zeus says {error}", _FIX) from None
        t1 = self.clock.now()
        if millijoules is None:
            raise SourceFault(self.info.id, "absent", "zeus has no figure for it", "use another part of the chip")
        return Reading(t0, t1, self._unwrap.add(self.info, (t0 + t1) / 2, millijoules / 1e3))

    def close(self) -> None:
        """Zeus manages its own handles."""
