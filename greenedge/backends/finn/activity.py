"""Switching activity of a build: how often the nets of its netlist, or the signals of its RTL, change on real vectors.

Verilator evaluates once a cycle without delays, so glitches are not seen. Of the netlist the nets between cells are
counted: what place and route was given. Of the RTL it is every signal, which synthesis may merge, or split into more.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.backends.finn import build_dir
from greenedge.errors import ToolError
from greenedge.files.scratch import scratch_folder
from greenedge.hdl.axi_stream import Stream, pack
from greenedge.hdl.axi_stream.simulation import _FLAGS, _HARNESS, _quote, _run, add_assertions, sim_top
from greenedge.hdl.netlist import NETLIST, netlist_sources
from greenedge.tools.discover import find_tool
from greenedge.tools.plan import Command, Plan
from greenedge.tools.run import execute_once

_COUNTER = Path(__file__).with_name("activity.cpp")
_LONGEST = 32
_ON, _OFF = (f"/*verilator tracing_{word}*/\n".encode() for word in ("on", "off"))


@dataclass(frozen=True)
class Switching:
    """Toggles of so many signal bits while `samples` were computed, from the first word in to the last word out.
    `level` says of what: the RTL or the netlist."""

    toggles: int
    bits: int
    cycles: int
    samples: int
    level: str


def count_switching(
    folder: Path, x: np.ndarray, level: str | None = None, progress: Callable[[str], None] = lambda line: None
) -> Switching:
    """Runs what lies in `folder` on graph integers (samples, *shape).

    `level` is "netlist" or "rtl"; None: the netlist where there is one. Raises ToolError for what Verilator or the
    simulation says, and without a netlist.
    """
    source, streams, _ = build_dir.streams_of(folder)
    netlist = level == "netlist" or (level is None and (folder / NETLIST).is_file())
    core = build_dir.read(folder, "streams.json")["top"]
    if netlist:
        streams = [dataclasses.replace(streams[0], name="m")]
        sources = netlist_sources(folder / NETLIST, core, build_dir.read(folder, "shell.json")["family"], progress)
        # What lies inside a cell is no net.
        sources = {
            name: _ON + _shorten_names(text) if name == "core.v" else _OFF + text for name, text in sources.items()
        }
    else:
        sources = build_dir.sources_of(folder)
    top = _ON + sim_top(core, source, streams, build_dir.TIED).encode()
    model = _compile_counter({**sources, "sim_top.sv": top}, progress)
    progress(f"counting toggles over {len(x)} samples")
    said = _run_counter(model, folder, source, streams, x)
    found = re.search(r"^toggles (\d+) bits (\d+) cycles (\d+)$", said, re.MULTILINE)
    if not found:
        raise ToolError(
            f"the simulation of {folder} counted no toggles; remove {model.parent} and run the same command again."
        )
    toggles, bits, cycles = map(int, found.groups())
    return Switching(toggles, bits, cycles, len(x), "netlist" if netlist else "RTL")


def _shorten_names(verilog: bytes) -> bytes:
    """The netlist with its flattened names cut short: Verilator 5.48 cannot trace names that are so long that it hashes
    them. What is called clk in its unit stays so called, for clocks are not counted."""
    names: dict[bytes, bytes] = {}

    def short(match: re.Match[bytes]) -> bytes:
        name = match[1]
        if len(name) <= _LONGEST:
            return match[0]
        clock = b".clk" if name.endswith(b".clk") else b""
        return b"\\" + names.setdefault(name, b"net%d%b" % (len(names), clock)) + b" "

    return re.sub(rb"\\(\S+)\s", short, verilog)


def _compile_counter(sources: dict[str, bytes], progress: Callable[[str], None]) -> Path:
    """The counting simulator of these sources, kept like every other compiled model."""
    sources = add_assertions(sources)
    files = {**sources, "activity.cpp": _COUNTER.read_bytes(), "run.cpp": _HARNESS.read_bytes()}
    command = Command(
        ("{verilator}", *_FLAGS, "--trace-vcd", *sources, "activity.cpp"),
        "verilator.log",
        "compiling the toggle-counting model with Verilator",
        timeout_s=1800,
    )
    plan = Plan(files, (command,), ("sim",))
    name = f"{plan.digest()[:24]}-{find_tool('verilator').version}"
    return execute_once(plan, "verilated", name, progress)[0] / "sim"


def _run_counter(model: Path, folder: Path, source: Stream, streams: Sequence[Stream], x: np.ndarray) -> str:
    """What the simulator said at its end."""
    with scratch_folder("activity") as scratch:
        work = Path(scratch)
        (work / "input.bin").write_bytes(pack(source, x))
        lines = [
            f"input {_quote(work / 'input.bin')} {source.bytes} {source.beats} {len(x)}",
            "stall 1 0 0",
            "patience 100000",
        ]
        offset = 0
        for index, s in enumerate(streams):
            lines.append(f"stream {s.name} {index} {offset} {s.bytes} {s.beats} -")
            offset += s.bytes
        (work / "run.txt").write_text("\n".join(lines) + "\n")
        return _run(model, folder, work / "run.txt")
