"""Runs a worker program in a process of its own: a damaged model file may crash the runtime that reads it."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from greenedge.progress import ProgressFn, no_progress
from greenedge.tools.capture import end_with_parent

LIMIT_S = 1800


def run_worker(
    argv: list[str], log: Path, total: int, label: str, progress: ProgressFn = no_progress, limit_s: float = LIMIT_S
) -> tuple[int | None, str]:
    """(exit status, None where the time ran out; standard error) of the worker. Its lines "done N" go to `progress`."""
    expired = threading.Event()
    with open(log, "w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=end_with_parent,
        )
        assert process.stdout is not None

        def expire() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(limit_s, expire)
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
