"""Opens the sources of the figures that are wanted and proves them alive; what is not gives way to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from greenedge.energy import liveness
from greenedge.energy.clock import Clock
from greenedge.energy.coverage import Group, Wanted, choose, choose_cpu, find_missing
from greenedge.energy.evidence import require
from greenedge.energy.meters import CounterMeter, Meter, SampledMeter
from greenedge.energy.source import Source, SourceFault
from greenedge.energy.sources import open_source
from greenedge.energy.sources.powercap import Powercap, find_mirrors
from greenedge.energy.summed import check_sum
from greenedge.progress import ProgressFn, no_progress

MakeMeter = Callable[[Source], CounterMeter | SampledMeter]


@dataclass(frozen=True)
class Plan:
    """The figures to measure, each with its alternatives, and those to take where none of them is alive. `open_group`
    opens the sources of one; where `strict` every figure must be had."""

    wanted: tuple[Wanted, ...]
    others: tuple[Wanted, ...]
    open_group: Callable[[Group], list[Source]]
    strict: bool = True


@dataclass(frozen=True)
class How:
    """Where and how sources are opened: below `root`, sampled `hz` times a second; `required` evidence; `make_meter`
    replaces the sampling process (for virtual clocks)."""

    root: Path
    clock: Clock
    required: str | None = None
    progress: ProgressFn = no_progress
    hz: float = 10.0
    make_meter: MakeMeter | None = None


@dataclass(frozen=True)
class Proved:
    """The started meters of a group and what the proof of life of each said."""

    group: Group
    meters: tuple[Meter, ...]
    live: tuple[liveness.Liveness, ...]


def make_plan(
    source_ids: Sequence[str],
    root: Path,
    clock: Clock,
    gain_rel: float | None = None,
    max_power_w: float | None = None,
) -> Plan:
    """The plan for these ids (joined with + they are one figure), or for the work of this machine without any. Raises
    SourceFault, EvidenceError; GreenedgeError for what may not be summed."""

    open_group = _opener(root, clock, gain_rel, max_power_w)
    if not source_ids:
        wanted, others = choose(root, clock)
        twins = tuple(twin for one in wanted for twin in (one, *_twin_of(one)))
        return Plan(twins, tuple(others), open_group, strict=False)
    groups = [Group(tuple(source_id.split("+"))) for source_id in _with_twins(source_ids)]
    opened: list[Source] = []
    try:
        for group in groups:
            sources = open_group(group)
            opened += sources
            check_sum([source.info for source in sources])
        _refuse_mirrors(opened)
    finally:
        for source in opened:
            source.close()
    missing = find_missing([one for group in groups for one in group.ids], root, clock)
    return Plan(tuple(Wanted(g.id, (Group(g.ids, _flags_of(g, missing)),)) for g in groups), (), open_group)


def make_cpu_plan(root: Path, clock: Clock) -> Plan | None:
    """The plan for the processor alone, all its packages; None where nothing of it can be opened."""
    wanted = choose_cpu(root, clock)
    return Plan((wanted,), (), _opener(root, clock), strict=False) if wanted else None


def _opener(
    root: Path, clock: Clock, gain_rel: float | None = None, max_power_w: float | None = None
) -> Callable[[Group], list[Source]]:
    def open_group(group: Group) -> list[Source]:
        sources = [open_source(source_id, root, clock) for source_id in group.ids]
        for source in sources:
            source.info = source.info.with_properties(gain_rel, max_power_w)
        return sources

    return open_group


def prove_plan(plan: Plan, how: How, load: liveness.Load, opened: ExitStack) -> tuple[list[Proved], list[str]]:
    """(a live group for each figure, what was not alive). Raises the first SourceFault where a strict plan lacks one,
    or nothing is alive."""
    proved: list[Proved] = []
    faults: list[SourceFault] = []
    left: list[str] = []
    for wanted in (plan.wanted, plan.others):
        for one in wanted:
            done, said = _prove_first(one, plan, how, load, opened)
            proved += [done] if done else []
            faults += said
            left += [f"{fault.source} gave way: {fault.reason}" for fault in said if done]
            left += [f"no figure of the {one.what}: {said[0].source}: {said[0].reason}"] if said and not done else []
        if proved:
            return proved, list(dict.fromkeys(left))
    raise faults[0]


def _prove_first(
    wanted: Wanted, plan: Plan, how: How, load: liveness.Load, opened: ExitStack
) -> tuple[Proved | None, list[SourceFault]]:
    """(the first group that is alive, the faults of those before it). A group of which a part is dead comes again at
    the end, without that part and with a flag. Raises the fault in a strict plan."""
    faults: list[SourceFault] = []
    waiting = list(wanted.groups)
    for number, group in enumerate(waiting):  # which grows
        with ExitStack() as attempt:
            try:
                proved, dead = _prove_group(group, plan.open_group(group), how, load, attempt)
            except SourceFault as fault:
                if plan.strict:
                    raise
                faults.append(fault)
                continue
            if dead and plan.strict:
                raise dead[0]
            faults += dead
            if proved is None:
                continue
            if dead and number < len(wanted.groups):
                ids = tuple(meter.info.id for meter in proved.meters)
                said = f"{len(ids)} of {len(group.ids)}: {'; '.join(f'{d.source}: {d.reason}' for d in dead)}"
                waiting.append(Group(ids, (*group.flags, said)))
                continue
            opened.push(attempt.pop_all())
            return proved, faults
    return None, faults


def _prove_group(
    group: Group, sources: list[Source], how: How, load: liveness.Load, opened: ExitStack
) -> tuple[Proved | None, list[SourceFault]]:
    """(what of the group is alive, None where nothing is; the faults of the rest). Beside a live part of a sum another
    need only count: the second socket may have nothing to do. Raises GreenedgeError for what may not be summed."""
    if len(sources) > 1:
        check_sum([source.info for source in sources])
    meters: list[Meter] = []
    live: list[liveness.Liveness] = []
    dead: list[SourceFault] = []
    for source in sources:
        if how.required:
            require(
                source.info.evidence, how.required, source.info.id, "choose a live source (greenedge energy probe)."
            )
        how.progress(0, 1, f"proving {source.info.id} alive")
        meter, found = _prove_alive(source, how, load, opened)
        if found.ok or (found.moves and len(sources) > 1):
            meters.append(meter)
            live.append(found)
        else:
            dead.append(SourceFault(source.info.id, found.state, found.reason, found.fix))
    if not any(found.ok for found in live):
        still = [
            SourceFault(m.info.id, found.state, found.reason, found.fix) for m, found in zip(meters, live, strict=True)
        ]
        return None, dead + still
    return Proved(group, tuple(meters), tuple(live)), dead


def _prove_alive(source: Source, how: How, load: liveness.Load, opened: ExitStack) -> tuple[Meter, liveness.Liveness]:
    """A started meter and whether its source has just followed the load; `opened` closes it. Raises SourceFault."""
    if source.info.kind == "counter":
        opened.callback(source.close)
        live = liveness.check(source, how.clock, load)
        counter = how.make_meter(source) if how.make_meter else CounterMeter(source, how.clock, live.period_s)
        if live.ok or live.moves:
            counter.start()
        return counter, live
    # Tested as it will be measured: by the sampling process, which reads while the load blocks this one.
    meter = how.make_meter(source) if how.make_meter else make_sampled_meter(source, how.root, how.clock, how.hz)
    assert isinstance(meter, SampledMeter), "a power source needs a sampled meter"
    meter.start()
    opened.callback(meter.stop)
    return meter, meter.check_liveness(load)


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
        parts = one.split("+")
        if all(part.startswith("nvml:") and not part.endswith(":power") for part in parts):
            wanted.append("+".join(":".join([*part.split(":")[:2], "power"]) for part in parts))
    return list(dict.fromkeys(wanted))


def _twin_of(wanted: Wanted) -> list[Wanted]:
    """The instantaneous power beside the counters of NVIDIA GPUs."""
    ids = wanted.groups[0].ids
    if not all(one.startswith("nvml:") and one.endswith(":energy") for one in ids):
        return []
    twin = Group(tuple(one.removesuffix("energy") + "power" for one in ids), wanted.groups[0].flags)
    return [Wanted(f"{wanted.what}'s power", (twin,))]


def _flags_of(group: Group, missing: Sequence[str]) -> tuple[str, ...]:
    """What of the machine the group leaves out: of its own kind."""
    kinds = [kind for family, kind in (("powercap", "packages"), ("nvml", "GPUs")) if group.id.startswith(family)]
    return tuple(said for said in missing if any(f" {kind}:" in said for kind in kinds))


def make_sampled_meter(source: Source, root: Path, clock: Clock, hz: float) -> SampledMeter:
    """Closes the source; the meter's process opens it itself."""
    source.close()
    return SampledMeter.of(source.info.id, root, source.info, clock, hz)
