"""Workloads: what does n inferences and returns when they are done."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Protocol

from greenedge.energy.clock import Clock, RealClock
from greenedge.errors import GreenedgeError

_LOOK_S = 0.05  # between two calls of `on_wait`


class Workload(Protocol):
    """`infer(n, on_wait)` does n calls of `batch` inferences each and returns when they are done.

    It calls `on_wait` repeatedly while it waits for another process or device (a counter may need a read). A
    `continuous` workload can be run in small pieces without a pause between them; others are run whole. `host_included`
    says whether the machine that feeds it is part of the work (None: as the source says). `together` is true where the
    inferences of a call are computed at once, so that each waits for all.
    """

    name: str
    kind: str
    batch: int
    continuous: bool
    accuracy: float | None
    host_included: bool | None
    together: bool

    def setup(self) -> None: ...

    def infer(self, n: int, on_wait: Callable[[], object]) -> None: ...

    def teardown(self) -> None: ...


def inferences_at_once(workload: Workload) -> int:
    """Inferences whose answers come together."""
    return workload.batch if workload.together else 1


class CallableWorkload:
    """A Python callable that does one batch, such as a closure over a session. `synchronise` waits for a device."""

    kind, continuous, together = "callable", True, False
    host_included: bool | None = None

    def __init__(
        self,
        call: Callable[[], object],
        name: str,
        batch: int = 1,
        accuracy: float | None = None,
        synchronise: Callable[[], object] | None = None,
    ):
        self.call, self.name, self.batch, self.accuracy, self.synchronise = call, name, batch, accuracy, synchronise

    def setup(self) -> None:
        """Nothing to prepare: the callable is ready."""

    def infer(self, n: int, on_wait: Callable[[], object]) -> None:
        for _ in range(n):
            self.call()
        if self.synchronise:
            # A GPU call returns before its kernels have finished; the window must end after the last one.
            self.synchronise()

    def teardown(self) -> None:
        """Nothing was opened."""


class CommandWorkload:
    """A command (argv, without a shell) that does `inferences` inferences a run, at most `timeout_s`. Raises
    GreenedgeError for any exit status but 0."""

    kind, continuous, together = "command", False, False
    host_included: bool | None = True

    def __init__(
        self,
        argv: Sequence[str],
        inferences: int = 1,
        name: str | None = None,
        clock: Clock | None = None,
        timeout_s: float = 3600.0,
        accuracy: float | None = None,
    ):
        if not argv:
            raise GreenedgeError("there is no command to measure; put it after --, for instance: -- python infer.py.")
        self.argv, self.batch, self.accuracy = tuple(argv), inferences, accuracy
        self.name = name or shlex.join(argv)[:60]
        self.clock, self.timeout_s = clock or RealClock(), timeout_s

    def setup(self) -> None:
        """The command prepares itself."""

    def infer(self, n: int, on_wait: Callable[[], object]) -> None:
        for _ in range(n):
            self._run_once(on_wait)

    def _run_once(self, on_wait: Callable[[], object]) -> None:
        end = self.clock.now() + self.timeout_s
        try:
            child = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        except OSError as error:
            raise GreenedgeError(
                f"{self.argv[0]} could not be started: {error.strerror}; give its full path."
            ) from None
        try:
            while True:
                try:
                    code = child.wait(timeout=_LOOK_S)
                    break
                except subprocess.TimeoutExpired:
                    on_wait()
                    if self.clock.now() > end:
                        raise GreenedgeError(
                            f"{self.name} ran longer than {self.timeout_s:g} s; give --timeout."
                        ) from None
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if code:
            raise GreenedgeError(f"{self.name} ended with {code}; it must end with 0 to be measured: run it by hand.")

    def teardown(self) -> None:
        """No run outlives `infer`."""


class PipeWorkload:
    """A program that holds a runtime: it prints `ready`, reads a number n and prints `done` after n calls.

    It runs in a process of its own, so that neither its memory nor a crash of its runtime is ours. Raises
    GreenedgeError where it breaks the protocol, ends, or answers later than `timeout_s`.
    """

    continuous, together = True, True

    def __init__(
        self,
        argv: Sequence[str],
        name: str,
        kind: str = "runtime",
        batch: int = 1,
        accuracy: float | None = None,
        host_included: bool | None = True,
        timeout_s: float = 600.0,
    ):
        self.argv, self.name, self.kind, self.batch, self.accuracy = tuple(argv), name, kind, batch, accuracy
        self.host_included, self.timeout_s, self.clock = host_included, timeout_s, RealClock()
        self._child: subprocess.Popen[bytes] | None = None

    def setup(self) -> None:
        self._errors = tempfile.TemporaryFile()
        self._child = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
        )
        self._expect("ready", lambda: None)

    def infer(self, n: int, on_wait: Callable[[], object]) -> None:
        try:
            _pipe(self._running().stdin).write(f"{n}\n".encode())
        except BrokenPipeError:
            raise self._exit_error() from None
        self._expect("done", on_wait)

    def cpu_seconds(self) -> float:
        """User and system time of the program so far."""
        text = Path(f"/proc/{self._running().pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def teardown(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        _pipe(child.stdin).close()
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        _pipe(child.stdout).close()
        self._errors.close()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._child is not None, "the workload is not set up"
        return self._child

    def _expect(self, word: str, on_wait: Callable[[], object]) -> None:
        end, text, answers = self.clock.now() + self.timeout_s, b"", _pipe(self._running().stdout)
        while not text.endswith(b"\n"):
            if select.select([answers], [], [], _LOOK_S)[0]:
                piece = answers.read(64)
                if not piece:
                    raise self._exit_error()
                text += piece
            else:
                on_wait()
            if self.clock.now() > end:
                raise GreenedgeError(f"{self.name} did not say {word!r} within {self.timeout_s:g} s; give --timeout.")
        if text.strip() != word.encode():
            raise GreenedgeError(
                f"{self.name} said {text[:80]!r} where {word!r} was due; it must keep to the protocol."
            )

    def _exit_error(self) -> GreenedgeError:
        """The error for a program that has ended: its status and the last line of its standard error."""
        code = self._running().wait()
        self._errors.seek(0)
        lines = self._errors.read()[-4096:].decode(errors="replace").strip().splitlines()
        said = lines[-1].rstrip(".") if lines else "without a word"
        return GreenedgeError(f"{self.name} ended with {code} while it was measured: {said}.")


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """A pipe of a child that was started with pipes."""
    assert stream is not None, "the child was started without this pipe"
    return stream


class SerialPort(Protocol):
    """What is used of pyserial's port."""

    rts: bool

    def read(self, size: int) -> bytes: ...

    def write(self, data: bytes) -> object: ...

    def close(self) -> None: ...


