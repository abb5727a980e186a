"""Timing in turns on a fake clock: every call is timed in every round, and ratios are taken round by round."""

import numpy as np
import pytest

from greenedge.runtimes.latency import time_in_turns


def test_calls_are_timed_in_turns_and_compared_within_a_round():
    now, order = [0.0], []

    def call(name, cost):
        def once():
            order.append(name)
            now[0] += cost * (3 if len(order) > 4000 else 1)  # the machine becomes three times slower half-way

        return once

    timings = time_in_turns({"fast": call("fast", 0.002), "slow": call("slow", 0.008)}, rounds=10, clock=lambda: now[0])
    assert timings.latency_s("fast").median == pytest.approx(0.002) and timings.latency_s("slow").low == pytest.approx(
        0.008
    )
    assert str(timings.ratio("fast", "slow")) == "0.25 (0.25 … 0.25)"
    assert all(len(values) == 10 and np.isfinite(values).all() for values in timings.seconds.values())
    turns = [name for name, before in zip(order, ["", *order[:-1]], strict=True) if name != before]
    assert len(turns) >= 10 and turns.count("fast") - turns.count("slow") in (-1, 0, 1)


def test_a_call_that_was_interrupted_does_not_count():
    now, calls = [0.0], [0]

    def call():
        calls[0] += 1
        now[0] += 0.5 if calls[0] % 7 == 0 else 0.001

    assert time_in_turns({"it": call}, rounds=5, clock=lambda: now[0]).latency_s("it").high == pytest.approx(0.001)
