"""Steps of a counter at the bound of what is plausible and one unit beyond; every bound is a number that float64
holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from greenedge.energy.counter_unwrap import Unwrapper, greatest_step
from greenedge.energy.source import SourceFault, SourceInfo

LSB = 0.25
# 100 W for 1 s, two periods of 0.5 s of slack, four steps of 0.25 J: 100 · (1 + 2 · 0.5) + 4 · 0.25 = 201 J.
MOST = 201.0
COUNTER = SourceInfo(
    "fake:counter", "counter", "chip", "cpu package", update_period_s=0.5, lsb_j=LSB, range_j=1024.0, max_power_w=100.0
)


def step(info: SourceInfo, first: float, second: float, elapsed_s: float = 1.0) -> float:
    """Joules between two readings."""
    unwrap = Unwrapper()
    assert unwrap.add(info, 10.0, first) == 0.0
    return unwrap.add(info, 10.0 + elapsed_s, second)


def fault(info: SourceInfo, first: float, second: float, elapsed_s: float = 1.0) -> str:
    """The kind of the fault that the second reading is."""
    with pytest.raises(SourceFault) as caught:
        step(info, first, second, elapsed_s)
    return caught.value.kind


def test_the_bound_is_power_times_time_with_two_periods_and_four_steps_of_slack():
    assert greatest_step(COUNTER, 1.0) == MOST
    assert greatest_step(replace(COUNTER, update_period_s=None), 1.0) == 101.0
    assert greatest_step(replace(COUNTER, lsb_j=None), 1.0) == 200.0
    assert greatest_step(replace(COUNTER, update_period_s=None, lsb_j=None), 1.0) == 100.0


def test_a_step_at_the_bound_is_taken_and_one_lsb_beyond_is_not():
    assert step(COUNTER, 0.0, MOST) == MOST
    assert fault(COUNTER, 0.0, MOST + LSB) == "implausible"


def test_a_wrap_at_the_bound_is_taken_and_one_lsb_beyond_is_a_reset():
    assert step(COUNTER, 1000.0, 1000.0 + MOST - 1024.0) == MOST
    assert fault(COUNTER, 1000.0, 1000.0 + MOST + LSB - 1024.0) == "reset"


def test_a_second_wrap_is_ambiguous_from_the_bound_on():
    """In 10 s 100 W give 1101 J at most: a step of 77 J may be 77 + 1024 = 1101 J, one of 77.25 J may not."""
    assert greatest_step(COUNTER, 10.0) == 1101.0
    assert fault(COUNTER, 0.0, 77.0, 10.0) == "ambiguous_wrap"
    assert step(COUNTER, 0.0, 77.0 + LSB, 10.0) == 77.0 + LSB


def test_a_counter_without_a_range_may_rise_by_the_bound_and_not_fall():
    endless = replace(COUNTER, range_j=None)
    assert step(endless, 5.0, 5.0 + MOST) == MOST and step(endless, 5.0, 5.0) == 0.0
    assert fault(endless, 5.0, 5.0 + MOST + LSB) == "implausible"
    assert fault(endless, 5.0, 5.0 - LSB) == "reset"


def test_steps_add_up_over_wraps():
    unwrap = Unwrapper()
    readings = [1000.0, 100.0, 300.0, 500.0, 700.0, 900.0, 76.0]
    assert [unwrap.add(COUNTER, float(t), raw) for t, raw in enumerate(readings)][-1] == 124.0 + 4 * 200.0 + 200.0


@pytest.mark.parametrize("raw", [float("nan"), float("inf"), -LSB])
def test_a_reading_that_is_no_energy_is_refused(raw):
    with pytest.raises(SourceFault) as caught:
        Unwrapper().add(COUNTER, 0.0, raw)
    assert caught.value.kind == "implausible"


def test_a_counter_is_read_four_times_before_it_can_wrap():
    assert COUNTER.guard_s == 1024.0 / (4 * 100.0) and replace(COUNTER, range_j=None).guard_s is None
