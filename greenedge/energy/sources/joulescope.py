"""Joulescope JS110/JS220 through `pyjoulescope_driver` (Apache-2.0): the energy accumulated on the instrument.

Statistics arrive by call-back; a reading is the accumulator of the last one. The gain uncertainty is in the
instrument's certificate: give it with --gain.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from greenedge.energy.clock import Clock
from greenedge.energy.source import Probe, Reading, SourceFault, SourceInfo

_FIX_PACKAGE = 'pip install "greenedge[joulescope]"'
_FIX_USB = "plug it in and install its udev rule (99-joulescope.rules, group plugdev)"
_PERIOD_S = {"js110": 0.5, "js220": 0.02}
_SAMPLES = 1_000_000


def find(root: Path) -> list[Probe]:
    """Every instrument on USB."""
    try:
        driver = _module().Driver()
    except SourceFault as fault:
        return [Probe("joulescope", "board", "the supplied board", fault.reason, fault.fix, fault.kind)]
    try:
        paths = [path for path in driver.device_paths() if _family(path)]
    finally:
        driver.finalize()
    if not paths:
        return [Probe("joulescope", "board", "the supplied board", "no Joulescope is on USB", _FIX_USB)]
    return [Probe(f"joulescope:{path}", "board", "the supplied board") for path in paths]


def open_source(source_id: str, root: Path, clock: Clock, module: ModuleType | None = None) -> Joulescope:
    """joulescope:PATH; `module` replaces pyjoulescope_driver (tests). Raises SourceFault."""
    return Joulescope(source_id.partition(":")[2], clock, module or _module())


def _module() -> ModuleType:
    try:
        import pyjoulescope_driver
    except ImportError:
        raise SourceFault("joulescope", "absent", "pyjoulescope_driver is not installed", _FIX_PACKAGE) from None
    return pyjoulescope_driver


def _family(path: str) -> str | None:
    return next((family for family in _PERIOD_S if family in path), None)


class Joulescope:
    """The instrument's accumulator as a counter."""

    def __init__(self, path: str, clock: Clock, module: ModuleType):
        family = _family(path)
        if family is None:
            raise SourceFault(f"joulescope:{path}", "absent", "it is neither a JS110 nor a JS220", _FIX_USB)
        self.clock, self.path = clock, path
        self.info = SourceInfo(
            f"joulescope:{path}",
            "counter",
            "board",
            "the supplied board",
            update_period_s=_PERIOD_S[family],
            max_power_w=150.0,
            host_included=False,
            notes=("gain: see the instrument's certificate",),
        )
        self._first: float | None = None  # accumulators of the first and the last statistics, in J
        self._last: float | None = None
        self.driver = module.Driver()
        try:
            self.driver.open(path)
        except RuntimeError as error:
            raise SourceFault(self.info.id, "denied", str(error), _FIX_USB) from None
        if family == "js110":
            self.driver.publish(path + "/s/i/range/select", "auto")
            self.driver.subscribe(path + "/s/sstats/value", "pub", self._on_value)
        else:
            self.driver.publish(path + "/s/i/range/mode", "auto")
            self.driver.publish(path + "/s/stats/scnt", round(_SAMPLES * _PERIOD_S[family]))
            self.driver.publish(path + "/s/stats/ctrl", 1)
            self.driver.subscribe(path + "/s/stats/value", "pub", self._on_value)

    def read(self) -> Reading:
        for _ in range(200):
            if self._last is not None:
                break
            self.clock.sleep(0.01)
        if self._last is None or self._first is None:
            raise SourceFault(self.info.id, "dead", "it sent no statistics in 2 s", _FIX_USB)
        now = self.clock.now()
        # The value is that of the last call-back and stays until the next one, as a counter's does between updates.
        value = self._last - self._first
        if value < 0:
            raise SourceFault(self.info.id, "reset", "its accumulator went back", "measure again")
        return Reading(now, now, value)

    def close(self) -> None:
        self.driver.close(self.path)
        self.driver.finalize()

    def _on_value(self, topic: str, value: dict) -> None:
        joules = float(value["accumulators"]["energy"]["value"])
        self._first = joules if self._first is None else self._first
        self._last = joules
