"""Records and protocols of energy sources: properties, readings, traces. Names carry the unit; unknown is None, never
0."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from greenedge.energy.evidence import EVIDENCE, SCOPES
from greenedge.errors import EvidenceError, GreenedgeError

KINDS = ("counter", "power", "stream", "model")


@dataclass(frozen=True)
class SourceInfo:
    """A source of energy figures.

    `covers` names what it includes; `overlaps` the covers that contain it or that it contains, so that the two may not
    be summed. `update_period_s`, `lsb_j`, `gain_rel` (standard uncertainty, relative) and `offset_w` are taken from the
    maker's documents, None where they do not state it. `range_j` is where a counter wraps; `max_power_w` is above
    anything that it can draw. `part_time` is the sensor's sampling period in s where it averages over only part of the
    time: loads in phase with it alias.
    """

    id: str
    kind: str
    scope: str
    covers: str
    evidence: str = "measured"
    update_period_s: float | None = None
    lsb_j: float | None = None
    range_j: float | None = None
    max_power_w: float = 2000.0
    gain_rel: float | None = None
    offset_w: float | None = None
    overlaps: tuple[str, ...] = ()
    host_included: bool | None = None
    part_time: float | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.kind in KINDS and self.scope in SCOPES and self.evidence in EVIDENCE, self

    @property
    def guard_s(self) -> float | None:
        """Longest time between two reads after which a wrap is still certain: range / (4 · greatest power)."""
        return None if self.range_j is None else self.range_j / (4 * self.max_power_w)

    def with_properties(self, gain_rel: float | None = None, max_power_w: float | None = None) -> SourceInfo:
        """A copy with this gain uncertainty and greatest power; None keeps the value."""
        return replace(
            self,
            gain_rel=self.gain_rel if gain_rel is None else gain_rel,
            max_power_w=self.max_power_w if max_power_w is None else max_power_w,
        )


class SourceFault(EvidenceError):
    """A source without a usable number; `kind` is denied, absent, dead, frozen, reset, implausible, ambiguous_wrap or
    gap."""

    def __init__(self, source: str, kind: str, reason: str, fix: str):
        self.source, self.kind, self.reason, self.fix = source, kind, reason, fix
        super().__init__(f"{source}: {reason} (cure: {fix}).")


@dataclass(frozen=True)
class Reading:
    """A value read between the times t0 and t1 (s): joules of a counter, watts of a power sensor."""

    t0: float
    t1: float
    value: float

    @property
    def t(self) -> float:
        return (self.t0 + self.t1) / 2


class Source(Protocol):
    """Counters and power sensors. `read` raises SourceFault; it never returns NaN, a negative step or a guess."""

    info: SourceInfo

    def read(self) -> Reading: ...

    def close(self) -> None: ...


class StreamSource(Protocol):
    """Instruments that sample by themselves (`info.kind` "stream"): `poll` returns (times in s, watts) since its last
    call. `poll` raises SourceFault where the instrument stays silent."""

    info: SourceInfo

    def start(self) -> float: ...

    def poll(self) -> tuple[np.ndarray, np.ndarray]: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Probe:
    """One entry of a search for sources: an `id` that can be opened, or the reason why not (`state` in one word) and
    the cure (`fix`)."""

    id: str
    scope: str
    covers: str
    reason: str = ""
    fix: str = ""
    state: str = "absent"

    @property
    def ok(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class Trace:
    """Power over time. `t` seconds (rising), `watts` of the same length; `markers` a logic level per sample, if any.

    `meta` may hold `origin_s`, the moment in s since 1970 that is 0 in `t`, and gaps = "hold" where a value lasts until
    the next; `notes` say what is odd about the recording."""

    t: np.ndarray
    watts: np.ndarray
    markers: np.ndarray | None = None
    meta: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.t.shape != self.watts.shape or self.t.ndim != 1 or len(self.t) < 2:
            raise GreenedgeError(
                f"a trace has {self.t.shape} times and {self.watts.shape} powers; it takes at least "
                "two of both, the same number: record it again."
            )
        bad = ~(np.isfinite(self.t) & np.isfinite(self.watts))
        if np.any(bad):
            raise GreenedgeError(
                f"sample {int(np.argmax(bad))} of the trace is not a finite number; record it again "
                "or cut that part out."
            )
        if np.any(np.diff(self.t) <= 0):
            place = int(np.argmax(np.diff(self.t) <= 0)) + 1
            raise GreenedgeError(
                f"time does not rise at sample {place} of the trace ({float(self.t[place])!r} s after "
                f"{float(self.t[place - 1])!r} s); sort it, or record it again."
            )

    @cached_property
    def usual_step(self) -> float:
        """The median time between two samples in s."""
        return float(np.median(np.diff(self.t)))

    def digest(self) -> str:
        """sha256 over times and powers as little-endian doubles: the same trace, the same digest."""
        total = hashlib.sha256(np.ascontiguousarray(self.t, "<f8").tobytes())
        total.update(np.ascontiguousarray(self.watts, "<f8").tobytes())
        return total.hexdigest()


def integrate(trace: Trace, start: float, stop: float) -> tuple[float, float]:
    """(joules, standard uncertainty in J) of a trace between two times in s: trapezoid rule, ends interpolated.

    Between two samples the power may have changed at any moment, uniformly distributed: variance Δt²·ΔP²/12 per gap
    (rectangular distribution, GUM 4.3.7). Raises SourceFault for a gap of more than five median steps and for a window
    that is not inside the trace.
    """
    if not trace.t[0] <= start < stop <= trace.t[-1]:
        raise SourceFault(
            "trace",
            "gap",
            f"the window {start:.3f}…{stop:.3f} s is not inside the trace {trace.t[0]:.3f}…{trace.t[-1]:.3f} s",
            "start recording before the run and stop after it",
        )
    inside = slice(np.searchsorted(trace.t, start, "right"), np.searchsorted(trace.t, stop, "left"))
    t = np.concatenate([[start], trace.t[inside], [stop]])
    edges = np.interp([start, stop], trace.t, trace.watts)
    watts = np.concatenate([edges[:1], trace.watts[inside], edges[1:]])
    gaps, steps = np.diff(t), np.diff(watts)
    if gaps.max() > 5 * trace.usual_step and trace.meta.get("gaps") != "hold":
        raise SourceFault(
            "trace",
            "gap",
            f"{gaps.max():.3f} s are missing at {t[int(np.argmax(gaps))]:.3f} s, the usual step is "
            f"{trace.usual_step:.4f} s",
            "record again with less load on the host; --columns gaps=hold where it has lines for changes alone",
        )
    joules = float(np.sum(gaps * (watts[1:] + watts[:-1]) / 2))
    return joules, float(np.sqrt(np.sum((gaps * steps) ** 2) / 12))
