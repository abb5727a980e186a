"""When to train: the hours of an intensity file, ranked for the length and the energy of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from greenedge.energy.estimate import digits
from greenedge.energy.intensity_file import Hourly, Start, rank_starts
from greenedge.errors import GreenedgeError
from greenedge.files.json_file import read_json
from greenedge.run.folder import RunFolder

if TYPE_CHECKING:
    from rich.console import Console

_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Work:
    """What is to start: its length, its joules with their evidence (None: unknown)."""

    length: timedelta
    joules: float | None
    evidence: str | None


def read_work(run: Path | None, hours: float | None) -> Work:
    """The training of a run, by its ledger; `hours` replaces its length (and scales its energy, for the same power).

    Raises GreenedgeError where neither is given, or the run was not trained here.
    """
    if run is None:
        if hours is None:
            raise GreenedgeError("there is nothing to start: give a trained RUN, or its --hours.")
        return Work(timedelta(hours=hours), None, None)
    path = RunFolder(run).train / "metrics.json"
    try:
        total = read_json(path, _MAX_BYTES)["ledger"]["total"]
        seconds, energy = float(total["seconds"]), total["energy"]
        evidence = str(energy["evidence"])
        joules = float(energy.get("energy_j", energy.get("energy_estimate_j")))
    except (OSError, ValueError, KeyError, TypeError):
        raise GreenedgeError(
            f"{run} has no ledger of a training ({path} with its seconds and its energy): give a run of "
            "`greenedge run`, or only --hours."
        ) from None
    if not 0 < seconds < 1e8 or not 0 <= joules < 1e15:
        raise GreenedgeError(f"{path} says {seconds:g} s and {joules:g} J, which is no training; train it again.")
    if hours is None:
        return Work(timedelta(seconds=seconds), joules, evidence)
    return Work(timedelta(hours=hours), joules * hours * 3600 / seconds, evidence)


def as_json(hourly: Hourly, work: Work, starts: list[Start]) -> dict:
    """All starts, the cleanest first. Carbon is always an estimate."""
    return {
        "hours": work.length / timedelta(hours=1),
        "energy_evidence": work.evidence,
        "evidence": "estimated",
        "column": hourly.column,
        "notes": list(hourly.notes),
        "starts": [
            {"at": one.at.isoformat(), "g_per_kwh": one.g_per_kwh}
            | ({} if one.grams is None else {"carbon_estimate_g": one.grams})
            for one in starts
        ],
    }


def show(hourly: Hourly, work: Work, top: int, screen: Console) -> None:
    """Prints the cleanest starts, the mean and the dirtiest. Raises GreenedgeError as rank_starts does."""
    from rich.table import Table

    starts = rank_starts(hourly, work.length, work.joules)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for header in ("rank", "start", "g CO2e/kWh", *(() if work.joules is None else ("ESTIMATED CO2e",))):
        table.add_column(header)
    chosen = [*enumerate(starts[:top], 1)]
    if len(starts) > top:
        chosen.append((len(starts), starts[-1]))
    for rank, one in chosen:
        grams = () if one.grams is None else (f"≈ {digits(one.grams)} g",)
        zone = " UTC" if hourly.aware else ""
        table.add_row(str(rank), f"{one.at:%Y-%m-%d %H:%M}{zone}", f"{one.g_per_kwh:.0f}", *grams)
    screen.print(table)
    mean = sum(one.g_per_kwh for one in starts) / len(starts)
    best, hours = starts[0], work.length / timedelta(hours=1)
    saved = f"{1 - best.g_per_kwh / mean:.0%} below the mean start" if mean else "no carbon at any start"
    clock = "" if hourly.aware else ", on the clock of the file"
    lines = [f"The first of {len(starts)} starts for {hours:.3g} hours is {saved} ({mean:.0f} g/kWh){clock}."]
    lines += [f"{hourly.path.name}: {note}." for note in hourly.notes]
    lines += ["The file is what it is, of the past or a forecast: the order holds for its hours."]
    for line in lines:
        screen.print(line, markup=False, soft_wrap=True)
