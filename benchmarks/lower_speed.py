"""Seconds to lower a model: a given file and a ResNet-8 (w8a8, per-channel scales, float batch norm, 32x32x3).

    python benchmarks/lower_speed.py [MODEL.onnx ...]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from greenedge.graph import Requantise
from greenedge.lower import lower_file, proof


def resnet8(path: Path) -> None:
    """MLPerf Tiny's ResNet-8 shape as QONNX: random 8-bit weights, float scales, batch norm left in, one shared quantiser a join."""
    rng = np.random.default_rng(0)
    nodes, constants = [], []
    count = iter(range(10_000))

    def constant(values) -> str:
        name = f"c{next(count)}"
        constants.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def node(op, inputs, domain="", **attrs) -> str:
        name = f"{op}_{next(count)}"
        nodes.append(helper.make_node(op, inputs, [name], name=name, domain=domain, **attrs))
        return name

    def quant(x, scale, bits, signed) -> str:
        return node("Quant", [x, constant(scale), constant(0), constant(bits)], "qonnx.custom_op.general", signed=signed, narrow=0,
                    rounding_mode="ROUND")

    def conv(x, fan_in, fan_out, kernel, stride) -> str:
        weight = rng.normal(0, 1, (fan_out, fan_in, kernel, kernel))
        scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
        y = node("Conv", [x, quant(constant(weight), scale, 8, 1)], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4)
        return node("BatchNormalization", [y, *(constant(v) for v in (rng.uniform(0.5, 1.5, fan_out), rng.normal(0, 0.3, fan_out),
                                                                      rng.normal(0, 0.3, fan_out), rng.uniform(5, 50, fan_out)))])

    def relu(x) -> str:
        return quant(node("Relu", [x]), float(np.float32(0.0173)), 8, 0)

    x = relu(conv(quant("x", float(np.float32(0.0119)), 8, 1), 3, 16, 3, 1))
    for fan_in, fan_out, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
        shared = float(np.float32(0.0231))
        main = quant(conv(relu(conv(x, fan_in, fan_out, 3, stride)), fan_out, fan_out, 3, 1), shared, 8, 1)
        skip = quant(x if stride == 1 else conv(x, fan_in, fan_out, 1, stride), shared, 8, 1)
        x = relu(node("Add", [main, skip]))
    x = quant(node("Flatten", [node("GlobalAveragePool", [x])]), float(np.float32(0.0151)), 8, 0)
    weight = rng.normal(0, 1, (64, 10))
    y = node("MatMul", [x, quant(constant(weight), float(np.float32(0.03)), 8, 1)])
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "resnet8", [value("x", [1, 3, 32, 32])], [value(y, [1, 10])], constants)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("qonnx.custom_op.general", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))


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
            print(f"{path.name}: lowered in {lowered - started:.2f} s, proofs checked in {done - lowered:.2f} s; {len(graph.ops)} operations, "
                  f"{sum(p['accumulators'] for p in proofs):,} reachable accumulators, "
                  f"{sum(1 for p in proofs if p.get('proved'))} of {len(proofs)} requantisers with an affine form "
                  f"(multiplier up to {max((p['affine']['multiplier_bits'] for p in proofs if p['affine']), default=0)} bits)")


if __name__ == "__main__":
    main()
