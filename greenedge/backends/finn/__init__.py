"""Back end `finn`: a folded streaming accelerator. Our units, one per layer, folded for the device; open tools make the
bitstream. FINN+ is asked for its own estimate of every layer's cycles.

Several inputs come one after another in the core's one stream, as `join_inputs` puts them side by side; several outputs
leave likewise. `rtl/top_streams.sv` is the core with a stream of its own for each, for other designs to put in.
Tools: Python (FINN+ in an environment of its own), verilator, yosys with slang, nextpnr and the packer of the family.
Options: fps (inferences per second wanted) or latency (seconds from first input to last output; without both: the
fastest that fits), queue (most beats of a queue beside a branch), finn_plus (0: FINN+ is not asked), clock_hz (of the
core; default the board file's host.core_hz), baud and link (uart or spi; how the host reaches the board), seed (of
placement), seeds (how many placements from it on to try; the first that meets the clock is taken), synthesis (vivado:
on AMD boards Vivado is a step that must succeed, and --docker runs it in its image).
Files: graph.*, folding.json (what the search chose, and its estimates), job.json and finn.json (what FINN+ was asked
and said), rtl/ (the core: what is simulated and synthesised), streams.json, simulation.json, shell.json and board/
(what is around the core, see greenedge/hdl/board_shell), board.json (for hosts), netlist.json (what place and route is
given; verification simulates its core), stat.json and report.json (yosys's and nextpnr's counts), timing.json, and
top.bit, top.bin or top.fs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenedge.backends.finn import amd
from greenedge.backends.finn.dialect.lower import RULES
from greenedge.backends.finn.options import (
    GOALS,
    OPTIONS,
    board_request,
    check_options,
    describe_objective,
    read_objective,
    read_whole,
)
from greenedge.backends.interface import (
    Backend,
    Environment,
    FaultModel,
    Feeds,
    Fitness,
    FloatEpilogue,
    Options,
    Outline,
    PartialFn,
    Values,
)
from greenedge.errors import Reason, ReasonKind
from greenedge.files.scratch import scratch_folder
from greenedge.graph import Graph, graph_digest, load_graph, save_graph
from greenedge.graph.joined_inputs import join_inputs
from greenedge.graph.joined_outputs import split_outputs
from greenedge.graph.ops.base import Array
from greenedge.hdl.board_shell.read_back import ReadBack
from greenedge.legalise import (
    CLAMP_AT_REACH,
    FOLD_LAYOUTS,
    FUSE_STEPS,
    MOVES_TO_HOST,
    NARROW_SUMS,
    SPLIT_ADDITIONS,
    SPLIT_WEIGHTS,
    TRANSPOSED_TO_CONV,
    WIDEN_SEQUENCES,
)
from greenedge.progress import ProgressFn, no_progress
from greenedge.target import Target
from greenedge.tools.plan import Command, Plan

if TYPE_CHECKING:
    from greenedge.backends.finn.dialect.ops import Network
    from greenedge.backends.finn.search import Choice
    from greenedge.hdl.axi_stream.simulation import Stall
    from greenedge.hdl.switching import Switching
    from greenedge.lower import Lowered

_MODULE = "greenedge.backends.finn"
_FAMILIES = ("ecp5", "ice40", "gowin", *amd.DSP)
_CELL_CYCLES, _MOST_VECTORS = 2e8, 96  # what a netlist simulates in two seconds, and vectors at most
_NO_EPILOGUE = FloatEpilogue()


def check(graph: Graph, target: Target, options: Options) -> list[Reason]:
    """Every reason why this graph cannot be built for this target; needs no tool.

    Raises TargetError for an unknown option.
    """
    from greenedge.backends.finn.dialect.lower import lower_graph

    check_options(options)
    network, found = lower_graph(graph)
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
    if reasons:
        return reasons
    assert network is not None, "a graph without a network has a reason"
    return _choose_design(network, target, options)[1]


def plan(graph: Graph, target: Target, options: Options, epilogue: FloatEpilogue = _NO_EPILOGUE) -> Plan:
    """Stitching, a first simulation, FINN+'s estimates, the board around the core, synthesis, place and route.

    The core gives integers; float outputs are the host's, so `epilogue` is not looked at.
    """
    from greenedge.backends.finn.design import FILE, to_plain
    from greenedge.backends.finn.dialect.lower import require_network
    from greenedge.backends.finn.finnplus.request import job_files
    from greenedge.hdl.board_shell.bitstream import PRODUCT, REPORT, STAT, TIMING, bitstream_files

    request = board_request(target, options, graph_digest(graph))
    choice, reasons = _choose_design(require_network(graph), target, options)
    assert not reasons, reasons
    design, objective = choice.require_design(), read_objective(target, options)
    # a latency that was asked for is looked at again once the core is simulated
    asked = {} if objective.latency is None else {"asked_latency_cycles": objective.latency}
    files = {**_graph_files(graph), FILE: _to_json(to_plain(design) | asked), **job_files(design, request["clock_hz"])}
    products = ("rtl/top.sv", "streams.json", "simulation.json", STAT)
    if target.device.family in amd.DSP:
        from greenedge.backends.finn.amd.flow import PRODUCTS, amd_commands, amd_files

        return Plan(
            {**files, **amd_files(graph, request)},
            (*_core_commands(options), *amd_commands(request, options.get("synthesis") == "vivado")),
            (*products, *PRODUCTS),
        )
    files |= {"shell.json": _to_json(request), **bitstream_files(target, "top")}
    return Plan(
        files,
        (*_core_commands(options), *_board_commands(target, options, request)),
        (*products, "board.json", REPORT, TIMING, PRODUCT[target.device.family]),
    )


def _to_json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


def _choose_design(network: Network, target: Target, options: Options) -> tuple[Choice, list[Reason]]:
    """The design that the options ask for, or why there is none.

    Raises TargetError for options that are not understood.
    """
    from greenedge.backends.finn.design import Limits
    from greenedge.backends.finn.search import choose, find_refusals

    clock_hz, objective = board_request(target, options)["clock_hz"], read_objective(target, options)
    choice = choose(network, Limits.of(target.device), objective)
    return choice, find_refusals(choice, objective, target, clock_hz, describe_objective(options))


def _graph_files(graph: Graph) -> dict[str, bytes]:
    with scratch_folder("graph") as scratch:
        save_graph(graph, Path(scratch))
        return {name: (Path(scratch) / name).read_bytes() for name in ("graph.json", "graph.npz")}


def _run_module(name: str) -> tuple[str, str, str]:
    return "{python}", "-m", f"{_MODULE}.{name}"


def _core_commands(options: Options) -> tuple[Command, ...]:
    ask_finn = Command(
        (*_run_module("finnplus.launch"), "job.json"), "finn.log", "asking FINN+ for its estimate of the cycles", 600
    )
    return (
        Command(_run_module("stitch"), "stitch.log", "stitching the RTL", generates=True),
        Command(_run_module("initial_simulation"), "verilator.log", "simulating a few samples with Verilator"),
        *((ask_finn,) if options.get("finn_plus") != 0 else ()),
    )


def _board_commands(target: Target, options: Options, request: dict[str, Any]) -> tuple[Command, ...]:
    from greenedge.hdl.board_shell.bitstream import bitstream_commands

    seed, seeds = read_whole(options, "seed") or 1, read_whole(options, "seeds") or 1
    return bitstream_commands(target, request, seed, seeds)


def _samples(folder: Path, x: Feeds) -> Array:
    """The samples (N, *shape) of the one stream, which carries all inputs."""
    return join_inputs(load_graph(folder), x) if isinstance(x, Mapping) else x


def _split(folder: Path, values: Mapping[str, Array], stream: str) -> Values:
    """The values by edge, where the one stream of the output carries several of them."""
    graph = load_graph(folder)
    if stream in graph.outputs:
        return dict(values)
    return {**{edge: one for edge, one in values.items() if edge != stream}, **split_outputs(graph, values[stream])}


def _lines(progress: ProgressFn) -> Callable[[str], None]:
    """A progress callback that takes lines alone."""
    return lambda line: progress(0, 0, line)


def simulate(folder: Path, x: Feeds, keep: Sequence[str] = (), progress: ProgressFn = no_progress) -> Values:
    """The RTL that lies in `folder`, with its memory files as they are now, on graph integers."""
    from greenedge.hdl.axi_stream.simulation import Stall

    return _simulate(folder, x, keep, Stall(), progress)


def _simulate(folder: Path, x: Feeds, keep: Sequence[str], stall: Stall, progress: ProgressFn) -> Values:
    from greenedge.backends.finn import build_dir

    _, streams, _ = build_dir.streams_of(folder)
    inner = [edge for edge in keep if edge not in load_graph(folder).outputs]  # the outputs come from the pins
    values = build_dir.simulate(folder, _samples(folder, x), inner, stall, _lines(progress)).values
    return _split(folder, values, streams[0].edge)


def simulate_with_backpressure(
    folder: Path, x: Feeds, keep: Sequence[str] = (), progress: ProgressFn = no_progress
) -> Values:
    """The same as `simulate`, with random pauses at both ends of the stream; a core of several inputs or outputs
    inside `top_streams`, where each has a stream of its own."""
    from greenedge.backends.finn import build_dir
    from greenedge.hdl.axi_stream.simulation import Stall

    source, streams, _ = build_dir.streams_of(folder)
    stall = Stall.at_pace(source, streams[0], build_dir.read(folder, "simulation.json").get("interval_cycles"))
    named = None if keep else build_dir.named_streams_of(folder)  # inside, the layers are the core's
    if named is not None:
        return build_dir.simulate_named(folder, named, _samples(folder, x), stall, _lines(progress))
    return _simulate(folder, x, keep, stall, progress)


def partial_stages(folder: Path) -> Mapping[str, PartialFn]:
    """Further stages, each compared on some of the vectors: the netlist that place and route was given."""
    return {"netlist": _simulate_netlist} if (folder / "netlist.json").is_file() else {}


def _simulate_netlist(folder: Path, x: Feeds, progress: ProgressFn) -> Values:
    from greenedge.backends.finn import build_dir
    from greenedge.hdl.netlist import simulate_netlist

    source, streams, _ = build_dir.streams_of(folder)
    core, family = build_dir.read(folder, "streams.json")["top"], build_dir.read(folder, "shell.json")["family"]
    simulated = simulate_netlist(
        folder / "netlist.json",
        core,
        family,
        source,
        streams[0],
        _samples(folder, x),
        tied=build_dir.TIED,
        progress=_lines(progress),
    )
    return _split(folder, simulated.values, streams[0].edge)


def partial_vectors(folder: Path) -> int:
    """How many vectors the netlist can simulate in a second or two beside the samples: cells times cycles bound it."""
    from greenedge.backends.finn import build_dir

    cells = build_dir.cells(build_dir.read(folder, "stat.json"), "top", ".*") or 0
    cycles = build_dir.read(folder, "simulation.json").get("interval_cycles") or 0
    return min(_MOST_VECTORS, int(_CELL_CYCLES / (cells * cycles))) if cells and cycles else 0


def find_memory_faults(graph: Graph, folder: Path) -> FaultModel | None:
    """Every single-bit fault of the memories that the core reads (see memory_faults.py); None for one without."""
    from greenedge.backends.finn.memory_faults import MemoryFaults

    return MemoryFaults.of_build(graph, folder)


def read_build_back(graph: Graph, folder: Path, progress: ProgressFn = no_progress) -> tuple[ReadBack, ...]:
    """Memory files, netlist and bitstream against what they were made from; see read_back.py."""
    from greenedge.backends.finn.read_back import read_back

    return read_back(graph, folder, progress)


def switching(
    folder: Path, x: Feeds, level: str | None = None, progress: Callable[[str], None] = lambda line: None
) -> Switching:
    """How often the nets of the netlist, or the signals of the RTL, change; see activity.py."""
    from greenedge.backends.finn.activity import count_switching

    return count_switching(folder, _samples(folder, x), level, progress)


def stale_artifact(folder: Path) -> str | None:
    """None where the RTL and memory files in `folder` are those the bitstream was made from, else what is wrong."""
    from greenedge.backends.finn import build_dir

    if build_dir.rtl_digest(folder) == build_dir.read(folder, "simulation.json").get("rtl_sha256"):
        return None
    rtl = folder / "rtl"
    return f"the bitstream in {folder} was not made from the RTL that lies in {rtl} now; run the build stage again."


def report(folder: Path) -> dict[str, Any]:
    """{"hardware": …} from the logs of the tools and the simulation's record."""
    if (folder / amd.REQUEST).is_file():
        from greenedge.backends.finn.amd.results import report as report_amd

        return report_amd(folder)
    from greenedge.backends.finn.board_report import report_board

    return report_board(folder)


