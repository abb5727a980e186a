"""Back end `finn`: a folded streaming accelerator. Our units, one per layer, folded for the device; open tools make the bitstream.
FINN+ is asked for its own estimate of every layer's cycles.

Tools: Python (FINN+ in an environment of its own), verilator, yosys with slang, nextpnr and the packer of the family.
Options: fps (inferences per second wanted) or latency (seconds from first input to last output; without both: the fastest
that fits), queue (most beats of a queue beside a branch), finn_plus (0: FINN+ is not asked), clock_hz (of the core; default
the board file's host.core_hz), baud and link (uart or spi; how the host reaches the board), seed (of placement), seeds (how
many placements from it on to try; the first that meets the clock is taken), synthesis (vivado: on AMD boards Vivado is a step
that must succeed, and --docker runs it in its image).
Files: graph.*, folding.json (what the search chose, and its estimates), job.json and finn.json (what FINN+ was asked and said),
rtl/ (the core: what is simulated and synthesised), streams.json, simulation.json, shell.json and board/ (what is around the core,
see greenedge/shell), board.json (for hosts), netlist.json (what place and route is given; verification simulates its core),
stat.json and report.json (yosys's and nextpnr's counts), timing.json, and top.bit, top.bin or top.fs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from greenedge.backends.finn import amd
from greenedge.errors import Reason, ReasonKind, TargetError
from greenedge.graph import Graph, graph_digest, save_graph
from greenedge.target import Target
from greenedge.tools.plan import Command, Plan

if TYPE_CHECKING:
    from greenedge.backends.finn.design import Design
    from greenedge.backends.finn.dialect.ops import Network
    from greenedge.backends.finn.search import Wish

STAGE = "rtl"
TOP1 = True  # an index at the model's end is found in hardware
OPTIONS = ("fps", "latency", "queue", "finn_plus", "clock_hz", "baud", "link", "seed", "seeds", "synthesis")
_WORDS = {"synthesis": ("vivado",), "finn_plus": (0, 1)}
_MODULE = "greenedge.backends.finn"
# family -> {what is counted: (cells of yosys's netlist that count, how much each counts)}
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
_FAMILIES = (*_CELLS, *amd.DSP)
_PLACED = {"ecp5": "TRELLIS_COMB", "ice40": "ICESTORM_LC", "gowin": "LUT4"}  # logic cells in nextpnr's words


def check(graph: Graph, target: Target, options: Mapping[str, object]) -> list[Reason]:
    """Every reason why this graph cannot be built for this target; needs no tool. Raises TargetError for an unknown option."""
    from greenedge.backends.finn.dialect.lower import translate

    _known(options)
    network, found = translate(graph)
    reasons = list(found)
    if target.device.family not in _FAMILIES or target.clock_hz is None or target.clock_pin is None:
        reasons.append(
            Reason(
                graph.name,
                ReasonKind.UNSUPPORTED_TARGET,
                f"a device of family {target.device.family!r}",
                f"bitstreams are made for {', '.join(_FAMILIES)} with a clock pin",
                "choose ulx3s-85f",
            )
        )
    return reasons or _chosen(network, target, options)[1]


def plan(graph: Graph, target: Target, options: Mapping[str, object]) -> Plan:
    """Stitching, a first simulation, FINN+'s estimates, the board around the core, synthesis, place and route."""
    from greenedge.backends.finn.design import FILE, plain
    from greenedge.backends.finn.dialect.lower import network_of
    from greenedge.backends.finn.finnplus.request import job_files
    from greenedge.hdl.board_shell.bitstream import PRODUCT, REPORT, STAT, TIMING, bitstream_files

    request = _request(target, options, graph_digest(graph))
    design, reasons = _chosen(network_of(graph), target, options)
    assert not reasons, reasons
    wish = _wish(target, options)
    asked = (
        {} if wish.latency is None else {"asked_latency_cycles": wish.latency}
    )  # looked at again once it is simulated
    files = {**_graph_files(graph), FILE: _json(plain(design) | asked), **job_files(design, request["clock_hz"])}
    products = ("rtl/top.sv", "streams.json", "simulation.json", STAT)
    if target.device.family in amd.DSP:
        from greenedge.backends.finn.amd.flow import PRODUCTS, amd_commands, amd_files

        return Plan(
            {**files, **amd_files(graph, request)},
            (*_core_commands(options), *amd_commands(request, options.get("synthesis") == "vivado")),
            (*products, *PRODUCTS),
        )
    files |= {"shell.json": _json(request), **bitstream_files(target, "top")}
    return Plan(
        files,
        (*_core_commands(options), *_board_commands(target, options, request)),
        (*products, "board.json", REPORT, TIMING, PRODUCT[target.device.family]),
    )


def _known(options: Mapping[str, object]) -> None:
    """Raises TargetError for an option, or a word as its value, that is none of ours."""
    if unknown := [key for key in options if key not in OPTIONS]:
        raise TargetError(f"finn has no option build.{unknown[0]}; it has: {', '.join(OPTIONS)}.")
    for key, words in _WORDS.items():
        if options.get(key, words[0]) not in words:
            raise TargetError(
                f"--set build.{key}={options[key]}: it must be {' or '.join(map(str, words))}, or be left out."
            )


