"""ONNX nodes that compute in int64, for operations whose products are wider than a float's significand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from greenedge.graph.ops.base import Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter

_INT64, _DOUBLE = 7, 11  # ONNX's numbers of element types


class Int64Nodes:
    """Nodes of the operation `name`, whose tensors are called after it and hold int64."""

    def __init__(self, writer: OnnxWriter, name: str) -> None:
        self.writer, self.name = writer, name

    def constant(self, part: str, values: ArrayLike) -> str:
        """A constant of int64."""
        return self.writer.constant(f"{self.name}_{part}", values, kind=np.int64)

    def node(self, op: str, inputs: Sequence[str], part: str, shape: Shape) -> str:
        """A node with one output of this shape (without the batch)."""
        return self.writer.inner_node(op, inputs, f"{self.name}_{part}", shape, _INT64)

    def cast(self, source: str, part: str, shape: Shape) -> str:
        """A tensor as int64."""
        return self.writer.inner_node("Cast", [source], f"{self.name}_{part}", shape, _INT64, to=_INT64)

    def sum_last(self, source: str, part: str, shape: Shape) -> str:
        """The sum along the last axis of a tensor of this shape; the axis stays."""
        axes = self.constant("last", [len(shape)])
        name, row = f"{self.name}_{part}", (*shape[:-1], 1)
        return self.writer.inner_node("ReduceSum", [source, axes], name, row, _INT64, keepdims=1)

    def look_up(self, table: ArrayLike, index: str, part: str, shape: Shape) -> str:
        """table[index]."""
        return self.node("Gather", [self.constant(f"{part}_table", table), index], part, shape)

    def count_reached(self, source: str, limits: Sequence[int], shape: Shape) -> str:
        """How many of the limits each value has reached; the source's last axis has one element."""
        wide = (*shape[:-1], max(1, len(limits)))
        reached = f"{self.name}_reached"
        limit = self.constant("limits", list(limits) or [np.iinfo(np.int64).max])
        self.writer.inner_node("GreaterOrEqual", [source, limit], reached, wide, 9)  # 9: ONNX's bool
        return self.sum_last(self.cast(reached, "reached_ones", wide), "half", wide)

    def write_isqrt(self, source: str, shape: Shape) -> str:
        """The whole part of the square root of integers up to 2^62: float64 is within one of it."""
        real = self.writer.inner_node("Cast", [source], f"{self.name}_real", shape, _DOUBLE, to=_DOUBLE)
        real = self.writer.inner_node("Sqrt", [real], f"{self.name}_real_root", shape, _DOUBLE)
        real = self.writer.inner_node("Floor", [real], f"{self.name}_whole_root", shape, _DOUBLE)
        root, one = self.cast(real, "near_root", shape), self.constant("one", 1)
        above = self._compare("Greater", self.node("Mul", [root, root], "near_square", shape), source, "above", shape)
        root = self.node("Sub", [root, above], "low_root", shape)
        more = self.node("Add", [root, one], "next_root", shape)
        below = self.node("Mul", [more, more], "next_square", shape)
        reached = self._compare("LessOrEqual", below, source, "below", shape)
        return self.node("Add", [root, reached], "root", shape)

    def _compare(self, op: str, a: str, b: str, part: str, shape: Shape) -> str:
        """1 where the comparison holds, else 0."""
        self.writer.inner_node(op, [a, b], f"{self.name}_is_{part}", shape, 9)
        return self.cast(f"{self.name}_is_{part}", part, shape)
