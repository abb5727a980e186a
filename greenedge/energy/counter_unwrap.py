"""Counters that wrap, resolved from (last, now, elapsed, greatest power) or refused. Shared by every counter source."""

from __future__ import annotations

import math

from greenedge.energy.source import SourceFault, SourceInfo


class Unwrapper:
    """Adds up the steps of a counter with a range.

    A step is (now - last) mod range plus k ranges; it must be plausible (≤ greatest power · elapsed). No plausible k:
    the counter was reset or lies. More than one: ambiguous, refused. Without a range a step back is a reset.
    """

    def __init__(self, info: SourceInfo):
        self.info = info
        self.total = 0.0
        self._last: tuple[float, float] | None = None

    @property
    def guard_s(self) -> float | None:
        """The counter must be read at least this often: range / (4 · greatest power)."""
        return None if self.info.range_j is None else self.info.range_j / (4 * self.info.max_power_w)

    def add(self, t: float, raw: float) -> float:
        """Joules since the first reading. Raises SourceFault: implausible, reset, ambiguous_wrap."""
        info = self.info
        if not math.isfinite(raw) or raw < 0:
            raise SourceFault(info.id, "implausible", f"it reads {raw!r} J", "report the machine; the driver is broken")
        if self._last is not None:
            self.total += self._step(raw - self._last[1], t - self._last[0])
        self._last = (t, raw)
        return self.total

    def _step(self, step: float, elapsed: float) -> float:
        info = self.info
        # One update may be late by a period, so the energy of two periods may come in one step.
        most = info.max_power_w * (elapsed + 2 * (info.update_period_s or 0.0)) + 4 * (info.lsb_j or 0.0)
        if info.range_j is None:
            if step < 0:
                raise SourceFault(
                    info.id, "reset", f"it went back by {-step:.6g} J", "measure again; something reset it"
                )
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
                f"it went from one reading to the next by {step:.6g} J in {elapsed:.3g} "
                "s, "
                f"which neither {info.max_power_w:g} W nor a wrap at {info.range_j:.6g} J explains",
                "measure again; something reset it, or --max-power is too low",
            )
        if base + info.range_j <= most:
            raise SourceFault(
                info.id,
                "ambiguous_wrap",
                f"{elapsed:.3g} s passed between two readings, in which "
                f"{info.max_power_w:g} W could wrap it (range {info.range_j:.6g} J) more than once",
                f"read it every {info.range_j / (4 * info.max_power_w):.3g} s, or give the true --max-power",
            )
        return base


def adopt(source, **changes: object) -> None:
    """Gives an open source other properties (gain, greatest power); its unwrapper follows."""
    source.info = source.info.but(**changes)
    unwrap = getattr(source, "_unwrap", None)
    if isinstance(unwrap, Unwrapper):
        unwrap.info, source.guard_s = source.info, None
        source.guard_s = unwrap.guard_s
