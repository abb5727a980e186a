"""What a tensor of the source model is known to be while it is lowered."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from greenedge.frontends.source import Node
from greenedge.lower.expr import Const, Expr


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant array as it stands in the model."""

    array: np.ndarray


@dataclass(frozen=True, eq=False)
class Grid:
    """A quantised constant: real value = scale * (ints - zero); scale and zero broadcast against ints."""

    ints: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    bits: int

    def real(self) -> np.ndarray:
        """Its values as Fractions."""
        scale = np.vectorize(Fraction, otypes=[object])(np.asarray(self.scale, float))
        zero = np.vectorize(Fraction, otypes=[object])(np.asarray(self.zero, float))
        return (np.vectorize(Fraction, otypes=[object])(self.ints) - zero) * scale

    def map(self, change) -> Grid:
        """The same constant after a change of shape (transpose, reshape, …)."""
        full = lambda part: change(np.broadcast_to(part, self.ints.shape))
        return Grid(change(self.ints), compressed(full(self.scale)), compressed(full(self.zero)), self.bits)


@dataclass(frozen=True, eq=False)
class Live:
    """A tensor of the network: the real function `expr` of the integers on `edge`, element by element."""

    edge: str
    expr: Expr


@dataclass(frozen=True, eq=False)
class Host:
    """A float tensor that lives on the host: before the first quantiser, or after the last integer operation.

    `example` is its value for one batch of zeros (shape and type are what matters); `origin` is the node at which it
    left the integers, None for a tensor before them.
    """

    example: np.ndarray
    origin: Node | None = None
    why: str = ""


@dataclass(frozen=True, eq=False)
class Broken:
    """What follows from a node that was refused: no further reasons are derived from it."""


Value = Constant | Grid | Live | Host | Broken


def compressed(array: np.ndarray) -> np.ndarray:
    """The array with every axis along which it does not vary cut to length 1."""
    for axis in range(array.ndim):
        first = array.take([0], axis=axis)
        if array.shape[axis] > 1 and bool(np.all(array == first)):
            array = first
    return array


def constant_expr(array: np.ndarray) -> Const:
    """A constant of the expression language from a model's array (floats or Fractions)."""
    return Const.of(array)
