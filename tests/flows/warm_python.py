"""Python programs that a build starts, in forks of this process: what they import is there already.

with warm_python(): …          # subprocess.Popen([sys.executable, "-m", MODULE, …]) and [sys.executable, SCRIPT, …]

Each still runs in a process of its own, in its folder, with its own arguments; a few seconds of imports become a few
milliseconds. All other programs are started as ever.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

_POLL_S = 0.002


class _Fork:
    """A forked Python program with as much of Popen's interface as greenedge uses."""

    def __init__(self, argv, cwd=None, stdin=None, stdout=None, stderr=None, env=None, text=False,
                 start_new_session=False, preexec_fn=None):  # fmt: skip
        reader, writer = os.pipe() if stdout == subprocess.PIPE else (None, None)
        self.returncode: int | None = None
        sys.stdout.flush(), sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            status = 70
            try:
                os.dup2(stdout.fileno() if writer is None else writer, 1)
                os.dup2(1 if stderr == subprocess.STDOUT else stderr.fileno(), 2)
                if start_new_session:
                    os.setsid()
                status = _run(argv, cwd, env)
            finally:
                os._exit(status)
        if writer is not None:
            os.close(writer)
        self.stdout = None if reader is None else os.fdopen(reader)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("python", timeout)
            time.sleep(_POLL_S)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _run(argv, cwd, env) -> int:
    """The exit status of the program, in the fork."""
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    os.chdir(cwd or ".")
    os.environ.update(env or {})
    try:
        if argv[1] == "-m":
            sys.argv = argv[2:]
            runpy.run_module(argv[2], run_name="__main__", alter_sys=True)
        else:
            sys.argv = argv[1:]
            runpy.run_path(argv[1], run_name="__main__")
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush(), sys.stderr.flush()


@contextmanager
def warm_python() -> Iterator[None]:
    """While it is open, Python programs are forks."""
    start = subprocess.Popen

    def popen(argv, *args, **kwargs):
        is_program = isinstance(argv, list) and argv[0] == sys.executable and (argv[1] == "-m" or argv[1][0] != "-")
        return _Fork(argv, *args, **kwargs) if is_program else start(argv, *args, **kwargs)

    with mock.patch.object(subprocess, "Popen", popen):
        yield
