"""Switching activity of a build: how often the nets of its netlist, or the signals of its RTL, change on real vectors
(see greenedge/hdl/switching.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from greenedge.backends.finn import build_dir
from greenedge.files.scratch import scratch_folder
from greenedge.hdl.axi_stream import Stream, pack
from greenedge.hdl.axi_stream.simulation import _HARNESS, _quote, _run, sim_top
from greenedge.hdl.netlist import NETLIST, netlist_sources
from greenedge.hdl.switching import Switching, compile_counter, read_count, trace_all, trace_nets

_PARTS = 10
_COUNTER = Path(__file__).with_name("activity.cpp")


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
        family = build_dir.read(folder, "shell.json")["family"]
        sources = trace_nets(netlist_sources(folder / NETLIST, core, family, progress))
    else:
        sources = build_dir.sources_of(folder)
    top = trace_all(sim_top(core, source, streams, build_dir.TIED).encode())
    model = compile_stream_counter({**sources, "sim_top.sv": top}, progress)
    level = "netlist" if netlist else "RTL"

    def count(part: np.ndarray) -> Switching:
        return read_count(run_stream_counter(model, folder, source, streams, part), len(part), level, model)

    return count_in_parts(count, x, progress)


def count_in_parts(
    count: Callable[[np.ndarray], Switching], x: np.ndarray, progress: Callable[[str], None]
) -> Switching:
    """The sum over parts of the samples, so that it can be seen how far it is; where it is interrupted, of the parts
    that were finished. Each part begins at reset, so the changes between its first sample and the one before are those
    from the reset's values. Raises KeyboardInterrupt before the first part is finished."""
    size = -(-len(x) // _PARTS)
    done: list[Switching] = []
    for begin in range(0, len(x), size):
        progress(f"counting toggles: {begin} of {len(x)} samples")
        try:
            done.append(count(x[begin : begin + size]))
        except KeyboardInterrupt:
            if not done:
                raise
            break
    toggles, cycles, samples = (sum(getattr(part, key) for part in done) for key in ("toggles", "cycles", "samples"))
    return Switching(toggles, done[0].bits, cycles, samples, done[0].level, None if samples == len(x) else len(x))


def compile_stream_counter(sources: dict[str, bytes], progress: Callable[[str], None]) -> Path:
    """The counting simulator of a core with streams."""
    return compile_counter(sources, _COUNTER, _HARNESS, progress)


def run_stream_counter(model: Path, folder: Path, source: Stream, streams: Sequence[Stream], x: np.ndarray) -> str:
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