class SerialWorkload:
    """A device under test on a serial port with the MLPerf Tiny interface: `infer N 0%` is answered by m-ready. Raises
    GreenedgeError for an error of the device and for silence of `timeout_s`."""

    kind, continuous, together = "serial", False, False
    host_included: bool | None = False

    def __init__(
        self,
        port: SerialPort,
        name: str = "device under test",
        timeout_s: float = 120.0,
        clock: Clock | None = None,
        accuracy: float | None = None,
    ):
        self.port, self.name, self.timeout_s, self.batch, self.accuracy = port, name, timeout_s, 1, accuracy
        self.clock = clock or RealClock()

    def setup(self) -> None:
        self._ask("name%", lambda: None)

    def infer(self, n: int, on_wait: Callable[[], object]) -> None:
        self._ask(f"infer {n} 0%", on_wait)

    def teardown(self) -> None:
        self.port.close()

    def _ask(self, command: str, on_wait: Callable[[], object]) -> None:
        self.port.write(command.encode("ascii"))
        end, text = self.clock.now() + self.timeout_s, ""
        while "m-ready" not in text:
            text = (text + self.port.read(64).decode("ascii", errors="replace"))[-4096:]
            if "e-[" in text or "ERROR" in text:
                raise GreenedgeError(f"{self.name} answered {command!r} with {text.strip()[-80:]!r}; see its firmware.")
            if self.clock.now() > end:
                raise GreenedgeError(
                    f"{self.name} did not answer {command!r} with m-ready in {self.timeout_s:g} s; "
                    "check the port, its speed and the firmware."
                )
            on_wait()


def serial_port(path: str, baud: int) -> SerialPort:
    """An open serial port. Raises GreenedgeError."""
    try:
        import serial
    except ImportError:
        raise GreenedgeError("pyserial is not installed: pip install pyserial.") from None
    try:
        return serial.Serial(path, baud, timeout=0.2)
    except serial.SerialException as error:
        raise GreenedgeError(
            f"{path} could not be opened: {error}; join the group dialout, or name another port."
        ) from None
