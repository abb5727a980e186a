"""What a sweep varies: axes with the values of a setting each, read from --vary or a space.toml, and their grid."""

from __future__ import annotations

import itertools
import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenedge.errors import TargetError

Point = Mapping[str, str]  # a value for each axis, as text

TARGET, BACKEND = "target", "backend"  # the axes that are no setting
_MAX_BYTES = 1 << 20  # of a space.toml
_MAX_POINTS = 1_000_000_000  # of a grid; beyond that its points could not be numbered exactly everywhere
_EXAMPLE = "--vary KEY=VALUE,VALUE, such as train.optimiser=sgd,adam"


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes, as texts: "target", "backend", "build.KEY" or a recipe's "TABLE.KEY"."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """Axes; settings that all points have, as KEY=VALUE; and what is asked of a point, by names of figures."""

    axes: tuple[Axis, ...]
    sets: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many points the grid has."""
        return math.prod(len(axis.values) for axis in self.axes)

    def grid(self) -> Iterator[dict[str, str]]:
        """Every point, the last axis the fastest."""
        for values in itertools.product(*(axis.values for axis in self.axes)):
            yield {axis.key: value for axis, value in zip(self.axes, values, strict=True)}

    def point(self, number: int) -> dict[str, str]:
        """The point of that place in the grid, from 0."""
        chosen = {}
        for axis in reversed(self.axes):
            number, place = divmod(number, len(axis.values))
            chosen[axis.key] = axis.values[place]
        return {axis.key: chosen[axis.key] for axis in self.axes}

    def with_axis(self, key: str, values: Sequence[str]) -> Space:
        """This space with one more axis behind the others. Raises TargetError where it has that one."""
        return make_space([*self.axes, Axis(key, tuple(values))], self.sets, self.objectives)


def parse_vary(vary: Sequence[str]) -> list[Axis]:
    """("KEY=V1,V2", …) as axes; commas inside brackets part nothing. Raises TargetError."""
    axes = []
    for text in vary:
        key, equals, values = text.partition("=")
        choices = tuple(value.strip() for value in re.split(r",(?![^\[]*\])", values))
        if not equals or not key or not all(choices):
            raise TargetError(f"--vary {text!r} is not understood; write {_EXAMPLE.removeprefix('--vary ')}.")
        axes.append(Axis(key, choices))
    return axes


def read_space(path: Path) -> Space:
    """The space of a TOML file: [vary] KEY = [values], [set] KEY = value, objectives = [names].

    Raises TargetError with every reason, one a line.
    """
    if not path.is_file():
        raise TargetError(f"there is no file {path}; write one with [vary] KEY = [VALUE, VALUE], or say {_EXAMPLE}.")
    if path.stat().st_size > _MAX_BYTES:
        raise TargetError(f"{path} has {path.stat().st_size:,} bytes; a space takes at most {_MAX_BYTES:,}.")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TargetError(f"{path} is not TOML: {error}.") from None
    problems = [
        f"{path}: unknown key '{key}'; a space has: objectives, set, vary."
        for key in tables
        if key not in ("objectives", "set", "vary")
    ]
    axes = _read_axes(path, tables.get("vary", {}), problems)
    sets = _read_sets(path, tables.get("set", {}), problems)
    wanted = tables.get("objectives", [])
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        problems.append(f'{path}: objectives is {wanted!r}; write a list of names, such as ["accuracy", "bytes"].')
        wanted = []
    if problems:
        raise TargetError("\n".join(problems))
    return make_space(axes, sets, wanted, str(path))


def _read_axes(path: Path, table: object, problems: list[str]) -> list[Axis]:
    axes = []
    for key, values in _flatten(table):
        if not isinstance(values, list) or not values or any(isinstance(value, dict) for value in values):
            problems.append(f"{path}: [vary] {key or 'vary'} is {values!r}; write a list of values, such as [2, 4, 8].")
            continue
        axes.append(Axis(key, tuple(map(_to_text, values))))
    return axes


def _read_sets(path: Path, table: object, problems: list[str]) -> list[str]:
    flat = list(_flatten(table))
    problems += [f"{path}: set is {value!r}; it must be a table." for key, value in flat if not key]
    return [f"{key}={_to_text(value)}" for key, value in flat]


def _flatten(table: object, before: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every value in nested tables; ("", table) for what is no table."""
    if not isinstance(table, dict):
        yield before, table
        return
    for key, value in table.items():
        dotted = f"{before}.{key}" if before else str(key)
        if isinstance(value, dict):
            yield from _flatten(value, dotted)
        else:
            yield dotted, value


def _to_text(value: object) -> str:
    """A TOML value as --set takes it."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (bool, int, float, list)) else str(value)


def write_vary(vary: Mapping[str, Sequence[object]]) -> list[Axis]:
    """{key: values} of a caller in Python as axes. Raises TargetError where the values are no list."""
    for key, values in vary.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise TargetError(f"{key} varies over {values!r}; give a list of values, such as [2, 4, 8].")
    return [
        Axis(key, tuple(_to_text(list(value) if isinstance(value, tuple) else value) for value in values))
        for key, values in vary.items()
    ]


def make_space(
    axes: Sequence[Axis], sets: Sequence[str] = (), objectives: Sequence[str] = (), place: str = "--vary"
) -> Space:
    """The space of these axes. Raises TargetError with every reason: none, one twice, a value twice, too many."""
    problems = []
    for key in dict.fromkeys(axis.key for axis in axes):
        if sum(axis.key == key for axis in axes) > 1:
            problems.append(f"{place}: {key} is varied twice; write all its values once.")
        if any(text.partition("=")[0] == key for text in sets):
            problems.append(f"{place}: {key} is both set and varied; leave one of the two out.")
    for axis in axes:
        for value in dict.fromkeys(axis.values):
            if axis.values.count(value) > 1:
                problems.append(f"{place}: {axis.key} has the value {value!r} twice; leave one out.")
    space = Space(tuple(axes), tuple(sets), tuple(objectives))
    if not axes:
        problems.append(f"a sweep varies something and this one nothing; say {_EXAMPLE}, or --space FILE.")
    elif space.size > _MAX_POINTS:
        problems.append(f"{place}: the grid has {space.size:,} points; at most {_MAX_POINTS:,} can be sampled.")
    if problems:
        raise TargetError("\n".join(problems))
    return space


def name_point(settings: Point) -> str:
    """ "optimiser=adam schedule=cosine": the last part of each key and its value, the whole key where two end alike."""
    ends = [key.rpartition(".")[2] for key in settings]
    return " ".join(
        f"{key if ends.count(end) > 1 else end}={value}"
        for (key, value), end in zip(settings.items(), ends, strict=True)
    )
