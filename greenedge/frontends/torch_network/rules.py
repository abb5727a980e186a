"""One rule an operator: it builds the torch.nn layer or the call that computes the same, or refuses."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.source import Node
from greenedge.frontends.torch_network.builder import Builder

if TYPE_CHECKING:
    from torch import fx, nn

Rule = Callable[[Builder, Node], "fx.Node"]


def _require(holds: object, value: str, rule: str, cure: str, kind: ReasonKind = ReasonKind.UNSUPPORTED_MODE) -> None:
    if not holds:
        raise Refused(kind, value, rule, cure)


# -- layers ------------------------------------------------------------------------------------------------------------


def _conv(b: Builder, node: Node) -> fx.Node:
    weight = b.constant(node, 1, "a convolution's weights are constants")
    rank = weight.ndim - 2
    is_transposed = node.op == "ConvTranspose"
    groups = int(node.attrs.get("group", 1))
    source, padding = _pad(b, node, rank, can_pad=not is_transposed)
    inputs, outputs = weight.shape[1] * groups, weight.shape[0]
    if is_transposed:
        inputs, outputs = outputs, inputs
    geometry: dict[str, Any] = {
        "stride": tuple(node.attrs.get("strides", [1] * rank)),
        "dilation": tuple(node.attrs.get("dilations", [1] * rank)),
        "padding": padding,
        "groups": groups,
        "bias": len(node.inputs) > 2 and bool(node.inputs[2]),
    }
    if is_transposed:
        geometry["output_padding"] = tuple(node.attrs.get("output_padding", [0] * rank))
    kind = _of_rank(f"Conv{'Transpose' if is_transposed else ''}", rank)
    layer = kind(inputs, outputs, weight.shape[2:], **geometry)
    return b.call(node, _fill(layer, weight, b.optional(node, 2)), source, weight=node.inputs[1])


def _of_rank(name: str, rank: int) -> Any:
    """The torch.nn class for that many dimensions."""
    from torch import nn

    _require(
        rank in (1, 2),
        f"{rank} dimensions",
        "layers here have one or two",
        "use one or two dimensions",
        ReasonKind.UNSUPPORTED_SHAPE,
    )
    return getattr(nn, f"{name}{rank}d")


def _pad(b: Builder, node: Node, rank: int, can_pad: bool = True) -> tuple[fx.Node, tuple[int, ...]]:
    """(the input, the padding that the layer does itself): where the two sides differ a Pad of zeros comes first."""
    import torch.nn.functional as F

    pads = list(node.attrs.get("pads", [0] * 2 * rank))
    source = b.live(node)
    if pads[:rank] == pads[rank:]:
        return source, tuple(pads[:rank])
    _require(can_pad, f"pads {pads}", "both sides are padded alike", "pad both sides alike")
    ends = [item for k in reversed(range(rank)) for item in (pads[k], pads[rank + k])]
    return b.apply(F.pad, source, ends), (0,) * rank


def _fill(layer: Any, weight: NDArray[Any], bias: NDArray[Any] | None) -> nn.Module:
    import torch

    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(weight, np.float32)))
        if bias is not None:
            layer.bias.copy_(torch.from_numpy(np.array(bias, np.float32)))
    return layer


def _gemm(b: Builder, node: Node) -> fx.Node:
    alpha, beta = (float(node.attrs.get(key, 1.0)) for key in ("alpha", "beta"))
    _require(not node.attrs.get("transA", 0), "transA", "samples are rows", "transpose the input before it")
    weight = alpha * b.constant(node, 1, "a dense layer's weights are constants")
    bias = b.optional(node, 2)
    weight = weight if node.attrs.get("transB", 0) else weight.T
    return _dense(b, node, weight, None if bias is None else beta * np.broadcast_to(bias.reshape(-1), len(weight)))


def _matmul(b: Builder, node: Node) -> fx.Node:
    if all(name in b.values for name in node.inputs):
        import torch

        return b.apply(torch.matmul, *(b.live(node, k) for k in (0, 1)))
    b.live(node)
    weight = b.constant(node, 1, "a dense layer's weights are constants")
    _require(weight.ndim == 2, f"weights of rank {weight.ndim}", "a dense layer has a matrix", "use a matrix")
    return _dense(b, node, weight.T, None)


def _dense(b: Builder, node: Node, weight: NDArray[Any], bias: NDArray[Any] | None) -> fx.Node:
    from torch import nn

    source = b.live(node)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return b.call(node, _fill(layer, weight, bias), source, weight=node.inputs[1])


def _batch_norm(b: Builder, node: Node) -> fx.Node:
    b.live(node)
    scale, offset, mean, variance = (
        b.constant(node, k, "a batch norm's parameters are constants").astype(np.float64) for k in range(1, 5)
    )
    factor = scale / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
    return b.scale_channels(node, node.inputs[0], factor, offset - mean * factor)


def _layer_norm(b: Builder, node: Node) -> fx.Node:
    import torch
    from torch import nn

    width = b.shape(node.inputs[0])[-1]
    axis = int(node.attrs.get("axis", -1))
    _require(
        axis in (-1, len(b.shape(node.inputs[0])) - 1), f"axis {axis}", "rows lie along the last axis", "transpose"
    )
    parameters = [b.optional(node, k) for k in (1, 2)]
    norm = nn.LayerNorm(width, eps=float(node.attrs.get("epsilon", 1e-5)))
    with torch.no_grad():
        for parameter, given in zip((norm.weight, norm.bias), parameters, strict=True):
            if given is not None:
                parameter.copy_(torch.from_numpy(np.broadcast_to(given.astype(np.float32), (width,)).copy()))
    return b.call(node, norm, b.live(node))


# -- arithmetic --------------------------------------------------------------------------------------------------------


def _arithmetic(b: Builder, node: Node) -> fx.Node:
    """Add, Sub, Mul, Div: of two activations (Add and Mul alone), or with a constant for each channel."""
    live = [name for name in node.inputs if name in b.values]
    if len(live) == 2:
        return _two_activations(b, node)
    if (placed := _place_constant(b, node, live[0])) is not None:
        return placed
    constant = b.source.constants[next(name for name in node.inputs if name not in b.values)].astype(np.float64)
    is_first = live[0] == node.inputs[0]
    value = _per_channel(b, live[0], constant)
    ones, zeros = np.ones_like(value), np.zeros_like(value)
    if node.op == "Div":
        _require(is_first, "a constant divided by an activation", "a reciprocal has no layer", "multiply instead")
        return b.scale_channels(node, live[0], 1 / value, zeros)
    if node.op == "Mul":
        return b.scale_channels(node, live[0], value, zeros)
    if node.op == "Add":
        return b.scale_channels(node, live[0], ones, value)
    return b.scale_channels(node, live[0], ones if is_first else -ones, -value if is_first else value)


def _place_constant(b: Builder, node: Node, name: str) -> fx.Node | None:
    """Behind a tensor of places and features (samples, places, features) or of heads: a number is a factor, and what is
    added is a tensor of the network (a bias along the last axis, a position embedding, a mask). None for images and
    vectors, whose constants belong to channels."""
    import torch

    shape = b.shape(name)
    if not b.is_sequence(name):
        return None
    constant = b.source.constants[next(one for one in node.inputs if one not in b.values)].astype(np.float32)
    if np.broadcast_shapes(constant.shape, shape) != shape:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"a constant of shape {constant.shape} against {shape}",
            "a constant does not widen a tensor",
            "expand the tensor explicitly",
        )
    source, is_first = b.values[name], name == node.inputs[0]
    if node.op == "Add" and constant.size == constant.shape[-1] == shape[-1] and b.is_alone(name):
        return b.add_bias(source, constant.reshape(-1))
    if constant.size == 1 and node.op in ("Mul", "Div") and (is_first or node.op == "Mul"):
        return b.apply(operator.mul if node.op == "Mul" else operator.truediv, source, float(constant.item()))
    if node.op in ("Add", "Sub") and (is_first or node.op == "Add"):
        return b.apply(torch.add, source, b.buffer(node, constant if node.op == "Add" else -constant))
    raise Refused(
        ReasonKind.CONSTANT,
        f"{node.op} by a constant of shape {constant.shape} between places",
        "a sequence is scaled by one number",
        "put the factors into the layer before it",
    )


def _two_activations(b: Builder, node: Node) -> fx.Node:
    import torch

    one, other = (b.live(node, k) for k in (0, 1))
    if node.op == "Add":
        return b.apply(operator.add, one, other)
    _require(
        node.op == "Mul",
        f"{node.op} of two activations",
        "two activations are added or multiplied",
        "write it as a sum",
        ReasonKind.TWO_ACTIVATIONS,
    )
    return _gate(b, node, one, other) or b.apply(torch.mul, one, other)


def _gate(b: Builder, node: Node, one: fx.Node, other: fx.Node) -> fx.Node | None:
    """x · sigmoid(x) and x · hardsigmoid(x) as one activation; None for anything else."""
    from torch import nn

    kinds: dict[type, Callable[[], nn.Module]] = {nn.Sigmoid: nn.SiLU, nn.Hardsigmoid: nn.Hardswish}
    for gate, x, name in ((one, other, node.inputs[0]), (other, one, node.inputs[1])):
        module = b.modules.get(str(gate.target)) if gate.op == "call_module" else None
        if module is not None and type(module) in kinds and gate.args[0] is x and b.readers[name] == 1:
            return b.call(node, kinds[type(module)](), x)
    return None


def _per_channel(b: Builder, name: str, constant: NDArray[Any]) -> NDArray[np.float64]:
    """(channels,) of a constant that is the same at every position. Raises Refused for another one."""
    shape = b.shape(name)
    try:
        full = np.broadcast_to(constant, shape)
    except ValueError:
        full = np.zeros(0)
    rule = "a constant is one number, or one for each channel"
    _require(full.shape == shape, f"a constant of shape {constant.shape}", rule, "give each channel one number")
    rows = np.moveaxis(full, 1, 0).reshape(shape[1], -1) if len(shape) > 1 else full.reshape(1, -1)
    _require(
        (rows == rows[:, :1]).all(),
        f"a constant of shape {constant.shape} that differs from position to position",
        rule,
        "give each channel one number",
        ReasonKind.CONSTANT,
    )
    return rows[:, 0].astype(np.float64)


# -- activations -------------------------------------------------------------------------------------------------------


def _activation(make: Callable[[Node], nn.Module]) -> Rule:
    return lambda b, node: b.call(node, make(node), b.live(node))


def _torch_nn(name: str, **attributes: str) -> Rule:
    """An activation by its class in torch.nn; `attributes` maps its arguments to ONNX's "name=default"."""

    def make(node: Node) -> nn.Module:
        from torch import nn

        given = {key: text.partition("=") for key, text in attributes.items()}
        values = {key: float(node.attrs.get(parts[0], parts[2])) for key, parts in given.items()}
        return getattr(nn, name)(**values)

    return _activation(make)


