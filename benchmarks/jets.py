"""The jet tagger unrolled: trained, traced, simulated against the graph, synthesised; beside what others published.

    python benchmarks/jets.py [--hidden 64,32,32] [--prune 0.75] [--samples 10000] [--route]

Trains flows/jets-mlp on the data it makes, lowers it, lets da4ml unroll it, compares its Verilog with the integer graph
on random and on test samples (==), and counts LUTs with yosys for ECP5 and with synth_xilinx -family xcup. --route also
places and routes the core on an ECP5-85F board (many minutes for the full network, an hour with YoWASP).

The published figures come from the real jets, from other quantisations and pruning, and from Vivado's synthesis and
placement; LUT counts of yosys for a network trained on look-alikes can stand beside them, but not be ranked with them.

By default three quarters of the weights are pruned by magnitude: unpruned (--prune 0), the network does not fit the
ECP5-85F; da4ml counts 49,500 adder bits, about 94,000 of its 83,640 logic cells.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from greenedge.backends import da4ml
from greenedge.backends.da4ml.estimate import adder_bits
from greenedge.frontends.brevitas import export_stage
from greenedge.graph import Graph, run_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_prologue
from greenedge.lower.snap import snap_file
from greenedge.target import load_target
from greenedge.tools.discover import find_tool
from greenedge.tools.run import execute
from greenedge.train import load_recipe, train_stage

_REPO = Path(__file__).resolve().parent.parent
_PUBLISHED = (
    ("hls4ml, Fahim et al. (QAT, pruned)", "76 %", 63_251, "45 ns"),
    ("TreeLUT I", "76.0 %", 2_234, "2.7 ns"),
    ("NeuraLUT-Assemble", "76.0 %", 1_780, "2.1 ns"),
)
_LUTS = {"ecp5": r"LUT4", "xcup": r"LUT[1-6]"}


def train_network(folder: Path, hidden: str, share: float, snap: int) -> tuple[Graph, np.ndarray, float]:
    """(integer graph, integers of the test samples, accuracy of the graph on them)."""
    settings = {"model.hidden": f"[{hidden}]"}
    if share:
        settings |= {"prune.kind": "magnitude", "prune.share": str(share)}
    recipe = load_recipe(_REPO / "flows" / "jets-mlp", settings)
    train_stage(recipe, folder / "1-train")
    export_stage(recipe, folder / "1-train", folder / "2-export")
    model = folder / "2-export" / "model.onnx"
    snap_file(model, folder / "snapped.onnx", snap)
    lowered = lower_file(folder / "snapped.onnx")
    x, labels = (np.load(folder / "2-export" / f"{name}.npy") for name in ("inputs", "labels"))
    test = next(iter(run_prologue(lowered, x).values()))
    scores = run_graph(lowered.graph, test)[lowered.graph.outputs[0]]
    return lowered.graph, test, float((scores.argmax(1) == labels).mean())


def count_cells(folder: Path, family: str) -> dict[str, int]:
    """Cells of the kernel alone after yosys's synthesis for a family, by type."""
    names = [
        name
        for name in json.loads((folder / "streams.json").read_text())["sources"]
        if not name.startswith(("ge_", "top"))
    ]
    synth = {"ecp5": "synth_ecp5 -abc9 -top net", "xcup": "synth_xilinx -family xcup -top net"}[family]
    sources = " ".join(f"rtl/{name}" for name in names)
    script = f"read_verilog -sv {sources}\n{synth}\ntee -q -o {family}.json stat -json\n"
    (folder / f"{family}.ys").write_text(script)
    tool = find_tool("yosys")
    done = subprocess.run(
        [*tool.argv, "-q", "-s", f"{family}.ys"], cwd=folder, capture_output=True, text=True, timeout=3600, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    stat = json.loads((folder / f"{family}.json").read_text())
    return stat["design"]["num_cells_by_type"]


def count_luts(cells: dict[str, int], family: str) -> int:
    return sum(count for kind, count in cells.items() if re.fullmatch(_LUTS[family], kind))


def describe_cells(folder: Path, family: str) -> str:
    """The kernel's cells in words; a synthesis that does not end has none."""
    try:
        cells = count_cells(folder, family)
    except subprocess.TimeoutExpired as error:
        return f"synthesis did not end in {error.timeout / 60:.0f} minutes"
    carry = sum(cells.get(kind, 0) for kind in ("CCU2C", "CARRY4", "CARRY8"))
    registers = sum(count for kind, count in cells.items() if re.fullmatch(r"TRELLIS_FF|FD[RSCP]E", kind))
    return f"{count_luts(cells, family):,} LUTs, {carry:,} carry cells, {registers:,} flip-flops"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", default="64,32,32")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--prune", type=float, default=0.75, help="share of the weights that training takes out")
    parser.add_argument(
        "--snap", type=int, default=8, help="bits of the requantisers' multipliers: fewer are fewer adders"
    )
    parser.add_argument("--route", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jets-") as scratch:
        folder = Path(scratch)
        graph, test, accuracy = train_network(folder, arguments.hidden, arguments.prune, arguments.snap)
        print(
            f"16-{arguments.hidden.replace(',', '-')}-5, 6 bits, {arguments.prune:.0%} of the weights pruned: "
            f"the integer graph's accuracy {accuracy:.4f} on made data, estimated "
            f"{sum(adder_bits(graph).values()):,.0f} adder bits"
        )
        target = load_target("ulx3s-85f")
        for reason in da4ml.check(graph, target, {}):
            print(f"refused for {target.name}: {reason}")
        plan = da4ml.plan(graph, target, {})
        if not arguments.route:
            plan = dataclasses.replace(plan, commands=plan.commands[:2], products=plan.products[:4])
        build = folder / "build"
        execute(plan, build, lambda line: print(f"  … {line}"[:110], flush=True))
        trace, simulated = (json.loads((build / name).read_text()) for name in ("trace.json", "simulation.json"))
        rest = np.random.default_rng(0).integers(-32, 32, (max(0, arguments.samples - len(test)), *test.shape[1:]))
        x = np.concatenate([test[: arguments.samples], rest])
        started = time.monotonic()
        same = np.array_equal(da4ml.simulate(build, x)[graph.outputs[0]], run_graph(graph, x)[graph.outputs[0]])
        print(
            f"Verilog {'equals' if same else 'DIFFERS FROM'} the graph on {len(x):,} samples "
            f"({time.monotonic() - started:.0f} s)"
        )
        print(
            f"interval {simulated['interval_cycles']:g} cycles (simulated), {trace['latency']} cycles through the "
            f"kernel, "
            f"{simulated['latency_cycles']} through the core with its FIFO; {trace['adders']:,} adders, cost "
            f"{trace['cost']:,.0f} (da4ml)"
        )
        for family in _LUTS:
            print(f"yosys, kernel alone, {family}: {describe_cells(build, family)}", flush=True)
        if arguments.route:
            told = da4ml.report(build)["hardware"]
            print(
                f"routed on {target.title}: {told['comb']:,} logic cells with the board's shell, core "
                f"{told['core']['fmax_hz'] / 1e6:.1f} MHz, "
                f"latency {1e9 * told['latency_at_core_fmax_s']:.0f} ns"
            )
        print("\npublished on the real jets (OpenML), xcvu9p, Vivado: not the same data, not the same flow")
        for name, reached, count, latency in _PUBLISHED:
            print(f"  {name:36} {reached:>7} {count:8,} LUT  {latency}")


if __name__ == "__main__":
    main()
