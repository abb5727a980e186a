"""Names of the edges that passes add."""

from __future__ import annotations

from collections.abc import Container


def choose_name(name: str, edges: Container[str]) -> str:
    """The name, with as many underscores behind it as make it none of `edges`."""
    while name in edges:
        name += "_"
    return name
