"""What a source says about itself, and what it hands over. Numbers carry their unit; unknown is None, never 0."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from greenedge.energy.evidence import EVIDENCE, SCOPES
from greenedge.errors import EvidenceError, GreenedgeError

KINDS = ("counter", "power", "stream", "model")


@dataclass(frozen=True)
class SourceInfo:
    """A source of energy figures.

    `covers` names what it includes; `overlaps` the covers that hold it or that it holds, so that both may not be
    summed. `update_period_s`, `lsb_j`, `gain_rel` (standard, relative) and `offset_w` are the maker's word, None where
    unsaid. `range_j` is where a counter wraps; `max_power_w` is above anything the thing can draw. `part_time` is the
    sensor's own sampling period where it looks at the load only part of the time: phase-locked loads alias with it.
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

    def but(self, **changes: object) -> SourceInfo:
        return replace(self, **changes)


class SourceFault(EvidenceError):
    """A source that gives no number; `kind` is denied, absent, dead, frozen, reset, implausible, ambiguous_wrap, gap
    …"""

    def __init__(self, source: str, kind: str, reason: str, fix: str):
        self.source, self.kind, self.reason, self.fix = source, kind, reason, fix
        super().__init__(f"{source}: {reason} (cure: {fix}).")


@dataclass(frozen=True)
class Reading:
    """A value with the bracket of its read: it was taken between t0 and t1 (s). Joules of a counter, watts of a
    power."""

    t0: float
    t1: float
    value: float

    @property
    def t(self) -> float:
        return (self.t0 + self.t1) / 2


class Source(Protocol):
    """Counters and power readers. `read` raises SourceFault; it never returns NaN, a negative step or a guess."""

    info: SourceInfo

    def read(self) -> Reading: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Probe:
    """What looking for sources turned up: an `id` to open, or why it cannot be opened (`state` in one word) and what to
    do."""

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
    """Power over time. `t` seconds (rising), `watts` of the same length; `markers` a logic level per sample, if any."""

    t: np.ndarray
    watts: np.ndarray
    markers: np.ndarray | None = None
    meta: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.t.shape != self.watts.shape or self.t.ndim != 1 or len(self.t) < 2:
            raise GreenedgeError(
                f"a trace has {self.t.shape} times and {self.watts.shape} powers; it takes at least "
                "two of "
                "both, the same number: record it again."
            )
        bad = ~(np.isfinite(self.t) & np.isfinite(self.watts))
        if np.any(bad):
            raise GreenedgeError(
                f"sample {int(np.argmax(bad))} of the trace is not a finite number; record it again "
                "or cut "
                "that part out."
            )
        if np.any(np.diff(self.t) <= 0):
            place = int(np.argmax(np.diff(self.t) <= 0)) + 1
            raise GreenedgeError(
                f"time does not rise at sample {place} of the trace ({self.t[place]!r} s after "
                f"{self.t[place - 1]!r} s); sort it, or record it again."
            )

    def digest(self) -> str:
        """sha256 over times and powers as little-endian doubles: the same trace, the same digest."""
        total = hashlib.sha256(np.ascontiguousarray(self.t, "<f8").tobytes())
        total.update(np.ascontiguousarray(self.watts, "<f8").tobytes())
        return total.hexdigest()


def integrate(trace: Trace, start: float, stop: float) -> tuple[float, float]:
    """(joules, standard uncertainty) of a trace between two times: trapezoid, edges interpolated.

    Between samples the power may have jumped anywhere, uniformly: variance Δt²·ΔP²/12 per gap (rectangular law, GUM
    4.3.7); a missing stretch of more than five median gaps raises SourceFault, as does a window not inside the trace.
    """
    if not trace.t[0] <= start < stop <= trace.t[-1]:
        raise SourceFault(
            "trace",
            "gap",
            f"the window {start:.3f}…{stop:.3f} s is not inside the trace {trace.t[0]:.3f}…{trace.t[-1]:.3f} s",
            "start recording before the run and stop after it",
        )
    inside = (trace.t > start) & (trace.t < stop)
    t = np.concatenate([[start], trace.t[inside], [stop]])
    edges = np.interp([start, stop], trace.t, trace.watts)
    watts = np.concatenate([edges[:1], trace.watts[inside], edges[1:]])
    gaps, steps = np.diff(t), np.diff(watts)
    usual = float(np.median(np.diff(trace.t)))
    if gaps.max() > 5 * usual:
        raise SourceFault(
            "trace",
            "gap",
            f"{gaps.max():.3f} s are missing at {t[int(np.argmax(gaps))]:.3f} s, the usual step is {usual:.4f} s",
            "record again with less load on the host",
        )
    joules = float(np.sum(gaps * (watts[1:] + watts[:-1]) / 2))
    return joules, float(np.sqrt(np.sum((gaps * steps) ** 2) / 12))
