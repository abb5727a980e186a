"""Back end `hls4ml`: an HLS project in which every layer computes the graph's integers, its C simulation compiled with
g++, and the vendor's synthesis where its tool is at hand.

Tools: hls4ml and g++; to synthesise the vendor's (vitis-run or vitis_hls, vivado_hls, i++, catapult, icpx) on PATH, or
Vitis in the image of docker/hls4ml-vitis (--docker --set build.synthesis=hls).
Options: toolchain (vitis, vivado,
vivado-accelerator, quartus, oneapi, catapult; default by the device's family), io (io_parallel for small models,
io_stream for larger), fps (inferences per second wanted), clock_hz, strategy and reuse (for all layers, or
strategy.EDGE and reuse.EDGE for one), synthesis (auto: hls where the tool is on PATH; hls; logic: and that of the RTL,
by Vivado or Quartus; bitstream: the accelerator of toolchain vivado-accelerator; no).
Files: graph.*, job.json (what was asked of hls4ml), project.json, project/ (the HLS project, and what the vendor's
tools leave in it), csim.json.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends.hls4ml.folding import check_foldings, clock_hz, cycle_budget, fold
from greenedge.backends.hls4ml.hand_over import RULES, find_reasons, hand_over
from greenedge.backends.hls4ml.toolchains import (
    ACCELERATOR_BOARDS,
    PROJECT,
    TOOLCHAINS,
    Toolchain,
    Vendor,
    check_toolchain,
    choose_toolchain,
)
from greenedge.backends.interface import Backend, Feeds, FloatEpilogue, Options, Outline, Values
from greenedge.errors import GreenedgeError, Reason, TargetError, ToolError
from greenedge.files.json_file import read_table
from greenedge.files.scratch import scratch_folder
from greenedge.graph import Graph, save_graph
from greenedge.legalise import (
    ARGMAX_TO_HOST,
    CLAMP_AT_REACH,
    FOLD_LAYOUTS,
    FUSE_STEPS,
    GATHER_TO_CONV,
    MOVES_TO_HOST,
    NARROW_SUMS,
    SUM_POOL_TO_DEPTHWISE,
)
from greenedge.progress import ProgressFn, no_progress
from greenedge.target import Target
from greenedge.tools.plan import Command, Plan

OPTIONS = ("toolchain", "io", "fps", "clock_hz", "strategy", "reuse", "synthesis", "seed")
_MODULE = "greenedge.backends.hls4ml"
_SYNTHESIS = ("auto", "hls", "logic", "bitstream", "no")
_NO_EPILOGUE = FloatEpilogue()
_SMALL_MAP = 256  # values of a feature map up to which layers exchange whole maps (io_parallel)
_SYNTHESIS_S = 6 * 3600


def check(graph: Graph, target: Target, options: Options) -> list[Reason]:
    """Every reason why this graph has no exact project for this target; needs no tool."""
    _check_options(options)
    chain = choose_toolchain(target, options.get("toolchain"))
    if reasons := find_reasons(graph, is_streamed=options.get("io") == "io_stream"):
        return reasons
    layers = [layer for layer in hand_over(graph, chain.has_depthwise).layers if layer.weights[0]]
    return [
        *check_toolchain(graph, target, chain, options.get("synthesis", "auto")),
        *check_foldings(layers, target, chain, options),
    ]


def _check_options(options: Options) -> None:
    """Raises TargetError for an unknown option, and for an unknown value of `synthesis` and `io`."""
    for key in options:
        if key.partition(".")[0] not in OPTIONS:
            raise TargetError(f"hls4ml has no option build.{key}; it has: {', '.join(OPTIONS)}.")
    if options.get("synthesis", "auto") not in _SYNTHESIS:
        raise TargetError(f"build.synthesis is {options['synthesis']!r}; it is one of {', '.join(_SYNTHESIS)}.")
    if options.get("io", "io_stream") not in ("io_parallel", "io_stream"):
        raise TargetError(f"build.io is {options['io']!r}; it is io_parallel or io_stream.")


def plan(graph: Graph, target: Target, options: Options, epilogue: FloatEpilogue = _NO_EPILOGUE) -> Plan:
    """The project, its C simulation on a few samples, and the vendor's synthesis where it is to run."""
    chain = choose_toolchain(target, options.get("toolchain"))
    job = _job(graph, target, chain, options)
    project = ("{python}", "-m", f"{_MODULE}.project")
    commands = [Command(project, "hls4ml.log", "hls4ml writes the project", generates=True)]
    products = [f"{PROJECT}/{chain.top}", "project.json", "job.json"]
    if chain.uncompiled is None:
        commands.append(Command(("{python}", "-m", f"{_MODULE}.csim"), "csim.log", "compiling the C simulation"))
        products.append("csim.json")
    kind, synthesis = _synthesis(chain, options)
    commands += synthesis
    products += [f"{PROJECT}/{chain.reports[kind]}"] if synthesis else []
    return Plan(
        {**_graph_files(graph), "job.json": (json.dumps(job, indent=1) + "\n").encode()},
        tuple(commands),
        tuple(products),
    )


