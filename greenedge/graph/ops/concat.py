"""Branches joined along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from greenedge.graph.ops.arithmetic import spread_range
from greenedge.graph.ops.base import Array, Edge, Op, Range, Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class Concat(Op):
    """Inputs joined along `axis` (counted without the batch)."""

    axis: int

    rearranges: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        shape = list(edges[0].shape)
        shape[self.axis] = sum(edge.shape[self.axis] for edge in edges)
        parts = [spread_range(bounds, edge) for bounds, edge in zip(ranges, edges, strict=True)]
        low, high = (np.concatenate([part[k] for part in parts], axis=self.axis) for k in (0, 1))
        return tuple(shape), (low, high)

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        return np.concatenate(list(xs), axis=self.axis + 1)

    def write_onnx(self, writer: OnnxWriter) -> None:
        writer.node("Concat", self.inputs, self.output, axis=self.axis + 1)
