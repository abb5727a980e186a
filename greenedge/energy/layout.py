"""Which columns of a table are time and power: from the header, from units behind the values, from `--columns`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.energy.columns import SHORT, Asked, Meaning, find_column, read_name, read_unit, reference
from greenedge.energy.field_text import (
    COMMA,
    POINT,
    FieldError,
    NumberFormat,
    is_clock,
    is_missing,
    number_format,
    read_numbers,
    unit_behind,
)
from greenedge.energy.table_text import Table, is_value

# Programs whose own documentation gives the unit that their header leaves out: (a column that only they write, the
# column without a unit, quantity, factor).
_DOCUMENTED = (
    (r"(arc|ace|main|adc).*(current|voltage|power) \((a|v|w)\)", r"timestamp", "time", 1.0),  # Otii
    (r"power tot(al)?", r"power tot(al)?", "power", 1e-3),  # jetson-stats: milliwatts
)
_TOTAL = {"tot", "total", "sum", "all", "module", "board", "system", "vdd_in", "pom_5v_in"}
_DEVICES = ("index", "gpu", "uuid", "gpu_uuid", "device", "id", "serial", "socket", "channel", "sensor", "rail",
            "pci.bus_id", "host", "hostname", "node", "name", "label", "domain")  # fmt: skip
_TYPICAL = {"power": 3.0, "current": 0.5, "voltage": 5.0}  # of a board; for the order of offers alone
_STEP_S = 0.03
Choice = Sequence[Mapping[str, str]]  # alternatives of entries of --columns, the likeliest first


class Refusal(Exception):
    """A table that cannot be read without guessing: the reason, what would settle it, or another cure."""

    def __init__(self, reason: str, choices: Sequence[Choice] = (), cure: str = ""):
        super().__init__(reason)
        self.reason, self.choices, self.cure = reason, choices, cure


@dataclass(frozen=True)
class Column:
    """A column in use; `factor` to the base unit, None where each value carries its unit; `clock` for times of day.
    `sure` where the user named the unit."""

    place: int
    quantity: str
    factor: float | None
    clock: bool = False
    sure: bool = False


@dataclass(frozen=True)
class Layout:
    """The columns in use by quantity, the format of numbers, volts of the supply where no column has them, remarks."""

    columns: Mapping[str, Column]
    form: NumberFormat
    volts: float | None
    notes: tuple[str, ...] = ()


def arrange(table: Table, asked: Asked, volts: float | None) -> Layout:
    """The layout. Raises Refusal, and GreenedgeError for columns that `--columns` names and the file lacks."""
    seen = _Seen(table, asked)
    columns: dict[str, Column] = {}
    choices: list[Choice] = []
    notes: list[str] = []
    without: list[str] = []
    for quantity in ("time", *_power_quantities(seen, asked, volts)):
        if quantity == "time" and asked.step_s is not None:
            continue
        found = seen.choose(quantity)
        if isinstance(found, Column):
            columns[quantity] = found
        else:
            without.append(found.reason)
            choices += found.choices
        notes += seen.note(quantity)
    if without:
        raise Refusal(" and ".join(dict.fromkeys(without)), choices)
    _refuse_devices(table, asked, columns)
    if marker := seen.marker():
        columns["marker"] = marker
    return Layout(columns, _form(table, asked, columns), volts, tuple(notes))


def _power_quantities(seen: _Seen, asked: Asked, volts: float | None) -> tuple[str, ...]:
    """The quantities that power is made of. Raises Refusal where the table has none, or current without volts."""
    if "power" in asked.columns or "energy" in asked.columns:
        return ("power",) if "power" in asked.columns else ("energy",)
    have = {quantity: seen.candidates(quantity) for quantity in ("power", "current", "voltage", "energy")}
    complete = all(any(c.factor for c in have[q]) for q in ("current", "voltage"))
    if (have["power"] and (any(c.factor for c in have["power"]) or not complete)) and "current" not in asked.columns:
        return ("power",)
    if have["current"] or "current" in asked.columns:
        if volts is not None and not have["voltage"]:
            return ("current",)
        if have["voltage"] or "voltage" in asked.columns:
            return ("current", "voltage")
        raise Refusal("it has current and neither power nor voltage", cure="add --volts with the volts of the supply")
    if have["energy"]:
        options = [{"energy": f"{reference(c.place, seen.table.header)}:{_unit_name(c)}"} for c in have["energy"]]
        raise Refusal(
            "it has energy, which may count up or be of each line, and no power", [*seen.time_choice(), options]
        )
    return ("power",)


class _Seen:
    """The columns of a table by what their names and values say."""

    def __init__(self, table: Table, asked: Asked):
        self.table, self.asked = table, asked
        self.meanings = [_find_documented(table.header, k) or read_name(name) for k, name in enumerate(table.header)]
        self.values = [[row[k] for row in table.sample if not is_missing(row[k])] for k in range(len(table.header))]
        self._notes: dict[str, list[str]] = {}

    def candidates(self, quantity: str) -> list[Column]:
        """Columns of the quantity, with values that can be read; `factor` None and not `clock`: the unit is open."""
        found = []
        for place, meaning in enumerate(self.meanings):
            if meaning and meaning.quantity == quantity and (column := self._column(place, meaning)):
                found.append(column)
        return found

    def _column(self, place: int, meaning: Meaning) -> Column | None:
        values = self.values[place]
        if meaning.quantity == "time" and values and all(is_clock(text) for text in values[:20]):
            return Column(place, "time", None, clock=True)
        like = [is_value(text) and ":" not in text for text in values[:20]]
        if not values or 2 * sum(like) < len(like):
            return None  # a single bad line leaves the column in use, so that the error names that line
        return Column(place, meaning.quantity, meaning.factor)

    def _is_settled(self, column: Column) -> bool:
        return column.clock or column.factor is not None or self._behind(column)

    def _behind(self, column: Column) -> bool:
        """Whether each value carries its unit."""
        values = self.values[column.place][:20]
        return bool(values) and all(unit_behind(text, column.quantity) for text in values)

    def choose(self, quantity: str) -> Column | Refusal:
        """The column of a quantity, or why none can be taken and what would settle it."""
        if quantity in self.asked.columns:
            return self._find_asked(quantity)
        found = self.candidates(quantity)
        settled = [column for column in found if self._is_settled(column)]
        if quantity == "time" and settled:
            return settled[0]
        if len(found) > 1 and quantity != "time":
            return self._among(quantity, found)
        if settled:
            return settled[0]
        if found:
            title = " ".join(self.table.header[found[0].place].split())[:40]
            return Refusal(
                f"no unit is written for {quantity} ({title!r}), and none is guessed", [self._units(found[0])]
            )
        return self._offer_unnamed(quantity)

    def _among(self, quantity: str, found: list[Column]) -> Column | Refusal:
        """Of several columns the one that says it is the total; else a refusal that offers each."""
        names = [self.table.header[column.place] for column in found]
        total = [
            column
            for column, name in zip(found, names, strict=True)
            if set(re.split(r"[\s(\[)\]]+", name.lower())) & _TOTAL and self._is_settled(column)
        ]
        if len(total) == 1:
            others = ", ".join(repr(n) for c, n in zip(found, names, strict=True) if c is not total[0])[:120]
            self._notes[quantity] = [f"{names[found.index(total[0])]!r} was read, not {others}"]
            return total[0]
        ordered = sorted(found, key=lambda column: not self._is_settled(column))
        options = [option for column in ordered for option in self._units(column)[: 1 if column.factor else 2]]
        listed = ", ".join(map(repr, names))[:120]
        return Refusal(f"it has {len(found)} columns of {quantity} ({listed})", [options])

    def _find_asked(self, quantity: str) -> Column | Refusal:
        name, unit = self.asked.columns[quantity]
        place = find_column(name, self.table.header)
        values = self.values[place][:20]
        if quantity == "time" and values and all(is_clock(text) for text in values):
            return Column(place, "time", None, clock=True)
        given = read_unit(unit, quantity) if unit else None
        meaning = self.meanings[place]
        known = meaning.factor if meaning and meaning.quantity == quantity else None
        column = Column(place, quantity, given[1] if given else known, sure=given is not None)
        if column.factor is None and not self._behind(column):
            return Refusal(f"no unit is given for {quantity}", [self._units(column)])
        return column

    def note(self, quantity: str) -> list[str]:
        return self._notes.get(quantity, [])

    def marker(self) -> Column | None:
        """The first marker line; None without one."""
        if "marker" in self.asked.columns:
            return Column(find_column(self.asked.columns["marker"][0], self.table.header), "marker", 1.0)
        places = [k for k, meaning in enumerate(self.meanings) if meaning and meaning.quantity == "marker"]
        return Column(places[0], "marker", 1.0) if places else None

    def time_choice(self) -> list[Choice]:
        """What settles the time, for a refusal of another column; empty where it is settled."""
        found = self.choose("time") if self.asked.step_s is None else None
        return list(found.choices) if isinstance(found, Refusal) else []

    def _offer_unnamed(self, quantity: str) -> Refusal:
        """No column has the quantity's name: those of numbers are offered."""
        taken = {k for k, meaning in enumerate(self.meanings) if meaning and meaning.quantity != quantity}
        if quantity == "time":
            clocks = [k for k, values in enumerate(self.values) if values and all(map(is_clock, values[:20]))]
            if clocks:
                return Refusal("no column is named as time", [[{"time": reference(clocks[0], self.table.header)}]])
        free = [k for k, v in enumerate(self.values) if k not in taken and v and all(map(is_value, v[:20]))]
        if quantity == "time":
            free = [k for k in free if self._rises(k)]
            options: Choice = [option for k in free[:1] for option in self._units(Column(k, "time", None))]
            return Refusal("no column is named as time", [options or [{"step": _sample_step(self.table) or "10ms"}]])
        rising = next(
            (k for k in free if self._rises(k) and "time" not in {m.quantity for m in self.meanings if m}), None
        )
        free = [k for k in free if k != rising]
        options = [option for k in free[:3] for option in self._units(Column(k, quantity, None))[:2]]
        return Refusal("no column is named as power, or as current and voltage", [options] if options else [])

    def _rises(self, place: int) -> bool:
        try:
            values = read_numbers(self.values[place], "time", 1.0, number_format(self.values[place]) or COMMA)
        except FieldError:
            return False
        return len(values) > 1 and bool(np.all(np.diff(values) >= 0)) and values[0] != values[-1]

    def _units(self, column: Column) -> Choice:
        """The entry of --columns for a column in each unit it may have, the likeliest first."""
        name = reference(column.place, self.table.header)
        if column.clock:
            return [{"time": name}]
        if column.factor is not None or self._behind(column):
            return [{column.quantity: f"{name}:{_unit_name(column)}" if column.factor else name}]
        form = number_format(self.values[column.place]) or COMMA
        try:
            values = np.asarray(read_numbers(self.values[column.place], column.quantity, 1.0, form), dtype=float)
        except FieldError:
            return []
        factors = [factor for factor in SHORT[column.quantity] if factor <= 1]
        ranked = sorted(factors, key=lambda factor: _surprise(column.quantity, values, factor))
        return [{column.quantity: f"{name}:{SHORT[column.quantity][factor]}"} for factor in ranked]


