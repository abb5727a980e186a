"""The steps of an HGQ2 network (worker.py) as an ONNX model of QONNX quantisers. It adds no arithmetic of its own.

quantise    values in steps of 2**-f between -k*2**i and 2**i - 2**-f; k, i, f vary with the channel. RND is
            floor(x + half a step), TRN floor, RND_CONV half to even. SAT clips; WRAP leaves out the bits above,
            which is the difference of two quantisers where the values can reach beyond the range
dense, conv, add, subtract, relu, max_pool, reshape
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.errors import Reason, ReasonKind, Refused, UnsupportedError
from greenedge.frontends.domains import QONNX
from greenedge.frontends.names import take_name
from greenedge.graph.ops.base import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_ROUNDINGS = ("RND", "RND_CONV")
_OVERFLOWS = ("WRAP", "SAT", "SAT_SYM")
_MOST_BITS = 24
_FIRST, _LAST = (0, 3, 1, 2), (0, 2, 3, 1)
OPSET = 13


class Network:
    """Nodes and constants; per value its name, its shape in Keras' order, and the range of each of its elements.

    An image has its channels first here, everything else Keras' order.
    """

    def __init__(self, name: str, arrays: Mapping[str, Array]) -> None:
        self.name, self.arrays = name, arrays
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.values: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.ranges: dict[str, tuple[Array, Array]] = {}
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.outputs: dict[str, tuple[int, ...]] = {}
        self.notes: list[str] = []
        self._taken: set[str] = set()

    def node(self, op: str, inputs: Sequence[str], name: str, domain: str = "", **attributes: Any) -> str:
        import onnx

        name = take_name(name, self._taken)
        self.nodes.append(onnx.helper.make_node(op, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def number(self, values: Any, name: str) -> str:
        name = take_name(name, self._taken)
        self.constants[name] = np.asarray(values, np.float32)
        return name

    def weights(self, values: Array, name: str) -> str:
        """Weights as integers and the largest power of two of which all are multiples. Raises Refused for weights that
        are no fixed-point numbers."""
        for bits in range(_MOST_BITS + 1):
            whole = np.ldexp(values, bits)
            if (whole == np.rint(whole)).all() and np.abs(whole).max(initial=0) < 1 << _MOST_BITS:
                break
        else:
            raise Refused(
                ReasonKind.UNSUPPORTED_BITS,
                f"weights that are no multiples of 2**-{_MOST_BITS}",
                "weights are fixed-point numbers",
                "quantise them by KBI or KIF",
            )
        stored = take_name(f"{name}_stored", self._taken)
        self.constants[stored] = whole.astype(np.int32)
        return self.node("DequantizeLinear", [stored, self.number(2.0**-bits, f"{name}_scale")], name)

    def sizes(self, values: Sequence[int], name: str) -> str:
        name = take_name(name, self._taken)
        self.constants[name] = np.asarray(values, np.int64)
        return name

    def put(self, step: Mapping[str, Any], value: str, shape: Sequence[int], low: Array, high: Array) -> None:
        out = step["output"]
        self.values[out], self.shapes[out] = value, tuple(shape)
        self.ranges[out] = np.broadcast_to(low, tuple(shape)), np.broadcast_to(high, tuple(shape))

    def spread(self, values: Array, shape: Sequence[int]) -> Array:
        """A parameter of every element as one that broadcasts: one number, one a channel, or one an element."""
        values = np.broadcast_to(values, tuple(shape))
        if (values == values.flat[0]).all():
            return np.asarray(values.flat[0])
        axes = tuple(range(values.ndim - 1))
        channel = values.reshape(-1, values.shape[-1])
        if (channel == channel[0]).all():
            return channel[0].reshape(-1, *(1,) * len(axes)) if len(shape) == 3 else channel[0]
        return values.transpose(2, 0, 1) if len(shape) == 3 else values

    def model(self) -> ModelProto:
        from onnx import TensorProto, helper, numpy_helper

        kind = TensorProto.FLOAT
        used = {name for node in self.nodes for name in node.input}
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info(name, kind, [1, *shape]) for name, shape in self.inputs.items()],
            [helper.make_tensor_value_info(name, kind, [1, *shape]) for name, shape in self.outputs.items()],
            [numpy_helper.from_array(values, name) for name, values in self.constants.items() if name in used],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(QONNX, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="greenedge")


def write_network(name: str, steps: Sequence[Mapping[str, Any]], arrays: Mapping[str, Array]) -> ModelProto:
    """The network as an ONNX model. Raises UnsupportedError with every reason why it cannot be."""
    net, reasons = Network(name, arrays), []
    for step in steps:
        try:
            _RULES[step["op"]](net, step)
        except Refused as refusal:
            reasons.append(Reason(step["name"], refusal.kind, refusal.value, refusal.rule, refusal.cure))
            break  # what reads it has no value
    if reasons:
        raise UnsupportedError(f"{name} cannot become an integer graph:", reasons)
    return net.model()


def _input(net: Network, step: Mapping[str, Any]) -> None:
    name, shape = take_name(step["name"], net._taken), tuple(step["shape"])
    net.inputs[name] = shape
    value = net.node("Transpose", [name], f"{name}_first", perm=list(_FIRST)) if len(shape) == 3 else name
    net.put(step, value, shape, np.array(-math.inf), np.array(math.inf))


def _output(net: Network, step: Mapping[str, Any]) -> None:
    (source,) = step["inputs"]
    value, shape = net.values[source], net.shapes[source]
    if len(shape) == 3:
        value = net.node("Transpose", [value], "output_last", perm=list(_LAST))
    net.outputs[value] = shape


def _quantise(net: Network, step: Mapping[str, Any]) -> None:
    (source,) = step["inputs"]
    shape = net.shapes[source]
    k, i, f = (np.broadcast_to(net.arrays[step[key]], shape).astype(np.float64) for key in "kif")
    if step["rounds"] not in _ROUNDINGS or step["overflow"] not in _OVERFLOWS:
        raise Refused(
            ReasonKind.UNSUPPORTED_ROUNDING,
            f"a quantiser that rounds by {step['rounds']} and overflows by {step['overflow']}",
            f"quantisers round by {', '.join(_ROUNDINGS)} and overflow by {', '.join(_OVERFLOWS)}",
            "train it with one of those",
        )
    live = k + i + f > 0
    f = np.where(live, f, f[live].max(initial=0))
    if (k + i + f).max(initial=0) > _MOST_BITS:
        raise Refused(
            ReasonKind.UNSUPPORTED_BITS,
            f"a quantiser of {int((k + i + f).max())} bits",
            f"quantisers have at most {_MOST_BITS}",
            "train it with fewer bits",
        )
    step_size = 2.0**-f
    top = np.where(live, 2.0**i - step_size, 0)
    bottom = np.where(live, -k * (2.0**i - (step_size if step["overflow"] == "SAT_SYM" else 0)), 0)
    low, high = net.ranges[source]
    half = step_size / 2 if step["rounds"] == "RND" else np.zeros(shape)
    reach = _round(low, step_size, step["rounds"]), _round(high, step_size, step["rounds"])
    value, name = net.values[source], step["name"]
    if step["overflow"] == "WRAP" and ((reach[0] < bottom) | (reach[1] > top))[live].any():
        raise Refused(
            ReasonKind.UNSUPPORTED_ROUNDING,
            "a quantiser that wraps around, of values that reach beyond its range",
            "the integer graph holds functions that do not wrap",
            "train it with overflow_mode='SAT' or 'SAT_SYM'",
        )
    value = _clip(net, value, name, shape, bottom, top)
    value = _round_to(net, value, name, shape, half, step_size, bottom, top, step)
    net.put(step, value, shape, np.clip(reach[0], bottom, top), np.clip(reach[1], bottom, top))


def _round(values: Array, size: Array, rounds: str) -> Array:
    """The rounded values; infinities stay."""
    y = values / size
    result: Array = size * (np.floor(y + 0.5) if rounds == "RND" else np.round(y))
    return result


def _clip(net: Network, value: str, name: str, shape: Sequence[int], bottom: Array, top: Array) -> str:
    """Between the ends of each channel, where they differ; Quant clips to those of all."""
    if (bottom == bottom.flat[0]).all() and (top == top.flat[0]).all():
        return value
    value = net.node("Max", [value, net.number(net.spread(bottom, shape), f"{name}_least")], f"{name}_at_least")
    return net.node("Min", [value, net.number(net.spread(top, shape), f"{name}_most")], f"{name}_at_most")


def _round_to(
    net: Network,
    value: str,
    name: str,
    shape: Sequence[int],
    half: Array,
    size: Array,
    bottom: Array,
    top: Array,
    step: Mapping[str, Any],
) -> str:
    """Quant: the levels of each channel, in its own steps."""
    if half.any():
        value = net.node("Add", [value, net.number(net.spread(half, shape), f"{name}_half")], f"{name}_up")
    mode = "ROUND" if step["rounds"] == "RND_CONV" else "FLOOR"
    levels = max(1, int((top / size).max()), int(-(bottom / size).min()) - 1)
    signed = bool((bottom < 0).any())
    bits = levels.bit_length() + signed
    narrow = step["overflow"] == "SAT_SYM" and signed
    parameters = [net.number(v, f"{name}_parameter") for v in (net.spread(size, shape), 0, bits)]
    return net.node(
        "Quant", [value, *parameters], name, QONNX, signed=int(signed), narrow=int(narrow), rounding_mode=mode
    )


def _product(weights: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Range of x @ weights."""
    up, down = np.maximum(weights, 0), np.minimum(weights, 0)
    with np.errstate(invalid="ignore"):
        return low @ up + high @ down, high @ up + low @ down


