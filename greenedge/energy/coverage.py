"""Which sources cover a piece of work: all packages of the processor and all GPUs that it may use; else what there
is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from greenedge.energy.clock import Clock
from greenedge.energy.source import Probe, SourceFault
from greenedge.energy.sources import find_all, load
from greenedge.energy.sources.powercap import Powercap, find_mirrors
from greenedge.energy.sources.powercap import open_source as open_zone
from greenedge.errors import EvidenceError

NOTHING = (
    "this machine has no energy source that can be read, so nothing can be measured here: plug in a meter "
    "(`greenedge energy probe` says what each source lacks), or ask for an estimate with --source estimate."
)
_OTHERS = ("hwmon", "joulescope", "ppk2", "otii", "zeus", "powercap", "perf")


@dataclass(frozen=True)
class Group:
    """Sources whose joules are added to one figure; `flags` say what of the machine is not in it."""

    ids: tuple[str, ...]
    flags: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return "+".join(self.ids)


@dataclass(frozen=True)
class Wanted:
    """A figure: the first of the groups that is alive. `what` it is of, for the sentence where none is."""

    what: str
    groups: tuple[Group, ...]


def choose(root: Path, clock: Clock) -> tuple[list[Wanted], list[Wanted]]:
    """(figures of the processor and of the GPUs, each with its alternatives; figures to take where none of those is
    alive). Raises EvidenceError where no source can be opened."""
    found = find_all(root)
    cpu, gpu = _cpu_groups(found, root, clock), _gpu_groups(found)
    chosen = [Wanted(what, tuple(groups)) for what, groups in (("CPU", cpu), ("GPU", gpu)) if groups]
    used = {one for wanted in chosen for group in wanted.groups for one in group.ids}
    rest = [f.id for family in _OTHERS for f in found if f.ok and _family(f.id) == family and f.id not in used]
    others = [Wanted("machine", tuple(Group((one,)) for one in rest))] if rest else []
    if not chosen and not others:
        denied = [f"{f.id}: {f.reason} (cure: {f.fix})" for f in found if f.state == "denied"]
        raise EvidenceError(f"no energy source may be read: {'; '.join(denied)}." if denied else NOTHING)
    return chosen, others


def choose_cpu(root: Path, clock: Clock) -> Wanted | None:
    """The figure of the processor with its alternatives; None where nothing of it can be opened."""
    groups = _cpu_groups(find_all(root), root, clock)
    return Wanted("CPU", tuple(groups)) if groups else None


def find_missing(ids: Sequence[str], root: Path, clock: Clock) -> list[str]:
    """What a choice of sources leaves out of the machine: "1 of 2 packages: …", "1 of 2 GPUs: …"."""
    said = []
    families = {_family(one) for one in ids}
    if "powercap" in families:
        packages = _packages(load("powercap").find(root), root, clock)
        own = [one for one in ids if one in {p.id for p in packages}]
        said += _partial(own, [p.id for p in packages], "packages") if own else []
    if "nvml" in families:
        gpus, _ = _visible(load("nvml").find(root))
        used = sorted({_gpu(one) for one in ids if _family(one) == "nvml"} & set(gpus))
        said += _partial([f"nvml:{k}" for k in used], [f"nvml:{k}" for k in gpus], "GPUs") if used else []
    return said


def _partial(own: Sequence[str], every: Sequence[str], what: str) -> list[str]:
    left = [one for one in every if one not in own]
    return [f"{len(own)} of {len(every)} {what}: {', '.join(left)} not in it"] if left else []


def _cpu_groups(found: Iterable[Probe], root: Path, clock: Clock) -> list[Group]:
    """What can measure the processor; those with all packages first."""
    found = list(found)
    packages = _packages(found, root, clock)
    readable = [p for p in packages if p.ok]
    whole: list[Group] = []
    part: list[Group] = []
    if readable:
        left = [f"{p.id}: {p.reason}" for p in packages if not p.ok]
        flags = (f"{len(readable)} of {len(packages)} packages: {'; '.join(left)}",) if left else ()
        (part if left else whole).append(Group(tuple(p.id for p in readable), flags))
    whole += [Group((f.id,)) for f in found if f.ok and f.id == "perf:energy-pkg"]  # all packages of the machine
    sockets = [f.id for f in found if f.ok and _family(f.id) == "hwmon" and f.covers.startswith("cpu package")]
    whole += [Group(tuple(sockets))] if sockets else []
    singles = [f.id for f in found if f.ok and f.covers in ("cpu and gpu package", "apple cpu")]
    if not packages:
        singles += [f.id for f in found if f.ok and _family(f.id) in ("powercap", "perf")]
    given = {one for group in (*whole, *part) for one in group.ids}
    return whole + part + [Group((one,)) for one in singles if one not in given]


def _packages(found: Iterable[Probe], root: Path, clock: Clock) -> list[Probe]:
    """The zones of packages, each counter once: neither its view through MMIO nor that of its second die."""
    zones = [f for f in found if _family(f.id) == "powercap" and _is_package(f, root)]
    plain = [f for f in zones if "mmio" not in f.id] or zones
    with ExitStack() as opened:
        readers: list[Powercap] = []
        for one in plain:
            try:
                readers.append(open_zone(one.id, root, clock))
                opened.callback(readers[-1].close)
            except SourceFault:
                continue
        try:
            twins = {second for _, second in find_mirrors(readers)} if len(readers) > 1 else set()
        except SourceFault:
            twins = set()
    return [one for one in plain if one.id not in twins]


def _is_package(found: Probe, root: Path) -> bool:
    """By its name, also of a zone that may not be read."""
    try:
        name = (root / "sys/class/powercap" / found.id.partition(":")[2] / "name").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return found.covers.startswith("cpu package")
    return name.startswith("package")


def _gpu_groups(found: Iterable[Probe]) -> list[Group]:
    """What can measure the GPUs that the work may use: counters before powers, powers where one has no counter."""
    found = list(found)
    gpus, doubt = _visible(found)
    groups = []
    for kind in ("energy", "power"):
        ids = [f"nvml:{k}:{kind}" for k in gpus]
        state = {f.id: f for f in found}
        there = [one for one in ids if one in state and state[one].ok]
        left = [f"{one}: {state[one].reason}" for one in ids if one in state and not state[one].ok]
        flags = [doubt] if doubt else []
        flags += [f"{len(there)} of {len(ids)} GPUs: {'; '.join(left)}"] if left else []
        if there:
            groups.append(Group(tuple(there), tuple(flags)))
    groups.sort(key=lambda group: len(group.ids) < len(gpus))
    cards = [f.id for f in found if f.ok and _family(f.id) == "hwmon" and f.covers in ("gpu (amdgpu)", "gpu card")]
    groups += [Group(tuple(cards))] if cards else []
    others = [f.id for f in found if f.ok and _family(f.id) == "zeus" and f.covers.startswith("gpu")]
    return groups + ([Group(tuple(others))] if others else [])


def _visible(found: Iterable[Probe]) -> tuple[list[int], str]:
    """(the NVIDIA GPUs that CUDA programs see, what is uncertain about it)."""
    there = sorted({_gpu(f.id) for f in found if re.fullmatch(r"nvml:\d+:\w+", f.id)})
    if not there:
        return [], ""
    from greenedge.energy.sources.nvml import visible_gpus

    try:
        chosen, doubt = visible_gpus()
    except SourceFault:
        return there, ""
    return [k for k in chosen if k in there], doubt


def _gpu(source_id: str) -> int:
    number = source_id.split(":")[1] if ":" in source_id else ""
    return int(number) if number.isdigit() else -1


def _family(source_id: str) -> str:
    return source_id.partition(":")[0]
