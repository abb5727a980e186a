"""A fully connected layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops.arithmetic import multiply, product_range
from greenedge.graph.ops.base import Array, Edge, Range, Shape
from greenedge.graph.ops.linear import Linear
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class Dense(Linear):
    """y[..., m] = sum over k of x[..., k] * weight[k, m]; weight is (K, M)."""

    def channel_axis(self, rank: int) -> int:
        return rank - 1

    @property
    def summed_axes(self) -> tuple[int, ...]:
        return (0,)

    @property
    def channels(self) -> int:
        return int(self.weight.shape[1])

    def scale_channels(self, factor: Array) -> Array:
        return self.weight * factor

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        shape = edges[0].shape
        if shape[-1:] != self.weight.shape[:1]:
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"its input has {shape[-1] if shape else 0} features and its weights {self.weight.shape[0]}",
                "they must match",
                "export the model again",
            )
        low, high = (np.broadcast_to(part, (*part.shape[:-1], shape[-1])) for part in ranges[0])
        keep = tuple(range(low.ndim - 1))
        low, high = low.min(axis=keep), high.max(axis=keep)
        small, large = product_range(self.weight, low[:, None], high[:, None])
        ones = (1,) * (len(shape) - 1)
        return (*shape[:-1], self.channels), (small.sum(0).reshape(*ones, -1), large.sum(0).reshape(*ones, -1))

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        return multiply(xs[0], self.weight, None if edges is None else edges[0].magnitude)

    def write_onnx(self, writer: OnnxWriter) -> None:
        writer.node("MatMul", [self.inputs[0], writer.weight(self.name, self.weight)], self.output)

    @property
    def terms(self) -> int:
        return int(self.weight.shape[0])