def _job(graph: Graph, target: Target, chain: Toolchain, options: Options) -> dict[str, Any]:
    """The settings of the project and the folding of every layer, under hls4ml's names."""
    layers, budget = hand_over(graph, chain.has_depthwise).layers, cycle_budget(target, options)
    foldings = {layer.name: fold(layer, budget, options) for layer in layers if layer.weights[0]}
    settings = {"io_type": options.get("io") or _io(graph), "clock_period": round(1e9 / clock_hz(target, options), 3)}
    on_board = chain.name == "vivado-accelerator"
    settings |= {"board": ACCELERATOR_BOARDS[target.name]} if on_board else {"part": target.device.part}
    return {
        "toolchain": chain.name,
        "settings": settings,
        "folding": {
            name: {"ReuseFactor": f.reuse, "Strategy": f.strategy, "Cycles": f.cycles} for name, f in foldings.items()
        },
        "logic": int(options.get("synthesis") == "logic"),
        "estimated_cycles": max((f.cycles for f in foldings.values()), default=None),
    }


def outline(plan: Plan, target: Target) -> Outline:
    """The folding of every layer with weights."""
    job = json.loads(plan.files["job.json"])
    rows = tuple((name, one["Strategy"], one["ReuseFactor"], one["Cycles"]) for name, one in job["folding"].items())
    cycles = job["estimated_cycles"]
    estimated = {} if cycles is None else {"cycles a sample": f"{cycles:,}"}
    figures = {} if cycles is None else {"estimated_cycles": cycles}
    return Outline(("layer", "strategy", "reuse", "cycles"), rows, estimated, figures)


def _io(graph: Graph) -> str:
    return (
        "io_stream"
        if any(len(e.shape) > 1 and int(np.prod(e.shape)) > _SMALL_MAP for e in graph.edges.values())
        else "io_parallel"
    )


def _synthesis(chain: Toolchain, options: Options) -> tuple[str, list[Command]]:
    """(kind of synthesis, its commands); "auto" is HLS where a vendor's program is on PATH, and nothing else."""
    wanted, vendor = str(options.get("synthesis", "auto")), find_vendor(chain)
    if wanted == "no" or (wanted == "auto" and vendor is None):
        return wanted, []
    kind, vendor = "hls" if wanted == "auto" else wanted, vendor or chain.vendor[0]
    label = f"{'bitstream' if kind == 'bitstream' else 'synthesis'} with {vendor.program}"
    runs = {"hls": vendor.hls, "logic": vendor.logic, "bitstream": vendor.bitstream}[kind]
    return kind, [Command(argv, "synthesis.log", label, timeout_s=_SYNTHESIS_S, cwd=PROJECT) for argv in runs]


def find_vendor(chain: Toolchain) -> Vendor | None:
    """The first of the toolchain's vendors whose program is on PATH."""
    return next((vendor for vendor in chain.vendor if shutil.which(vendor.program)), None)


def _graph_files(graph: Graph) -> dict[str, bytes]:
    with scratch_folder("graph") as scratch:
        save_graph(graph, Path(scratch))
        return {name: (Path(scratch) / name).read_bytes() for name in ("graph.json", "graph.npz")}


def why_not_runnable(folder: Path) -> str | None:
    """Why the build in `folder` cannot be run on this machine; None where it can."""
    from greenedge.backends.hls4ml.csim import read_toolchain

    chain = read_toolchain(folder)
    return chain.uncompiled and (
        f"the project for {chain.name} cannot be simulated here: {chain.uncompiled}; build with another "
        "toolchain to verify the same layers."
    )


def simulate(folder: Path, x: Feeds, keep: Sequence[str] = (), progress: ProgressFn = no_progress) -> Values:
    """Compiles the project's C++ in `folder` as it is now and runs it on graph integers (N, *shape).

    Returns the output and those of the kept edges that a layer holds. Raises GreenedgeError where the project cannot be
    run here, ToolError where g++ or the program fails.
    """
    from greenedge.backends.hls4ml.csim import simulate as run

    if why := why_not_runnable(folder):
        raise GreenedgeError(why)
    samples = np.asarray(next(iter(x.values())) if isinstance(x, Mapping) else x)
    return run(folder, samples, keep, lambda line: progress(0, 0, line))


