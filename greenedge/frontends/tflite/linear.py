"""Layers that sum products: the sum as a standard layer, the kernel's requantisation as its thresholds.

FULLY_CONNECTED, CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.backends.int8.arithmetic import ACTIVATIONS, INT8_MAX, INT8_MIN, SCALE_LIMIT
from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.tflite.file import Operator, Tensor
from greenedge.frontends.tflite.kernels import Code, clamp, find_thresholds, requantise_sum
from greenedge.frontends.tflite.network import OFFSETS, Network, Rule, order_shape
from greenedge.graph.ops.base import Ints

_INT32 = 1 << 31
UINT8_MAX = 255
_SAME, _VALID = 0, 1  # the schema's Padding
_OTHER_ACTIVATIONS = {4: "TANH", 5: "SIGN_BIT"}


def read_activation(operator: Operator) -> str:
    """The fused activation by name. Raises Refused for one that int8 operators do not have."""
    number = int(operator.options.get("fusedActivationFunction", 0))
    if not 0 <= number < len(ACTIVATIONS):
        raise Refused(
            ReasonKind.UNSUPPORTED_FUNCTION,
            f"a fused activation {_OTHER_ACTIVATIONS.get(number, number)}",
            f"fused activations are {', '.join(ACTIVATIONS)}",
            "use RELU or RELU6",
        )
    return ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")[number]


@dataclass(frozen=True)
class _Sum:
    """A layer of products before its requantisation: its name here and, per output channel, the integers that it
    reaches (without the bias)."""

    name: str
    low: Ints
    high: Ints
    source: Code


def _require_weights(net: Network, number: int, source: Tensor) -> tuple[Ints, Tensor]:
    """The integers of a layer's weights, counted from their zero point, and their tensor; `source` is the layer's
    input."""
    tensor = net.require_constant(number, "weights")
    if tensor.kind != source.kind or tensor.kind not in OFFSETS or not len(tensor.scales):
        raise Refused(
            ReasonKind.UNSUPPORTED_BITS,
            f"weights of {tensor.kind.lower()}{'' if len(tensor.scales) else ' without a scale'} with an input of "
            f"{source.kind.lower()}",
            "both are int8, or both uint8, with scales",
            "convert with full-integer quantisation",
        )
    if tensor.kind == "UINT8":
        if len(tensor.scales) != 1 or not 0 <= tensor.zeros[0] <= UINT8_MAX:
            raise Refused(
                ReasonKind.UNSUPPORTED_SCALE,
                f"uint8 weights with {len(tensor.scales)} scales",
                "uint8 weights have one scale and one zero point within uint8",
                "convert it again with int8, which has a scale for each channel",
            )
        return net.read_stored(tensor) - (tensor.zeros[0] - OFFSETS["UINT8"]), tensor
    if tensor.zeros.any():
        raise Refused(
            ReasonKind.UNSUPPORTED_ZERO_POINT,
            "weights with a zero point",
            "int8 weights are symmetric in LiteRT",
            "convert it again",
        )
    return net.read_stored(tensor), tensor


def _reach(weight: Ints, code: Code) -> tuple[Ints, Ints]:
    """(C,) the least and the largest sum of weight * (q - zero), weight (C, …); padding adds 0, which lies between."""
    rows = weight.reshape(len(weight), -1)
    ends = np.stack([rows * (INT8_MIN - code.zero), rows * (INT8_MAX - code.zero)])
    return ends.min(axis=0).sum(axis=1), ends.max(axis=0).sum(axis=1)


def _read_bias(net: Network, operator: Operator, at: int, channels: int) -> Ints:
    if len(operator.inputs) <= at or operator.inputs[at] < 0:
        return np.zeros(channels, np.int64)
    tensor = net.require_constant(operator.inputs[at], "bias")
    if net.kernels == "xnnpack" and not len(tensor.scales):
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            "a bias without a scale",
            "XNNPACK leaves such a layer to a kernel whose rounding depends on the machine",
            "--arithmetic reference, or convert it again",
        )
    if tensor.kind != "INT32" or tensor.elements != channels:
        raise Refused(
            ReasonKind.UNSUPPORTED_BITS,
            f"a bias of {tensor.elements} {tensor.kind.lower()} for {channels} channels",
            "a bias is one int32 a channel",
            "convert with full-integer quantisation",
        )
    return np.asarray(tensor.values).reshape(-1).astype(np.int64)


def _requantise(net: Network, operator: Operator, total: _Sum, weight: Tensor, bias: Ints, axis: int) -> None:
    """The layer's output: what the kernel set stores for every sum with its bias."""
    out = net.code(net.tensor(operator.outputs[0]))
    channels = len(bias)
    if len(weight.scales) not in (1, channels) or (len(weight.scales) > 1 and weight.axis != axis):
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            f"{len(weight.scales)} weight scales along axis {weight.axis}",
            f"weights have one scale, or one for each of {channels} channels",
            "convert it again",
        )
    if net.is_real:
        return net.store(operator, total.name, read_activation(operator))
    # XNNPACK's delegate leaves uint8 depthwise layers to LiteRT's own kernel, which rounds as its reference.
    is_left = operator.kind == "DEPTHWISE_CONV_2D" and weight.kind == "UINT8"
    kernels = "reference" if is_left else net.kernels
    bounds = clamp(read_activation(operator), out, kernels)
    _require_in_range(kernels, total, weight, bias, out)
    step = requantise_sum(operator.kind, kernels, total.source.scale, weight.scales, out, bounds)
    column = bias[:, None]
    thresholds = find_thresholds(lambda acc: step(acc + column), bounds, total.low, total.high)
    net.finish(operator, total.name, thresholds, bounds)


