"""Numbers and times as people's programs write them: decimal commas, thousands, units behind the number, dates, clocks.

What a field may mean in two ways is refused by the caller: `number_format` answers None.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.energy.columns import read_unit
from greenedge.energy.table_text import CLOCK, MISSING, NUMBER

_SPACES = re.compile(r"['\u00a0\u2009\u202f ]")
_WITH_UNIT = re.compile(rf"(?P<number>{NUMBER.pattern})\s?(?P<unit>[A-Za-zµμ]{{1,12}})?")
_YMD = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})")
_DAY_S = 86400.0


class FieldError(ValueError):
    """A field that is no number or no time; the text is what is wrong with it."""


@dataclass(frozen=True)
class NumberFormat:
    """The decimal sign and the sign between thousands."""

    decimal: str
    thousands: str

    def value(self, text: str) -> float:
        """Raises FieldError."""
        bare = _SPACES.sub("", text)
        whole, point, rest = bare.partition(self.decimal)
        if self.thousands in whole:
            if not re.fullmatch(rf"[-+]?\d{{1,3}}(?:\{self.thousands}\d{{3}})+", whole):
                raise FieldError(f"{text[:40]!r} is no number with {self.decimal!r} as the decimal sign")
            whole = whole.replace(self.thousands, "")
        try:
            number = float(f"{whole}.{rest}" if point else whole)
        except ValueError:
            raise FieldError(f"{text[:40]!r} is no number") from None
        if not math.isfinite(number) or "_" in text:
            raise FieldError(f"{text[:40]!r} is no number")
        return number


POINT, COMMA = NumberFormat(".", ","), NumberFormat(",", ".")


def number_format(texts: Iterable[str]) -> NumberFormat | None:
    """The format that explains every number of a file's sample; None where both formats do, or neither."""
    decided: set[NumberFormat] = set()
    open_comma = False
    for text in texts:
        match = _WITH_UNIT.fullmatch(text.strip())
        bare = _SPACES.sub("", match["number"].lower().partition("e")[0]).lstrip("+-") if match else ""
        if "," in bare and "." in bare:
            decided.add(COMMA if bare.rindex(",") > bare.rindex(".") else POINT)
        elif "," in bare:
            verdict = _by_one_sign(bare, ",")
            decided |= {POINT} if verdict == "thousands" else {COMMA} if verdict == "decimal" else set()
            open_comma |= verdict == "open"
        elif "." in bare:
            verdict = _by_one_sign(bare, ".")
            decided |= {COMMA} if verdict == "thousands" else {POINT} if verdict == "decimal" else set()
    if len(decided) == 1:
        return decided.pop()
    return POINT if not decided and not open_comma else None


def _by_one_sign(bare: str, sign: str) -> str:
    """Whether the sign in a number is "decimal" or "thousands"; "open" for 1,234."""
    if bare.count(sign) > 1:
        return "thousands"
    before, _, after = bare.partition(sign)
    return (
        "open"
        if len(after) == 3 and before.strip("0") and not before.startswith("0") and len(before) < 4
        else "decimal"
    )


def unit_behind(text: str, quantity: str) -> float | None:
    """The factor of the unit behind a number ("3.00 W"); None without one."""
    match = _WITH_UNIT.fullmatch(text.strip())
    unit = read_unit(match["unit"], quantity) if match and match["unit"] else None
    return unit[1] if unit else None


def is_missing(text: str) -> bool:
    return text.strip().lower() in MISSING


def read_numbers(texts: Sequence[str], quantity: str, factor: float | None, form: NumberFormat) -> np.ndarray:
    """Values in the base unit, NaN where one is missing; `factor` None takes the unit behind each number.

    Times are extended precision: a nanosecond stamp of today has 19 digits. Raises FieldError.
    """
    kind = np.longdouble if quantity == "time" else np.float64
    if factor is not None and form == POINT and not any("," in text or "_" in text for text in texts):
        try:
            plain: np.ndarray = np.array([text or "nan" for text in texts]).astype(kind)
            if not np.any(np.isinf(plain)):
                return np.asarray(plain * kind(factor))
        except (ValueError, OverflowError):
            pass
    return np.array([_value(text, quantity, factor, form) for text in texts], dtype=kind)


def _value(text: str, quantity: str, factor: float | None, form: NumberFormat) -> float:
    if is_missing(text):
        return math.nan
    match = _WITH_UNIT.fullmatch(text.strip())
    if not match:
        raise FieldError(f"{text[:40]!r} is no number")
    if match["unit"]:
        unit = read_unit(match["unit"], quantity)
        if unit is None or (factor is not None and unit[1] != factor):
            raise FieldError(f"{text[:40]!r} has another unit than its column")
        factor = unit[1]
    if factor is None:
        raise FieldError(f"{text[:40]!r} has no unit")
    return form.value(match["number"]) * factor


class ClockReader:
    """Times of day, with a date or without one, as seconds that go on over midnight. Dates as year-month-day count as
    dates; of others it counts that they change, since 01/02 is in two months. Zones are taken off."""

    def __init__(self) -> None:
        self._day, self._label, self._last = 0.0, "", -math.inf

    def read(self, texts: Iterable[str]) -> np.ndarray:
        """Seconds. Raises FieldError."""
        return np.array([self._read(text.strip()) for text in texts], dtype=np.longdouble)

    def _read(self, text: str) -> float:
        if is_missing(text):
            return math.nan
        match = CLOCK.fullmatch(text)
        if not match:
            raise FieldError(f"{text[:40]!r} is no time of day")
        hours = int(match["h"])
        if match["half"]:
            hours = hours % 12 + (12 if match["half"].lower().startswith("p") else 0)
        seconds = hours * 3600.0 + int(match["m"]) * 60 + int(match["s"])
        seconds += int(match["frac"]) / 10 ** len(match["frac"]) if match["frac"] else 0.0
        return self._days(match["date"].strip(" ,_T"), seconds) * _DAY_S + seconds - _zone(match["zone"])

    def _days(self, label: str, seconds: float) -> float:
        ymd = _YMD.fullmatch(label)
        if ymd:
            try:
                return datetime.date(*map(int, ymd.groups())).toordinal() - 719163.0  # days since 1970
            except ValueError:
                raise FieldError(f"{label!r} is no date") from None
        if label != self._label and self._last > -math.inf:
            self._day += 1
        elif not label and seconds < self._last - _DAY_S / 2:
            self._day += 1
        self._label, self._last = label, seconds
        return self._day


def _zone(text: str | None) -> float:
    """Seconds that a zone is ahead of UTC; 0 for a name, which is the same on every line."""
    if not text or text[0] not in "+-":
        return 0.0
    digits = text[1:].replace(":", "")
    return (1 if text[0] == "+" else -1) * (int(digits[:2]) * 3600.0 + int(digits[2:]) * 60)


def is_clock(text: str) -> bool:
    """Whether a field is a time of day, with a date or without."""
    return ":" in text and CLOCK.fullmatch(text.strip()) is not None
