"""The values of a table as a trace: times that rise, powers that can be; else flagged or refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from greenedge.energy.columns import SHORT, Asked, find_column, reference
from greenedge.energy.field_text import ClockReader, FieldError, NumberFormat, read_numbers
from greenedge.energy.layout import Column, Layout, Refusal
from greenedge.energy.source import Trace
from greenedge.energy.table_text import Table
from greenedge.errors import GreenedgeError

MAX_W = 2000.0  # above it a recording is refused unless --columns names the unit, as live sources refuse
_BATCH = 1 << 16
_EPOCH_S = (1e9, 4e9)  # stamps of 2001 to 2096: a date, not a time since the start
_JUMP = 5  # median steps that a stamp may lie behind the one before it and count as out of order


def read_trace(table: Table, layout: Layout, asked: Asked) -> Trace:
    """Raises Refusal for what would have to be guessed, GreenedgeError for a line that is no line of numbers."""
    values = _read_columns(table, layout, asked)
    notes = list(layout.notes)
    first = values[next(iter(values))]
    if "time" in values:
        t = values["time"]
    else:
        t = np.arange(len(first), dtype=np.longdouble) * float(asked.step_s or 0.0)
    watts = _watts(values, layout, notes) if "energy" not in values else np.asarray(values["energy"], dtype=float)
    marks = values.get("marker")
    keep = np.isfinite(t) & np.isfinite(watts)
    if np.sum(keep) < 2:
        raise GreenedgeError(
            f"{table.path} has {int(np.sum(keep))} lines with time and power; a trace takes at least two."
        )
    if not np.all(keep):
        notes.append(f"{int(np.sum(~keep))} of {len(keep)} lines have no number and were left out")
    t, watts, marks = t[keep], watts[keep], None if marks is None else marks[keep]
    t, watts, marks = _one_part(t, watts, marks, asked)
    t, watts, marks = _in_order(t, watts, marks, notes)
    origin = float(t[0]) if _EPOCH_S[0] <= t[0] <= _EPOCH_S[1] or _is_clock(layout) else 0.0
    seconds = np.asarray(t - np.longdouble(origin), dtype=float)
    if "energy" in values:
        seconds, watts, marks = _from_counter(seconds, watts)
    watts = watts * asked.sign
    _refuse_implausible(table, layout, seconds, watts, notes)
    meta = {"file": table.path.name} | ({"origin_s": repr(origin)} if origin else {})
    if asked.hold:
        seconds, watts, marks = _hold(seconds, watts, marks)
        meta["gaps"] = "hold"
    return Trace(seconds, watts, None if marks is None else np.asarray(marks, dtype=float), meta, tuple(notes))


def _is_clock(layout: Layout) -> bool:
    return "time" in layout.columns and layout.columns["time"].clock


def _read_columns(table: Table, layout: Layout, asked: Asked) -> dict[str, np.ndarray]:
    """The used columns in base units, NaN where a field is missing. Raises GreenedgeError naming the line."""
    clock = ClockReader()
    parts: dict[str, list[np.ndarray]] = {quantity: [] for quantity in layout.columns}
    for numbers, rows in _batches(table, asked):
        for quantity, column in layout.columns.items():
            texts = [row[column.place] for row in rows]
            try:
                parts[quantity].append(_values(texts, column, clock, layout.form))
            except FieldError:
                raise _bad_line(table, column, layout.form, numbers, texts) from None
    if not any(parts.values()):
        raise GreenedgeError(f"{table.path} has no line of numbers; record again.")
    return {quantity: np.concatenate(arrays) for quantity, arrays in parts.items()}


def _values(texts: list[str], column: Column, clock: ClockReader, form: NumberFormat) -> np.ndarray:
    if column.quantity == "marker":
        # A string of eight lines ("D0-D7") starts with the first.
        return np.array([text.strip()[:1] not in ("", "0", "L", "l", "F", "f") for text in texts], dtype=float)
    return clock.read(texts) if column.clock else read_numbers(texts, column.quantity, column.factor, form)


def _batches(table: Table, asked: Asked) -> Iterator[tuple[list[int], list[list[str]]]]:
    """(line numbers, rows) that count, some thousands at a time."""
    rows = table.rows()
    place, wanted = (find_column(asked.only[0], table.header), asked.only[1]) if asked.only else (0, None)
    while batch := list(islice(rows, _BATCH)):
        kept = [(number, row) for number, row in batch if wanted is None or row[place].strip() == wanted]
        if kept:
            yield [number for number, _ in kept], [row for _, row in kept]


def _bad_line(table: Table, column: Column, form: NumberFormat, numbers: list[int], texts: list[str]) -> GreenedgeError:
    """The error for the first field that cannot be read."""
    for number, text in zip(numbers, texts, strict=True):
        try:
            _values([text], column, ClockReader(), form)
        except FieldError as error:
            return GreenedgeError(
                f"{table.path}:{number} has a line that is not numbers: {column.quantity} {error}; correct that line, "
                "or say --columns decimal=comma (or point) where only the decimal sign differs."
            )
    return GreenedgeError(f"{table.path} mixes forms of numbers in one column; export it in one.")


def _watts(values: dict[str, np.ndarray], layout: Layout, notes: list[str]) -> np.ndarray:
    """Power, or current times voltage; without a column of voltage times the supply's volts."""
    if "power" in values:
        return np.asarray(values["power"], dtype=float)
    volts = values["voltage"] if "voltage" in values else float(layout.volts or 0.0)
    return np.asarray(values["current"] * volts, dtype=float)


