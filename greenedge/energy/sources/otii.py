"""Qoitech Otii Arc/Ace through `otii-tcp-client` (MIT): a recording of main current and voltage, fetched at the end.

The Otii server must run and have an automation licence. The gain uncertainty is in the data sheet: give it with --gain.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from greenedge.energy.clock import Clock
from greenedge.energy.source import Probe, SourceFault, SourceInfo

_FIX = 'pip install "greenedge[otii]", start otii_server and log in with a licence for automation'


def find(root: Path) -> list[Probe]:
    """Every device that the Otii server knows."""
    try:
        devices = _connect(_module()).get_devices()
    except SourceFault as fault:
        return [Probe("otii", "board", "the supplied board", fault.reason, fault.fix, fault.kind)]
    if not devices:
        return [Probe("otii", "board", "the supplied board", "the Otii server has no device", _FIX)]
    return [Probe(f"otii:{device.id}", "board", "the supplied board") for device in devices]


def open_source(source_id: str, root: Path, clock: Clock, module: ModuleType | None = None) -> Otii:
    """otii:DEVICE; `module` replaces otii_client (tests). Raises SourceFault."""
    return Otii(source_id.partition(":")[2], clock, module or _module())


def _module() -> ModuleType:
    try:
        from otii_tcp_client import otii_client
    except ImportError:
        raise SourceFault("otii", "absent", "otii-tcp-client is not installed", _FIX) from None
    return otii_client


def _connect(module: ModuleType) -> Any:
    """The client's server object (the package has no annotations). Raises SourceFault."""
    try:
        return module.OtiiClient().connect()
    except Exception as error:  # noqa: BLE001 - the client raises bare Exceptions of many kinds
        raise SourceFault("otii", "absent", f"the Otii server says {error}", _FIX) from None


class Otii:
    """One Otii device; records between `start` and `stop`."""

    def __init__(self, device_id: str, clock: Clock, module: ModuleType):
        self.clock = clock
        server = _connect(module)
        devices = [device for device in server.get_devices() if device.id == device_id]
        if not devices:
            raise SourceFault(f"otii:{device_id}", "absent", "the Otii server has no such device", _FIX)
        self.device = devices[0]
        self.info = SourceInfo(
            f"otii:{device_id}",
            "stream",
            "board",
            "the supplied board",
            update_period_s=1e-3,
            max_power_w=25.0,
            host_included=False,
            notes=("gain: see the data sheet",),
        )
        self.project = server.get_active_project()
        for channel in ("mc", "mv"):
            self.device.enable_channel(channel, True)

    def start(self) -> float:
        """Begins the recording; returns its start in s of the clock."""
        self.project.start_recording()
        self._start, self._done = self.clock.now(), 0
        return self._start

    def poll(self) -> tuple[np.ndarray, np.ndarray]:
        """(times in s, watts) recorded since the last call."""
        self.clock.sleep(0.25)
        recording = self.project.get_last_recording()
        count = min(recording.get_channel_data_count(self.device.id, channel) for channel in ("mc", "mv"))
        if count <= self._done + 1:
            return np.zeros(0), np.zeros(0)
        blocks = [
            recording.get_channel_data(self.device.id, channel, self._done, count - self._done)
            for channel in ("mc", "mv")
        ]
        self._done = count
        current, voltage = blocks
        t = current["timestamp"] + np.arange(len(current["values"])) * current["interval"]
        at = voltage["timestamp"] + np.arange(len(voltage["values"])) * voltage["interval"]
        return self._start + t, np.asarray(current["values"]) * np.interp(t, at, voltage["values"])

    def stop(self) -> None:
        self.project.stop_recording()

    def close(self) -> None:
        for channel in ("mc", "mv"):
            self.device.enable_channel(channel, False)