def tools(options: Options) -> dict[str, str]:
    """Versions that the result depends on; a tool that is missing says so."""
    from greenedge.backends.finn.finnplus.environment import finn_version
    from greenedge.errors import ToolError
    from greenedge.tools.discover import find_tool

    found = {"finn-plus": finn_version()}
    for name in ("verilator", "yosys", "nextpnr-ecp5", "nextpnr-ice40", "nextpnr-himbaechel"):
        try:
            found[name] = str(find_tool(name))
        except ToolError:
            found[name] = "absent"
    return found


def preflight_notes(source: Path, lowered: Lowered, target: Target, options: Options) -> tuple[str, ...]:
    """An index that the host finds although the hardware could, with the way to have it there."""
    return tuple(
        f"{node.name or node.output[0]} runs on the host: in hardware it takes the first largest of integers of one "
        "scale and bias along the channels (cure: one per-tensor quantiser before it)."
        for node in lowered.epilogue.graph.node
        if node.op_type in ("ArgMax", "TopK")
    )


def fitness(graph: Graph, target: Target, options: Options) -> Fitness:
    """Rank 1 for every graph: folding suits where nothing faster does. The reason is a speed that was asked for."""
    asked = [key for key in GOALS if options.get(key)]
    return Fitness(1, f"build.{asked[0]} was asked for, which it takes as its goal" if asked else "")


