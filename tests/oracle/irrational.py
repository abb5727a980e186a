"""Functions whose values are no rational numbers, within 2**-240."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np

BITS = 280


def _rational(value: mpmath.mpf) -> Fraction:
    """Rounded to the grid of 2**-256, so that denominators stay alike."""
    return Fraction(int(mpmath.nint(mpmath.ldexp(value, 256))), 1 << 256)


def _curve(function: Callable[..., Any]) -> Callable[[Fraction, dict[str, Any]], Fraction]:
    def curve(x: Fraction, attrs: dict[str, Any]) -> Fraction:
        with mpmath.workprec(BITS + 64):
            return _rational(function(mpmath.mpf(x.numerator) / x.denominator, attrs))

    return curve


def sqrt(x: Fraction) -> Fraction:
    with mpmath.workprec(BITS + 64):
        return _rational(mpmath.sqrt(mpmath.mpf(x.numerator) / x.denominator))


def _alpha(attrs: dict[str, Any]) -> float:
    return float(np.float32(attrs.get("alpha", 1.0)))


def _elu(x: Any, attrs: dict[str, Any]) -> Any:
    return x if x >= 0 else _alpha(attrs) * mpmath.expm1(x)


def _celu(x: Any, attrs: dict[str, Any]) -> Any:
    alpha = _alpha(attrs)
    return max(x, 0) + min(0, alpha * mpmath.expm1(x / alpha))


def _gelu(x: Any, attrs: dict[str, Any]) -> Any:
    assert attrs.get("approximate", b"none") == b"none"
    return x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2


CURVES = {
    "Sigmoid": _curve(lambda x, _: 1 / (1 + mpmath.exp(-x))),
    "Tanh": _curve(lambda x, _: mpmath.tanh(x)),
    "Exp": _curve(lambda x, _: mpmath.exp(x)),
    "Erf": _curve(lambda x, _: mpmath.erf(x)),
    "Softplus": _curve(lambda x, _: mpmath.log1p(mpmath.exp(x))),
    "Elu": _curve(_elu),
    "Celu": _curve(_celu),
    "Gelu": _curve(_gelu),
}
