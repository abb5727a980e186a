"""A plan carried out in part once more, so that a folder can be compared with what the plan makes of it.

What lies in a build folder may come from anybody. Files that greenedge generates from the plan alone are made again in
a folder of this process's own and compared byte for byte; only then are they compiled or simulated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from greenedge.files.scratch import scratch_folder
from greenedge.tools.plan import Plan
from greenedge.tools.run import RECORD, execute

_VARYING = ("seconds", "kept")


def find_unplanned(plan: Plan, folder: Path, progress: Callable[[str], None]) -> list[Path]:
    """The files below `folder` that are missing or are not what `plan` writes and generates, in the plan's order.

    Raises ToolError where a generating command fails, or its tool is missing.
    """
    with scratch_folder("replay") as scratch:
        made = Path(scratch) / "made"
        commands = tuple(command for command in plan.commands if command.generates)
        execute(replace(plan, commands=commands, products=()), made, progress)
        logs = {command.log for command in commands} | {RECORD}
        return [folder / name for name in _names(made) if name not in logs and not _is_same(folder / name, made / name)]


def _names(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())


def _is_same(found: Path, made: Path) -> bool:
    """Whether both hold the same bytes, or JSON the same but for what is not of the plan alone."""
    if found.is_symlink() or not found.is_file() or (found.stat().st_size > 2 * made.stat().st_size + 4096):
        return False
    one, other = found.read_bytes(), made.read_bytes()
    if one == other or made.suffix != ".json":
        return one == other
    try:
        return bool(_strip(json.loads(one)) == _strip(json.loads(other)))
    except (ValueError, RecursionError):
        return False


def _strip(value: Any) -> Any:
    """JSON without what differs from one run of a command to the next: its seconds, and whether a cache had it."""
    if isinstance(value, list):
        return [_strip(item) for item in value]
    return {k: _strip(v) for k, v in value.items() if k not in _VARYING} if isinstance(value, dict) else value
