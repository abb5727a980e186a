"""Settings of a recipe: typed tables in, frozen dataclasses out, every reason at once.

A table's keys and types are the fields of a frozen dataclass; `setting` adds a range or a choice to one. Supported
types: bool, int, float, str, tuple[int, ...], tuple[str, ...], a dataclass of these, and dict[str, dataclass].
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)

Rules: TypeAlias = Mapping[str, Any]  # of one field: "least" and "most" (numbers), "choices" (texts), each optional
_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
    tuple[int, ...]: "a list of whole numbers",
    tuple[str, ...]: "a list of texts",
}


@dataclass(frozen=True)
class Source:
    """Where values come from, for messages: the file's name and the dotted keys that --set overrides."""

    file: str
    overridden: frozenset[str] = frozenset()

    def of(self, key: str) -> str:
        """`--set` for an overridden key or one below it, else the file."""
        is_overridden = any(key == other or key.startswith(other + ".") for other in self.overridden)
        return "--set" if is_overridden else self.file


def setting(
    default: Any = MISSING,
    *,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field with a rule; without `default` the key is required. Like dataclasses.field it has any type."""
    rules = {"least": least, "most": most, "choices": choices}
    metadata = {name: rule for name, rule in rules.items() if rule is not None}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def read_table(kind: type[Settings], table: object, path: str, source: Source, problems: list[str]) -> Settings | None:
    """Reads `table` as the dataclass `kind`; appends each broken rule to `problems` and then returns None.

    table   a value as tomllib reads it
    path    dotted name of the table, such as "train"
    """
    if not isinstance(table, Mapping):
        problems.append(f"{source.of(path)}: {path} is {table!r}; it must be a table.")
        return None
    before = len(problems)
    types = typing.get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}
    listing = f"[{path}] has: {', '.join(sorted(known)) or 'no keys'}"
    for key in table:
        if key not in known:
            problems.append(f"{source.of(f'{path}.{key}')}: unknown key '{path}.{key}'; {listing}.")
    values: dict[str, Any] = {}
    for key, item in known.items():
        if key in table:
            values[key] = _read_value(types[key], table[key], f"{path}.{key}", item.metadata, source, problems)
        elif item.default is MISSING and item.default_factory is MISSING:
            problems.append(f"{source.file}: '{path}.{key}' is missing; {listing}.")
    if len(problems) > before:
        return None
    try:
        return kind(**values)
    except ValueError as error:  # a rule in the dataclass's __post_init__
        problems.append(f"{source.of(path)}: [{path}] {error}.")
        return None


def _read_value(kind: Any, value: object, path: str, rules: Rules, source: Source, problems: list[str]) -> Any:
    """The value as the field type `kind`; None, and a line in `problems`, where it breaks a rule."""
    if isinstance(kind, type) and is_dataclass(kind):
        return read_table(kind, value, path, source, problems)
    if typing.get_origin(kind) is dict:
        if not isinstance(value, Mapping):
            problems.append(f"{source.of(path)}: {path} is {value!r}; it must be a table.")
            return None
        inner = typing.get_args(kind)[1]
        return {key: read_table(inner, item, f"{path}.{key}", source, problems) for key, item in value.items()}
    assert kind in _KINDS, f"{path} has a type that a recipe cannot have: {kind}"
    converted = _convert(kind, value)
    if converted is None or not _is_within(converted, rules):
        problems.append(f"{source.of(path)}: {path} is {value!r}; it must be {_describe_rule(kind, rules)}.")
    return converted


def _convert(kind: Any, value: object) -> Any:
    """The value as `kind`, None where it is something else; a whole number is also a number, never the reverse."""
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    if kind is float:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < float("inf"):
            return None
        return float(value)
    if kind is str:
        return value if isinstance(value, str) else None
    inner = typing.get_args(kind)[0]
    if not isinstance(value, (list, tuple)):
        return None
    items = [_convert(inner, item) for item in value]
    return None if None in items else tuple(items)


def _is_within(value: Any, rules: Rules) -> bool:
    if "choices" in rules and value not in rules["choices"]:
        return False
    parts = value if isinstance(value, tuple) else (value,)
    return all(part >= rules["least"] for part in parts if "least" in rules) and all(
        part <= rules["most"] for part in parts if "most" in rules
    )


def _describe_rule(kind: Any, rules: Rules) -> str:
    if "choices" in rules:
        return "one of: " + ", ".join(rules["choices"])
    text = _KINDS[kind]
    if "least" in rules and "most" in rules:
        return f"{text} from {rules['least']} to {rules['most']}"
    if "least" in rules:
        return f"{text} of at least {rules['least']}"
    return f"{text} of at most {rules['most']}" if "most" in rules else text


def apply_overrides(tables: dict[str, Any], overrides: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """A copy of `tables` with each dotted key set; a value is read as TOML, and as a text where it is no TOML."""
    copied = _deep_copy(tables)
    for key, text in overrides.items():
        *path, last = key.split(".")
        if not path or not all(path) or not last:
            problems.append(f"--set: {key!r} names no setting; write TABLE.KEY=VALUE, such as train.epochs=2.")
            continue
        place: Any = copied
        for part in path:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            problems.append(f"--set: {key!r} goes below a value that is no table.")
            continue
        place[last] = _toml_value(text)
    return copied


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if set(parsed) == {"value"} else text


def _deep_copy(value: Any) -> Any:
    return {key: _deep_copy(item) for key, item in value.items()} if isinstance(value, dict) else value


def to_json_values(settings: DataclassInstance) -> dict[str, Any]:
    """A settings dataclass as nested dicts of JSON values, tuples as lists."""
    return {key: _to_json_value(value) for key, value in dataclasses.asdict(settings).items()}


def _to_json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_json_value(item) for key, item in value.items()}
    return [_to_json_value(item) for item in value] if isinstance(value, tuple) else value