def _clip(b: Builder, node: Node) -> fx.Node:
    from torch import nn

    low, high = (
        float(found.reshape(-1)[0]) if (found := b.optional(node, k)) is not None else math.copysign(math.inf, sign)
        for k, sign in ((1, -1), (2, 1))
    )
    if low == 0 and math.isinf(high):
        return b.call(node, nn.ReLU(), b.live(node))
    if (low, high) == (0, 6):
        return b.call(node, nn.ReLU6(), b.live(node))
    _require(math.isfinite(low) and math.isfinite(high), f"limits {low:g}…{high:g}", "both are finite", "give both")
    return b.call(node, nn.Hardtanh(low, high), b.live(node))


def _hard_sigmoid(b: Builder, node: Node) -> fx.Node:
    from torch import nn

    alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
    is_torchs = abs(alpha - 1 / 6) < 1e-6 and beta == 0.5
    _require(is_torchs, f"alpha {alpha:g}, beta {beta:g}", "torch's has 1/6 and 1/2", "use torch.nn.Hardsigmoid")
    return b.call(node, nn.Hardsigmoid(), b.live(node))


def _gelu(b: Builder, node: Node) -> fx.Node:
    from torch import nn

    return b.call(node, nn.GELU(approximate=str(node.attrs.get("approximate", "none"))), b.live(node))


