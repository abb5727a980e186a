"""The C simulation: the project's own C++ compiled with g++ once per content, run on integers.

python -m greenedge.backends.hls4ml.csim      in the build folder, after project: a few random samples; writes
csim.json
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.backends.hls4ml.hand_over import hand_over
from greenedge.backends.hls4ml.layers import Handover
from greenedge.backends.hls4ml.sources import digest, sources
from greenedge.backends.hls4ml.toolchains import PROJECT, TOOLCHAINS, TOP, Toolchain
from greenedge.errors import GreenedgeError, ToolError
from greenedge.files.atomic_write import atomic_write
from greenedge.files.json_file import read_json
from greenedge.files.scratch import scratch_folder
from greenedge.graph import load_graph, run_graph
from greenedge.graph.ops.base import Ints, Shape
from greenedge.tools.capture import capture
from greenedge.tools.plan import Command, Plan
from greenedge.tools.run import execute_once

_HARNESS = Path(__file__).with_name("harness.cpp")
_COMPILE_S, _RUN_S = 1800, 3600
SAMPLES, SEED = 32, 1
_LISTED = re.compile(
    rb"^(?:static )?(?:const )?(?P<type>\w+) (?P<name>\w+)\[(?P<size>\d+)\] = \{(?P<list>[^{}]*)\};", re.MULTILINE
)


def simulate(folder: Path, x: Ints, keep: Sequence[str], progress: Callable[[str], None]) -> dict[str, Ints]:
    """The output and the kept edges (int64, as in the graph) for graph integers x (N, *shape).

    Raises ToolError where g++ or the program fails.
    """
    graph = load_graph(folder)
    handover = hand_over(graph, read_toolchain(folder).has_depthwise)
    progress("compiling the C simulation with g++ (kept for the next time)")
    program = compile_project(folder, handover, progress).program
    source, output = handover.layouts[graph.inputs[0]], graph.outputs[0]
    stored = x.reshape(len(x), -1)[:, source.order].astype(np.float64)
    layers = {layer: edge for layer, edge in handover.traces.items() if edge in keep}
    progress(f"simulating {len(x)} samples")
    with scratch_folder("csim") as scratch:
        work = Path(scratch)
        (work / "in.bin").write_bytes(np.ascontiguousarray(stored).tobytes())
        _run(program, [str(work / "in.bin"), str(work / "out.bin"), str(work) if layers else "-"])
        files = {output: work / "out.bin"} | {
            edge: work / f"{layer}.bin" for layer, edge in layers.items() if edge != output
        }
        files = {edge: path for edge, path in files.items() if path.is_file()}
        return {edge: _read(path, edge, graph.edges[edge].shape, handover, len(x)) for edge, path in files.items()}


def _read(path: Path, edge: str, shape: Shape, handover: Handover, samples: int) -> Ints:
    values = np.fromfile(path, np.float64)
    order = handover.layouts[edge].order
    if values.size != samples * len(order) or not np.array_equal(values, np.rint(values)):
        raise GreenedgeError(
            f"the C simulation gave no {samples} samples of {len(order)} integers for {edge!r}; run "
            f"the build stage again."
        )
    result = np.empty((samples, len(order)), np.int64)
    result[:, order] = values.reshape(samples, -1).astype(np.int64)
    return result.reshape(samples, *shape)


def read_toolchain(folder: Path) -> Toolchain:
    """The toolchain of the build in `folder`. Raises GreenedgeError where its job.json is damaged."""
    try:
        return TOOLCHAINS[read_json(folder / "job.json")["toolchain"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        path = folder / "job.json"
        raise GreenedgeError(f"{path} is missing or damaged ({error}); run the build stage again.") from None


@dataclass(frozen=True)
class CompiledProject:
    """The simulation program, the seconds that g++ took, and whether an earlier build was reused (`kept`)."""

    program: Path
    seconds: float
    kept: bool


def compile_project(folder: Path, handover: Handover, progress: Callable[[str], None]) -> CompiledProject:
    """The program for the project's sources as they are now; compiled once per content, in the user's cache."""
    chain, files = read_toolchain(folder), sources(folder)
    files = {
        name: tabulate_weights(content) if "/weights/" in name and name.endswith(".h") else content
        for name, content in files.items()
        if not name.endswith("_test.cpp")
    }
    plan = Plan(
        {**files, "harness.cpp": _HARNESS.read_bytes(), "traced.h": _trace_header(handover).encode()},
        (_compiler(chain),),
        ("csim",),
    )
    cache, record, kept = execute_once(plan, "csim", plan.digest()[:24], progress)
    return CompiledProject(cache / "csim", float(sum(record["seconds"].values())), kept)


def tabulate_weights(header: bytes) -> bytes:
    """A header of weights whose list is plain doubles, from which the array is filled when the program starts.

    The same text gives the same values (precision.py: doubles hold them), but a list of fixed-point objects is a
    constructor call each to g++: 55,000 weights took it more than three minutes, and take three seconds so.
    """
    return _LISTED.sub(
        rb"static const double \g<name>_listed[\g<size>] = {\g<list>};\n"
        rb"\g<type> \g<name>[\g<size>];\n"
        rb"static const bool \g<name>_filled = [] { for (int k = 0; k < \g<size>; k++) "
        rb"\g<name>[k] = \g<name>_listed[k]; return true; }();",
        header,
    )


def _trace_header(handover: Handover) -> str:
    """C arrays for the harness: sizes of input and output, sizes and names of the traced layers."""
    traces = handover.traces
    sizes = " ".join(f"{len(handover.layouts[edge].order)}," for edge in traces.values())
    names = " ".join(f'"{layer}",' for layer in traces)
    inputs, outputs = (len(handover.layouts[str(handover.layers[k].edge)].order) for k in (0, -1))
    return (
        f"static const size_t inputs = {inputs}, outputs = {outputs};\n"
        f"static const size_t traced_sizes[] = {{{sizes} 0}};\nstatic const char *const traced_names[] = "
        f'{{{names} ""}};\n'
    )


def _compiler(chain: Toolchain) -> Command:
    defines = [f'-DTOP_SOURCE="{PROJECT}/firmware/{TOP}.cpp"', f'-DBRIDGE_SOURCE="{PROJECT}/{TOP}_bridge.cpp"']
    defines += [f'-DAXI_SOURCE="{PROJECT}/{name}"' for name in chain.sources] + [f"-D{name}" for name in chain.defines]
    includes = [f"-I{PROJECT}", f"-I{PROJECT}/firmware", *(f"-I{PROJECT}/{name}" for name in chain.includes)]
    weights = f'-DWEIGHTS_DIR="{PROJECT}/firmware/weights"'
    return Command(
        (
            "g++",
            "-O1" if chain.name == "catapult" else "-O0",
            "-std=c++17",
            "-w",
            "-I.",
            *includes,
            *defines,
            weights,
            "harness.cpp",
            "-o",
            "csim",
        ),
        "g++.log",
        "compiling the C simulation with g++",
        timeout_s=_COMPILE_S,
    )


def _run(program: Path, arguments: list[str]) -> None:
    try:
        done = capture([str(program), *arguments], _RUN_S, cwd=program.parent)
    except subprocess.TimeoutExpired:
        raise ToolError(f"the C simulation did not end within {_RUN_S} s; give it fewer samples.") from None
    except OSError as error:
        raise ToolError(
            f"the C simulation {program} cannot be run ({error.strerror}); remove {program.parent} and "
            f"run the same command "
            "again."
        ) from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise ToolError(f"the C simulation stopped: {said[0]}.")


def main() -> int:
    """Compiles the project in the working directory and compares it with the graph on random samples; exit status 1
    where they differ.
    """
    here = Path(".")
    try:
        graph = load_graph(here)
        edge = graph.edges[graph.inputs[0]]
        x = np.random.default_rng(SEED).integers(edge.lo, edge.hi + 1, (SAMPLES, *edge.shape))
        compiled = compile_project(here, hand_over(graph, read_toolchain(here).has_depthwise), print)
        got = simulate(here, x, (), print)
        if not np.array_equal(got[graph.outputs[0]], run_graph(graph, x)[graph.outputs[0]]):
            raise GreenedgeError("the C simulation differs from the integer graph on random samples")
        record = {
            "samples": SAMPLES,
            "seconds": compiled.seconds,
            "kept": compiled.kept,
            "sources_sha256": digest(here),
        }
        with atomic_write(here / "csim.json") as path:
            path.write_text(json.dumps(record, indent=1) + "\n")
    except GreenedgeError as error:
        print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
