"""A proof of life that noise does not pass and a slow, drifting or remote source does."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.energy.clock import VirtualClock
from greenedge.energy.liveness import check
from greenedge.energy.measurement import measure_sources
from greenedge.energy.meters import InlineRecorder, SampledMeter
from greenedge.energy.method import Method
from greenedge.energy.simulate import FakeCounter, FakeMachine, FakePower, MachineWorkload
from greenedge.energy.source import Reading, SourceFault, SourceInfo


class Noise:
    """A sensor that shows slow noise, whatever the machine does."""

    def __init__(self, clock, seed):
        self.clock, self.rng = clock, np.random.default_rng(seed)
        self.info = SourceInfo("fake:noise", "power", "rail", "nothing", evidence="simulated")
        self._turn, self._watts = -1, 0.0

    def read(self):
        t = self.clock.now()
        if int(t / 0.4) != self._turn:
            self._turn, self._watts = int(t / 0.4), 20 + self.rng.standard_normal()
        return Reading(t, t, self._watts)

    def close(self):
        pass


def test_noise_does_not_follow_a_load():
    """At most 2 of 100 sensors that show noise alone pass; with one turn of load it would be one in eight."""
    passed = 0
    for seed in range(100):
        clock = VirtualClock()
        machine = FakeMachine(clock)
        passed += check(Noise(clock, seed), clock, machine.load, poll_s=0.05).ok
    assert passed <= 2, passed


@pytest.mark.parametrize("noise_w", [0.5, 2.0])
def test_a_noisy_or_drifting_source_is_alive(noise_w):
    """20 W at rest, 30 W under load, with slow noise and a drift of 0.2 W/s."""
    rng = np.random.default_rng(1)
    wander = np.repeat(rng.standard_normal(400), 10) * noise_w / 2

    def extra(t):
        return 0.2 * (t - 1000) + wander[min(int((t - 1000) * 20), len(wander) - 1)]

    clock = VirtualClock()
    machine = FakeMachine(clock, extra=extra)
    found = check(FakeCounter(machine), clock, machine.load)
    assert found.ok and found.load_w - found.idle_w == pytest.approx(10, abs=2), found


def test_a_slow_counter_gets_longer_turns():
    clock = VirtualClock()
    machine = FakeMachine(clock)
    found = check(FakeCounter(machine, period_s=0.8), clock, machine.load)
    assert found.ok and found.period_s == pytest.approx(0.8, rel=0.1), found
    clock = VirtualClock()
    machine = FakeMachine(clock)
    found = check(FakeCounter(machine, period_s=1.7), clock, machine.load, seconds=4.0)
    assert (found.state, found.reason) == ("stale", "it is updated every 1.70 s")


class Fine(VirtualClock):
    """Sleeps in pieces of 10 ms, so that a recorder that hears of its moves misses nothing."""

    def sleep(self, seconds):
        while seconds > 0:
            self.advance(min(seconds, 0.01))
            seconds -= 0.01


def _stream(clock, machine, watts):
    """A meter's stream, recorded in step with the virtual clock."""
    info = SourceInfo("fake:stream", "stream", "board", "the supplied board", evidence="simulated", max_power_w=100.0)

    class Source:
        def close(self):
            pass

    source = Source()
    source.info = info
    return source, lambda source: SampledMeter(source.info, InlineRecorder(watts, clock, 50), clock, 50)


def test_a_stream_is_proved_like_every_source():
    """It used to be taken at its word: a dead meter's stream may be as smooth as a live one's."""
    method = Method(warm_up_s=6, max_reps=3, min_reps=3)
    clock = Fine()
    machine = FakeMachine(clock)
    last = [clock.time, machine.joules]

    def mean_since_last():
        before, last[:] = list(last), (clock.time, machine.joules)
        return (last[1] - before[1]) / (last[0] - before[0])

    source, make = _stream(clock, machine, mean_since_last)
    (row,) = measure_sources([MachineWorkload(machine)], [source], clock=clock, method=method, make_meter=make)["rows"]
    assert row["liveness"]["state"] == "alive" and row["liveness"]["load_w"] == pytest.approx(30, rel=0.01)
    assert row["figures"]["total"]["energy_simulated_j"] == pytest.approx(0.12, rel=0.01)
    faults = {
        "is frozen": lambda: 7.0,
        "reads 0 all the time": lambda: 0.0,
        "does not follow the load": lambda: 7.0 + 0.01 * np.sin(clock.time * 7),
        "is the most": lambda: 500.0 + np.sin(clock.time * 7),
    }
    for said, watts in faults.items():
        clock = Fine()
        machine = FakeMachine(clock)
        source, make = _stream(clock, machine, watts)
        with pytest.raises(SourceFault, match=said) as caught:
            measure_sources([MachineWorkload(machine)], [source], clock=clock, method=method, make_meter=make)
        assert caught.value.exit_code == 3


def test_workloads_are_torn_down_however_it_ends():
    clock = VirtualClock()
    machine = FakeMachine(clock)
    workload, ended = MachineWorkload(machine), []
    workload.teardown = lambda: ended.append(True)
    with pytest.raises(SourceFault):
        measure_sources([workload], [FakePower(machine, fault="frozen")], clock=clock, method=Method(warm_up_s=6))
    assert ended == [True]


def test_whole_runs_are_tied_to_ticks():
    """A command between the ticks of a 100 ms counter: the rest up to each tick is taken out; and it is called
    derived."""
    clock = VirtualClock()
    machine = FakeMachine(clock)
    workload = MachineWorkload(machine, 0.37)
    workload.continuous = False
    source = FakeCounter(machine, period_s=0.1, range_j=None, lsb_j=1e-3, evidence="measured")
    (row,) = measure_sources([workload], [source], clock=clock, method=Method(warm_up_s=12, max_reps=10))["rows"]
    assert row["figures"]["total"]["energy_j"] == pytest.approx(30 * 0.37, rel=0.002)
    assert row["figures"]["net"]["energy_j"] == pytest.approx(10 * 0.37, rel=0.005)
    assert row["figures"]["total"]["evidence"] == "derived"
