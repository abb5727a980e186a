"""Where integers come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from greenedge.graph.ops.base import Array, Edge, Op
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class Input(Op):
    """An input of the graph. `inputs` is empty; shape and range are those of its edge, which nothing derives."""

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        raise AssertionError(f"{self.name}: an input is fed, not executed")

    def write_onnx(self, writer: OnnxWriter) -> None:
        """Nothing: an input of the graph is an input of the model."""
