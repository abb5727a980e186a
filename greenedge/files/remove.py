"""Removal that follows no link."""

from __future__ import annotations

import shutil
from pathlib import Path


def remove(path: Path) -> None:
    """Removes a file, a link (never what it leads to) or a folder with all in it; what is absent stays so."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
