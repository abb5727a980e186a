"""Power over time from a table of anybody's: columns with their units, plausible or refused.

What would have to be guessed is refused with the `--columns …` that reads this very file: each offer has been tried on
the file before it is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from greenedge.energy.columns import describe_header, parse_columns
from greenedge.energy.layout import Layout, Refusal, arrange
from greenedge.energy.recording_trace import read_trace
from greenedge.energy.source import Trace
from greenedge.energy.table_text import Table, open_table
from greenedge.energy.tegrastats import is_tegrastats, open_tegrastats
from greenedge.errors import GreenedgeError

_OFFERS = 3
_TRIALS = 12  # of offers on the first lines; the whole file is read for those alone that pass


def read_recording(path: Path, volts: float | None = None, columns: str | None = None) -> Trace:
    """The trace in a table; `columns` as `--columns`, `volts` the supply of a table without one.

    Raises GreenedgeError.
    """
    asked = parse_columns(columns)
    with open(path, "rb") as file:
        head = file.read(4096).decode("utf-8", errors="replace")
    table = (open_tegrastats(path) if is_tegrastats(head) else None) or open_table(path)
    try:
        return read_trace(table, arrange(table, asked, volts), asked)
    except Refusal as refusal:
        raise GreenedgeError(_sentence(table, refusal, columns, volts)) from None


def _sentence(table: Table, refusal: Refusal, columns: str | None, volts: float | None) -> str:
    """The reason and the cures that read the file, in one sentence."""
    given = dict(entry.strip().partition("=")[::2] for entry in (columns or "").split(",") if entry.strip())
    offers: list[str] = []
    for offer in _combine(refusal.choices)[:_TRIALS]:
        if len(offers) == _OFFERS:
            break
        text = ",".join(f"{key}={value}" for key, value in {**given, **offer}.items())
        # A part of the file may lie behind its first lines, which then say nothing.
        said = _try(_beginning(table), text, volts) if "part" not in {**given, **offer} else "?"
        said = said and _try(table, text, volts)
        if said:
            offers.append(f"--columns {text} {said}")
    if not offers:
        cure = (
            refusal.cure or "export it with units in the header, or name them with --columns time=NAME:ms,power=NAME:mW"
        )
    elif len(offers) == 1:
        cure = f"if that is right, add {offers[0]}"
    else:
        cure = "add " + ", or ".join(offers)
    where = "" if refusal.cure or offers else f"; its columns are {describe_header(table.header)}"
    return f"{table.path}: {refusal.reason}{where}: {cure}."


def _combine(choices: Sequence[Sequence[Mapping[str, str]]]) -> list[dict[str, str]]:
    """The best of every choice, then each with one of them replaced, then the rest."""
    best: dict[str, str] = {}
    for options in choices:
        best |= options[0] if options else {}
    found = [best]
    for k in range(1, max((len(options) for options in choices), default=0)):
        found += [{**best, **options[k]} for options in reversed(choices) if len(options) > k]
    return [offer for offer in found if offer]


def _beginning(table: Table) -> Table:
    """The table of the first lines, which were read already."""
    numbered = [(number, list(fields)) for number, fields in enumerate(table.sample, 1)]
    return replace(table, split=lambda: iter(numbered))


def _try(table: Table, columns: str, volts: float | None) -> str | None:
    """What the file says with these columns, in brackets; None where they do not read it."""
    try:
        asked = parse_columns(columns)
        layout: Layout = arrange(table, asked, volts)
        trace = read_trace(table, layout, asked)
    except (Refusal, GreenedgeError):
        return None
    low, high = float(trace.watts.min()), float(trace.watts.max())
    return f"(then {_short(float(trace.t[-1] - trace.t[0]))} s with {_short(low)} to {_short(high)} W)"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e4 else f"{value:,.0f}"
