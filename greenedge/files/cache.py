"""The user's cache: what is compiled or installed once. Programs are run from it, so it is its owner's alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import platformdirs

from greenedge.errors import GreenedgeError


def cache_folder(*names: str) -> Path:
    """The folder of these names below greenedge's cache; it exists and only its owner may enter it, whatever the umask.

    Raises GreenedgeError where it is a link or somebody else's, or cannot be made.
    """
    folder = Path(platformdirs.user_cache_dir("greenedge"))
    for part in (folder, *(folder.joinpath(*names[: count + 1]) for count in range(len(names)))):
        _make_private(part)
    return folder.joinpath(*names)


def _make_private(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            raise GreenedgeError(
                f"{folder} is no folder of yours; programs are kept and run there: delete it, or set XDG_CACHE_HOME."
            )
        if about.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise GreenedgeError(
            f"{folder} could not be made: {(error.strerror or str(error)).lower()}; set XDG_CACHE_HOME to a folder of "
            "yours with some space."
        ) from None
