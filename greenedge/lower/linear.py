"""Layers of multiplications: MatMul, Gemm, Conv, ConvTranspose.

scale_x*(q - zero_x) · scale_w[o]*(w - zero_w)  →  scale_x*scale_w[o] * (Dense/Conv(q) - zero_x * sum of w)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.source import Node
from greenedge.graph import Conv, ConvTranspose, Dense, Transpose, freeze
from greenedge.graph.ops.base import Array, Ints
from greenedge.lower.expr import Const, Expr, Var
from greenedge.lower.rows import multiply_matrices
from greenedge.lower.values import Broken, Constant, Grid, Host, Live, Value
from greenedge.lower.walk import Args, Rule, Silent, Walk

_MAX_MULTIPLIER = 256  # unequal scales along the input channels fold into the weights up to this ratio


def matmul(walk: Walk, node: Node, args: Args) -> Value:
    """MatMul(x, W) → Dense(W, x); MatMul(W, x) → Transpose(Dense(Wᵀ, Transpose(x))); MatMul(x, y) of two activations →
    MatMul(x, y)."""
    a, b = args
    if isinstance(a, (Constant, Grid)) and isinstance(b, (Constant, Grid)):
        return walk.fold(node, args)
    if isinstance(a, (Constant, Grid)):
        return _matmul_weights_first(walk, node, a, b)
    if isinstance(a, Live) and isinstance(b, Live):
        return multiply_matrices(walk, node, a, b)
    weight = _require_weights(b, "qnn.QuantLinear")
    if weight.ints.ndim != 2:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"weights of shape {weight.ints.shape}",
            "a dense layer has a matrix of weights",
            "split it into one layer per matrix",
        )
    return _emit_dense(walk, node, a, weight)


def _matmul_weights_first(walk: Walk, node: Node, a: Value, b: Value | None) -> Value:
    """W @ x contracts the last axis but one of x: transpose, dense, transpose back."""
    weight = _require_weights(a, "qnn.QuantLinear")
    value = require_activation(walk, node, b)
    rank = len(walk.edge_shape(value))
    if weight.ints.ndim != 2 or rank != 2:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"weights on the left of a tensor with {rank} axes",
            "W @ x is taken for x of two axes",
            "use x @ W",
        )
    columns = _swap_axes(walk, node, value)
    return _swap_axes(walk, node, _emit_dense(walk, node, columns, weight.map(lambda p: p.T)))


def _swap_axes(walk: Walk, node: Node, value: Live) -> Live:
    """xᵀ for x of two axes (batch not counted)."""
    return walk.transform(
        node, value, lambda name: Transpose(name, (value.edge,), name, (1, 0)), lambda p: p.transpose(1, 0)
    )


def gemm(walk: Walk, node: Node, args: Args) -> Value:
    """Gemm(x, W, b) = alpha * x·W + beta * b → alpha * Dense(W, x) + beta * b; W may come transposed."""
    attrs = node.attrs
    if attrs.get("transA", 0):
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE, "Gemm with transA", "the batch is the first axis", "use a Linear layer"
        )
    weight = _require_weights(args[1], "qnn.QuantLinear")
    if attrs.get("transB", 0):
        weight = weight.map(lambda p: p.T)
    result = _emit_dense(walk, node, args[0], weight)
    alpha, beta = float(attrs.get("alpha", 1.0)), float(attrs.get("beta", 1.0))
    if alpha != 1.0:
        result = Live(result.edge, result.expr * Const.of(alpha))
    if len(args) > 2 and args[2] is not None:
        bias = _require_bias(args[2])
        result = _add_bias(walk, result, bias if beta == 1.0 else bias * np.float64(beta), channel_last=True)
    return result


def _emit_dense(walk: Walk, node: Node, x: Value | None, weight: Grid) -> Live:
    """(q - zero_x)*scale_x · (w - zero_w)*scale_w → (Dense(q) - offset) * scale_x*scale_w; weight is (in, out)."""
    value = require_activation(walk, node, x)
    scale, zero = walk.builder.require_grid(value)
    ints = weight.ints - _require_whole(weight.zero, "weight zero point")
    rank = len(walk.edge_shape(value))
    if scale.size > 1:
        along = np.broadcast_to(scale.reshape(-1), (ints.shape[0],)) if scale.shape[-1] > 1 else None
        if along is None or any(d > 1 for d in scale.shape[:-1]):
            raise Refused(
                ReasonKind.UNSUPPORTED_SCALE,
                "its input's scale varies along an axis that is kept",
                "one scale per tensor",
                "use a per-tensor scale",
            )
        ints, scale = _fold_input_scales(ints, along, 0)
    w_scale = weight.scale.reshape(-1)
    if weight.scale.shape[0] > 1:
        raise _varying_weight_scale("use Int8WeightPerChannelFloat")
    name = walk.builder.unique(node)
    zeros = _require_whole(zero, "input zero point").reshape(-1)
    edge = walk.builder.emit_sum(Dense(name, (value.edge,), name, freeze(ints)), value)
    offset = (ints * (zeros[:, None] if zeros.size > 1 else zeros)).sum(axis=0)
    ones = (1,) * (rank - 1)
    x_scale = np.asarray(scale).reshape(-1)[:1].reshape((1,) * rank)
    return Live(edge, _rescale_sum(offset.reshape(*ones, -1), w_scale.reshape(*ones, -1), x_scale))


def _varying_weight_scale(cure: str) -> Refused:
    return Refused(
        ReasonKind.UNSUPPORTED_SCALE,
        "its weight scale varies along the inputs",
        "weights have one scale per output channel",
        cure,
    )


def conv(walk: Walk, node: Node, args: Args) -> Value:
    """Conv(x, W, b) → (Conv(q, w) - offset) * scale_x*scale_w + b; padding is by the input's zero point, which is real
    0."""
    weight = _require_weights(args[1], "qnn.QuantConv2d")
    value = require_activation(walk, node, args[0])
    n = weight.ints.ndim - 2
    strides, dilations, groups = window_attributes(node, n)
    size = walk.edge_shape(value)
    pads = resolve_pads(node, size[1:], weight.ints.shape[2:], strides, dilations)
    ints, scale, zeros, w_scale = _conv_parameters(walk, value, weight, groups)
    name = walk.builder.unique(node)
    if any(pads) and len(set(zeros.tolist())) > 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            "padding an input whose zero point varies per channel",
            "one zero point per padded tensor",
            "use a per-tensor zero point",
        )
    op = Conv(name, (value.edge,), name, freeze(ints), strides, pads, dilations, groups, int(zeros[0]))
    out = walk.builder.emit_sum(op, value)
    sums = ints.reshape(ints.shape[0], ints.shape[1], -1).sum(2)  # (O, I/g)
    per_group = np.broadcast_to(zeros, (size[0],)).reshape(groups, -1)  # (g, I/g)
    offset = (sums * np.repeat(per_group, ints.shape[0] // groups, axis=0)).sum(1)
    spread = (-1, *(1,) * n)
    result = Live(out, _rescale_sum(offset.reshape(spread), w_scale.reshape(spread), scale.reshape(spread)))
    return _add_optional_bias(walk, result, args)


def conv_transpose(walk: Walk, node: Node, args: Args) -> Value:
    """ConvTranspose(x, W, b) → ConvTranspose(q, w) * scale_x*scale_w + b, for an input with zero point 0."""
    weight = _require_weights(args[1], "qnn.QuantConvTranspose2d")
    value = require_activation(walk, node, args[0])
    n = weight.ints.ndim - 2
    if node.attrs.get("output_shape") or node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            "ConvTranspose with output_shape or auto_pad",
            "pads must be explicit",
            "set padding and output_padding",
        )
    strides, dilations, groups = window_attributes(node, n)
    pads = tuple(node.attrs.get("pads", (0,) * (2 * n)))
    output_padding = tuple(node.attrs.get("output_padding", (0,) * n))
    scale, zero = walk.builder.require_grid(value)
    zeros = _require_whole(zero, "input zero point").reshape(-1)
    if scale.size > 1 or zeros.any():
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            "a transposed convolution of an input with a zero point or per-channel scale",
            "its border sees fewer samples",
            "use a symmetric per-tensor quantiser",
        )
    ints = weight.ints - _require_whole(weight.zero, "weight zero point")
    if weight.scale.shape[0] > 1 or (groups > 1 and weight.scale.shape[1] > 1):
        raise _varying_weight_scale("use one weight scale per tensor")
    name = walk.builder.unique(node)
    out = walk.builder.emit_sum(
        ConvTranspose(name, (value.edge,), name, freeze(ints), strides, pads, dilations, output_padding, groups), value
    )
    ones, spread = (1,) * (n + 1), (-1, *(1,) * n)
    no_offset = np.zeros(ones, np.int64)
    result = Live(out, _rescale_sum(no_offset, weight.scale.reshape(spread), scale.reshape(ones)))
    return _add_optional_bias(walk, result, args)


# -- pieces -----------------------------------------------------------------------------------------------------------


def _require_weights(value: Value | None, layer: str) -> Grid:
    """The constant integers of a layer's weights; integer-valued floats count. Raises Refused for any other tensor."""
    if isinstance(value, Grid):
        return value
    if isinstance(value, Constant):
        array = np.asarray(value.array)
        if array.dtype.kind in "iu" or (
            np.array_equal(array, np.rint(array)) and np.abs(array).max(initial=0) < 1 << 15
        ):
            ints = array.astype(np.int64)
            bits = int(np.abs(ints).max(initial=1)).bit_length() + 1
            return Grid(ints, np.ones((1,) * ints.ndim), np.zeros((1,) * ints.ndim), bits)
        raise Refused(
            ReasonKind.UNQUANTISED,
            f"its weights are {array.dtype} of shape {array.shape}",
            "an integer layer needs quantised weights",
            f"use {layer}(weight_bit_width=4) and train or calibrate again",
        )
    if isinstance(value, Broken):
        raise Silent
    raise Refused(
        ReasonKind.TWO_ACTIVATIONS,
        "both its inputs are activations",
        "products of two activations are not integer layers yet",
        "keep attention-like products on the host",
    )


