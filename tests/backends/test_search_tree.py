"""The tree of a unit that searches says the same as its thresholds counted one by one, for every value of the wire."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.backends.finn.dialect.search_tree import make_tree


@pytest.mark.parametrize("ends", [(-16, 15), (0, 63), (-1, 0)])
def test_the_levels_are_those_of_the_counted_thresholds(rng, ends):
    """Thresholds at both ends of the type and beyond, several at one place, some that undo each other, none at all."""
    x = np.arange(ends[0], ends[1] + 1)
    for steps in (0, 1, 2, 5, 30):
        for _ in range(20):
            thresholds = rng.integers(ends[0] - 2, ends[1] + 4, (3, steps))
            falls, start = rng.random((3, steps)) < rng.random(), int(rng.integers(-9, 9))
            tree = make_tree(thresholds, falls, start, ends)
            assert tree.thresholds.shape == (3, (1 << tree.stages) - 1) and tree.levels.shape == (3, 1 << tree.stages)
            assert np.all(np.diff(tree.thresholds) >= 0)
            assert tree.thresholds.min() >= ends[0] and tree.thresholds.max() <= ends[1]
            for row in range(3):
                counted = start + ((x[:, None] >= thresholds[row]) ^ falls[row]).sum(1)
                assert np.array_equal(tree.find(x, np.array(row)), counted)
                assert np.array_equal(tree.find(x, np.full(len(x), row)), counted), "stage by stage, as the unit goes"


def test_its_stages_are_as_few_as_the_steps_allow():
    for steps, stages in ((1, 1), (2, 2), (3, 2), (4, 3), (255, 8), (256, 9)):
        tree = make_tree(np.arange(1, steps + 1)[None], np.zeros((1, steps), bool), 0, (0, 1023))
        assert tree.stages == stages
