"""The kernel's locks on files: held by one process on any host that shares the folder, let go when it ends, however
it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from greenedge.errors import GreenedgeError

# exits with 1 where the lock is held by its parent, as it must be, with 0 where it gets it nevertheless
_TRY = """
import fcntl, os, sys
try:
    fcntl.flock(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(1)
"""


def open_lock(path: Path) -> TextIO:
    """The lock file, opened for reading and writing; no link is followed and nothing else is truncated. Raises
    GreenedgeError for anything but a file of its own."""
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise GreenedgeError(f"{path} is no lock that greenedge made; delete it.") from None
        raise
    about = os.fstat(number)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
        os.close(number)
        raise GreenedgeError(f"{path} is no lock that greenedge made; delete it.")
    return os.fdopen(number, "r+")


@contextmanager
def hold_lock(path: Path, wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock on `path`; where another process has it, calls `wait` once and then waits for it."""
    with open_lock(path) as handle:
        if not try_lock(handle):
            wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def try_lock(handle: TextIO) -> bool:
    """Takes the lock on an open file if nobody has it; whether it did."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether a process that lives holds the lock on `path`; False where there is no such file."""
    if not path.is_file():
        return False
    with open_lock(path) as handle:
        return not try_lock(handle)


def require_locks(folder: Path) -> None:
    """Raises GreenedgeError where the file system of `folder` has no locks, or such that keep nobody out."""
    cure = (
        "choose a folder on a file system with locks: a local disk, or NFS mounted without `nolock` and "
        "`local_lock=flock`"
    )
    path = folder / ".locks"
    try:
        with hold_lock(path):
            entered = subprocess.run([sys.executable, "-I", "-S", "-c", _TRY, str(path)], timeout=60).returncode == 0
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            raise
        raise GreenedgeError(f"{folder} has no file locks ({os.strerror(error.errno)}); {cure}.") from None
    if entered:
        raise GreenedgeError(f"{folder} has file locks that keep no other process out; {cure}.")