def _require_in_range(kernels: str, total: _Sum, weight: Tensor, bias: Ints, out: Code) -> None:
    """Raises Refused where the kernels would overflow, or a set does not take the scale."""
    scale = float(np.float64(total.source.scale) * weight.scales.max() / out.scale)
    widest = int(np.maximum(np.abs(total.low + bias), np.abs(total.high + bias)).max())
    if kernels == "xnnpack" and scale >= SCALE_LIMIT:
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            f"a requantisation scale of {scale:g}",
            f"XNNPACK takes scales below {SCALE_LIMIT:g}",
            "--arithmetic reference",
        )
    if widest * max(1, 2 ** math.ceil(math.log2(scale))) >= _INT32:
        raise Refused(
            ReasonKind.TOO_WIDE,
            f"sums that reach {widest:,}, requantised by {scale:g}",
            "LiteRT's 32-bit sums must not overflow",
            "correct the bias, or quantise the layer again",
        )


def _put_weights(
    net: Network, operator: Operator, values: Ints, tensor: Tensor, axis: int, bias: Ints, code: Code
) -> list[str]:
    """The constants of a layer in ONNX's order, the channels along `axis`: its weights, which are integers before a
    step function that knows the bias; of real numbers, real weights and the bias, if there is one, which counts in
    steps of both scales."""
    name = f"{operator.name}_weight"
    if not net.is_real:
        return [net.number(values, name)]
    scales = tensor.scales
    kind = np.int32 if tensor.kind == "UINT8" else np.int8  # counted from a zero point they take nine bits
    constants = [net.dequantise(values, kind, scales, name, axis)]
    if bias.any():
        constants.append(net.dequantise(bias, np.int32, code.scale * scales, f"{operator.name}_bias"))
    return constants


# -- dense -------------------------------------------------------------------------------------------------------------


