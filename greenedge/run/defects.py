"""The last resort: an error that nobody foresaw, in one sentence, with its trace in a file that can be sent."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from greenedge import __version__
from greenedge.errors import GreenedgeError
from greenedge.files.cache import cache_folder

_KEPT = 20  # traces


def describe_defect(error: BaseException, argv: Sequence[str]) -> str:
    """One sentence about a defect of ours. Writes the trace, the command and the versions beside it."""
    said = next(iter(str(error).splitlines()), "").strip()[:200].rstrip(".")
    text = (
        f"greenedge {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{shlex.join(argv)}\n\n{''.join(traceback.format_exception(error))}"
    )
    return (
        f"{type(error).__name__}{f': {said}' if said else ''}; this is a defect of greenedge and none of your model: "
        f"please send {_write(text)} (the full trace) and, where you can, the model to its issues."
    )


def _write(text: str) -> Path:
    """The file with the trace; the oldest beyond `_KEPT` go."""
    try:
        folder = cache_folder("defects")
        for old in sorted(folder.glob("*.txt"))[: -_KEPT + 1]:
            old.unlink(missing_ok=True)
        path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        path.write_text(text, encoding="utf-8")
    except (OSError, GreenedgeError):
        number, name = tempfile.mkstemp(prefix="greenedge-defect-", suffix=".txt")
        os.close(number)
        path = Path(name)
        try:
            path.write_text(text, encoding="utf-8")
        except OSError:
            sys.stderr.write(text)
    return path
