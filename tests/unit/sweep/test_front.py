"""The Pareto front, its knee and its volume, against definitions counted out."""

from __future__ import annotations

import itertools

import pytest

from greenedge.sweep.figures import comparable
from greenedge.sweep.front import as_costs, find_front, find_knee, hypervolume
from greenedge.sweep.outputs import mark_front


def test_nothing_on_the_front_is_beaten_and_all_else_is(rng):
    costs = rng.integers(0, 6, (60, 3)).astype(float)
    on_front = find_front(costs)

    def beats(a, b):
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    expected = [not any(beats(other, cost) for other in costs) for cost in costs]
    assert on_front.tolist() == expected and 0 < on_front.sum() < 60


def test_equal_points_stay_together():
    assert find_front(as_costs([[1, 2], [1, 2], [2, 1], [2, 2]], [False, False])).tolist() == [True, True, True, False]


def test_what_should_be_large_is_turned():
    costs = as_costs([[0.9, 10], [0.8, 10], [0.9, 20]], [True, False])
    assert find_front(costs).tolist() == [True, False, False]


def test_the_knee_is_nearest_to_the_best_of_all():
    assert find_knee(as_costs([[0, 10], [1, 1], [10, 0]], [False, False])) == 1
    assert find_knee(as_costs([[0, 1000], [5, 300], [10, 0]], [False, False])) == 1  # scaled to what the front spans
    assert find_knee(as_costs([[0, 10], [10, 0]], [False, False])) is None


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_volume_counts_cells(rng, objectives):
    costs = rng.integers(0, 5, (7, objectives)).astype(float)
    reference = [4] * objectives
    cells = itertools.product(range(4), repeat=objectives)
    counted = sum(any(all(c <= x for c, x in zip(cost, cell, strict=True)) for cost in costs) for cell in cells)
    assert hypervolume(costs, reference) == counted


def test_a_point_beyond_the_reference_adds_nothing():
    assert hypervolume(as_costs([[1, 1], [9, 0]], [False, False]), [4, 4]) == 9.0
    assert hypervolume(as_costs([], [False, False]), [4, 4]) == 0.0


def _row(accuracy, joules, evidence="measured", scope="board", status="done"):
    return {
        "status": status,
        "figures": {
            "accuracy": {"value": accuracy, "evidence": "test samples"},
            "energy_j": {"value": joules, "evidence": evidence, "scope": scope},
        },
    }


def test_a_front_never_mixes_evidence():
    rows = [_row(0.9, 5.0), _row(0.8, 9.0), _row(0.7, 1.0, "replayed"), _row(0.6, 2.0, scope="chip")]
    rows.append(_row(0.99, 0.1, status="differs"))
    assert comparable(rows, ["accuracy", "energy_j"]) == [[0, 1], [2], [3]]
    fronts = [row.get("front") for row in mark_front(rows, ["accuracy", "energy_j"])]
    assert fronts == [0, None, 1, 2, None]


def test_a_row_that_lacks_a_figure_is_on_no_front():
    rows = [_row(0.9, 5.0), {"status": "done", "figures": {"accuracy": {"value": 1.0, "evidence": "test samples"}}}]
    assert comparable(rows, ["accuracy", "energy_j"]) == [[0]]
