"""Starts a program, waits for its end, and gives what it said; it ends with this process. (Those of a plan: run.py.)"""

from __future__ import annotations

import ctypes
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_LIBC = ctypes.CDLL(None)  # loaded here: nothing may be imported between fork and exec
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """A `preexec_fn`: the kernel ends the child when its parent ends, even by SIGKILL (prctl(2))."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def capture(
    argv: Sequence[str | Path], seconds: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `argv` with nothing on its standard input and both outputs as text; `env` replaces the environment.

    Raises OSError where it cannot be started, subprocess.TimeoutExpired where it did not end within `seconds`.
    """
    return subprocess.run(
        [str(word) for word in argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
        cwd=cwd,
        env=env,
        preexec_fn=end_with_parent,
    )