Samples = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _pick(places: np.ndarray | slice, t: np.ndarray, watts: np.ndarray, marks: np.ndarray | None) -> Samples:
    return t[places], watts[places], None if marks is None else marks[places]


def _one_part(t: np.ndarray, watts: np.ndarray, marks: np.ndarray | None, asked: Asked) -> Samples:
    """The asked part of a file in which time starts again. Raises Refusal where none is asked for."""
    steps = np.diff(t)
    usual = float(np.median(steps[steps > 0])) if np.any(steps > 0) else 0.0
    cuts = np.flatnonzero(steps < -_JUMP * usual) + 1 if usual else np.zeros(0, dtype=int)
    edges = [0, *(int(cut) for cut in cuts), len(t)]
    parts = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
    if asked.part is not None:
        if asked.part > len(parts):
            raise Refusal(f"it holds {len(parts)} recordings, part {asked.part} was asked for", [[{"part": "1"}]])
        return _pick(parts[asked.part - 1], t, watts, marks)
    if len(parts) > 1:
        longest = sorted(range(len(parts)), key=lambda k: parts[k].start - parts[k].stop)
        raise Refusal(
            f"time starts again at line {edges[1] + 1} of its data: {len(parts)} recordings in one file",
            [[{"part": str(k + 1)} for k in longest[:_JUMP]]],
        )
    return t, watts, marks


def _in_order(t: np.ndarray, watts: np.ndarray, marks: np.ndarray | None, notes: list[str]) -> Samples:
    """Sorted, with one sample for each moment: stamps coarser than the samples are spread, single repeats averaged."""
    if np.any(np.diff(t) < 0):
        notes.append(f"{int(np.sum(np.diff(t) < 0))} lines were out of order and were sorted")
        t, watts, marks = _pick(np.argsort(t, kind="stable"), t, watts, marks)
    stamps, start, counts = np.unique(t, return_index=True, return_counts=True)
    if len(stamps) == len(t):
        return t, watts, marks
    if len(stamps) < 2:
        raise Refusal("all its lines have one time", [[{"step": "10ms"}]], "record with finer times")
    usual = int(np.median(counts))
    if usual == 1:
        notes.append(f"{len(t) - len(stamps)} stamps stand twice: their powers were averaged")
        means = np.add.reduceat(watts, start) / counts
        return stamps, means, None if marks is None else np.maximum.reduceat(marks, start)
    if counts[1:-1].size and counts[1:-1].max() > 2 * usual:
        raise Refusal(f"one time stands on {counts.max()} lines, others on {usual}", cure="record with finer times")
    notes.append(f"each time stands on about {usual} lines: the samples were spread evenly between them")
    gap = np.append(np.diff(stamps), np.median(np.diff(stamps)))
    place = np.arange(len(t)) - np.repeat(start, counts)
    # A first or last time that holds fewer samples than the rest holds the end or the beginning of its step.
    size = counts.copy()
    size[[0, -1]] = np.maximum(counts[[0, -1]], usual)
    late = np.zeros(len(stamps), dtype=int)
    late[0] = size[0] - counts[0]
    return np.repeat(stamps, counts) + (place + np.repeat(late, counts)) * np.repeat(gap / size, counts), watts, marks


def _from_counter(t: np.ndarray, joules: np.ndarray) -> Samples:
    """The power between the readings of a counter, as steps. Raises Refusal for a counter that goes back."""
    if np.any(np.diff(joules) < 0):
        raise Refusal("its energy goes back, so it is no counter", cure="export power over time")
    watts = np.diff(joules) / np.diff(t)
    return *_hold(t, np.append(watts, watts[-1]), None)[:2], None


def _hold(t: np.ndarray, watts: np.ndarray, marks: np.ndarray | None) -> Samples:
    """Each value lasts until the next line."""
    ends = np.stack([t[:-1], t[1:] - 1e-9 * np.diff(t)], axis=1).ravel()
    lasting = np.append(np.repeat(watts[:-1], 2), watts[-1])
    return np.append(ends, t[-1]), lasting, None if marks is None else np.append(np.repeat(marks[:-1], 2), marks[-1])


def _refuse_implausible(table: Table, layout: Layout, t: np.ndarray, watts: np.ndarray, notes: list[str]) -> None:
    """Raises Refusal for powers that cannot be; notes what is odd."""
    low, high, size = float(watts.min()), float(watts.max()), float(np.abs(watts).max())
    if size == 0:
        raise Refusal("its power is 0 on every line: nothing was measured", cure="check the probe and record again")
    negative = float(np.mean(watts < 0))
    if negative > 0.5 and low < -0.01 * size:
        raise Refusal(
            f"its power is negative ({low:.3g} to {high:.3g} W): the shunt is the other way round, or a "
            "battery charges",
            [[{"sign": "-1"}]],
        )
    if low < -0.01 * size:
        notes.append(f"{negative:.1%} of its powers are negative, down to {low:.3g} W")
    named = [column for q, column in layout.columns.items() if q in ("power", "current", "voltage")]
    if size > MAX_W and not any(column.sure for column in named):
        options = []
        for column in named:
            name, short = reference(column.place, table.header), SHORT[column.quantity]
            for factor in ((column.factor or 1.0) / 1e3, column.factor or 1.0):
                options += [{column.quantity: f"{name}:{short[factor]}"}] if factor in short else []
        raise Refusal(f"it says {size:,.0f} W, more than the {MAX_W:,.0f} W that is usual at most", [options])
    if size < 1e-6:
        notes.append(f"its greatest power is {size:.3g} W: see the unit of its header")
    if np.all(watts == watts[0]) and len(watts) > 10:
        notes.append("its power never changes: see that the sensor is alive")