def _host_end(name: str, default: int) -> Rule:
    """A function of the scores at the model's end, which the host computes; a softmax of rows inside is attention's."""

    def rule(b: Builder, node: Node) -> fx.Node:
        from torch import nn

        axis = int(node.attrs.get("axis", default))
        if node.op == "Softmax" and axis in (-1, len(b.shape(node.inputs[0])) - 1) and b.is_sequence(node.inputs[0]):
            return b.call(node, nn.Softmax(dim=-1), b.live(node))
        _require(
            node.outputs[0] in b.source.outputs and b.readers[node.outputs[0]] == 1,
            f"{node.op} inside the model",
            "it is computed at the end, by the host",
            "cut the model there",
        )
        return b.call(node, getattr(nn, name)(dim=int(node.attrs.get("axis", default))), b.live(node))

    return rule


# -- pools and moves ---------------------------------------------------------------------------------------------------


def _pool(b: Builder, node: Node) -> fx.Node:
    kernel = tuple(node.attrs["kernel_shape"])
    rank = len(kernel)
    pads = list(node.attrs.get("pads", [0] * 2 * rank))
    _require(pads[:rank] == pads[rank:], f"pads {pads}", "both sides are padded alike", "pad both sides alike")
    options: dict[str, Any] = {
        "stride": tuple(node.attrs.get("strides", [1] * rank)),
        "padding": tuple(pads[:rank]),
        "ceil_mode": bool(node.attrs.get("ceil_mode", 0)),
    }
    if node.op == "MaxPool":
        _require(len(node.outputs) < 2 or not node.outputs[1], "indices", "they are not kept", "leave them out")
        options["dilation"] = tuple(node.attrs.get("dilations", [1] * rank))
    else:
        options["count_include_pad"] = bool(node.attrs.get("count_include_pad", 0))
    kind = _of_rank("MaxPool" if node.op == "MaxPool" else "AvgPool", rank)
    return b.call(node, kind(kernel, **options), b.live(node))