def require_activation(walk: Walk, node: Node, value: Value | None) -> Live:
    """The tensor as levels on an edge. Raises Refused for a float tensor, which no integer layer reads."""
    if isinstance(value, Live):
        return walk.builder.materialise(node, value)
    if isinstance(value, Broken):
        raise Silent
    if isinstance(value, Host) and value.origin is not None:
        raise Refused(
            ReasonKind.FLOAT_ISLAND,
            f"its input passed through {value.history}",
            "float arithmetic is possible before the first and after the last integer layer only",
            value.cure,
        )
    raise Refused(
        ReasonKind.UNQUANTISED,
        "the model's input reaches it without a quantiser",
        "integer layers need quantised inputs",
        "put a QuantIdentity(bit_width=8) first, or declare the input, for example --input-type uint8:1/255",
    )


def _require_whole(zero: Array, what: str) -> Ints:
    """Zero points as integers; `what` names them in the reason."""
    values = np.asarray(zero)
    if any(abs(v) > 1 << 31 or v != int(v) for v in values.ravel().tolist()):
        raise Refused(
            ReasonKind.UNSUPPORTED_ZERO_POINT,
            f"a fractional or huge {what}",
            "zero points must be integers of at most 32 bits",
            "use a symmetric quantiser",
        )
    return values.astype(np.int64)


