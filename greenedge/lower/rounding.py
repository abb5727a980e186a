"""Rounding modes as boundaries: which real numbers reach level k.

Every mode of the QONNX standard is a step function, so it is known by one boundary per level:

    level >= k   iff   y > boundary(k),  or y == boundary(k) where it is inclusive
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from greenedge.graph.ops.base import Array, Floats, Ints

# mode -> k -> (boundary, inclusive); QONNX quant_op specification, and numpy's round (half to even) for ROUND.
_BOUNDARY: dict[str, Callable[[int], tuple[Fraction, bool]]] = {
    "HALF_EVEN": lambda k: (Fraction(2 * k - 1, 2), k % 2 == 0),
    "HALF_UP": lambda k: (Fraction(2 * k - 1, 2), k >= 1),  # half away from zero
    "HALF_DOWN": lambda k: (Fraction(2 * k - 1, 2), k <= 0),  # half towards zero
    "CEIL": lambda k: (Fraction(k - 1), False),
    "FLOOR": lambda k: (Fraction(k), True),
    "UP": lambda k: (Fraction(k - 1), False) if k >= 1 else (Fraction(k), True),  # away from zero
    "DOWN": lambda k: (Fraction(k), True) if k >= 1 else (Fraction(k - 1), False),  # towards zero
}
_ALIASES = {"ROUND": "HALF_EVEN"}
MODES = (*_ALIASES, *_BOUNDARY)


@dataclass(frozen=True)
class Quantiser:
    """Levels lo..hi of a real y; boundary[..., j] and inclusive[..., j] belong to level lo + 1 + j.

    Both are (L,) or (C, L), float64 and bool; together they decide every level exactly.
    """

    lo: int
    hi: int
    boundary: Floats
    inclusive: NDArray[np.bool_]


def integer_range(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    """Smallest and largest integer of a QONNX quantiser."""
    if signed:
        return -(1 << (bits - 1)) + bool(narrow), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1 - bool(narrow)


def quantiser(mode: str, lo: int, hi: int) -> Quantiser:
    """The quantiser clip(round(y), lo, hi) for a QONNX rounding mode. Raises KeyError for an unknown mode."""
    rule = _BOUNDARY[_ALIASES.get(mode, mode)]
    pairs = [rule(k) for k in range(lo + 1, hi + 1)]
    return Quantiser(lo, hi, np.array([float(b) for b, _ in pairs]), np.array([i for _, i in pairs], bool))


def bipolar() -> Quantiser:
    """+1 where y >= 0, else -1 (levels -1 and +1; 0 never occurs)."""
    return Quantiser(-1, 1, np.zeros(2), np.ones(2, bool))


def quantiser_around_zero(zero: Array, lo: int, hi: int) -> Quantiser:
    """clip(round_half_even(y - zero) + zero, lo, hi): ONNX's QuantizeLinear, for a y that includes the zero point.

    `zero` is (C,) integers, or (1,). The rounding comes before the zero point, so the ties of an odd one go to odd
    levels.
    """
    levels = quantiser("HALF_EVEN", lo, hi)
    k = np.arange(lo + 1, hi + 1)
    inclusive = (k - np.asarray(zero, np.int64).reshape(-1, 1)) % 2 == 0
    if len(inclusive) == 1:
        return Quantiser(lo, hi, levels.boundary, inclusive[0])
    return Quantiser(lo, hi, np.broadcast_to(levels.boundary, inclusive.shape), inclusive)


def truncation(mode: str, shift: int, lo: int, hi: int) -> Quantiser:
    """round_mode(round_half_even(y) / 2**shift), clipped to lo..hi: the QONNX Trunc operator."""
    rule, even = _BOUNDARY[_ALIASES.get(mode, mode)], _BOUNDARY["HALF_EVEN"]
    pairs = []
    for k in range(lo + 1, hi + 1):
        boundary, inclusive = rule(k)
        scaled = boundary * (1 << shift)
        # the smallest integer n with round_mode(n / 2**shift) >= k
        n = int(scaled) if inclusive and scaled.denominator == 1 else scaled.__floor__() + 1
        pairs.append(even(n))
    return Quantiser(lo, hi, np.array([float(b) for b, _ in pairs]), np.array([i for _, i in pairs], bool))


def round_floats(mode: str, y: Array) -> Ints:
    """Floats rounded in their own precision, as a runtime does it."""
    size = np.abs(y)
    away = {
        "HALF_UP": np.floor(size + 0.5),
        "HALF_DOWN": np.ceil(size - 0.5),
        "UP": np.ceil(size),
        "DOWN": np.floor(size),
    }
    direct = {"HALF_EVEN": np.rint, "CEIL": np.ceil, "FLOOR": np.floor}
    name = _ALIASES.get(mode, mode)
    levels: Array = direct[name](y) if name in direct else np.sign(y) * away[name]
    return levels.astype(np.int64)


def round_exact(mode: str, y: Fraction) -> int:
    """One number rounded by the definition of its mode: the largest k that y reaches."""
    rule = _BOUNDARY[_ALIASES.get(mode, mode)]
    k = y.__floor__() - 1
    while True:
        boundary, inclusive = rule(k + 1)
        if y < boundary or (y == boundary and not inclusive):
            return k
        k += 1
