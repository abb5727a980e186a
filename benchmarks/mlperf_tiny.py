"""MLPerf Tiny's image and keyword networks as QONNX files with random weights: what the benchmarks build."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

QONNX = "qonnx.custom_op.general"


class Network:
    """A QONNX file in the making: quantised weights with a scale per channel, float batch norms left in."""

    def __init__(self, weight_bits: int, act_bits: int, seed: int = 0):
        self.rng, self.weight_bits, self.act_bits = np.random.default_rng(seed), weight_bits, act_bits
        self.nodes, self.constants, self.count = [], [], iter(range(10_000))

    def constant(self, values) -> str:
        name = f"c{next(self.count)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def node(self, op: str, inputs, domain: str = "", **attributes) -> str:
        name = f"{op}_{next(self.count)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def quant(self, x: str, scale, bits: int, signed: int) -> str:
        return self.node(
            "Quant",
            [x, self.constant(scale), self.constant(0), self.constant(bits)],
            QONNX,
            signed=signed,
            narrow=0,
            rounding_mode="ROUND",
        )

    def weight(self, shape, axes) -> str:
        values = self.rng.normal(0, 1, shape)
        top = 2 ** (self.weight_bits - 1) - 1
        return self.quant(
            self.constant(values), np.abs(values).max(axis=axes, keepdims=True) / top, self.weight_bits, 1
        )

    def conv(self, x: str, fan_in: int, fan_out: int, kernel, stride: int = 1, groups: int = 1, pads=None) -> str:
        kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        pads = pads or [k // 2 for k in kernel] * 2
        weight = self.weight((fan_out, fan_in // groups, *kernel), (1, 2, 3))
        y = self.node(
            "Conv", [x, weight], kernel_shape=list(kernel), strides=[stride] * 2, pads=list(pads), group=groups
        )
        norm = (
            self.rng.uniform(0.5, 1.5, fan_out),
            self.rng.normal(0, 0.3, fan_out),
            self.rng.normal(0, 0.3, fan_out),
            self.rng.uniform(5, 50, fan_out) * (fan_in // groups * kernel[0] * kernel[1] / 144),
        )
        return self.node("BatchNormalization", [y, *(self.constant(v) for v in norm)])

    def relu(self, x: str, scale: float) -> str:
        return self.quant(
            self.node("Relu", [x]), float(np.float32(scale * 255 / (2**self.act_bits - 1))), self.act_bits, 0
        )

    def dense(self, x: str, fan_in: int, fan_out: int) -> str:
        y = self.node("MatMul", [x, self.weight((fan_in, fan_out), (0, 1))])
        return self.quant(y, float(np.float32(0.071)), 8, 1)

    def save(self, path: Path, name: str, shape, y: str, classes: int) -> None:
        def value(tensor: str, dims) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [1, *dims])

        graph = helper.make_graph(self.nodes, name, [value("x", shape)], [value(y, [classes])], self.constants)
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid(QONNX, 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))


def resnet8(path: Path, weight_bits: int = 8, act_bits: int = 8) -> None:
    """ResNet-8 on 32x32x3: one shared 8-bit quantiser at each join, the input 8 bits."""
    net = Network(weight_bits, act_bits)
    x = net.relu(net.conv(net.quant("x", float(np.float32(0.0119)), 8, 1), 3, 16, 3), 0.0173)
    for fan_in, fan_out, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
        shared = float(np.float32(0.0231))
        main = net.quant(
            net.conv(net.relu(net.conv(x, fan_in, fan_out, 3, stride), 0.0173), fan_out, fan_out, 3), shared, 8, 1
        )
        skip = net.quant(x if stride == 1 else net.conv(x, fan_in, fan_out, 1, stride), shared, 8, 1)
        x = net.relu(net.node("Add", [main, skip]), 0.0173)
    x = net.quant(net.node("Flatten", [net.node("GlobalAveragePool", [x])]), float(np.float32(0.0151)), 8, 0)
    net.save(path, "resnet8", (3, 32, 32), net.dense(x, 64, 10), 10)


def ds_cnn(path: Path, weight_bits: int = 8, act_bits: int = 8) -> None:
    """DS-CNN on 49x10 MFCCs: a 10x4 convolution, stride 2, four depthwise-separable blocks of 64 channels, 12
    classes."""
    net = Network(weight_bits, act_bits)
    # TensorFlow's SAME for 49x10, kernel 10x4, stride 2: 4 rows before and 5 after, 1 column before and 1 after
    x = net.relu(
        net.conv(net.quant("x", float(np.float32(0.0119)), 8, 1), 1, 64, (10, 4), 2, pads=(4, 1, 5, 1)), 0.0173
    )
    for _ in range(4):
        x = net.relu(net.conv(x, 64, 64, 3, groups=64), 0.0173)
        x = net.relu(net.conv(x, 64, 64, 1), 0.0173)
    x = net.quant(net.node("Flatten", [net.node("GlobalAveragePool", [x])]), float(np.float32(0.0151)), 8, 0)
    net.save(path, "ds_cnn", (1, 49, 10), net.dense(x, 64, 12), 12)


def autoencoder(path: Path, weight_bits: int = 4, act_bits: int = 4) -> None:
    """ToyADMOS's dense autoencoder: 640 inputs, four layers of 128, 8 in the middle, and back."""
    net, widths = Network(weight_bits, act_bits), (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)
    x = net.quant("x", float(np.float32(0.0119)), 8, 1)
    for fan_in, fan_out in zip(widths[:-2], widths[1:-1], strict=True):
        y = net.node("MatMul", [x, net.weight((fan_in, fan_out), (0,))])
        norm = (
            net.rng.uniform(0.5, 1.5, fan_out),
            net.rng.normal(0, 0.3, fan_out),
            net.rng.normal(0, 0.3, fan_out),
            net.rng.uniform(5, 50, fan_out),
        )
        x = net.relu(net.node("BatchNormalization", [y, *(net.constant(v) for v in norm)]), 0.0173)
    net.save(path, "autoencoder", (640,), net.dense(x, 128, 640), 640)


def mobilenet(path: Path, weight_bits: int = 8, act_bits: int = 8) -> None:
    """MobileNetV1 0.25 on 96x96x3, two classes (visual wake words)."""
    net = Network(weight_bits, act_bits)
    x = net.relu(net.conv(net.quant("x", float(np.float32(0.0119)), 8, 1), 3, 8, 3, 2, pads=(0, 0, 1, 1)), 0.0173)
    widths = [(8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), *[(128, 128, 1)] * 5]
    for fan_in, fan_out, stride in (*widths, (128, 256, 2), (256, 256, 1)):
        pads = (1, 1, 1, 1) if stride == 1 else (0, 0, 1, 1)
        x = net.relu(net.conv(x, fan_in, fan_in, 3, stride, fan_in, pads), 0.0173)
        x = net.relu(net.conv(x, fan_in, fan_out, 1), 0.0173)
    x = net.quant(net.node("Flatten", [net.node("GlobalAveragePool", [x])]), float(np.float32(0.0151)), 8, 0)
    net.save(path, "mobilenet", (3, 96, 96), net.dense(x, 256, 2), 2)


NETWORKS = {"ResNet-8": (resnet8, (3, 32, 32)), "DS-CNN": (ds_cnn, (1, 49, 10))}
