"""Counting how often the nets of a netlist, or the signals of RTL, change while a harness runs them.

Verilator evaluates once a cycle without delays, so glitches are not seen. Of the netlist the nets between cells are
counted: what place and route was given. Of the RTL it is every signal, which synthesis may merge, or split into more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from greenedge.errors import ToolError
from greenedge.hdl.axi_stream.simulation import _FLAGS, add_assertions
from greenedge.tools.discover import find_tool
from greenedge.tools.plan import Command, Plan
from greenedge.tools.run import execute_once

_COUNTER = Path(__file__).with_name("toggle_counter.h")
_LONGEST = 32
_ON, _OFF = (f"/*verilator tracing_{word}*/\n".encode() for word in ("on", "off"))


@dataclass(frozen=True)
class Switching:
    """Toggles of so many signal bits while `samples` were computed, from the first word in to the last word out.
    `level` says of what: the RTL or the netlist; `asked` how many samples there were, where it was interrupted."""

    toggles: int
    bits: int
    cycles: int
    samples: int
    level: str
    asked: int | None = None


def trace_nets(sources: Mapping[str, bytes]) -> dict[str, bytes]:
    """What netlist_sources gave, with the nets of the core alone to be counted: what lies inside a cell is no net."""
    return {name: _ON + _shorten_names(text) if name == "core.v" else _OFF + text for name, text in sources.items()}


def trace_all(source: bytes) -> bytes:
    """A source whose signals are counted."""
    return _ON + source


def _shorten_names(verilog: bytes) -> bytes:
    """The netlist with its flattened names cut short: Verilator 5.48 cannot trace names that are so long that it hashes
    them. What is called clk in its unit stays so called, for clocks are not counted."""
    names: dict[bytes, bytes] = {}

    def short(match: re.Match[bytes]) -> bytes:
        escaped, plain = match.groups()
        name = escaped or plain
        if len(name) <= _LONGEST:
            return match[0]
        clock = b".clk" if name.endswith(b".clk") else b""
        return b"\\" + names.setdefault(name, b"net%d%b" % (len(names), clock)) + b" "

    return re.sub(rb"\\(\S+)\s|(?<![\w'.$\\])([A-Za-z_]\w*)", short, verilog)  # not the digits of a literal, not a port


def compile_counter(
    sources: Mapping[str, bytes], counter: Path, harness: Path, progress: Callable[[str], None], *flags: str
) -> Path:
    """The counting simulator of these sources, kept like every other compiled model. `counter` is the C++ file that
    includes toggle_counter.h, and `harness` as run.cpp; `flags` are further ones of Verilator. Raises ToolError."""
    files = add_assertions(sources)
    argv = ("{verilator}", *_FLAGS, *flags, "--trace-vcd", *files, "activity.cpp")
    files |= {"activity.cpp": counter.read_bytes(), "run.cpp": harness.read_bytes()}
    files[_COUNTER.name] = _COUNTER.read_bytes()
    command = Command(argv, "verilator.log", "compiling the toggle-counting model with Verilator", timeout_s=1800)
    plan = Plan(files, (command,), ("sim",))
    name = f"{plan.digest()[:24]}-{find_tool('verilator').version}"
    return execute_once(plan, "verilated", name, progress)[0] / "sim"


def read_count(said: str, samples: int, level: str, model: Path) -> Switching:
    """The counter's last word. Raises ToolError where it counted nothing."""
    found = re.search(r"^toggles (\d+) bits (\d+) cycles (\d+)$", said, re.MULTILINE)
    if not found:
        raise ToolError(f"the simulation counted no toggles; remove {model.parent} and run the same command again.")
    toggles, bits, cycles = map(int, found.groups())
    return Switching(toggles, bits, cycles, samples, level)
