"""Nearest-neighbour upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from greenedge.graph.ops.base import Array, Edge, Ints, Op, Range, Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class Upsample(Op):
    """Nearest neighbour by whole factors, one per axis without the batch."""

    factors: tuple[int, ...]

    rearranges: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        shape = tuple(d * f for d, f in zip(edges[0].shape, self.factors, strict=True))
        return shape, (self._repeat_range(ranges[0][0]), self._repeat_range(ranges[0][1]))

    def _repeat_range(self, part: Ints) -> Ints:
        for axis, factor in enumerate(self.factors):
            part = np.repeat(part, factor, axis=axis) if part.shape[axis] > 1 else part
        return part

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        y = xs[0]
        for axis, factor in enumerate(self.factors):
            y = np.repeat(y, factor, axis=axis + 1) if factor != 1 else y
        return y

    def input_axis(self, axis: int, edges: Sequence[Edge], output: Edge) -> int | None:
        return axis if self.factors[axis] == 1 else None

    def write_onnx(self, writer: OnnxWriter) -> None:
        scales = writer.constant(f"{self.name}_scales", [1, *self.factors], kind=np.float32)
        writer.node(
            "Resize",
            [self.inputs[0], "", scales],
            self.output,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
