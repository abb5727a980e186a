"""TFLite's padding modes: SAME, VALID, and padding written out as an operator of its own."""

from __future__ import annotations

from collections.abc import Sequence

from greenedge.backends.int8.tflite.builder import Placed, TfliteBuilder
from greenedge.graph import Conv, MaxPool, SumPool

Window = Conv | MaxPool | SumPool


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """What TFLite's SAME adds before and after one axis."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def is_same(placed: Placed, op: Window, dilations: Sequence[int]) -> bool:
    """Whether the operator's padding is some, and just what SAME means."""
    n = len(op.kernel)
    axes = zip(placed.layout.shape[-n:], op.kernel, op.strides, dilations, strict=True)
    own = [same_padding(*axis) for axis in axes]
    return any(op.pads) and list(zip(op.pads[:n], op.pads[n:], strict=True)) == own


def choose_padding(
    b: TfliteBuilder, placed: Placed, op: Window, dilations: Sequence[int], level: int
) -> tuple[Placed, str]:
    """(input, mode) of an operator that pads with the zero point; padding that TFLite cannot express is written out
    first."""
    if not any(op.pads):
        return placed, "VALID"
    if level == placed.code.zero_level and is_same(placed, op, dilations):
        return placed, "SAME"
    return b.pad(placed, op.pads, level, op.name), "VALID"
