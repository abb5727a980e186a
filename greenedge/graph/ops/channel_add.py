"""A sum of branches with whole factors of each channel's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops.arithmetic import sum_range
from greenedge.graph.ops.base import Array, Edge, Floats, Ints, Op, Range, Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class ChannelAdd(Op):
    """sum over i of multipliers[i, c] * x_i, c being the index along `axis`; all inputs have the output's shape.

    multipliers   (inputs, C)
    """

    axis: int
    multipliers: Ints

    accumulates: ClassVar[bool] = True

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        shape = edges[0].shape
        fits = all(edge.shape == shape for edge in edges) and len(edges) == len(self.multipliers)
        if not fits or not 0 <= self.axis < len(shape) or shape[self.axis] != self.channels:
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"its inputs have shapes {[edge.shape for edge in edges]}, and there are {self.channels} factors along "
                f"axis {self.axis}",
                "the branches must have one shape",
                "expand the smaller branch explicitly",
            )
        return shape, sum_range(list(self.spread(len(shape))), ranges)

    @property
    def channels(self) -> int:
        """C: how many sums have factors of their own."""
        return int(self.multipliers.shape[1])

    def spread(self, rank: int) -> Ints:
        """(inputs, 1, …, C, …, 1): the factors with `rank` axes each, so that they broadcast against a tensor."""
        shape = [1] * rank
        shape[self.axis] = self.channels
        return self.multipliers.reshape(-1, *shape)

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        return self._sum(xs, self.spread(xs[0].ndim - 1))

    def execute_magnitudes(self, xs: Sequence[Floats]) -> Floats:
        return self._sum(xs, np.abs(self.spread(xs[0].ndim - 1)))

    @staticmethod
    def _sum(xs: Sequence[Array], factors: Ints) -> Array:
        total: Array = factors[0] * xs[0]
        for x, factor in zip(xs[1:], factors[1:], strict=True):
            total = total + factor * x
        return total

    def inner_magnitude(self, edges: Sequence[Edge]) -> int:
        widest = np.abs(self.multipliers).max(axis=1)
        return max(int(m) * edge.magnitude for m, edge in zip(widest, edges, strict=True))

    def write_onnx(self, writer: OnnxWriter) -> None:
        terms = []
        for k, edge in enumerate(self.inputs):
            factors = self.spread(len(writer.shape(edge)))[k]
            factor = writer.constant(f"{self.name}_m{k}", factors)
            terms.append(writer.inner_node("Mul", [edge, factor], f"{self.name}_term{k}", writer.shape(edge)))
        writer.node("Add", terms, self.output)

    @property
    def terms(self) -> int:
        return len(self.inputs)
