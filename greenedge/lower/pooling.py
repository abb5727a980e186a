"""Pools: the largest of integers is an integer; an average is a sum, whose division joins the next quantiser."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.source import Node
from greenedge.graph.ops import MaxPool, SumPool
from greenedge.lower.expr import Const, Var
from greenedge.lower.linear import resolve_pads, window_attributes
from greenedge.lower.values import Live, Value
from greenedge.lower.walk import Args, Rule, Walk

_Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _read_window(walk: Walk, node: Node, value: Live) -> _Window:
    """(kernel, strides, pads, dilations); ceil_mode becomes padding at the end."""
    size = walk.edge_shape(value)[1:]
    kernel = tuple(node.attrs["kernel_shape"])
    strides, dilations, _ = window_attributes(node, len(kernel))
    pads = list(resolve_pads(node, size, kernel, strides, dilations))
    if node.attrs.get("ceil_mode", 0):
        n = len(kernel)
        for i in range(n):
            span = dilations[i] * (kernel[i] - 1) + 1
            out = -(-(size[i] + pads[i] + pads[n + i] - span) // strides[i]) + 1
            if (out - 1) * strides[i] >= size[i] + pads[i]:
                out -= 1  # the last window must start inside the image or its left padding
            pads[n + i] += max(0, (out - 1) * strides[i] + span - size[i] - pads[i] - pads[n + i])
    return kernel, strides, tuple(pads), dilations


def max_pool(walk: Walk, node: Node, args: Args) -> Value:
    """MaxPool(f(q)) → f(MaxPool(q)) for a rising f; falling channels are flipped in the layer before."""
    if not isinstance(args[0], Live):
        return walk.fold(node, args)
    if len(node.outputs) > 1 and node.outputs[1]:
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            "MaxPool with indices",
            "only the values are computed",
            "use return_indices=False",
        )
    value = walk.builder.make_rising(args[0])
    kernel, strides, pads, dilations = _read_window(walk, node, value)
    _check_constant_over_image(walk, value)
    return walk.transform(
        node, value, lambda name: MaxPool(name, (value.edge,), name, kernel, strides, pads, dilations), lambda p: p
    )


def global_max_pool(walk: Walk, node: Node, args: Args) -> Value:
    """GlobalMaxPool(f(q)) → f(MaxPool(q)) under a window of the whole image, for a rising f."""
    if not isinstance(args[0], Live):
        return walk.fold(node, args)
    value = walk.builder.make_rising(args[0])
    kernel = walk.edge_shape(value)[1:]
    _check_constant_over_image(walk, value)
    ones, zeros = (1,) * len(kernel), (0,) * (2 * len(kernel))
    return walk.transform(
        node, value, lambda name: MaxPool(name, (value.edge,), name, kernel, ones, zeros, ones), lambda p: p
    )


def average_pool(walk: Walk, node: Node, args: Args) -> Value:
    """AveragePool(scale*(q - zero)) → scale * (SumPool(q) - n*zero) / n for windows of n; padding is by zero."""
    if not isinstance(args[0], Live):
        return walk.fold(node, args)
    kernel, strides, pads, dilations = _read_window(walk, node, args[0])
    if any(d != 1 for d in dilations):
        raise Refused(ReasonKind.UNSUPPORTED_OP, "a dilated average pool", "average pools are dense", "use dilation 1")
    if any(pads) and (not node.attrs.get("count_include_pad", 0) or node.attrs.get("ceil_mode", 0)):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            "an average pool whose divisor changes at the border",
            "all windows must have one divisor",
            "use count_include_pad=True, or pad explicitly",
        )
    return _emit_average(walk, node, args[0], kernel, strides, pads)


def global_average_pool(walk: Walk, node: Node, args: Args) -> Value:
    """GlobalAveragePool(x) → the same under a window of the whole image."""
    if not isinstance(args[0], Live):
        return walk.fold(node, args)
    kernel = walk.edge_shape(args[0])[1:]
    return _emit_average(walk, node, args[0], kernel, (1,) * len(kernel), (0,) * (2 * len(kernel)))


def _emit_average(
    walk: Walk, node: Node, value: Live, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]
) -> Live:
    """scale*(q - zero) → scale * (SumPool(q) - n*zero) / n, n the size of the window; padding counts as real 0."""
    value = walk.builder.materialise(node, value)
    _check_constant_over_image(walk, value)
    scale, zero = walk.builder.require_grid(value)
    fills = {int(z) if z.denominator == 1 else None for z in np.ravel(zero).tolist()}
    fill = fills.pop() if len(fills) == 1 else None
    if any(pads) and fill is None:
        raise Refused(
            ReasonKind.UNSUPPORTED_ZERO_POINT,
            "padding with a zero point that is fractional or varies",
            "the padding value is one integer",
            "use a symmetric quantiser",
        )
    name = walk.builder.unique(node)
    pad_value = fill if any(pads) and fill is not None else 0
    op = SumPool(name, (value.edge,), name, tuple(kernel), tuple(strides), tuple(pads), pad_value)
    edge = walk.builder.emit_sum(op, value)
    count = int(np.prod(kernel))
    acc = Var() + Const.of(-zero * count) if np.any(zero != 0) else Var()
    return Live(edge, acc / Const.of(float(count)) * Const.of(scale))


def _check_constant_over_image(walk: Walk, value: Live) -> None:
    """Raises Refused where the tensor's scale or bias varies along a spatial axis, over which a pool would mix it."""
    if any(d > 1 for array in value.expr.constants() for d in array.shape[1:]):
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            "a pool over a tensor whose scale varies along the image",
            "scales vary per channel at most",
            "use a per-tensor or per-channel scale",
        )


RULES: dict[str, Rule] = {
    "MaxPool": max_pool,
    "GlobalMaxPool": global_max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
}
