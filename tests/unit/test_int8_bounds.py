"""The bounds of the int8 back ends, at the bound and one beyond."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from greenedge.backends.int8.builder import FusingBuilder
from greenedge.backends.int8.certificate import Problem, count_differing, judge, wrong_points
from greenedge.backends.int8.layers import fit_layer
from greenedge.backends.int8.quant_params import encode
from greenedge.backends.int8.requirements import require_levels, require_readers, require_weights
from greenedge.graph import Dense, Edge, Graph, Input, Requantise, Steps, freeze

ONE = np.ones(1, np.float32)


def problem(thresholds, x_lo, x_hi, factor=1) -> Problem:
    """One channel from level 0, its level the accumulator itself where the scale is 1 and the constant 0."""
    rows = [np.array([thresholds], np.int64)] + [np.array([v], np.int64) for v in (x_lo, x_hi, factor)]
    return Problem("CONV_2D", *rows, lo=0, zero_level=0, zero_point=0, bounds=(0, 127))


@pytest.mark.parametrize(
    "thresholds, constant, differing",
    [
        ([1, 2, 3], 0, 0),
        ([1, 2, 4], 0, 1),  # at the last accumulator alone: never reached, reached
        ([0, 2, 3], 0, 1),  # at the first alone
        ([1, 2, 3], 1, 3),  # a level early at all but the last, which has no level above
        ([1, 2, 3], -1, 3),  # a level late: at the last accumulator the last level is not reached
        ([4, 4, 4], 0, 3),
        ([0, 0, 0], 0, 3),
    ],
)
def test_both_ends_of_the_reachable_range_are_counted(thresholds, constant, differing):
    """Accumulators 0 … 3 and levels 0 … 3."""
    some = dataclasses.replace(problem(thresholds, 0, 3), bounds=(0, 3))
    verdict = judge(some, ONE, np.array([constant]))["xnnpack"]
    assert verdict.differing.tolist() == [differing]
    counted, largest = count_differing(some, "xnnpack", ONE, np.array([constant]))
    x = np.arange(4)
    wanted, got = np.searchsorted(thresholds, x, side="right"), np.clip(x + constant, 0, 3)
    assert counted.tolist() == [int((wanted != got).sum())] and largest.tolist() == [int(np.abs(wanted - got).max())]


@pytest.mark.parametrize("bounds, constant", [((0, 3), -2), ((-128, 3), -2), ((-128, 127), -6), ((0, 127), 3)])
def test_what_no_clamp_holds_within_the_levels_is_counted(bounds, constant):
    """Accumulators 0 … 3 with levels 0 0 2 3."""
    some = dataclasses.replace(problem([2, 2, 3], 0, 3), bounds=bounds)
    wanted, got = np.array([0, 0, 2, 3]), np.clip(np.arange(4) + constant, *bounds)
    expected = int((wanted != got).sum()), int(np.abs(wanted - got).max())
    verdict = judge(some, ONE, np.array([constant]))["xnnpack"]
    assert (verdict.differing.tolist(), verdict.largest.tolist()) == ([expected[0]], [expected[1]])


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("beyond", [0, 1])
def test_an_accumulator_of_31_bits_fits_and_one_more_does_not(side, beyond):
    """|factor*x| + |constant| may be 2**31 - 1."""
    reach = (1 << 31) - 1 - 5 + beyond
    x_lo, x_hi = (0, reach) if side > 0 else (-reach, 0)
    some = problem([], x_lo, x_hi)
    wrong = wrong_points(some, np.full((1, 1), 2.0**-40, np.float32), np.array([[5]]))
    assert all((count[0, 0] > 0) == bool(beyond) for count in wrong.values())


def test_every_reachable_accumulator_is_counted():
    step = Requantise(
        "s", ("x",), "s", 0, 0, 3, Steps(freeze([1]), freeze([[1, 2, 3]]), None), freeze([-4]), freeze([9])
    )
    fitted = fit_layer("CONV_2D", "fc", step, np.ones((1, 1), np.int64), encode(0, 3), encode(0, 3))
    assert fitted.layer.accumulators.tolist() == [14]


def graph_of(weight, lo=0, hi=15, reach=None, outputs=("s",), falls=False) -> Graph:
    """x → Dense → a quantiser of two levels."""
    weight = freeze(weight)
    reach = int(np.abs(weight).sum()) * 15 if reach is None else reach
    forms = Steps(freeze([-1 if falls else 1]), freeze([[0]]), None)
    ops = (
        Input("x", (), "x"),
        Dense("fc", ("x",), "fc", weight),
        Requantise("s", ("fc",), "s", 0, 0, 1, forms, freeze([-reach]), freeze([reach])),
    )
    edges = {
        "x": Edge("x", (len(weight),), lo, hi),
        "fc": Edge("fc", (1,), 0, reach),
        "s": Edge("s", (1,), 0, 1),
    }
    return Graph("g", ops, edges, outputs)


def values(graph, require) -> list[str]:
    """What is refused of the dense layer."""
    return [reason.value for reason in run_rule(graph, require).reasons]


def run_rule(graph, require) -> FusingBuilder:
    b = FusingBuilder(graph, is_checking=True)
    b.apply(graph.ops[1], lambda b, op: require(b, op))
    return b


@pytest.mark.parametrize("levels, is_refused", [(256, False), (257, True)])
def test_256_levels_are_stored(levels, is_refused):
    graph = graph_of([[1]], reach=levels - 1, outputs=("s", "fc"))
    assert bool(values(graph, lambda b, op: require_levels(b, 0, levels - 1))) == is_refused
    assert run_rule(graph, require_readers).wide == ({"fc"} if is_refused else set())


@pytest.mark.parametrize(
    "weight, falls, is_refused",
    [
        (127, False, False),
        (128, False, True),
        (-128, False, False),
        (-129, False, True),
        (-127, True, False),
        (-128, True, True),
    ],
)
def test_weights_are_int8_also_with_their_sign_changed(weight, falls, is_refused):
    found = values(graph_of([[weight]], falls=falls), lambda b, op: require_weights(b, op, "R"))
    assert found == ([f"a weight of {-weight if falls else weight}"] if is_refused else [])


@pytest.mark.parametrize("beyond", [0, 1])
def test_sums_leave_half_of_int32_to_the_bias(beyond):
    """255 times the sum of the absolute weights stays below 2**30."""
    total = ((1 << 30) - 1) // 255 + beyond
    weight = np.full((total // 127 + 1, 1), 127)
    weight[-1] = total - 127 * (len(weight) - 1)
    found = values(graph_of(weight, reach=1), lambda b, op: require_weights(b, op, "R"))
    assert bool(found) == bool(beyond)
