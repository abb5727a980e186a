"""A build folder read back: its streams, its RTL as it lies there now, its simulation, and the tools' own numbers."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends.finn.named_streams import BENCH, NAME, SOURCES, NamedStreams, read_named, write_bench
from greenedge.backends.finn.units import FOLDER
from greenedge.errors import GreenedgeError, ToolError
from greenedge.files.json_file import read_table
from greenedge.graph.ops.base import Array
from greenedge.hdl.axi_stream import Stream, view_stream
from greenedge.hdl.axi_stream.simulation import Simulated, Stall, compile_model, run_model, sim_top
from greenedge.run.folder import inside

TIED = ".restart(1'b0), "  # inputs of the core that a simulation of its streams holds
_APART = 0.03  # a difference between FINN+'s cycles and ours that is worth a sentence


def read(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of the build. Raises GreenedgeError where it is missing or damaged."""
    path = folder / name
    try:
        return read_table(path)
    except (OSError, ValueError) as error:
        raise GreenedgeError(f"{path} is missing or damaged ({error}); run the build stage again.") from None


def streams_of(folder: Path) -> tuple[Stream, list[Stream], dict[str, Stream]]:
    """(input stream, layer streams with the output first, {other edge: its stream as that edge}) of the top."""
    about = read(folder, "streams.json")
    streams = [Stream.from_plain(entry) for entry in about["streams"]]
    views = [Stream.from_plain(entry) for entry in about["views"]]
    return streams[0], [streams[-1], *streams[1:-1]], {view.edge: view for view in views}


def named_streams_of(folder: Path) -> NamedStreams | None:
    """The streams of `top_streams`; None for a core with one input and one output."""
    return read_named(read(folder, "streams.json"))


def sources_of(folder: Path) -> dict[str, bytes]:
    """The SystemVerilog files that were synthesised, as they are in the folder now."""
    names = read(folder, "streams.json")["sources"]
    try:
        return {name: inside(folder / FOLDER, name).read_bytes() for name in names}
    except OSError as error:
        raise GreenedgeError(f"{error.filename} is missing; run the build stage again.") from None


def rtl_digest(folder: Path) -> str:
    """sha256 over every RTL and memory file of the build: what a bitstream was made from."""
    digest = hashlib.sha256()
    for path in sorted((folder / FOLDER).iterdir()):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def simulate(folder: Path, x: Array, keep: Sequence[str], stall: Stall, progress: Callable[[str], None]) -> Simulated:
    """Verilator on the folder's RTL; values of the output and of the kept edges that are streams."""
    source, streams, views = streams_of(folder)
    progress("compiling the RTL with Verilator (kept for the next time)")
    model = compile_model(
        {**sources_of(folder), "sim_top.sv": sim_top("top", source, streams, TIED).encode()}, progress
    )
    progress(f"simulating {len(x)} samples cycle by cycle")
    carriers = {
        edge: stream for edge, view in views.items() for stream in (source, *streams) if stream.name == view.name
    }
    wanted = [carriers[edge].edge if edge in carriers else edge for edge in keep]
    result = run_model(model, folder, source, streams, x, wanted, stall)
    values = {source.edge: x, **result.values}
    seen = {
        edge: view_stream(carriers[edge], values[carriers[edge].edge], views[edge]) for edge in keep if edge in carriers
    }
    return Simulated({**result.values, **seen}, result.first_output_cycles, result.interval_cycles, result.total_cycles)


def simulate_named(
    folder: Path, named: NamedStreams, x: Array, stall: Stall, progress: Callable[[str], None]
) -> dict[str, Array]:
    """The same samples through `top_streams`: what each output's own stream gave, by edge.

    Raises ToolError where an input's own stream carried something else than that input.
    """
    source, result = named.core
    ends = [replace(one, edge=one.name) for one in (*named.inputs, *named.outputs)]  # an edge may be both
    files = {name: inside(folder / FOLDER, name).read_bytes() for name in (*SOURCES, f"{NAME}.sv")}
    bench = {f"{BENCH}.sv": write_bench(named).encode()}
    streams = [replace(result, name="m"), *ends]
    top = {"sim_top.sv": sim_top(BENCH, source, streams, TIED).encode()}
    model = compile_model({**sources_of(folder), **files, **bench, **top}, progress)
    progress(f"simulating {len(x)} samples through the named streams")
    values = run_model(model, folder, source, streams, x, [one.edge for one in ends], stall).values
    sent = np.split(x.reshape(len(x), -1), np.cumsum([math.prod(one.shape) for one in named.inputs])[:-1], axis=1)
    for port, expected in zip(named.inputs, sent, strict=True):
        if not np.array_equal(values[port.name].reshape(len(x), -1), expected):
            raise ToolError(
                f"the stream {port.name} of {folder / FOLDER / NAME}.sv does not carry the input {port.edge}."
            )
    return {port.edge: values[port.name] for port in named.outputs}


def utilisation(report: Mapping[str, Any], name: str) -> int | None:
    """How many cells of a kind nextpnr used."""
    entry = report.get("utilization", {}).get(name)
    return int(entry["used"]) if isinstance(entry, dict) and "used" in entry else None


def cells(stat: Mapping[str, Any], module: str | None, pattern: str, each: int = 1) -> int | None:
    """Cells whose type matches, times `each`, from yosys's `stat -json`: of a module, or of the whole design."""
    entry = stat.get("design") if module is None else stat.get("modules", {}).get(f"\\{module}")
    if not isinstance(entry, dict):
        return None
    kinds = entry.get("num_cells_by_type", {})
    return each * sum(int(count) for kind, count in kinds.items() if re.fullmatch(pattern, kind))


def read_finn(folder: Path) -> dict[str, Any] | None:
    """What FINN+ said; None where it was not asked, which is an option."""
    return read(folder, "finn.json") if (folder / "finn.json").is_file() else None


def compare_with_finn(design: Mapping[str, Any], finn: Mapping[str, Any]) -> list[str]:
    """Sentences about the layers of which FINN+ expects other cycles than we do, or says nothing."""
    # FINN has no serial units
    ours = {layer["name"]: layer["cycles"] // layer.get("cycles_per_beat", 1) for layer in design["layers"]}
    known = [layer for layer in finn["layers"] if layer["name"] in ours]
    others = [
        f"{layer['name']} {layer['cycles']:,} ({ours[layer['name']]:,})"
        for layer in known
        if "cycles" in layer and abs(layer["cycles"] - ours[layer["name"]]) > _APART * ours[layer["name"]]
    ]
    silent = [f"{layer['name']} ({layer['refused']})" for layer in known if "refused" in layer]
    said = (
        (others, "FINN+ expects other cycles per inference than we do (ours in brackets)"),
        (silent, "FINN+ gives no estimate of"),
    )
    return [f"{text}: {', '.join(layers)}." for layers, text in said if layers]
