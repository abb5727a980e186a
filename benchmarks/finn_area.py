"""LUT4 and flip-flops of the 64-32-10 MLP at w4a4 and 512 cycles an inference, against the prototype of generic units.

    python benchmarks/finn_area.py [-o FOLDER]

The prototype (FINN's RTL with a vendor-neutral multiplier): 685 LUT4, 815 flip-flops, 83 CCU2C, 5 MULT18X18D, 3 DP16KD
and 90 MHz on an LFE5U-25F-6, PE 1 and SIMD 4 in the first layer, PE 1 and SIMD 1 in the second. The same folding here.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from finn_core import build_core, check_core  # noqa: E402

from greenedge.backends.finn.design import Limits  # noqa: E402
from greenedge.backends.finn.dialect.layer import Fold  # noqa: E402
from greenedge.backends.finn.dialect.lower import require_network  # noqa: E402
from greenedge.backends.finn.search import make_design  # noqa: E402
from greenedge.target import load_target  # noqa: E402
from tests.backends.nets import mlp, without_last_step  # noqa: E402

PROTOTYPE = {"lut4": 685, "ff": 815, "ccu2c": 83, "dsp": 5, "bram": 3, "ram16": 0}
# as the prototype's; act1 is its thresholding, here a requantiser that takes `serial_cycles` for each of
# the 16 channels
FOLDING = {"fc1": Fold(1, 4), "act1": Fold(1, form="affine"), "fc2": Fold(1, 1)}


def main() -> int:
    """Builds, checks and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path(tempfile.gettempdir()) / "greenedge-finn-area")
    out = parser.parse_args().out
    graph, target = without_last_step(mlp(np.random.default_rng(1), (64, 32, 10), 4, 4)), load_target("ulx3s-25f")
    network = require_network(graph)
    serial = next(layer.serial_cycles for layer in network.layers if layer.name == "act1")
    folding = FOLDING | {"act1": dataclasses.replace(FOLDING["act1"], cycles=serial)}
    core = build_core(graph, make_design(network, folding, Limits.of(target.device)), target, out, 150e6)
    cycles, latency, _ = check_core(core, graph)
    folded = ", ".join(f"{name} PE {fold.pe} SIMD {fold.simd}" for name, fold in folding.items())
    print(f"{cycles:g} cycles per inference, {latency} from first input to last output; {folded}")
    print(f"{'':12s}{'ours':>8s}{'prototype':>12s}{'ratio':>8s}")
    rows = {
        **{name: (core.counts[name], PROTOTYPE[name]) for name in PROTOTYPE},
        "lut4 + ff": (core.counts["lut4"] + core.counts["ff"], 685 + 815),
        "+ 2 ccu2c": (core.counts["lut4"] + core.counts["ff"] + 2 * core.counts["ccu2c"], 685 + 815 + 2 * 83),
    }
    for name, (ours, theirs) in rows.items():
        print(f"{name:12s}{ours:8d}{theirs:12d}{f'{ours / theirs:8.2f}' if theirs else '':>8s}")
    print(
        f"{'MHz':12s}{core.fmax_hz / 1e6:8.1f}{90.1:12.1f}{core.fmax_hz / 90.1e6:8.2f}   longest path from {core.path}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
