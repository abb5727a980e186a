"""Reads a build folder: its RTL with its present content, and numbers from the tools' reports."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greenedge.errors import GreenedgeError
from greenedge.files import json_file
from greenedge.hdl.axi_stream import Stream
from greenedge.run.folder import inside

FOLDER = "rtl"


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of the build. Raises GreenedgeError where it is missing or damaged."""
    path = folder / name
    try:
        return json_file.read_table(path)
    except (OSError, ValueError) as error:
        raise GreenedgeError(f"{path} is missing or damaged ({error}); run the build stage again.") from None


def streams_of(folder: Path) -> tuple[Stream, Stream]:
    """(input stream, output stream) of the core."""
    source, output = (Stream.from_plain(entry) for entry in read_json(folder, "streams.json")["streams"])
    return source, output


def sources_of(folder: Path) -> dict[str, bytes]:
    """{name: content} of the RTL files, as they are now. Raises GreenedgeError where one is missing."""
    try:
        return {
            name: inside(folder / FOLDER, name).read_bytes() for name in read_json(folder, "streams.json")["sources"]
        }
    except OSError as error:
        raise GreenedgeError(f"{error.filename} is missing; run the build stage again.") from None


def rtl_digest(folder: Path) -> str:
    """sha256 over every RTL file of the build: what a bitstream was made from."""
    digest = hashlib.sha256()
    for name, content in sorted(sources_of(folder).items()):
        digest.update(f"{name}\0".encode() + content)
    return digest.hexdigest()


def count_cells(stat: Mapping[str, Any], module: str | None, pattern: str, each: int = 1) -> int | None:
    """Cells whose type matches, times `each`, from yosys's `stat -json`: of a module, or of the whole design."""
    entry = stat.get("design") if module is None else stat.get("modules", {}).get(f"\\{module}")
    if not isinstance(entry, dict):
        return None
    return each * sum(
        int(count) for kind, count in entry.get("num_cells_by_type", {}).items() if re.fullmatch(pattern, kind)
    )


def count_nextpnr_cells(report: Mapping[str, Any], name: str) -> int | None:
    """How many cells of a kind nextpnr used."""
    entry = report.get("utilization", {}).get(name)
    return int(entry["used"]) if isinstance(entry, dict) and "used" in entry else None
