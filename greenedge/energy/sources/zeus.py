"""AMD and Apple GPUs through Zeus (Apache-2.0), where it is installed: a bridge, never the core.

Zeus's window is opened once and its running total is read at the edges. Zeus counts RAPL wraps in another process and
can be off by one range (research/energy-measurement.md §0.2), so its CPU figures are not taken: GPU or SoC alone.
"""

from __future__ import annotations

from pathlib import Path

from greenedge.energy.clock import Clock
from greenedge.energy.model import Found, Reading, SourceFault, SourceInfo
from greenedge.energy.wrap import Unwrapper

_FIX = 'pip install "greenedge[zeus]" on a machine with an AMD or Apple GPU; for NVIDIA use nvml'


def find(root: Path) -> list[Found]:
    try:
        gpus = _gpus()
    except SourceFault as fault:
        return [Found("zeus", "module", "gpu", fault.reason, fault.fix, fault.kind)]
    return [Found(f"zeus:{index}", "module", f"gpu {index}") for index in range(len(gpus))]


def open_source(source_id: str, root: Path, clock: Clock, gpus: object | None = None) -> ZeusGpu:
    index = source_id.partition(":")[2]
    if not index.isdigit():
        raise SourceFault(source_id, "absent", "a GPU is zeus:INDEX", _FIX)
    return ZeusGpu(int(index), clock, gpus if gpus is not None else _gpus())


def _gpus() -> object:
    """zeus.device.get_gpus(). Raises SourceFault."""
    try:
        from zeus.device import get_gpus
    except ImportError:
        raise SourceFault("zeus", "absent", "zeus is not installed", _FIX) from None
    try:
        return get_gpus()
    except Exception as error:  # noqa: BLE001 - zeus wraps each vendor's own exceptions
        raise SourceFault("zeus", "absent", f"zeus finds no GPU: {error}", _FIX) from None


class ZeusGpu:
    """getTotalEnergyConsumption of one GPU, millijoules."""

    def __init__(self, index: int, clock: Clock, gpus):
        self.clock, self.gpus, self.index, self.guard_s = clock, gpus, index, None
        self.info = SourceInfo(
            f"zeus:{index}",
            "counter",
            "module",
            f"gpu {index}",
            update_period_s=None,
            max_power_w=2000.0,
            host_included=False,
            notes=("read through zeus",),
        )
        self._unwrap = Unwrapper(self.info)

    def read(self) -> Reading:
        t0 = self.clock.now()
        try:
            millijoules = self.gpus.get_total_energy_consumption(self.index)
        except Exception as error:  # noqa: BLE001 - zeus wraps each vendor's own exceptions
            raise SourceFault(self.info.id, "absent", f"zeus says {error}", _FIX) from None
        t1 = self.clock.now()
        return Reading(t0, t1, self._unwrap.add((t0 + t1) / 2, millijoules / 1e3))

    def close(self) -> None:
        """Zeus keeps its handles itself."""
