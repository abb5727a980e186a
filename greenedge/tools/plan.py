"""A plan: the files to write and the programs to run, as data with a digest. Programs are named by tool, `{yosys}` or
`{python}`, never by path, so that a plan has the same digest on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Command:
    """One program to run, at most `timeout_s`. `log` and `cwd` are relative to the plan's folder; `argv[0]` may be
    '{python}' or '{tool}'; `label` is shown as progress.

    `generates` says that it writes files from the plan's own and from those of earlier such commands alone, the same
    bytes on every machine, but for "seconds" in JSON: run again, it tells whether the files are those that were planned
    (greenedge.tools.replay).
    """

    argv: tuple[str, ...]
    log: str
    label: str
    timeout_s: float = 1800
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "."
    generates: bool = False


@dataclass(frozen=True)
class Plan:
    """Files to write, commands to run in order, products that must exist and not be empty afterwards."""

    files: Mapping[str, bytes]
    commands: tuple[Command, ...]
    products: tuple[str, ...]

    def digest(self) -> str:
        """sha256 over everything in the plan; the same on every machine."""
        digest = hashlib.sha256()
        for name in sorted(self.files):
            digest.update(f"{name}\0{len(self.files[name])}\0".encode() + self.files[name])
        for command in self.commands:
            digest.update(
                json.dumps(
                    [
                        list(command.argv),
                        command.log,
                        command.label,
                        command.timeout_s,
                        sorted(command.env.items()),
                        command.cwd,
                    ]
                ).encode()
            )
        digest.update(json.dumps(list(self.products)).encode())
        return digest.hexdigest()