def _dense(net: Network, step: Mapping[str, Any]) -> None:
    (source,) = step["inputs"]
    kernel = net.arrays[step["kernel"]].astype(np.float64)
    value = net.node(
        "MatMul", [_file_order(net, source, step), net.weights(kernel, f"{step['name']}_kernel")], step["name"]
    )
    low, high = _product(kernel, *net.ranges[source])
    shape = (*net.shapes[source][:-1], kernel.shape[1])
    if "bias" in step:
        bias = net.arrays[step["bias"]].astype(np.float64)
        value = net.node("Add", [value, net.number(bias, f"{step['name']}_bias")], f"{step['name']}_biased")
        low, high = low + bias, high + bias
    if len(shape) == 3:
        value = net.node("Transpose", [value], f"{step['name']}_first", perm=list(_FIRST))
    net.put(step, value, shape, low, high)


def _file_order(net: Network, source: str, step: Mapping[str, Any]) -> str:
    value = net.values[source]
    if len(net.shapes[source]) == 3:
        return net.node("Transpose", [value], f"{step['name']}_last", perm=list(_LAST))
    return value


def _conv(net: Network, step: Mapping[str, Any]) -> None:
    (source,) = step["inputs"]
    shape, kernel = net.shapes[source], net.arrays[step["kernel"]].astype(np.float64)
    n, groups = kernel.ndim - 2, int(step["groups"])
    size = shape[:-1]
    total = [
        max((-(-s // t) - 1) * t + (w - 1) * d + 1 - s, 0) if step["padding"] == "same" else 0
        for s, t, w, d in zip(size, step["strides"], kernel.shape, step["dilations"], strict=False)
    ]
    pads = [*(t // 2 for t in total), *(t - t // 2 for t in total)]
    out = [
        (s + p - (w - 1) * d - 1) // t + 1
        for s, p, w, d, t in zip(size, total, kernel.shape, step["dilations"], step["strides"], strict=False)
    ]
    value = net.values[source]
    if n == 1:
        value = net.node("Transpose", [value], f"{step['name']}_first", perm=[0, 2, 1])
    weight = kernel.transpose(n + 1, n, *range(n))
    inputs = [value, net.weights(weight, f"{step['name']}_kernel")]
    low, high = (end.reshape(-1, shape[-1]) for end in net.ranges[source])
    low, high = np.minimum(low.min(0), 0), np.maximum(high.max(0), 0)  # the padding's 0 too
    per = shape[-1] // groups
    spread = [
        np.stack([end[g * per : (g + 1) * per] for g in np.repeat(np.arange(groups), kernel.shape[-1] // groups)])
        for end in (low, high)
    ]
    rows = weight.reshape(len(weight), per, -1)
    up, down = np.maximum(rows, 0).sum(2), np.minimum(rows, 0).sum(2)
    least, most = (spread[0] * up + spread[1] * down).sum(1), (spread[1] * up + spread[0] * down).sum(1)
    if "bias" in step:
        bias = net.arrays[step["bias"]].astype(np.float64)
        inputs.append(net.number(bias, f"{step['name']}_bias"))
        least, most = least + bias, most + bias
    value = net.node(
        "Conv",
        inputs,
        step["name"],
        kernel_shape=list(kernel.shape[:n]),
        strides=step["strides"],
        pads=pads,
        dilations=step["dilations"],
        group=groups,
    )
    if n == 1:
        value = net.node("Transpose", [value], f"{step['name']}_last", perm=[0, 2, 1])
    net.put(step, value, (*out, kernel.shape[-1]), least, most)


def _merge(sign: int, op: str) -> Any:
    def rule(net: Network, step: Mapping[str, Any]) -> None:
        a, b = step["inputs"]
        (low, high), other = net.ranges[a], net.ranges[b]
        less, more = (other[0], other[1]) if sign > 0 else (-other[1], -other[0])
        value = net.node(op, [net.values[a], net.values[b]], step["name"])
        net.put(step, value, net.shapes[a], low + less, high + more)

    return rule


def _relu(net: Network, step: Mapping[str, Any]) -> None:
    (source,) = step["inputs"]
    low, high = net.ranges[source]
    value = net.node("Relu", [net.values[source]], step["name"])
    net.put(step, value, net.shapes[source], np.maximum(low, 0), np.maximum(high, 0))


def _max_pool(net: Network, step: Mapping[str, Any]) -> None:
    (source,) = step["inputs"]
    shape, kernel, strides = net.shapes[source], step["kernel"], step["strides"]
    value = net.node("MaxPool", [net.values[source]], step["name"], kernel_shape=kernel, strides=strides)
    out = [(s - w) // t + 1 for s, w, t in zip(shape, kernel, strides, strict=False)]
    low, high = (end.reshape(-1, shape[-1]) for end in net.ranges[source])
    net.put(step, value, (*out, shape[-1]), low.min(0), high.max(0))


def _reshape(net: Network, step: Mapping[str, Any]) -> None:
    (source,) = step["inputs"]
    shape = tuple(step["shape"])
    value = _file_order(net, source, step)
    value = net.node("Reshape", [value, net.sizes([1, *shape], f"{step['name']}_shape")], step["name"])
    if len(shape) == 3:
        value = net.node("Transpose", [value], f"{step['name']}_first", perm=list(_FIRST))
    net.put(step, value, shape, *(end.reshape(shape) for end in net.ranges[source]))


_RULES: dict[str, Any] = {
    "input": _input,
    "output": _output,
    "quantise": _quantise,
    "dense": _dense,
    "conv": _conv,
    "add": _merge(1, "Add"),
    "subtract": _merge(-1, "Sub"),
    "relu": _relu,
    "max_pool": _max_pool,
    "reshape": _reshape,
}
