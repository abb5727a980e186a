"""Nonlinear functions between quantisers: batch norm, ReLU and its kin, clip, magnitude, transcendental functions.

They are nodes of `expr.Expr`, evaluated as it says: in floats with an error bound, exactly, and by direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from greenedge.graph.ops.base import Array
from greenedge.lower.expr import SLACK, U64, UNDERFLOW, Bounds, Expr, Undecidable, bound_rounding, sign_of

# Bound on the error of exp, tanh and erf in units of the last place. numpy documents at most 4 ulp for its vector
# kernels and libm stays below 2; ONNX Runtime's float32 kernels are rational approximations of the same quality.
_LIBM_ULPS = 16

# exp(x) beyond this is a number that no later arithmetic of a quantised model can use, and too long to compute exactly.
_LARGEST_EXPONENT = 1 << 13


@dataclass(frozen=True, eq=False)
class BatchNorm(Expr):
    """args = (x, gamma, beta, mean, variance plus epsilon): gamma * (x - mean) / sqrt(v) + beta.

    A runtime may evaluate it as x*k + (beta - mean*k), so the error bound covers both orders.
    """

    def approximate(self, x: Array, u: float = U64, x_error: Array | float = 0.0) -> tuple[Array, Array]:
        (a, ea), (g, eg), (b, eb), (m, em), (v, ev) = (arg.approximate(x, u, x_error) for arg in self.args)
        root = np.sqrt(v)
        k = g / root
        value = (a - m) * k + b
        # k: one addition (v), one square root (half its relative error), one division; then at most four operations. As
        # (1 + u)**8 <= 1 + 9*u, 9*u covers all of them on the sum of the magnitudes.
        k_error = eg / root + np.abs(k) * ev / (2 * (v - ev))
        size = (np.abs(a) + ea + np.abs(m) + em) * (np.abs(k) + k_error) + np.abs(b) + eb
        inherited = (ea + em) * (np.abs(k) + k_error) + (np.abs(a) + np.abs(m)) * k_error + eb
        return value, (inherited + 9 * u * size) * SLACK + 8 * UNDERFLOW[u] * (1 + np.abs(a) + np.abs(m))

    def exactly(self, x: int, index: int, bits: int) -> Bounds:
        (a, a_high), (g, _), (b, _), (m, _), (v, _) = (arg.exactly(x, index, bits) for arg in self.args)
        low, high = _sqrt_bounds(v, bits)
        if a == a_high == m or g == 0:
            return b, b
        corners = [g * (end - m) / root + b for end in (a, a_high) for root in (low, high)]
        return min(corners), max(corners)

    def direction(self) -> Array:
        return np.asarray(self.args[0].direction() * sign_of(self.args[1]))


def _sqrt_bounds(value: Fraction, bits: int) -> Bounds:
    """sqrt(value) within 2**-bits, exact where value is the square of a rational."""
    p, q = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if p * p == value.numerator and q * q == value.denominator:
        return Fraction(p, q), Fraction(p, q)
    root = math.isqrt((value.numerator << 2 * bits) // value.denominator)
    return Fraction(root, 1 << bits), Fraction(root + 1, 1 << bits)


@dataclass(frozen=True, eq=False)
class Slope(Expr):
    """args = (x, slope): x where x >= 0, slope*x below: ReLU (slope 0), leaky ReLU, PReLU."""

    def approximate(self, x: Array, u: float = U64, x_error: Array | float = 0.0) -> tuple[Array, Array]:
        (a, ea), (s, es) = (arg.approximate(x, u, x_error) for arg in self.args)
        below = s * a
        product = bound_rounding(below, np.abs(s) * ea + (np.abs(a) + ea) * es, u)
        # Within ea of zero a runtime may have computed either branch, and the two are at most (1 + |s|)*ea apart there.
        error = np.where(a > ea, ea, np.where(a < -ea, product, (1 + np.abs(s)) * ea + product))
        return np.where(a >= 0, a, below), error

    def exactly(self, x: int, index: int, bits: int) -> Bounds:
        (a, a_high), (s, _) = (arg.exactly(x, index, bits) for arg in self.args)
        ends = [end if end >= 0 else s * end for end in (a, a_high)]
        if a < 0 < a_high:
            ends.append(Fraction(0))
        return min(ends), max(ends)

    def direction(self) -> Array:
        slope = self.args[1].approximate(np.zeros(()))[0]
        return np.where(slope >= 0, self.args[0].direction(), np.nan)


@dataclass(frozen=True, eq=False)
class Clip(Expr):
    """args = (x, low, high) with constant ends."""

    def approximate(self, x: Array, u: float = U64, x_error: Array | float = 0.0) -> tuple[Array, Array]:
        (a, ea), (lo, elo), (hi, ehi) = (arg.approximate(x, u, x_error) for arg in self.args)
        return np.clip(a, lo, hi), np.maximum(ea, np.maximum(elo, ehi))

    def exactly(self, x: int, index: int, bits: int) -> Bounds:
        (a, a_high), (lo, _), (hi, _) = (arg.exactly(x, index, bits) for arg in self.args)
        return min(max(a, lo), hi), min(max(a_high, lo), hi)

    def direction(self) -> Array:
        return self.args[0].direction()


@dataclass(frozen=True, eq=False)
class Magnitude(Expr):
    """|x|."""

    def approximate(self, x: Array, u: float = U64, x_error: Array | float = 0.0) -> tuple[Array, Array]:
        a, ea = self.args[0].approximate(x, u, x_error)
        return np.abs(a), ea

    def exactly(self, x: int, index: int, bits: int) -> Bounds:
        a, a_high = self.args[0].exactly(x, index, bits)
        low = Fraction(0) if a <= 0 <= a_high else min(abs(a), abs(a_high))
        return low, max(abs(a), abs(a_high))

    def direction(self) -> Array:
        return np.where(self.args[0].direction() == 0, 0.0, np.nan)


@dataclass(frozen=True, eq=False)
class Smooth(Expr):
    """A rising transcendental function by name: sigmoid, tanh, erf, exp, softplus."""

    function: str = "tanh"

    # Lipschitz constant on the whole line, None where there is none
    LIPSCHITZ: ClassVar[dict[str, float | None]] = {
        "sigmoid": 0.25,
        "tanh": 1.0,
        "erf": 1.1284,
        "exp": None,
        "softplus": 1.0,
    }

    def approximate(self, x: Array, u: float = U64, x_error: Array | float = 0.0) -> tuple[Array, Array]:
        a, ea = self.args[0].approximate(x, u, x_error)
        v = _smooth64(self.function, a)
        constant = self.LIPSCHITZ[self.function]
        with np.errstate(over="ignore", invalid="ignore"):
            growth = ea * constant if constant is not None else v * np.expm1(ea)
        # The approximations have an absolute floor near zero crossings, hence the maximum with 1 for bounded functions.
        scale = np.maximum(np.abs(v), 1.0) if self.function != "exp" else np.abs(v) + growth
        return v, (growth + _LIBM_ULPS * u * scale) * SLACK + UNDERFLOW[u]

    def exactly(self, x: int, index: int, bits: int) -> Bounds:
        a, a_high = self.args[0].exactly(x, index, bits)
        if a == a_high == 0 and self.function in _AT_ZERO:
            return _AT_ZERO[self.function], _AT_ZERO[self.function]
        low, high = _smooth_exact(self.function, a, bits), _smooth_exact(self.function, a_high, bits)
        slack = Fraction(1, 1 << (bits - 24)) * (1 + abs(high))
        return low - slack, high + slack

    def direction(self) -> Array:
        return self.args[0].direction()


# The only rational points: at every other rational argument these functions are irrational (Lindemann-Weierstrass; erf
# too is irrational where it is known at all), so a comparison with a rational boundary is decided at some finite
# precision.
_AT_ZERO = {"sigmoid": Fraction(1, 2), "tanh": Fraction(0), "erf": Fraction(0), "exp": Fraction(1)}


_FLOAT64: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda a: np.asarray(1 / (1 + np.exp(-a))),
    "tanh": np.tanh,
    "erf": lambda a: np.asarray(np.vectorize(math.erf, otypes=[float])(a)),
    "exp": np.exp,
    "softplus": lambda a: np.logaddexp(0, a),
}


def _smooth64(function: str, a: Array) -> Array:
    """The function in float64, within _LIBM_ULPS of the real value."""
    with np.errstate(over="ignore"):
        return _FLOAT64[function](a)


def _smooth_exact(function: str, value: Fraction, bits: int) -> Fraction:
    """The function within 2**-(bits-24) * (1 + its size), by arbitrary-precision arithmetic. Raises Undecidable.

    The argument carries bits + 32 bits, so up to the largest exponent, 2**13, it is wrong by less than 2**-(bits+19).
    """
    import mpmath

    if function in ("exp", "softplus") and value > _LARGEST_EXPONENT:
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
