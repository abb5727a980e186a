"""Joules in what `perf stat` printed: for people, -x with any separator, -j, each with -I, --per-socket and several
runs in one file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.energy.field_text import FieldError, NumberFormat, number_format
from greenedge.energy.source import SourceFault, Trace

_FIX_ABSENT = "use powercap, or an external meter: this kernel or virtual machine has no power PMU"
_FIX_LOCALE = "LC_ALL=C perf stat -a -x, -e power/energy-pkg/ -- COMMAND"
_FIX_COMMAND = "perf stat -a -x, -e power/energy-pkg/ -- COMMAND"
_UNIT = "Joules"
_TIME = re.compile(r"\d{1,9}[.,]\d{6,9}")
_PART = re.compile(r"(S\d+(-[A-Z]\d+)*|CPU\d+|N\d+|D\d+)")  # a socket, die, core, CPU or node
_HUMAN = re.compile(
    r"\s*(?:(?P<time>\d{1,9}[.,]\d{6,9})\s+)?(?:(?P<part>(?:S|N|D|CPU)\d[\w-]{0,20})\s+(?:\d+\s+)?)?"
    r"(?P<value><[a-z ]{1,20}>|[\d.,'\u00a0\u202f ]{1,30}?)\s+(?:Joules\s+)?"
    r"(?P<event>[\w./-]{0,40}energy-[a-z]{1,20}/?)"
)


@dataclass(frozen=True)
class Line:
    """One count: joules as text, of an event and a part of the machine ("" for all), at the end of an interval in s."""

    event: str
    part: str
    time: str
    value: str


@dataclass(frozen=True)
class Run:
    """One run of perf stat: {event: {part: joules}}, and with -I {event: (ends of the intervals in s, joules)}."""

    joules: dict[str, dict[str, float]]
    intervals: dict[str, tuple[np.ndarray, np.ndarray]]

    def total(self, event: str) -> float:
        """Joules of all parts."""
        return sum(self.joules[event].values())

    def trace(self, event: str) -> Trace | None:
        """Power in the intervals, from the start of the run; None without -I."""
        if event not in self.intervals:
            return None
        ends, joules = self.intervals[event]
        starts = np.append(0.0, ends[:-1])
        watts = joules / (ends - starts)
        t = np.stack([starts, ends - 1e-9 * (ends - starts)], axis=1).ravel()
        return Trace(t, np.repeat(watts, 2), None, {"gaps": "hold"})


def read_runs(text: str) -> list[Run]:
    """The runs in the output. Raises SourceFault for `<not supported>`, `<not counted>`, numbers that may mean two
    things, and a part that counted exactly 0 J: a live one never does."""
    blocks = list(_blocks(text))
    if not blocks:
        raise SourceFault("perf", "absent", "there is no energy event in this output", _FIX_COMMAND)
    for line in (line for block in blocks for line in block):
        if line.value.startswith("<"):
            raise SourceFault(f"perf:{line.event}", "absent", f"perf says {line.value[:40]}", _FIX_ABSENT)
    form = number_format(line.value for block in blocks for line in block)
    if form is None:
        first = blocks[0][0]
        raise SourceFault(f"perf:{first.event}", "implausible", f"perf says {first.value[:40]!r}", _FIX_LOCALE)
    return [_run(block, form) for block in blocks]


def _run(block: Sequence[Line], form: NumberFormat) -> Run:
    joules: dict[str, dict[str, float]] = {}
    moments: dict[str, dict[float, float]] = {}
    for line in block:
        value = _number(line, form)
        parts = joules.setdefault(line.event, {})
        parts[line.part] = parts.get(line.part, 0.0) + value
        if line.time:
            at = moments.setdefault(line.event, {})
            end = float(line.time.replace(",", "."))
            at[end] = at.get(end, 0.0) + value
    for event, parts in joules.items():
        for part, total in parts.items():
            if total == 0.0:
                where = f" of {part}" if part else ""
                raise SourceFault(
                    f"perf:{event}",
                    "dead",
                    f"perf says 0.00 Joules{where}: the event exists, the counter does not",
                    _FIX_ABSENT,
                )
    return Run(
        joules, {event: (np.array(sorted(at)), np.array([at[t] for t in sorted(at)])) for event, at in moments.items()}
    )


def _number(line: Line, form: NumberFormat) -> float:
    try:
        value = form.value(line.value)
    except FieldError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise SourceFault(f"perf:{line.event}", "implausible", f"perf says {line.value[:40]!r}", _FIX_LOCALE)
    return value


def _blocks(text: str) -> Iterator[list[Line]]:
    """The lines of each run. A new one begins at perf's own heading, and where a count stands again or time falls."""
    block: list[Line] = []
    seen: set[tuple[str, str, str]] = set()
    latest = -1.0
    for raw in text.splitlines():
        heading = raw.startswith("# started on") or "Performance counter stats for" in raw
        line = None if heading else _line(raw)
        if line is None and not heading:
            continue
        at = float(line.time.replace(",", ".")) if line and line.time else latest
        again = line is not None and ((line.event, line.part, line.time) in seen or at < latest)
        if block and (heading or again):
            yield block
            block, seen = [], set()
        latest = -1.0 if heading else at
        if line is not None:
            block.append(line)
            seen.add((line.event, line.part, line.time))
    if block:
        yield block


def _line(raw: str) -> Line | None:
    """The count in a line of output; None for a line without an energy event. Raises SourceFault."""
    if "energy-" not in raw or raw.lstrip().startswith("#"):
        return None
    if raw.lstrip(" [").startswith("{"):
        return _json_line(raw)
    separator = re.search(rf"([^\s\w])\s*{_UNIT}\s*\1|([\t]){_UNIT}\t|>([,;|:])", raw[:400])
    if separator:
        return _split_line(raw, next(filter(None, separator.groups())))
    match = _HUMAN.match(raw[:400])
    return (
        Line(_event(match["event"]), match["part"] or "", match["time"] or "", match["value"].strip())
        if match
        else None
    )


def _split_line(raw: str, separator: str) -> Line | None:
    """A line of -x: [time,] [part, count,] value, unit, event."""
    fields = [field.strip() for field in raw[:2000].split(separator)]
    place = next((k for k, field in enumerate(fields) if "energy-" in field), len(fields))
    before, value = fields[: max(place - 2, 0)], fields[place - 2] if 2 <= place < len(fields) else ""
    if place == len(fields) or not value:
        return None
    event, time, part = _event(fields[place]), "", ""
    rest = list(before)
    if rest and _TIME.fullmatch(rest[0]):
        time = rest.pop(0)
    if rest and _PART.fullmatch(rest[0]):
        part = rest.pop(0)
        if rest and rest[0].isdigit():
            rest.pop(0)
    if rest:
        said = separator.join(fields[:place])
        raise SourceFault(
            f"perf:{event}",
            "absent",
            f"perf says {said[:40]!r}: a decimal comma and commas between fields cannot be told apart",
            _FIX_LOCALE,
        )
    return Line(event, part, time, value)


def _json_line(raw: str) -> Line | None:
    try:
        data = json.loads(raw[:4000].strip().strip("[],"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or "energy-" not in str(data.get("event")):
        return None
    part = next((str(data[key]) for key in ("socket", "die", "core", "cpu", "node") if key in data), "")
    return Line(
        _event(str(data["event"])), part, _json_time(data.get("interval")), str(data.get("counter-value", "")).strip()
    )


def _json_time(value: object) -> str:
    return f"{value:.9f}" if isinstance(value, float) and 0 <= value < 1e9 else ""


def _event(text: str) -> str:
    return text.strip("/ ").removeprefix("power/")[:80]
