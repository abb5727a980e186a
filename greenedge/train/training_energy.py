"""The energy of a training run: read from a meter that is alive, else estimated from CPU time, and always labelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from greenedge.energy.carbon import carbon, intensity
from greenedge.energy.estimate import CPU_BAND
from greenedge.energy.evidence import Figure, figure_json
from greenedge.errors import EvidenceError, GreenedgeError
from greenedge.train.ledger import Ledger
from greenedge.train.recipe_config import LedgerSettings


def unmetered() -> float | None:
    """The reading where there is no meter."""
    return None


@dataclass(frozen=True)
class Power:
    """What tells the energy: `read` gives joules since it was opened, or None; `reason` says why there is no meter."""

    read: Callable[[], float | None] = unmetered
    source: str | None = None
    scope: str = "chip"
    covers: str = "cpu package share"
    evidence: str = "estimated"
    reason: str = ""


@contextmanager
def metered(settings: LedgerSettings, root: Path = Path("/"), clock=None) -> Iterator[Power]:
    """Yields the Power of [ledger]'s source, proved alive (six seconds), or one without a meter and the reason.

    Raises EvidenceError for a source that was asked for by name and gives nothing.
    """
    if settings.source == "none":
        yield Power(reason='[ledger] source is "none"')
        return
    try:
        meter = _alive(settings.source, root, clock)
    except EvidenceError as error:
        if settings.source != "auto":
            raise
        yield Power(reason=str(error).splitlines()[0])
        return
    meter.start()
    try:
        first = meter.now()
        info = meter.info
        yield Power(lambda: _joules(meter, first), info.id, info.scope, info.covers, info.evidence)
    finally:
        meter.stop()


def _joules(meter, first) -> float:
    now = meter.now()
    return meter.energy(first, now)[0] if now.t > first.t else 0.0


def _alive(source: str, root: Path, clock):
    """A meter on a source that has followed a load. Raises EvidenceError."""
    from greenedge.energy import liveness
    from greenedge.energy.clock import RealClock
    from greenedge.energy.meters import CounterMeter, SampledMeter
    from greenedge.energy.sources import find_all, open_source

    clock = clock or RealClock()
    if source == "auto":
        found = [
            entry.id for entry in find_all(root) if entry.ok and entry.id.partition(":")[0] in ("powercap", "perf")
        ]
        if not found:
            raise EvidenceError("no energy source of this machine's CPU can be read (greenedge energy probe says why)")
        source = found[0]
    opened = open_source(source, root, clock)
    live = liveness.prove(opened, clock, _load)
    if opened.info.kind == "counter":
        return CounterMeter(opened, clock, live.period_s)
    opened.close()
    return SampledMeter.of(source, root, opened.info, clock)


def _load(going: Callable[[], bool]) -> None:
    """Work that a CPU's meter must see."""
    import numpy as np

    a = np.ones((128, 128), np.float32)
    while going():
        a = np.tanh(a @ a)


def energy_of(ledger: Ledger, settings: LedgerSettings, power: Power) -> Figure:
    """The joules of a ledger: metered where every part of it was, else watts per core times CPU seconds."""
    if power.source is not None and ledger.joules is not None:
        return Figure(ledger.joules, "energy", "j", power.scope, power.evidence, covers=power.covers)
    joules = settings.watts_per_core * ledger.cpu_seconds
    return Figure(
        joules,
        "energy",
        "j",
        "chip",
        "estimated",
        joules * CPU_BAND[0],
        joules * CPU_BAND[1],
        covers="cpu package share",
    )


def bill(phases: dict[str, Ledger], settings: LedgerSettings, power: Power) -> dict:
    """What metrics.json says of the run: every phase and the total, with energy and, where a country is set, carbon."""
    total = sum(phases.values(), Ledger())
    energy = energy_of(total, settings, power)
    found = {
        "phases": {name: _entry(ledger, settings, power) for name, ledger in phases.items()},
        "total": _entry(total, settings, power),
    }
    if settings.country:
        found["total"]["carbon"] = figure_json(carbon(energy, intensity(settings.country)))
        found["country"] = settings.country
    if energy.evidence == "estimated":
        found["estimate"] = (
            f"{settings.watts_per_core:g} W per core, {settings.watts_from}, times CPU seconds; "
            f"×{CPU_BAND[0]:g} to ×{CPU_BAND[1]:g}"
        )
        found["unmeasured"] = power.reason or "a part of the run was without a meter"
    else:
        found["source"] = power.source
    return found


def _entry(ledger: Ledger, settings: LedgerSettings, power: Power) -> dict:
    return {
        "samples_seen": ledger.samples_seen,
        "samples_scored": ledger.samples_scored,
        "steps": ledger.steps,
        "macs": ledger.macs,
        "seconds": round(ledger.seconds, 3),
        "cpu_seconds": round(ledger.cpu_seconds, 3),
        "energy": figure_json(energy_of(ledger, settings, power)),
    }


def check_ledger(settings: LedgerSettings) -> str | None:
    """What is wrong with [ledger], before anything is trained; None where nothing is."""
    try:
        if settings.country:
            intensity(settings.country)
    except GreenedgeError as error:
        return str(error).replace("give --intensity in g/kWh, or one of", "give one of")
    return None
