"""The sum under a window."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from greenedge.graph.ops.arithmetic import pad_array, slide_windows
from greenedge.graph.ops.base import Array, Edge, Floats, Op, Range, Shape, freeze
from greenedge.graph.ops.conv import Conv
from greenedge.graph.ops.onnx_writer import OnnxWriter
from greenedge.graph.ops.pool import infer_pool


@dataclass(frozen=True, eq=False)
class SumPool(Op):
    """Sum under the window (an average pool before its division); padding counts as `pad_value`."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    pad_value: int = 0

    accumulates: ClassVar[bool] = True

    def as_depthwise(self, channels: int) -> Conv:
        """The same sum as a depthwise convolution with ones."""
        ones = freeze(np.ones((channels, 1, *self.kernel)))
        dilations = (1,) * len(self.kernel)
        return Conv(
            self.name, self.inputs, self.output, ones, self.strides, self.pads, dilations, channels, self.pad_value
        )

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        extra = self.pad_value if any(self.pads) else None
        ones = (1,) * len(self.kernel)
        shape, (low, high) = infer_pool(edges[0], ranges[0], self.kernel, self.strides, self.pads, ones, extra)
        return shape, (low * self.terms, high * self.terms)

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        x = pad_array(xs[0], self.pads, self.pad_value)
        total: Array = slide_windows(x, self.kernel, self.strides, (1,) * len(self.kernel)).sum(
            axis=tuple(range(-len(self.kernel), 0))
        )
        return total

    def execute_magnitudes(self, xs: Sequence[Floats]) -> Floats:
        return dataclasses.replace(self, pad_value=0).execute(xs, None)

    def write_onnx(self, writer: OnnxWriter) -> None:
        self.as_depthwise(writer.shape(self.inputs[0])[0]).write_onnx(writer)

    @property
    def terms(self) -> int:
        return int(np.prod(self.kernel))
