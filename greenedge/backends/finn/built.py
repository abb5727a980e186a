"""A finished build folder: what is in it, how to run it, and which RTL its bitstream comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.backends.finn.simulation import Simulated, Stall, compile_model, run_model
from greenedge.backends.finn.streams import Stream
from greenedge.errors import GreenedgeError
from greenedge.files import sha256_file


@dataclass(frozen=True)
class Io:
    """io.json: the input, the observed streams (the output first), edges that equal another, what is synthesised,
    and after how many cycles without one beat the design counts as deadlocked."""

    source: Stream
    streams: tuple[Stream, ...]
    aliases: dict[str, tuple[str, tuple[int, ...]]]
    sources: tuple[str, ...]
    memories: tuple[str, ...]
    patience: int


def read_io(folder: Path) -> Io:
    """Raises GreenedgeError for a folder that holds no finished build."""
    try:
        data = json.loads((folder / "io.json").read_text())
        return Io(Stream.from_plain(data["source"]), tuple(Stream.from_plain(s) for s in data["streams"]),
                  {edge: (same, tuple(shape)) for edge, (same, shape) in data["aliases"].items()},
                  tuple(data["sources"]), tuple(data["memories"]), int(data["patience"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GreenedgeError(f"{folder / 'io.json'} is missing or damaged ({error}); run the build stage again.") from None


def rtl_files(folder: Path) -> dict[str, str]:
    """sha256 of every file that the hardware is made of: SystemVerilog and memory files."""
    io = read_io(folder)
    try:
        return {name: sha256_file(folder / name) for name in sorted((*io.sources, *io.memories))}
    except FileNotFoundError as error:
        raise GreenedgeError(f"{error.filename} is missing; run the build stage again.") from None


def rtl_digest(folder: Path) -> str:
    """One digest over all of them."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in rtl_files(folder).items())
    return hashlib.sha256(lines.encode()).hexdigest()


def run(folder: Path, x: np.ndarray, keep: Sequence[str] = (), stall: Stall = Stall(),
        progress: Callable[[str], None] = lambda line: None) -> Simulated:
    """Runs what lies in `folder` now on integers `x` (samples, *shape); compiles the model if its sources are new."""
    io = read_io(folder)
    if x.shape[1:] != io.source.shape:
        raise GreenedgeError(f"the input has shape {x.shape}; the built hardware takes {('samples', *io.source.shape)}.")
    if len(x) == 0:
        raise GreenedgeError("no samples were given to the simulation; it needs at least one.")
    try:
        sources = {Path(name).name: (folder / name).read_bytes() for name in (*io.sources, "sim/sim_top.sv")}
    except FileNotFoundError as error:
        raise GreenedgeError(f"{error.filename} is missing; run the build stage again.") from None
    model = compile_model(sources, progress)
    wanted = {io.aliases[edge][0] if edge in io.aliases else edge for edge in keep}
    found = run_model(model, folder, io.source, io.streams, x, sorted(wanted), stall, io.patience)
    values = dict(found.values)
    for edge, (same, shape) in io.aliases.items():
        if same in values:
            values[edge] = values[same].reshape(len(x), *shape)
    return Simulated(values, found.first_output_cycles, found.interval_cycles, found.total_cycles)
