"""Seconds to lower a model: a given file and a ResNet-8 (w8a8, per-channel scales, float batch norm, 32x32x3).

python benchmarks/lower_speed.py [MODEL.onnx ...]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from mlperf_tiny import resnet8

from greenedge.graph import Requantise
from greenedge.lower import lower_file, proof


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "resnet8-w8a8.onnx"
        resnet8(made)
        for path in [*words.models, made]:
            started = time.perf_counter()
            graph = lower_file(path).graph
            lowered = time.perf_counter()
            proofs = [proof(op) for op in graph.ops if isinstance(op, Requantise)]
            done = time.perf_counter()
            widest = max((p["affine"]["multiplier_bits"] for p in proofs if p["affine"]), default=0)
            print(
                f"{path.name}: lowered in {lowered - started:.2f} s, proofs checked in {done - lowered:.2f} s; "
                f"{len(graph.ops)} operations, "
                f"{sum(p['accumulators'] for p in proofs):,} reachable accumulators, "
                f"{sum(1 for p in proofs if p.get('proved'))} of {len(proofs)} requantisers with an affine form "
                f"(multiplier up to {widest} bits)"
            )


if __name__ == "__main__":
    main()
