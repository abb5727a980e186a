"""The integer graph's executor against qonnx's, on the same samples of TFC_2W2A in one run; the ratio per sample.

python benchmarks/graph_speed.py MODEL.onnx [--batch 1000] [--qonnx-samples 50] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from pathlib import Path

import numpy as np

from greenedge.graph import run_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_epilogue, run_prologue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--qonnx-samples", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    lowered = lower_file(words.model)
    model = ModelWrapper(str(words.model)).transform(InferShapes())
    constants = {tensor.name for tensor in model.graph.initializer}
    name = next(value.name for value in model.graph.input if value.name not in constants)
    shape = model.get_tensor_shape(name)
    x = np.random.default_rng(0).random((words.batch, *shape[1:])).astype(np.float32)
    ints = run_prologue(lowered, x)
    ratios = []
    for _ in range(words.rounds):  # interleaved, so that a busy machine slows both
        started = time.perf_counter()
        edges = run_graph(lowered.graph, ints)
        ours = (time.perf_counter() - started) / words.batch
        started = time.perf_counter()
        rows = [
            execute_onnx(model, {name: x[k : k + 1]})[model.graph.output[0].name] for k in range(words.qonnx_samples)
        ]
        theirs = (time.perf_counter() - started) / words.qonnx_samples
        ratios.append(theirs / ours)
    expected = np.concatenate(rows)
    got = next(
        iter(run_epilogue(lowered, {edge: part[: words.qonnx_samples] for edge, part in edges.items()}).values())
    )
    scale = float(np.abs(expected).max())
    worst = float(np.abs(got - expected).max())
    print(f"per sample: graph {ours * 1e6:.1f} us (batch {words.batch}), qonnx {theirs * 1e6:.0f} us")
    print(
        f"ratio qonnx / graph: median {statistics.median(ratios):.0f}, {min(ratios):.0f} to {max(ratios):.0f} "
        f"over {words.rounds} rounds"
    )
    print(
        f"outputs after the common epilogue differ by at most {worst / scale:.1e} of the largest "
        "(float32 dequantisation)"
    )


if __name__ == "__main__":
    main()
