"""Pools: the largest of stored values is one of them, an average is a sum that the kernel requantises.

AVERAGE_POOL_2D, MAX_POOL_2D, MEAN
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from greenedge.backends.int8.arithmetic import INT8_MAX, INT8_MIN, MEAN_RATIOS, mean_emulations
from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.tflite.elementwise import refuse_kinds, require_ratio
from greenedge.frontends.tflite.file import Operator, Tensor
from greenedge.frontends.tflite.kernels import Code, average, average_up, clamp, find_thresholds
from greenedge.frontends.tflite.linear import (
    read_activation,
    read_pads,
    read_pair,
    read_strides,
    require_images,
    require_window,
)
from greenedge.frontends.tflite.network import INT8, OFFSETS, Network, Rule


def _read_pool(net: Network, operator: Operator) -> tuple[Tensor, Code, list[int], list[int], list[int]]:
    """(input, its code, kernel, strides, pads) of a pool that keeps the scale."""
    source, out = net.tensor(operator.inputs[0]), net.tensor(operator.outputs[0])
    require_images(source, out)
    code = require_same_code(net, source, out, "a pool")
    kernel, strides = read_pair(operator, "filterHeight", "filterWidth"), read_strides(operator)
    pads = read_pads(operator, source.shape[1:3], kernel, strides, [1, 1])
    require_window(source, out, source.shape[3], kernel, strides, pads, [1, 1])
    return source, code, kernel, strides, pads


def require_same_code(net: Network, source: Tensor, out: Tensor, what: str) -> Code:
    """The code of both tensors. Raises Refused where `what` would change the scale, which LiteRT does not do."""
    code = net.code(source)
    if code != net.code(out) or source.kind != out.kind:
        raise Refused(
            ReasonKind.UNEQUAL_SCALES,
            f"{what} from scale {code.scale:g} and zero point {code.zero} to {out.scales[0]:g} and {out.zeros[0]}",
            "LiteRT moves stored values and rescales none",
            "convert it again, which puts a QUANTIZE between",
        )
    return code


def average_pool_2d(net: Network, operator: Operator) -> None:
    """AVERAGE_POOL_2D → the sum of a window, of as many stored values everywhere, divided halves away from zero."""
    source, code, kernel, strides, pads = _read_pool(net, operator)
    if any(pads):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            "an average pool whose windows reach over the border",
            "all windows must have one divisor",
            "use VALID padding, or a size that the stride divides",
        )
    if net.is_real:
        real = _emit_mean(net, operator, net.value(source.number), kernel, strides)
        return net.store(operator, real, read_activation(operator))
    count = kernel[0] * kernel[1]
    # No operator of XNNPACK: LiteRT's own kernel bounds the result.
    bounds = clamp(read_activation(operator), code, "reference")
    total = _emit_total(net, operator, net.value(source.number), kernel, strides)
    low, high = np.array([INT8_MIN * count]), np.array([INT8_MAX * count])
    step = average_up if source.kind == "UINT8" else average
    net.finish(operator, total, find_thresholds(lambda acc: step(acc, count, bounds), bounds, low, high), bounds)


def _emit_mean(net: Network, operator: Operator, value: str, kernel: Sequence[int], strides: Sequence[int]) -> str:
    return net.node("AveragePool", [value], f"{operator.name}_mean", kernel_shape=list(kernel), strides=list(strides))


def _emit_total(net: Network, operator: Operator, value: str, kernel: Sequence[int], strides: Sequence[int]) -> str:
    """The sum of the stored values under a window."""
    name = _emit_mean(net, operator, value, kernel, strides)
    return net.node("Mul", [name, net.number(math.prod(kernel), f"{operator.name}_count")], f"{operator.name}_sum")


def mean(net: Network, operator: Operator) -> None:
    """MEAN over height, width or both, or of a sequence → the sum, requantised as the kernel set does it."""
    source, out = net.tensor(operator.inputs[0]), net.tensor(operator.outputs[0])
    axes = net.read_integers(operator.inputs[1], "axes").reshape(-1)
    rank = len(source.shape)
    over = {int(axis) % rank for axis in axes} if rank in (3, 4) else set()
    if not over or over - set(range(1, rank - 1)):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"MEAN over the axes {axes.tolist()} of a tensor of shape {source.shape}",
            "means are over height, width or both of an image, or over the steps of a sequence",
            "pool over those",
        )
    code, target = net.code(source), net.code(out)
    if source.kind != out.kind:
        raise refuse_kinds(source, out)
    shape = source.shape if rank == 4 else (1, source.shape[1], 1, source.shape[2])
    kernel = [shape[axis] if axis in over else 1 for axis in (1, 2)]
    count = math.prod(kernel)
    value = net.move_shape(net.value(source.number), source.shape, shape, f"{operator.name}_image")
    left = (1, *(1 if axis in over else shape[axis] for axis in (1, 2)), shape[3])
    if net.is_real:
        real = _emit_mean(net, operator, value, kernel, (1, 1))
        return net.store(operator, net.move_shape(real, left, out.shape, f"{operator.name}_shaped"))
    require_ratio(code, target, MEAN_RATIOS)
    offset = OFFSETS[source.kind]  # the kernel computes with what the file stores, and rounds in float32
    emulation = mean_emulations(count, code.zero + offset, target.zero + offset)[net.kernels]
    parameters = emulation.prepare(float(code.scale), np.ones(1, np.float32), float(target.scale))
    total = _emit_total(net, operator, value, kernel, (1, 1))
    low, high = np.array([INT8_MIN * count]), np.array([INT8_MAX * count])
    thresholds = find_thresholds(
        lambda acc: np.clip(emulation.round(acc + offset * count, *parameters) + target.zero, *INT8), INT8, low, high
    )
    total = net.move_shape(total, left, out.shape, f"{operator.name}_shaped")
    net.finish(operator, total, thresholds, INT8)


def max_pool_2d(net: Network, operator: Operator) -> None:
    """MAX_POOL_2D → MaxPool of the stored values; a fused activation clamps them."""
    source, code, kernel, strides, pads = _read_pool(net, operator)
    activation = read_activation(operator)
    taken = all(s <= k for s, k in zip(strides, kernel, strict=True)) and not (kernel == [1, 1] and max(strides) > 1)
    bounds = clamp(activation, code, net.kernels if taken else "reference")
    is_plain = activation == "NONE" if net.is_real else bounds == INT8
    name = net.node(
        "MaxPool",
        [net.value(source.number)],
        operator.name if is_plain else f"{operator.name}_max",
        kernel_shape=kernel,
        strides=strides,
        pads=pads,
    )
    if is_plain:
        return net.put(net.tensor(operator.outputs[0]), name)
    if net.is_real:
        return net.store(operator, name, activation)
    return net.finish(operator, name, np.arange(bounds[0] + 1, bounds[1] + 1)[None, :], bounds)


RULES: dict[str, Rule] = {
    "AVERAGE_POOL_2D": average_pool_2d,
    "MAX_POOL_2D": max_pool_2d,
    "MEAN": mean,
}