def fully_connected(net: Network, operator: Operator) -> None:
    """FULLY_CONNECTED → MatMul: rows of the flattened input, in the file's order."""
    source, out = net.tensor(operator.inputs[0]), net.tensor(operator.outputs[0])
    code = net.code(source)
    weight, tensor = _require_weights(net, operator.inputs[1], source)
    if weight.ndim != 2 or int(operator.options.get("weightsFormat", 0)):
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"weights of shape {weight.shape}, shuffled or not",
            "a dense layer has a plain matrix",
            "convert it again",
        )
    rows = source.elements // max(weight.shape[1], 1)
    if rows * weight.shape[1] != source.elements or len(out.shape) < 2 or out.elements != rows * len(weight):
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"{source.elements} inputs for weights of shape {weight.shape}",
            "every sample is whole rows",
            "convert it again",
        )
    value = net.put_last(net.value(source.number), source.shape, f"{operator.name}_in")
    flat = (1, weight.shape[1]) if rows == 1 else (1, rows, weight.shape[1])
    if source.shape != flat:
        value = net.reshape(value, flat, f"{operator.name}_rows")
    value = net.centre(value, code, f"{operator.name}_centred")
    bias = _read_bias(net, operator, 2, len(weight))
    matrix, *more = _put_weights(net, operator, weight.T, tensor, 1, bias, code)
    name = net.node("MatMul", [value, matrix], f"{operator.name}_sum")
    for addend in more:
        name = net.node("Add", [name, addend], f"{operator.name}_biased")
    wanted = order_shape(out.shape)
    if wanted != (*flat[:-1], len(weight)):
        name = net.reshape(name, wanted, f"{operator.name}_shaped") if rows == 1 else _shape_rows(net, name, out)
    _requantise(net, operator, _Sum(name, *_reach(weight, code), code), tensor, bias, 0)


def _shape_rows(net: Network, name: str, out: Tensor) -> str:
    return net.put_first(net.reshape(name, out.shape, f"{name}_rows"), out.shape, f"{name}_shaped")


# -- windows -----------------------------------------------------------------------------------------------------------