def _json(data: Mapping) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


def _chosen(network: Network, target: Target, options: Mapping[str, object]) -> tuple[Design, list[Reason]]:
    """The design that the options ask for, or why there is none. Raises TargetError for options that are not understood."""
    from greenedge.backends.finn.design import Limits
    from greenedge.backends.finn.search import choose, refusals

    clock_hz, wish = _request(target, options)["clock_hz"], _wish(target, options)
    fps, latency_s = _number(options, "fps"), _number(options, "latency")
    asked = [] if fps is None else [f"{fps:,.0f} inferences per second"]
    asked += [] if latency_s is None else [f"a latency of {1e6 * latency_s:,.4g} µs"]
    choice = choose(network, Limits.of(target.device), wish)
    return choice.design, refusals(choice, wish, target, clock_hz, " and ".join(asked))


def _wish(target: Target, options: Mapping[str, object]) -> Wish:
    """What the options ask for, in cycles."""
    from greenedge.backends.finn.search import Wish

    clock_hz = _request(target, options)["clock_hz"]
    fps, latency_s = _number(options, "fps"), _number(options, "latency")
    return Wish(
        None if fps is None else max(1, int(clock_hz / fps)),
        None if latency_s is None else max(1, int(clock_hz * latency_s)),
        _whole(options, "queue"),
    )


def _graph_files(graph: Graph) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="greenedge-graph-") as scratch:
        save_graph(graph, Path(scratch))
        return {name: (Path(scratch) / name).read_bytes() for name in ("graph.json", "graph.npz")}


def _request(target: Target, options: Mapping[str, object], model: str = "0" * 64) -> dict:
    """The board's shell as the options want it. Raises TargetError with every reason why the board cannot have it."""
    if target.device.family in amd.DSP:
        return amd.request(target, model, _whole(options, "clock_hz"), _number(options, "fps"))
    from greenedge.hdl.board_shell import shell_request

    return shell_request(
        target, model, _whole(options, "clock_hz"), _whole(options, "baud"), str(options.get("link") or "uart")
    )


def _whole(options: Mapping[str, object], name: str, default: int | None = None) -> int | None:
    value = options.get(name, default)
    if type(value) is float and value.is_integer():  # 50e6
        value = int(value)
    if value is not None and (type(value) is not int or value <= 0):
        raise TargetError(f"--set build.{name}={value}: it must be a whole number above 0.")
    return value


def _number(options: Mapping[str, object], name: str) -> float | None:
    value = options.get(name)
    if value is not None and (type(value) not in (int, float) or not 0 < value < float("inf")):
        raise TargetError(f"--set build.{name}={value}: it must be a number above 0.")
    return value


def _core_commands(options: Mapping[str, object]) -> tuple[Command, ...]:
    python = lambda module: ("{python}", "-m", f"{_MODULE}.{module}")
    asked = Command((*python("launch"), "job.json"), "finn.log", "asking FINN+ for its estimate of the cycles", 600)
    return (
        Command(python("stitch"), "stitch.log", "stitching the RTL"),
        Command(python("measure"), "verilator.log", "simulating a few samples with Verilator"),
        *((asked,) if options.get("finn_plus") != 0 else ()),
    )


def _board_commands(target: Target, options: Mapping[str, object], request: Mapping) -> tuple[Command, ...]:
    from greenedge.hdl.board_shell.bitstream import bitstream_commands

    return (
        Command(("{python}", "-m", "greenedge.hdl.board_shell"), "shell.log", "putting the core on the board"),
        *bitstream_commands(target, request, _whole(options, "seed", 1), _whole(options, "seeds", 1)),
    )


def simulate(
    folder: Path, x: np.ndarray, keep: Sequence[str] = (), progress: Callable[[int, int, str], None] = lambda *_: None
) -> dict[str, np.ndarray]:
    """The RTL that lies in `folder`, with its memory files as they are now, on graph integers."""
    from greenedge.backends.finn import build_dir
    from greenedge.hdl.axi_stream.simulation import Stall

    result = build_dir.simulate(folder, x, keep, Stall(), lambda line: progress(0, 0, line))
    return dict(result.values)


def stalled(
    folder: Path, x: np.ndarray, keep: Sequence[str] = (), progress: Callable[[int, int, str], None] = lambda *_: None
) -> dict[str, np.ndarray]:
    """The same as `simulate`, with random pauses at both ends of the stream."""
    from greenedge.backends.finn import build_dir
    from greenedge.hdl.axi_stream.simulation import Stall

    source, streams, _ = build_dir.streams_of(folder)
    stall = Stall.at_pace(source, streams[0], build_dir.read(folder, "simulation.json").get("interval_cycles"))
    return dict(build_dir.simulate(folder, x, keep, stall, lambda line: progress(0, 0, line)).values)


def sampled(folder: Path) -> dict[str, Callable[..., dict[str, np.ndarray]]]:
    """Further stages, each compared on some of the vectors: the netlist that place and route was given."""
    return {"netlist": _simulate_netlist} if (folder / "netlist.json").is_file() else {}


