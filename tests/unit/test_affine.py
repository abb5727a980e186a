"""The affine form: exact on every accumulator, and no smaller shift would do."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest

from greenedge.graph.affine import fit_affine


def _levels(thresholds, x, lo):
    return lo + (x[:, None] >= thresholds).sum(axis=1)


def _rounded_line(rng):
    """Thresholds of a rounded straight line, the ends of the reachable range cutting it anywhere."""
    lo, count = int(rng.integers(-8, 3)), int(rng.integers(1, 16))
    x_lo, x_hi = -int(rng.integers(1, 100)), int(rng.integers(1, 200))
    x = np.arange(x_lo - 400, x_hi + 400)
    values = np.clip(np.round(rng.uniform(0.01, 3) * x + rng.uniform(-5, 5)), lo, lo + count)
    thresholds = [x[np.argmax(values >= k)] if (values >= k).any() else x[-1] for k in range(lo + 1, lo + count + 1)]
    return np.clip(thresholds, x_lo, x_hi + 1), lo, lo + count, x_lo, x_hi


def test_every_rounded_line_is_found_and_exact(rng):
    for _ in range(400):
        thresholds, lo, hi, x_lo, x_hi = _rounded_line(rng)
        found = fit_affine(thresholds[None], lo, hi, np.array([x_lo]), np.array([x_hi]))
        x = np.arange(x_lo, x_hi + 1)
        assert np.array_equal(np.clip((found.m * x + found.b) >> found.s, lo, hi), _levels(thresholds, x, lo))


def test_no_smaller_shift_would_do(rng):
    for _ in range(60):
        thresholds, lo, hi, x_lo, x_hi = _rounded_line(rng)
        found = fit_affine(thresholds[None], lo, hi, np.array([x_lo]), np.array([x_hi]))
        if found.s[0] == 0:
            continue
        power = 1 << (int(found.s[0]) - 1)
        x = np.arange(x_lo, x_hi + 1)
        levels = _levels(thresholds, x, lo)
        for m in range(5 * power + 2):
            least = max(
                (int(level) * power - m * int(v) for level, v in zip(levels, x, strict=True) if level > lo),
                default=-(10**9),
            )
            most = min(
                ((int(level) + 1) * power - 1 - m * int(v) for level, v in zip(levels, x, strict=True) if level < hi),
                default=10**9,
            )
            assert least > most, f"shift {found.s[0] - 1} would do with m = {m}"


def test_steps_that_are_no_line_have_none():
    thresholds = np.array([[0, 1, 2, 50, 51, 52, 100]])
    assert fit_affine(thresholds, 0, 7, np.array([-10]), np.array([200])) is None


def test_steps_that_are_constant_and_several_at_once():
    found = fit_affine(np.array([[-5, -5], [11, 11], [3, 3]]), -1, 1, np.full(3, -5), np.full(3, 10))
    x = np.arange(-5, 11)
    got = np.clip((found.m[:, None] * x + found.b[:, None]) >> found.s[:, None], -1, 1)
    assert (got[0] == 1).all() and (got[1] == -1).all() and np.array_equal(got[2], np.where(x >= 3, 1, -1))


@pytest.mark.parametrize("reach, slope", [(2_000_000, 1e-4), (18_700_000, 1e-5)])
def test_eight_bits_over_wide_accumulators(rng, reach, slope):
    slopes, offsets = rng.uniform(0.5, 2, 32) * slope, rng.uniform(-100, 100, 32)
    thresholds = np.ceil((np.arange(1, 256) - 0.5 - offsets[:, None]) / slopes[:, None]).astype(np.int64)
    thresholds = np.clip(thresholds, -reach, reach + 1)
    found = fit_affine(thresholds, 0, 255, np.full(32, -reach), np.full(32, reach))
    for c in range(32):
        x = np.concatenate([thresholds[c], thresholds[c] - 1, rng.integers(-reach, reach, 2000)])
        x = np.clip(x, -reach, reach)
        assert np.array_equal(
            np.clip((found.m[c] * x + found.b[c]) >> found.s[c], 0, 255),
            np.searchsorted(thresholds[c], x, side="right"),
        )


def exists_by_search(levels: np.ndarray, x: np.ndarray, lo: int, hi: int, largest_shift: int) -> bool:
    """Whether any m, b and s <= largest_shift give these levels: every slope tried, b from its bounds."""
    above, below = levels > lo, levels < hi
    for s in range(largest_shift + 1):
        for m in range(0, (hi - lo + 2) << s):
            least = max((int(v) for v in (levels << s)[above] - m * x[above]), default=-(1 << 40))
            most = min((int(v) for v in ((levels + 1) << s)[below] - 1 - m * x[below]), default=1 << 40)
            if least <= most:
                return True
    return False


@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_steps_over_seven_integers(count):
    """Every ascending choice of thresholds, the ends of the range included: exact where found, and found where one
    exists."""
    x = np.arange(-2, 5)
    without = 0
    for thresholds in combinations_with_replacement(range(-2, 6), count):
        steps = np.array(thresholds)
        levels = _levels(steps, x, -1)
        found = fit_affine(steps[None], -1, count - 1, np.array([-2]), np.array([4]))
        if found is None:
            without += 1
            assert not exists_by_search(levels, x, -1, count - 1, 5), thresholds
        else:
            assert np.array_equal(np.clip((found.m * x + found.b) >> found.s, -1, count - 1), levels), thresholds
    assert (without > 0) == (count == 3)