def read_pads(
    operator: Operator, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Pads (begin…, end…): of SAME the smaller half comes first."""
    if int(operator.options.get("padding", -1)) not in (_SAME, _VALID):
        raise Refused(ReasonKind.MALFORMED, "no padding scheme", "SAME or VALID", "convert it again")
    if operator.options["padding"] == _VALID:
        return [0, 0, 0, 0]
    total = [
        max((-(-s // stride) - 1) * stride + (k - 1) * d + 1 - s, 0)
        for s, k, stride, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    return [*(t // 2 for t in total), *(t - t // 2 for t in total)]


def read_strides(operator: Operator) -> list[int]:
    return read_pair(operator, "strideH", "strideW")


def read_pair(operator: Operator, first: str, second: str, default: int = 0) -> list[int]:
    """Two sizes among the options. Raises Refused where they are not positive."""
    pair = [int(operator.options.get(key, default)) for key in (first, second)]
    if min(pair) < 1:
        raise Refused(
            ReasonKind.MALFORMED, f"{first} and {second} of {pair}", "sizes are 1 or more", "convert it again"
        )
    return pair


def require_images(*tensors: Tensor) -> None:
    for tensor in tensors:
        if len(tensor.shape) != 4:
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE, f"a tensor of shape {tensor.shape}", "images of four axes", "reshape it"
            )


def conv_2d(net: Network, operator: Operator) -> None:
    """CONV_2D → Conv; of fewer input channels than the image has, in groups."""
    source, out = net.tensor(operator.inputs[0]), net.tensor(operator.outputs[0])
    weight, tensor = _require_weights(net, operator.inputs[1], source)
    require_images(source, out, tensor)
    if weight.shape[3] != source.shape[3]:
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"weights for {weight.shape[3]} channels of {source.shape[3]}",
            "LiteRT's grouped convolutions have an arithmetic that was not measured",
            "write the groups as layers of their own",
        )
    _convolve(net, operator, weight.transpose(0, 3, 1, 2), tensor, 1, 0)


def depthwise_conv_2d(net: Network, operator: Operator) -> None:
    """DEPTHWISE_CONV_2D → Conv with a group for each channel."""
    source, out = net.tensor(operator.inputs[0]), net.tensor(operator.outputs[0])
    weight, tensor = _require_weights(net, operator.inputs[1], source)
    require_images(source, out, tensor)
    channels = source.shape[3]
    if weight.shape[0] != 1 or not channels or weight.shape[3] % channels:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"weights of shape {weight.shape} for {channels} channels",
            "each channel has as many filters",
            "convert it again",
        )
    _convolve(net, operator, weight.transpose(3, 0, 1, 2), tensor, channels, 3)


def _convolve(net: Network, operator: Operator, weight: Ints, tensor: Tensor, groups: int, axis: int) -> None:
    """Conv with weights (O, I/groups, H, W); the scales run along `axis` of the file's."""
    source, out = net.tensor(operator.inputs[0]), net.tensor(operator.outputs[0])
    code, kernel = net.code(source), weight.shape[2:]
    strides, dilations = read_strides(operator), read_pair(operator, "dilationHFactor", "dilationWFactor", 1)
    pads = read_pads(operator, source.shape[1:3], kernel, strides, dilations)
    require_window(source, out, len(weight), kernel, strides, pads, dilations)
    bias = _read_bias(net, operator, 2, len(weight))
    value = net.centre(net.value(source.number), code, f"{operator.name}_centred")
    name = net.node(
        "Conv",
        [value, *_put_weights(net, operator, weight, tensor, 0, bias, code)],
        f"{operator.name}_sum",
        kernel_shape=list(kernel),
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=groups,
    )
    _requantise(net, operator, _Sum(name, *_reach(weight, code), code), tensor, bias, axis)


def require_window(
    source: Tensor,
    out: Tensor,
    channels: int,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> None:
    """Raises Refused where the file's output has another shape than the window gives."""
    sizes = tuple(
        (source.shape[1 + i] + pads[i] + pads[2 + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1
        for i in range(2)
    )
    if out.shape != (source.shape[0], *sizes, channels) or min(sizes) < 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"an output of shape {out.shape}",
            f"its window gives {(source.shape[0], *sizes, channels)}",
            "convert it again",
        )


def transpose_conv(net: Network, operator: Operator) -> None:
    """TRANSPOSE_CONV → ConvTranspose. Its border sees fewer samples, so its input has to hold 0 for real 0."""
    source, out = net.tensor(operator.inputs[2]), net.tensor(operator.outputs[0])
    weight, tensor = _require_weights(net, operator.inputs[1], source)
    require_images(source, out, tensor)
    code, strides, kernel = net.code(source), read_strides(operator), weight.shape[1:3]
    if weight.shape[3] != source.shape[3] or weight.shape[0] != out.shape[3]:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"weights of shape {weight.shape} from {source.shape} to {out.shape}",
            "channels must match",
            "convert it again",
        )
    shorter = any(k < s for s, k in zip(strides, kernel, strict=True))
    if net.kernels == "xnnpack" and operator.options.get("padding") == _SAME and shorter:
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"a transposed kernel {tuple(kernel)} shorter than its stride {tuple(strides)}",
            "XNNPACK leaves it to a kernel whose rounding depends on the machine",
            "--arithmetic reference",
        )
    pads, more = _cut_transposed(operator, source, out, kernel, strides)
    bias = _read_bias(net, operator, 3, len(weight))
    value = net.centred_levels(source.number, code, operator.name)
    name = net.node(
        "ConvTranspose",
        [value, *_put_weights(net, operator, weight.transpose(3, 0, 1, 2), tensor, 1, bias, code)],
        f"{operator.name}_sum",
        kernel_shape=list(kernel),
        strides=strides,
        pads=pads,
        output_padding=more,
    )
    _requantise(net, operator, _Sum(name, *_reach(weight, code), code), tensor, bias, 0)


def _cut_transposed(
    operator: Operator, source: Tensor, out: Tensor, kernel: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """(pads, output padding): what is cut off both ends of the full sums, and what is added behind."""
    extra = [(source.shape[1 + i] - 1) * strides[i] + kernel[i] - out.shape[1 + i] for i in range(2)]
    same = int(operator.options.get("padding", -1)) == _SAME
    begin = [max(e, 0) // 2 if same else 0 for e in extra]
    more = [max(-e, 0) for e in extra]
    if any(m >= s for m, s in zip(more, strides, strict=True)):
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"an output of shape {out.shape}",
            "no sample reaches its end",
            "give it the size that its stride makes",
        )
    return [*begin, *(max(e, 0) - b for e, b in zip(extra, begin, strict=True))], more


RULES: dict[str, Rule] = {
    "FULLY_CONNECTED": fully_connected,
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": depthwise_conv_2d,
    "TRANSPOSE_CONV": transpose_conv,
}
