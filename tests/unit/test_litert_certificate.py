"""The search hits the thresholds where that is known to be possible, and what it cannot hit is counted exactly."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.backends.int8.arithmetic import LITERT
from greenedge.backends.int8.certificate import Problem, emulate_levels
from greenedge.backends.int8.quant_params import encode
from greenedge.backends.int8.search import solve
from greenedge.graph import Requantise, Steps, freeze
from greenedge.graph.lines import distance_from_line


def problem(operator, thresholds, reach, factor, lo):
    hi = lo + thresholds.shape[1]
    code = encode(lo, hi)
    rows = len(thresholds)
    varies = ((thresholds > -reach) & (thresholds <= reach)).any(axis=1)
    return Problem(
        operator,
        thresholds,
        np.full(rows, -reach),
        np.full(rows, reach),
        np.where(varies, factor, 0),
        lo,
        code.zero_level,
        code.zero_point,
        code.bounds,
        1.0,
        code.scale,
    )


def batch_norm(rng, rows, weight_bits, act_bits, fan_in, grid=False, lo=0):
    """Thresholds of batch norm, ReLU and a quantiser at float scales, as trained networks have them."""
    levels = (1 << act_bits) - 1
    reach = fan_in * ((1 << (weight_bits - 1)) - 1) * levels
    slope = levels / (reach / np.sqrt(fan_in)) * rng.uniform(0.5, 2, rows)
    offset = rng.normal(0, 0.1, rows) * levels
    offset = np.round(offset / slope) * slope if grid else offset
    k = np.arange(lo + 1, lo + levels + 1)
    return np.ceil((k - 0.5 - offset[:, None]) / slope[:, None]).astype(np.int64), reach


def count_all(some, solution, kernels):
    """Differing accumulators and largest difference, by trying every one."""
    x = np.arange(some.x_lo.min(), some.x_hi.max() + 1)
    got = emulate_levels(
        some.with_factor(solution.factor),
        kernels,
        np.broadcast_to(x, (len(some.factor), len(x))),
        solution.weight_scale[:, None],
        solution.constant[:, None],
    )
    wanted = some.lo + np.stack([np.searchsorted(row, x, side="right") for row in some.thresholds])
    return (got != wanted).sum(axis=1), np.abs(got - wanted).max(axis=1)


def off_line(thresholds, reach):
    """(R,) distance of rising steps from a line over -reach … reach."""
    rows = len(thresholds)
    forms = Steps(freeze(np.ones(rows)), freeze(thresholds), None)
    ends = freeze(np.full(rows, -reach)), freeze(np.full(rows, reach))
    return distance_from_line(Requantise("step", ("x",), "step", 0, 0, thresholds.shape[1], forms, *ends))


@pytest.mark.parametrize("operator", ["FULLY_CONNECTED", "CONV_2D"])
@pytest.mark.parametrize("weight_bits, fan_in", [(4, 64), (4, 576), (3, 64), (2, 64)])
def test_every_channel_of_low_bit_layers_is_certified(rng, operator, weight_bits, fan_in):
    thresholds, reach = batch_norm(rng, 200, weight_bits, weight_bits, fan_in)
    solution = solve(problem(operator, thresholds, reach, 127 // ((1 << (weight_bits - 1)) - 1), 0))
    assert not solution.verdicts["xnnpack"].differing.any()
    assert (solution.verdicts["reference"].differing == 0).mean() >= 0.98


def test_another_factor_helps_where_the_largest_does_not(rng):
    thresholds, reach = batch_norm(rng, 200, 4, 8, 64)
    solution = solve(problem("FULLY_CONNECTED", thresholds, reach, 18, 0))
    assert (solution.verdicts["xnnpack"].differing == 0).mean() > 0.85
    assert len(np.unique(solution.factor)) > 4 and solution.factor.max() <= 18


def test_8_bit_layers_with_biases_on_the_grid_miss_a_handful(rng):
    thresholds, reach = batch_norm(rng, 60, 8, 8, 64, grid=True, lo=-128)
    solution = solve(problem("FULLY_CONNECTED", thresholds, reach, 1, -128))
    verdict = solution.verdicts["xnnpack"]
    assert reach > 1_000_000 and verdict.differing.max() <= 10 and verdict.largest.max() <= 1


@pytest.mark.parametrize("operator", ["FULLY_CONNECTED", "CONV_2D"])
@pytest.mark.parametrize("weight_bits, act_bits, reach", [(8, 8, 3000), (4, 8, 3000), (8, 4, 900)])
def test_the_count_is_what_trying_every_accumulator_gives(rng, operator, weight_bits, act_bits, reach):
    thresholds, _ = batch_norm(rng, 30, weight_bits, act_bits, 1)
    thresholds = np.clip(
        (thresholds * rng.uniform(0.5, 5, (30, 1))).astype(np.int64) + rng.integers(-300, 300, (30, 1)), -5000, 5000
    )
    some = problem(operator, thresholds, reach, 127 // ((1 << (weight_bits - 1)) - 1), 0)
    solution = solve(some)
    for kernels in LITERT:
        differing, largest = count_all(some, solution, kernels)
        assert np.array_equal(differing, solution.verdicts[kernels].differing)
        assert np.array_equal(largest, solution.verdicts[kernels].largest)


def test_ties_to_even_are_exact_on_xnnpack_alone(rng):
    """Scales odd/2**n and biases on the grid: half of all thresholds are ties, and QONNX rounds them to even."""
    x = np.arange(-4000, 4001)
    rows = []
    for _ in range(40):
        levels = np.clip(np.rint((x + rng.integers(-300, 300)) * (2 * rng.integers(0, 4) + 1) * 2.0**-9), -128, 127)
        rows.append([x[np.argmax(levels >= k)] if (levels >= k).any() else 4001 for k in range(-127, 128)])
    solution = solve(problem("CONV_2D", np.array(rows), 4000, 18, -128))
    assert not solution.verdicts["xnnpack"].differing.any()
    assert solution.verdicts["reference"].differing.all()


@pytest.mark.parametrize(
    "thresholds",
    [[[5]], [[-40]], [[0, 0, 0]], [[-7, -7, 9]], [[51, 51, 51]], [[-50, -50, -50]], [[-49, 50, 51]], [[-50, 3, 51]]],
    ids=str,
)
@pytest.mark.parametrize("factor", [1, 18, 127])
def test_few_steps_and_none(thresholds, factor):
    """One step, all at one accumulator, out of reach above or below, at the ends of the range."""
    some = problem("CONV_2D", np.array(thresholds, np.int64), 50, factor, 0)
    solution = solve(some)
    for kernels in LITERT:
        differing, _ = count_all(some, solution, kernels)
        assert np.array_equal(differing, solution.verdicts[kernels].differing)
    if thresholds[0] != [-7, -7, 9]:
        assert not solution.verdicts["xnnpack"].differing.any()


def test_lines_are_told_from_other_functions(rng):
    thresholds, reach = batch_norm(rng, 200, 4, 8, 64)
    assert off_line(thresholds, reach).max() < 1e-6
    steep = np.ceil((np.arange(1, 256) - 99.3) / rng.uniform(3, 40, (50, 1))).astype(np.int64)
    assert off_line(steep, 30).max() < 1e-6
    sigmoid = np.log((np.arange(1, 16) - 0.5) / (16 - np.arange(1, 16) + 0.5))[None] * 40
    assert off_line(np.ceil(sigmoid).astype(np.int64), 300)[0] > 2


def test_the_distance_from_a_line_is_the_smallest_there_is(rng):
    """Against a fine grid of slopes; twice rounded steps, which look almost like a line, are none."""
    x = np.arange(-90, 91)
    twice = np.clip(np.rint(np.rint(x / 3.1) / 2.3), -8, 7)
    thresholds = np.array([x[np.argmax(twice >= k)] if (twice >= k).any() else 91 for k in range(-7, 8)])
    rows = np.stack([thresholds, *np.sort(rng.integers(-60, 60, (20, 15)), axis=1)])
    got = off_line(rows, 90)
    k, slopes = np.arange(15), np.linspace(0, 182, 40_001)[:, None]
    for row, distance in zip(rows, got, strict=True):
        low, high = np.where(row > -90, row - 1.0, -np.inf), np.where(row <= 90, row, np.inf)
        gap = ((high - slopes * k).min(axis=1) - (low - slopes * k).max(axis=1)).max()
        assert abs(max(0, -gap) / 2 - distance) < 0.05
    assert got[0] > 0.05