def _find_documented(header: Sequence[str], place: int) -> Meaning | None:
    low = [name.strip().lower() for name in header]
    for sign, name, quantity, factor in _DOCUMENTED:
        if re.fullmatch(name, low[place]) and any(re.fullmatch(sign, other) for other in low):
            return Meaning(quantity, factor)
    return None


def _surprise(quantity: str, values: np.ndarray, factor: float) -> float:
    """How far a unit is from what is usual, in powers of ten; today's date in a unit of time is the least surprise."""
    if quantity == "time":
        steps = np.diff(values)
        step = float(np.median(steps[steps > 0])) * factor if np.any(steps > 0) else 1.0
        today = 1e9 <= values[0] * factor <= 2.2e9
        return abs(math.log10(step / _STEP_S)) - (4 if today else 0)
    size = float(np.median(np.abs(values))) * factor
    return abs(math.log10(max(size, 1e-12) / _TYPICAL.get(quantity, 1.0)))


def _unit_name(column: Column) -> str:
    return SHORT[column.quantity].get(column.factor or 1.0, "")


def _sample_step(table: Table) -> str | None:
    """The step of a sample rate that the lines above the table state."""
    for line in table.preamble:
        match = re.search(
            r"(?:sampl\w*[ _-]?(?:rate|freq\w*)|\bfs\b)\D{0,6}(\d{1,9}(?:\.\d{1,6})?)", line, re.IGNORECASE
        )
        if match and float(match[1]) > 0:
            return f"{1000 / float(match[1]):.9g}ms"
    return None


