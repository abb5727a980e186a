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
from greenedge.energy.coverage import Group, Wanted
from greenedge.energy.method import Method
from greenedge.energy.proving import How, MakeMeter, Plan, Proved, make_plan, make_sampled_meter, prove_plan
from greenedge.energy.session import Session, run_session
from greenedge.energy.source import Probe, Source, SourceFault
from greenedge.energy.sources import find_all, open_source
from greenedge.energy.sources.powercap import Powercap, find_mirrors
from greenedge.energy.sources.powercap import open_source as open_zone
from greenedge.energy.summed import describe_parts, sum_liveness, sum_sessions
from greenedge.energy.workloads import Workload
from greenedge.progress import ProgressFn, no_progress


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
    meter = make_sampled_meter(source, root, clock, 10.0)
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
    """A document with a row for each workload and figure. A source id is a figure; ids joined with + are summed.
    Without `source_ids`: all packages of the processor and all GPUs that the work may use, else what there is.

    Sampled sources are read `sampler_hz` times a second; `gain_rel` and `max_power_w` replace the sources' own. Raises
    SourceFault or EvidenceError (exit 3) where there is no evidence of the `required` class.
    """
    clock = clock or RealClock()
    plan = make_plan(source_ids, root, clock, gain_rel, max_power_w)
    return _measure_plan(workloads, plan, How(root, clock, required, progress, sampler_hz), method, seed)


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
    by_id = {source.info.id: source for source in sources}
    wanted = tuple(Wanted(one, (Group((one,)),)) for one in by_id)
    plan = Plan(wanted, (), lambda group: [by_id[one] for one in group.ids])
    how = How(root, clock or RealClock(), required, progress, sampler_hz, make_meter)
    return _measure_plan(workloads, plan, how, method, seed)


def _measure_plan(workloads: Sequence[Workload], plan: Plan, how: How, method: Method | None, seed: int) -> dict:
    method = method or Method()
    with ExitStack() as opened:
        for workload in workloads:
            # Registered before setup: a setup that fails half-way must be torn down too.
            opened.callback(workload.teardown)
            workload.setup()
        proved, left = prove_plan(plan, how, _load_of(workloads[0]), opened)
        meters = [meter for one in proved for meter in one.meters]
        rng = np.random.default_rng(seed)
        sessions = run_session(workloads, meters, method, how.clock, rng, how.progress, how.root / "sys")
        rows = [
            _row_of(one, [s for s in sessions if s.workload is workload and s.meter in one.meters], method, seed)
            for workload in workloads
            for one in proved
        ]
    for row in rows:
        row["flags"] += left
    _cross_check(rows)
    return results.document(rows, session=secrets.token_hex(8))


def _row_of(proved: Proved, sessions: Sequence[Session], method: Method, seed: int) -> dict:
    """The row of a group: of its one meter, or of the sum."""
    flags = list(proved.group.flags)
    if len(sessions) == 1:
        row = results.session_row(sessions[0], method, proved.live[0], seed)
    else:
        row = results.session_row(sum_sessions(sessions, method), method, sum_liveness(proved.live), seed)
        row["parts"] = describe_parts(sessions, results.key_for("energy", "j", row["evidence"]))
        idle = [m.info.id for m, live in zip(proved.meters, proved.live, strict=True) if not live.ok]
        flags += [f"{one} counts but did not follow the load: it may have had none of it" for one in idle]
    row["flags"] += flags
    return row


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
        twin = row["source"]["id"].replace(":energy", ":power")
        for other in rows:
            if other["source"]["id"] == twin and other["workload"] == row["workload"]:
                a, b = results.require_figure(row, "total"), results.require_figure(other, "total")
                difference = abs(a.value - b.value) / max(abs(a.value), abs(b.value), 1e-30)
                if difference > 0.05:
                    for flagged in (row, other):
                        flagged["flags"].append(
                            f"counter and integrated power differ by {difference:.1%} (5 % is the limit)"
                        )
