"""JSON files from outside, of bounded size and depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 64 << 20


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """The value in a JSON file.

    Raises ValueError in words for a file that is too large, no UTF-8, no JSON or nested too deep, OSError for one that
    cannot be read.
    """
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(f"it has {size:,} bytes, at most {max_bytes:,} are read")
    return parse_json(path.read_text(encoding="utf-8"))


def read_table(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """As `read_json`, for a file that holds a table. Raises ValueError for any other value too."""
    found = read_json(path, max_bytes)
    if not isinstance(found, dict):
        raise ValueError("it is no table")
    return found


def parse_json(content: str) -> Any:
    """The value of a JSON text. Raises ValueError in words."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("its brackets are nested too deep") from None
