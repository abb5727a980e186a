"""Real functions of one integer: what a model computes between two quantisers.

An expression is a small immutable tree over one variable, the integer on an edge. Its constants are the model's own
float parameters, exact in float64 (or Fractions), shaped to broadcast against the edge's tensor without its batch axis.
Here are the variable, constants and arithmetic; `expr_functions` has the nonlinear functions. A tree is evaluated in
three ways:

    approximate(x)          float64 with a running error bound: decides almost every comparison exactly(x)
    Fractions, or a rigorous interval where a square root or a transcendental makes them irrational direction()
    per channel +1, -1, 0 or nan: rising, falling, constant, unknown

The error analysis is the standard running one (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.3):
fl(a op b) = (a op b)(1 + d), |d| <= u, with u = 2**-53 for our own arithmetic and 2**-24 for a float32 runtime. Both
the real value and the value that a runtime with that u computes lie within the bound of the float64 value (short of
overflow).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from greenedge.graph.ops.base import Array

U64, U32 = 2.0**-53, 2.0**-24

# The bounds are computed in float64 themselves, a few roundings each: this factor is larger than all of them together.
SLACK = 1 + 2.0**-20

# What one operation may lose where its result is too small for the format: float64 rounds to denormals, a float32
# runtime may flush everything below its smallest normal number to zero.
UNDERFLOW = {U64: 2.0**-1074, U32: 2.0**-126}

Bounds = tuple[Fraction, Fraction]  # lower and upper bound of a real number; equal where it is known exactly
ShapeChange = Callable[[Array], Array]


class Undecidable(Exception):
    """A comparison that no precision we try decides, or a function that cannot be tabulated."""


def bound_rounding(value: Array, inherited: Array, u: float) -> Array:
    """Bound after one more rounding of `value`, whose operands brought the error `inherited`.

    |fl(v') - v| <= |v' - v| + u*|v'| for the computed operands' exact result v', and |v'| <= |v| + |v' - v|.
    """
    bound: Array = (inherited * (1 + u) + u * np.abs(value)) * SLACK + UNDERFLOW[u]
    return bound


def to_fractions(values: ArrayLike) -> Array:
    """The numbers as an object array of Fractions, each exactly the float or integer that it was."""
    fractions: Array = np.vectorize(Fraction, otypes=[object])(np.asarray(values))
    return fractions


@dataclass(frozen=True, eq=False)
class Expr:
    """One node of an expression; `args` are its operands."""

    args: tuple[Expr, ...] = ()

    @cached_property
    def extent(self) -> tuple[int, int]:
        """(depth, number of evaluations): a tree that shares its branches is evaluated once for every way to them."""
        extents = [arg.extent for arg in self.args]
        return 1 + max((depth for depth, _ in extents), default=0), 1 + sum(count for _, count in extents)

    def __add__(self, other: Expr) -> Expr:
        return Sum((self, other))

    def __mul__(self, other: Expr) -> Expr:
        return Product((self, other))

    def __truediv__(self, other: Expr) -> Expr:
        return Quotient((self, other))

    def __neg__(self) -> Expr:
        return Const.of(-1.0) * self

    def __sub__(self, other: Expr) -> Expr:
        return self + (-other)

    def map_constants(self, change: ShapeChange) -> Expr:
        """The same function after every constant array went through `change`."""
        return replace(self, args=tuple(arg.map_constants(change) for arg in self.args))

    def substitute(self, inner: Expr) -> Expr:
        """This function of `inner` instead of the variable."""
        return replace(self, args=tuple(arg.substitute(inner) for arg in self.args))

    def constants(self) -> list[Array]:
        """Every constant array in the tree."""
        return [array for arg in self.args for array in arg.constants()]

    def approximate(self, x: Array, u: float = U64, x_error: Array | float = 0.0) -> tuple[Array, Array]:
        """(value, bound on its absolute error) when evaluated with unit roundoff `u` at x known to within `x_error`."""
        raise NotImplementedError

    def exactly(self, x: int, index: int, bits: int) -> Bounds:
        """Bounds (equal where rational) of the value at `x` in channel `index` of flattened constants."""
        raise NotImplementedError

    def direction(self) -> Array:
        """Array of +1 (rising), -1 (falling), 0 (constant), nan (unknown), broadcastable like the constants."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Var(Expr):
    """The integer itself."""

    def substitute(self, inner: Expr) -> Expr:
        return inner

    def approximate(self, x: Array, u: float = U64, x_error: Array | float = 0.0) -> tuple[Array, Array]:
        x = np.asarray(x, np.float64)
        return x, np.broadcast_to(np.asarray(x_error, np.float64), x.shape)

    def exactly(self, x: int, index: int, bits: int) -> Bounds:
        return Fraction(x), Fraction(x)

    def direction(self) -> Array:
        return np.array(1.0)


@dataclass(frozen=True, eq=False)
class Const(Expr):
    """A constant array: float64 holding the model's float exactly, or objects (Fractions) where float64 cannot."""

    values: Array = field(kw_only=True)

    @staticmethod
    def of(values: ArrayLike) -> Const:
        """A constant from floats, integers or Fractions; kept as float64 wherever that is exact."""
        array = np.asarray(values)
        if array.dtype == object or array.dtype.kind in "iu":
            exact = to_fractions(array) if array.size else array.astype(object)
            floats = exact.astype(np.float64)
            pairs = zip(floats.ravel().tolist(), exact.ravel().tolist(), strict=True)
            same = all(Fraction(value) == fraction for value, fraction in pairs)
            return Const(values=floats if same else exact)
        return Const(values=array.astype(np.float64))

    def map_constants(self, change: ShapeChange) -> Expr:
        return Const(values=change(self.values))

    def constants(self) -> list[Array]:
        return [self.values]

    def approximate(self, x: Array, u: float = U64, x_error: Array | float = 0.0) -> tuple[Array, Array]:
        values = self.values.astype(np.float64)
        exact = np.full(values.shape, self.values.dtype != object)
        if u != U64:  # a runtime holds it as a float32
            with np.errstate(over="ignore"):
                exact = exact & (values.astype(np.float32) == values)
        return values, np.where(exact, 0.0, bound_rounding(values, np.zeros_like(values), u))

    def exactly(self, x: int, index: int, bits: int) -> Bounds:
        value = self.values.reshape(-1)[index if self.values.size > 1 else 0]
        fraction = Fraction(value)
        return fraction, fraction

    def direction(self) -> Array:
        return np.zeros(self.values.shape)


@dataclass(frozen=True, eq=False)
class Sum(Expr):
    """args[0] + args[1]."""

    def approximate(self, x: Array, u: float = U64, x_error: Array | float = 0.0) -> tuple[Array, Array]:
        (a, ea), (b, eb) = (arg.approximate(x, u, x_error) for arg in self.args)
        v = a + b
        return v, bound_rounding(v, ea + eb, u)

    def exactly(self, x: int, index: int, bits: int) -> Bounds:
        (a, a_high), (b, b_high) = (arg.exactly(x, index, bits) for arg in self.args)
        return a + b, a_high + b_high

    def direction(self) -> Array:
        a, b = (arg.direction() for arg in self.args)
        return np.where(a == 0, b, np.where((b == 0) | (a == b), a, np.nan))


@dataclass(frozen=True, eq=False)
class Product(Expr):
    """args[0] * args[1]."""

    def approximate(self, x: Array, u: float = U64, x_error: Array | float = 0.0) -> tuple[Array, Array]:
        (a, ea), (b, eb) = (arg.approximate(x, u, x_error) for arg in self.args)
        v = a * b
        return v, bound_rounding(v, np.abs(a) * eb + np.abs(b) * ea + ea * eb, u)

    def exactly(self, x: int, index: int, bits: int) -> Bounds:
        (a, a_high), (b, b_high) = (arg.exactly(x, index, bits) for arg in self.args)
        if a == a_high and b == b_high:
            return a * b, a * b
        corners = (a * b, a * b_high, a_high * b, a_high * b_high)
        return min(corners), max(corners)

    def direction(self) -> Array:
        return _scale_direction(*self.args)


@dataclass(frozen=True, eq=False)
class Quotient(Expr):
    """args[0] / args[1]; the divisor must be a rational constant without zeros."""

    def approximate(self, x: Array, u: float = U64, x_error: Array | float = 0.0) -> tuple[Array, Array]:
        (a, ea), (b, eb) = (arg.approximate(x, u, x_error) for arg in self.args)
        v = a / b
        return v, bound_rounding(v, (ea + np.abs(v) * eb) / np.maximum(np.abs(b) - eb, 5e-324), u)

    def exactly(self, x: int, index: int, bits: int) -> Bounds:
        (a, a_high), (b, b_high) = (arg.exactly(x, index, bits) for arg in self.args)
        assert b == b_high, "a divisor that is no rational constant"
        return min(a / b, a_high / b), max(a / b, a_high / b)

    def direction(self) -> Array:
        return _scale_direction(*self.args)


def _scale_direction(a: Expr, b: Expr) -> Array:
    """Direction of a product or quotient in which one side is constant; unknown otherwise."""
    da, db = a.direction(), b.direction()
    if not _has_var(b):
        return np.where(da == 0, 0.0, da * sign_of(b))
    if not _has_var(a):
        return np.where(db == 0, 0.0, db * sign_of(a))
    return np.where((da == 0) & (db == 0), 0.0, np.nan)


def sign_of(constant: Expr) -> Array:
    """Sign of a constant expression; unknown where rounding hides it."""
    value, error = constant.approximate(np.zeros(()))
    return np.where(np.abs(value) > error, np.sign(value), np.where((value == 0) & (error == 0), 0.0, np.nan))


def _has_var(expr: Expr) -> bool:
    return isinstance(expr, Var) or any(_has_var(arg) for arg in expr.args)


def affine_of(expr: Expr) -> tuple[Array, Array] | None:
    """(alpha, beta) as arrays of Fractions with expr = alpha*x + beta, or None where it is not a rational affine
    function."""
    zero = np.array(Fraction(0), dtype=object)
    if isinstance(expr, Var):
        return np.array(Fraction(1), dtype=object), zero
    if isinstance(expr, Const):
        return zero, to_fractions(expr.values)
    if not isinstance(expr, (Sum, Product, Quotient)):
        return None
    first, second = (affine_of(arg) for arg in expr.args)
    if first is None or second is None:
        return None
    (a, b), (c, d) = first, second
    if isinstance(expr, Sum):
        return a + c, b + d
    if isinstance(expr, Quotient):
        return (a / d, b / d) if not np.any(c != 0) else None
    if not np.any(a != 0):
        return b * c, b * d
    return (a * d, b * d) if not np.any(c != 0) else None
