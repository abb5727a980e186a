"""The log of NVIDIA's tegrastats as a table: the time of each line and the milliwatts of each rail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from greenedge.energy.table_text import SAMPLE, Table

_SIGN = re.compile(r"\bRAM \d+/\d+MB\b")
_STAMP = re.compile(r"^\s*(\d\d-\d\d-\d{4} \d\d:\d\d:\d\d)")
# "VDD_IN 4874mW/4874mW" of JetPack 5 and 6, "POM_5V_IN 2871/2871" before: now and the mean, both in milliwatts.
_RAIL = re.compile(r"\b([A-Z][A-Z0-9]{1,12}(?:_[A-Z0-9]{1,12}){1,5}) (\d{1,7})(?:mW)?/\d{1,7}(?:mW)?(?=\s|$)")


def is_tegrastats(head: str) -> bool:
    return _SIGN.search(head) is not None


def open_tegrastats(path: Path) -> Table | None:
    """The log as a table of the rails of its first line; None where that has none."""

    def lines() -> Iterator[tuple[int, str]]:
        with open(path, encoding="utf-8", errors="replace") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if _SIGN.search(line[:4000]))

    first = next(lines(), (0, ""))[1]
    rails = [name for name, _ in _RAIL.findall(first[:4000])]
    stamped = _STAMP.match(first) is not None
    if not rails:
        return None

    def split() -> Iterator[tuple[int, list[str]]]:
        for number, line in lines():
            powers = dict(_RAIL.findall(line[:4000]))
            stamp = _STAMP.match(line)
            yield number, [*([stamp[1] if stamp else ""] if stamped else []), *(powers.get(rail, "") for rail in rails)]

    header = (*(["time"] if stamped else []), *(f"{rail} (mW)" for rail in rails))
    sample = tuple(tuple(fields) for _, fields in islice(split(), SAMPLE))
    # Lines without a time come every second unless --interval said otherwise (the tool's documentation).
    return Table(path, header, ("sample rate 1",), sample, split)
