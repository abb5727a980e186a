"""What the columns of a recording mean: quantity and unit from the header, or from `--columns`. A unit that nobody
wrote is never guessed; the one table of spellings is `UNITS`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from greenedge.errors import GreenedgeError

# quantity -> {factor to s, W, A, V, J: the spellings of the unit, with u for micro; the first is the one that a cure
# writes, the others are in lower case}
UNITS: dict[str, dict[float, str]] = {
    "time": {
        1.0: "s sec secs second seconds sekunden secondes segundos",
        1e-3: "ms msec msecs millis millisecond milliseconds",
        1e-6: "us usec usecs micros microsecond microseconds",
        1e-9: "ns nsec nsecs nanos nanosecond nanoseconds",
        60.0: "min mins minute minutes",
        3600.0: "h hr hrs hour hours",
    },
    "power": {
        1.0: "W watt watts",
        1e-3: "mW mwatt mwatts milliwatt milliwatts",
        1e-6: "uW uwatt uwatts microwatt microwatts",
        1e-9: "nW nanowatt nanowatts",
        1e3: "kW kilowatt kilowatts",
    },
    "current": {
        1.0: "A amp amps ampere amperes",
        1e-3: "mA mamp mamps milliamp milliamps milliampere milliamperes",
        1e-6: "uA uamp uamps microamp microamps microampere microamperes",
        1e-9: "nA nanoamp nanoamps nanoampere nanoamperes",
    },
    "voltage": {
        1.0: "V volt volts vdc",
        1e-3: "mV mvolt mvolts millivolt millivolts",
        1e-6: "uV microvolt microvolts",
        1e3: "kV kilovolt kilovolts",
    },
    "energy": {
        1.0: "J joule joules ws",
        1e-3: "mJ millijoule millijoules",
        1e-6: "uJ microjoule microjoules",
        1e-9: "nJ nanojoule nanojoules",
        1e3: "kJ kilojoule kilojoules",
        3600.0: "Wh watthour watthours",
        3.6: "mWh",
        3.6e-3: "uWh",
        3.6e6: "kWh",
    },
}
_WORDS = {
    "time": "time times timestamp timestamps ts stamp elapsed datetime date clock epoch unixtime uptime zeit "
    "zeitstempel temps horodatage tiempo tempo t",
    "power": "power pwr watts watt draw wattage leistung puissance potencia potenza p pkgwatt",
    "current": "current amperage amps strom stromstärke courant corriente corrente i",
    "voltage": "voltage volt volts spannung tension voltaje tensione v u",
    "energy": "energy joules joule energie énergie energía consumed",
}
# A column with one of these words is not the quantity over time that its name or unit also says.
_NOT = {
    "time": "cpu inference latency duration response exec execution run user sys running enabled interval delta dt "
    "period",
    "power": "limit cap max min peak maximum minimum rated tdp budget factor apparent reactive setpoint threshold "
    "target state mode std stdev sd var variance",
    "current": "limit max min peak maximum minimum clocks link gen std stdev",
    "voltage": "limit max min peak maximum minimum std stdev",
    "energy": "",
}
MARKERS = ("marker", "d0", "gpi0", "gpi[0]", "gpi", "trigger", "sync", "ttl", "d0-d7")
# No scale is known for what carries one of these, so the unit beside it does not count.
_SCALED = re.compile(
    r"\b(raw|scaled|norm|normali[sz]ed|adc|counts?|percent|pct|rel|relative|code|lsb|dbm|dbw|va|vars?|hp|btu)\b"
    r"|[x*×/÷]\s*\d|\d\s*[x×]|\b\d+(\.\d+)?\s*[munk]?(w|a|v|j|s)\b|%"
)
_LONG = re.compile(
    "(timestamp|elapsed|power|current|voltage|energy|milliseconds?|microseconds?|nanoseconds?|seconds?|milliwatts?|"
    "microwatts?|watts?|milliamps?|microamps?|millivolts?|time(?!s))",
    re.IGNORECASE,
)
_ASKED = ("time", "power", "current", "voltage", "energy", "marker")
_SETTINGS = ("step", "sign", "decimal", "part", "gaps", "only")
COLUMNS_HELP = "time=NAME:ms,power=NAME:mW (or current=NAME:mA,voltage=NAME:V); NAME may be the number of the column"


def _spellings(quantity: str) -> dict[str, float]:
    return {word.lower(): factor for factor, words in UNITS[quantity].items() for word in words.split()}


SPELLINGS = {quantity: _spellings(quantity) for quantity in UNITS}
SHORT = {quantity: {f: words.split()[0] for f, words in units.items()} for quantity, units in UNITS.items()}


def read_unit(text: str, quantity: str | None = None) -> tuple[str, float] | None:
    """(quantity, factor to its base unit) of a unit's spelling, of `quantity` alone if it is given. None for what is no
    unit, and for MW, MA, MV and MJ: capitals stand for milli as often as for mega."""
    bare = text.strip().replace("µ", "u").replace("μ", "u").strip(".")
    if re.fullmatch(r"M[WAVJ]", bare):
        return None
    found = [
        (q, words[bare.lower()]) for q, words in SPELLINGS.items() if quantity in (None, q) and bare.lower() in words
    ]
    return found[0] if found else None


@dataclass(frozen=True)
class Meaning:
    """What the name of a column says: the quantity, and the factor of its unit (None where none is written)."""

    quantity: str
    factor: float | None


def read_name(name: str) -> Meaning | None:
    """The meaning of a column's name; None for a name that is none of ours."""
    low = name.strip().lstrip("#").strip().lower()
    if low in MARKERS:
        return Meaning("marker", 1.0)
    tokens = _tokens(name)
    lows = [token.lower() for token in tokens]
    units = [(k, found) for k, token in enumerate(tokens) if (found := _unit_at(tokens, k, token))]
    if _SCALED.search(_without_supply(low).replace("_", " ")):
        units = []
    said = {q for _, (q, _) in units}
    named = [q for token in lows for q in _WORDS if _is_word(token, q, len(tokens) - len(units))]
    if len(said) > 1 and named:
        units = [(k, found) for k, found in units if found[0] in named]
        said = {q for _, (q, _) in units}
    quantity = next(iter(said)) if len(said) == 1 else named[-1] if named else None
    if quantity is None or set(lows) & set(_NOT[quantity].split()):
        return None
    if quantity == "time" and "time" not in named and len(units) < len(tokens):
        return None  # "startup (ms)" is no clock
    factors = {factor for _, (q, factor) in units if q == quantity}
    return Meaning(quantity, factors.pop() if len(factors) == 1 else None)


