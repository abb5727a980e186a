"""A matrix product of two activations: attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops.arithmetic import choose_exact_type, require_countable
from greenedge.graph.ops.base import Array, Edge, Floats, Op, Range, Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class MatMul(Op):
    """y[..., m, n] = sum over k of (a[..., m, k] - zeros[0]) * (b[..., k, n] - zeros[1]); the leading axes (heads) of
    both are the same. `depth` is how many products a sum has."""

    zeros: tuple[int, int]
    depth: int

    accumulates: ClassVar[bool] = True

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        a, b = (edge.shape for edge in edges)
        if len(a) < 2 or len(a) != len(b) or a[:-2] != b[:-2] or not a[-1] == b[-2] == self.depth:
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"a product of matrices of shapes {a} and {b}",
                "both have the same leading axes, and as many columns as the other has rows",
                "split the heads of both alike",
            )
        (low_a, high_a), (low_b, high_b) = (
            (int(low.min()) - zero, int(high.max()) - zero)
            for (low, high), zero in zip(ranges, self.zeros, strict=True)
        )
        products = [x * y for x in (low_a, high_a) for y in (low_b, high_b)]
        require_countable(self.depth * max(map(abs, products)))
        ones = (1,) * len(a)
        return (*a[:-1], b[-1]), (np.full(ones, self.depth * min(products)), np.full(ones, self.depth * max(products)))

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        a, b = (x - zero for x, zero in zip(xs, self.zeros, strict=True))
        if edges is None:
            product: Array = np.matmul(a.astype(np.float64), b.astype(np.float64))
            return product
        reach = [edge.magnitude + abs(zero) for edge, zero in zip(edges, self.zeros, strict=True)]
        exact = choose_exact_type(self.depth * reach[0] * reach[1])
        sums: Array = np.matmul(a.astype(exact), b.astype(exact)).astype(np.int64)
        return sums

    def execute_magnitudes(self, xs: Sequence[Floats]) -> Floats:
        """The magnitudes count from the real zeros already."""
        product: Floats = np.matmul(xs[0], xs[1])
        return product

    def inherit_errors(self, magnitudes: Sequence[Floats], errors: Sequence[Floats]) -> Floats:
        """|a|*eb + ea*|b| + ea*eb, as matrices."""
        (a, b), (ea, eb) = magnitudes, errors
        inherited: Floats = np.matmul(a, eb) + np.matmul(ea, b + eb)
        return inherited

    def inner_magnitude(self, edges: Sequence[Edge]) -> int:
        """A sum of magnitudes, which partial sums may reach."""
        reach = [edge.magnitude + abs(zero) for edge, zero in zip(edges, self.zeros, strict=True)]
        return self.depth * reach[0] * reach[1]

    def write_onnx(self, writer: OnnxWriter) -> None:
        writer.node("MatMul", writer.subtract_zeros(self.name, self.inputs, self.zeros), self.output)

    @property
    def terms(self) -> int:
        return self.depth

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        first, second = values["zeros"]
        return cls(**{**values, "zeros": (int(first), int(second)), "depth": int(values["depth"])})
