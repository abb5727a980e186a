"""Grams of CO₂ equivalent: joules × intensity of the grid. Always an estimate, with the range of the intensity.

Intensities: Our World in Data (CC BY 4.0), "Carbon intensity of electricity", from Ember and the Energy Institute;
yearly means of generation, life-cycle. The ranges are ours (benchmarks/energy_intensity.py says how).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from greenedge.energy.evidence import Figure
from greenedge.errors import GreenedgeError

ATTRIBUTION = (
    "Carbon intensity: Our World in Data, from Ember and the Energy Institute, CC BY 4.0 "
    "(ourworldindata.org/grapher/carbon-intensity-electricity); rounded, ranges added."
)
_TABLE = Path(__file__).parent / "data/intensity.csv"
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Intensity:
    """g CO₂e per kWh with its range, year and source."""

    iso: str
    country: str
    g_per_kwh: float
    low: float
    high: float
    year: int | None
    source: str


@cache
def table() -> dict[str, Intensity]:
    """The intensities that ship with greenedge, by ISO 3166 alpha-3 code."""
    with open(_TABLE, encoding="utf-8", newline="") as file:
        return {
            row["iso"]: Intensity(
                row["iso"],
                row["country"],
                float(row["g_per_kwh"]),
                float(row["low"]),
                float(row["high"]),
                int(row["year"]),
                row["source"],
            )
            for row in csv.DictReader(file)
        }


def intensity(country: str | None, given: float | None = None) -> Intensity:
    """That of the country, or `given` in g/kWh. Raises GreenedgeError for an unknown country: a world mean would be
    wrong for it."""
    if given is not None:
        if not 0 <= given <= 3000:
            raise GreenedgeError(f"--intensity {given:g} is not between 0 and 3000 g/kWh; give grams of CO2e per kWh.")
        return Intensity("", "given", given, given, given, None, "given with --intensity")
    key = (country or "").upper()
    for entry in table().values():
        if key in (entry.iso, entry.country.upper()):
            return entry
    raise GreenedgeError(
        f"there is no carbon intensity for {country!r}; give --intensity in g/kWh, or one of {', '.join(table())}."
    )


def carbon(energy: Figure, at: Intensity) -> Figure:
    """Grams for a figure in joules; the range combines the interval of the energy with that of the intensity."""
    assert energy.unit == "j", energy
    low = energy.low if energy.low is not None else energy.value
    high = energy.high if energy.high is not None else energy.value
    scale = 1 / _JOULES_PER_KWH
    return Figure(
        energy.value * at.g_per_kwh * scale,
        "carbon",
        "g",
        energy.scope,
        "estimated",
        max(low, 0.0) * at.low * scale,
        high * at.high * scale,
        None,
        energy.covers,
    )
