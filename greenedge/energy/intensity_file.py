"""Carbon intensity by the hour from a file: ElectricityMaps', NESO's (Great Britain), RTE's éCO2mix (France),
Energinet's (Denmark), and any table with a time and a column whose header says g/kWh; and the best hours to start."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from greenedge.energy.carbon import Intensity
from greenedge.errors import GreenedgeError

_MAX_BYTES = 64 << 20
_MOST = 3000.0  # g/kWh: above the dirtiest plant
_TIMES = ("datetime (utc)", "hourutc", "minutes5utc", "datetime", "timestamp", "from", "time", "start", "hour")
_FORMS = ("%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d.%m.%Y %H:%M", "%Y/%m/%d %H:%M", "%Y%m%d %H:%M")
# Columns whose unit their publisher documents as g CO2 per kWh, without writing it into the header.
_KNOWN = {"carbon_intensity", "co2emission", "intensity.actual", "intensity.forecast"}
_UNITS = (
    (re.compile(r"kg\s*(co2\w*)?\s*/\s*mwh"), 1.0),
    (re.compile(r"\b(t|ton|tonnes?)\s*(co2\w*)?\s*/\s*mwh"), 1000.0),
    (re.compile(r"lbs?\s*(co2\w*)?\s*/\s*mwh"), 0.45359237),
    (re.compile(r"g\s*(co2\w*)?\s*/\s*kwh"), 1.0),
)
_CURE = "name it so in its first line: datetime (UTC),carbon intensity (gCO2/kWh)"


@dataclass(frozen=True)
class Hourly:
    """g CO₂e per kWh from `starts` on, each for `step`; `aware` where the file says how far its clock is from UTC."""

    path: Path
    starts: tuple[datetime, ...]
    grams: tuple[float, ...]
    step: timedelta
    column: str
    aware: bool
    notes: tuple[str, ...] = ()

    def mean_over(self, start: int, length: timedelta) -> float | None:
        """The mean from that place on over `length`; None where the file ends or has a gap before."""
        total, left, place = 0.0, length, start
        while left > timedelta(0):
            if place >= len(self.starts) or self.starts[place] != self.starts[start] + self.step * (place - start):
                return None
            part = min(left, self.step)
            total += self.grams[place] * (part / length)
            left, place = left - part, place + 1
        return total

    def intensity_at(self, moment: datetime) -> Intensity:
        """That of the hour of `moment` where the file has it; else the file's mean, with its range."""
        source = f"{self.path.name}, {self.column!r}"
        if self.aware:
            for start, value in zip(self.starts, self.grams, strict=True):
                if start <= moment < start + self.step:
                    said = f"{source}, {start.isoformat(timespec='minutes')}"
                    return Intensity("", "given", value, value, value, start.year, said)
        mean = sum(self.grams) / len(self.grams)
        said = f"{source}, mean of {len(self.grams)} values"
        return Intensity("", "given", mean, min(self.grams), max(self.grams), self.starts[0].year, said)


@dataclass(frozen=True)
class Start:
    """A start, the mean intensity from it on in g/kWh, the grams of the whole work (None: its energy is unknown)."""

    at: datetime
    g_per_kwh: float
    grams: float | None


def rank_starts(hourly: Hourly, length: timedelta, joules: float | None) -> list[Start]:
    """Every start from which the file covers `length`, the cleanest first. Raises GreenedgeError where it covers
    none."""
    found = []
    for place, at in enumerate(hourly.starts):
        mean = hourly.mean_over(place, length)
        if mean is not None:
            found.append(Start(at, mean, None if joules is None else joules / 3.6e6 * mean))
    if not found:
        covers = hourly.starts[-1] + hourly.step - hourly.starts[0]
        raise GreenedgeError(
            f"{hourly.path} covers {covers / timedelta(hours=1):g} hours without a gap at most, the work takes "
            f"{length / timedelta(hours=1):.3g}: give a longer file, or --hours."
        )
    return sorted(found, key=lambda one: (one.g_per_kwh, one.at))


def read_hourly(path: Path) -> Hourly:
    """Raises GreenedgeError with the place of what it cannot read."""
    from greenedge.energy.table_text import text_encoding

    if not path.is_file():
        raise GreenedgeError(f"{path} is not there; check its name.")
    if path.stat().st_size > _MAX_BYTES:
        raise GreenedgeError(f"{path} is {path.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read.")
    lines = path.read_bytes().decode(text_encoding(path), errors="replace").splitlines()
    place, delimiter, header = _find_header(path, lines)
    column, factor, notes = _find_column(path, header)
    when = _find_times(path, header)
    decimal = "," if delimiter != "," else "."
    values: dict[datetime, list[float]] = {}
    aware = "utc" in header[when[0]].lower()
    try:
        for number, fields in enumerate(csv.reader(lines[place + 1 :], delimiter=delimiter), place + 2):
            if len(fields) <= max(column, *when) or not fields[column].strip():
                continue
            text = fields[column].strip().replace(decimal, ".")
            if not re.fullmatch(r"\d{1,6}(\.\d{1,12})?", text) or float(text) * factor > _MOST:
                raise GreenedgeError(
                    f"{path}:{number}: {fields[column].strip()[:40]!r} is no carbon intensity between 0 and {_MOST:g} "
                    "g/kWh; correct that line."
                )
            start = _read_time(" ".join(fields[k].strip() for k in when), aware)
            if start is None:
                raise GreenedgeError(
                    f"{path}:{number}: {fields[when[0]].strip()[:40]!r} is no time; write 2026-05-01 13:00."
                )
            values.setdefault(start, []).append(float(text) * factor)
    except csv.Error as error:
        raise GreenedgeError(f"{path} is no table: {error}; export it again.") from None
    return _order(path, values, header[column], notes)


