"""Reports of Intel's HLS compiler (JavaScript files of `var name={JSON};`) and of oneAPI (one JSON value a line).

Both say beside the compiler's estimate what Quartus counted after fitting, where that ran.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from greenedge.backends.hls4ml.reports.reading import ESTIMATED, Reading, count, damage_error, json_of, number, text_of
from greenedge.backends.hls4ml.toolchains import TOP

FITTED = "reported by Quartus after fitting"
_SIMULATED = "simulated by the HLS compiler's tools"
_ORDER = ("alut", "ff", "ram_blocks", "dsp", "mlab")  # of the totals, in the words of `_NAMES`
_NAMES = {"ALUTS": "alut", "FFS": "ff", "RAMS": "ram_blocks", "DSPS": "dsp", "MLABS": "mlab"}
_FITTER = {"alm": "alm", "alut": "alut", "reg": "ff", "dsp": "dsp", "ram": "ram_blocks", "mlab": "mlab"}
_LIB = f"{TOP}-fpga.prj/reports/lib"
_ONEAPI = tuple(f"build/{TOP}.{kind}.prj/reports/resources/json" for kind in ("fpga", "report"))


def read_quartus(project: Path) -> list[Reading]:
    """Of i++: its estimate, its simulation where the test bench ran, and the fitter's counts."""
    found = []
    if (path := project / _LIB / "report_data.js").is_file():
        found.append(Reading(ESTIMATED, parse_area(path)))
    if (path := project / _LIB / "verification_data.js").is_file():
        found.append(Reading(_SIMULATED, parse_verification(path)))
    if (path := project / _LIB / "quartus_data.js").is_file():
        found.append(Reading(FITTED, parse_fit(path, variable(path, "quartusJSON"))))
    return found


def read_oneapi(project: Path) -> list[Reading]:
    """Of the hardware build where there is one, else of the early report."""
    folder = next((project / name for name in _ONEAPI if (project / name).is_dir()), None)
    if folder is None:
        return []
    found = []
    if (path := folder / "summary.ndjson").is_file():
        found.append(Reading(ESTIMATED, parse_summary(path)))
    if (path := folder / "loop_attr.ndjson").is_file():
        found.append(Reading(ESTIMATED, parse_loops(path)))
    if (path := folder / "quartus.ndjson").is_file():
        found.append(Reading(FITTED, parse_fit(path, json_of(path, text_of(path)))))
    return found


def variable(path: Path, name: str) -> object:
    """The value of `var name=…` in a JavaScript report, read as JSON. Raises ToolError where there is none."""
    text = text_of(path)
    begin = re.search(rf"\bvar\s+{name}\s*=\s*", text)
    if begin is None:
        raise damage_error(path, f"it has no {name}")
    return json_of(path, text[begin.end() :].replace("\\'", "'"))  # JavaScript's escape that JSON has not


def parse_area(path: Path) -> dict[str, float | None]:
    """The compiler's estimate for the whole design."""
    area = variable(path, "areaJSON")
    total = _field(path, area, "total", list)
    columns = area.get("columns") if isinstance(area, dict) else None
    names = [str(name).strip().upper() for name in columns if str(name).strip()] if isinstance(columns, list) else []
    keys = [_NAMES.get(name) for name in names] if names else list(_ORDER)
    if len(total) < 4 or not set(keys[:4]) & set(_ORDER):
        raise damage_error(path, "its totals are not those of a design")
    # columns and totals need not be equally many: those beyond are of no resource that we know
    return {key: count(value) for key, value in zip(keys, total, strict=False) if key is not None}


def parse_verification(path: Path) -> dict[str, float | None]:
    """Latency and interval as `least,most,average`, empty until the test bench has run in the simulator."""
    verified = variable(path, "verifJSON")
    functions = verified.get("functions") if isinstance(verified, dict) else None
    if not functions:
        return {}
    data = _field(path, functions[0] if isinstance(functions, list) else None, "data", list)
    most = [number(str(cell).split(",")[min(1, str(cell).count(","))]) for cell in data[1:3]]
    # a report may have the first alone
    return dict(zip(("latency_cycles", "cycles_per_inference"), most, strict=False))


def parse_fit(path: Path, report: object) -> dict[str, float | None]:
    """Clock and resources after fitting; empty where the fitter has not run ("TBD")."""
    clocks = _field(path, _field(path, report, "quartusFitClockSummary", dict), "nodes", list)
    designs = _field(path, _field(path, report, "quartusFitResourceUsageSummary", dict), "nodes", list)
    nodes = [node for node in designs if isinstance(node, dict)]
    if not clocks or not isinstance(clocks[0], dict):
        raise damage_error(path, "it names no clock")
    fmax = next((found for key in ("clock fmax", "clock") if (found := number(clocks[0].get(key))) is not None), None)
    if fmax is None or not nodes:
        return {}
    # a component's own row counts the network alone; the system's includes the interfaces around it
    ours = [node for node in nodes if node.get("type") != "system"]
    node = ours[0] if len(ours) == 1 else next((n for n in nodes if n.get("type") == "system"), nodes[-1])
    return {"fmax_hz": 1e6 * fmax} | {key: count(node.get(name)) for name, key in _FITTER.items() if name in node}


def parse_summary(path: Path) -> dict[str, float | None]:
    """oneAPI's estimate for the whole design: the line called Total."""
    for line in _lines(path):
        if line.get("name") == "Total" and line.get("parent", "estimatedResources") == "estimatedResources":
            values = map(count, _field(path, line, "data", list))
            return dict(zip(_ORDER, values, strict=False))  # a report may have fewer columns
    raise damage_error(path, "it has no line Total")


def parse_loops(path: Path) -> dict[str, float | None]:
    """The clock of the slowest loop, and the longest loop's interval and latency: of loops, not of an inference."""
    loops = [line for line in _lines(path) if {"af", "ii", "lt"} <= set(line)]
    clocks, intervals, latencies = (
        [found for loop in loops if (found := number(loop[key])) is not None] for key in ("af", "ii", "lt")
    )
    return {
        "fmax_hz": 1e6 * min(clocks) if clocks else None,
        "loop_interval_cycles": max(intervals, default=None),
        "loop_latency_cycles": max(latencies, default=None),
    }


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    """The table of each line; lines that hold another JSON value are skipped."""
    values = (json_of(path, line) for line in text_of(path).splitlines() if line.strip())
    return [value for value in values if isinstance(value, dict)]


def _field(path: Path, table: object, name: str, kind: type) -> Any:
    value = table.get(name) if isinstance(table, dict) else None
    if not isinstance(value, kind):
        raise damage_error(path, f"it has no {name}")
    return value
