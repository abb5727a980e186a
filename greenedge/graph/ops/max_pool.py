"""The largest value under a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from greenedge.graph.ops.arithmetic import pad_array, slide_windows
from greenedge.graph.ops.base import Array, Edge, Op, Range, Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter
from greenedge.graph.ops.pool import infer_pool


@dataclass(frozen=True, eq=False)
class MaxPool(Op):
    """Largest value under the window; padding never wins. `dilations` may be () for ones."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...] = ()

    @property
    def steps(self) -> tuple[int, ...]:
        """The dilation of every spatial axis."""
        return self.dilations or (1,) * len(self.kernel)

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        return infer_pool(edges[0], ranges[0], self.kernel, self.strides, self.pads, self.steps, None)

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        """Pads with the smallest value of the input's range; with 0 for real numbers (errors and magnitudes, never
        negative)."""
        x = pad_array(xs[0], self.pads, edges[0].lo if edges else 0)
        axes = tuple(range(-len(self.kernel), 0))
        largest: Array = slide_windows(x, self.kernel, self.strides, self.steps).max(axis=axes)
        return largest

    def write_onnx(self, writer: OnnxWriter) -> None:
        more = {"dilations": self.dilations} if any(d != 1 for d in self.dilations) else {}
        writer.node(
            "MaxPool", self.inputs, self.output, kernel_shape=self.kernel, strides=self.strides, pads=self.pads, **more
        )
