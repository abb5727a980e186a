"""Fixed-point types that hold exactly what the graph computes, as hls4ml writes them.

`fixed<W,I>` has W bits, I of them before the point; TRN rounds towards minus infinity, as >> does, RND_CONV to
the nearest integer with ties to even; SAT clips to the
type's range and SAT_SYM to the same without its lowest value.
"""

from __future__ import annotations

from collections.abc import Iterable

from greenedge.graph import Edge

DOUBLE_BITS = 53  # significant bits of what hls4ml holds and prints weights in


def range_type(lo: int, hi: int) -> str:
    """The narrowest type that holds every integer of lo…hi."""
    edge = Edge("", (), lo, hi)
    return f"{'fixed' if edge.has_sign else 'ufixed'}<{edge.bits},{edge.bits}>"


def scale_type(values: Iterable[int], shift: int) -> str:
    """The narrowest type that holds every value * 2**-shift."""
    values = [int(v) for v in values]
    edge = Edge("", (), min(values), max(values))
    return f"{'fixed' if edge.has_sign else 'ufixed'}<{edge.bits},{edge.bits - shift}>"


def clip_type(lo: int, hi: int, least: int, most: int, rounding: str = "TRN") -> str | None:
    """A type whose saturation is clip(v, lo, hi) for every v in least…most; None where a type has no such range."""
    for bits in range(1, 63):
        for kind, mode, low, high in (
            ("ufixed", "SAT", 0, (1 << bits) - 1),
            ("fixed", "SAT", -(1 << (bits - 1)), (1 << (bits - 1)) - 1),
            ("fixed", "SAT_SYM", 1 - (1 << (bits - 1)), (1 << (bits - 1)) - 1),
        ):
            if (low == lo or (low < lo <= least)) and (high == hi or (high > hi >= most)):
                return f"{kind}<{bits},{bits},{rounding},{mode}>"
    return None


def holds(values: Iterable[int]) -> bool:
    """Whether each value, without its trailing zeros, fits a double."""
    return all(v == 0 or (abs(v) // (v & -v)).bit_length() <= DOUBLE_BITS for v in map(int, values))
