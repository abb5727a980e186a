"""Reshapes and transpositions between an edge and a tensor of the model, undone: before the heads of a projection are
split, its bias varies along one axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from greenedge.graph import Op
from greenedge.graph.ops.base import Array, Shape
from greenedge.lower.expr import Expr
from greenedge.lower.values import cut_constant_axes


@dataclass(frozen=True, eq=False)
class Move:
    """A Reshape or Transpose, the shape that it moves and the one that it gives."""

    op: Op
    before: Shape
    after: Shape

    def undo(self, values: Array) -> Array:
        """Values (batch first) of shape `after`, where they were before."""
        return self.op.undo(values, self.before)

    def undo_constant(self, part: Array) -> Array:
        """The same of a constant that broadcasts against `after`."""
        if part.size == 1:
            return part.reshape(())
        return cut_constant_axes(self.undo(np.broadcast_to(part, self.after)[None])[0])


def find_moves(y: Expr, edge: str, producer: Callable[[str], Op], shape: Callable[[str], Shape]) -> list[Move]:
    """The moves before `edge`, first to last, that are undone until y varies along one axis; empty where it does, and
    where that many moves do not lead to it."""
    moves: list[Move] = []
    while count_axes(y) > 1:
        op = producer(edge)
        if not op.permutes:
            return []
        move = Move(op, shape(op.inputs[0]), shape(op.output))
        y, edge = y.map_constants(move.undo_constant), op.inputs[0]
        moves.insert(0, move)
    return moves


def count_axes(y: Expr) -> int:
    """Along how many axes the constants of a function vary."""
    shapes = [array.shape for array in y.constants() if array.size > 1]
    rank = max(map(len, shapes), default=0)
    full = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return sum(any(shape[axis] > 1 for shape in full) for axis in range(rank))
