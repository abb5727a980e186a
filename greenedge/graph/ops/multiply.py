"""A product of two activations: gates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops.arithmetic import require_countable
from greenedge.graph.ops.base import Array, Edge, Floats, Ints, Op, Range, Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class Multiply(Op):
    """(a - zeros[0]) * (b - zeros[1]), element by element; an axis of one element of either stands for all of the
    other's, as ONNX broadcasts."""

    zeros: tuple[int, int]

    accumulates: ClassVar[bool] = True

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        a, b = edges
        if len(a.shape) != len(b.shape) or any(1 != s != t != 1 for s, t in zip(a.shape, b.shape, strict=True)):
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"its inputs have shapes {[edge.shape for edge in edges]}",
                "axes must be alike, or one of one element",
                "reshape the smaller branch explicitly",
            )
        ends = [(low - zero, high - zero) for (low, high), zero in zip(ranges, self.zeros, strict=True)]
        require_countable(math.prod(max(abs(int(low.min())), abs(int(high.max()))) for low, high in ends))
        corners: list[Ints] = [np.asarray(x * y) for x in ends[0] for y in ends[1]]
        low, high = corners[0], corners[0]
        for corner in corners[1:]:
            low, high = np.minimum(low, corner), np.maximum(high, corner)
        return tuple(int(d) for d in np.broadcast_shapes(a.shape, b.shape)), (low, high)

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        product: Array = (xs[0] - self.zeros[0]) * (xs[1] - self.zeros[1])
        return product

    def execute_magnitudes(self, xs: Sequence[Floats]) -> Floats:
        """The magnitudes count from the real zeros already."""
        product: Floats = xs[0] * xs[1]
        return product

    def inherit_errors(self, magnitudes: Sequence[Floats], errors: Sequence[Floats]) -> Floats:
        """|a|*eb + |b|*ea + ea*eb."""
        (a, b), (ea, eb) = magnitudes, errors
        inherited: Floats = a * eb + b * ea + ea * eb
        return inherited

    def write_onnx(self, writer: OnnxWriter) -> None:
        writer.node("Mul", writer.subtract_zeros(self.name, self.inputs, self.zeros), self.output)

    @property
    def terms(self) -> int:
        return 1

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        first, second = values["zeros"]
        return cls(**{**values, "zeros": (int(first), int(second))})
