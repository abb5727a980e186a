"""Reports of Siemens Catapult: cycle.rpt and rtl.rpt of the latest solution, and Vivado's on the RTL that it joined."""

from __future__ import annotations

import re
from pathlib import Path

from greenedge.backends.hls4ml.reports.amd import SYNTHESISED, parse_timing, parse_utilisation
from greenedge.backends.hls4ml.reports.reading import ASKED, ESTIMATED, Reading, count, derive_pace, number, text_of
from greenedge.backends.hls4ml.toolchains import TOP
from greenedge.errors import ToolError


def read(project: Path) -> list[Reading]:
    """Of the newest solution, net.v1, net.v2, …"""
    solutions = [path for path in (project / f"{TOP}_prj").glob(f"{TOP}.v*") if path.suffix[2:].isdigit()]
    if not solutions:
        return []
    solution = max(solutions, key=lambda path: int(path.suffix[2:]))
    found = []
    if (path := solution / "cycle.rpt").is_file():
        found += parse_cycles(path)
    if (path := solution / "rtl.rpt").is_file():
        found.append(Reading(ESTIMATED, parse_rtl(path)))
    for name, parse in (("utilization_synth.rpt", parse_utilisation), ("timing_summary_synth.rpt", _highest)):
        if (path := solution / "vivado_concat_v" / name).is_file():
            found.append(Reading(SYNTHESISED, parse(path)))
    return found


def _highest(path: Path) -> dict[str, float | None]:
    return {"fmax_hz": parse_timing(path)["fmax_hz"]}


def parse_cycles(path: Path) -> list[Reading]:
    """Latency and throughput in cycles of the whole design, and the clock that was asked for."""
    text = text_of(path)
    total = re.search(r"^[ \t]*Design Total:\s+\S+\s+(\S+)\s+(\S+)", text, re.MULTILINE)
    if total is None:
        raise ToolError(f"{path} is no report of Catapult's cycles; run the synthesis again.")
    clock = re.search(r"^[ \t]*\S+[ \t]+(?:rising|falling)[ \t]+([\d.]+)\s", text, re.MULTILINE)
    period = number(clock[1]) if clock else None
    pace = derive_pace(count(total[1]), count(total[2]), period)
    return [Reading(ASKED, {"clock_hz": 1e9 / period if period else None}), Reading(ESTIMATED, pace)]


def parse_rtl(path: Path) -> dict[str, float | None]:
    """LUTs, register bits, area score and highest clock. DSPs only where the library counts them in one way."""
    text = text_of(path)
    columns = re.search(r"^[ \t]*Component Name\s+Area Score\s+(.*)$", text, re.MULTILINE)
    total = re.search(r"^[ \t]*TOTAL AREA \(After Assignment\):\s+(.*)$", text, re.MULTILINE)
    score = re.search(r"^[ \t]*Total Area Score:\s+\S+\s+\S+\s+(\S+)", text, re.MULTILINE)
    if total is None and score is None:
        raise ToolError(f"{path} is no report of Catapult's RTL; run the synthesis again.")
    kinds = re.findall(r"Area\(([^)]+)\)", columns[1]) if columns else []
    values = map(count, total[1].split()[1:]) if total else ()
    areas = dict(zip(kinds, values, strict=False))  # areas without a total stay unknown
    dsps = [value for kind, value in areas.items() if kind.startswith("DSP")]
    registers = re.search(r"^[ \t]*Register\s+Size\(bits\)(?:.*\n)+?[ \t]*Total:\s+(\d+)", text, re.MULTILINE)
    delay = re.search(r"^[ \t]*Max Delay:\s+([\d.]+)", text, re.MULTILINE)
    longest = number(delay[1][:16]) if delay else None
    return {
        "lut": areas.get("LUTs"),
        "dsp": dsps[0] if len(dsps) == 1 else None,
        "ff": number(registers[1]) if registers else None,
        "area_score": number(score[1]) if score else None,
        "fmax_hz": 1e9 / longest if longest else None,
    }
