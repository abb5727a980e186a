"""The same values under another shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from greenedge.graph.ops.arithmetic import spread_range
from greenedge.graph.ops.base import Array, Edge, Op, Range, Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class Reshape(Op):
    """Same values in row-major order, another shape (without the batch)."""

    shape: tuple[int, ...]

    rearranges: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    permutes: ClassVar[bool] = True

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        low, high = spread_range(ranges[0], edges[0])
        return self.shape, (low.reshape(self.shape), high.reshape(self.shape))

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        return xs[0].reshape(len(xs[0]), *self.shape)

    def undo(self, values: Array, shape: Shape) -> Array:
        return values.reshape(len(values), *shape)

    def input_axis(self, axis: int, edges: Sequence[Edge], output: Edge) -> int | None:
        """The input's axis of the same size that has as many elements before it."""
        shape, size = edges[0].shape, output.shape[axis]
        before = int(np.prod(output.shape[:axis]))
        return next((a for a, n in enumerate(shape) if n == size and int(np.prod(shape[:a])) == before), None)

    def write_onnx(self, writer: OnnxWriter) -> None:
        shape = writer.constant(f"{self.name}_shape", [-1, *self.shape], kind=np.int64)
        writer.node("Reshape", [self.inputs[0], shape], self.output)
