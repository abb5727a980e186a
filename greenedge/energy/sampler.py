"""Sampling in a separate process: a thread in the measured process slows it by 10 % at 1 kHz and jitters by 15 ms.

The child opens the source itself, appends (t, watts) as two little-endian doubles to a file and ends when its standard
input closes. Both processes read CLOCK_MONOTONIC_RAW, so their times compare. Measured cost: 10 Hz 0.2 % of a core.
"""

from __future__ import annotations

import os
import random
import select
import struct
import subprocess
import sys
import tempfile
import time
from io import FileIO
from pathlib import Path
from typing import NoReturn, cast

import numpy as np

from greenedge.energy.clock import RealClock
from greenedge.energy.source import SourceFault, StreamSource

_ROW = struct.Struct("<dd")


class SamplerProcess:
    """Starts, reads and ends the child. `rows` may be called while it runs."""

    def __init__(self, source_id: str, root: Path, hz: float):
        self.source_id, self.root, self.hz = source_id, root, hz

    def start(self) -> None:
        """Returns after the first two samples. Raises SourceFault with the child's message."""
        self._file = tempfile.NamedTemporaryFile(prefix="greenedge-energy-", suffix=".f8")
        argv = [
            sys.executable,
            "-m",
            "greenedge.energy.sampler",
            self.source_id,
            str(self.root),
            str(self.hz),
            self._file.name,
        ]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._child = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env
        )
        deadline = time.monotonic() + 15
        while len(self.rows()) < 2:
            if self._child.poll() is not None or time.monotonic() > deadline:
                self._fail()
            time.sleep(0.01)

    def rows(self) -> np.ndarray:
        """(n, 2) times and watts so far. Raises SourceFault if the child has died."""
        data = Path(self._file.name).read_bytes()
        if not data and self._child.poll() is not None:
            self._fail()
        return np.frombuffer(data[: len(data) // _ROW.size * _ROW.size], "<f8").reshape(-1, 2)

    @property
    def pid(self) -> int:
        """The process id of the running child."""
        return self._child.pid

    def stop(self) -> None:
        """Ends the child."""
        self._end()

    def _end(self) -> str:
        """Ends the child; returns what it wrote to standard error."""
        assert self._child.stdin is not None and self._child.stderr is not None, "started with pipes"
        self._child.stdin.close()
        try:
            self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        text = self._child.stderr.read().decode(errors="replace").strip()
        self._child.stderr.close()
        return text

    def _fail(self) -> NoReturn:
        text = self._end()
        raise SourceFault(
            self.source_id,
            "dead",
            f"its sampler ended: {text.splitlines()[-1] if text else 'no message'}",
            "greenedge energy probe tells more",
        )


def run(source_id: str, root: Path, hz: float, path: str) -> None:
    """The child's loop: one read in every step of 1 / `hz` s, at a random time, so that no periodic load is in phase.

    Steps are counted from the start, so that sleeping does not drift; steps that were missed are left out.
    """
    from greenedge.energy.sources import open_source

    clock, step, rng = RealClock(), 1 / hz, random.Random(os.getpid())
    source = open_source(source_id, root, clock)
    with open(path, "ab", buffering=0) as out:
        if source.info.kind == "stream":
            _stream(cast(StreamSource, source), out)
            return
        begun = due = clock.now()
        number = 0
        while not select.select([0], [], [], max(due - clock.now(), 0))[0]:
            reading = source.read()
            out.write(_ROW.pack(reading.t, reading.value))
            number = max(number + 1, int((clock.now() - begun) / step))
            due = begun + (number + rng.random()) * step
    source.close()


def _stream(source: StreamSource, out: FileIO) -> None:
    """The child's loop for an instrument that samples by itself."""
    source.start()
    try:
        while not select.select([0], [], [], 0)[0]:
            t, watts = source.poll()
            out.write(np.ascontiguousarray(np.stack([t, watts], axis=1), "<f8").tobytes())
    finally:
        source.stop()
        source.close()


if __name__ == "__main__":
    try:
        run(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
    except SourceFault as fault:
        sys.exit(str(fault))