def outline(plan: Plan, target: Target) -> Outline:
    """The folding of every unit; cycles, and the cells of the core beside the device's."""
    from greenedge.backends.finn.board_report import list_estimates
    from greenedge.backends.finn.design import Limits

    design = json.loads(plan.files["folding.json"])
    columns = ("layer", "unit", "PE", "SIMD", "cycles")
    rows = tuple(tuple(layer[key] for key in ("name", "kind", "pe", "simd", "cycles")) for layer in design["layers"])
    limits, guess = Limits.of(target.device), design["estimate"]

    def of(value: float, whole: float | None) -> str:
        return f"{value:,.0f}" + (f" of {whole:,.0f} that the core may take" if whole else "")

    return Outline(
        columns,
        rows,
        {
            "cycles a sample": f"{design['interval_cycles']:,.0f}",
            "cycles of latency": f"{design['latency_cycles']:,.0f}",
            "logic cells (4-input tables)": of(guess["logic"], limits.logic),
            "memory blocks": of(guess["blocks"], limits.blocks),
        },
        list_estimates(design, target.device.family),
    )


def requirements() -> tuple[tuple[str, str, str] | Environment, ...]:
    """FINN+'s environment, and Vivado, without which everything but AMD's own bitstream is made."""
    from greenedge.backends.finn.finnplus.environment import environment_folder, finn_version

    folder = environment_folder()
    return (
        ("vivado", "bitstreams for AMD boards", "AMD's own installer; no open board needs it"),
        Environment(
            "FINN+",
            "the finn back end",
            "made at the first build for an FPGA",
            folder.is_dir(),
            finn_version(),
            str(folder),
        ),
    )


