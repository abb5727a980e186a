"""Arrays of rational numbers: Python integers over one positive denominator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np

Integers = np.ndarray  # of Python integers, dtype object


@dataclass(frozen=True, eq=False)
class Exact:
    """tops / bottom, element by element."""

    tops: Integers
    bottom: int = 1

    @classmethod
    def of(cls, values) -> Exact:
        """Floats, integers and Fractions, each exactly what it is."""
        values = np.asarray(values)
        if values.dtype == np.float32:
            values = values.astype(np.float64)
        fractions = [Fraction(v) for v in values.ravel().tolist()]
        bottom = lcm(*(f.denominator for f in fractions)) if fractions else 1
        tops = [f.numerator * (bottom // f.denominator) for f in fractions]
        return cls(_integers(tops, values.shape), bottom)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tops.shape

    def _over(self, bottom: int) -> Integers:
        return self.tops * (bottom // self.bottom)

    def __add__(self, other: Exact) -> Exact:
        bottom = lcm(self.bottom, other.bottom)
        return Exact(np.asarray(self._over(bottom) + other._over(bottom), object), bottom)

    def __neg__(self) -> Exact:
        return Exact(np.asarray(-self.tops, object), self.bottom)

    def __sub__(self, other: Exact) -> Exact:
        return self + -other

    def __mul__(self, other: Exact) -> Exact:
        return Exact(np.asarray(self.tops * other.tops, object), self.bottom * other.bottom)

    def __truediv__(self, other: Exact) -> Exact:
        return self * Exact.of(np.vectorize(lambda top: Fraction(other.bottom, top), otypes=[object])(other.tops))

    def __matmul__(self, other: Exact) -> Exact:
        return Exact(np.asarray(self.tops @ other.tops, object), self.bottom * other.bottom)

    def __ge__(self, other: Exact) -> np.ndarray:
        bottom = lcm(self.bottom, other.bottom)
        return np.asarray(self._over(bottom) >= other._over(bottom), bool)

    def __eq__(self, other) -> np.ndarray:  # type: ignore[override]
        bottom = lcm(self.bottom, other.bottom)
        return np.asarray(self._over(bottom) == other._over(bottom), bool)

    def move(self, change: Callable[[Integers], Integers]) -> Exact:
        """The same numbers at other places."""
        return Exact(np.asarray(change(self.tops), object), self.bottom)

    def sum(self, axes: tuple[int, ...], keepdims: bool = False) -> Exact:
        return self.move(lambda tops: np.add.reduce(tops, axis=axes, keepdims=keepdims))

    def each(self, function: Callable[[Fraction], Fraction]) -> Exact:
        """A function of one number, worked out once for each different one."""
        known = {top: function(Fraction(top, self.bottom)) for top in set(self.tops.ravel().tolist())}
        return Exact.of(np.vectorize(known.__getitem__, otypes=[object])(self.tops)) if self.tops.size else self

    def maximum(self, other: Exact) -> Exact:
        return choose(self >= other, self, other)

    def minimum(self, other: Exact) -> Exact:
        return choose(self >= other, other, self)

    def floats(self) -> np.ndarray:
        return np.asarray(self.tops / self.bottom, np.float64)


def choose(condition: np.ndarray, yes: Exact, no: Exact) -> Exact:
    bottom = lcm(yes.bottom, no.bottom)
    return Exact(np.asarray(np.where(condition, yes._over(bottom), no._over(bottom)), object), bottom)


def join(parts: list[Exact], axis: int) -> Exact:
    bottom = lcm(*(part.bottom for part in parts))
    return Exact(np.concatenate([part._over(bottom) for part in parts], axis), bottom)


def _integers(values: list[int], shape: tuple[int, ...]) -> Integers:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


# -- to whole numbers -------------------------------------------------------------------------------------------------


def _floor(tops: Integers, bottom: int) -> Integers:
    return tops // bottom


def _ceil(tops: Integers, bottom: int) -> Integers:
    return -(-tops // bottom)


def _half_even(tops: Integers, bottom: int) -> Integers:
    rounded = (2 * tops + bottom) // (2 * bottom)
    tie = (2 * tops + bottom) % (2 * bottom) == 0
    return rounded - np.where(tie & (rounded % 2 == 1), 1, 0)


def _away(of_magnitude: Callable[[Integers, int], Integers]) -> Callable[[Integers, int], Integers]:
    """A rounding that is the same on both sides of zero."""

    def round_both(tops: Integers, bottom: int) -> Integers:
        rounded = of_magnitude(abs(tops), bottom)
        return np.where(tops < 0, -rounded, rounded)

    return round_both


ROUNDINGS: dict[str, Callable[[Integers, int], Integers]] = {
    "ROUND": _half_even,
    "HALF_EVEN": _half_even,
    "FLOOR": _floor,
    "CEIL": _ceil,
    "UP": _away(_ceil),
    "DOWN": _away(_floor),
    "HALF_UP": _away(lambda tops, bottom: (2 * tops + bottom) // (2 * bottom)),
    "HALF_DOWN": _away(lambda tops, bottom: -((bottom - 2 * tops) // (2 * bottom))),
}


def round_to_integers(values: Exact, mode: str = "ROUND") -> Exact:
    return Exact(np.asarray(ROUNDINGS[mode](values.tops, values.bottom), object))
