"""Three small networks through onnxruntime.quantization, in the variants that it writes: what many people hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NETWORKS = ("mlp", "bottleneck", "residual")
VARIANTS = {  # name: QOperator or not, type of activations, of weights, per channel
    f"{'qop' if is_qop else 'qdq'}-{a}{w}-{'pc' if per_channel else 'pt'}": (is_qop, a, w, per_channel)
    for is_qop in (False, True)
    for a, w in (("u8", "s8"), ("u8", "u8"), ("s8", "s8"))
    for per_channel in (False, True)
}
SAMPLES = 24


class _Float:
    """A float network under construction, its batch norms folded as the quantiser's preparation leaves them."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self.rng, self.nodes, self.constants, self.shape = rng, [], [], shape

    def constant(self, values, kind=np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def node(self, op: str, *inputs: str, **attrs) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attrs))
        return name

    def conv(self, x: str, channels: int, out: int, kernel: int, relu: str = "Relu", **attrs) -> str:
        groups = attrs.get("group", 1)
        fan = channels // groups * kernel**2
        weight = self.constant(self.rng.normal(0, fan**-0.5, (out, channels // groups, kernel, kernel)))
        y = self.node("Conv", x, weight, self.constant(self.rng.normal(0, 0.2, out)), **attrs)
        if relu == "Relu6":
            return self.node("Clip", y, self.constant(0.0), self.constant(6.0))
        return self.node(relu, y) if relu else y

    def dense(self, x: str, features: int, out: int) -> str:
        weight = self.constant(self.rng.normal(0, features**-0.5, (out, features)))
        return self.node("Gemm", x, weight, self.constant(self.rng.normal(0, 0.2, out)), transB=1)

    def classify(self, x: str, channels: int) -> str:
        pooled = self.node("GlobalAveragePool", x)
        return self.dense(self.node("Flatten", pooled), channels, 5)

    def model(self, output: str) -> onnx.ModelProto:
        def value(name: str, shape):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        outs = [value(output, [1, 5])]
        graph = helper.make_graph(self.nodes, "net", [value("x", [1, *self.shape])], outs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def make_float(network: str, rng: np.random.Generator) -> onnx.ModelProto:
    if network == "mlp":
        net = _Float(rng, (16,))
        return net.model(net.dense(net.node("Relu", net.dense("x", 16, 12)), 12, 5))
    net = _Float(rng, (3, 8, 8))
    stem = net.conv("x", 3, 6, 3, "Relu6" if network == "bottleneck" else "Relu", pads=[1, 1, 1, 1])
    if network == "bottleneck":
        wide = net.conv(stem, 6, 12, 1, "Relu6")
        deep = net.conv(wide, 12, 12, 3, "Relu6", group=12, pads=[1, 1, 1, 1])
        return net.model(net.classify(net.node("Add", stem, net.conv(deep, 12, 6, 1, "")), 6))
    pooled = net.node("MaxPool", stem, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    one = net.conv(pooled, 6, 8, 3, pads=[1, 1, 1, 1], strides=[2, 2])
    two = net.conv(one, 8, 8, 3, "", pads=[1, 1, 1, 1])
    shortcut = net.conv(pooled, 6, 8, 1, "", strides=[2, 2])
    return net.model(net.classify(net.node("Relu", net.node("Add", two, shortcut)), 8))


def quantise(network: str, variant: str, folder: Path, seed: int = 0) -> tuple[Path, np.ndarray]:
    """(the quantised file, samples)."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    rng = np.random.default_rng(seed)
    model = make_float(network, rng)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    samples = rng.normal(0, 1, (SAMPLES, *shape)).astype(np.float32)

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter(samples)

        def get_next(self):
            sample = next(self.left, None)
            return None if sample is None else {"x": sample[None]}

    is_qop, activations, weights, per_channel = VARIANTS[variant]
    kinds = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
    onnx.save(model, str(folder / "float.onnx"))
    path = folder / f"{network}-{variant}.onnx"
    quantize_static(
        str(folder / "float.onnx"),
        str(path),
        Reader(),
        quant_format=QuantFormat.QOperator if is_qop else QuantFormat.QDQ,
        activation_type=kinds[activations],
        weight_type=kinds[weights],
        per_channel=per_channel,
        # ONNX Runtime adds pairs of u8 * s8 in 16 bits where the processor has no better instruction, and saturates:
        # with 7-bit weights its own operators compute what they are defined to compute on every processor
        reduce_range=is_qop and (weights == "s8" or per_channel),
    )
    return path, samples
