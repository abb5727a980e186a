"""Boards and devices: TOML files read strictly into frozen records.

A board says how a device is wired and reached, a device what the chip offers and what the tools call it. Unknown key,
missing key, wrong type, a fact without a source, a name that is not the file's: each is an error, reported together.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from greenedge.errors import TargetError
from greenedge.files.package_data import data_folder
from greenedge.files.scratch import scratch_folder

KINDS = ("fpga", "cpu", "mcu", "npu", "gpu")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MAX_BYTES = 64 << 10

# key -> (type, required). Facts are keys whose content comes from a document, which [source] names under the same key.
_BOARD = {
    "name": (str, True),
    "title": (str, True),
    "kind": (str, True),
    "device": (str, True),
    "backends": (list, True),
    "clock": (dict, False),
    "pins": (dict, False),
    "io": (dict, False),
    "host": (dict, False),
    "program": (dict, False),
    "power": (dict, False),
    "experimental": (bool, False),
    "source": (dict, True),
}
_BOARD_FACTS = ("device", "clock", "pins", "io", "host", "program", "power")
_HOST = {"baud": int, "core_hz": int, "active_low": list}
_DEVICE = {
    "name": (str, True),
    "title": (str, True),
    "family": (str, True),
    "part": (str, True),
    "resources": (dict, False),
    "toolchain": (dict, False),
    "source": (dict, True),
}
_DEVICE_FACTS = ("part", "resources", "toolchain")
_WORDS = {str: "text", list: "a list of texts", dict: "a table", bool: "true or false", int: "a whole number"}


@dataclass(frozen=True)
class Device:
    """A chip: what it offers (`resources`, counts; bram_bits in bits) and the options that the tools want for it."""

    name: str
    title: str
    family: str
    part: str
    resources: Mapping[str, int]
    toolchain: Mapping[str, str | tuple[str, ...]]
    source: Mapping[str, str]


class HostSettings(TypedDict, total=False):
    """[host] of a board file: `baud` of the UART, `core_hz` of the core's clock, `active_low` signals."""

    baud: int
    core_hz: int
    active_low: list[str]


@dataclass(frozen=True)
class Target:
    """A board or machine. `program` is an argv with `{bitstream}` in it; `backends` has the preferred one first.

    `io` has each signal's electrical settings in the words of the place-and-route tool, "default" for the others;
    `host` may have `baud` of the UART, `core_hz` of the core's clock, `active_low` signals. `texts` are the files of a
    board that does not ship with greenedge ("boards/NAME.toml", then "devices/NAME.toml" if it has its own device).
    """

    name: str
    title: str
    kind: str
    device: Device
    backends: tuple[str, ...]
    clock_hz: int | None = None
    clock_pin: str | None = None
    pins: Mapping[str, str] = field(default_factory=dict)
    io: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    host: HostSettings = field(default_factory=lambda: HostSettings())
    program: tuple[str, ...] = ()
    power: Mapping[str, str] = field(default_factory=dict)
    experimental: bool = False
    source: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict, compare=False)


def list_targets() -> list[str]:
    """Names of the targets that ship with greenedge, sorted."""
    return sorted(path.stem for path in (data_folder("targets") / "boards").glob("*.toml"))


def load_target(name_or_path: str | Path) -> Target:
    """The target of that name, or in that board file.

    A board file outside greenedge may have its device beside it in `../devices`. Raises TargetError: no such target
    (with the nearest names), or every error in the file.
    """
    text = str(name_or_path)
    if text.endswith(".toml"):
        path = Path(text)
        if not path.is_file():
            raise TargetError(f"{path}: there is no such board file.")
    else:
        path = data_folder("targets") / "boards" / f"{text}.toml"
        if not _NAME.fullmatch(text) or not path.is_file():
            raise TargetError(
                f"there is no target {text!r}{nearest(text, list_targets())}; targets are: {', '.join(list_targets())}."
            )
    return _board(path)


def read_target(texts: Mapping[str, str]) -> Target:
    """The target whose `texts` these are, as they come back from a run. Raises TargetError with every error in them."""
    names = [re.fullmatch(r"(boards|devices)/([a-z0-9-]+)\.toml", str(name)) for name in texts]
    if [name[1] if name else "" for name in names] not in (["boards"], ["boards", "devices"]):
        raise TargetError("a board's files are named boards/NAME.toml and, where it has its own, devices/NAME.toml.")
    with scratch_folder("target") as scratch:
        for name, text in texts.items():
            path = Path(scratch, name)
            path.parent.mkdir()
            path.write_text(str(text), encoding="utf-8")
        return _board(Path(scratch, next(iter(texts))))


