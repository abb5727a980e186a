"""Files that are complete or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greenedge.errors import GreenedgeError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; it is renamed to `path` on success and removed on an error.

    Its name cannot be foreseen, so that no link lies there in a folder that comes from somebody else. A full disk or a
    missing permission becomes one GreenedgeError with the path in it.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.replace(aside, path)
    except OSError as error:
        raise GreenedgeError(_os_reason(path, error)) from None
    finally:
        aside.unlink(missing_ok=True)


def _os_reason(path: Path, error: OSError) -> str:
    """One sentence with the cure for an error of the operating system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path} could not be written: the disk is full; free some space and run the same command again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} could not be written: {(error.strerror or str(error)).lower()}; choose another folder with -o."
    return f"{path} could not be written: {error.strerror or error}."


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
