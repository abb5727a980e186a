"""Energy counters that wrap: each step is resolved from (last, now, elapsed time, greatest power) or refused."""

from __future__ import annotations

import math

from greenedge.energy.source import SourceFault, SourceInfo

# Update periods by which a step may be older or newer than its reading: an update that is late by a period brings the
# energy of two periods in one step.
_SLACK_PERIODS = 2
# Least significant steps that the rounding of two readings, in the counter and in the driver, may add.
_SLACK_LSB = 4


class Unwrapper:
    """Adds up the steps of a counter with a range.

    A step is (now - last) mod range plus k ranges; it is plausible up to `greatest_step`. No plausible k: the counter
    was reset or is broken. More than one: ambiguous, refused. Without a range a step back is a reset.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._last: tuple[float, float] | None = None

    def add(self, info: SourceInfo, t: float, raw: float) -> float:
        """Joules since the first reading, from the counter's value `raw` in J at time `t` in s.

        Raises SourceFault: implausible, reset, ambiguous_wrap.
        """
        if not math.isfinite(raw) or raw < 0:
            raise SourceFault(
                info.id, "implausible", f"it reads {float(raw)!r} J", "report the machine; the driver is broken"
            )
        if self._last is not None:
            self.total += _step(info, raw - self._last[1], t - self._last[0])
        self._last = (t, raw)
        return self.total


def greatest_step(info: SourceInfo, elapsed_s: float) -> float:
    """The most joules by which a counter can rise between two readings `elapsed_s` apart."""
    slack_s = _SLACK_PERIODS * (info.update_period_s or 0.0)
    return info.max_power_w * (elapsed_s + slack_s) + _SLACK_LSB * (info.lsb_j or 0.0)


def _step(info: SourceInfo, step: float, elapsed: float) -> float:
    """The joules of one step whose raw difference is `step`, after `elapsed` s. Raises SourceFault."""
    most = greatest_step(info, elapsed)
    if info.range_j is None:
        if step < 0:
            raise SourceFault(info.id, "reset", f"it went back by {-step:.6g} J", "measure again; something reset it")
        if step > most:
            raise SourceFault(
                info.id,
                "implausible",
                f"it rose by {step:.6g} J in {elapsed:.3g} s, more than {info.max_power_w:g} W can",
                "report the machine, or raise --max-power if it can",
            )
        return step
    base = step % info.range_j
    if base > most:
        kind = "reset" if step < 0 else "implausible"
        raise SourceFault(
            info.id,
            kind,
            f"it went from one reading to the next by {step:.6g} J in {elapsed:.3g} s, "
            f"which neither {info.max_power_w:g} W nor a wrap at {info.range_j:.6g} J explains",
            "measure again; something reset it, or --max-power is too low",
        )
    if base + info.range_j <= most:
        raise SourceFault(
            info.id,
            "ambiguous_wrap",
            f"{elapsed:.3g} s passed between two readings, in which "
            f"{info.max_power_w:g} W could wrap it (range {info.range_j:.6g} J) more than once",
            f"read it every {info.guard_s:.3g} s, or give the true --max-power",
        )
    return base
