"""Reading JSON that nobody vouches for: fields of the type that they must have, and sizes that may be symbols."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
_SYMBOL = re.compile(r"(?:Symbol\('([A-Za-z]\w{0,40})'(?:, \w+=(?:True|False))*\)|([A-Za-z]\w{0,40}))")
_LONGEST = 120


class Damage(Exception):
    """What is wrong with a file, in words."""


@dataclass(frozen=True)
class Symbol:
    """A size that is open, by its name."""

    name: str


@dataclass(frozen=True)
class Expression:
    """A size that follows from symbols; its text is kept, and not evaluated."""

    text: str


Size = int | Symbol | Expression


def read_field(record: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """A field of a record. Raises Damage where it is missing, or of another type."""
    value = record.get(name) if isinstance(record, Mapping) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Damage(f"field {name[:_LONGEST]!r} is {_describe(value)}, and a {kind.__name__} belongs there")
    return value


def read_union(record: Any) -> tuple[str, Any]:
    """(tag, value) of a record that says which of several it is. Raises Damage for one with no or several tags."""
    if not isinstance(record, dict) or len(record) != 1:
        raise Damage(f"one tag belongs into {_describe(record)}")
    return next(iter(record.items()))


def read_size(record: Any) -> Size:
    """A size of a tensor. Raises Damage for anything else."""
    tag, value = read_union(record)
    if tag == "as_int" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if tag != "as_expr":
        raise Damage(f"a size is {_describe(record)}")
    text = read_field(value, "expr_str", str)
    found = _SYMBOL.fullmatch(text)
    return Symbol(found.group(1) or found.group(2)) if found else Expression(text[:_LONGEST])


def _describe(value: Any) -> str:
    return "missing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
