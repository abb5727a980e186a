"""How the integers of an edge are stored."""

from __future__ import annotations

from dataclasses import dataclass

from greenedge.graph import Edge

_FARTHEST = (1 << 15) - 1  # an offset is an int16_t


@dataclass(frozen=True)
class Code:
    """How a tensor is stored: int32 values, or int8 holding level - offset."""

    wide: bool
    offset: int

    @property
    def bytes(self) -> int:
        return 4 if self.wide else 1

    @property
    def c_type(self) -> str:
        return "int32_t" if self.wide else "int8_t"


def code_of(edge: Edge) -> Code:
    """One byte wherever the range of levels has at most 256 of them, not farther from 0 than an offset reaches."""
    if -128 <= edge.lo and edge.hi <= 127:
        return Code(False, 0)
    if edge.hi - edge.lo <= 255 and abs(edge.lo + 128) <= _FARTHEST:
        return Code(False, edge.lo + 128)
    return Code(True, 0)