def load_device(path: Path) -> Device:
    """The device in that file. Raises TargetError with every error."""
    data = _read(path)
    reasons = [*_shape(path, data, _DEVICE, "device"), *_sources(path, data, _DEVICE_FACTS)]
    resources, toolchain = data.get("resources", {}), data.get("toolchain", {})
    for key, value in _items(resources):
        if type(value) is not int or value <= 0:
            reasons.append(f"{path.name}: resources.{key} is {value!r}; it must be a whole number above 0.")
    for key, value in _items(toolchain):
        if not isinstance(value, str) and not _texts(value):
            reasons.append(f"{path.name}: toolchain.{key} is {value!r}; it must be text or a list of texts.")
    _stop(reasons)
    options = {key: value if isinstance(value, str) else tuple(value) for key, value in toolchain.items()}
    return Device(data["name"], data["title"], data["family"], data["part"], resources, options, data["source"])


def describe(target: Target) -> list[tuple[str, str]]:
    """All facts of a target as (label, text)."""
    device = target.device
    lines = [
        ("what", target.title + (" (experimental)" if target.experimental else "")),
        ("kind", target.kind),
        ("back ends", ", ".join(target.backends)),
        ("device", f"{device.part}, {device.title}"),
    ]
    lines += [(key, f"{count:,}") for key, count in device.resources.items()]
    if target.clock_hz:
        lines.append(("clock", f"{target.clock_hz / 1e6:g} MHz at pin {target.clock_pin}"))
    lines += [(f"pin {signal}", pin) for signal, pin in target.pins.items()]
    if target.program:
        lines.append(("program", " ".join(target.program)))
    sources = {**{f"{key} (device)": text for key, text in device.source.items()}, **target.source}
    return lines + [(f"source of {key}", text) for key, text in sources.items()]


