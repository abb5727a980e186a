"""A convolution, in groups or not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops.arithmetic import (
    channel_range,
    choose_product_type,
    multiply,
    pad_array,
    product_range,
    slide_windows,
    window_shape,
)
from greenedge.graph.ops.base import Array, Edge, Ints, Range, Shape
from greenedge.graph.ops.linear import Linear
from greenedge.graph.ops.onnx_writer import OnnxWriter

_MOST_PRODUCTS = 1 << 22  # weights times pixels whose ranges are worked out one by one


@dataclass(frozen=True, eq=False)
class Conv(Linear):
    """Cross-correlation as in ONNX; weight is (O, I/groups, *kernel), pads (begin..., end...) filled with
    `pad_value`."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int = 1
    pad_value: int = 0

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight.shape[2:]

    def channel_axis(self, rank: int) -> int:
        return 0

    @property
    def summed_axes(self) -> tuple[int, ...]:
        return tuple(range(1, self.weight.ndim))

    @property
    def channels(self) -> int:
        return int(self.weight.shape[0])

    @property
    def is_depthwise(self) -> bool:
        return self.groups > 1 and self.weight.shape[1] == 1

    def scale_channels(self, factor: Array) -> Array:
        return self.weight * factor.reshape(-1, *(1,) * (self.weight.ndim - 1))

    def without_padding_value(self) -> Self:
        return dataclasses.replace(self, pad_value=0)

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        edge, n = edges[0], len(self.kernel)
        if len(edge.shape) != n + 1 or edge.shape[0] != self.weight.shape[1] * self.groups:
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"its input has shape {edge.shape} and its weights {self.weight.shape} in {self.groups} groups",
                "channels must match",
                "export the model again",
            )
        pixels = max(math.prod(end.shape[1:]) for end in ranges[0])
        if self._is_pointwise and 1 < pixels <= _MOST_PRODUCTS // self.weight.size:
            return (self.channels, *edge.shape[1:]), self._infer_pixels(edge, ranges[0])
        low, high = channel_range(edge, ranges[0], self.pad_value if any(self.pads) else None)
        small, large = product_range(self.weight, self._per_weight(low), self._per_weight(high))
        ones = (1,) * n
        total = (small.reshape(self.channels, -1).sum(1), large.reshape(self.channels, -1).sum(1))
        shape = window_shape(edge.shape[1:], self.kernel, self.strides, self.pads, self.dilations)
        return (self.channels, *shape), (total[0].reshape(-1, *ones), total[1].reshape(-1, *ones))

    @property
    def _is_pointwise(self) -> bool:
        """Whether every pixel is the sum over the channels of one pixel."""
        ones = (1,) * len(self.kernel)
        return self.kernel == ones == self.strides and not any(self.pads) and self.groups == 1

    def _infer_pixels(self, edge: Edge, bounds: Range) -> Range:
        """The range of a pointwise convolution whose input's range is not the same at every pixel."""
        low, high = (np.broadcast_to(end, (edge.shape[0], *end.shape[1:])) for end in bounds)
        small, large = product_range(self.weight, low[None], high[None])
        return small.sum(1), large.sum(1)

    def _per_weight(self, channels: Ints) -> Ints:
        """A value per input channel (I,) at every weight it is multiplied with: (O, I/groups, 1...).

        Group g reads channels g*I/groups …, so the rows of one group repeat, not the groups one after another.
        """
        rows = np.repeat(channels.reshape(self.groups, -1), self.channels // self.groups, axis=0)
        return rows.reshape(*self.weight.shape[:2], *(1,) * len(self.kernel))

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        magnitude = None if edges is None else max(edges[0].magnitude, abs(self.pad_value))
        return correlate(self, pad_array(xs[0], self.pads, self.pad_value), magnitude)

    def batch_elements(self, edges: Sequence[Edge], output: Edge) -> int:
        columns = int(np.prod(self.weight.shape[1:])) * self.groups * int(np.prod(output.shape[1:]))
        return max(int(np.prod(output.shape)), columns)

    def write_onnx(self, writer: OnnxWriter) -> None:
        source, pads = self.inputs[0], self.pads
        if any(pads) and self.pad_value:
            n = len(self.kernel)
            shape = writer.shape(source)
            wide = (shape[0], *(d + pads[i] + pads[n + i] for i, d in enumerate(shape[1:])))
            whole = (0, *pads[:n], 0, *pads[n:])
            inputs = writer.pad_inputs(self.name, source, whole, self.pad_value)
            source, pads = writer.inner_node("Pad", inputs, f"{self.name}_padded", wide), (0,) * len(pads)
        writer.node(
            "Conv",
            [source, writer.weight(self.name, self.weight)],
            self.output,
            kernel_shape=self.kernel,
            strides=self.strides,
            pads=pads,
            dilations=self.dilations,
            group=self.groups,
        )

    @property
    def terms(self) -> int:
        return int(np.prod(self.weight.shape[1:]))


def correlate(op: Conv, x: Array, magnitude: int | None) -> Array:
    """The convolution of an input (N, I, *space) that is padded already; one matrix product per group.

    `magnitude` bounds the integers of x, padding included; None for real numbers.
    """
    n = len(op.kernel)
    g, per_in, per_out = op.groups, op.weight.shape[1], op.channels // op.groups
    weight = op.weight.reshape(g, per_out, -1).transpose(0, 2, 1)
    # Converted before the windows are copied: every sample is in several of them.
    x = x.astype(choose_product_type(weight, magnitude), copy=False)
    view = slide_windows(x, op.kernel, op.strides, op.dilations)
    batch, out = view.shape[0], view.shape[2 : 2 + n]
    # (N, g, I/g, *out, *k) -> (g, N*out, I/g*k)
    view = view.reshape(batch, g, per_in, *out, *op.kernel)
    order = (1, 0, *range(3, 3 + n), 2, *range(3 + n, 3 + 2 * n))
    columns = view.transpose(order).reshape(g, batch * int(np.prod(out)), -1)
    y = multiply(columns, weight, magnitude)
    y = y.reshape(g, batch, *out, per_out)
    return y.transpose(1, 0, 2 + n, *range(2, 2 + n)).reshape(batch, g * per_out, *out)