def _simulate_netlist(folder: Path, x: np.ndarray, progress: Callable[[int, int, str], None]) -> dict[str, np.ndarray]:
    from greenedge.backends.finn import build_dir
    from greenedge.backends.finn.netlist import simulate_netlist

    source, streams, _ = build_dir.streams_of(folder)
    core, family = build_dir.read(folder, "streams.json")["top"], build_dir.read(folder, "shell.json")["family"]
    return dict(
        simulate_netlist(
            folder / "netlist.json",
            core,
            family,
            source,
            streams[0],
            x,
            tied=build_dir.TIED,
            progress=lambda line: progress(0, 0, line),
        ).values
    )


def provenance(folder: Path) -> str | None:
    """None where the RTL and memory files in `folder` are those the bitstream was made from, else what is wrong."""
    from greenedge.backends.finn import build_dir

    if build_dir.rtl_digest(folder) == build_dir.read(folder, "simulation.json").get("rtl_sha256"):
        return None
    return f"the bitstream in {folder} was not made from the RTL that lies in {folder / 'rtl'} now; run the build stage again."


def report(folder: Path) -> dict:
    """{"hardware": …} from the logs of yosys and nextpnr and the simulation's record: the board's, and below "core" the core's."""
    from greenedge.backends.finn import build_dir
    from greenedge.hdl.board_shell.bitstream import bitstream_of

    if (folder / amd.REQUEST).is_file():
        from greenedge.backends.finn.amd.results import report as amd_report

        return amd_report(folder)
    stat, placed, simulated, timing = (
        build_dir.read(folder, f"{name}.json") for name in ("stat", "report", "simulation", "timing")
    )
    streams, record, board, shell, design = (
        build_dir.read(folder, f"{name}.json") for name in ("streams", "build", "board", "shell", "folding")
    )
    finn = build_dir.read(folder, "finn.json") if (folder / "finn.json").is_file() else None  # FINN+ need not be asked
    cycles, clock_hz = simulated["interval_cycles"], board["clock_hz"]
    counted, in_core = (
        {name: build_dir.cells(stat, module, *cells) for name, cells in _CELLS[shell["family"]].items()}
        for module in (None, streams["top"])
    )
    hardware = {
        **counted,
        "comb": build_dir.utilisation(placed, _PLACED[shell["family"]]),
        "fmax_hz": timing["fmax_hz"],
        "clock_hz": clock_hz,
        "core": {**in_core, "fmax_hz": timing["core_fmax_hz"]},
        "cycles_per_inference": cycles,
        "latency_s": simulated["latency_cycles"] / clock_hz,
        "ips": clock_hz / cycles if cycles else None,
        **_estimates(design, in_core, shell["family"]),
        "bitstream_bytes": bitstream_of(folder).stat().st_size,
        "rtl_sha256": simulated["rtl_sha256"],
        "host_interface": f"{board['link']}, {board['baud']:,} baud",
        "tools": dict(record["tools"]),
    }
    evidence = {
        **dict.fromkeys(counted, "reported by yosys"),
        **dict.fromkeys(("comb", "fmax_hz"), "reported by nextpnr"),
        **dict.fromkeys(("cycles_per_inference", "latency_s", "ips"), "simulated"),
        **dict.fromkeys((key for key in hardware if key.startswith("estimated_")), "estimated"),
    }
    notes = [*design["notes"], *(build_dir.apart(design, finn) if finn else ())]
    asked = {"finn-plus": finn["finn_plus"]} if finn else {}
    return {"hardware": hardware, "evidence": evidence, "notes": notes, "tools": {**record["tools"], **asked}}


def _estimates(design: Mapping, in_core: Mapping, family: str) -> dict:
    """What was expected of the core before it was built, and how far off the count of LUT4 was."""
    from greenedge.backends.finn.resources import BLOCK_BITS

    guess, counted = design["estimate"], in_core["lut4"]
    lut4 = guess["lut4"] + (
        2 * guess["ccu2c"] if family == "ice40" else 0
    )  # a bit of an adder is a LUT with its carry there
    error = f"{lut4 / counted - 1:+.0%}" if counted else None
    return {
        "estimated_cycles": design["interval_cycles"],
        "estimated_lut4": lut4,
        "estimated_lut4_error": error,
        "estimated_bram_bits": guess["blocks"] * BLOCK_BITS[family],
    }


def tools(options: Mapping[str, object]) -> dict[str, str]:
    """Versions that the result depends on; a tool that is missing says so."""
    from greenedge.backends.finn.finnplus.environment import pins
    from greenedge.errors import ToolError
    from greenedge.tools.discover import find_tool

    found = {"finn-plus": next(pin.split("==")[1] for pin in pins() if pin.startswith("finn-plus=="))}
    for name in ("verilator", "yosys", "nextpnr-ecp5", "nextpnr-ice40", "nextpnr-himbaechel"):
        try:
            found[name] = str(find_tool(name))
        except ToolError:
            found[name] = "absent"
    return found