def _without_supply(low: str) -> str:
    """The name without a voltage in it where a unit stands in brackets behind: POM_5V_IN (mW) is of a supply of 5 V."""
    match = re.fullmatch(r"(.*\S)\s*[(\[]([^()\[\]]+)[)\]]", low)
    if match is None or read_unit(match[2]) is None:
        return low
    return re.sub(r"(?<![a-z0-9])\d{1,2}v\d{0,2}(?![a-z0-9])", "", match[1])


def _is_word(token: str, quantity: str, words: int) -> bool:
    """Whether the token names the quantity; a single letter does so only as the whole name."""
    return token in _WORDS[quantity].split() and (len(token) > 1 or words == 1)


def _unit_at(tokens: list[str], k: int, token: str) -> tuple[str, float] | None:
    """The unit that token k is. A single letter in front is a name ("V (mV)"), one in the middle anything."""
    if tokens == ["a"]:
        return None  # a column "a" beside "b" is a letter; amperes are "A"
    found = read_unit(token)
    if found and len(token) == 1 and len(tokens) > 1 and (k == 0 or not _names_quantity(tokens[:k], found[0])):
        return None if k < len(tokens) - 1 else found
    return found


def _names_quantity(tokens: Iterable[str], quantity: str) -> bool:
    return any(token.lower() in _WORDS[quantity].split() for token in tokens)


def _tokens(name: str) -> list[str]:
    """The words of a column's name: "gpuPowerMw" and "GPU power (mW)" are GPU, power, mW."""
    joined = re.sub(r"\b(milli|micro|nano|kilo)[ _-](?=[a-z])", r"\1", name.strip().lstrip("#"), flags=re.IGNORECASE)
    tokens: list[str] = []
    for word in re.split(r"[\s_()\[\]{}<>/:;,.|#=-]+", joined):
        tokens += [word] if read_unit(word) or not word else [part for part in _LONG.split(word) if part]
    return [token for token in tokens if token and token.lower() not in ("in", "the", "of")]


