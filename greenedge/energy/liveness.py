"""A source must prove that it is alive before a number may be called measured: that a file or event exists proves
nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from greenedge.energy.clock import Clock
from greenedge.energy.model import Source, SourceFault

_STALE_S = 1.0
_FIX_EXTERNAL = "use another source or an external meter (greenedge energy probe lists them)"


@dataclass(frozen=True)
class Liveness:
    """`state` is alive, dead, stale, implausible, denied or unproven (no load was given); watts at rest and under
    load."""

    state: str
    reason: str = ""
    fix: str = ""
    period_s: float | None = None
    idle_w: float | None = None
    load_w: float | None = None

    @property
    def ok(self) -> bool:
        return self.state == "alive"


def check(
    source: Source,
    clock: Clock,
    load: Callable[[Callable[[], bool]], None] | None,
    seconds: float = 2.0,
    poll_s: float = 0.001,
) -> Liveness:
    """Rest, load, rest; `load(going)` works until `going()` is false. Never raises for a fault of the source."""
    try:
        rests, phases = [], []
        for part in ("rest", "load", "rest") if load else ("rest",):
            t, values = _watch(source, clock, load if part == "load" else None, seconds, poll_s)
            phases.append((t, values))
            rests.append(_power(source, t, values))
        return _judge(source, phases, rests)
    except SourceFault as fault:
        state = {"denied": "denied", "absent": "dead", "dead": "dead"}.get(fault.kind, "implausible")
        return Liveness(state, fault.reason, fault.fix)


def prove(source: Source, clock: Clock, load: Callable[[Callable[[], bool]], None], seconds: float = 2.0) -> Liveness:
    """The proof, or SourceFault with the reason."""
    found = check(source, clock, load, seconds)
    if not found.ok:
        raise SourceFault(source.info.id, found.state, found.reason, found.fix)
    return found


def _watch(source: Source, clock: Clock, load, seconds: float, poll_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Times and values read for so long; under load it is read between pieces of the work."""
    end, rows = clock.now() + seconds, []

    def look() -> bool:
        reading = source.read()
        rows.append((reading.t, reading.value))
        return clock.now() < end

    if load:
        load(look)
    while look():
        clock.sleep(poll_s)
    t, values = np.array(rows).T
    return t, values


def _power(source: Source, t: np.ndarray, values: np.ndarray) -> float:
    """Mean watts: of a counter from its first to its last change, so that a slow one is not misjudged."""
    if source.info.kind != "counter":
        return float(np.mean(values))
    ticks = np.flatnonzero(np.diff(values) != 0) + 1
    if len(ticks) < 2:
        return float((values[-1] - values[0]) / (t[-1] - t[0]))
    return float((values[ticks[-1]] - values[ticks[0]]) / (t[ticks[-1]] - t[ticks[0]]))


def _judge(source: Source, phases, watts: list[float]) -> Liveness:
    info, period = source.info, _period(phases)
    values = np.concatenate([values for _, values in phases])
    seconds = phases[-1][0][-1] - phases[0][0][0]
    if np.all(values == values[0]):
        # A counter is told from its opening on, so a dead 0 and a frozen value look alike here.
        state, what = (
            "dead",
            "reads 0 all the time" if values[0] == 0 and info.kind == "power" else "is frozen: it does not move",
        )
        return Liveness(state, f"it {what}, watched for {seconds:.1f} s", _FIX_EXTERNAL, None, watts[0], None)
    if max(watts) > info.max_power_w or min(watts) < 0:
        return Liveness(
            "implausible",
            f"it says {max(watts):.6g} W, {info.max_power_w:g} W is the most",
            _FIX_EXTERNAL,
            period,
            watts[0],
            None,
        )
    if info.kind == "counter" and period is not None and period > _STALE_S:
        return Liveness(
            "stale",
            f"it is updated every {period:.2f} s",
            "use a source that is updated every second or faster",
            period,
            watts[0],
            None,
        )
    if len(watts) == 1:
        return Liveness(
            "unproven",
            "no load was given, so it cannot be seen to move with one",
            "greenedge energy probe -- COMMAND that loads it",
            period,
            watts[0],
            None,
        )
    rest, load, after = watts
    # The step must stand out of what the rests differ by, and of 1 % of the load.
    if load - (rest + after) / 2 <= max(2 * abs(rest - after), 0.01 * abs(load)):
        return Liveness(
            "dead",
            f"it does not follow the load: {rest:.3g} W at rest, {load:.3g} W under load, {after:.3g} W after",
            "load what it covers, or " + _FIX_EXTERNAL,
            period,
            rest,
            load,
        )
    return Liveness("alive", "", "", period, (rest + after) / 2, load)


def _period(phases) -> float | None:
    """Median time between changes of the value; None where it changed less than three times."""
    gaps = []
    for t, values in phases:
        changes = np.flatnonzero(np.diff(values) != 0)
        ticks = (t[changes] + t[changes + 1]) / 2
        gaps.extend(np.diff(ticks))
    return float(np.median(gaps)) if len(gaps) >= 2 else None
