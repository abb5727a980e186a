"""Runs a worker program in a process of its own: a damaged model file must not take us with it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 1800
Tell = Callable[[int, int, str], None]


def watched(
    argv: list[str], log: Path, total: int, label: str, progress: Tell = lambda *_: None, limit_s: float = LIMIT_S
) -> tuple[int | None, str]:
    """Exit status (None: out of time) and standard error of the worker; its words of progress ("done N") are passed on."""
    expired = threading.Event()
    with open(log, "w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True)
        timer = threading.Timer(limit_s, lambda: (expired.set(), process.kill()))
        timer.start()
        try:
            for line in process.stdout:
                if line.startswith("done "):
                    progress(int(line.split()[1]), total, label)
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
        errors.seek(0)
        return (None if expired.is_set() else status), errors.read()