def needs(target: Target, options: Options) -> tuple[str, ...]:
    """Simulation, synthesis, place and route; Vivado is asked for by an option and checked with it."""
    from greenedge.hdl.board_shell.bitstream import bitstream_needs

    return bitstream_needs(target)


BACKEND = Backend(
    name="finn",
    stage="rtl",
    options=OPTIONS,
    rules=RULES,
    passes=(
        MOVES_TO_HOST,
        FUSE_STEPS,
        TRANSPOSED_TO_CONV,
        FOLD_LAYOUTS,
        SPLIT_WEIGHTS,
        SPLIT_ADDITIONS,
        NARROW_SUMS,
        CLAMP_AT_REACH,
        WIDEN_SEQUENCES,
    ),  # the units take an ArgMax at the end and sum pools as they are
    check=check,
    plan=plan,
    simulate=simulate,
    compiles=True,
    report=report,
    tools=tools,
    needs=needs,
    stale_artifact=stale_artifact,
    simulate_with_backpressure=simulate_with_backpressure,
    partial_stages=partial_stages,
    partial_vectors=partial_vectors,
    memory_faults=find_memory_faults,
    read_back=read_build_back,
    fitness=fitness,
    switching=switching,
    preflight_notes=preflight_notes,
    requirements=requirements,
    outline=outline,
)
