"""The text of a recording as a table: its encoding, delimiter, header and lines, whatever program wrote it."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TextIO

from greenedge.energy.columns import read_unit
from greenedge.errors import GreenedgeError

SAMPLE = 2000  # lines that are looked at before columns and number format are settled
_PREAMBLE = 200  # lines before the data
_LINE = 1 << 16
_DELIMITERS = ("\t", ";", "|", ",", " ", "")
NUMBER = re.compile(r"[-+]?(?:\d[\d.,'\u00a0\u2009\u202f ]{0,40}|[.,]\d{1,30})(?:[eE][-+]?\d{1,3})?")
_VALUE = re.compile(rf"{NUMBER.pattern}\s?[A-Za-zµμ%]{{0,12}}")
CLOCK = re.compile(
    r"(?P<date>.{0,24}?)[T ,_]{0,2}(?P<h>\d{1,4}):(?P<m>[0-5]\d):(?P<s>[0-6]\d)(?:[.,](?P<frac>\d{1,9}))?"
    r"\s?(?P<half>[AaPp]\.?[Mm]\.?)?\s?(?P<zone>Z|UTC|GMT|[A-Z]{3,4}|[+-]\d\d:?\d\d)?"
)
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")
MISSING = frozenset(("", "nan", "n/a", "[n/a]", "na", "null", "none", "-", "--", "[not supported]", "not available"))


@dataclass(frozen=True)
class Table:
    """`header` has a name for every column (with the unit of a line of units below it), empty where the file has none;
    `preamble` the lines above the data, `sample` the first of the data; `split` gives (line number, fields) of all."""

    path: Path
    header: tuple[str, ...]
    preamble: tuple[str, ...]
    sample: tuple[tuple[str, ...], ...]
    split: Callable[[], Iterator[tuple[int, list[str]]]]

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line number, fields) of every line of data. A last line that breaks off is left out. Raises GreenedgeError
        for a line with another number of fields."""
        wanted = len(self.header)
        short: int | None = None
        for number, fields in self.split():
            if short is not None:
                raise GreenedgeError(
                    f"{self.path}:{short} has fewer fields than the {wanted} columns; correct that line, or cut the "
                    "file before it."
                )
            fields = _trim(fields, wanted)
            if len(fields) < wanted:
                short = number
                continue
            if len(fields) > wanted:
                raise GreenedgeError(
                    f"{self.path}:{number} has {len(fields)} fields for {wanted} columns; correct that line (a comma "
                    "in numbers and between them cannot be told apart: export with semicolons or tabs)."
                )
            yield number, fields


