"""Checks that the routed board meets its clock, and finds the layer of its longest path.

    python -m greenedge.hdl.board_shell.timing      in the build folder, after nextpnr

Reads report.json and shell.json, writes timing.json. The delays are nextpnr's. `core_fmax_hz` is 1 / the longest path
that ends in a register of the core as placed with this board; the core placed alone may differ slightly.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write

_NS = 1e-9
_CORE = "core."  # the instance's name in the top level
_UNIT = re.compile(r"_(unit|width)$")


def timing(report: Mapping, clock_hz: float) -> dict:
    """{clock_hz, fmax_hz, core_fmax_hz, from, to} from nextpnr's report; None where the report has no value."""
    found = [entry["achieved"] * 1e6 for entry in report.get("fmax", {}).values()]
    paths = [path for path in report.get("critical_paths", ()) if "<async>" not in (path["from"], path["to"])]
    worst = max(paths, key=lambda path: sum(step["delay"] for step in path["path"]), default=None)
    core = max(
        (
            endpoint["delay"][-1]
            for net in report.get("detailed_net_timings", ())
            if "<async>" not in net.get("event", "")
            for endpoint in net["endpoints"]
            if endpoint["cell"].startswith(_CORE) and "<async>" not in endpoint["event"]
        ),
        default=None,
    )
    fmax_hz = min(found, default=None)
    # Where the longest path ends in the core, rounding could put its clock below that of the whole.
    core_hz = max(1 / (core * _NS), fmax_hz or 0.0) if core else None
    return {
        "clock_hz": clock_hz,
        "fmax_hz": fmax_hz,
        "core_fmax_hz": core_hz,
        "from": worst and place(worst["path"][0]["from"]["cell"]),
        "to": worst and place(worst["path"][-1]["to"]["cell"]),
    }


def place(cell: str) -> str:
    """The part that a cell of the netlist belongs to: "layer fc1", or a part of the board's shell."""
    if cell.startswith(_CORE):
        return f"layer {_UNIT.sub('', re.split(r'[.$]', cell.removeprefix(_CORE))[0])}"
    parts = cell.split(".")
    return f"the board's {'.'.join(parts[:2]) if parts[0] == 'host' and len(parts) > 2 else parts[0]}"


def require(found: Mapping) -> None:
    """Raises GreenedgeError where the clock is not met or not reported."""
    reached, wanted = found["fmax_hz"], found["clock_hz"]
    if reached is None:
        raise GreenedgeError("nextpnr reports no clock at all; is anything left of the design?")
    if reached < wanted:
        lower = int(reached * 0.95 // 1e6 * 1e6) or int(reached * 0.95)
        raise GreenedgeError(
            f"the clock is not met: {reached / 1e6:.1f} MHz are reached of {wanted / 1e6:g} MHz, the longest path runs "
            f"from {found['from']} to {found['to']}; ask for a lower clock (--set build.clock_hz={lower}) or several "
            "placements (--set build.seeds=4)"
        )


def main() -> int:
    """Checks the build in the working directory; the exit status."""
    try:
        clock_hz = json.loads(Path("shell.json").read_text())["clock_hz"]
        found = timing(json.loads(Path("report.json").read_text()), clock_hz)
        with atomic_write(Path("timing.json")) as path:
            path.write_text(json.dumps(found, indent=1) + "\n")
        require(found)
    except (GreenedgeError, OSError, KeyError, ValueError) as error:
        print(f"error: {error}")
        return 1
    print(f"{found['fmax_hz'] / 1e6:.1f} MHz are reached of {clock_hz / 1e6:g} MHz")
    return 0


if __name__ == "__main__":
    sys.exit(main())
