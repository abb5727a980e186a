"""Random small quantised networks as QONNX files, drawn piece by piece so that a failing one shrinks to a readable
one."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

BATCH = 6
MODES = ("ROUND", "ROUND", "ROUND", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN", "HALF_EVEN")


class Network:
    """A model under construction; `draw` is hypothesis's, so every choice can shrink."""

    def __init__(self, draw):
        self.draw, self.nodes, self.constants, self.count = draw, [], [], 0
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.tensor, self.shape = "x", self._input_shape()
        self.first_shape = self.shape

    def _input_shape(self) -> tuple[int, ...]:
        kind = self.draw(st.sampled_from(["vector", "image", "sequence"]))
        channels = self.draw(st.integers(1, 4))
        if kind == "vector":
            return (BATCH, self.draw(st.integers(1, 9)))
        return (
            BATCH,
            channels,
            self.draw(st.integers(4, 7)),
            *((self.draw(st.integers(4, 7)),) if kind == "image" else ()),
        )

    # -- pieces of a file ---------------------------------------------------------------------------------------------

    def name(self, base: str) -> str:
        self.count += 1
        return f"{base}_{self.count}"

    def constant(self, values, kind=np.float32) -> str:
        name = self.name("c")
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def node(self, op: str, inputs, domain: str = "", **attrs) -> str:
        output = self.name(op.lower())
        self.nodes.append(
            helper.make_node(op, list(inputs), [output], name=f"{op}_{self.count}", domain=domain, **attrs)
        )
        return output

    def apply(self, op: str, *extra, shape=None, **attrs) -> None:
        self.tensor = self.node(op, [self.tensor, *extra], **attrs)
        self.shape = shape or self.shape

    # -- quantisers ---------------------------------------------------------------------------------------------------

    def scale(self, size: float) -> float:
        """Near `size`; a power of two (where exact ties are common) or any float32."""
        if self.draw(st.booleans()):
            return float(2.0 ** np.round(np.log2(size)))
        return float(np.float32(size * self.rng.uniform(0.6, 1.6)))

    def quant(self, tensor: str, scale, bits: int, signed: bool, narrow: bool, mode="ROUND", zero=0.0) -> str:
        return self.node(
            "Quant",
            [tensor, self.constant(scale), self.constant(zero), self.constant(float(bits))],
            domain="qonnx.custom_op.general",
            signed=int(signed),
            narrow=int(narrow),
            rounding_mode=mode,
        )

    def activation(self, size: float = 1.0, per_channel: bool = False) -> None:
        """A quantiser on the current tensor, whose values are of about `size`."""
        if self.draw(st.integers(0, 9)) == 0:
            self.tensor = self.node(
                "BipolarQuant", [self.tensor, self.constant(self.scale(size))], domain="qonnx.custom_op.general"
            )
            return
        bits, signed = self.draw(st.integers(1, 8)), self.draw(st.booleans())
        narrow = self.draw(st.booleans()) and bits > 1
        # (a transposed convolution takes symmetric inputs only, so zero points are the rarer case)
        zero = float(self.draw(st.integers(0, 3))) if self.draw(st.integers(0, 5)) == 0 and bits > 2 else 0.0
        scale = self.scale(size * (2.0 if signed else 1.0) / 2 ** min(bits, 6))
        if per_channel and not zero and self.draw(st.booleans()):
            scale = np.float32(scale * self.rng.uniform(0.5, 2, self.channel_shape()))
        self.tensor = self.quant(self.tensor, scale, bits, signed, narrow, self.draw(st.sampled_from(MODES)), zero)

    def channel_shape(self) -> tuple[int, ...]:
        return (1, self.shape[1], *(1,) * (len(self.shape) - 2))

    def weights(self, shape, channel_axis: int) -> str:
        values = self.rng.normal(0, 1, shape).astype(np.float32)
        if self.draw(st.booleans()):
            values[tuple(slice(None) if a != channel_axis else 0 for a in range(len(shape)))] = 0  # a dead channel
        bits = self.draw(st.integers(1, 8))
        if self.draw(st.integers(0, 7)) == 0:
            return self.node(
                "BipolarQuant",
                [self.constant(values), self.constant(self.scale(0.5))],
                domain="qonnx.custom_op.general",
            )
        scale = self.scale(2.0 / 2**bits)
        if self.draw(st.booleans()):
            spread = [1] * len(shape)
            spread[channel_axis] = shape[channel_axis]
            scale = np.float32(scale * self.rng.uniform(0.5, 2, spread))
        return self.quant(self.constant(values), scale, bits, True, self.draw(st.booleans()) and bits > 1)

    # -- layers -------------------------------------------------------------------------------------------------------

    def linear(self) -> None:
        if len(self.shape) == 2:
            self.dense()
        elif self.draw(st.integers(0, 5)) == 0:
            self.conv_transpose()
        else:
            self.conv()

    def dense(self) -> None:
        k, m = self.shape[1], self.draw(st.integers(1, 5))
        how = self.draw(st.sampled_from(["MatMul", "Gemm", "GemmT", "Turned"]))
        if how in ("MatMul", "Turned"):
            weight = (
                self.weights((k, m), 1)
                if how == "MatMul"
                else self.node("Transpose", [self.weights((m, k), 0)], perm=[1, 0])
            )
            self.apply("MatMul", weight, shape=(BATCH, m))
            return
        weight = self.weights((m, k), 0) if how == "GemmT" else self.weights((k, m), 1)
        bias = [self.constant(self.rng.normal(0, 1, m))] if self.draw(st.booleans()) else []
        self.apply("Gemm", weight, *bias, shape=(BATCH, m), transB=int(how == "GemmT"))

    def conv(self) -> None:
        n, channels = len(self.shape) - 2, self.shape[1]
        groups = self.draw(st.sampled_from([g for g in (1, channels) if channels % g == 0]))
        out = groups * self.draw(st.integers(1, 3))
        kernel = [self.draw(st.integers(1, 3)) for _ in range(n)]
        dilations = [self.draw(st.integers(1, 2)) if k > 1 else 1 for k in kernel]
        strides = [self.draw(st.integers(1, 2)) for _ in range(n)]
        pads = [self.draw(st.integers(0, 2)) for _ in range(2 * n)]
        size = [
            (self.shape[2 + i] + pads[i] + pads[n + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
            for i in range(n)
        ]
        if min(size) < 1:
            return
        weight = self.weights((out, channels // groups, *kernel), 0)
        bias = [self.constant(self.rng.normal(0, 1, out))] if self.draw(st.booleans()) else []
        self.apply(
            "Conv",
            weight,
            *bias,
            shape=(BATCH, out, *size),
            group=groups,
            strides=strides,
            pads=pads,
            dilations=dilations,
            kernel_shape=kernel,
        )

    def conv_transpose(self) -> None:
        n, channels, out = len(self.shape) - 2, self.shape[1], self.draw(st.integers(1, 3))
        kernel, strides = (
            [self.draw(st.integers(1, 3)) for _ in range(n)],
            [self.draw(st.integers(1, 2)) for _ in range(n)],
        )
        size = [(d - 1) * s + k for d, s, k in zip(self.shape[2:], strides, kernel, strict=True)]
        self.apply(
            "ConvTranspose",
            self.weights((channels, out, *kernel), 1),
            shape=(BATCH, out, *size),
            strides=strides,
            kernel_shape=kernel,
        )

    def between(self) -> None:
        """A chain of real functions between a layer and its quantiser."""
        for _ in range(self.draw(st.integers(0, 3))):
            getattr(self, self.draw(st.sampled_from(["_batch_norm", "_shift", "_stretch", "_curve", "_curve"])))()

    def _batch_norm(self) -> None:
        c = self.shape[1]
        gamma = self.rng.normal(0, 1, c) * (self.rng.random(c) > 0.1)  # negative factors, and some that are zero
        params = [gamma, self.rng.normal(0, 0.5, c), self.rng.normal(0, 0.5, c), self.rng.uniform(0.1, 3, c)]
        self.apply("BatchNormalization", *map(self.constant, params))

    def _shift(self) -> None:
        value = self.rng.normal(0, 0.5, self.channel_shape()) if self.draw(st.booleans()) else self.rng.normal()
        self.apply(self.draw(st.sampled_from(["Add", "Sub"])), self.constant(value))

    def _stretch(self) -> None:
        value = (
            self.rng.uniform(0.3, 2, self.channel_shape()) * self.rng.choice([-1, 1])
            if self.draw(st.booleans())
            else self.rng.uniform(0.3, 2)
        )
        self.apply(self.draw(st.sampled_from(["Mul", "Div"])), self.constant(value))

    def _curve(self) -> None:
        op = self.draw(
            st.sampled_from(["Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "SiLU", "HardSigmoid", "Elu"])
        )
        if op == "PRelu":
            self.apply("PRelu", self.constant(self.rng.uniform(0, 0.5, self.channel_shape()[1:])))
        elif op == "Clip":
            self.apply("Clip", self.constant(-0.7), self.constant(1.1))
        elif op == "SiLU":
            gate = self.node("Sigmoid", [self.tensor])
            self.apply("Mul", gate)
        else:
            self.apply(op)

    # -- structure ----------------------------------------------------------------------------------------------------

    def structure(self) -> None:
        options = ["nothing", "nothing", "_slice", "_gather", "_split", "_reduce"]
        if len(self.shape) >= 3:
            options += ["_pool", "_average", "_pad", "_flatten", "_global"]
        if len(self.shape) == 4:
            options += ["_upsample", "_depth_to_space", "_swap"]
        choice = self.draw(st.sampled_from(options))
        if choice != "nothing":
            getattr(self, choice)()

    def _pool(self) -> None:
        n = len(self.shape) - 2
        if min(self.shape[2:]) < 2:
            return
        size = [(d - 2) // 2 + 1 for d in self.shape[2:]]
        self.apply("MaxPool", shape=(*self.shape[:2], *size), kernel_shape=[2] * n, strides=[2] * n)

    def _average(self) -> None:
        n = len(self.shape) - 2
        if min(self.shape[2:]) < 2:
            return
        size = [d - 1 for d in self.shape[2:]]
        self.apply("AveragePool", shape=(*self.shape[:2], *size), kernel_shape=[2] * n)

    def _pad(self) -> None:
        n = len(self.shape) - 2
        amounts = [0, 0, *[1] * n, 0, 0, *[2] * n]
        self.apply("Pad", self.constant(amounts, np.int64), shape=(*self.shape[:2], *(d + 3 for d in self.shape[2:])))

    def _flatten(self) -> None:
        total = int(np.prod(self.shape[1:]))
        if self.draw(st.booleans()):
            self.apply("Flatten", shape=(BATCH, total), axis=1)
        else:
            self.apply("Reshape", self.constant([BATCH, total], np.int64), shape=(BATCH, total))

    def _global(self) -> None:
        self.apply("GlobalAveragePool", shape=(*self.shape[:2], *(1,) * (len(self.shape) - 2)))

    def _upsample(self) -> None:
        self.apply(
            "Resize",
            "",
            self.constant([1, 1, 2, 2]),
            shape=(*self.shape[:2], 2 * self.shape[2], 2 * self.shape[3]),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def _depth_to_space(self) -> None:
        if self.shape[1] % 4 == 0:
            self.apply(
                "DepthToSpace",
                shape=(BATCH, self.shape[1] // 4, 2 * self.shape[2], 2 * self.shape[3]),
                blocksize=2,
                mode=self.draw(st.sampled_from(["DCR", "CRD"])),
            )

    def _cut(self, axis: int, size: int) -> tuple[int, ...]:
        """The shape with another size along an axis."""
        return (*self.shape[:axis], size, *self.shape[axis + 1 :])

    def _slice(self) -> None:
        axis = self.draw(st.integers(1, len(self.shape) - 1))
        step = self.draw(st.sampled_from([1, 2, -1, -2]))
        start = self.draw(st.integers(0, self.shape[axis] - 1))
        end = 2**31 if step > 0 else -(2**31)
        bounds = [self.constant([v], np.int64) for v in (start, end, axis, step)]
        size = -(-(self.shape[axis] - start) // step) if step > 0 else start // -step + 1
        self.apply("Slice", *bounds, shape=self._cut(axis, size))

    def _gather(self) -> None:
        axis = self.draw(st.integers(1, len(self.shape) - 1))
        size = self.shape[axis]
        if len(self.shape) > 2 and self.draw(st.integers(0, 3)) == 0:
            index = self.constant(self.draw(st.integers(-size, size - 1)), np.int64)
            self.apply("Gather", index, axis=axis, shape=(*self.shape[:axis], *self.shape[axis + 1 :]))
            return
        places = self.rng.integers(-size, size, self.draw(st.integers(1, size + 1)))
        self.apply("Gather", self.constant(places, np.int64), axis=axis, shape=self._cut(axis, len(places)))

    def _split(self) -> None:
        """Two parts joined the other way round: a roll, or a shuffle."""
        axis = self.draw(st.integers(1, len(self.shape) - 1))
        if self.shape[axis] < 2:
            return
        first = self.draw(st.integers(1, self.shape[axis] - 1))
        sizes = self.constant([first, self.shape[axis] - first], np.int64)
        parts = [self.name("part") for _ in range(2)]
        self.nodes.append(helper.make_node("Split", [self.tensor, sizes], parts, name=f"Split_{self.count}", axis=axis))
        self.tensor = self.node("Concat", parts[::-1], axis=axis)

    def _reduce(self) -> None:
        """One axis or several, kept or not; what is left has an axis beside the batch."""
        axes = [a for a in range(1, len(self.shape)) if self.draw(st.booleans())]
        keeps = self.draw(st.booleans()) or len(axes) == len(self.shape) - 1
        if not axes:
            return
        shape = tuple(1 if a in axes else size for a, size in enumerate(self.shape) if keeps or a not in axes)
        axes = [a - len(self.shape) if self.draw(st.booleans()) else a for a in axes]
        op = self.draw(st.sampled_from(["ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum"]))
        if op == "ReduceSum":
            self.apply(op, self.constant(axes, np.int64), shape=shape, keepdims=int(keeps))
        else:
            self.apply(op, shape=shape, axes=axes, keepdims=int(keeps))

    def _swap(self) -> None:
        self.apply("Transpose", shape=(BATCH, self.shape[2], self.shape[1], self.shape[3]), perm=[0, 2, 1, 3])

    def residual(self) -> None:
        """Two branches from one tensor, quantised at one scale, at scales in a small whole ratio or at any two, one of
        them perhaps with a scale for each channel or without a quantiser, then added, subtracted or multiplied."""
        start, shape = self.tensor, self.shape
        scale = self.scale(0.1)
        other = self.draw(st.sampled_from([1, 1, 2, 4, 0.3, 1.37, 9.1]))
        ends = []
        for ratio in (1, other):
            self.tensor, self.shape = start, shape
            if self.draw(st.booleans()):
                self.between()
            if self.tensor != start and self.draw(st.integers(0, 3)) == 0:
                ends.append(self.tensor)
                continue
            signed, zero = self.draw(st.booleans()), float(self.draw(st.sampled_from([0, 0, 3])))
            bits = self.draw(st.integers(2, 8))
            size = scale * ratio if other in (1, 2, 4) else float(np.float32(scale * ratio))
            if self.draw(st.integers(0, 3)) == 0:
                size = np.float32(size * self.rng.uniform(0.5, 2, self.channel_shape()))
            self.tensor = self.quant(self.tensor, size, bits, signed, False, zero=zero)
            ends.append(self.tensor)
        self.tensor, self.shape = self.node(self.draw(st.sampled_from(["Add", "Add", "Sub", "Mul"])), ends), shape

    def branches(self) -> None:
        """Inception-like: quantisers with unequal scales, joined along the channels."""
        start, shape = self.tensor, self.shape
        ends = []
        for _ in range(2):
            self.tensor = self.quant(
                start, self.scale(0.1), self.draw(st.integers(2, 8)), self.draw(st.booleans()), False
            )
            ends.append(self.tensor)
        self.tensor, self.shape = self.node("Concat", ends, axis=1), (BATCH, 2 * shape[1], *shape[2:])

    def model(self) -> onnx.ModelProto:
        def value(name, shape):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))

        graph = helper.make_graph(
            self.nodes, "random", [value("x", self.first_shape)], [value(self.tensor, self.shape)], self.constants
        )
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid("qonnx.custom_op.general", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@st.composite
def networks(draw):
    """(model, inputs): a random network with a quantised input, and inputs that include saturating extremes."""
    net = Network(draw)
    net.activation(2.0)
    depth = draw(st.integers(1, 3))
    for layer in range(depth):
        net.structure()
        net.linear()
        net.between()
        join = draw(st.sampled_from(["none", "none", "none", "residual", "branches"]))
        if join == "residual":
            net.residual()
        elif join == "branches":
            net.branches()
        net.activation(draw(st.sampled_from([0.01, 0.3, 1.0, 4.0])), per_channel=layer == depth - 1)
    inputs = net.rng.normal(0, 1.5, net.first_shape).astype(np.float32)
    inputs[0], inputs[1], inputs[2] = 1e3, -1e3, 0.0
    return net.model(), inputs
