"""How good the estimate is by which da4ml refuses networks before it traces them: estimated and traced bits of adders.

    python benchmarks/da4ml_estimate.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numba

numba.config.DISABLE_JIT = True  # the networks are small: compiling da4ml's solver would take longer than running it

import numpy as np  # noqa: E402
from da4ml.trace import comb_trace  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from greenedge.backends.da4ml.estimate import adder_bits  # noqa: E402
from greenedge.backends.da4ml.unroll import unroll  # noqa: E402
from tests.backends.affine_nets import made, residual, sequence, vectors  # noqa: E402
from tests.backends.graphs import Sketch  # noqa: E402


def wide(bits: int, size: int):
    """Two dense layers of `size` neurons with weights of `bits` bits."""
    def build(rng):
        sketch = Sketch(rng, (size,))
        return sketch, sketch.step(sketch.dense(sketch.step(sketch.dense("x", size, bits=bits)), 4, bits=bits), "s8")
    return build


NETWORKS = {"vectors": vectors, "sequence": sequence, "residual": residual, "16 x 16, 2 bits": wide(2, 16),
            "16 x 16, 4 bits": wide(4, 16),
            "16 x 16, 8 bits": wide(8, 16)}


def main() -> None:
    print(f"{'network':18} {'estimated':>10} {'traced':>10} {'ratio':>6}")
    for name, build in NETWORKS.items():
        graph, _ = made(np.random.default_rng(1), build, 2)
        estimated, traced = sum(adder_bits(graph).values()), comb_trace(*unroll(graph)).cost
        print(f"{name:18} {estimated:10,.0f} {traced:10,.0f} {estimated / traced:6.2f}", flush=True)


if __name__ == "__main__":
    main()
