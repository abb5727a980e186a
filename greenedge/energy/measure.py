"""From source names and workloads to a document: open, prove alive, measure, label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.errors import EvidenceError
from greenedge.energy import liveness, results
from greenedge.energy.clock import Clock, RealClock
from greenedge.energy.labels import require
from greenedge.energy.meters import CounterMeter, Meter, SampledMeter
from greenedge.energy.method import Method
from greenedge.energy.model import Source, SourceFault
from greenedge.energy.session import Progress, run_session
from greenedge.energy.sources import find_all, open_source
from greenedge.energy.sources.powercap import Powercap, mirrored
from greenedge.energy.workloads import Workload
from greenedge.energy.wrap import adopt

_PREFERRED = ("powercap", "perf", "nvml", "hwmon", "joulescope", "ppk2", "otii", "zeus")


@dataclass(frozen=True)
class Probed:
    """One source as `probe` shows it."""

    id: str
    scope: str
    covers: str
    live: liveness.Liveness
    evidence: str = "measured"


def probe(
    root: Path = Path("/"), clock: Clock | None = None, load: Callable | None = None, seconds: float = 2.0
) -> list[Probed]:
    """Every source and whether it is alive. `load(going)` must load what the sources cover; without it a source that
    counts is `unproven`."""
    clock, out = clock or RealClock(), []
    for found in find_all(root):
        if not found.ok:
            out.append(Probed(found.id, found.scope, found.covers, liveness.Liveness("dead", found.reason, found.fix)))
            continue
        try:
            source = open_source(found.id, root, clock)
        except SourceFault as fault:
            out.append(
                Probed(found.id, found.scope, found.covers, liveness.Liveness(fault.kind, fault.reason, fault.fix))
            )
            continue
        if source.info.kind == "stream":
            live = liveness.Liveness("unproven", "a stream is proved by the run itself", "greenedge energy measure")
        else:
            live = liveness.check(source, clock, load, seconds)
        source.close()
        out.append(Probed(found.id, found.scope, found.covers, live))
    return out


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
    ids = list(source_ids) or _choose(root)
    sources = [open_source(source_id, root, clock) for source_id in ids]
    for source in sources:
        adopt(
            source,
            **{
                key: value for key, value in (("gain_rel", gain_rel), ("max_power_w", max_power_w)) if value is not None
            },
        )
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
    """`measure` on sources that are open. `make_meter` replaces the sampling process (for virtual clocks)."""
    clock, method = clock or RealClock(), method or Method()
    if required:
        for source in sources:
            require(source.info.evidence, required, source.info.id, "choose a live source (greenedge energy probe).")
    alive, meters = [], []
    for source in sources:
        progress(f"proving {source.info.id} alive", 0, 1)
        if source.info.kind == "stream":
            alive.append(liveness.Liveness("alive", "a stream; its trace is checked for gaps"))
        else:
            alive.append(liveness.prove(source, clock, _load_of(workloads[0])))
        meters.append(make_meter(source) if make_meter else _meter(source, root, clock, alive[-1].period_s, sampler_hz))
    for meter in meters:
        meter.start()
    try:
        sessions = run_session(
            workloads, meters, method, clock, np.random.default_rng(seed), progress, root / "sys/class/thermal"
        )
        rows = [results.session_row(s, method, alive[meters.index(s.meter)], seed) for s in sessions]
    finally:
        for meter in meters:
            meter.stop()
    _cross_check(rows)
    return results.document(rows)


def _refuse_mirrors(sources: Sequence[Source]) -> None:
    """One counter shown as two dies counts twice. Raises SourceFault."""
    zones = [source for source in sources if isinstance(source, Powercap)]
    for one, other in mirrored(zones) if len(zones) > 1 else ():
        raise SourceFault(other, "implausible", f"it shows the same counter as {one}", "measure one of the two")


def _choose(root: Path) -> list[str]:
    """The first family with a source that can be opened. Raises EvidenceError with every reason."""
    found = find_all(root)
    for family in _PREFERRED:
        ids = [f.id for f in found if f.ok and f.id.partition(":")[0] == family]
        if ids:
            return ids[:1] if family != "nvml" else [i for i in ids if i.startswith("nvml:0:")]
    reasons = "\n".join(f"  {f.id}: {f.reason} (cure: {f.fix})." for f in found)
    raise EvidenceError(
        f"this machine has no energy source that can be read, so nothing can be measured here:\n{reasons}"
    )


def _meter(source: Source, root: Path, clock: Clock, period_s: float | None, hz: float) -> Meter:
    if source.info.kind == "counter":
        return CounterMeter(source, clock, period_s)
    source.close()
    return SampledMeter.of(source.info.id, root, source.info, clock, hz)


def _load_of(workload: Workload) -> Callable[[Callable[[], bool]], None]:
    """The workload as the load of the liveness test."""

    def load(going: Callable[[], bool]) -> None:
        while going():
            workload.infer(1, lambda: None)

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
