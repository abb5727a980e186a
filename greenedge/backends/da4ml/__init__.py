"""Back end `da4ml`: the whole network unrolled into one pipelined circuit of adders, a sample a clock cycle, through
the open tools to a bitstream.

Several inputs come one after another in the one stream, as `join_inputs` puts them side by side.
Tools: da4ml (a process of its own; LGPL, installed, never part of this project), verilator, yosys with slang, nextpnr
and the packer of the family.
Options: cutoff (adders in a row between two registers, default 3), fps and latency
(wishes: what cannot be is refused), clock_hz, baud and link (as finn's), seed (of placement), seeds (how many to try).
Files: graph.*, job.json, rtl/ (da4ml's Verilog and the streams around it: what is simulated and synthesised),
streams.json, trace.json (adders, stages, seconds), simulation.json, shell.json, board/ and board.json, stat.json,
report.json, timing.json, and top.bit, top.bin or top.fs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from greenedge.backends.da4ml.estimate import RULES, check_rate, check_size, rank_unrolling
from greenedge.backends.da4ml.wires import WireBuilder
from greenedge.backends.interface import Backend, Feeds, Fitness, FloatEpilogue, Options, Values
from greenedge.errors import Reason, ReasonKind, TargetError
from greenedge.files.scratch import scratch_folder
from greenedge.graph import Graph, graph_digest, load_graph, save_graph
from greenedge.graph.joined_inputs import join_inputs
from greenedge.graph.joined_outputs import join_output_edges, split_outputs
from greenedge.graph.ops.base import Ints
from greenedge.progress import ProgressFn, no_progress
from greenedge.target import Target
from greenedge.tools.plan import Command, Plan

_MODULE = "greenedge.backends.da4ml"
_DEFAULT_CUTOFF = 3.0
OPTIONS = ("cutoff", "fps", "latency", "clock_hz", "baud", "link", "seed", "seeds")
# family -> {resource: (pattern of cell types in yosys's netlist, units of the resource per cell)}
_CELLS = {
    "ecp5": {"lut4": ("LUT4", 1), "ff": ("TRELLIS_FF", 1), "dsp": ("MULT18X18D", 1), "bram_bits": ("DP16KD", 18432)},
    "ice40": {
        "lut4": ("SB_LUT4", 1),
        "ff": ("SB_DFF.*", 1),
        "dsp": ("SB_MAC16", 1),
        "bram_bits": ("SB_RAM40_4K.*", 4096),
    },
    "gowin": {
        "lut4": ("LUT[1-4]", 1),
        "ff": ("DFF.*", 1),
        "dsp": ("MULT18X18", 1),
        "bram_bits": ("(p?ROM|SDP|DP|SP)X?9?B?", 18432),
    },
}
_NO_EPILOGUE = FloatEpilogue()
_PLACED = {"ecp5": "TRELLIS_COMB", "ice40": "ICESTORM_LC", "gowin": "LUT4"}  # nextpnr's name of a logic cell


def check(graph: Graph, target: Target, options: Options) -> list[Reason]:
    """Every reason why this graph cannot be unrolled for this target; needs no tool and traces nothing.

    Raises TargetError for an unknown option or value, and for a board that cannot have the shell asked for.
    """
    unknown = [key for key in options if key not in OPTIONS]
    if unknown:
        raise TargetError(f"da4ml has no option build.{unknown[0]}; it has: {', '.join(OPTIONS)}.")
    _cutoff(options)
    b = RULES.run(WireBuilder(graph))
    reasons = b.reasons + _check_target(graph, target)
    if reasons:
        return reasons
    return check_rate(graph, options, _request(target, options)["clock_hz"]) + check_size(graph, target, b.adder_bits)


def _check_target(graph: Graph, target: Target) -> list[Reason]:
    if target.device.family in _CELLS and target.clock_hz is not None and target.clock_pin is not None:
        return []
    return [
        Reason(
            graph.name,
            ReasonKind.UNSUPPORTED_TARGET,
            f"a device of family {target.device.family!r}",
            f"bitstreams are made for {', '.join(_CELLS)} with a clock pin",
            "choose ulx3s-85f",
        )
    ]


def fitness(graph: Graph, target: Target, options: Options) -> Fitness:
    """Rank 2 for a network that is small enough to be unrolled, where no goal was set that folding is searched for."""
    return rank_unrolling(graph, target, options)


def plan(graph: Graph, target: Target, options: Options, epilogue: FloatEpilogue = _NO_EPILOGUE) -> Plan:
    """Tracing, a first simulation, the board around the core, synthesis, place and route."""
    from greenedge.hdl.board_shell.bitstream import PRODUCT, REPORT, STAT, TIMING, bitstream_commands, bitstream_files

    request = _request(target, options, graph_digest(graph))
    files = {
        **_graph_files(graph),
        "job.json": _json(
            {"cutoff": _cutoff(options), "latency_s": options.get("latency"), "clock_hz": request["clock_hz"]}
        ),
        "shell.json": _json(request),
        **bitstream_files(target, "top"),
    }
    seed, seeds = _whole_number(options, "seed"), _whole_number(options, "seeds")
    commands = (
        Command(
            ("{python}", "-m", f"{_MODULE}.generate"),
            "da4ml.log",
            "da4ml unrolls the network (its first call compiles it: minutes)",
            timeout_s=3 * 3600,
            generates=True,
        ),
        Command(
            ("{python}", "-m", f"{_MODULE}.initial_simulation"),
            "verilator.log",
            "simulating a few samples with Verilator",
        ),
        *bitstream_commands(target, request, seed, seeds),
    )
    return Plan(
        files,
        commands,
        (
            "rtl/top.sv",
            "streams.json",
            "trace.json",
            "simulation.json",
            "board.json",
            STAT,
            REPORT,
            TIMING,
            PRODUCT[target.device.family],
        ),
    )


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _graph_files(graph: Graph) -> dict[str, bytes]:
    with scratch_folder("graph") as scratch:
        save_graph(graph, Path(scratch))
        return {name: (Path(scratch) / name).read_bytes() for name in ("graph.json", "graph.npz")}


def _cutoff(options: Options) -> float:
    value = options.get("cutoff", _DEFAULT_CUTOFF)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= 64:
        raise TargetError(f"--set build.cutoff={value}: it must be a number of adders from 1 to 64.")
    return float(value)


def _whole_number(options: Options, name: str) -> int:
    """The option as an integer; 1 where it is not set."""
    value = options.get(name) or 1
    if not isinstance(value, (int, float, str)):
        raise TargetError(f"--set build.{name}={value}: it must be a whole number above 0.")
    return int(value)


def _request(target: Target, options: Options, model: str = "0" * 64) -> dict[str, Any]:
    """The board's shell as the options want it. Raises TargetError with every reason why the board cannot have it."""
    from greenedge.hdl.board_shell import shell_request

    numbers = {}
    for name in ("clock_hz", "baud"):
        value = options.get(name)
        if value is not None and (type(value) is not int or value <= 0):
            raise TargetError(f"--set build.{name}={value}: it must be a whole number above 0.")
        numbers[name] = value
    return shell_request(target, model, numbers["clock_hz"], numbers["baud"], str(options.get("link") or "uart"))