@dataclass(frozen=True)
class Asked:
    """`--columns`: {quantity: (name or number, unit)}, and settings: `step` seconds between rows, `sign` -1 or 1,
    `decimal` "comma" or "point", `part` of a file that holds several recordings, `gaps` "hold" where a value lasts
    until the next line, `only` (column, value) of the rows that count."""

    columns: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    step_s: float | None = None
    sign: float = 1.0
    decimal: str = ""
    part: int | None = None
    hold: bool = False
    only: tuple[str, str] | None = None


def parse_columns(text: str | None) -> Asked:
    """Raises GreenedgeError for what is no `--columns`."""
    columns: dict[str, tuple[str, str]] = {}
    settings: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in (text or "").split(","))):
        key, equals, rest = entry.partition("=")
        if not equals or not rest or key not in _ASKED + _SETTINGS or key in columns or key in settings:
            raise _no_columns(entry)
        if key in _SETTINGS:
            settings[key] = rest
            continue
        name, _, unit = rest.rpartition(":") if ":" in rest else (rest, "", "")
        if not name or (unit and key != "marker" and read_unit(unit, key) is None and unit != "iso"):
            raise _no_columns(entry)
        columns[key] = (name, unit)
    return Asked(columns, **_read_settings(settings))


def _read_settings(given: Mapping[str, str]) -> dict:
    """The fields of Asked for these settings. Raises GreenedgeError."""
    found: dict = {}
    if "step" in given:
        match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?):?([a-z]+)", given["step"])
        unit = read_unit(match[2], "time") if match else None
        if match is None or unit is None or float(match[1]) <= 0:
            raise _no_columns(f"step={given['step']}")
        found["step_s"] = float(match[1]) * unit[1]
    choices = {"sign": ("1", "-1", "+1"), "decimal": ("comma", "point"), "gaps": ("hold",)}
    for key, allowed in choices.items():
        if key in given and given[key] not in allowed:
            raise _no_columns(f"{key}={given[key]}")
    if "part" in given and not re.fullmatch(r"[1-9]\d{0,5}", given["part"]):
        raise _no_columns(f"part={given['part']}")
    if "only" in given and not all(given["only"].partition(":")[::2]):
        raise _no_columns(f"only={given['only']}")
    found |= {"sign": float(given["sign"])} if "sign" in given else {}
    found |= {"decimal": given["decimal"]} if "decimal" in given else {}
    found |= {"part": int(given["part"])} if "part" in given else {}
    found |= {"hold": True} if "gaps" in given else {}
    if "only" in given:
        name, _, value = given["only"].rpartition(":")
        found["only"] = (name, value)
    return found


def _no_columns(entry: str) -> GreenedgeError:
    return GreenedgeError(
        f"--columns {entry[:80]!r} is not known; it is {COLUMNS_HELP}, with step=10ms, sign=-1, decimal=comma, part=2, "
        "gaps=hold, only=COLUMN:VALUE where they are asked for."
    )


def find_column(name: str, header: tuple[str, ...]) -> int:
    """The place of a column by its name, else by its number from 1. Raises GreenedgeError."""
    wanted = name.strip().lower()
    places = [k for k, title in enumerate(header) if title.strip().lstrip("#").strip().lower() == wanted]
    if len(places) == 1:
        return places[0]
    if wanted.isdigit() and 1 <= int(wanted[:6]) <= len(header):
        return int(wanted) - 1
    raise GreenedgeError(
        f"--columns names {name[:60]!r}, of which the file has {len(places)}; it has the columns "
        f"{describe_header(header)}: give a name, or a number from 1."
    )


def describe_header(header: Iterable[str]) -> str:
    """The names of the columns with their numbers, of bounded length."""
    titles = [f"{k} {' '.join(title.split())[:30]!r}" for k, title in enumerate(header, 1)]
    return ", ".join(titles)[:240]


def reference(place: int, header: tuple[str, ...]) -> str:
    """How a cure names a column: by its name where a shell takes it as it is, else by its number."""
    title = header[place].strip().lstrip("#").strip()
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,40}", title)
    alone = sum(other.strip().lstrip("#").strip().lower() == title.lower() for other in header) == 1
    return title if plain and alone else str(place + 1)
