"""The acceptance tests 1 to 5 and 9 of the specification, with its numbers, on a virtual clock."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.energy.importers import trace_row
from greenedge.energy.liveness import check
from greenedge.energy.meters import CounterMeter
from greenedge.energy.method import Method, Window, Windows
from greenedge.energy.session import Repetition, run_session
from greenedge.energy.simulate import MachineWorkload
from greenedge.energy.source import SourceFault, Trace, integrate
from greenedge.energy.stats import mean_interval
from greenedge.energy.sync_edges import match_edges, match_pattern
from tests.unit.energy.fakes import ar1, setup

RANGE_J = 262143.328850


def test_wrap_swept_through_every_phase():
    """1: 300 W, 0.25 s windows, the wrap in each of 100 places: no negative value, at most 1 % off."""
    worst = 0.0
    for phase in range(100):
        # The wrap falls between 0 and 1 s after the start, so in, between and outside of windows.
        clock, machine, source = setup(start_j=RANGE_J - 300 * phase / 100, idle_w=300.0, busy_w=0.0)
        first = source.read().value
        for _ in range(4):
            clock.sleep(0.25)
            now = source.read().value
            assert now - first > 0
            worst = max(worst, abs((now - first) / 75.0 - 1))
            first = now
    assert worst <= 0.01, worst


def test_two_possible_wraps_are_refused():
    clock, machine, source = setup(idle_w=300.0, max_power_w=1000.0)
    source.read()
    clock.sleep(2 * RANGE_J / 1000)
    with pytest.raises(SourceFault) as caught:
        source.read()
    assert caught.value.kind == "ambiguous_wrap"
    assert str(caught.value) == (
        "fake:counter: 524 s passed between two readings, in which 1000 W could wrap it "
        "(range 262143 J) "
        "more than once (cure: read it every 65.5 s, or give the true --max-power)."
    )


def test_integral_of_a_band_limited_trace():
    """2a: 100 Hz with 20 % jitter, 200 seeds: at most 0.1 % off."""
    worst = 0.0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        f, a, p = rng.uniform(0.05, 5, 8), rng.uniform(0, 1, 8), rng.uniform(0, 2 * np.pi, 8)
        t = np.arange(-0.1, 12, 0.01)
        t = t + rng.uniform(-0.001, 0.001, len(t)) * 2
        power = 20 + np.sum(a[:, None] * np.sin(2 * np.pi * f[:, None] * t + p[:, None]), axis=0)
        start, stop = rng.uniform(0, 0.5), rng.uniform(10.5, 11.5)
        phase = [2 * np.pi * f * x + p for x in (start, stop)]
        truth = 20 * (stop - start) + np.sum(a / (2 * np.pi * f) * (np.cos(phase[0]) - np.cos(phase[1])))
        worst = max(worst, abs(integrate(Trace(t, power), start, stop)[0] / truth - 1))
    assert worst <= 0.001, worst


def test_stated_uncertainty_covers_a_square_wave():
    """2b: 27 Hz between 10 and 30 W, sampled at 100 Hz: the error within 2 u in at least 95 % of 200 seeds."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        shift = rng.uniform(0, 1)
        t = np.arange(-0.1, 12, 0.01)
        t = t + rng.uniform(-0.1, 0.1, len(t)) * 0.01
        start, stop = rng.uniform(0, 0.5), rng.uniform(10.5, 11.5)
        turns = (np.array([start, stop]) + shift) * 27
        high = np.diff(np.floor(turns) / 2 + np.minimum(turns % 1, 0.5))[0] / 27
        truth = 10 * (stop - start) + 20 * high
        joules, u = integrate(Trace(t, 10 + 20 * ((t + shift) * 27 % 1 < 0.5)), start, stop)
        covered += abs(joules - truth) <= 2 * u
    assert covered >= 190, covered


def test_stale_counter():
    """3: a 100 ms counter: period within 10 %, 1 s tick-aligned windows within 0.5 % rms, a 50 ms window refused."""
    clock, machine, source = setup(period_s=0.1, range_j=None, idle_w=20.0, busy_w=80.0, lsb_j=1e-3)
    found = check(source, clock, machine.load)
    assert found.ok and abs(found.period_s / 0.1 - 1) < 0.1
    meter = CounterMeter(source, clock, found.period_s)
    meter.start()
    rng = np.random.default_rng(3)
    windows = Windows([meter], clock, rng)
    workload = MachineWorkload(machine, 0.0037)
    errors = []
    for _ in range(100):
        clock.sleep(rng.uniform(0, 0.1))
        (window,) = windows.work(workload, 1.0, 1, 0.0037, 0.0)
        errors.append(window.joules / window.count / (100 * 0.0037) - 1)
    rms = float(np.sqrt(np.mean(np.square(errors))))
    assert rms <= 0.005, rms
    with pytest.raises(Exception) as caught:
        Method(min_window_s=0.05, periods=0).window_s([CounterMeter(source, clock, 0.1)])
    assert str(caught.value) == (
        "a window of 50 ms is too short for a source that is updated every 100 ms: at least "
        "1 s are "
        "needed; lengthen --window."
    )


def _sessions(seed: int, sessions: int, reps: int, watts_sd: float = 1.0):
    """Repetitions of synthetic sessions: 20 W idle, 30 W busy, AR(1) noise with a memory of 3 s, 10 Hz."""
    rng, hz = np.random.default_rng(seed), 10
    lengths = [3, 10, 3]
    step = (sum(lengths) + int(Method().cooldown_s)) * hz
    noise = watts_sd * ar1(rng, sessions, reps * step, 3 * hz).reshape(sessions, reps, step)
    cuts = np.cumsum([0, *lengths]) * hz
    means = np.stack([noise[:, :, a:b].mean(axis=2) for a, b in zip(cuts, cuts[1:], strict=False)], axis=2) + [
        20,
        30,
        20,
    ]
    for one in means:
        yield [
            Repetition(r, 0, *(Window(0, s, w * s, 0, 100, s) for s, w in zip(lengths, watts, strict=True)))
            for r, watts in enumerate(one)
        ]


