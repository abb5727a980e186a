"""Numbers from the reports that the vendors' tools leave in a project: what the HLS compiler estimates, and what
synthesis, fitting or routing counted where that ran too. What a report does not say stays absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from greenedge.backends.hls4ml.reports import amd, catapult, intel
from greenedge.backends.hls4ml.reports.reading import ESTIMATED, Reading

_READERS: Mapping[str, Callable[[Path], list[Reading]]] = {
    "vitis": amd.read,
    "vivado": amd.read,
    "vivado-accelerator": amd.read,
    "quartus": intel.read_quartus,
    "oneapi": intel.read_oneapi,
    "catapult": catapult.read,
    "libero": lambda project: [],
}
ESTIMATES = "hls_estimates"


def read_reports(project: Path, toolchain: str) -> tuple[dict[str, Any], dict[str, str]]:
    """({hardware key: number}, {key: how it is known}) from the reports in a project; both empty without one.

    A number that a later tool counted again replaces the HLS compiler's estimate, which is then below `hls_estimates`.
    Raises ToolError for a report that is damaged.
    """
    hardware: dict[str, Any] = {}
    evidence: dict[str, str] = {}
    estimates: dict[str, float] = {}
    for reading in _READERS[toolchain](project):
        for key, value in reading.drop_unknown().items():
            if evidence.get(key) == ESTIMATED and reading.evidence != ESTIMATED:
                estimates[key] = hardware[key]
            hardware[key], evidence[key] = value, reading.evidence
    return hardware | ({ESTIMATES: estimates} if estimates else {}), evidence
