"""Back end `finn`: a folded streaming accelerator. FINN+ chooses the folding; our units and top are the RTL; open tools or
Vivado make the bitstream.

Tools: Python (FINN+ in an environment of its own), verilator, yosys with slang, nextpnr, ecppack.
Options: fps (inferences per second wanted; default 512 cycles per inference or the fastest near it), seed (of placement).
Files: graph.*, job.json and finn.json (what FINN+ was asked and chose), rtl/ (what is simulated and synthesised),
streams.json, simulation.json, top.json, report.json, top.bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from greenedge.errors import Reason
from greenedge.graph import Graph, save_graph
from greenedge.target import Target
from greenedge.tools import Command, Plan

STAGE = "rtl"
_DEFAULT_CYCLES = 512
_MODULE = "greenedge.backends.finn"
_FAMILIES = ("ecp5",)


def check(graph: Graph, target: Target, options: Mapping[str, object]) -> list[Reason]:
    """Every reason why this graph cannot be built for this target; needs no tool."""
    from greenedge.backends.finn.network import chain_of, reasons_against

    reasons = reasons_against(graph)
    if target.device.family not in _FAMILIES or target.clock_hz is None or target.clock_pin is None:
        reasons.append(Reason(graph.name, "unsupported-target", f"a device of family {target.device.family!r}",
                              f"bitstreams are made for {', '.join(_FAMILIES)} with a clock pin", "choose ulx3s-85f"))
    if reasons:
        return reasons
    chain = chain_of(graph)
    held = target.device.resources.get("bram_bits")
    if held is not None and chain.weight_bits > held:
        reasons.append(Reason(chain.name, "too-big", f"{chain.weight_bits:,} bits of weights",
                              f"{target.device.title} has {held:,} bits of block RAM", "use fewer bits or neurons, or a larger device"))
    for layer in chain.layers:
        if hasattr(layer, "affine") and layer.affine is None:
            reasons.append(Reason(layer.name, "no-affine-form", "a step function that is no multiply, add and shift",
                                  "the requantiser computes clip((m*x + b) >> s)", "use batch norm and ReLU before the quantiser"))
    return reasons


def plan(graph: Graph, target: Target, options: Mapping[str, object]) -> Plan:
    """FINN+, stitching, a first simulation, synthesis, place and route."""
    from greenedge.backends.finn.job import job_files
    from greenedge.backends.finn.network import chain_of

    files = {**_graph_files(graph), **job_files(chain_of(graph), _target_cycles(target, options), target.clock_hz),
             "synth.ys": _SYNTH.encode(), "top.lpf": _constraints(target).encode()}
    return Plan(files, _commands(target, options), ("rtl/top.sv", "streams.json", "simulation.json", "stat.json", "report.json", "top.bit"))


def _graph_files(graph: Graph) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="greenedge-graph-") as scratch:
        save_graph(graph, Path(scratch))
        return {name: (Path(scratch) / name).read_bytes() for name in ("graph.json", "graph.npz")}


def _target_cycles(target: Target, options: Mapping[str, object]) -> int:
    fps = options.get("fps")
    return max(1, int(target.clock_hz // int(fps))) if fps else _DEFAULT_CYCLES


_SYNTH = """read_slang -j 1 --top top rtl/ge_fifo.sv rtl/ge_adder_tree.sv rtl/ge_product.sv rtl/ge_scale.sv rtl/ge_clip.sv rtl/ge_mvu.sv \
rtl/ge_requantise.sv rtl/ge_width.sv rtl/top.sv
synth_ecp5 -top top -json top.json
tee -q -o stat.json stat -json
"""


def _constraints(target: Target) -> str:
    mhz = target.clock_hz / 1e6
    return (f'LOCATE COMP "clk" SITE "{target.clock_pin}";\nIOBUF PORT "clk" IO_TYPE=LVCMOS33;\n'
            f'FREQUENCY PORT "clk" {mhz:g} MHZ;\n')


def _commands(target: Target, options: Mapping[str, object]) -> tuple[Command, ...]:
    python = lambda module: ("{python}", "-m", f"{_MODULE}.{module}")
    seed = str(int(options.get("seed") or 1))
    place = ("{nextpnr-ecp5}", *target.device.toolchain["nextpnr"], "--json", "top.json", "--lpf", "top.lpf", "--lpf-allow-unconstrained",
             "--textcfg", "top.config", "--report", "report.json", "--seed", seed)
    return (
        Command((*python("launch"), "job.json"), "finn.log", "FINN+ chooses the folding"),
        Command(python("stitch"), "stitch.log", "stitching the RTL"),
        Command(python("measure"), "verilator.log", "simulating a few samples with Verilator"),
        Command(("{yosys}", "-q", "-l", "yosys.log", "synth.ys"), "yosys-out.log", "synthesis with yosys (its first call compiles it: a minute)"),
        Command(place, "nextpnr.log", "place and route with nextpnr (its first call compiles it: a minute)"),
        Command(("{ecppack}", "--compress", "--input", "top.config", "--bit", "top.bit"), "ecppack.log", "packing the bitstream"),
    )


def simulate(folder: Path, x: np.ndarray, keep: Sequence[str] = (),
             progress: Callable[[int, int, str], None] = lambda *_: None) -> dict[str, np.ndarray]:
    """The RTL that lies in `folder`, with its memory files as they are now, on graph integers."""
    from greenedge.backends.finn import built
    from greenedge.backends.finn.simulation import Stall

    result = built.simulate(folder, x, keep, Stall(), lambda line: progress(0, 0, line))
    return dict(result.values)


def provenance(folder: Path) -> str | None:
    """None where the RTL and memory files in `folder` are those the bitstream was made from, else what is wrong."""
    from greenedge.backends.finn import built

    if built.rtl_digest(folder) == built.read(folder, "simulation.json").get("rtl_sha256"):
        return None
    return f"{folder / built.BITSTREAM} was not made from the RTL that lies in {folder / 'rtl'} now; run the build stage again."


def report(folder: Path) -> dict:
    """{"hardware": …} from the logs of yosys and nextpnr and the simulation's record."""
    from greenedge.backends.finn import built

    stat, placed, simulated = (built.read(folder, name) for name in ("stat.json", "report.json", "simulation.json"))
    finn, record, clock = built.read(folder, "streams.json"), built.read(folder, "build.json"), built.read(folder, "job.json")
    clock_hz = 1e9 / clock["clock_ns"]
    cycles, latency = simulated["interval_cycles"], simulated["latency_cycles"]
    ram = built.cells(stat, "top", "DP16KD")
    hardware = {"lut4": built.cells(stat, "top", "LUT4"), "ff": built.cells(stat, "top", "TRELLIS_FF"),
                "dsp": built.cells(stat, "top", "MULT18X18D"), "bram_bits": None if ram is None else ram * 18432,
                "comb": built.utilisation(placed, "TRELLIS_COMB"), "fmax_hz": built.fmax_hz(placed), "clock_hz": clock_hz,
                "cycles_per_inference": cycles, "latency_s": latency / clock_hz, "ips": clock_hz / cycles if cycles else None,
                "estimated_cycles": finn["estimated_cycles"], "bitstream_bytes": (folder / built.BITSTREAM).stat().st_size,
                "rtl_sha256": simulated["rtl_sha256"], "host_interface": None, "tools": dict(record["tools"])}
    evidence = {"lut4": "reported by yosys", "ff": "reported by yosys", "dsp": "reported by yosys", "bram_bits": "reported by yosys",
                "comb": "reported by nextpnr", "fmax_hz": "reported by nextpnr", "cycles_per_inference": "simulated",
                "latency_s": "simulated", "ips": "simulated", "estimated_cycles": "estimated"}
    return {"hardware": hardware, "evidence": evidence, "tools": {**record["tools"], "finn-plus": finn["finn_plus"]}}


def tools(options: Mapping[str, object]) -> dict[str, str]:
    """Versions that the result depends on; a tool that is missing says so."""
    from greenedge.backends.finn.environment import pins
    from greenedge.errors import ToolError
    from greenedge.tools import find_tool

    found = {"finn-plus": next(pin.split("==")[1] for pin in pins() if pin.startswith("finn-plus=="))}
    for name in ("verilator", "yosys", "nextpnr-ecp5"):
        try:
            found[name] = str(find_tool(name))
        except ToolError:
            found[name] = "absent"
    return found
