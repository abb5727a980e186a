"""Elements at regular places along every axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops.base import Array, Edge, Ints, Op, Range, Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class Slice(Op):
    """y[i, …] = x[starts[0] + i * steps[0], …] for i below sizes[0], and so on; one entry per axis without the batch.

    starts are counted from 0; a step may be negative (a flip), never 0.
    """

    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    steps: tuple[int, ...]

    rearranges: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    @property
    def ends(self) -> tuple[int, ...]:
        """Behind the last element taken, along every axis; -1 where a negative step takes element 0."""
        along = zip(self.starts, self.sizes, self.steps, strict=True)
        return tuple(start + (size - 1) * step + (1 if step > 0 else -1) for start, size, step in along)

    def find_cut_axes(self, shape: Shape) -> tuple[int, ...]:
        """The axes along which something is left out or reversed."""
        every = enumerate(zip(self.sizes, self.steps, shape, strict=True))
        return tuple(axis for axis, (size, step, whole) in every if size != whole or step != 1)

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        shape = edges[0].shape
        lasts = [
            start + (size - 1) * step for start, size, step in zip(self.starts, self.sizes, self.steps, strict=True)
        ]
        if len(lasts) != len(shape) or any(
            not 0 <= end < whole for ends in (self.starts, lasts) for end, whole in zip(ends, shape, strict=True)
        ):
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"it takes elements {self.starts} … {tuple(lasts)} of {shape}",
                "they must lie inside its input",
                "export the model again",
            )
        low, high = (self._take(part, 0) for part in ranges[0])
        return self.sizes, (low, high)

    def _take(self, x: Ints, first: int) -> Ints:
        """The elements of an array whose axes from `first` on are the edge's; an axis of size 1 stands for all."""
        for axis, (start, size, step) in enumerate(zip(self.starts, self.sizes, self.steps, strict=True), first):
            if x.shape[axis] > 1:
                x = np.take(x, start + step * np.arange(size), axis=axis)
        return x

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        return self._take(xs[0], 1)

    def input_axis(self, axis: int, edges: Sequence[Edge], output: Edge) -> int | None:
        return None if axis in self.find_cut_axes(edges[0].shape) else axis

    def write_onnx(self, writer: OnnxWriter) -> None:
        axes = self.find_cut_axes(writer.shape(self.inputs[0])) or (0,)
        bounds = {
            "starts": [self.starts[axis] for axis in axes],
            "ends": [self.ends[axis] if self.ends[axis] >= 0 else np.iinfo(np.int64).min for axis in axes],
            "axes": [axis + 1 for axis in axes],
            "steps": [self.steps[axis] for axis in axes],
        }
        inputs = [writer.constant(f"{self.name}_{key}", values, kind=np.int64) for key, values in bounds.items()]
        writer.node("Slice", [self.inputs[0], *inputs], self.output)