def simulate(folder: Path, x: Feeds, keep: Sequence[str] = (), progress: ProgressFn = no_progress) -> Values:
    """Simulates the RTL in `folder` as it is now on graph integers (N, *shape).

    Of the kept edges those are returned at which a piece ends: requantisers', and those that several operations read
    (partition.py).
    """
    from greenedge.backends.da4ml.initial_simulation import run
    from greenedge.hdl.axi_stream.simulation import Stall

    return _split(folder, run(folder, _samples(folder, x), Stall(), lambda line: progress(0, 0, line), keep).values)


def simulate_with_backpressure(
    folder: Path, x: Feeds, keep: Sequence[str] = (), progress: ProgressFn = no_progress
) -> Values:
    """The same as `simulate`, with random pauses at both ends of the stream."""
    from greenedge.backends.da4ml.build_dir import read_json, streams_of
    from greenedge.backends.da4ml.initial_simulation import run
    from greenedge.hdl.axi_stream.simulation import Stall

    stall = Stall.at_pace(*streams_of(folder), read_json(folder, "simulation.json").get("interval_cycles"))
    return _split(folder, run(folder, _samples(folder, x), stall, lambda line: progress(0, 0, line), keep).values)


def _samples(folder: Path, x: Feeds) -> Ints:
    """The samples (N, *shape) of the one stream, which carries all inputs."""
    return join_inputs(load_graph(folder), x)


def _split(folder: Path, values: Mapping[str, Ints]) -> Values:
    """The values by edge, where the one stream of the output carries several of them."""
    graph = load_graph(folder)
    stream = join_output_edges(graph).name
    return {**{edge: one for edge, one in values.items() if edge != stream}, **split_outputs(graph, values[stream])}