@pytest.mark.parametrize("watts_sd", [1.0, 1.6])
def test_interval_coverage(watts_sd):
    """4: 2,000 sessions, 93 to 97 % of the 95 % intervals hold the truth, total and net, with the stop rule in
    force."""
    method, covered = Method(), {"total_j": 0, "net_j": 0}
    for reps in _sessions(4, 2000, method.max_reps, watts_sd):
        totals = [rep.total_j for rep in reps]
        n = next(
            (
                n
                for n in range(method.min_reps, method.max_reps + 1)
                if mean_interval(totals[:n]).half_width_rel <= method.target
            ),
            method.max_reps,
        )
        for what, truth in (("total_j", 3.0), ("net_j", 1.0)):
            interval = mean_interval([getattr(rep, what) for rep in reps[:n]])
            covered[what] += interval.low <= truth <= interval.high
    assert all(0.93 <= count / 2000 <= 0.97 for count in covered.values()), covered


def test_idle_drift():
    """5: an idle power that climbs by 3 W over the session: net within 0.5 %, and flagged where it is steep."""
    clock, machine, source = setup(extra=lambda t: 3.0 * min(max((t - 1040) / 160, 0), 1))
    meter = CounterMeter(source, clock)
    meter.start()
    (session,) = run_session(
        [MachineWorkload(machine)],
        [meter],
        Method(warm_up_s=12, target=0.0, max_reps=10),
        clock,
        np.random.default_rng(5),
    )
    net = mean_interval([rep.net_j for rep in session.reps])
    assert abs(net.mean / 0.04 - 1) <= 0.005, net
    clock, machine, source = setup(extra=lambda t: 0.05 * (t - 1000))
    meter = CounterMeter(source, clock)
    meter.start()
    (session,) = run_session(
        [MachineWorkload(machine)], [meter], Method(warm_up_s=12, max_reps=10), clock, np.random.default_rng(5)
    )
    assert any(flag.startswith("idle drift: the idle power moved by +0.6") for flag in session.flags), session.flags


OFFSET_S, DRIFT = 0.137, 50e-6


def _meter_trace(rng, host_edges, rate=1000.0, markers=None):
    """A meter 137 ms off that runs 50 ppm fast: 20 W in a load, 5 W else, 2 % noise."""
    t = np.arange(-1, host_edges[-1] + 3, 1 / rate)
    host = (t - OFFSET_S) / (1 + DRIFT)
    watts = np.where(np.searchsorted(host_edges, host, side="right") % 2, 20.0, 5.0)
    watts = watts * (1 + 0.02 * rng.standard_normal(len(t)))
    level = None if markers is None else np.searchsorted(markers, host, side="right") % 2
    return Trace(t, watts, level)


def test_marker_sync_by_load_pattern():
    """9a: offset within one sample, energy within 0.1 %, over ten windows."""
    pulses = np.array([1.0, 1.3, 1.6, 1.9, 2.2, 2.5])
    windows = [(5.0 + 15 * k, 15.0 + 15 * k) for k in range(10)]
    after = pulses + 155.0
    edges = np.array([*pulses, *(x for pair in windows for x in pair), *after])
    for seed in range(10):
        trace = _meter_trace(np.random.default_rng(seed), edges)
        sync = match_pattern(trace, [pulses, after])
        assert abs(sync.to_meter(0.0) - OFFSET_S) < 1e-3 and abs(sync.drift - DRIFT) < 10e-6, sync
        spans = [(sync.to_meter(a), sync.to_meter(b)) for a, b in windows]
        row = trace_row("dut", trace, spans, 100, sync_s=sync.residual_s)
        # The meter's own second is 50 ppm short; its joules are taken as its own.
        assert abs(row["figures"]["total"]["energy_j"] / (20 * 10 * (1 + DRIFT) / 100) - 1) <= 0.001


def test_marker_sync_by_gpio_and_a_lost_edge():
    """9b: numbered edges give the line to a sample; one lost edge makes the run void."""
    edges = np.arange(1.0, 60.0, 3.7)
    trace = _meter_trace(np.random.default_rng(1), edges, markers=edges)
    from greenedge.energy.sync_edges import logic_edges

    seen = logic_edges(trace)
    sync = match_edges(seen, edges)
    assert abs(sync.to_meter(0.0) - OFFSET_S) < 1e-3 and sync.residual_s < 1e-3
    with pytest.raises(SourceFault) as caught:
        match_edges(np.delete(seen, 5), edges)
    assert str(caught.value) == (
        f"markers: the meter saw {len(edges) - 1} edges, the host made {len(edges)}: one is "
        "lost or extra "
        "(cure: repeat the run; check the wire and that the meter records before the first "
        "and after the "
        "last marker)."
    )
    moved = np.array(seen)
    moved[5] += 2.0
    with pytest.raises(SourceFault, match="do not lie on one line"):
        match_edges(moved, edges)
    with pytest.raises(SourceFault, match="the load pattern is not in the trace"):
        match_pattern(Trace(trace.t, np.full(len(trace.t), 5.0) + 1e-3 * np.sin(1e3 * trace.t)), [[1, 2], [10, 11]])
