"""How an edge of the integer graph lies in the file: the order of its axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from greenedge.graph.ops.base import Array


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
    def is_natural(self) -> bool:
        """Whether the values lie in the graph's own order; axes of length 1 do not matter."""
        moved = [axis for axis in self.order if self.source[axis] != 1]
        return moved == sorted(moved)

    @property
    def is_flat(self) -> bool:
        """Whether it is that of a flattened image."""
        return self.source != self.shape

    def to_file(self, x: Array) -> Array:
        """(N, *shape) graph values in the file's order, (N, *file[1:])."""
        ordered = x.reshape(len(x), *self.source).transpose(0, *(a + 1 for a in self.order))
        return ordered.reshape(len(x), *self.file[1:])

    def to_graph(self, y: Array) -> Array:
        """(N, *file[1:]) file values in the graph's order, (N, *shape)."""
        ordered = y.reshape(len(y), *(self.source[a] for a in self.order))
        return ordered.transpose(0, *(int(a) + 1 for a in np.argsort(self.order))).reshape(len(y), *self.shape)

    def file_axis(self, axis: int) -> int:
        """Where the graph's `axis` lies in the file's shape, for a layout that is not flattened."""
        assert not self.is_flat, "a flattened image has no axes"
        return len(self.file) - len(self.order) + self.order.index(axis)


def plain(shape: tuple[int, ...]) -> Layout:
    """The graph's own order."""
    return Layout(shape, tuple(range(len(shape))), shape, (1, *shape))


def image(shape: tuple[int, ...]) -> Layout:
    """Channels last: (C, H, W) as (1, H, W, C), a signal (C, L) as (1, 1, L, C)."""
    order = (*range(1, len(shape)), 0)
    spatial = (1,) * (3 - len(shape)) + shape[1:]
    return Layout(shape, order, shape, (1, *spatial, shape[0]))
