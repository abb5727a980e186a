"""How an edge of the integer graph lies in the file: the order of its axes, and which int8 stands for which level."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from greenedge.backends.tflite.arithmetic import LEAST, MOST

LEVELS = MOST - LEAST  # steps that an int8 tensor can hold


@dataclass(frozen=True)
class Layout:
    """The file holds graph values shaped `shape` as `source`, its axes permuted by `order`, in the shape `file`.

    Without the batch, but for `file`, whose first axis is the batch of 1. `source` differs from `shape` only for a
    flattened image, which the file keeps in its own (channels-last) order.
    """

    source: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]
    file: tuple[int, ...]

    @property
    def natural(self) -> bool:
        """Whether the values lie in the graph's own order; axes of length 1 do not matter."""
        moved = [axis for axis in self.order if self.source[axis] != 1]
        return moved == sorted(moved)

    @property
    def flattened(self) -> bool:
        return self.source != self.shape

    def to_file(self, x: np.ndarray) -> np.ndarray:
        """(N, *shape) graph values in the file's order, (N, *file[1:])."""
        ordered = x.reshape(len(x), *self.source).transpose(0, *(a + 1 for a in self.order))
        return ordered.reshape(len(x), *self.file[1:])

    def to_graph(self, y: np.ndarray) -> np.ndarray:
        """(N, *file[1:]) file values in the graph's order, (N, *shape)."""
        ordered = y.reshape(len(y), *(self.source[a] for a in self.order))
        return ordered.transpose(0, *(int(a) + 1 for a in np.argsort(self.order))).reshape(len(y), *self.shape)

    def file_axis(self, axis: int) -> int:
        """Where the graph's `axis` lies in the file's shape, for a layout that is not flattened."""
        assert not self.flattened, "a flattened image has no axes"
        return len(self.file) - len(self.order) + self.order.index(axis)


def plain(shape: tuple[int, ...]) -> Layout:
    """The graph's own order."""
    return Layout(shape, tuple(range(len(shape))), shape, (1, *shape))


def image(shape: tuple[int, ...]) -> Layout:
    """Channels last: (C, H, W) as (1, H, W, C), a signal (C, L) as (1, 1, L, C)."""
    order = (*range(1, len(shape)), 0)
    spatial = (1,) * (3 - len(shape)) + shape[1:]
    return Layout(shape, order, shape, (1, *spatial, shape[0]))


@dataclass(frozen=True)
class Encoding:
    """int8 = level + offset. `zero_level` is the level the zero point stands for; lo … hi are the levels it is for.

    The top needs no clamp (127 saturates); `activation` is what clamps the bottom.
    """

    lo: int
    hi: int
    zero_level: int
    scale: float
    activation: str

    @property
    def offset(self) -> int:
        return MOST - self.hi

    @property
    def zero_point(self) -> int:
        return self.zero_level + self.offset

    @property
    def bounds(self) -> tuple[int, int]:
        """The stored values of lo and hi."""
        return self.lo + self.offset, MOST

    def alike(self, other: Encoding) -> bool:
        """Whether the same int8 means the same level, and the file says the same about it."""
        return (self.offset, self.zero_level, self.scale) == (other.offset, other.zero_level, other.scale)


def encode_input(lo: int, hi: int, zero_level: int | None = None) -> Encoding:
    """The encoding of an input, whose levels need no clamp: the zero point is free."""
    return replace(encode(lo, hi), zero_level=min(max(0, lo), hi) if zero_level is None else zero_level, scale=1.0, activation="NONE")


def encode(lo: int, hi: int, zero_level: int | None = None) -> Encoding:
    """The encoding of levels lo … hi, at most 256 of them; the zero point is put at `zero_level` where the clamp allows it.

    Below 256 levels the bottom is clamped by RELU where lo is the zero level, by RELU_N1_TO_1 where real -1 can be made to
    mean lo without cutting the top; otherwise the zero point moves to lo.
    """
    assert hi - lo <= LEVELS, "more levels than int8 holds"
    zero = min(max(0, lo), hi) if zero_level is None else zero_level
    below = zero - lo
    if hi - lo == LEVELS:
        return Encoding(lo, hi, zero, 1.0, "NONE")
    if below > 0 and zero + below >= hi:
        return Encoding(lo, hi, zero, float(np.float32(1) / np.float32(below)), "RELU_N1_TO_1")
    return Encoding(lo, hi, lo, 1.0, "RELU")
