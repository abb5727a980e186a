"""Builds a finn core alone (no board around it): synthesis, block RAM registers, place and route; checks it; counts it.

Shared by the scripts of single networks. Numbers are yosys's and nextpnr's own; cycles come from the simulation.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from greenedge.backends.finn import build_dir  # noqa: E402
from greenedge.backends.finn.design import Design  # noqa: E402
from greenedge.backends.finn.stitch import about, rtl_files, stitch  # noqa: E402
from greenedge.graph import Graph, run_graph, save_graph  # noqa: E402
from greenedge.hdl.axi_stream.simulation import Stall  # noqa: E402
from greenedge.hdl.board_shell.timing import timing  # noqa: E402
from greenedge.hdl.netlist import simulate_netlist  # noqa: E402
from greenedge.target import Target  # noqa: E402
from greenedge.tools.plan import Command, Plan  # noqa: E402
from greenedge.tools.run import execute  # noqa: E402

_SYNTHESIS = {"ecp5": "synth_ecp5 -abc9", "ice40": "synth_ice40 -dsp -device u", "gowin": "synth_gowin -noiopads"}
_CELLS = {
    "lut4": "LUT4|SB_LUT4|LUT[1-3]",
    "ccu2c": "CCU2C",
    "ff": "TRELLIS_FF|SB_DFF.*|DFF.*",
    "dsp": "MULT18X18D|SB_MAC16",
    "ram16": "TRELLIS_DPR16X4|RAM16SDP4",
    "bram": "DP16KD|SB_RAM40_4K.*|(SDP|DP|SP)X?9?B?",
}


@dataclass(frozen=True)
class Core:
    """A core in its folder, with the tools' figures."""

    folder: Path
    family: str
    counts: Mapping[str, int]
    fmax_hz: float | None
    comb: int | None
    path: str


def print_progress(line: str) -> None:
    """Progress, away from the table."""
    print(f"  {line}", file=sys.stderr, flush=True)


def build_core(
    graph: Graph, design: Design, target: Target, folder: Path, clock_hz: float | None, seed: int = 1
) -> Core:
    """The core of a design through synthesis and, for a clock, place and route with pins left to nextpnr."""
    family = target.device.family
    stitched = stitch(design.network, design.folding)
    with tempfile.TemporaryDirectory() as scratch:
        save_graph(graph, Path(scratch))
        files = {name: (Path(scratch) / name).read_bytes() for name in ("graph.json", "graph.npz")}
    streams = about(design.network, stitched)
    files |= {f"rtl/{name}": content for name, content in rtl_files(design.network.name, stitched).items()}
    files["streams.json"] = json.dumps(streams).encode()
    sources = " ".join(f"rtl/{name}" for name in streams["sources"])
    files["core.ys"] = (
        f"read_slang --threads 1 --top top {sources}\n{_SYNTHESIS[family]} -top top\nwrite_json synthesised.json\n"
    ).encode()
    files["count.ys"] = b"read_json netlist.json\ntee -q -o stat.json stat -json -top top\n"
    commands = [
        Command(("{yosys}", "-q", "-s", "core.ys"), "yosys.log", "synthesis with yosys", 3600),
        Command(
            ("{python}", "-m", "greenedge.hdl.board_shell.ram_registers", "synthesised.json", "netlist.json"),
            "registers.log",
            "moving registers into block RAMs",
        ),
        Command(("{yosys}", "-q", "-s", "count.ys"), "count.log", "counting cells"),
    ]
    products = ["netlist.json", "stat.json"]
    if clock_hz is not None:
        commands.append(_place(target, clock_hz, seed))
        files["empty.lpf"] = b"\n"
        products.append("report.json")
    execute(Plan(files, tuple(commands), tuple(products)), folder, print_progress)
    return read_core(folder, family, clock_hz)


def _place(target: Target, clock_hz: float, seed: int) -> Command:
    name, pins = {
        "ecp5": ("nextpnr-ecp5", ("--lpf", "empty.lpf", "--lpf-allow-unconstrained")),
        "ice40": ("nextpnr-ice40", ("--pcf-allow-unconstrained",)),
        "gowin": ("nextpnr-himbaechel", ()),
    }[target.device.family]
    return Command(
        (
            f"{{{name}}}",
            *target.device.toolchain["nextpnr"],
            "--json",
            "netlist.json",
            *pins,
            "--freq",
            f"{clock_hz / 1e6:g}",
            "--timing-allow-fail",
            "--report",
            "report.json",
            "--detailed-timing-report",
            "--seed",
            str(seed),
        ),
        "nextpnr.log",
        "place and route with nextpnr",
        3 * 3600,
    )


def read_core(folder: Path, family: str, clock_hz: float | None) -> Core:
    """The core in a folder that `build_core` wrote."""
    counts = {
        name: build_dir.cells(build_dir.read(folder, "stat.json"), "top", pattern) or 0
        for name, pattern in _CELLS.items()
    }
    if clock_hz is None:
        return Core(folder, family, counts, None, None, "")
    report = build_dir.read(folder, "report.json")
    found = timing(report, clock_hz)
    return Core(
        folder,
        family,
        counts,
        found["fmax_hz"],
        build_dir.utilisation(report, "TRELLIS_COMB"),
        f"{_unit_name(found['from'])} to {_unit_name(found['to'])}",
    )


def _unit_name(place: str | None) -> str:
    """The core is the whole design here, so what timing.py calls a part of the board is a unit."""
    return str(place).removeprefix("the board's ")


def check_core(core: Core, graph: Graph, samples: int = 24, whole_netlist: bool = True) -> tuple[float, int, float]:
    """(cycles per inference, cycles from first input to last output, seconds for the netlist); SystemExit where an
    integer differs."""
    edge, output = graph.edges[graph.inputs[0]], graph.outputs[0]
    x = np.random.default_rng(1).integers(edge.lo, edge.hi + 1, (samples, *edge.shape))
    expected = run_graph(graph, x)[output]
    free = build_dir.simulate(core.folder, x, (), Stall(), print_progress)
    source, streams, _ = build_dir.streams_of(core.folder)
    pauses = Stall.at_pace(source, streams[0], free.interval_cycles, seed=2)
    runs = {
        "RTL": free.values[output],
        "RTL with stalls": build_dir.simulate(core.folder, x, (), pauses, print_progress).values[output],
    }
    began = time.monotonic()
    if whole_netlist:
        runs["netlist"] = (
            simulate_netlist(
                core.folder / "netlist.json",
                "top",
                core.family,
                source,
                streams[0],
                x,
                tied=build_dir.TIED,
                progress=print_progress,
            )
            .values[streams[0].edge]
            .reshape(expected.shape)
        )
    for name, got in runs.items():
        if not np.array_equal(got, expected):
            raise SystemExit(f"{name} differs from the integer graph")
    print(f"{', '.join(runs)} = integer graph on {samples} samples")
    return free.interval_cycles, free.first_output_cycles, time.monotonic() - began
