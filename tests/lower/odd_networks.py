"""Random networks of every operation that lowers, in the forms that exporters write: QDQ as well as QONNX quantisers,
several outputs, ends of many kinds. What is odd is drawn here; how the file is spelt is for tests.lower.spellings.

    model, inputs = case          # of odd_networks(); a batch of BATCH samples
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.lower.networks import BATCH, Network

QONNX = "qonnx.custom_op.general"
_CURVES = ("HardSwish", "Gelu", "Softplus", "Abs", "Neg", "Erf", "Exp", "Celu", "Max", "Min", "Pow", "Identity", "Sum")
_FLAT = ("_slice", "_reshape", "_again", "_squeeze")
_SPATIAL = ("_odd_pool", "_odd_average", "_global_max", "_reduce_mean", "_crop", "_rows_last")
_IMAGE = ("_upsample_by", "_space_to_depth")
_ENDS = ("nothing",) * 5 + ("ArgMax", "TopK", "Softmax", "Sigmoid", "accumulator", "Flatten", "Transpose")


class OddNetwork(Network):
    """Draws what `Network` draws and what it leaves out."""

    def __init__(self, draw):
        super().__init__(draw)
        self.is_qdq = draw(st.integers(0, 2)) == 0
        self.seen: list[tuple[str, tuple[int, ...]]] = []  # tensors that may be outputs too
        self.kinds: dict[str, int] = {}

    # -- quantisers ---------------------------------------------------------------------------------------------------

    def activation(self, size: float = 1.0, per_channel: bool = False) -> None:
        how = self.draw(st.integers(0, 11))
        if self.is_qdq:
            self._qdq(size)
        elif how == 0 and self.seen:  # the first quantiser's input is floating-point
            self._multi_threshold(size)
        elif how == 1:
            super().activation(size, per_channel)
            self._trunc(size)
        else:
            super().activation(size, per_channel)
        self.seen.append((self.tensor, self.shape))

    def _qdq(self, size: float) -> None:
        """QuantizeLinear, a Clip of the integers for fewer bits in some, DequantizeLinear."""
        signed, bits = self.draw(st.booleans()), self.draw(st.sampled_from([8, 8, 8, 4, 3]))
        kind = np.int8 if signed else np.uint8
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        zero = self.draw(st.integers(low, high)) if self.draw(st.booleans()) else 0
        parts = [self.constant(self.scale(size * 2.0 / 2**bits)), self.constant(zero, kind)]
        tensor = self.node("QuantizeLinear", [self.tensor, *parts])
        if bits < 8:
            tensor = self.node("Clip", [tensor, self.constant(low, kind), self.constant(high, kind)])
        self.tensor = self.node("DequantizeLinear", [tensor, *parts])

    def weights(self, shape, channel_axis: int) -> str:
        if not self.is_qdq:
            return super().weights(shape, channel_axis)
        count = shape[channel_axis] if self.draw(st.booleans()) else None
        scales = np.float32(self.scale(0.05) * self.rng.uniform(0.5, 2, count))
        kind = np.int8 if self.draw(st.integers(0, 3)) else np.uint8
        zeros = np.full(np.shape(scales), 0 if kind == np.int8 else 128, kind)
        attrs = {} if count is None else {"axis": channel_axis}
        parts = [self.constant(scales), self.constant(zeros, kind)]
        if self.draw(st.booleans()):
            values = self.rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, endpoint=True)
            tensor = self.constant(values, kind)
        else:
            tensor = self.node("QuantizeLinear", [self.constant(self.rng.normal(0, 1, shape)), *parts], **attrs)
        return self.node("DequantizeLinear", [tensor, *parts], **attrs)

    def _multi_threshold(self, size: float) -> None:
        steps = self.draw(st.sampled_from([1, 3, 7, 15]))
        rows = self.shape[1] if self.draw(st.booleans()) else 1
        thresholds = np.sort(self.rng.normal(0, size, (rows, steps)), axis=1)
        bias = self.draw(st.sampled_from([0.0, -float(steps // 2 + 1)]))
        kind = f"{'UINT' if bias == 0 else 'INT'}{int(steps).bit_length() + (bias != 0)}"
        extra = {"data_layout": {2: "NC", 3: "NCW", 4: "NCHW"}[len(self.shape)]}
        inputs = [self.tensor, self.constant(thresholds)]
        self.tensor = self.node(
            "MultiThreshold", inputs, domain=QONNX, out_dtype=kind, out_bias=bias, out_scale=1.0, **extra
        )

    def _trunc(self, size: float) -> None:
        """A quantiser of eight bits whose lower ones are cut off."""
        scale = float(2.0 ** np.round(np.log2(size / 64)))
        self.tensor = self.quant(self.tensor, scale, 8, True, False)
        inputs = [self.tensor, *map(self.constant, (scale, 0.0, 8.0, float(self.draw(st.integers(2, 8)))))]
        mode = self.draw(st.sampled_from(["FLOOR", "ROUND"]))
        self.tensor = self.node("Trunc", inputs, domain=QONNX, rounding_mode=mode)

    # -- functions between a layer and its quantiser ------------------------------------------------------------------

    def _curve(self) -> None:
        op = self.draw(st.sampled_from(_CURVES)) if self.draw(st.booleans()) else ""
        if not op:
            super()._curve()
        elif op in ("Max", "Min"):
            self.apply(op, self.constant(self.rng.normal(0, 0.5, self.channel_shape())))
        elif op == "Pow":
            self.apply(op, self.constant(2.0))
        elif op == "Sum":
            self.apply(op, self.constant(0.25), self.constant(self.rng.normal(0, 0.5, self.channel_shape())))
        else:
            self.apply(op)

    # -- structure ----------------------------------------------------------------------------------------------------

    def structure(self) -> None:
        options = [*_FLAT, *(_SPATIAL if len(self.shape) >= 3 else ()), *(_IMAGE if len(self.shape) == 4 else ())]
        choice = self.draw(st.sampled_from(["", "", "", *options]))
        getattr(self, choice or "_usual")()

    def _usual(self) -> None:
        super().structure()

    def _slice(self) -> None:
        axis = self.draw(st.integers(1, len(self.shape) - 1))
        if self.shape[axis] < 2:
            return
        step = self.draw(st.sampled_from([1, 1, 2, -1]))
        start, stop = (0, self.shape[axis]) if step > 0 else (-1, -(1 << 60))
        if step == 1:
            start = self.draw(st.integers(0, self.shape[axis] - 1))
        size = -(-(self.shape[axis] - (start if step == 1 else 0)) // abs(step))
        shape = tuple(size if k == axis else d for k, d in enumerate(self.shape))
        parts = (self.constant([value], np.int64) for value in (start, stop, axis, step))
        self.apply("Slice", *parts, shape=shape)

    def _reshape(self) -> None:
        total = int(np.prod(self.shape[1:]))
        first = self.draw(st.sampled_from([d for d in range(1, total + 1) if total % d == 0]))
        shape = (BATCH, first, total // first)
        self.apply("Reshape", self.constant(shape, np.int64), shape=shape)
        if self.draw(st.booleans()):
            self.apply("Transpose", shape=(BATCH, shape[2], shape[1]), perm=[0, 2, 1])

    def _again(self) -> None:
        """The tensor beside itself, whole or rectified, along the channels."""
        start, shape = self.tensor, self.shape
        other = self.node("Relu", [start]) if self.draw(st.booleans()) else start
        self.tensor, self.shape = self.node("Concat", [start, other], axis=1), (BATCH, 2 * shape[1], *shape[2:])

    def _squeeze(self) -> None:
        shape = (BATCH, 1, *self.shape[1:])
        if len(shape) > 4:
            return
        self.apply("Unsqueeze", self.constant([1], np.int64), shape=shape)
        if self.draw(st.booleans()):
            self.apply("Squeeze", self.constant([1], np.int64), shape=(BATCH, *shape[2:]))

    def _odd_pool(self) -> None:
        n = len(self.shape) - 2
        kernel, stride = self.draw(st.integers(1, 3)), self.draw(st.integers(1, 3))
        attrs = {"kernel_shape": [kernel] * n, "strides": [stride] * n}
        how = self.draw(st.sampled_from(["plain", "ceil", "pads", "same"]))
        sizes = [(d - kernel) // stride + 1 for d in self.shape[2:]]
        if min(self.shape[2:]) < kernel:
            return
        if how == "ceil":
            attrs["ceil_mode"], sizes = 1, [-(-(d - kernel) // stride) + 1 for d in self.shape[2:]]
            if any((size - 1) * stride >= d for size, d in zip(sizes, self.shape[2:], strict=True)):
                return  # runtimes disagree on windows that start outside
        elif how == "pads" and kernel > 1:
            attrs["pads"], sizes = [1] * n + [0] * n, [(d + 1 - kernel) // stride + 1 for d in self.shape[2:]]
        elif how == "same":
            attrs["auto_pad"] = self.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
            if attrs["auto_pad"] != "VALID":
                sizes = [-(-d // stride) for d in self.shape[2:]]
        self.apply("MaxPool", shape=(*self.shape[:2], *sizes), **attrs)

    def _odd_average(self) -> None:
        n = len(self.shape) - 2
        if min(self.shape[2:]) < 2:
            return
        attrs = {"pads": [1] * n + [0] * n, "count_include_pad": 1} if self.draw(st.booleans()) else {}
        sizes = [(d + bool(attrs) - 2) // 2 + 1 for d in self.shape[2:]]
        self.apply("AveragePool", shape=(*self.shape[:2], *sizes), kernel_shape=[2] * n, strides=[2] * n, **attrs)

    def _global_max(self) -> None:
        self.apply("GlobalMaxPool", shape=(*self.shape[:2], *(1,) * (len(self.shape) - 2)))

    def _reduce_mean(self) -> None:
        """Over all spatial axes or the last, kept or not."""
        keep = self.draw(st.booleans())
        axes = list(range(2, len(self.shape))) if self.draw(st.booleans()) else [len(self.shape) - 1]
        shape = [1 if k in axes else d for k, d in enumerate(self.shape) if keep or k not in axes]
        self.apply("ReduceMean", shape=tuple(shape), axes=axes, keepdims=int(keep))

    def _crop(self) -> None:
        """What is padded is cut off again, on the other side."""
        n = len(self.shape) - 2
        pads = [0, 0, *[1] * n, 0, 0, *[0] * n]
        self.apply("Pad", self.constant(pads, np.int64), shape=(*self.shape[:2], *(d + 1 for d in self.shape[2:])))
        axes = list(range(2, 2 + n))
        parts = (self.constant(value, np.int64) for value in ([0] * n, [-1] * n, axes, [1] * n))
        self.apply("Slice", *parts, shape=(*self.shape[:2], *(d - 1 for d in self.shape[2:])))

    def _rows_last(self) -> None:
        perm = [0, *range(2, len(self.shape)), 1]
        self.apply("Transpose", shape=tuple(self.shape[k] for k in perm), perm=perm)

    def _upsample_by(self) -> None:
        by = self.draw(st.integers(1, 3))
        attrs = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        shape = (*self.shape[:2], by * self.shape[2], self.shape[3])
        self.apply("Resize", "", self.constant([1, 1, by, 1]), shape=shape, **attrs)

    def _space_to_depth(self) -> None:
        if self.shape[2] % 2 or self.shape[3] % 2:
            return
        shape = (BATCH, 4 * self.shape[1], self.shape[2] // 2, self.shape[3] // 2)
        self.apply("SpaceToDepth", shape=shape, blocksize=2)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """What follows the last quantiser: nothing, a layer whose sums go out, a class, a float function."""
        end = self.draw(st.sampled_from(_ENDS))
        if end == "accumulator":
            self.linear()
        elif end == "Flatten":
            self._flatten()
        elif end == "Transpose" and len(self.shape) == 3:
            self.apply("Transpose", shape=(BATCH, self.shape[2], self.shape[1]), perm=[0, 2, 1])
        elif end == "ArgMax":
            keep = self.draw(st.booleans())
            shape = (BATCH, *((1,) if keep else ()), *self.shape[2:])
            self.apply("ArgMax", shape=shape, axis=1, keepdims=int(keep))
            self.kinds[self.tensor] = TensorProto.INT64
        elif end == "TopK":
            values, index = self.name("values"), self.name("index")
            inputs = [self.tensor, self.constant([1], np.int64)]
            self.nodes.append(helper.make_node("TopK", inputs, [values, index], name=index, axis=1))
            self.tensor, self.shape = index, (BATCH, 1, *self.shape[2:])
            self.kinds[index] = TensorProto.INT64
        elif end == "Softmax":
            self.apply("Softmax", axis=len(self.shape) - 1)
        elif end == "Sigmoid":
            self.apply("Sigmoid")

    def model(self):
        model = super().model()
        del model.graph.output[:]
        ends = [(self.tensor, self.shape)]
        if self.seen and self.draw(st.integers(0, 3)) == 0:
            ends.append(self.draw(st.sampled_from(self.seen)))
        for name, shape in dict(ends).items():
            kind = self.kinds.get(name, TensorProto.FLOAT)
            model.graph.output.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return model


@st.composite
def odd_networks(draw):
    """(model, inputs): a random network, and BATCH samples that include saturating extremes."""
    net = OddNetwork(draw)
    net.activation(2.0)
    for _ in range(draw(st.integers(1, 3))):
        net.structure()
        if draw(st.integers(0, 4)):
            net.linear()
        net.between()
        if draw(st.integers(0, 4)) == 0:
            net.residual() if draw(st.booleans()) else net.branches()
        net.activation(draw(st.sampled_from([0.05, 0.3, 1.0, 4.0])), per_channel=True)
    net.end()
    inputs = net.rng.normal(0, 1.5, net.first_shape).astype(np.float32)
    inputs[0], inputs[1], inputs[2] = 1e3, -1e3, 0.0
    return net.model(), inputs
