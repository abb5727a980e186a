"""The shape and range rule of pools."""

from __future__ import annotations

from collections.abc import Sequence

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops.arithmetic import channel_range, window_shape
from greenedge.graph.ops.base import Edge, Range, Shape


def infer_pool(
    edge: Edge,
    bounds: Range,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    extra: int | None,
) -> tuple[Shape, Range]:
    """(shape, range of one element under the window, `extra` included). Raises Refused where the window does not
    fit."""
    if len(edge.shape) != len(kernel) + 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"a window of {len(kernel)} axes on a tensor of shape {edge.shape}",
            "pools run over images",
            "export the model again",
        )
    shape = (edge.shape[0], *window_shape(edge.shape[1:], kernel, strides, pads, dilations))
    ones = (1,) * len(kernel)
    low, high = channel_range(edge, bounds, extra)
    return shape, (low.reshape(-1, *ones), high.reshape(-1, *ones))
