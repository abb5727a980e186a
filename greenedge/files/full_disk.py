"""Which place is full when something could not be written, for libraries and programs often do not say."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

_LEAST_FREE_BYTES = 1 << 20  # a failure with less space left than this is taken for a full disk


def find_full(folder: Path) -> Path | None:
    """`folder` or the folder of temporary files, whichever has no space left; None where both have."""
    return next((place for place in (folder, Path(tempfile.gettempdir())) if _is_full(place)), None)


def describe_full_disk(place: Path) -> str:
    """The sentence for people."""
    cure = "free some space"
    if place == Path(tempfile.gettempdir()):
        cure += ", or set TMPDIR to a folder that has some,"
    return f"{place} could not be written: the disk is full; {cure} and run the same command again."


def _is_full(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free < _LEAST_FREE_BYTES