def stale_artifact(folder: Path) -> str | None:
    """Why the project in `folder` is not the one that was built; None where it is."""
    from greenedge.backends.hls4ml.sources import digest

    if digest(folder) == _read(folder / "csim.json").get("sources_sha256"):
        return None
    return f"{folder / 'project'} is not the project that was built; run the build stage again."


def report(folder: Path) -> dict[str, Any]:
    """{"hardware": …}: the estimate of the folding, seconds, and the vendor's own numbers where it ran."""
    from greenedge.backends.hls4ml.reports import read_reports

    job, written = _read(folder / "job.json"), _read(folder / "project.json")
    compiled = _read(folder / "csim.json") if (folder / "csim.json").is_file() else {}
    found, evidence = read_reports(folder / PROJECT, job["toolchain"])
    hardware = {
        "toolchain": job["toolchain"],
        "io": job["settings"]["io_type"],
        "clock_hz": 1e9 / job["settings"]["clock_period"],
        "estimated_cycles": job["estimated_cycles"],
        "write_s": written["seconds"],
        "csim_compile_s": compiled.get("seconds"),
        "layers": written["layers"],
    } | found
    hardware = {key: value for key, value in hardware.items() if value is not None}
    compiled_when = "measured when it was first compiled" if compiled.get("kept") else "measured"
    evidence = {
        "estimated_cycles": "estimated",
        "write_s": "measured",
        "clock_hz": "asked for",
        "csim_compile_s": compiled_when,
    } | evidence
    made = "written" if not compiled else "written and simulated in C"
    notes = (
        []
        if found
        else [
            f"No vendor tool ran: the project for {job['toolchain']}, 4-build/{PROJECT}, is {made}; "
            "resources and the clock that it reaches are unknown."
        ]
    )
    if found.get("fmax_hz", hardware["clock_hz"]) < hardware["clock_hz"]:
        notes.append(
            f"The clock of {hardware['clock_hz'] / 1e6:g} MHz is not met: {found['fmax_hz'] / 1e6:.4g} MHz, "
            f"{evidence['fmax_hz']}."
        )
    return {
        "hardware": hardware,
        "evidence": {key: word for key, word in evidence.items() if key in hardware},
        "notes": notes,
        "tools": {**tools({"toolchain": job["toolchain"]}), "hls4ml": written["hls4ml"]},
    }


def tools(options: Options) -> dict[str, str]:
    """hls4ml's version and the vendor's program on PATH. Raises ToolError where hls4ml is not installed."""
    try:
        versions = {name: metadata.version(name) for name in ("hls4ml", "da4ml")}
    except metadata.PackageNotFoundError as error:
        raise ToolError(f'{error.name} is not installed: pip install "greenedge[hls]".') from None
    chain = TOOLCHAINS.get(str(options.get("toolchain", "vitis")))
    vendor = find_vendor(chain) if chain else None
    return versions | ({vendor.program: "on PATH"} if vendor else {})


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_table(path)
    except (OSError, ValueError) as error:
        raise GreenedgeError(f"{path} is missing or damaged ({error}); run the build stage again.") from None


def requirements() -> tuple[tuple[str, str, str], ...]:
    """The vendors' programs that synthesise a project."""
    return (
        ("vitis-run", "synthesis of hls4ml projects for AMD boards", "AMD's own installer, or docker/hls4ml-vitis"),
        ("i++", "synthesis of hls4ml projects for Intel boards", "Intel's own installer"),
    )


def needs(target: Target, options: Options) -> tuple[str, ...]:
    """hls4ml, and the compiler of its C simulation."""
    return ("hls4ml", "da4ml", "g++")


BACKEND = Backend(
    name="hls4ml",
    stage="c-simulation",
    options=OPTIONS,
    rules=RULES,
    passes=(
        ARGMAX_TO_HOST,
        MOVES_TO_HOST,
        FUSE_STEPS,
        FOLD_LAYOUTS,
        NARROW_SUMS,
        CLAMP_AT_REACH,
        SUM_POOL_TO_DEPTHWISE,
        GATHER_TO_CONV,
    ),
    check=check,
    plan=plan,
    simulate=simulate,
    compiles=True,
    report=report,
    tools=tools,
    needs=needs,
    stale_artifact=stale_artifact,
    why_not_runnable=why_not_runnable,
    requirements=requirements,
    outline=outline,
)
