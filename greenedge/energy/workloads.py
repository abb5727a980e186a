"""What is measured: anything that can do n inferences and say when it is done."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import Protocol

from greenedge.energy.clock import Clock, RealClock
from greenedge.errors import GreenedgeError

_LOOK_S = 0.05  # how often a look is taken while something else works


class Workload(Protocol):
    """`infer(n, on_wait)` does n calls of `batch` inferences each and returns when they are done.

    It calls `on_wait` now and then while it waits for something outside this process (a counter may need a look). A
    `continuous` workload may be asked in small pieces without a pause between; others are run whole.
    `host_included` says whether the machine that feeds it is part of the work (None: as the source says). Where the
    inferences of a call are computed at once, each waiting for all, `together` is true.
    """

    name: str
    kind: str
    batch: int
    continuous: bool
    accuracy: float | None
    host_included: bool | None

    def setup(self) -> None: ...

    def infer(self, n: int, on_wait: Callable[[], None]) -> None: ...

    def teardown(self) -> None: ...


def at_once(workload: Workload) -> int:
    """Inferences whose answers come together."""
    return workload.batch if getattr(workload, "together", False) else 1


class CallableWorkload:
    """A Python callable that does one batch: a closure over a session, or a runtime of a greenedge run."""

    kind, continuous, host_included = "callable", True, None

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

    def infer(self, n: int, on_wait: Callable[[], None]) -> None:
        for _ in range(n):
            self.call()
        if self.synchronise:
            # A GPU returns before it has finished: the window ends after the last kernel.
            self.synchronise()

    def teardown(self) -> None:
        """Nothing to give back."""


class CommandWorkload:
    """A shell-less command (argv) that does `inferences` inferences a run; anything but exit 0 stops the
    measurement."""

    kind, continuous, host_included = "command", False, True

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

    def infer(self, n: int, on_wait: Callable[[], None]) -> None:
        for _ in range(n):
            self._once(on_wait)

    def _once(self, on_wait: Callable[[], None]) -> None:
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
        """Every run has ended."""


class PipeWorkload:
    """A program that keeps a runtime ready: it says `ready`, is told a number and answers `done` after so many calls.

    A process of its own: what it loads does not weigh on us, and a file that makes it crash does not take us with it.
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
        self.host_included, self.timeout_s, self.clock, self._child = host_included, timeout_s, RealClock(), None

    def setup(self) -> None:
        self._errors = tempfile.TemporaryFile()
        self._child = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
        )
        self._expect("ready", lambda: None)

    def infer(self, n: int, on_wait: Callable[[], object]) -> None:
        try:
            self._child.stdin.write(f"{n}\n".encode())
        except BrokenPipeError:
            raise self._exit_error() from None
        self._expect("done", on_wait)

    def cpu_seconds(self) -> float:
        """User and system time of the program so far."""
        fields = open(f"/proc/{self._child.pid}/stat").read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def teardown(self) -> None:
        if self._child is None:
            return
        self._child.stdin.close()
        try:
            self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
        self._errors.close()
        self._child = None

    def _expect(self, word: str, on_wait: Callable[[], object]) -> None:
        end, text = self.clock.now() + self.timeout_s, b""
        while not text.endswith(b"\n"):
            if select.select([self._child.stdout], [], [], _LOOK_S)[0]:
                piece = self._child.stdout.read(64)
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
        code = self._child.wait()
        self._errors.seek(0)
        lines = self._errors.read()[-4096:].decode(errors="replace").strip().splitlines()
        said = lines[-1].rstrip(".") if lines else "without a word"
        return GreenedgeError(f"{self.name} ended with {code} while it was measured: {said}.")


class SerialWorkload:
    """A device under test on a serial port that speaks the MLPerf Tiny interface: `infer N 0%` answered by m-ready."""

    kind, continuous, host_included = "serial", False, False

    def __init__(
        self,
        port,
        name: str = "device under test",
        timeout_s: float = 120.0,
        clock: Clock | None = None,
        accuracy: float | None = None,
    ):
        self.port, self.name, self.timeout_s, self.batch, self.accuracy = port, name, timeout_s, 1, accuracy
        self.clock = clock or RealClock()

    def setup(self) -> None:
        self._ask("name%", lambda: None)

    def infer(self, n: int, on_wait: Callable[[], None]) -> None:
        self._ask(f"infer {n} 0%", on_wait)

    def teardown(self) -> None:
        self.port.close()

    def _ask(self, command: str, on_wait: Callable[[], None]) -> None:
        self.port.write(command.encode("ascii"))
        end, text = self.clock.now() + self.timeout_s, ""
        while "m-ready" not in text:
            text = (text + self.port.read(64).decode("ascii", errors="replace"))[-4096:]
            if "e-[" in text or "ERROR" in text:
                raise GreenedgeError(f"{self.name} answered {command!r} with {text.strip()[-80:]!r}; see its firmware.")
            if self.clock.now() > end:
                raise GreenedgeError(
                    f"{self.name} did not answer {command!r} with m-ready in {self.timeout_s:g} s; "
                    "check "
                    "the port, its speed and the firmware."
                )
            on_wait()


def serial_port(path: str, baud: int):
    """An open port. Raises GreenedgeError."""
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
