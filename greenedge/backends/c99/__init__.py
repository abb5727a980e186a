"""Back end `c99`: the network as a freestanding C99 package for microcontrollers, with its own self-test.

Tools: a C compiler for this machine, which proves the package here; cross compilers where found, for the size of the
code.
Options: none. Files: model.h, model.c, ge_fast.*, ge_kernels.*, golden.h, selftest.*, port/ (host, bare Cortex-M and
RISC-V), CMakeLists.txt, graph.* (what it was made from), selftest.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from greenedge.backends.c99.cores import CORES
from greenedge.backends.c99.emit import RULES, constant_bytes, find_reasons, package_files
from greenedge.backends.c99.memory_plan import plan_memory
from greenedge.backends.interface import Backend, Feeds, FloatEpilogue, Options, Values
from greenedge.errors import GreenedgeError, Reason, ReasonKind
from greenedge.files.json_file import read_table
from greenedge.files.scratch import scratch_folder
from greenedge.graph import Graph, load_graph, save_graph
from greenedge.legalise import ARGMAX_TO_HOST, CLAMP_AT_REACH, FOLD_LAYOUTS, FUSE_STEPS, NARROW_SUMS, SPLIT_WEIGHTS
from greenedge.progress import ProgressFn, no_progress
from greenedge.target import Target
from greenedge.tools.plan import Command, Plan

_NO_EPILOGUE = FloatEpilogue()
_CLOCK_HZ, _CYCLES = 100_000_000, (1.0, 2.0)  # published results of MLPerf Tiny on a Cortex-M4: about 1.6


def check(graph: Graph, target: Target, options: Options) -> list[Reason]:
    """Every reason why the graph is no exact C package for this target; needs no tool."""
    return find_reasons(graph) or _check_memory(graph, target)


def _check_memory(graph: Graph, target: Target) -> list[Reason]:
    """The reasons against a graph that the kernels compute, but that the device has no memory for."""
    program, reasons = plan_memory(graph), []
    for kind, needed, what in (
        ("ram_bytes", program.arena_bytes, "working memory"),
        ("flash_bytes", constant_bytes(program), "weights and parameters"),
    ):
        available = target.device.resources.get(kind)
        if available is not None and needed > available:
            reasons.append(
                Reason(
                    graph.name,
                    ReasonKind.TOO_BIG,
                    f"{needed:,} bytes of {what}",
                    f"{target.device.title} has {available:,}",
                    "use fewer channels, or a larger device",
                )
            )
    return reasons


def plan(graph: Graph, target: Target, options: Options, epilogue: FloatEpilogue = _NO_EPILOGUE) -> Plan:
    """The package; what is left to run is its self-test."""
    files = package_files(plan_memory(graph))
    with scratch_folder("graph") as scratch:
        save_graph(graph, Path(scratch))
        files |= {name: (Path(scratch) / name).read_bytes() for name in ("graph.json", "graph.npz")}
    command = Command(
        ("{python}", "-m", "greenedge.backends.c99.selftest"),
        "selftest.log",
        "compiling and testing the C package",
        900,
    )
    return Plan(files, (command,), ("model.c", "model.h", "selftest.json"))


def simulate(folder: Path, x: Feeds, keep: Sequence[str] = (), progress: ProgressFn = no_progress) -> Values:
    """The C files that lie in `folder`, compiled for this machine, on graph integers (N, *shape).

    Returns the outputs and those of the kept edges that are stored (accumulators that a requantiser reads are not).
    Raises GreenedgeError for values outside an input's range.
    """
    from greenedge.backends.c99.run import run_package
    from greenedge.graph.execute import accept_input

    graph = load_graph(folder)
    feeds = dict(x) if isinstance(x, Mapping) else {graph.inputs[0]: x}
    values = [accept_input(graph.edges[edge], feeds.get(edge)) for edge in graph.inputs]
    with scratch_folder("c99") as scratch:
        edges = run_package(folder.absolute(), plan_memory(graph), values, bool(keep), Path(scratch), progress)
    return {edge: v for edge, v in edges.items() if edge in graph.outputs or edge in keep}


def report(folder: Path) -> dict[str, Any]:
    """{"edge": …}: bytes of constants and of working memory; where a cross compiler was found its linker's flash, and
    where an emulator was found instructions and stack on each core and per layer."""
    program, tested = plan_memory(load_graph(folder)), _read(folder / "selftest.json")
    edge: dict[str, Any] = {
        "bytes": constant_bytes(program),
        "ram_bytes": program.arena_bytes,
        "runtime": "freestanding C99",
        "kernels": "ge_fast.c, ge_kernels.c",
        "selftest": tested["said"],
    }
    evidence = {"bytes": "counted", "ram_bytes": "counted"}
    layers: list[dict[str, Any]] = [
        {"layer": call.op.name, "kind": call.fast.kernel if call.fast else "general"} for call in program.calls
    ]
    for core, found in tested["cores"].items():
        edge[f"flash_bytes_{core}"] = found["flash_bytes"]
        evidence[f"flash_bytes_{core}"] = f"the linker's, {tested['level']}"
        if "instructions" not in found:
            continue
        edge |= {f"instructions_{core}": sum(found["instructions"]), f"stack_bytes_{core}": found["stack_bytes"]}
        evidence |= {f"instructions_{core}": "simulated", f"stack_bytes_{core}": "simulated"}
        for layer, count in zip(layers, found["instructions"], strict=True):
            layer[f"instructions_{core}"] = count
    edge["layers"] = layers
    return {"edge": edge, "evidence": evidence, "tools": tools({}), "notes": _notes(edge)}


def _notes(edge: Mapping[str, Any]) -> list[str]:
    """Sentences for the report: where the package is, its self-test, and what instructions mean in time."""
    said = [f"The package is the folder 4-build (README.md there). Its self-test on this machine: {edge['selftest']}."]
    for name, core in CORES.items():
        if count := edge.get(f"instructions_{name}"):
            low, high = (count * cycles / _CLOCK_HZ * 1e3 for cycles in _CYCLES)
            said.append(
                f"{core.title}: {count:,} instructions an inference, counted by an emulator that knows no cycles; at "
                f"{_CYCLES[0]:g} to {_CYCLES[1]:g} cycles each that would be {low:.3g} to {high:.3g} ms at "
                f"{_CLOCK_HZ / 1e6:.0f} MHz (estimated)."
            )
    return said


def tools(options: Options) -> dict[str, str]:
    """The compiler that proves the package."""
    from greenedge.backends.c99.run import find_compiler, read_version

    return {"cc": read_version(find_compiler())}


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_table(path)
    except (OSError, ValueError) as error:
        raise GreenedgeError(f"{path} is missing or damaged ({error}); run the build stage again.") from None


def needs(target: Target, options: Options) -> tuple[str, ...]:
    """A compiler for this machine, which proves the package."""
    return ("cc",)


BACKEND = Backend(
    name="c99",
    stage="c99",
    options=(),
    rules=RULES,
    passes=(ARGMAX_TO_HOST, FUSE_STEPS, FOLD_LAYOUTS, NARROW_SUMS, CLAMP_AT_REACH, SPLIT_WEIGHTS),
    check=check,
    plan=plan,
    simulate=simulate,
    compiles=True,
    report=report,
    tools=tools,
    needs=needs,
)
