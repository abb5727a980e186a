"""Numbers from the reports that the vendor's tools leave in the project: Vivado HLS and Vitis HLS (csynth.xml),
Vivado's utilisation after logic synthesis. What a report does not say stays None."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from greenedge.backends.hls4ml.toolchains import TOP
from greenedge.errors import ToolError

_CSYNTH = (f"{TOP}_prj/solution1/syn/report/{TOP}_csynth.xml", f"{TOP}_prj/solution1/syn/report/{TOP}_axi_csynth.xml",
           f"{TOP}_prj/solution1/syn/report/csynth.xml")
_LOGIC = "vivado_synth.rpt"
_MOST_BYTES = 16 << 20
_BRAM18_BITS = 18 * 1024
_ROWS = {"lut": r"(?:CLB|Slice) LUTs\*?", "ff": r"(?:CLB|Slice) Registers", "dsp": r"DSPs", "bram36": r"Block RAM Tile",
         "uram": r"URAM"}


def read_reports(project: Path) -> tuple[dict, dict]:
    """({hardware key: number}, {key: how it is known}) from the reports in a project; both empty without one.

    Raises ToolError for a report that is damaged.
    """
    hardware, evidence = {}, {}
    path = next((project / name for name in _CSYNTH if (project / name).is_file()), None)
    if path is not None:
        hardware = parse_csynth(path)
        evidence = dict.fromkeys((key for key, value in hardware.items() if value is not None),
                                 "estimated by the HLS compiler")
    if (project / _LOGIC).is_file():
        logic = parse_utilisation(project / _LOGIC)
        hardware |= logic
        evidence |= dict.fromkeys(logic, "reported by Vivado after logic synthesis")
    return {key: value for key, value in hardware.items() if value is not None}, evidence


def parse_csynth(path: Path) -> dict[str, float | int | None]:
    """Latency, interval, clock and resources of an HLS compiler's csynth.xml."""
    text = _text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ToolError(f"{path} is no report (it declares entities); run the synthesis again.")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ToolError(f"{path} is damaged ({error}); run the synthesis again.") from None
    timing, latency = "PerformanceEstimates/SummaryOfTimingAnalysis/", "PerformanceEstimates/SummaryOfOverallLatency/"
    period = _number(root, timing + "EstimatedClockPeriod")
    clock = _number(root, "UserAssignments/TargetClockPeriod")
    cycles, interval = (_number(root, latency + name) for name in ("Worst-caseLatency", "Interval-max"))
    brams = _number(root, "AreaEstimates/Resources/BRAM_18K")
    counts = {key: _whole(_number(root, f"AreaEstimates/Resources/{name}")) for key, name in (
        ("lut", "LUT"), ("ff", "FF"), ("dsp", "DSP"), ("uram", "URAM"))}
    counts["dsp"] = counts["dsp"] if counts["dsp"] is not None else _whole(_number(root,
                                                                                   "AreaEstimates/Resources/DSP48E"))
    return {**counts, "bram_bits": None if brams is None else int(brams) * _BRAM18_BITS,
            "clock_hz": 1e9 / clock if clock else None, "fmax_hz": 1e9 / period if period else None,
            "latency_cycles": _whole(cycles), "cycles_per_inference": _whole(interval),
            "latency_s": cycles * clock * 1e-9 if cycles is not None and clock else None,
            "ips": 1e9 / (clock * interval) if clock and interval else None}


def parse_utilisation(path: Path) -> dict[str, int]:
    """LUTs, flip-flops, DSPs and block RAM of Vivado's report_utilization."""
    text = _text(path)
    found = {}
    for key, label in _ROWS.items():
        match = re.search(rf"^\|\s*{label}\s*\|\s*([\d.]+)\s*\|", text, re.MULTILINE)
        if match:
            found[key] = float(match[1])
    if not found:
        raise ToolError(f"{path} is no utilisation report; run the synthesis again.")
    bram = found.pop("bram36", None)
    counts = {key: int(value) for key, value in found.items()}
    return counts | ({} if bram is None else {"bram_bits": int(2 * bram) * _BRAM18_BITS})


def _text(path: Path) -> str:
    if path.stat().st_size > _MOST_BYTES:
        raise ToolError(f"{path} has {path.stat().st_size:,} bytes; a report has at most {_MOST_BYTES:,}.")
    return path.read_text(encoding="utf-8", errors="replace")


def _number(root: ElementTree.Element, path: str) -> float | None:
    """The number at that place; None where it is absent or the tool wrote "undef" or "?"."""
    try:
        return float(root.findtext(path, ""))
    except ValueError:
        return None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
