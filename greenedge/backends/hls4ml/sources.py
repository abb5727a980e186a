"""The project's sources: what g++ and the vendor's compiler read. Listed when the project is written, for the vendor's
tools leave C++ of their own beside them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from greenedge.backends.hls4ml.toolchains import PROJECT
from greenedge.errors import GreenedgeError
from greenedge.files.json_file import read_json
from greenedge.run.folder import inside

_SUFFIXES = (".h", ".hh", ".hpp", ".cpp", ".txt")


def sources_within(folder: Path) -> list[str]:
    """Every file of a freshly written project that a compiler may read, by path below the build."""
    paths = sorted(
        path
        for path in (folder / PROJECT).rglob("*")
        if path.suffix in _SUFFIXES and path.is_file() and not path.is_symlink()
    )
    return [path.relative_to(folder).as_posix() for path in paths if "tb_data" not in path.parts]


def sources(folder: Path) -> dict[str, bytes]:
    """The listed files with their present content. Raises GreenedgeError where the list or one of them is missing."""
    path = folder / "project.json"
    try:
        names = read_json(path)["sources"]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError("it lists no sources")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GreenedgeError(f"{path} is missing or damaged ({error}); run the build stage again.") from None
    try:
        return {name: inside(folder, name).read_bytes() for name in names}
    except OSError as error:
        raise GreenedgeError(f"{error.filename} is missing; run the build stage again.") from None


def digest(folder: Path) -> str:
    """sha256 over the sources: what is simulated and what the vendor's compiler reads."""
    found = hashlib.sha256()
    for name, content in sources(folder).items():
        found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()
