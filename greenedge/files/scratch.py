"""Folders for temporary files that are gone afterwards, also after a process was killed: the next one removes them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_PREFIX = "greenedge-"
_LOCK = ".lock"


@contextmanager
def scratch_folder(kind: str, place: str | None = None) -> Iterator[Path]:
    """An empty folder of this process's own in `place`, by default where temporary files go (TMPDIR).

    The kernel's lock on a file beside it says, on any machine that shares the place, that its owner lives.
    """
    where = Path(place or tempfile.gettempdir())
    _sweep(where)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{kind}-", dir=where) as outer:
        with open(Path(outer, "new"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(Path(outer, "new"), Path(outer, _LOCK))  # a lock under this name is held from the first moment
            work = Path(outer, kind)
            work.mkdir()
            yield work


@cache
def _sweep(where: Path) -> None:
    """Removes what processes that were killed left there; once per process."""
    for left in where.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if left.is_symlink() or left.stat().st_uid != os.geteuid():
                continue
            number = os.open(left / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(number, "r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
