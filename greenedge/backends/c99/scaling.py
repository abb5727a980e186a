"""A requantiser as the fast kernels have it: one multiplication, one shift and a clamp in the code's own range.

    level = clip((m*(sum + bias) + b) >> s, lo, hi)  and  code = level - offset      what the graph and the memory say
    code  = clip((M*sum + B) >> (32 + shift), lo - offset, hi - offset)              what the kernels compute

with M = m * 2**(32 + shift - s) and B = (b + m*bias) * 2**(32 + shift - s) - offset * 2**(32 + shift): both sides are
multiplied by a power of two, so the floors are equal on every sum. Where M would not fit 32 bits, the weights of its
channel take factors of 2 away from it, as far as they stay within 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.graph import Requantise
from greenedge.graph.ops.base import Ints

_INT32 = (1 << 31) - 1
_INT64 = (1 << 63) - 1
_MOST_SHIFT = 31


@dataclass(frozen=True)
class Scaling:
    """Per output channel: M, B, and the power of two its weights are multiplied with; lo and hi are codes."""

    m: tuple[int, ...]
    b: tuple[int, ...]
    doublings: tuple[int, ...]
    shift: int
    lo: int
    hi: int

    @property
    def is_whole(self) -> bool:
        """Whether the kernel may saturate to 8 bits and needs no shift."""
        return (self.shift, self.lo, self.hi) == (0, -128, 127)

    @property
    def range(self) -> str:
        """The initialiser of a ge_range."""
        return f"{{{self.lo}, {self.hi}, {self.shift}, {int(self.is_whole)}}}"

    def words(self, channel: int) -> tuple[int, int, int]:
        """M, and the low and the high word of B, as signed 32-bit integers."""
        b = self.b[channel]
        return self.m[channel], as_int32(b), b >> 32


def as_int32(value: int) -> int:
    """The low 32 bits as a signed integer."""
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def find_scaling(
    step: Requantise, offset: int, bias: Sequence[int], reach: Sequence[int], room: Sequence[int]
) -> Scaling | None:
    """The step in the kernels' form; None where there is none.

    bias   what is missing in the kernel's sum of each output channel
    reach  the largest magnitude of that sum, for whatever codes the inputs hold
    room   how often the weights of each channel can be doubled
    """
    affine = step.affine
    if affine is None or not (-128 <= step.lo - offset and step.hi - offset <= 127):
        return None
    count = len(bias)
    ms, bs, ss = (_spread(values, count) for values in (affine.m, affine.b, affine.s))
    low, high = _spread(step.x_lo, count), _spread(step.x_hi, count)
    levels = [
        [_level(step, m, b, s, x) for x in ends]
        for m, b, s, ends in zip(ms, bs, ss, zip(low, high, strict=True), strict=True)
    ]
    moves = [first != last for first, last in levels]  # a step is monotone: equal ends are one level
    shift = max([0, *(s - 32 for s, moving in zip(ss, moves, strict=True) if moving)])
    if shift > _MOST_SHIFT:
        return None
    total, m_out, b_out, doublings = 32 + shift, [], [], []
    for c in range(count):
        if not moves[c]:
            m_new, b_new, times = 0, (levels[c][0] - offset) << total, 0
        else:
            scale, times = total - ss[c], 0
            while abs(ms[c]) << scale > _INT32 << times and times < min(room[c], scale):
                times += 1
            m_new = ms[c] << (scale - times)
            b_new = ((bs[c] + ms[c] * bias[c]) << scale) - (offset << total)
        if not _fits(m_new, b_new, reach[c] << times):
            return None
        m_out.append(m_new)
        b_out.append(b_new)
        doublings.append(times)
    return Scaling(tuple(m_out), tuple(b_out), tuple(doublings), shift, step.lo - offset, step.hi - offset)


def _fits(m: int, b: int, reach: int) -> bool:
    """Whether multiplier and sum fit 32 bits, and m*sum + b fits 64."""
    return abs(m) <= _INT32 and reach <= _INT32 and abs(m) * reach + abs(b) <= _INT64


def _level(step: Requantise, m: int, b: int, s: int, x: int) -> int:
    return min(max((m * x + b) >> s, step.lo), step.hi)


def _spread(values: Ints, count: int) -> list[int]:
    """A value per channel; one value serves all."""
    return [int(v) for v in np.broadcast_to(values, (count,))]
