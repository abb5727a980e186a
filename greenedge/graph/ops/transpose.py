"""Axes in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from greenedge.graph.ops.base import Array, Edge, Op, Range, Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class Transpose(Op):
    """perm is over the axes without the batch: output axis i is input axis perm[i]."""

    perm: tuple[int, ...]

    rearranges: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    permutes: ClassVar[bool] = True

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        low, high = (part.transpose(self.perm) for part in ranges[0])
        return tuple(edges[0].shape[p] for p in self.perm), (low, high)

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        return xs[0].transpose(0, *(p + 1 for p in self.perm))

    def undo(self, values: Array, shape: Shape) -> Array:
        return values.transpose(0, *(self.perm.index(axis) + 1 for axis in range(len(self.perm))))

    def input_axis(self, axis: int, edges: Sequence[Edge], output: Edge) -> int | None:
        return self.perm[axis]

    def write_onnx(self, writer: OnnxWriter) -> None:
        writer.node("Transpose", self.inputs, self.output, perm=[0, *(p + 1 for p in self.perm)])
