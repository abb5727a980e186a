"""Which int8 stands for which level of an edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from greenedge.backends.int8.arithmetic import INT8_MAX, INT8_MIN, QUANTISE_RATIO

LEVELS = INT8_MAX - INT8_MIN  # steps that an int8 tensor can hold


@dataclass(frozen=True)
class Encoding:
    """int8 = level + offset. `zero_level` is the level the zero point stands for; lo … hi are the levels it is for.

    The top needs no clamp (127 saturates); `activation` is what clamps the bottom. More levels than int8 holds are
    stored as int32, as they are.
    """

    lo: int
    hi: int
    zero_level: int
    scale: float
    activation: str

    @property
    def is_wide(self) -> bool:
        """Whether the levels are stored as int32."""
        return self.hi - self.lo > LEVELS

    @property
    def levels(self) -> int:
        """How many it is for."""
        return self.hi - self.lo + 1

    @property
    def offset(self) -> int:
        """What is added to a level."""
        return 0 if self.is_wide else INT8_MAX - self.hi

    @property
    def zero_point(self) -> int:
        """The int8 that the file names as its zero point."""
        return self.zero_level + self.offset

    @property
    def bounds(self) -> tuple[int, int]:
        """The stored values of lo and hi."""
        return self.lo + self.offset, INT8_MAX

    def is_like(self, other: Encoding) -> bool:
        """Whether the same int8 means the same level, and the file says the same about it."""
        return (self.offset, self.zero_level, self.scale) == (other.offset, other.zero_level, other.scale)


def lift_levels(code: Encoding) -> tuple[int, Encoding]:
    """(m, the encoding of m times each level), m the largest that int8 has room for; nothing beyond is reached or
    clamped."""
    m = min(LEVELS // max(code.hi - code.lo, 1), int(QUANTISE_RATIO))
    scale = float(np.float32(code.scale / m))
    return m, Encoding(m * code.lo, m * code.hi, m * code.zero_level, scale, "NONE")


def shift_levels(code: Encoding, shift: int) -> Encoding:
    """The encoding of each level plus `shift`."""
    return replace(code, lo=code.lo + shift, hi=code.hi + shift, zero_level=code.zero_level + shift)


def common_range(codes: Sequence[Encoding]) -> tuple[int, int]:
    """The levels that hold those of all these encodings."""
    return min(code.lo for code in codes), max(code.hi for code in codes)


def encode_wide(lo: int, hi: int) -> Encoding:
    """The encoding of accumulators lo … hi, more than int8 holds."""
    assert hi - lo > LEVELS, "int8 holds these"
    return Encoding(lo, hi, 0, 1.0, "NONE")


def encode_input(lo: int, hi: int, zero_level: int) -> Encoding:
    """The encoding of an input, whose levels need no clamp: the zero point is free."""
    return replace(
        encode(lo, hi),
        zero_level=zero_level,
        scale=1.0,
        activation="NONE",
    )


def encode(lo: int, hi: int, zero_level: int | None = None) -> Encoding:
    """The encoding of levels lo … hi, at most 256 of them; the zero point is put at `zero_level` where the clamp
    allows it.

    Below 256 levels the bottom is clamped by RELU where lo is the zero level, by RELU_N1_TO_1 where real -1 can be
    made to mean lo without cutting the top; otherwise the zero point moves to lo.
    """
    assert hi - lo <= LEVELS, "more levels than int8 holds"
    zero = min(max(0, lo), hi) if zero_level is None else zero_level
    below = zero - lo
    if hi - lo == LEVELS:
        return Encoding(lo, hi, zero, 1.0, "NONE")
    if below > 0 and zero + below >= hi:
        return Encoding(lo, hi, zero, float(np.float32(1) / np.float32(below)), "RELU_N1_TO_1")
    return Encoding(lo, hi, lo, 1.0, "RELU")