def _refuse_devices(table: Table, asked: Asked, used: Mapping[str, Column]) -> None:
    """Raises Refusal for lines of several devices among each other: their powers would be read as one device's."""
    places = {column.place for column in used.values()}
    if asked.only is not None:
        return
    for place, name in enumerate(table.header):
        if place in places or name.strip().lower() not in _DEVICES:
            continue
        values = list(dict.fromkeys(row[place].strip() for row in table.sample))
        plain = all(re.fullmatch(r"[\w.:/-]{1,60}", value) and "," not in value for value in values)
        if plain and 2 <= len(values) <= min(64, len(table.sample) // 2):
            column = reference(place, table.header)
            raise Refusal(
                f"its lines are of {len(values)} devices by the column {name.strip()!r}",
                [[{"only": f"{column}:{value}"} for value in values]],
            )


def _form(table: Table, asked: Asked, columns: Mapping[str, Column]) -> NumberFormat:
    """The format of the numbers in use. Raises Refusal where it is open."""
    if asked.decimal:
        return COMMA if asked.decimal == "comma" else POINT
    places = [column.place for column in columns.values() if not column.clock and column.quantity != "marker"]
    form = number_format(row[place] for row in table.sample for place in places if not is_missing(row[place]))
    if form is None:
        raise Refusal(
            "its numbers may have commas as decimal signs or between thousands",
            [[{"decimal": "comma"}, {"decimal": "point"}]],
        )
    return form
