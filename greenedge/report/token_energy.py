"""Joules per token that others published (token_energy.toml), named with source and scope; not ranked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

_TABLE = Path(__file__).resolve().parent / "token_energy.toml"


@dataclass(frozen=True)
class PublishedEnergy:
    """One figure. `stated` is the source's own words; `evidence` says whether the number is theirs or was computed from
    them here; `year` that of the publication."""

    system: str
    model: str
    joules_per_token: float
    scope: str
    evidence: str
    stated: str
    source: str
    year: int

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value in ("", None) or (not isinstance(value, str) and value <= 0):
                raise ValueError(f"{_TABLE.name}: {item.name} of {self.system!r} is {value!r}")


def read_published_energy(path: Path = _TABLE) -> tuple[PublishedEnergy, ...]:
    """The figures in the order of the file. Raises ValueError or TypeError for a key that is missing, unknown or
    empty: the file is our own."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return tuple(PublishedEnergy(**entry) for entry in table["figures"])
