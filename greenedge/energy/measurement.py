"""From source names and workloads to a document: open, prove alive, measure, label."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.energy import liveness, results
from greenedge.energy.clock import Clock, RealClock
from greenedge.energy.counter_unwrap import adopt
from greenedge.energy.evidence import require
from greenedge.energy.meters import CounterMeter, Meter, SampledMeter
from greenedge.energy.method import Method
from greenedge.energy.session import Progress, run_session
from greenedge.energy.source import Probe, Source, SourceFault
from greenedge.energy.sources import find_all, open_source
from greenedge.energy.sources.powercap import Powercap, find_mirrors
from greenedge.energy.workloads import Workload
from greenedge.errors import EvidenceError

_PREFERRED = ("powercap", "perf", "nvml", "hwmon", "joulescope", "ppk2", "otii", "zeus")
NOTHING = (
    "this machine has no energy source that can be read, so nothing can be measured here: plug in a meter "
    "(`greenedge energy probe` says what each source lacks), or ask for an estimate with --source estimate."
)


@dataclass(frozen=True)
class ProbedSource:
    """One source as `probe` shows it."""

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
    progress: Progress = lambda text, done, of: None,
) -> list[ProbedSource]:
    """Every source and whether it is alive. `load(going)` must load what the sources cover; without it a source that
    counts is `unproven`."""
    clock, found = clock or RealClock(), find_all(root)
    out = []
    for number, one in enumerate(found):
        progress(f"watching {one.id}", number, len(found))
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
    meter = _meter(source, root, clock, None, 10.0)
    try:
        meter.start()
        return meter.liveness(load, seconds)
    except SourceFault as fault:
        return liveness.Liveness(fault.kind, fault.reason, fault.fix)
    finally:
        meter.stop()


def _without_mirrors(probed: list[ProbedSource], root: Path, clock: Clock) -> list[ProbedSource]:
    """One counter that is shown as two dies is alive once."""
    with ExitStack() as opened:
        zones = []
        for one in probed:
            if one.live.state in ("alive", "unproven") and one.id.startswith("powercap:"):
                zones.append(open_source(one.id, root, clock))
                opened.callback(zones[-1].close)
        twins = dict((second, first) for first, second in find_mirrors(zones)) if len(zones) > 1 else {}
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
    progress: Progress = lambda text, done, of: None,
    sampler_hz: float = 10.0,
    gain_rel: float | None = None,
    max_power_w: float | None = None,
) -> dict:
    """A document with a row for each workload and source. Raises SourceFault/EvidenceError (exit 3) without
    evidence."""
    clock = clock or RealClock()
    sources = [open_source(source_id, root, clock) for source_id in _with_twins(source_ids or _choose(root))]
    told = {"gain_rel": gain_rel, "max_power_w": max_power_w}
    for source in sources:
        adopt(source, **{key: value for key, value in told.items() if value is not None})
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
    progress: Progress = lambda text, done, of: None,
    sampler_hz: float = 10.0,
    make_meter: Callable[[Source], Meter] | None = None,
) -> dict:
    """`measure` on sources that are open. `make_meter` replaces the sampling process (for virtual clocks). Workloads
    are set up before and torn down after, however it ends."""
    clock, method = clock or RealClock(), method or Method()
    if required:
        for source in sources:
            require(source.info.evidence, required, source.info.id, "choose a live source (greenedge energy probe).")
    with ExitStack() as opened:
        for workload in workloads:
            # Torn down also where the setting up fails half-way.
            opened.callback(workload.teardown)
            workload.setup()
        alive, meters = {}, []
        for source in sources:
            progress(f"proving {source.info.id} alive", 0, 1)
            meter, live = _prove_alive(source, root, clock, sampler_hz, make_meter, _load_of(workloads[0]), opened)
            meters.append(meter)
            alive[source.info.id] = live
        sessions = run_session(workloads, meters, method, clock, np.random.default_rng(seed), progress, root / "sys")
        rows = [results.session_row(s, method, alive[s.meter.info.id], seed) for s in sessions]
    _cross_check(rows)
    return results.document(rows, session=secrets.token_hex(8))


def _prove_alive(
    source: Source, root: Path, clock: Clock, hz: float, make_meter, load: liveness.Load, opened: ExitStack
) -> tuple[Meter, liveness.Liveness]:
    """A started meter of a source that has just followed the load. Raises SourceFault."""
    if source.info.kind == "counter":
        opened.callback(source.close)
        live = liveness.prove(source, clock, load)
        meter = make_meter(source) if make_meter else CounterMeter(source, clock, live.period_s)
        meter.start()
        return meter, live
    # The power is watched as it will be measured: by the sampling process, also while the work does not let us look.
    meter = make_meter(source) if make_meter else _meter(source, root, clock, None, hz)
    meter.start()
    opened.callback(meter.stop)
    return meter, liveness.proven(meter.liveness(load), source.info)


def _refuse_mirrors(sources: Sequence[Source]) -> None:
    """One counter shown as two dies counts twice. Raises SourceFault."""
    zones = [source for source in sources if isinstance(source, Powercap)]
    for one, other in find_mirrors(zones) if len(zones) > 1 else ():
        raise SourceFault(other, "implausible", f"it shows the same counter as {one}", "measure one of the two")


def _with_twins(ids: Sequence[str]) -> list[str]:
    """An NVIDIA counter is never read alone: its instantaneous power stands beside it."""
    wanted = []
    for one in ids:
        wanted.append(one)
        if one.startswith("nvml:") and not one.endswith(":power"):
            wanted.append(":".join([*one.split(":")[:2], "power"]))
    return list(dict.fromkeys(wanted))


def _choose(root: Path) -> list[str]:
    """The first family with a source that can be opened. Raises EvidenceError."""
    found = find_all(root)
    for family in _PREFERRED:
        ids = [f.id for f in found if f.ok and f.id.partition(":")[0] == family]
        if ids:
            return ids[:1]
    denied = [f"{f.id}: {f.reason} (cure: {f.fix})" for f in found if f.state == "denied"]
    raise EvidenceError(f"no energy source may be read: {'; '.join(denied)}." if denied else NOTHING)


def _meter(source: Source, root: Path, clock: Clock, period_s: float | None, hz: float) -> SampledMeter:
    """A sampled meter: its process opens the source itself."""
    source.close()
    return SampledMeter.of(source.info.id, root, source.info, clock, hz)


def _load_of(workload: Workload) -> liveness.Load:
    """The workload as the load of the liveness test; it looks also while it waits for a command."""

    def load(going: Callable[[], bool]) -> None:
        while going():
            workload.infer(1, going)

    return load


def _cross_check(rows: list[dict]) -> None:
    """An NVIDIA counter against its own instantaneous power: above 5 % both rows are flagged."""
    for row in rows:
        if not row["source"]["id"].endswith(":energy"):
            continue
        twin = row["source"]["id"].removesuffix("energy") + "power"
        for other in rows:
            if other["source"]["id"] == twin and other["workload"] == row["workload"]:
                a, b = results.figure(row, "total"), results.figure(other, "total")
                apart = abs(a.value - b.value) / max(abs(a.value), abs(b.value), 1e-30)
                if apart > 0.05:
                    for flagged in (row, other):
                        flagged["flags"].append(
                            f"counter and integrated power differ by {apart:.1%} (5 % is the limit)"
                        )
