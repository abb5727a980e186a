"""From source ids and workloads to a document: open the sources, test that they are alive, measure, label."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.energy import liveness, results
from greenedge.energy.clock import Clock, RealClock
from greenedge.energy.evidence import require
from greenedge.energy.meters import CounterMeter, Meter, SampledMeter
from greenedge.energy.method import Method
from greenedge.energy.session import run_session
from greenedge.energy.source import Probe, Source, SourceFault
from greenedge.energy.sources import find_all, open_source
from greenedge.energy.sources.powercap import Powercap, find_mirrors
from greenedge.energy.sources.powercap import open_source as open_zone
from greenedge.energy.workloads import Workload
from greenedge.errors import EvidenceError
from greenedge.progress import ProgressFn, no_progress

_PREFERRED = ("powercap", "perf", "nvml", "hwmon", "joulescope", "ppk2", "otii", "zeus")
NOTHING = (
    "this machine has no energy source that can be read, so nothing can be measured here: plug in a meter "
    "(`greenedge energy probe` says what each source lacks), or ask for an estimate with --source estimate."
)

MakeMeter = Callable[[Source], CounterMeter | SampledMeter]


@dataclass(frozen=True)
class ProbedSource:
    """One source as `probe` shows it: id, scope, what it covers, the result of its liveness test."""

    id: str
    scope: str
    covers: str
    live: liveness.Liveness
    evidence: str = "measured"


def probe(
    root: Path = Path("/"),
    clock: Clock | None = None,
    load: liveness.Load | None = None,
    seconds: float = 1.0,
    progress: ProgressFn = no_progress,
) -> list[ProbedSource]:
    """Every source and whether it is alive, tested in turns of `seconds`.

    `load(going)` must load what the sources cover; without it a source that counts is `unproven`.
    """
    clock, found = clock or RealClock(), find_all(root)
    out = []
    for number, one in enumerate(found):
        progress(number, len(found), f"watching {one.id}")
        out.append(ProbedSource(one.id, one.scope, one.covers, _probe_one(one, root, clock, load, seconds)))
    return _without_mirrors(out, root, clock)


def _probe_one(found: Probe, root: Path, clock: Clock, load: liveness.Load | None, seconds: float) -> liveness.Liveness:
    if not found.ok:
        return liveness.Liveness(found.state, found.reason, found.fix)
    try:
        source = open_source(found.id, root, clock)
    except SourceFault as fault:
        return liveness.Liveness(fault.kind, fault.reason, fault.fix)
    if source.info.kind != "stream":
        try:
            return liveness.check(source, clock, load, seconds)
        finally:
            source.close()
    meter = _make_sampled_meter(source, root, clock, 10.0)
    try:
        meter.start()
        return meter.check_liveness(load, seconds)
    except SourceFault as fault:
        return liveness.Liveness(fault.kind, fault.reason, fault.fix)
    finally:
        meter.stop()


def _without_mirrors(probed: list[ProbedSource], root: Path, clock: Clock) -> list[ProbedSource]:
    """The second zone of a counter that is shown as two dies becomes "mirrored"."""
    with ExitStack() as opened:
        zones: list[Powercap] = []
        for one in probed:
            if one.live.state in ("alive", "unproven") and one.id.startswith("powercap:"):
                zone = open_zone(one.id, root, clock)
                opened.callback(zone.close)
                zones.append(zone)
        twins = {second: first for first, second in find_mirrors(zones)} if len(zones) > 1 else {}
    fix = "measure one of the two"
    return [
        one
        if one.id not in twins
        else ProbedSource(
            one.id, one.scope, one.covers, liveness.Liveness("mirrored", f"it shows {twins[one.id]} again", fix)
        )
        for one in probed
    ]


def measure(
    workloads: Sequence[Workload],
    source_ids: Sequence[str] = (),
    *,
    method: Method | None = None,
    root: Path = Path("/"),
    clock: Clock | None = None,
    seed: int = 0,
    required: str | None = None,
    progress: ProgressFn = no_progress,
    sampler_hz: float = 10.0,
    gain_rel: float | None = None,
    max_power_w: float | None = None,
) -> dict:
    """A document with a row for each workload and source; without `source_ids` the first family that can be opened.

    Sampled sources are read `sampler_hz` times a second; `gain_rel` and `max_power_w` replace the sources' own. Raises
    SourceFault or EvidenceError (exit 3) where there is no evidence of the `required` class.
    """
    clock = clock or RealClock()
    sources = [open_source(source_id, root, clock) for source_id in _with_twins(source_ids or _choose(root))]
    for source in sources:
        source.info = source.info.with_properties(gain_rel, max_power_w)
    _refuse_mirrors(sources)
    return measure_sources(
        workloads,
        sources,
        method=method,
        root=root,
        clock=clock,
        seed=seed,
        required=required,
        progress=progress,
        sampler_hz=sampler_hz,
    )


def measure_sources(
    workloads: Sequence[Workload],
    sources: Sequence[Source],
    *,
    method: Method | None = None,
    root: Path = Path("/"),
    clock: Clock | None = None,
    seed: int = 0,
    required: str | None = None,
    progress: ProgressFn = no_progress,
    sampler_hz: float = 10.0,
    make_meter: MakeMeter | None = None,
) -> dict:
    """`measure` on open sources. `make_meter` replaces the sampling process (for virtual clocks). Workloads are set up
    before and torn down after, also when an error ends it. Raises as `measure` does."""
    clock, method = clock or RealClock(), method or Method()
    if required:
        for source in sources:
            require(source.info.evidence, required, source.info.id, "choose a live source (greenedge energy probe).")
    with ExitStack() as opened:
        for workload in workloads:
            # Registered before setup: a setup that fails half-way must be torn down too.
            opened.callback(workload.teardown)
            workload.setup()
        alive: dict[str, liveness.Liveness] = {}
        meters: list[Meter] = []
        for source in sources:
            progress(0, 1, f"proving {source.info.id} alive")
            meter, live = _prove_alive(source, root, clock, sampler_hz, make_meter, _load_of(workloads[0]), opened)
            meters.append(meter)
            alive[source.info.id] = live
        sessions = run_session(workloads, meters, method, clock, np.random.default_rng(seed), progress, root / "sys")
        rows = [results.session_row(s, method, alive[s.meter.info.id], seed) for s in sessions]
    _cross_check(rows)
    return results.document(rows, session=secrets.token_hex(8))


def _prove_alive(
    source: Source,
    root: Path,
    clock: Clock,
    hz: float,
    make_meter: MakeMeter | None,
    load: liveness.Load,
    opened: ExitStack,
) -> tuple[Meter, liveness.Liveness]:
    """A started meter of a source that has just followed the load; `opened` closes it. Raises SourceFault."""
    if source.info.kind == "counter":
        opened.callback(source.close)
        live = liveness.prove(source, clock, load)
        counter = make_meter(source) if make_meter else CounterMeter(source, clock, live.period_s)
        counter.start()
        return counter, live
    # Tested as it will be measured: by the sampling process, which reads while the load blocks this one.
    meter = make_meter(source) if make_meter else _make_sampled_meter(source, root, clock, hz)
    assert isinstance(meter, SampledMeter), "a power source needs a sampled meter"
    meter.start()
    opened.callback(meter.stop)
    return meter, liveness.require_alive(meter.check_liveness(load), source.info)


def _refuse_mirrors(sources: Sequence[Source]) -> None:
    """Raises SourceFault where two of the sources are one counter: it would count twice."""
    zones = [source for source in sources if isinstance(source, Powercap)]
    for one, other in find_mirrors(zones) if len(zones) > 1 else ():
        raise SourceFault(other, "implausible", f"it shows the same counter as {one}", "measure one of the two")


def _with_twins(ids: Sequence[str]) -> list[str]:
    """The ids, with the instantaneous power added to every NVIDIA counter: the two check each other."""
    wanted = []
    for one in ids:
        wanted.append(one)
        if one.startswith("nvml:") and not one.endswith(":power"):
            wanted.append(":".join([*one.split(":")[:2], "power"]))
    return list(dict.fromkeys(wanted))


def _choose(root: Path) -> list[str]:
    """The first source of the first family that can be opened. Raises EvidenceError."""
    found = find_all(root)
    for family in _PREFERRED:
        ids = [f.id for f in found if f.ok and f.id.partition(":")[0] == family]
        if ids:
            return ids[:1]
    denied = [f"{f.id}: {f.reason} (cure: {f.fix})" for f in found if f.state == "denied"]
    raise EvidenceError(f"no energy source may be read: {'; '.join(denied)}." if denied else NOTHING)


def _make_sampled_meter(source: Source, root: Path, clock: Clock, hz: float) -> SampledMeter:
    """Closes the source; the meter's process opens it itself."""
    source.close()
    return SampledMeter.of(source.info.id, root, source.info, clock, hz)


def _load_of(workload: Workload) -> liveness.Load:
    """The workload as the load of the liveness test; `going` is also called while a command runs."""

    def load(going: Callable[[], bool]) -> None:
        while going():
            workload.infer(1, going)

    return load


def _cross_check(rows: list[dict]) -> None:
    """Flags the rows of an NVIDIA counter and of its instantaneous power where they differ by more than 5 %."""
    for row in rows:
        if not row["source"]["id"].endswith(":energy"):
            continue
        twin = row["source"]["id"].removesuffix("energy") + "power"
        for other in rows:
            if other["source"]["id"] == twin and other["workload"] == row["workload"]:
                a, b = results.require_figure(row, "total"), results.require_figure(other, "total")
                difference = abs(a.value - b.value) / max(abs(a.value), abs(b.value), 1e-30)
                if difference > 0.05:
                    for flagged in (row, other):
                        flagged["flags"].append(
                            f"counter and integrated power differ by {difference:.1%} (5 % is the limit)"
                        )
