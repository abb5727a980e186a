"""A sum of branches with whole factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops.arithmetic import sum_range
from greenedge.graph.ops.base import Array, Edge, Floats, Op, Range, Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class Add(Op):
    """sum over i of multipliers[i] * x_i; all inputs have the output's shape."""

    multipliers: tuple[int, ...]

    accumulates: ClassVar[bool] = True

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        if len({edge.shape for edge in edges}) != 1:
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"its inputs have shapes {[edge.shape for edge in edges]}",
                "the branches must have one shape",
                "expand the smaller branch explicitly",
            )
        return edges[0].shape, sum_range(self.multipliers, ranges)

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        return self._sum(xs, self.multipliers)

    def execute_magnitudes(self, xs: Sequence[Floats]) -> Floats:
        return self._sum(xs, [abs(m) for m in self.multipliers])

    @staticmethod
    def _sum(xs: Sequence[Array], factors: Sequence[int]) -> Array:
        total: Array = factors[0] * xs[0]
        for x, factor in zip(xs[1:], factors[1:], strict=True):
            total = total + factor * x
        return total

    def inner_magnitude(self, edges: Sequence[Edge]) -> int:
        return max(abs(m) * edge.magnitude for m, edge in zip(self.multipliers, edges, strict=True))

    def write_onnx(self, writer: OnnxWriter) -> None:
        terms = []
        for k, (m, edge) in enumerate(zip(self.multipliers, self.inputs, strict=True)):
            if m == 1:
                terms.append(edge)
                continue
            factor = writer.constant(f"{self.name}_m{k}", m)
            terms.append(writer.inner_node("Mul", [edge, factor], f"{self.name}_term{k}", writer.shape(edge)))
        writer.node("Add", terms, self.output)

    @property
    def terms(self) -> int:
        return len(self.inputs)
