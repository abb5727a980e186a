"""One session from those of several meters that ran at once: packages, GPUs or boards whose joules are added."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from greenedge.energy.evidence import worst
from greenedge.energy.liveness import Liveness
from greenedge.energy.method import Method, Window
from greenedge.energy.session import Repetition, Session, find_flags
from greenedge.energy.source import SourceInfo, Trace
from greenedge.errors import GreenedgeError


def check_sum(infos: Sequence[SourceInfo]) -> None:
    """Raises GreenedgeError for sources that may not be added: of different scopes, one twice, one that holds
    another."""
    scopes = sorted({info.scope for info in infos})
    if len(scopes) > 1:
        names = ", ".join(f"{info.id} ({info.scope})" for info in infos)
        raise GreenedgeError(
            f"{names} are of scope {' and '.join(scopes)} and not summed: give each a --source of its own, without "
            "--sum and +."
        )
    for place, one in enumerate(infos):
        for other in (*infos[:place], *infos[place + 1 :]):
            if one.id == other.id:
                raise GreenedgeError(f"{one.id} stands twice in a sum; give it once.")
            if any(other.covers.startswith(name) for name in one.overlaps):
                raise GreenedgeError(
                    f"{one.id} ({one.covers}) holds {other.id} ({other.covers}), so their sum counts it twice; leave "
                    "one of them out."
                )


class SummedMeter:
    """The meters of a sum as one: what a row needs of it after the session."""

    def __init__(self, sessions: Sequence[Session]):
        self.meters = [session.meter for session in sessions]
        self.info = sum_infos([meter.info for meter in self.meters], [_mean_joules(session) for session in sessions])
        self.period_s = max(meter.period_s for meter in self.meters)

    def digest(self) -> str:
        """sha256 over the digests of the meters, in their order."""
        return hashlib.sha256("".join(meter.digest() for meter in self.meters).encode()).hexdigest()

    def trace(self) -> Trace | None:
        """The sum of the powers over the time that all have, at the samples of the first; None where one has none."""
        found = [meter.trace() for meter in self.meters]
        traces = [trace for trace in found if trace is not None]
        if len(traces) < len(found):
            return None
        begin, end = max(trace.t[0] for trace in traces), min(trace.t[-1] for trace in traces)
        t = traces[0].t[(traces[0].t >= begin) & (traces[0].t <= end)]
        if len(t) < 2:
            return None
        return Trace(t, np.sum([np.interp(t, trace.t, trace.watts) for trace in traces], axis=0))


def sum_infos(infos: Sequence[SourceInfo], joules: Sequence[float]) -> SourceInfo:
    """What a sum is: its gains count by the joules of each part, as if all were off the same way."""
    gains = [info.gain_rel for info in infos if info.gain_rel is not None]
    total = sum(joules)
    known = len(gains) == len(infos) and total > 0
    offsets = [info.offset_w for info in infos if info.offset_w is not None]
    hosts = {info.host_included for info in infos}
    covers = " + ".join(info.covers for info in infos)
    return replace(
        infos[0],
        id="+".join(info.id for info in infos),
        covers=covers,
        evidence=worst(["derived", *(info.evidence for info in infos)]),
        gain_rel=sum(g * j for g, j in zip(gains, joules, strict=True)) / total if known else None,
        offset_w=sum(offsets) if offsets else None,
        overlaps=tuple(dict.fromkeys(name for info in infos for name in info.overlaps)),
        host_included=hosts.pop() if len(hosts) == 1 else None,
        notes=(*dict.fromkeys(note for info in infos for note in info.notes), f"the sum of {len(infos)} sources"),
    )


def sum_sessions(sessions: Sequence[Session], method: Method) -> Session:
    """A session whose every repetition is the sum of one of each; its interval is over those sums, so that what the
    parts have in common is in it."""
    first = sessions[0]
    reps = [_sum_reps(reps) for reps in zip(*(session.reps for session in sessions), strict=True)]
    flags = dict.fromkeys(flag for session in sessions for flag in session.flags if "warm-up" in flag)
    summed = replace(first, meter=SummedMeter(sessions), reps=reps, flags=list(flags))
    summed.flags += find_flags(summed, method)
    return summed


def sum_liveness(found: Sequence[Liveness]) -> Liveness:
    """Alive, with the watts of all."""

    def add(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    periods = [live.period_s for live in found if live.period_s is not None]
    idle, load = add([live.idle_w for live in found]), add([live.load_w for live in found])
    return Liveness("alive", "", "", max(periods, default=None), idle, load)


def describe_parts(sessions: Sequence[Session], key: str) -> list[dict]:
    """The mean joules per inference of each part under `key`."""
    return [
        {"source": s.meter.info.id, "covers": s.meter.info.covers, key: float(np.mean([r.total_j for r in s.reps]))}
        for s in sessions
    ]


def _mean_joules(session: Session) -> float:
    return float(np.mean([rep.total_j for rep in session.reps]))


def _sum_reps(reps: Sequence[Repetition]) -> Repetition:
    """The sum on the window of the first: the boundaries of counters differ by a tick, joules per inference do not."""
    first = reps[0].window
    paused = first.seconds - first.active_s
    joules = sum(rep.total_j * first.count + rep.idle_w * paused for rep in reps)
    u = float(np.sqrt(sum(rep.window.boundary_u**2 for rep in reps)))
    return replace(
        reps[0],
        before=_sum_windows([rep.before for rep in reps]),
        window=replace(first, joules=float(joules), boundary_u=u),
        after=_sum_windows([rep.after for rep in reps]),
    )


def _sum_windows(parts: Sequence[Window]) -> Window:
    watts = sum(part.watts for part in parts)
    u = float(np.sqrt(sum(part.boundary_u**2 for part in parts)))
    return replace(parts[0], joules=watts * parts[0].seconds, boundary_u=u)
