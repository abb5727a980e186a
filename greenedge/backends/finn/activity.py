"""Switching activity of a build: how often the signals of its RTL change while it computes real vectors.

Verilator evaluates the RTL once a cycle without delays, so glitches are not seen, and signals that synthesis makes or
merges are not told apart: these are toggles of the RTL, not of the netlist, and whoever uses them says so.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs

from greenedge.backends.finn import built
from greenedge.backends.finn.simulation import _FLAGS, _HARNESS, _run, sim_top
from greenedge.backends.finn.streams import pack
from greenedge.errors import ToolError
from greenedge.tools import Command, Plan, execute, find_tool

_COUNTER = Path(__file__).with_name("activity.cpp")


@dataclass(frozen=True)
class Switching:
    """Toggles of so many signal bits while `samples` were computed, from the first word in to the last word out. `level`
    says of what: the RTL or the netlist."""

    toggles: int
    bits: int
    cycles: int
    samples: int
    level: str


def switching(folder: Path, x: np.ndarray, progress: Callable[[str], None] = lambda line: None) -> Switching:
    """Runs the RTL in `folder` on graph integers (samples, *shape). Raises ToolError for what Verilator or the
    simulation says."""
    source, streams, _ = built.streams_of(folder)
    model = _compiled({**built.sources_of(folder), "sim_top.sv": sim_top("top", source, streams).encode()}, progress)
    progress(f"counting toggles over {len(x)} samples")
    said = _counted(model, folder, source, streams, x)
    found = re.search(r"^toggles (\d+) bits (\d+) cycles (\d+)$", said, re.MULTILINE)
    if not found:
        raise ToolError(f"the simulation of {folder} counted no toggles; remove {model.parent} and run the same command again.")
    toggles, bits, cycles = map(int, found.groups())
    return Switching(toggles, bits, cycles, len(x), "RTL")


def _compiled(sources: dict[str, bytes], progress: Callable[[str], None]) -> Path:
    """The counting simulator of these sources, kept like every other compiled model."""
    files = {**sources, "activity.cpp": _COUNTER.read_bytes(), "run.cpp": _HARNESS.read_bytes()}
    command = Command(("{verilator}", *_FLAGS, "--trace-vcd", *sources, "activity.cpp"), "verilator.log",
                      "compiling the toggle-counting model with Verilator", timeout_s=1800)
    plan = Plan(files, (command,), ("sim",))
    folder = Path(platformdirs.user_cache_dir("greenedge")) / "verilated" / f"{plan.digest()[:24]}-{find_tool('verilator').version}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "sim").is_file():
            execute(plan, folder, progress)
    return folder / "sim"


def _counted(model: Path, folder: Path, source, streams, x: np.ndarray) -> str:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="greenedge-activity-") as scratch:
        work = Path(scratch)
        (work / "input.bin").write_bytes(pack(source, x))
        lines = [f"input {work / 'input.bin'} {source.bytes} {source.beats} {len(x)}", "stall 1 0 0", "patience 100000"]
        offset = 0
        for index, s in enumerate(streams):
            lines.append(f"stream {s.name} {index} {offset} {s.bytes} {s.beats} -")
            offset += s.bytes
        (work / "run.txt").write_text("\n".join(lines) + "\n")
        return _run(model, folder, work / "run.txt")
