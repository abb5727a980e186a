"""The keyword-spotting network 490-256-256-256-12 (3-bit weights and activations, 8-bit signed inputs) on an ECP5-85F.

    python benchmarks/finn_keywords.py [--cycles 256|512] [--mhz 130] [--no-place] [--no-netlist] [-o FOLDER]

The core alone, pins left to nextpnr: logic, memory, clock, initiation interval and latency, after RTL (with and without
pauses) and netlist have given the graph's integers. Random weights from a fixed seed. An hour of processor time with
place and route; a folder that is already built is read again.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from finn_core import build_core, check_core, read_core  # noqa: E402

from greenedge.backends.finn.design import Limits  # noqa: E402
from greenedge.backends.finn.dialect.layer import Fold  # noqa: E402
from greenedge.backends.finn.dialect.lower import require_network  # noqa: E402
from greenedge.backends.finn.search import make_design  # noqa: E402
from greenedge.graph import Dense, Edge, Graph, Input, Requantise, Steps, freeze  # noqa: E402
from greenedge.graph.affine import fit_affine  # noqa: E402
from greenedge.target import load_target  # noqa: E402

SIZES, WEIGHT_BITS, ACT_BITS, INPUT_BITS = (490, 256, 256, 256, 12), 3, 3, 8


def _folding(pe: int, first: int) -> dict[str, Fold]:
    """PE and SIMD by layer as the research's prototype had them, with 4 neurons per cycle and with 8."""

    def step(lanes: int) -> Fold:
        return Fold(lanes, form="affine")

    return {
        "fc1": Fold(pe, 70),
        "act1": step(first),
        "fc2": Fold(pe, 32),
        "act2": step(1),
        "fc3": Fold(pe, 32),
        "act3": step(1),
        "fc4": Fold(1, 16),
    }


FOLDING = {256: _folding(8, 2), 512: _folding(4, 1)}
WANTED_US = 3.7


def keyword_graph(seed: int = 1) -> Graph:
    """Random weights; every layer's steps spread over the values that its accumulators take on random inputs."""
    rng = np.random.default_rng(seed)
    lo, hi = -(1 << (INPUT_BITS - 1)), (1 << (INPUT_BITS - 1)) - 1
    x = rng.integers(lo, hi + 1, (256, SIZES[0]))
    ops, edges, source = [Input("x", (), "x")], {"x": Edge("x", (SIZES[0],), lo, hi)}, "x"
    for k, (fan_in, fan_out) in enumerate(zip(SIZES[:-1], SIZES[1:], strict=True), 1):
        weight = np.clip(
            np.rint(rng.normal(0, 1.6, (fan_in, fan_out))), -(1 << (WEIGHT_BITS - 1)), (1 << (WEIGHT_BITS - 1)) - 1
        )
        weight = freeze(weight.astype(np.int64))
        ends = np.stack([weight * lo, weight * hi])
        low, high = ends.min(0).sum(0), ends.max(0).sum(0)
        ops.append(Dense(f"fc{k}", (source,), f"fc{k}", weight))
        edges[f"fc{k}"] = Edge(f"fc{k}", (fan_out,), int(low.min()), int(high.max()))
        source, x = f"fc{k}", x @ weight
        if fan_out == SIZES[-1]:
            break
        lo, hi = 0, (1 << ACT_BITS) - 1
        ops.append(_steps(rng, f"act{k}", source, x, low, high, hi))
        edges[f"act{k}"] = Edge(f"act{k}", (fan_out,), lo, hi)
        x = (x[:, :, None] >= ops[-1].thresholds).sum(2)
        source = f"act{k}"
    return Graph("keywords", tuple(ops), edges, (source,))


def _steps(rng, name: str, source: str, x: np.ndarray, low: np.ndarray, high: np.ndarray, top: int) -> Requantise:
    """Evenly spaced steps, as a ReLU with a scale of its own per channel gives them."""
    step = x.std(0) * rng.uniform(0.3, 0.5, x.shape[1])
    first = x.mean(0) + step * rng.uniform(-2, -1, x.shape[1])
    thresholds = np.ceil(first[:, None] + step[:, None] * np.arange(top)).astype(np.int64)
    thresholds = np.clip(thresholds, low[:, None], high[:, None] + 1)
    affine = fit_affine(thresholds, 0, top, low, high)
    assert affine is not None
    affine = dataclasses.replace(affine, m=freeze(affine.m), b=freeze(affine.b), s=freeze(affine.s))
    return Requantise(
        name,
        (source,),
        name,
        0,
        0,
        top,
        Steps(freeze(np.ones(len(low))), freeze(thresholds), affine),
        freeze(low),
        freeze(high),
    )


def main() -> int:
    """Builds, checks and prints; exit 1 where the initiation interval wanted is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, choices=sorted(FOLDING), default=256)
    parser.add_argument("--mhz", type=float, default=130.0, help="clock asked of nextpnr")
    parser.add_argument("--seed", type=int, default=1, help="of nextpnr")
    parser.add_argument("--no-place", action="store_true", help="stop after synthesis")
    parser.add_argument(
        "--no-netlist", action="store_true", help="do not simulate the netlist (six minutes of compiling)"
    )
    parser.add_argument("-o", "--out", type=Path, default=None)
    options = parser.parse_args()
    out = options.out or Path(tempfile.gettempdir()) / f"greenedge-finn-keywords-{options.cycles}"
    graph, target = keyword_graph(), load_target("ulx3s-85f")
    clock_hz = None if options.no_place else options.mhz * 1e6
    if (out / ("stat.json" if options.no_place else "report.json")).is_file():
        core = read_core(out, "ecp5", clock_hz)
    else:
        design = make_design(require_network(graph), FOLDING[options.cycles], Limits.of(target.device))
        core = build_core(graph, design, target, out, clock_hz, options.seed)
    print(
        ", ".join(f"{count:,} {name}" for name, count in core.counts.items()),
        f"(yosys, {target.device.title})",
        flush=True,
    )
    cycles, latency, seconds = check_core(core, graph, whole_netlist=not options.no_netlist)
    print(f"{cycles:g} cycles per inference, {latency} from first input to last output (simulated)")
    if core.fmax_hz is None:
        return 0
    interval_us = 1e6 * cycles / core.fmax_hz
    print(f"{core.fmax_hz / 1e6:.1f} MHz after routing, {core.comb:,} TRELLIS_COMB; longest path from {core.path}")
    print(
        f"initiation interval {interval_us:.2f} us (wanted {WANTED_US}), latency {1e6 * latency / core.fmax_hz:.1f} us"
    )
    return int(interval_us > WANTED_US)


if __name__ == "__main__":
    sys.exit(main())
