"""The liveness test of a source: only a source that follows a load may be called measured; that its file or event
exists proves nothing.

The source is read in turns of rest and load. The power of the turns is fitted with a constant, a drift and a step under
load; the step must be significant (t-test) and at least 1 % of the power under load. One turn of each is not enough: a
sensor that shows only noise would pass one time in eight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from greenedge.energy.clock import Clock
from greenedge.energy.source import Source, SourceFault, SourceInfo
from greenedge.energy.stats import t_quantile

TURNS = 3
_STALE_S = 1.0
_CERTAIN = 0.995
_FIX_EXTERNAL = "use another source or an external meter (greenedge energy probe lists them)"

# load(going) works until `going()` is false
Load = Callable[[Callable[[], bool]], None]
Turn = tuple[np.ndarray, np.ndarray]  # times in s and values of one turn, of the same length
# (load or None for rest, seconds) -> what was read meanwhile
Watch = Callable[[Load | None, float], Turn]


@dataclass(frozen=True)
class Liveness:
    """`state` is alive, dead, stale, implausible, denied, absent, mirrored or unproven (no load was given); `period_s`
    between updates; mean watts at rest and under load; `moves` where it counts but does not follow the load: so does a
    package that has nothing to do. Unknown is None."""

    state: str
    reason: str = ""
    fix: str = ""
    period_s: float | None = None
    idle_w: float | None = None
    load_w: float | None = None
    moves: bool = False

    @property
    def ok(self) -> bool:
        return self.state == "alive"


def check(source: Source, clock: Clock, load: Load | None, seconds: float = 1.0, poll_s: float = 0.001) -> Liveness:
    """Rest and load in turns of `seconds` (longer for a slow counter), read every `poll_s`. Does not raise SourceFault:
    a fault of the source becomes the state."""
    return check_with(lambda work, for_s: _watch(source, clock, work, for_s, poll_s), source.info, load, seconds)


def prove(source: Source, clock: Clock, load: Load, seconds: float = 1.0) -> Liveness:
    """`check`, which must find the source alive. Raises SourceFault."""
    return require_alive(check(source, clock, load, seconds), source.info)


def require_alive(found: Liveness, info: SourceInfo) -> Liveness:
    """`found`, or SourceFault with its reason where it is not alive."""
    if not found.ok:
        raise SourceFault(info.id, found.state, found.reason, found.fix)
    return found


def check_with(watch: Watch, info: SourceInfo, load: Load | None, seconds: float) -> Liveness:
    """`check` through `watch`: of a source, or of a recorder that another process feeds."""
    try:
        turns = [watch(load if k % 2 else None, seconds) for k in range(2 * TURNS + 1 if load else 1)]
    except SourceFault as fault:
        state = {"denied": "denied", "absent": "absent", "dead": "dead"}.get(fault.kind, "implausible")
        return Liveness(state, fault.reason, fault.fix)
    period = _period(turns)
    if info.kind == "counter" and period is not None and 5 * period > seconds * 1.01 and period <= _STALE_S:
        return check_with(watch, info, load, 5 * period)
    return _judge(info, turns, [_power(info, t, values) for t, values in turns], period)


def _watch(source: Source, clock: Clock, load: Load | None, seconds: float, poll_s: float) -> Turn:
    """Reads for `seconds`; under load, between pieces of the work."""
    end = clock.now() + seconds
    rows: list[tuple[float, float]] = []

    def look() -> bool:
        reading = source.read()
        rows.append((reading.t, reading.value))
        return clock.now() < end

    look()
    if load:
        load(look)
    while look():
        clock.sleep(poll_s)
    t, values = np.array(rows).T
    return t, values


def _power(info: SourceInfo, t: np.ndarray, values: np.ndarray) -> float:
    """Mean watts; of a counter between its first and last change, so that a slow one is not misjudged."""
    if info.kind != "counter":
        return float(np.mean(values))
    ticks = np.flatnonzero(np.diff(values) != 0) + 1
    if len(ticks) < 2:
        return float((values[-1] - values[0]) / (t[-1] - t[0]))
    return float((values[ticks[-1]] - values[ticks[0]]) / (t[ticks[-1]] - t[ticks[0]]))


def _judge(info: SourceInfo, turns: list[Turn], watts: list[float], period: float | None) -> Liveness:
    values = np.concatenate([values for _, values in turns])
    if np.all(values == values[0]):
        # A counter is read relative to its opening, so a dead 0 and a frozen value look alike here.
        zero = values[0] == 0 and info.kind != "counter"
        what = "reads 0 all the time" if zero else "is frozen: it does not move"
        seconds = turns[-1][0][-1] - turns[0][0][0]
        return Liveness("dead", f"it {what}, watched for {seconds:.1f} s", _FIX_EXTERNAL, None, watts[0], None)
    if max(watts) > info.max_power_w or min(watts) < 0:
        said = f"it says {max(watts):.6g} W, {info.max_power_w:g} W is the most"
        return Liveness("implausible", said, _FIX_EXTERNAL, period, watts[0], None)
    if info.kind == "counter" and period is not None and period > _STALE_S:
        fix = "use a source that is updated every second or faster"
        return Liveness("stale", f"it is updated every {period:.2f} s", fix, period, watts[0], None)
    if len(watts) == 1:
        fix = "greenedge energy probe -- COMMAND that loads it"
        return Liveness("unproven", "no load was given, so it cannot be seen to move with one", fix, period, watts[0])
    rest, load = float(np.mean(watts[::2])), float(np.mean(watts[1::2]))
    step, certain = _step(np.array(watts))
    if not certain or step < 0.01 * abs(load):
        spread = max(watts[::2]) - min(watts[::2])
        said = f"it does not follow the load: {rest:.3g} W at rest (within {spread:.2g} W), {load:.3g} W under load"
        fix = "load what it covers (light work: a heavier --batch first), or " + _FIX_EXTERNAL
        return Liveness("dead", said, fix, period, rest, load, moves=True)
    return Liveness("alive", "", "", period, rest, load)


def _step(watts: np.ndarray) -> tuple[float, bool]:
    """(step under load in watts, whether it is significant), with a linear drift over all turns removed."""
    k = np.arange(len(watts))
    design = np.stack([np.ones(len(watts)), k - k.mean(), k % 2], axis=1)
    fit, *_ = np.linalg.lstsq(design, watts, rcond=None)
    dof = len(watts) - design.shape[1]
    variance = float(np.sum((watts - design @ fit) ** 2)) / dof
    error = (variance * np.linalg.inv(design.T @ design)[2, 2]) ** 0.5
    return float(fit[2]), bool(fit[2] > t_quantile(_CERTAIN, dof) * error)


def _period(turns: list[Turn]) -> float | None:
    """Median seconds between changes of the value, at rest where there are enough; None with fewer than three
    changes."""
    gaps: list[float] = []
    for t, values in turns[::2]:
        gaps.extend(np.diff(_ticks(t, values)))
    if len(gaps) < 2:
        gaps = list(np.diff(_ticks(*(np.concatenate(part) for part in zip(*turns, strict=True)))))
    return float(np.median(gaps)) if len(gaps) >= 2 else None


def _ticks(t: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Times of the changes, half-way between samples."""
    changes = np.flatnonzero(np.diff(values) != 0)
    return (t[changes] + t[changes + 1]) / 2
