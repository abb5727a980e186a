"""The index of the largest value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.graph.ops.base import Array, Edge, Floats, Op, Range, Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class ArgMax(Op):
    """Where along `axis` (counted without the batch) the largest value is, the first of them where several are equal.

    The axis stays, with size 1.
    """

    axis: int

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        shape = tuple(1 if axis == self.axis else size for axis, size in enumerate(edges[0].shape))
        ones = (1,) * len(shape)
        return shape, (np.zeros(ones, np.int64), np.full(ones, edges[0].shape[self.axis] - 1))

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        return np.expand_dims(xs[0].argmax(axis=self.axis + 1), self.axis + 1)  # NumPy takes the first of equals

    def execute_magnitudes(self, xs: Sequence[Floats]) -> Floats:
        """An index is a whole number: it has no error."""
        return np.zeros(self.execute(xs, None).shape)

    def write_onnx(self, writer: OnnxWriter) -> None:
        """The indices of a TopK, which is what FINN knows; the lower of equals comes first there too."""
        from onnx import TensorProto

        source, shape = self.inputs[0], writer.shape(self.output)
        is_read = writer.has_readers(self.output)
        index = f"{self.name}_index" if is_read else self.output
        if is_read:
            writer.declare(index, shape, TensorProto.INT64)
        largest = f"{self.name}_largest"
        writer.declare(largest, shape)
        count = writer.constant(f"{self.name}_k", [1], kind=np.int64)
        writer.nodes_of("TopK", [source, count], [largest, index], self.output, axis=self.axis + 1, largest=1)
        if is_read:
            writer.node("Cast", [index], self.output, to=writer.element)
        else:
            writer.output_types[self.output] = TensorProto.INT64