def _fold_input_scales(ints: Ints, scales: Array, axis: int) -> tuple[Ints, Array]:
    """sum over i of w[i]*s[i]*q[i] → s * sum of (w[i]*s[i]/s)*q[i], s = min s[i], where all s[i]/s are small whole
    numbers.

    (weights, (1,) scale); i runs along `axis` of the weights.
    """
    base = min(scales.tolist())
    ratios = [s / base for s in scales.tolist()]
    if any(r.denominator != 1 or r > _MAX_MULTIPLIER for r in ratios):
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            "its input channels have scales in no small whole ratio",
            "a sum needs one scale",
            "use one per-tensor quantiser before this layer",
        )
    shape = [1] * ints.ndim
    shape[axis] = -1
    return ints * np.array([int(r) for r in ratios]).reshape(shape), np.array([base], dtype=object)


def _conv_parameters(walk: Walk, value: Live, weight: Grid, groups: int) -> tuple[Ints, Array, Ints, Array]:
    """(weights, input scale per output or one, input zero per channel, weight scale per output) of a convolution."""
    scale, zero = walk.builder.require_grid(value)
    channels = walk.edge_shape(value)[0]
    if any(d > 1 for part in (scale, zero) for d in part.shape[1:]):
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            "its input's scale varies along the image",
            "scales vary per channel at most",
            "use a per-tensor scale",
        )
    ints = weight.ints - _require_whole(weight.zero, "weight zero point")
    if any(d > 1 for d in weight.scale.shape[1:]):
        raise _varying_weight_scale("use Int8WeightPerChannelFloat")
    zeros = np.broadcast_to(_require_whole(zero, "input zero point").reshape(-1), (channels,))
    scales = np.broadcast_to(scale.reshape(-1), (channels,))
    per_out = ints.shape[0] // groups
    if len(set(scales.tolist())) == 1:
        return ints, scales[:1], zeros, weight.scale.reshape(-1)
    if ints.shape[1] == 1:  # depthwise: every output sees one input channel
        return ints, np.repeat(scales, per_out), zeros, weight.scale.reshape(-1)
    if groups > 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            "a grouped convolution of channels with unequal scales",
            "one scale per group",
            "use one per-tensor quantiser before this layer",
        )
    ints, scale = _fold_input_scales(ints, scales, 1)
    return ints, scale, zeros, weight.scale.reshape(-1)