def _global_pool(b: Builder, node: Node) -> fx.Node:
    shape = b.shape(node.inputs[0])
    rank = len(shape) - 2
    if node.op == "GlobalMaxPool":
        return b.call(node, _of_rank("MaxPool", rank)(shape[2:]), b.live(node))
    return b.call(node, _of_rank("AdaptiveAvgPool", rank)(1), b.live(node))


def _reduce_mean(b: Builder, node: Node) -> fx.Node:
    shape = b.shape(node.inputs[0])
    given = node.attrs.get("axes", b.optional(node, 1))
    axes = sorted({int(a) % len(shape) for a in given}) if given is not None else []
    if axes == [1] and len(shape) == 3:  # of all places
        import torch

        return b.apply(torch.mean, b.live(node), 1, bool(node.attrs.get("keepdims", 1)))
    _require(
        axes == list(range(2, len(shape))) and len(axes) in (1, 2),
        f"a mean over the axes {axes or 'all'}",
        "a mean is over all positions of a channel",
        "use a global average pool",
    )
    pooled = b.call(node, _of_rank("AdaptiveAvgPool", len(axes))(1), b.live(node))
    if int(node.attrs.get("keepdims", 1)):
        return pooled
    import torch

    return b.apply(torch.flatten, pooled, 1)


def _reshape(b: Builder, node: Node) -> fx.Node:
    """Flatten, Reshape, Squeeze, Unsqueeze: the same elements in another shape, sample by sample."""
    import torch

    before, after = b.shape(node.inputs[0]), b.shape(node.outputs[0])
    _require(
        after[:1] == before[:1],
        f"shape {before} to {after}",
        "the first axis is the samples'",
        "keep the batch axis in front",
        ReasonKind.UNSUPPORTED_SHAPE,
    )
    if before == after:
        return b.live(node)
    if len(after) == 2:
        return b.apply(torch.flatten, b.live(node), 1)
    return b.apply(torch.reshape, b.live(node), (-1, *after[1:]))