def _order(path: Path, values: dict[datetime, list[float]], column: str, notes: list[str]) -> Hourly:
    if len({start.tzinfo is None for start in values}) > 1:
        raise GreenedgeError(f"{path} has times with and without a zone; export it with one of them.")
    starts = sorted(values)
    if len(starts) < 2:
        raise GreenedgeError(f"{path} has {len(starts)} hours with an intensity; give a day or more.")
    gaps = sorted(b - a for a, b in zip(starts, starts[1:], strict=False))
    twice = sum(len(found) > 1 for found in values.values())
    notes += [f"{twice} times stand several times: their mean was taken"] if twice else []
    grams = tuple(sum(values[start]) / len(values[start]) for start in starts)
    aware = starts[0].tzinfo is not None
    return Hourly(path, tuple(starts), grams, gaps[len(gaps) // 2], " ".join(column.split()), aware, tuple(notes))


def _find_header(path: Path, lines: Sequence[str]) -> tuple[int, str, list[str]]:
    """(its line, the delimiter, the names)."""
    for place, line in enumerate(lines[:50]):
        delimiter = max("\t;,", key=line.count)
        try:
            names = [name.strip().strip('"') for name in next(csv.reader([line], delimiter=delimiter), [])]
        except csv.Error:
            continue
        if len(names) > 1 and any(_is_intensity(name) for name in names):
            return place, delimiter, names
    said = " ".join(lines[0].split())[:80] if lines else ""
    raise GreenedgeError(f"{path} has no column of carbon intensity below {said!r}; {_CURE}.")


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("₂", "2").replace("_", " ").split()).replace("co2 eq", "co2eq")


def _is_intensity(name: str) -> bool:
    plain = _plain(name)
    known = name.strip().lower() in _KNOWN
    words = "intensity" in plain or "co2" in plain or "carbon" in plain or "intensit" in plain
    return known or (words and "%" not in plain and "energy" not in plain.replace("energy mix", ""))


def _find_column(path: Path, header: Sequence[str]) -> tuple[int, float, list[str]]:
    """(place, factor to g/kWh, notes): life cycle before direct, actual before forecast."""
    found = []
    for place, name in enumerate(header):
        if _is_intensity(name):
            plain = _plain(name)
            unit = next((f for pattern, f in _UNITS if pattern.search(plain)), None)
            unit = 1.0 if unit is None and name.strip().lower() in _KNOWN else unit
            if unit is not None:
                worse = ("direct" in plain) + ("forecast" in plain)
                found.append((worse, place, unit))
    if not found:
        names = ", ".join(repr(name) for name in header if _is_intensity(name))[:160]
        raise GreenedgeError(f"{path} says no unit for {names}, and none is guessed; {_CURE}.")
    found.sort()
    if len(found) > 1 and found[0][0] == found[1][0]:
        names = ", ".join(repr(header[place]) for _, place, _ in found)[:200]
        raise GreenedgeError(f"{path} has several columns of carbon intensity: {names}; leave one of them in the file.")
    _, place, unit = found[0]
    notes = [f"{header[place]!r} was read"] if len(found) > 1 else []
    return place, unit, notes


def _find_times(path: Path, header: Sequence[str]) -> tuple[int, ...]:
    """The column of the time, or those of a date and an hour."""
    plain = [name.strip().lower() for name in header]
    for name in _TIMES[:-1]:
        if name in plain:
            return (plain.index(name),)
    if "date" in plain:
        hour = next((k for k, name in enumerate(plain) if name in ("heures", "heure", "hour", "time", "uhrzeit")), None)
        return (plain.index("date"),) if hour is None else (plain.index("date"), hour)
    names = ", ".join(map(repr, header))[:160]
    raise GreenedgeError(f"{path} has no column of time among {names}; {_CURE}.")


def _read_time(text: str, utc: bool) -> datetime | None:
    text = text.strip().removesuffix("UTC").strip()
    found = None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        for form in _FORMS:
            try:
                found = datetime.strptime(text, form)
                break
            except ValueError:
                continue
    if found is not None and found.tzinfo is not None:
        return found.astimezone(UTC)
    return found.replace(tzinfo=UTC) if found is not None and utc else found
