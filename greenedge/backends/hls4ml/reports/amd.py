"""Reports of AMD's tools: csynth.xml of Vivado HLS and Vitis HLS; Vivado's utilisation after logic synthesis, and after
routing of VivadoAccelerator's block design, where its timing summary lies too.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from greenedge.backends.hls4ml.reports.reading import (
    ASKED,
    BRAM18_BITS,
    ESTIMATED,
    Reading,
    count,
    damage_error,
    derive_pace,
    number,
    text_of,
)
from greenedge.backends.hls4ml.toolchains import ROUTED, TOP
from greenedge.errors import ToolError

_CSYNTH = tuple(
    f"{TOP}_prj/solution1/syn/report/{name}.xml" for name in (f"{TOP}_csynth", f"{TOP}_axi_csynth", "csynth")
)
SYNTHESISED = "reported by Vivado after logic synthesis"
_ROUTED = "reported by Vivado after routing, with the block design around it"
_ROWS = {
    "lut": r"(?:CLB|Slice) LUTs\*?",
    "ff": r"(?:CLB|Slice) Registers",
    "dsp": r"DSPs",
    "bram36": r"Block RAM Tile",
    "uram": r"URAM",
}
_CLOCK = re.compile(r"^[ \t]*\S+[ \t]+\{[\d. -]+\}[ \t]+([\d.]+)[ \t]+[\d.]+[ \t]*$", re.MULTILINE)
_COLUMNS = {"lut": "Total LUTs", "ff": "FFs", "uram": "URAM", "dsp": "DSP48 Blocks|DSP Blocks"}


def read(project: Path) -> list[Reading]:
    """In the order in which the tools ran: the HLS estimate, logic synthesis, routing."""
    csynth = next((project / name for name in _CSYNTH if (project / name).is_file()), None)
    found = parse_csynth(csynth) if csynth is not None else []
    if (path := project / "vivado_synth.rpt").is_file():
        found.append(Reading(SYNTHESISED, parse_utilisation(path)))
    if (path := project / "util.rpt").is_file():
        found.append(Reading(_ROUTED, parse_hierarchy(path)))
    if (path := project / ROUTED / "design_1_wrapper_timing_summary_routed.rpt").is_file():
        timing = parse_timing(path)
        found += [Reading(_ROUTED, timing), *_at_board_clock(found, timing["clock_hz"])]
    return found


def _at_board_clock(readings: list[Reading], clock_hz: float | None) -> list[Reading]:
    """The compiler's cycles at the clock that the block design gives, which need not be the one asked for."""
    cycles = next((reading.numbers for reading in readings if "latency_cycles" in reading.numbers), None)
    if cycles is None or clock_hz is None:
        return []
    return [Reading(ESTIMATED, derive_pace(cycles["latency_cycles"], cycles["cycles_per_inference"], 1e9 / clock_hz))]


def parse_csynth(path: Path) -> list[Reading]:
    """Latency, interval, clock and resources of an HLS compiler's csynth.xml."""
    text = text_of(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ToolError(f"{path} is no report (it declares entities); run the synthesis again.")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, RecursionError) as error:
        raise damage_error(path, error) from None

    def read_number(place: str) -> float | None:
        return number(root.findtext(place, ""))

    def read_count(name: str) -> float | None:
        return count(root.findtext(f"AreaEstimates/Resources/{name}", ""))

    timing, latency = "PerformanceEstimates/SummaryOfTimingAnalysis/", "PerformanceEstimates/SummaryOfOverallLatency/"
    period, clock = read_number(timing + "EstimatedClockPeriod"), read_number("UserAssignments/TargetClockPeriod")
    brams = read_count("BRAM_18K")
    counts = {key: read_count(name) for key, name in (("lut", "LUT"), ("ff", "FF"), ("dsp", "DSP"), ("uram", "URAM"))}
    counts["dsp"] = counts["dsp"] if counts["dsp"] is not None else read_count("DSP48E")  # Vivado HLS's name
    pace = derive_pace(read_number(latency + "Worst-caseLatency"), read_number(latency + "Interval-max"), clock)
    estimated = {
        **counts,
        "bram_bits": None if brams is None else brams * BRAM18_BITS,
        "fmax_hz": 1e9 / period if period else None,
        **pace,
    }
    if all(value is None for value in (*estimated.values(), clock)):
        raise damage_error(path, "it has no estimates")
    return [Reading(ASKED, {"clock_hz": 1e9 / clock if clock else None}), Reading(ESTIMATED, estimated)]


def parse_utilisation(path: Path) -> dict[str, float | None]:
    """LUTs, flip-flops, DSPs and block RAM of Vivado's report_utilization."""
    text = text_of(path)
    found = {key: re.search(rf"^\|\s*{label}\s*\|\s*([\d.]+)\s*\|", text, re.MULTILINE) for key, label in _ROWS.items()}
    if not any(found.values()):
        raise ToolError(f"{path} is no utilisation report; run the synthesis again.")
    counts = {key: number(match[1]) if match else None for key, match in found.items()}
    tiles = counts.pop("bram36")
    return counts | {"bram_bits": None if tiles is None else 2 * tiles * BRAM18_BITS}


def parse_hierarchy(path: Path) -> dict[str, float | None]:
    """The same of report_utilization -hierarchical, of the row of the top."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in text_of(path).splitlines()
        if line.startswith("|") and line.count("|") > 6
    ]
    names = next((row for row in rows if "Total LUTs" in row), None)
    top = next((row for row in rows if len(row) > 1 and row[1] == "(top)"), None)
    if names is None or top is None or len(names) != len(top):
        raise ToolError(f"{path} is no utilisation report; run the synthesis again.")
    cells = {name: count(cell.partition("(")[0]) for name, cell in zip(names, top, strict=True)}
    counts = {
        key: next((cells[name] for name in label.split("|") if name in cells), None) for key, label in _COLUMNS.items()
    }
    whole, half = cells.get("RAMB36"), cells.get("RAMB18")
    bits = None if whole is None or half is None else (2 * whole + half) * BRAM18_BITS
    return counts | {"bram_bits": bits}


def parse_timing(path: Path) -> dict[str, float | None]:
    """The clock of report_timing_summary and its highest, 1 / (period - worst slack), where all have one period."""
    text = text_of(path)
    slack = re.search(r"^[ \t]*WNS\(ns\).*\n[- \t]*\n[ \t]*(-?[\d.]+|NA)\s", text, re.MULTILINE)
    if slack is None:
        raise ToolError(f"{path} is no timing summary; run the synthesis again.")
    periods = {number(found) for found in _CLOCK.findall(text)}
    worst = number(slack[1])
    period = periods.pop() if len(periods) == 1 else None
    return {
        "clock_hz": 1e9 / period if period else None,
        "fmax_hz": 1e9 / (period - worst) if period and worst is not None and worst < period else None,
    }