def stale_artifact(folder: Path) -> str | None:
    """Why the bitstream in `folder` was not made from the RTL there; None where it was."""
    from greenedge.backends.da4ml.build_dir import read_json, rtl_digest

    if rtl_digest(folder) == read_json(folder, "simulation.json").get("rtl_sha256"):
        return None
    return (
        f"the bitstream in {folder} was not made from the RTL that lies in {folder / 'rtl'} now; run the build "
        "stage again."
    )


def report(folder: Path) -> dict[str, Any]:
    """{"hardware": …} from the reports of da4ml, yosys and nextpnr and the record of the simulation; "core" has the
    numbers of the core without the board's shell.
    """
    from greenedge.backends.da4ml.build_dir import count_cells, count_nextpnr_cells, read_json
    from greenedge.hdl.board_shell.bitstream import bitstream_of

    stat, routed, simulated, timing = (
        read_json(folder, f"{name}.json") for name in ("stat", "report", "simulation", "timing")
    )
    trace, record, board, shell = (read_json(folder, f"{name}.json") for name in ("trace", "build", "board", "shell"))
    cycles, clock_hz, fmax = simulated["interval_cycles"], board["clock_hz"], timing["core_fmax_hz"]
    counted, in_core = (
        {name: count_cells(stat, module, *kinds) for name, kinds in _CELLS[shell["family"]].items()}
        for module in (None, "top")
    )
    latency = simulated["latency_cycles"]
    hardware = {
        **counted,
        "comb": count_nextpnr_cells(routed, _PLACED[shell["family"]]),
        "fmax_hz": timing["fmax_hz"],
        "clock_hz": clock_hz,
        "core": {**in_core, "fmax_hz": fmax},
        "adders": trace["adders"],
        "pipeline_stages": trace["stages"],
        "cycles_per_inference": cycles,
        "latency_cycles": latency,
        "latency_s": latency / clock_hz,
        "latency_at_core_fmax_s": latency / fmax if fmax else None,
        "ips": clock_hz / cycles if cycles else None,
        "trace_s": trace["seconds"],
        "layers": trace["layers"],
        "bitstream_bytes": bitstream_of(folder).stat().st_size,
        "rtl_sha256": simulated["rtl_sha256"],
        "host_interface": f"{board['link']}, {board['baud']:,} baud",
        "tools": dict(record["tools"]),
    }
    evidence = {
        **dict.fromkeys(counted, "reported by yosys"),
        **dict.fromkeys(("comb", "fmax_hz"), "reported by nextpnr"),
        **dict.fromkeys(("adders", "pipeline_stages"), "reported by da4ml"),
        **dict.fromkeys(("cycles_per_inference", "latency_cycles", "latency_s", "ips"), "simulated"),
        "latency_at_core_fmax_s": "simulated cycles at nextpnr's clock",
        "trace_s": "measured when it was first traced" if trace["kept"] else "measured",
    }
    return {"hardware": hardware, "evidence": evidence, "tools": {**record["tools"], "da4ml": trace["da4ml"]}}


def tools(options: Options) -> dict[str, str]:
    """Versions that the result depends on, "absent" for an open tool that is missing. Raises ToolError where da4ml is
    not installed.
    """
    from greenedge.errors import ToolError
    from greenedge.tools.discover import find_tool

    try:
        found = {"da4ml": metadata.version("da4ml")}
    except metadata.PackageNotFoundError:
        raise ToolError('da4ml is not installed: pip install "greenedge[hls]".') from None
    for name in ("verilator", "yosys", "nextpnr-ecp5", "nextpnr-ice40", "nextpnr-himbaechel"):
        try:
            found[name] = str(find_tool(name))
        except ToolError:
            found[name] = "absent"
    return found


def needs(target: Target, options: Options) -> tuple[str, ...]:
    """da4ml, simulation, synthesis, place and route."""
    from greenedge.hdl.board_shell.bitstream import bitstream_needs

    return "da4ml", *bitstream_needs(target)


BACKEND = Backend(
    name="da4ml",
    stage="rtl",
    options=OPTIONS,
    rules=RULES,
    check=check,
    plan=plan,
    simulate=simulate,
    compiles=True,
    report=report,
    tools=tools,
    needs=needs,
    stale_artifact=stale_artifact,
    simulate_with_backpressure=simulate_with_backpressure,
    fitness=fitness,
)
