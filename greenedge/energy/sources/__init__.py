"""Families of energy sources: one module each, one line here. Each has

    find(root) -> list[Probe]                       what can be opened, or why not and the cure; keeps nothing open
    open_source(id, root, clock, **options)         the source of that id; raises SourceFault

`root` stands for "/", so that a test can give a tree of its own.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from greenedge.energy.clock import Clock, RealClock
from greenedge.energy.source import Probe, Source, SourceFault
from greenedge.errors import EvidenceError

SOURCES = {
    "powercap": "greenedge.energy.sources.powercap",
    "perf": "greenedge.energy.sources.perf",
    "hwmon": "greenedge.energy.sources.hwmon",
    "nvml": "greenedge.energy.sources.nvml",
    "joulescope": "greenedge.energy.sources.joulescope",
    "otii": "greenedge.energy.sources.otii",
    "ppk2": "greenedge.energy.sources.ppk2",
    "zeus": "greenedge.energy.sources.zeus",
}


def load(name: str) -> ModuleType:
    """The module of a source family. Raises EvidenceError for an unknown name."""
    if name not in SOURCES:
        raise EvidenceError(f"there is no source {name!r}; sources are: {', '.join(SOURCES)}.")
    return importlib.import_module(SOURCES[name])


def find_all(root: Path = Path("/")) -> list[Probe]:
    """Everything every family finds, in the order of the registry."""
    return [found for name in SOURCES for found in load(name).find(root)]


def open_source(source_id: str, root: Path = Path("/"), clock: Clock | None = None) -> Source:
    """Opens "family:rest"; settings may follow the id of a hwmon source. Raises SourceFault, or EvidenceError for an
    unknown family."""
    family = source_id.partition(":")[0].partition(",")[0]
    if "," in source_id and family != "hwmon":
        fix = f"give {source_id.partition(',')[0]} alone, or name its gain with --gain"
        raise SourceFault(source_id, "absent", "scale=, sign= and take= are for sources of hwmon", fix)
    return load(family).open_source(source_id, root, clock or RealClock())
