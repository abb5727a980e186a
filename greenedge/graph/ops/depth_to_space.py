"""Channels rearranged into blocks of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from greenedge.graph.ops.base import Array, Edge, Op, Range, Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class DepthToSpace(Op):
    """ONNX DepthToSpace; mode is 'DCR' or 'CRD'."""

    block: int
    mode: str = "DCR"

    rearranges: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        c, h, w = edges[0].shape
        low, high = ranges[0]
        shape = (c // self.block**2, h * self.block, w * self.block)
        return shape, (low.min(keepdims=True), high.max(keepdims=True))

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        n, c, h, w = xs[0].shape
        b = self.block
        if self.mode == "DCR":
            y = xs[0].reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2)
        else:
            y = xs[0].reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
        return y.reshape(n, c // b**2, h * b, w * b)

    def write_onnx(self, writer: OnnxWriter) -> None:
        writer.node("DepthToSpace", self.inputs, self.output, blocksize=self.block, mode=self.mode)
