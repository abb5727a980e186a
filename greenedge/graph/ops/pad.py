"""Constant padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from greenedge.graph.ops.arithmetic import pad_array
from greenedge.graph.ops.base import Array, Edge, Floats, Op, Range, Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class Pad(Op):
    """Constant padding; pads is (begin..., end...) over the axes without the batch."""

    pads: tuple[int, ...]
    value: int = 0

    rearranges: ClassVar[bool] = True

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        n = len(self.pads) // 2
        shape = tuple(d + self.pads[i] + self.pads[n + i] for i, d in enumerate(edges[0].shape))
        low, high = ranges[0]
        padded = tuple(i for i in range(n) if self.pads[i] or self.pads[n + i])  # along these, one range for all
        low, high = low.min(padded, keepdims=True), high.max(padded, keepdims=True)
        return shape, (np.minimum(low, self.value), np.maximum(high, self.value))

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        return pad_array(xs[0], self.pads, self.value)

    def execute_magnitudes(self, xs: Sequence[Floats]) -> Floats:
        """Padding is exact: it has no error and no magnitude."""
        return dataclasses.replace(self, value=0).execute(xs, None)

    def write_onnx(self, writer: OnnxWriter) -> None:
        writer.node("Pad", writer.pad_inputs(self.name, self.inputs[0], self.pads, self.value), self.output)