def _split_from(path: Path, encoding: str, delimiter: str, before: int) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of the lines after the first `before`. Raises GreenedgeError."""
    number = before
    with _open(path, encoding) as file:
        try:
            for number, line in enumerate(islice(_read_lines(path, file), before, None), before + 1):
                if line.strip() and not line.lstrip().startswith("#"):
                    yield number, split_line(line, delimiter)
        except csv.Error as error:
            raise GreenedgeError(f"{path}:{number} is no line of a table ({error}); correct it.") from None


def _read_lines(path: Path, file: TextIO) -> Iterator[str]:
    while line := file.readline(_LINE):
        if len(line) == _LINE:
            raise GreenedgeError(
                f"{path} has a line of more than {_LINE:,} characters; a recording is a table of lines."
            )
        yield line


def open_table(path: Path) -> Table:
    """The table in a file. Raises GreenedgeError for an empty file, a header without lines, and for no table."""
    encoding = text_encoding(path)
    with _open(path, encoding) as file:
        head = list(islice(_read_lines(path, file), _PREAMBLE + SAMPLE))
    if not any(line.strip() for line in head):
        raise GreenedgeError(f"{path} is empty; give a recording with a header and lines of numbers.")
    forced = re.fullmatch(r"sep=(.)\s*", head[0].strip("\ufeff")) if head else None
    candidates = (forced[1],) if forced else _DELIMITERS
    try:
        for with_header in (True, False):
            for delimiter in candidates:
                found = _table(path, encoding, head, delimiter, with_header)
                if found is not None:
                    return found
    except csv.Error as error:
        raise GreenedgeError(f"{path} has a first line that is no header ({error}); give a table of numbers.") from None
    said = " ".join(head[0].split())[:80]
    lines = [line for line in head if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) <= 1:
        raise GreenedgeError(f"{path} has the header {said!r} and no lines below it; record again.")
    raise GreenedgeError(
        f"{path} is no table: below {said!r} stands no line of numbers with as many fields as the header; export it "
        "with semicolons or tabs between the columns."
    )


def _table(path: Path, encoding: str, head: list[str], delimiter: str, with_header: bool) -> Table | None:
    """The table with this delimiter; None where the lines are none of it."""
    split = [split_line(line, delimiter) if line.strip() else [] for line in head]
    least = 1 if delimiter == "" else 2
    comment = [line.lstrip("\ufeff ").startswith("#") for line in head]
    first = next((k for k, fields in enumerate(split[:_PREAMBLE]) if not comment[k] and _is_data(fields, least)), None)
    if first is None or (with_header and first == 0):
        return None
    fields = split[first]
    before = [k for k in range(first) if split[k]]
    titles = (
        _header([split[k] for k in before], len(_trim(fields, 0))) if with_header else ("",) * len(_trim(fields, 0))
    )
    if titles is None:
        return None
    rows = [tuple(_trim(split[k], len(titles))) for k in range(first, len(split)) if split[k] and not comment[k]]
    kept = tuple(row for row in rows[:SAMPLE] if len(row) == len(titles))
    preamble = tuple(head[k].strip() for k in before)
    return Table(path, titles, preamble, kept, partial(_split_from, path, encoding, delimiter, first))


def _header(lines: list[list[str]], width: int) -> tuple[str, ...] | None:
    """The names of `width` columns from the lines above the data; a line of units joins the names above it."""
    if not lines:
        return None
    last = _trim(lines[-1], width)
    if len(last) != width:
        return None
    clean = [field.strip().lstrip("#").strip() for field in last]
    units = [field.strip("()[]{} ") for field in clean]
    if len(lines) > 1 and len(_trim(lines[-2], width)) == width and all(read_unit(u) or u in ("", "-") for u in units):
        names = [field.strip().lstrip("#").strip() for field in _trim(lines[-2], width)]
        if not any(read_unit(name.strip("()[]")) for name in names):
            return tuple(f"{name} ({unit})" if unit else name for name, unit in zip(names, units, strict=True))
    return tuple(clean)


def _trim(fields: list[str], width: int) -> list[str]:
    """Without the empty field that a delimiter at the end of the line makes."""
    return (
        fields[:-1] if len(fields) == (width or len(fields) - 1) + 1 and len(fields) > 1 and not fields[-1] else fields
    )


def _is_data(fields: list[str], least: int) -> bool:
    """Whether a line is of data: enough numbers or times, one of them among its first two fields."""
    like = [is_value(field) for field in fields]
    return len(fields) >= least and sum(like) >= least and (like[0] or (len(like) > 1 and like[1]))


def is_value(text: str) -> bool:
    """Whether a field is a number (a unit may follow) or a time."""
    text = text.strip()
    return bool(_VALUE.fullmatch(text) or (":" in text and CLOCK.fullmatch(text)))


def split_line(line: str, delimiter: str) -> list[str]:
    """The fields of a line. Raises csv.Error."""
    line = line.strip("\r\n\ufeff")
    if delimiter == "":
        return [line.strip().strip('"')]
    if delimiter != " ":
        return [part.strip() for part in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]
    fields: list[str] = []
    for word in line.split():
        joins = fields and (word[0] in "([" or (":" in word and _DATE.fullmatch(fields[-1])))
        if joins:
            fields[-1] += " " + word
        else:
            fields.append(word)
    return fields


def _open(path: Path, encoding: str) -> TextIO:
    return open(path, encoding=encoding, errors="replace", newline=None)


def text_encoding(path: Path) -> str:
    """Of a file: by the byte order mark, by zero bytes (UTF-16 without one), UTF-8 where it is that, else Windows's."""
    with open(path, "rb") as file:
        head = file.read(_LINE)
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return name
    zeros = [head[start:400:2].count(0) for start in (0, 1)]
    if len(head) > 8 and max(zeros) > 0.3 * len(head[:400:2]):
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
        return "utf-8"
    except UnicodeDecodeError:
        return "cp1252"
