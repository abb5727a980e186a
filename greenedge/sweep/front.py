"""Which points nothing beats: the Pareto front, its knee, and the volume that it dominates.

Points are rows of numbers of which less is better (`as_costs` turns what should be large). A front is drawn among
points of one kind of evidence; who calls this parts them first (figures.comparable).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]  # (points, objectives), less is better


def as_costs(values: Sequence[Sequence[float]], larger_is_better: Sequence[bool]) -> Costs:
    """The values with the sign of each column turned that should be large; (0, columns) for none."""
    signs = np.where(np.asarray(larger_is_better, bool), -1.0, 1.0)
    return np.asarray(values, np.float64).reshape(-1, len(signs)) * signs


def find_front(costs: Costs) -> NDArray[np.bool_]:
    """(points,): which no other point beats: as good in every objective and better in one. Equal points stay
    together."""
    on_front = np.zeros(len(costs), bool)
    left = np.lexsort(costs.T[::-1]) if len(costs) else np.zeros(0, np.int64)
    while len(left):  # the first in order is beaten by none that is left; what it beats goes with it
        best = costs[left[0]]
        equal = (costs[left] == best).all(axis=1)
        on_front[left[equal]] = True
        left = left[(costs[left] < best).any(axis=1)]
    return on_front


def find_knee(costs: Costs) -> int | None:
    """The point of a front that is nearest to the best of every objective, each scaled to what the front spans.

    Distance is the largest of the scaled costs' Euclidean norm (Branke et al., 2004, use angles in two objectives; the
    nearest to the ideal point holds in any number). None for fewer than three points, where every point is an end.
    """
    if len(costs) < 3:
        return None
    low, high = costs.min(axis=0), costs.max(axis=0)
    scaled = (costs - low) / np.where(high > low, high - low, 1.0)
    return int(np.argmin((scaled**2).sum(axis=1)))


def hypervolume(costs: Costs, reference: Sequence[float]) -> float:
    """The volume between the points and the reference, which no point with a larger cost adds to.

    Sliced along the last objective: exact, O(n²) more for each objective beyond two.
    """
    limit = np.asarray(reference, np.float64)
    inside = costs[(costs < limit).all(axis=1)]
    return _volume(inside[find_front(inside)], limit) if len(inside) else 0.0


def _volume(front: Costs, limit: NDArray[np.float64]) -> float:
    if front.shape[1] == 1:
        return float(limit[0] - front.min())
    front = front[np.argsort(front[:, -1], kind="stable")]
    ends = np.append(front[1:, -1], limit[-1])
    total = 0.0
    for number, (start, end) in enumerate(zip(front[:, -1], ends, strict=True)):
        if end > start:
            below = front[: number + 1, :-1]
            total += (end - start) * _volume(below[find_front(below)], limit[:-1])
    return float(total)
