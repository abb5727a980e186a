"""Networks through the finn back end: exact, on time, how fast Verilator simulates them, and how large they are.

    python benchmarks/finn_networks.py [MODEL.onnx | RUN …] [--target ulx3s-85f] [--fps N] [--samples 450]
                                       [--no-synthesis]

Without models: a multilayer perceptron, the layers of the recipe digits-cnn with random weights, and small networks
with one dimension, branches and joins. A RUN is the folder of a finished or stopped run: its lowered graph, and its
test vectors. All integers of the output are compared with the integer graph's, without and with random pauses. Cycles
are simulated, LUT4 is estimated before and counted by yosys after.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from greenedge.backends.finn import BACKEND, build_dir  # noqa: E402
from greenedge.backends.finn.design import FILE, Limits, to_plain  # noqa: E402
from greenedge.backends.finn.dialect.lower import lower_graph  # noqa: E402
from greenedge.backends.finn.objective import Objective  # noqa: E402
from greenedge.backends.finn.search import choose, find_refusals  # noqa: E402
from greenedge.backends.finn.stitch import about, rtl_files, stitch  # noqa: E402
from greenedge.graph import Graph, run_graph  # noqa: E402
from greenedge.hdl.axi_stream.simulation import Stall  # noqa: E402
from greenedge.hdl.board_shell import shell_request  # noqa: E402
from greenedge.legalise.passes import legalise_graph  # noqa: E402
from greenedge.target import Target, load_target  # noqa: E402
from greenedge.tools.plan import Command, Plan  # noqa: E402
from greenedge.tools.run import execute  # noqa: E402

HEAD = (
    f"{'network':22} {'cycles':>7} {'simulated':>9} {'latency':>8} {'samples':>7} {'wrong':>5} "
    f"{'stalled':>7} {'compile s':>9} {'samples/s':>9} {'LUT4 est.':>9} {'yosys':>7} {'error':>6}"
)


def models(words: list[str], rng: np.random.Generator, samples: int) -> Iterator[tuple[str, Graph, np.ndarray]]:
    """(name, graph, input integers)."""
    from greenedge.lower import load_lowering, lower_file
    from greenedge.lower.float_io import run_prologue

    for word in words:
        path = Path(word)
        if path.is_dir():
            lowered = load_lowering(path / "3-lower")
            yield (
                path.name,
                lowered.graph,
                next(iter(run_prologue(lowered, np.load(path / "2-export" / "inputs.npy")).values())),
            )
        else:
            graph = lower_file(path, None).graph
            yield path.stem, graph, _random(rng, graph, samples)
    if not words:
        from tests.backends import finn_sketches as sketches
        from tests.backends.nets import mlp

        graphs = {"mlp 64-128-10 w4a4": mlp(rng, (64, 128, 10)), "digits-cnn, random": sketches.digits_like(rng)}
        graphs |= {sketch.__name__: sketch(rng) for sketch in (sketches.sequence, sketches.residual, sketches.joined)}
        yield from ((name, graph, _random(rng, graph, samples)) for name, graph in graphs.items())


def _random(rng: np.random.Generator, graph: Graph, samples: int) -> np.ndarray:
    edge = graph.edges[graph.inputs[0]]
    return rng.integers(edge.lo, edge.hi + 1, (samples, *edge.shape))


def row(
    name: str, graph: Graph, x: np.ndarray, target: Target, fps: float | None, synthesis: bool, folder: Path
) -> str:
    """One line of the table. Raises GreenedgeError where a tool fails."""
    graph = legalise_graph(graph, BACKEND.passes)
    network, reasons = lower_graph(graph)
    clock_hz = shell_request(target, "0" * 64)["clock_hz"]
    if not reasons:
        wish = Objective(None if fps is None else int(clock_hz / fps))
        choice = choose(network, Limits.of(target.device), wish)
        reasons = find_refusals(choice, wish, target, clock_hz, f"{fps} inferences per second")
    if reasons:
        return f"{name:22} " + "; ".join(map(str, reasons))
    design = choice.design
    stitched = stitch(design.network, design.folding)
    files = {f"rtl/{file}": content for file, content in rtl_files(graph.name, stitched).items()}
    files |= {
        "streams.json": json.dumps(about(design.network, stitched)).encode(),
        FILE: json.dumps(to_plain(design)).encode(),
    }
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    began = time.monotonic()
    build_dir.simulate(folder, x[:1], (), Stall(), lambda line: None)
    compiled = time.monotonic() - began
    began = time.monotonic()
    free = build_dir.simulate(folder, x, (), Stall(), lambda line: None)
    simulated = time.monotonic() - began
    source, streams, _ = build_dir.streams_of(folder)
    pauses = Stall.at_pace(source, streams[0], free.interval_cycles, seed=2)
    paused = build_dir.simulate(folder, x, (), pauses, lambda line: None)
    expected = run_graph(graph, x)[graph.outputs[0]]
    wrong, stalled = (
        int((run.values[graph.outputs[0]] != expected).reshape(len(x), -1).any(axis=1).sum()) for run in (free, paused)
    )
    lut4 = _count_lut4(stitched, files, folder / "yosys") if synthesis else None
    counted = f"{lut4:7,} {design.cost.lut4 / lut4 - 1:+6.0%}" if lut4 else f"{'':7} {'':6}"
    return (
        f"{name:22} {design.schedule.interval:7.0f} {free.interval_cycles or 0:9.1f} {free.first_output_cycles:8,} "
        f"{len(x):7,} {wrong:5} {stalled:7} {compiled:9.1f} {len(x) / simulated:9,.0f} "
        f"{design.cost.lut4:9,.0f} {counted}"
    )


def _count_lut4(stitched, files: dict[str, bytes], folder: Path) -> int:
    """LUT4 of the core for ECP5."""
    sources = " ".join(f"rtl/{name}" for name in (*stitched.sources, "top.sv"))
    script = (
        f"read_slang --threads 1 --ignore-assertions --allow-use-before-declare --top top {sources}\n"
        "synth_ecp5 -abc9 -top top\ntee -q -o stat.json stat -json\n"
    )
    command = Command(("{yosys}", "-q", "-l", "yosys.log", "-s", "synth.ys"), "out.log", "yosys", 3600)
    execute(Plan({**files, "synth.ys": script.encode()}, (command,), ("stat.json",)), folder)
    return build_dir.cells(json.loads((folder / "stat.json").read_text()), None, "LUT4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL.onnx|RUN")
    parser.add_argument("--target", default="ulx3s-85f")
    parser.add_argument("--fps", type=float)
    parser.add_argument("--samples", type=int, default=450)
    parser.add_argument("--no-synthesis", action="store_true")
    arguments = parser.parse_args()
    print(HEAD, flush=True)
    for name, graph, x in models(arguments.models, np.random.default_rng(1), arguments.samples):
        with tempfile.TemporaryDirectory(prefix="greenedge-networks-") as scratch:
            print(
                row(
                    name,
                    graph,
                    x,
                    load_target(arguments.target),
                    arguments.fps,
                    not arguments.no_synthesis,
                    Path(scratch),
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
