"""The energy of a training run: read from a meter that has proved alive, else estimated from CPU time; labelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenedge.energy.carbon import carbon, intensity
from greenedge.energy.cpu_share import CPU_BAND
from greenedge.energy.evidence import Figure, figure_json
from greenedge.errors import EvidenceError, GreenedgeError
from greenedge.train.ledger import Ledger
from greenedge.train.recipe_config import LedgerSettings

if TYPE_CHECKING:
    from greenedge.energy.clock import Clock
    from greenedge.energy.meters import Meter
    from greenedge.energy.proving import Proved


def read_no_meter() -> float | None:
    """The reading where there is no meter: None."""
    return None


@dataclass(frozen=True)
class Power:
    """A meter, or none. `read` gives joules since it was opened, or None; `reason` says why there is no meter."""

    read: Callable[[], float | None] = read_no_meter
    source: str | None = None
    scope: str = "chip"
    covers: str = "cpu package share"
    evidence: str = "estimated"
    reason: str = ""


@contextmanager
def open_power(settings: LedgerSettings, root: Path = Path("/"), clock: Clock | None = None) -> Iterator[Power]:
    """Yields the Power of [ledger]'s source after a proof of life (six seconds), or one without a meter and the reason.

    Raises EvidenceError for a source that was named and gives nothing.
    """
    from greenedge.energy.summed import sum_infos

    if settings.source == "none":
        yield Power(reason='[ledger] source is "none"')
        return
    with ExitStack() as opened:
        try:
            proved = _open_live_meters(settings.source, root, clock, opened)
        except EvidenceError as error:
            if settings.source != "auto":
                raise
            yield Power(reason=str(error).splitlines()[0])
            return
        info = sum_infos([meter.info for meter in proved.meters], [1.0] * len(proved.meters))
        if len(proved.meters) == 1:
            info = proved.meters[0].info
        readers = [_joules_from_now(meter) for meter in proved.meters]
        yield Power(lambda: sum(read() for read in readers), info.id, info.scope, info.covers, info.evidence)


def _joules_from_now(meter: Meter) -> Callable[[], float]:
    """A function that gives the joules since this call."""
    first = meter.now()

    def read() -> float:
        now = meter.now()
        return meter.energy(first, now)[0] if now.t > first.t else 0.0

    return read


def _open_live_meters(source: str, root: Path, clock: Clock | None, opened: ExitStack) -> Proved:
    """The meters of one figure whose readings followed a load: with "auto" all packages of the processor. Raises
    EvidenceError."""
    from greenedge.energy.clock import RealClock
    from greenedge.energy.proving import How, make_cpu_plan, make_plan, prove_plan

    clock = clock or RealClock()
    plan = make_cpu_plan(root, clock) if source == "auto" else make_plan((source,), root, clock)
    if plan is None:
        raise EvidenceError("no energy source of this machine's CPU can be read (greenedge energy probe says why)")
    proved, _ = prove_plan(plan, How(root, clock), _run_load, opened)
    return proved[0]


def _run_load(going: Callable[[], bool]) -> None:
    """Keeps one core busy while `going()`: a load that a CPU's meter must show."""
    import numpy as np

    a = np.ones((128, 128), np.float32)
    while going():
        a = np.tanh(a @ a)


def energy_of(ledger: Ledger, settings: LedgerSettings, power: Power) -> Figure:
    """The joules of a ledger: measured where all of it was metered, else watts per core times CPU seconds."""
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


def bill(phases: dict[str, Ledger], settings: LedgerSettings, power: Power) -> dict[str, Any]:
    """The part "ledger" of metrics.json: every phase and the total, with energy and, where a country is set, carbon."""
    total = sum(phases.values(), Ledger())
    energy = energy_of(total, settings, power)
    entries: dict[str, Any] = {
        "phases": {name: _entry(ledger, settings, power) for name, ledger in phases.items()},
        "total": _entry(total, settings, power),
    }
    if settings.country:
        entries["total"]["carbon"] = figure_json(carbon(energy, intensity(settings.country)))
        entries["country"] = settings.country
    if energy.evidence == "estimated":
        entries["estimate"] = (
            f"{settings.watts_per_core:g} W per core, {settings.watts_from}, times CPU seconds; "
            f"×{CPU_BAND[0]:g} to ×{CPU_BAND[1]:g}"
        )
        entries["unmeasured"] = power.reason or "a part of the run was without a meter"
    else:
        entries["source"] = power.source
    return entries


def _entry(ledger: Ledger, settings: LedgerSettings, power: Power) -> dict[str, Any]:
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