def _rescale_sum(offset: Ints, w_scale: Array, x_scale: Array) -> Expr:
    """(acc - offset) * w_scale * x_scale."""
    acc: Expr = Var()
    if np.any(offset):
        acc = acc + Const.of(-offset)
    return acc * Const.of(np.asarray(w_scale, np.float64)) * Const.of(np.asarray(x_scale, dtype=object))


def _require_bias(value: Value) -> Array:
    """The real values of a constant bias, floats or Fractions."""
    if isinstance(value, Grid):
        return value.real()
    if isinstance(value, Constant):
        return np.asarray(value.array, np.float64)
    raise Refused(
        ReasonKind.TWO_ACTIVATIONS,
        "its bias is computed at run time",
        "biases must be constant",
        "call model.eval() before the export",
    )


def _add_optional_bias(walk: Walk, value: Live, args: Args) -> Live:
    """The convolution with its third input, where it has one."""
    return value if len(args) < 3 or args[2] is None else _add_bias(walk, value, _require_bias(args[2]), False)


def _add_bias(walk: Walk, value: Live, bias: Array, channel_last: bool) -> Live:
    """value + bias, one number per channel (the last axis, or the first)."""
    if not np.any(bias != 0):
        return value
    shape = walk.edge_shape(value)
    if not channel_last:
        bias = np.asarray(bias).reshape(-1, *(1,) * (len(shape) - 1))
    return Live(value.edge, value.expr + Const.of(walk.builder.param(bias, shape, "a bias")))


def window_attributes(node: Node, n: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """(strides, dilations, groups) with ONNX's defaults."""
    return (
        tuple(node.attrs.get("strides", (1,) * n)),
        tuple(node.attrs.get("dilations", (1,) * n)),
        int(node.attrs.get("group", 1)),
    )


def resolve_pads(
    node: Node, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    """Pads (begin..., end...) of a convolution or pool, explicit or by auto_pad.

    SAME_UPPER and SAME_LOWER give ceil(size / stride) outputs; an odd pad has its larger half at the end, at the begin.
    """
    auto = node.attrs.get("auto_pad", "NOTSET")
    n = len(kernel)
    if auto in ("NOTSET", ""):
        return tuple(node.attrs.get("pads", (0,) * (2 * n)))
    if auto == "VALID":
        return (0,) * (2 * n)
    total = [
        max((-(-size[i] // strides[i]) - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 - size[i], 0)
        for i in range(n)
    ]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return tuple((*small, *large) if auto == "SAME_UPPER" else (*large, *small))


RULES: dict[str, Rule] = {"MatMul": matmul, "Gemm": gemm, "Conv": conv, "ConvTranspose": conv_transpose}
