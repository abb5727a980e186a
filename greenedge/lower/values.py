"""What a tensor of the source model is known to be while it is lowered."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from greenedge.frontends.source import Node
from greenedge.graph.ops.base import Array, Ints
from greenedge.lower.expr import Expr, ShapeChange, to_fractions


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant array as it stands in the model."""

    array: Array


@dataclass(frozen=True, eq=False)
class Grid:
    """A quantised constant: real value = scale * (ints - zero); scale and zero broadcast against ints."""

    ints: Ints
    scale: Array
    zero: Array
    bits: int

    def real(self) -> Array:
        """Its values as Fractions."""
        scale, zero = (to_fractions(np.asarray(part, float)) for part in (self.scale, self.zero))
        return np.asarray((to_fractions(self.ints) - zero) * scale, dtype=object)  # NumPy makes one number a scalar

    def map(self, change: ShapeChange) -> Grid:
        """The same constant after a change of shape (transpose, reshape, …)."""
        scale, zero = (
            cut_constant_axes(change(np.broadcast_to(part, self.ints.shape))) for part in (self.scale, self.zero)
        )
        return Grid(change(self.ints), scale, zero, self.bits)


@dataclass(frozen=True, eq=False)
class Live:
    """A tensor of the network: the real function `expr` of the integers on `edge`, element by element."""

    edge: str
    expr: Expr


@dataclass(frozen=True, eq=False)
class Masked:
    """Logits of which only those count where `seen` (0 and 1, broadcast against the tensor without its batch) is 1:
    what a softmax alone may read."""

    live: Live
    seen: Ints


@dataclass(frozen=True, eq=False)
class Host:
    """A float tensor that the host computes: before the first quantiser, or after the last integer operation.

    `example` is its value for one batch of zeros (shape and type are what matters); `origin` is the node at which it
    left the integers, None for a tensor before them, and `also` the nodes after it that have no integer form either.
    """

    example: Array
    origin: Node | None = None
    why: str = ""
    also: tuple[Node, ...] = ()

    def replace_example(self, example: Array) -> Host:
        return replace(self, example=example)

    @property
    def history(self) -> str:
        """What the tensor passed through."""
        return ", ".join([self.why, *(f"and {node.op} ({node.name}), likewise" for node in self.also)])

    @property
    def cure(self) -> str:
        assert self.origin is not None
        names = " and ".join(dict.fromkeys(node.op for node in (self.origin, *self.also)))
        return f"remove {names} or move {'them' if ' and ' in names else 'it'} behind the last layer"


@dataclass(frozen=True, eq=False)
class Broken:
    """What follows from a node that was refused: no more reasons are derived from it."""


Value = Constant | Grid | Live | Masked | Host | Broken


def single_zero(zero: Array) -> int:
    """The one level that stands for 0; 0 where there are several, or it is none."""
    values = set(np.ravel(zero).tolist())
    value = values.pop() if len(values) == 1 else 0.0
    return int(value) if value == int(value) else 0


def cut_constant_axes(array: Array) -> Array:
    """The array with every axis along which it does not vary cut to length 1."""
    for axis in range(array.ndim):
        first = array.take([0], axis=axis)
        if array.shape[axis] > 1 and bool(np.all(array == first)):
            array = first
    return array