def nearest(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the closest of `known`, or ""."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _board(path: Path) -> Target:
    data = _read(path)
    reasons = [*_shape(path, data, _BOARD, "board"), *_sources(path, data, _BOARD_FACTS)]
    reasons += _board_reasons(path, data)
    _stop(reasons)
    clock, program = data.get("clock", {}), data.get("program", {})
    device = _find_device(path, data["device"])
    return Target(
        name=data["name"],
        title=data["title"],
        kind=data["kind"],
        device=load_device(device),
        backends=tuple(data["backends"]),
        clock_hz=clock.get("hz"),
        clock_pin=clock.get("pin"),
        pins=data.get("pins", {}),
        io={key: tuple(value) for key, value in data.get("io", {}).items()},
        host=data.get("host", {}),
        program=tuple(program.get("argv", ())),
        power=data.get("power", {}),
        experimental=data.get("experimental", False),
        source=data["source"],
        texts=_read_texts(path, device),
    )


def _read_texts(*files: Path) -> dict[str, str]:
    """The content of those files that do not ship with greenedge, by the last folder's name and their own."""
    ours = data_folder("targets").resolve()
    return {
        f"{folder}/{path.name}": path.read_text(encoding="utf-8")
        for folder, path in zip(("boards", "devices"), files, strict=True)
        if not path.resolve().is_relative_to(ours)
    }


def _find_device(board: Path, name: str) -> Path:
    folders = [board.resolve().parent.parent / "devices", data_folder("targets") / "devices"]
    for folder in folders:
        if _NAME.fullmatch(name) and (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    known = sorted({path.stem for folder in folders for path in folder.glob("*.toml")})
    raise TargetError(
        f"{board.name}: there is no device {name!r}{nearest(name, known)}; devices are: {', '.join(known)}."
    )


def _board_reasons(path: Path, data: dict) -> list[str]:
    """Errors of a board beyond its keys and their types."""
    name, reasons = path.name, []
    if isinstance(data.get("kind"), str) and data["kind"] not in KINDS:
        reasons.append(f"{name}: kind is {data['kind']!r}; a board is one of {', '.join(KINDS)}.")
    if data.get("kind") == "fpga" and "clock" not in data:
        reasons.append(f"{name}: key 'clock' is missing; an FPGA board says clock = {{ pin = \"…\", hz = … }}.")
    if isinstance(data.get("backends"), list) and not (_texts(data["backends"]) and data["backends"]):
        reasons.append(f"{name}: backends is {data['backends']!r}; it must be a list of at least one text.")
    clock = data.get("clock")
    if isinstance(clock, dict) and not (
        set(clock) == {"pin", "hz"} and isinstance(clock["pin"], str) and type(clock["hz"]) is int and clock["hz"] > 0
    ):
        reasons.append(f'{name}: clock is {clock!r}; it must be {{ pin = "…", hz = a whole number above 0 }}.')
    reasons += _pin_reasons(name, data) + _host_reasons(name, data)
    program = data.get("program")
    if isinstance(program, dict):
        argv = program.get("argv")
        if set(program) != {"argv"} or not isinstance(argv, list) or not _texts(argv) or "{bitstream}" not in argv:
            reasons.append(f'{name}: program is {program!r}; it must be {{ argv = ["tool", …, "{{bitstream}}"] }}.')
    for key, value in _items(data.get("power")):
        if not isinstance(value, str):
            reasons.append(f"{name}: power.{key} is {value!r}; it must be text.")
    return reasons


def _pin_reasons(name: str, data: dict) -> list[str]:
    reasons, clock = [], data.get("clock")
    owner = {clock["pin"]: "clock"} if isinstance(clock, dict) and isinstance(clock.get("pin"), str) else {}
    for signal, pin in _items(data.get("pins")):
        if not isinstance(pin, str):
            reasons.append(f"{name}: pins.{signal} is {pin!r}; it must be text.")
        elif pin in owner:
            reasons.append(f"{name}: pin {pin!r} is given to both {owner[pin]!r} and {signal!r}; a pin has one signal.")
        else:
            owner[pin] = signal
    return reasons


def _host_reasons(name: str, data: dict) -> list[str]:
    reasons = []
    for signal, settings in _items(data.get("io")):
        if not _texts(settings):
            reasons.append(f"{name}: io.{signal} is {settings!r}; it must be a list of texts.")
        elif signal not in ("default", "clk", *dict(_items(data.get("pins")))):
            reasons.append(f"{name}: io.{signal} names no pin; it is one of default, clk or a key of [pins].")
    for key, value in _items(data.get("host")):
        if key not in _HOST:
            reasons.append(f"{name}: unknown key 'host.{key}'; host has: {', '.join(sorted(_HOST))}.")
        elif _HOST[key] is int and not (type(value) is int and value > 0):
            reasons.append(f"{name}: host.{key} is {value!r}; it must be a whole number above 0.")
        elif _HOST[key] is list and not _texts(value):
            reasons.append(f"{name}: host.{key} is {value!r}; it must be a list of texts.")
    return reasons


def _read(path: Path) -> dict:
    if path.stat().st_size > _MAX_BYTES:
        raise TargetError(f"{path.name}: is {path.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"{path.name}: is not TOML: {error}.") from None


def _shape(path: Path, data: dict, schema: Mapping, noun: str) -> list[str]:
    """Unknown and missing keys, wrong types, and a name that is not the file's."""
    keys = ", ".join(sorted(schema))
    reasons = [f"{path.name}: unknown key {key!r}; a {noun} has: {keys}." for key in data if key not in schema]
    for key, (kind, required) in schema.items():
        if required and key not in data:
            reasons.append(f"{path.name}: key {key!r} is missing; a {noun} has: {keys}.")
        elif key in data and type(data[key]) is not kind:
            reasons.append(f"{path.name}: {key} is {data[key]!r}; it must be {_WORDS[kind]}.")
    name = data.get("name")
    if isinstance(name, str) and name != path.stem:
        reasons.append(f"{path.name}: name is {name!r}; it must be the file's, {path.stem!r}.")
    elif isinstance(name, str) and not _NAME.fullmatch(name):
        reasons.append(f"{path.name}: name is {name!r}; a name has small letters, digits and single hyphens.")
    return reasons


def _sources(path: Path, data: dict, facts: Iterable[str]) -> list[str]:
    """Errors for a fact without a source, and a source without its fact."""
    sources = data.get("source")
    if not isinstance(sources, dict):
        return []
    reasons = [
        f"{path.name}: {fact!r} has no source; [source] names the document it was taken from."
        for fact in facts
        if fact in data and not sources.get(fact)
    ]
    reasons += [
        f"{path.name}: source.{key} names no fact of this file; facts are: {', '.join(facts)}."
        for key in sources
        if key not in facts or key not in data
    ]
    reasons += [
        f"{path.name}: source.{key} is {value!r}; it must be text."
        for key, value in sources.items()
        if not isinstance(value, str)
    ]
    return reasons


def _items(table: object) -> list[tuple[str, object]]:
    return list(table.items()) if isinstance(table, dict) else []


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _stop(reasons: list[str]) -> None:
    if reasons:
        raise TargetError("\n".join(reasons))
