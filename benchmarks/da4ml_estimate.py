"""How good the estimate is by which the da4ml back end is chosen, and refuses networks before tracing them.

    python benchmarks/da4ml_estimate.py [--bits-only]

Two steps, each against what it estimates: bits of adders against da4ml's own count, and logic cells of an ECP5 against
yosys's count for the kernel (LUT4, and two cells for every CCU2C; placement adds route-throughs). The networks are
random, with a seed; ratios above 1 are estimates that are too high.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from greenedge.backends.da4ml.estimate import LUTS_PER_BIT, adder_bits  # noqa: E402
from greenedge.backends.da4ml.generate import trace_kernel  # noqa: E402
from greenedge.tools.discover import find_tool  # noqa: E402
from tests.backends.affine_nets import make_graph, residual, sequence, vectors  # noqa: E402
from tests.backends.graphs import Sketch  # noqa: E402

_CUTOFF = 3.0  # adders between two registers: da4ml's default here
_HOUR = 3600


def mlp(bits: int, *sizes: int):
    """Dense layers with weights of `bits` bits, a step behind each."""

    def build(rng):
        sketch = Sketch(rng, (sizes[0],))
        name = "x"
        for size in sizes[1:-1]:
            name = sketch.step(sketch.dense(name, size, bits=bits))
        return sketch, sketch.step(sketch.dense(name, sizes[-1], bits=bits), "s8")

    return build


NETWORKS = {
    "vectors": vectors,
    "sequence": sequence,
    "residual": residual,
    "16-16-4, 2 bits": mlp(2, 16, 16, 4),
    "16-16-4, 4 bits": mlp(4, 16, 16, 4),
    "16-16-4, 8 bits": mlp(8, 16, 16, 4),
    "32-32-16-5, 2 bits": mlp(2, 32, 32, 16, 5),
    "32-32-16-5, 4 bits": mlp(4, 32, 32, 16, 5),
    "64-32-10, 4 bits": mlp(4, 64, 32, 10),
}


def graph_of(name: str):
    """The network of that name, always the same."""
    return make_graph(np.random.default_rng(1), NETWORKS[name], 2)[0]


def trace_network(name: str) -> tuple[dict[str, bytes], float]:
    """(the kernel's Verilog, bits of its adders as da4ml counts them)."""
    with redirect_stdout(sys.stderr):  # its progress
        files, about = trace_kernel(graph_of(name), _CUTOFF)
    return files, about["cost"]


def cells(files: dict[str, bytes]) -> int:
    """Logic cells of the kernel after yosys's synthesis for ECP5."""
    with tempfile.TemporaryDirectory(prefix="da4ml-estimate-") as scratch:
        folder = Path(scratch)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        (folder / "run.ys").write_text(
            f"read_verilog -sv {' '.join(files)}\nsynth_ecp5 -abc9 -top net\ntee -q -o stat.json stat -json\n"
        )
        tool = find_tool("yosys")
        subprocess.run(
            [*tool.argv, "-q", "-s", "run.ys"], cwd=folder, check=True, timeout=_HOUR, stdout=subprocess.DEVNULL
        )
        kinds = json.loads((folder / "stat.json").read_text())["design"]["num_cells_by_type"]
    return kinds.get("LUT4", 0) + 2 * kinds.get("CCU2C", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits-only", action="store_true", help="without yosys, whose synthesis takes minutes")
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    arguments = parser.parse_args()
    print(f"{'network':22} {'bits est.':>10} {'traced':>8} {'ratio':>6} {'cells est.':>11} {'yosys':>8} {'ratio':>6}")
    # a process for each: whether numba compiles da4ml's solver is decided once in a process
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for name in arguments.networks:
            estimated = sum(adder_bits(graph_of(name)).values())
            files, bits = pool.submit(trace_network, name).result()
            row = f"{name:22} {estimated:10,.0f} {bits:8,.0f} {estimated / bits:6.2f}"
            if not arguments.bits_only:
                counted = cells(files)
                row += f" {LUTS_PER_BIT * estimated:11,.0f} {counted:8,} {LUTS_PER_BIT * estimated / counted:6.2f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
