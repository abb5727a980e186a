"""Rail maps of boards: targets/rails/*.toml. A map counts only on a machine whose firmware names the board."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from greenedge.errors import TargetError
from greenedge.files.package_data import data_folder

_MAX_FILE = 64 << 10
_NEEDED = ("name", "title", "source", "machine", "groups", "rail")
_KNOWN = {*_NEEDED, "experimental"}


@dataclass(frozen=True)
class Rail:
    """One rail of a map: the supply `name` is `channel` of the chip named `chip` (or the channel with this `label`)."""

    name: str
    group: str
    chip: str
    channel: int | None = None
    label: str | None = None
    scope: str = "rail"


@dataclass(frozen=True)
class RailMap:
    """A board's rails by group; `groups` maps each group to its scope, `machine` are the words of a device tree that
    name the board."""

    name: str
    title: str
    rails: tuple[Rail, ...]
    groups: dict[str, str]
    source: str
    machine: tuple[str, ...]
    experimental: bool = False


def load_rails(path: Path) -> RailMap:
    """A rail map. Raises TargetError with every reason."""
    if path.stat().st_size > _MAX_FILE:
        raise TargetError(f"{path.name}: is {path.stat().st_size:,} bytes; at most {_MAX_FILE:,} are read.")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"{path.name}: is not TOML: {error}.") from None
    reasons = [
        f"{path.name}: unknown key {key!r}; a rail map has: {', '.join(sorted(_KNOWN))}."
        for key in data
        if key not in _KNOWN
    ]
    reasons += [f"{path.name}: key {key!r} is missing." for key in _NEEDED if not data.get(key)]
    rails = []
    for number, rail in enumerate(data.get("rail", []), 1):
        extra = set(rail) - {"name", "group", "chip", "channel", "label"}
        if extra or not {"name", "group", "chip"} <= set(rail) or ("channel" in rail) == ("label" in rail):
            reasons.append(
                f"{path.name}: rail {number} has {sorted(rail)}; it has name, group, chip and one of channel, label."
            )
        elif rail["group"] not in data.get("groups", {}):
            reasons.append(
                f"{path.name}: rail {rail['name']!r} is in group {rail['group']!r}; [groups] has none of that name."
            )
        else:
            rails.append(Rail(scope=data["groups"][rail["group"]], **rail))
    if data.get("name") != path.stem:
        reasons.append(f"{path.name}: name is {data.get('name')!r}; it must be the file's, {path.stem!r}.")
    if reasons:
        raise TargetError("\n".join(reasons))
    return RailMap(
        data["name"],
        data["title"],
        tuple(rails),
        data["groups"],
        data["source"],
        tuple(data["machine"]),
        data.get("experimental", False),
    )


@cache
def rail_maps() -> tuple[RailMap, ...]:
    """All maps that ship with greenedge. Raises TargetError."""
    return tuple(load_rails(path) for path in sorted((data_folder("targets") / "rails").glob("*.toml")))
