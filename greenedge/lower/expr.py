"""Real functions of one integer: what a model does between two quantisers.

An expression is a small immutable tree over one variable, the integer on an edge. Its constants are the model's own
float parameters, exact in float64 (or Fractions), shaped to broadcast against the edge's tensor without its batch axis.
It is evaluated in three ways:

    approximate(x)          float64 with a running error bound: decides almost every comparison
    exactly(x)              Fractions, or a rigorous interval where a square root or a transcendental makes them irrational
    direction()             per channel +1, -1, 0 or None: rising, falling, constant, unknown

The error analysis is the standard running one (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.3):
fl(a op b) = (a op b)(1 + d), |d| <= u, with u = 2**-53 for our own arithmetic and 2**-24 for a float32 runtime. Both the
real value and the value that a runtime with that u computes lie within the bound of the float64 value (short of overflow).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

U64, U32 = 2.0**-53, 2.0**-24

# Bound on the error of exp, tanh and erf in units of the last place. numpy documents at most 4 ulp for its vector
# kernels and libm stays below 2; ONNX Runtime's float32 kernels are rational approximations of the same quality.
_LIBM_ULPS = 16

# The bounds are computed in float64 themselves, a few roundings each: this factor is larger than all of them together.
_SLACK = 1 + 2.0**-20

# What one operation may lose where its result is too small for the format: float64 rounds to denormals, a float32 runtime
# may flush everything below its smallest normal number to zero.
_UNDERFLOW = {U64: 2.0**-1074, U32: 2.0**-126}

# exp(x) beyond this is a number that no later arithmetic of a quantised model can use, and too long to write down.
_MOST_EXPONENT = 1 << 13

ShapeChange = Callable[[np.ndarray], np.ndarray]


class Undecidable(Exception):
    """A comparison that no precision we try decides, or a function that cannot be tabulated."""


def _rounded(value: np.ndarray, inherited: np.ndarray, u: float) -> np.ndarray:
    """Bound after one more rounding of `value`, whose operands brought the error `inherited`.

    |fl(v') - v| <= |v' - v| + u*|v'| for the computed operands' exact result v', and |v'| <= |v| + |v' - v|.
    """
    return (inherited * (1 + u) + u * np.abs(value)) * _SLACK + _UNDERFLOW[u]


@dataclass(frozen=True, eq=False)
class Expr:
    """One node of an expression; `args` are its operands."""

    args: tuple[Expr, ...] = ()

    @cached_property
    def extent(self) -> tuple[int, int]:
        """(depth, number of evaluations): a tree that shares its branches is evaluated once for every way to them."""
        depths, counts = zip((0, 0), *(arg.extent for arg in self.args))
        return 1 + max(depths), 1 + sum(counts)

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

    def constants(self) -> list[np.ndarray]:
        """Every constant array in the tree."""
        return [array for arg in self.args for array in arg.constants()]

    def approximate(self, x: np.ndarray, u: float = U64, x_error=0.0) -> tuple[np.ndarray, np.ndarray]:
        """(value, bound on its absolute error) when evaluated with unit roundoff `u` at x known to within `x_error`."""
        raise NotImplementedError

    def exactly(self, x: int, index: int, bits: int) -> tuple[Fraction, Fraction]:
        """Bounds (equal where rational) of the value at `x` in channel `index` of flattened constants."""
        raise NotImplementedError

    def direction(self) -> np.ndarray:
        """Array of +1 (rising), -1 (falling), 0 (constant), nan (unknown), broadcastable like the constants."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Var(Expr):
    """The integer itself."""

    def substitute(self, inner):
        return inner

    def approximate(self, x, u=U64, x_error=0.0):
        x = np.asarray(x, np.float64)
        return x, np.broadcast_to(np.asarray(x_error, np.float64), x.shape)

    def exactly(self, x, index, bits):
        return Fraction(x), Fraction(x)

    def direction(self):
        return np.array(1.0)


@dataclass(frozen=True, eq=False)
class Const(Expr):
    """A constant array: float64 holding the model's float exactly, or objects (Fractions) where float64 cannot."""

    values: np.ndarray = None

    @staticmethod
    def of(values) -> Const:
        """A constant from floats, integers or Fractions; kept as float64 wherever that is exact."""
        array = np.asarray(values)
        if array.dtype == object or array.dtype.kind in "iu":
            exact = np.vectorize(Fraction, otypes=[object])(array) if array.size else array.astype(object)
            floats = exact.astype(np.float64)
            same = all(Fraction(f) == e for f, e in zip(floats.ravel().tolist(), exact.ravel().tolist()))
            return Const(values=floats if same else exact)
        return Const(values=array.astype(np.float64))

    def map_constants(self, change):
        return Const(values=change(self.values))

    def constants(self):
        return [self.values]

    def approximate(self, x, u=U64, x_error=0.0):
        values = self.values.astype(np.float64)
        exact = self.values.dtype != object
        if u != U64:  # a runtime holds it as a float32
            with np.errstate(over="ignore"):
                exact = exact & (values.astype(np.float32) == values)
        return values, np.where(exact, 0.0, _rounded(values, np.zeros_like(values), u))

    def exactly(self, x, index, bits):
        value = self.values.reshape(-1)[index if self.values.size > 1 else 0]
        fraction = Fraction(value)
        return fraction, fraction

    def direction(self):
        return np.zeros(self.values.shape)


@dataclass(frozen=True, eq=False)
class Sum(Expr):
    def approximate(self, x, u=U64, x_error=0.0):
        (a, ea), (b, eb) = (arg.approximate(x, u, x_error) for arg in self.args)
        v = a + b
        return v, _rounded(v, ea + eb, u)

    def exactly(self, x, index, bits):
        (a, A), (b, B) = (arg.exactly(x, index, bits) for arg in self.args)
        return a + b, A + B

    def direction(self):
        a, b = (arg.direction() for arg in self.args)
        return np.where(a == 0, b, np.where((b == 0) | (a == b), a, np.nan))


@dataclass(frozen=True, eq=False)
class Product(Expr):
    def approximate(self, x, u=U64, x_error=0.0):
        (a, ea), (b, eb) = (arg.approximate(x, u, x_error) for arg in self.args)
        v = a * b
        return v, _rounded(v, np.abs(a) * eb + np.abs(b) * ea + ea * eb, u)

    def exactly(self, x, index, bits):
        (a, A), (b, B) = (arg.exactly(x, index, bits) for arg in self.args)
        if a == A and b == B:
            return a * b, a * b
        corners = (a * b, a * B, A * b, A * B)
        return min(corners), max(corners)

    def direction(self):
        return _scaled_direction(*self.args)


@dataclass(frozen=True, eq=False)
class Quotient(Expr):
    """args[0] / args[1]; the divisor must be a rational constant without zeros."""

    def approximate(self, x, u=U64, x_error=0.0):
        (a, ea), (b, eb) = (arg.approximate(x, u, x_error) for arg in self.args)
        v = a / b
        return v, _rounded(v, (ea + np.abs(v) * eb) / np.maximum(np.abs(b) - eb, 5e-324), u)

    def exactly(self, x, index, bits):
        (a, A), (b, B) = (arg.exactly(x, index, bits) for arg in self.args)
        assert b == B, "a divisor that is no rational constant"
        return min(a / b, A / b), max(a / b, A / b)

    def direction(self):
        return _scaled_direction(*self.args)


def _scaled_direction(a: Expr, b: Expr) -> np.ndarray:
    """Direction of a product or quotient in which one side is constant; unknown otherwise."""
    da, db = a.direction(), b.direction()
    if not _has_var(b):
        return da * _sign(b)
    if not _has_var(a):
        return db * _sign(a)
    return np.where((da == 0) & (db == 0), 0.0, np.nan)


def _sign(constant: Expr) -> np.ndarray:
    """Sign of a constant expression; unknown where rounding hides it."""
    value, error = constant.approximate(np.zeros(()))
    return np.where(np.abs(value) > error, np.sign(value), np.where((value == 0) & (error == 0), 0.0, np.nan))


def _has_var(expr: Expr) -> bool:
    return isinstance(expr, Var) or any(_has_var(arg) for arg in expr.args)


@dataclass(frozen=True, eq=False)
class BatchNorm(Expr):
    """args = (x, gamma, beta, mean, variance plus epsilon): gamma * (x - mean) / sqrt(v) + beta.

    A runtime may evaluate it as x*k + (beta - mean*k), so the error bound covers both orders.
    """

    def approximate(self, x, u=U64, x_error=0.0):
        (a, ea), (g, eg), (b, eb), (m, em), (v, ev) = (arg.approximate(x, u, x_error) for arg in self.args)
        root = np.sqrt(v)
        k = g / root
        value = (a - m) * k + b
        # k: one addition (v), one square root (half its relative error), one division; then at most four operations. As
        # (1 + u)**8 <= 1 + 9*u, 9*u covers all of them on the sum of the magnitudes.
        k_error = eg / root + np.abs(k) * ev / (2 * (v - ev))
        size = (np.abs(a) + ea + np.abs(m) + em) * (np.abs(k) + k_error) + np.abs(b) + eb
        inherited = (ea + em) * (np.abs(k) + k_error) + (np.abs(a) + np.abs(m)) * k_error + eb
        return value, (inherited + 9 * u * size) * _SLACK + 8 * _UNDERFLOW[u] * (1 + np.abs(a) + np.abs(m))

    def exactly(self, x, index, bits):
        (a, A), (g, _), (b, _), (m, _), (v, _) = (arg.exactly(x, index, bits) for arg in self.args)
        low, high = _sqrt_bounds(v, bits)
        if a == A == m or g == 0:
            return b, b
        corners = [g * (end - m) / root + b for end in (a, A) for root in (low, high)]
        return min(corners), max(corners)

    def direction(self):
        return self.args[0].direction() * _sign(self.args[1])


def _sqrt_bounds(value: Fraction, bits: int) -> tuple[Fraction, Fraction]:
    """sqrt(value) within 2**-bits, exact where value is the square of a rational."""
    p, q = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if p * p == value.numerator and q * q == value.denominator:
        return Fraction(p, q), Fraction(p, q)
    root = math.isqrt((value.numerator << 2 * bits) // value.denominator)
    return Fraction(root, 1 << bits), Fraction(root + 1, 1 << bits)


@dataclass(frozen=True, eq=False)
class Slope(Expr):
    """args = (x, slope): x where x >= 0, slope*x below: ReLU (slope 0), leaky ReLU, PReLU."""

    def approximate(self, x, u=U64, x_error=0.0):
        (a, ea), (s, es) = (arg.approximate(x, u, x_error) for arg in self.args)
        below = s * a
        product = _rounded(below, np.abs(s) * ea + (np.abs(a) + ea) * es, u)
        # Within ea of zero either branch may have been taken, and the two are at most (1 + |s|)*ea apart there.
        error = np.where(a > ea, ea, np.where(a < -ea, product, (1 + np.abs(s)) * ea + product))
        return np.where(a >= 0, a, below), error

    def exactly(self, x, index, bits):
        (a, A), (s, _) = (arg.exactly(x, index, bits) for arg in self.args)
        ends = [end if end >= 0 else s * end for end in (a, A)]
        if a < 0 < A:
            ends.append(Fraction(0))
        return min(ends), max(ends)

    def direction(self):
        slope = self.args[1].approximate(np.zeros(()))[0]
        return np.where(slope >= 0, self.args[0].direction(), np.nan)


@dataclass(frozen=True, eq=False)
class Clip(Expr):
    """args = (x, low, high) with constant ends."""

    def approximate(self, x, u=U64, x_error=0.0):
        (a, ea), (lo, elo), (hi, ehi) = (arg.approximate(x, u, x_error) for arg in self.args)
        return np.clip(a, lo, hi), np.maximum(ea, np.maximum(elo, ehi))

    def exactly(self, x, index, bits):
        (a, A), (lo, _), (hi, _) = (arg.exactly(x, index, bits) for arg in self.args)
        return min(max(a, lo), hi), min(max(A, lo), hi)

    def direction(self):
        return self.args[0].direction()


@dataclass(frozen=True, eq=False)
class Magnitude(Expr):
    """|x|."""

    def approximate(self, x, u=U64, x_error=0.0):
        a, ea = self.args[0].approximate(x, u, x_error)
        return np.abs(a), ea

    def exactly(self, x, index, bits):
        a, A = self.args[0].exactly(x, index, bits)
        low = Fraction(0) if a <= 0 <= A else min(abs(a), abs(A))
        return low, max(abs(a), abs(A))

    def direction(self):
        return np.where(self.args[0].direction() == 0, 0.0, np.nan)


@dataclass(frozen=True, eq=False)
class Smooth(Expr):
    """A rising transcendental function by name: sigmoid, tanh, erf, exp, softplus."""

    function: str = "tanh"

    # Lipschitz constant on the whole line, None where there is none
    LIPSCHITZ = {"sigmoid": 0.25, "tanh": 1.0, "erf": 1.1284, "exp": None, "softplus": 1.0}

    def approximate(self, x, u=U64, x_error=0.0):
        a, ea = self.args[0].approximate(x, u, x_error)
        v = _smooth64(self.function, a)
        constant = self.LIPSCHITZ[self.function]
        with np.errstate(over="ignore", invalid="ignore"):
            growth = ea * constant if constant is not None else v * np.expm1(ea)
        # The approximations have an absolute floor near zero crossings, hence the maximum with 1 for bounded functions.
        scale = np.maximum(np.abs(v), 1.0) if self.function != "exp" else np.abs(v) + growth
        return v, (growth + _LIBM_ULPS * u * scale) * _SLACK + _UNDERFLOW[u]

    def exactly(self, x, index, bits):
        a, A = self.args[0].exactly(x, index, bits)
        if a == A == 0 and self.function in _AT_ZERO:
            return _AT_ZERO[self.function], _AT_ZERO[self.function]
        low, high = _smooth_exact(self.function, a, bits), _smooth_exact(self.function, A, bits)
        slack = Fraction(1, 1 << (bits - 24)) * (1 + abs(high))
        return low - slack, high + slack

    def direction(self):
        return self.args[0].direction()


# The only rational points: at every other rational argument these functions are irrational (Lindemann-Weierstrass; erf too
# is irrational where it is known at all), so a comparison with a rational boundary is decided at some finite precision.
_AT_ZERO = {"sigmoid": Fraction(1, 2), "tanh": Fraction(0), "erf": Fraction(0), "exp": Fraction(1)}


def _smooth64(function: str, a: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        if function == "sigmoid":
            return 1 / (1 + np.exp(-a))
        if function == "softplus":
            return np.logaddexp(0, a)
        if function == "erf":
            return np.vectorize(math.erf, otypes=[float])(a)
        return {"tanh": np.tanh, "exp": np.exp}[function](a)


def _smooth_exact(function: str, value: Fraction, bits: int) -> Fraction:
    """The function within 2**-(bits-24) * (1 + its size), by arbitrary-precision arithmetic. Raises Undecidable.

    The argument carries bits + 32 bits, so up to the largest exponent, 2**13, it is wrong by less than 2**-(bits+19).
    """
    import mpmath

    if function in ("exp", "softplus") and value > _MOST_EXPONENT:
        raise Undecidable(
            f"{function} of {float(min(value, Fraction(10**300))):.3g} is beyond any number that a model holds"
        )
    with mpmath.workprec(bits + 32):
        a = mpmath.mpf(value.numerator) / value.denominator
        v = {
            "sigmoid": lambda: 1 / (1 + mpmath.exp(-a)),
            "tanh": lambda: mpmath.tanh(a),
            "erf": lambda: mpmath.erf(a),
            "exp": lambda: mpmath.exp(a),
            "softplus": lambda: mpmath.log1p(mpmath.exp(a)),
        }[function]()
        return Fraction(int(mpmath.floor(mpmath.ldexp(v, bits))), 1 << bits)


def affine_of(expr: Expr) -> tuple[np.ndarray, np.ndarray] | None:
    """(alpha, beta) as arrays of Fractions with expr = alpha*x + beta, or None where it is not a rational affine function."""
    zero = np.array(Fraction(0), dtype=object)
    if isinstance(expr, Var):
        return np.array(Fraction(1), dtype=object), zero
    if isinstance(expr, Const):
        return zero, np.vectorize(Fraction, otypes=[object])(expr.values)
    if not isinstance(expr, (Sum, Product, Quotient)):
        return None
    parts = [affine_of(arg) for arg in expr.args]
    if None in parts:
        return None
    (a, b), (c, d) = parts
    if isinstance(expr, Sum):
        return a + c, b + d
    if isinstance(expr, Quotient):
        return (a / d, b / d) if not np.any(c != 0) else None
    if not np.any(a != 0):
        return b * c, b * d
    return (a * d, b * d) if not np.any(c != 0) else None
