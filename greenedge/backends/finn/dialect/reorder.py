"""How ge_reorder works through a stream: which turn repeats, and how many beats of it lie in its ring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from greenedge.graph.ops.base import Ints

_SLACK = 12  # beats that cover the way from release to reception, and from there to the reader


def find_grain(index: Ints, total: int) -> int:
    """The largest number of neighbours that stay together: aligned in the source (of `total` integers) and in the
    result."""
    begins = np.append(0, np.flatnonzero(np.diff(index) != 1) + 1)  # of neighbours, in the result
    return int(np.gcd.reduce(np.concatenate([[total, len(index)], begins, index[begins]])))


@dataclass(frozen=True, eq=False)
class Turn:
    """Of every `size` beats that come, those at `places` go, in this order; `free[j]` are needed no more after j."""

    size: int
    places: Ints

    @property
    def free(self) -> Ints:
        later = np.minimum.accumulate(self.places[::-1])[::-1]
        return np.append(later[1:], self.size)

    @property
    def depth(self) -> int:
        """Beats of the ring with which max(size, places) cycles are enough for a turn.

        A schedule that takes and gives at an even pace, one turn behind the other, needs so many beats at its worst
        moment, and what goes on as soon as it can is not slower.
        """
        size, count = self.size, len(self.places)
        taken, given = max(size, count) / size, max(size, count) / count  # cycles per beat
        start = np.arange(count) * given
        lag = max(0.0, float(np.max((self.places + 1) * taken - start)))
        there = np.ceil((start + lag + given) / taken) - np.append(0, self.free[:-1])  # just before a beat's release
        return int(there.max()) + _SLACK


def find_turn(index: Ints, total: int, grain: int) -> Turn:
    """The shortest turn that says the same, in beats of `grain` integers."""
    places, size = index[::grain] // grain, total // grain
    for turns in (n for n in range(int(np.gcd(size, len(places))), 1, -1) if size % n == len(places) % n == 0):
        rows = places.reshape(turns, -1) - (np.arange(turns) * (size // turns))[:, None]
        if np.all(rows == rows[0]) and 0 <= rows.min() and rows.max() < size // turns:
            return Turn(size // turns, rows[0])
    return Turn(size, places)