def _transpose(b: Builder, node: Node) -> fx.Node:
    order = tuple(node.attrs.get("perm", ()))
    _require(order[:1] == (0,), f"the order {order}", "the first axis is the samples'", "keep the batch axis in front")
    return b.graph.call_method("permute", (b.live(node), *order))  # torch's function of it drops a scale


def _gather(b: Builder, node: Node) -> fx.Node:
    """One place along an axis, by a constant number."""
    import torch

    index = b.constant(node, 1, "places are constants")
    axis, rank = int(node.attrs.get("axis", 0)), len(b.shape(node.inputs[0]))
    _require(
        index.size == 1 and axis % rank > 0,
        f"{index.size} places along axis {axis}",
        "one place is taken, not of the samples",
        "split it into one selection for each",
    )
    chosen = b.apply(torch.select, b.live(node), axis % rank, int(index.item()))
    return b.apply(torch.unsqueeze, chosen, axis % rank) if index.ndim else chosen


def _concat(b: Builder, node: Node) -> fx.Node:
    import torch

    return b.apply(torch.cat, [b.live(node, k) for k in range(len(node.inputs))], int(node.attrs["axis"]))


def _pad_node(b: Builder, node: Node) -> fx.Node:
    import torch.nn.functional as F

    given = b.optional(node, 1)
    fill = b.optional(node, 2)
    pads = node.attrs.get("pads") if given is None else [int(each) for each in given]
    mode, value = node.attrs.get("mode", "constant"), 0.0 if fill is None else float(fill.reshape(-1)[0])
    _require(mode == "constant" and value == 0, f"{mode} pads of {value:g}", "pads are zeros", "pad with zeros")
    rank = len(b.shape(node.inputs[0]))
    _require(
        pads is not None and len(pads) == 2 * rank and not any(pads[k] or pads[rank + k] for k in (0, 1)),
        f"pads {pads}",
        "positions are padded, neither samples nor channels",
        "pad height and width alone",
    )
    assert pads is not None
    return b.apply(F.pad, b.live(node), [int(p) for k in reversed(range(2, rank)) for p in (pads[k], pads[rank + k])])


def _resize(b: Builder, node: Node) -> fx.Node:
    from torch import nn

    before, after = b.shape(node.inputs[0]), b.shape(node.outputs[0])
    factors = [y // x for x, y in zip(before, after, strict=True)]
    mode = node.attrs.get("mode", "nearest")
    _require(mode == "nearest", f"mode {mode!r}", "only 'nearest' copies levels", "use mode='nearest'")
    _require(
        all(x * f == y for x, f, y in zip(before, factors, after, strict=True)) and factors[:2] == [1, 1],
        f"shape {before} to {after}",
        "each position is copied a whole number of times",
        "use a whole factor",
    )
    return b.call(node, nn.Upsample(scale_factor=tuple(map(float, factors[2:]))), b.live(node))


def _identity(b: Builder, node: Node) -> fx.Node:
    return b.live(node)


RULES: Mapping[str, Rule] = {
    "Add": _arithmetic,
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Div": _arithmetic,
    "Dropout": _identity,
    "Elu": _torch_nn("ELU", alpha="alpha=1"),
    "Flatten": _reshape,
    "Gelu": _gelu,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _torch_nn("Hardswish"),
    "Identity": _identity,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _torch_nn("LeakyReLU", negative_slope="alpha=0.01"),
    "LogSoftmax": _host_end("LogSoftmax", -1),
    "MatMul": _matmul,
    "MaxPool": _pool,
    "Mul": _arithmetic,
    "Pad": _pad_node,
    "ReduceMean": _reduce_mean,
    "Relu": _torch_nn("ReLU"),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _torch_nn("Sigmoid"),
    "Softmax": _host_end("Softmax", -1),
    "Squeeze": _reshape,
    "Sub": _arithmetic,
    "Tanh": _torch_nn("Tanh"),
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
