"""A step function as ge_search finds it: the thresholds of each channel, rising, and the level behind each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from greenedge.graph.ops.base import Array, Ints

_FAR = 1 << 60  # a value that no wire carries


class SearchTree(NamedTuple):
    """thresholds (period, 2**stages - 1), rising; levels (period, 2**stages): the level where so many are reached."""

    stages: int
    thresholds: Ints
    levels: Ints

    def places(self, stage: int) -> Ints:
        """(2**stage,) which thresholds a stage compares with, after each way that the stages before have gone."""
        step = 1 << (self.stages - stage - 1)
        return (2 * np.arange(1 << stage) + 1) * step - 1

    def find(self, x: Ints, row: Ints) -> Ints:
        """The levels of `x`, whose elements belong to these rows (broadcast)."""
        if row.size == 1:
            one = int(row.reshape(-1)[0])
            found = np.searchsorted(self.thresholds[one], x, side="right")
        else:
            found = np.zeros(np.broadcast_shapes(x.shape, row.shape), np.int64)
            for stage in range(self.stages):
                found = 2 * found + (x >= self.thresholds[row, self.places(stage)[found]])
        levels: Ints = self.levels[row, found]
        return levels

    def span(self, row: int, place: int) -> tuple[int, int]:
        """(first, end) of the values that are compared with the threshold at `place`; far beyond where there is no
        end."""
        step = (place + 1) & -(place + 1)  # the stage's
        return self._edge(row, place - step, -_FAR), self._edge(row, place + step, _FAR)

    def span_level(self, row: int, place: int) -> tuple[int, int]:
        """(first, end) of the values whose level is that at `place`."""
        return self._edge(row, place - 1, -_FAR), self._edge(row, place, _FAR)

    def _edge(self, row: int, place: int, outside: int) -> int:
        inside = 0 <= place < self.thresholds.shape[1]
        return int(self.thresholds[row, place]) if inside else outside


def make_tree(thresholds: Ints, falls: Array, start: int, ends: tuple[int, int]) -> SearchTree:
    """The tree of start + how many of `thresholds` (period, steps) are reached, or where `falls` lie above, for every
    value from one of `ends` to the other.

    Channels of fewer steps than others have their last threshold, or the highest value, several times, with one level
    behind it.
    """
    low, high = ends
    rows = []
    for row, down in zip(thresholds, falls, strict=True):
        order = np.argsort(row, kind="stable")
        level = start + int(down.sum()) + np.cumsum(np.append(0, np.where(down[order], -1, 1)))
        places = np.unique(row[(row > low) & (row <= high)])
        count = np.searchsorted(row[order], np.append(low, places), side="right")  # reached there
        rows.append((places, level[count]))
    stages = max(1, max(len(places) for places, _ in rows).bit_length())
    size = (1 << stages) - 1
    filled = np.stack([np.append(places, np.full(size - len(places), high)) for places, _ in rows])
    levels = np.stack([np.append(found, np.full(size + 1 - len(found), found[-1])) for _, found in rows])
    return SearchTree(stages, filled, levels)
