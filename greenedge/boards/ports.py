"""Serial ports. A port that cannot be opened is a BoardError with the cure; a later failure is `LinkLost`."""

from __future__ import annotations

import errno
import os
from typing import Protocol

from greenedge.boards.errors import BoardError, LinkLost

_CHUNK = 4096


class Port(Protocol):
    """`read` returns what has arrived after at most `wait_s`, b"" for nothing; `read` and `write` raise LinkLost."""

    def read(self, wait_s: float) -> bytes: ...

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class SerialPort:
    """A UART through pyserial. `read` waits for the first byte only."""

    def __init__(self, path: str, baud: int):
        """Raises BoardError with the cure."""
        import serial

        self.path, self.baud = path, baud
        try:
            self._serial = serial.Serial(path, baud, timeout=0, write_timeout=5, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as error:
            raise BoardError(why_not(path, baud, error)) from None

    def read(self, wait_s: float) -> bytes:
        """What has arrived after at most `wait_s`; b"" for nothing. Raises LinkLost."""
        import serial

        try:
            self._serial.timeout = wait_s
            first = self._serial.read(1)
            self._serial.timeout = 0
            return first + self._serial.read(_CHUNK) if first else b""
        except (serial.SerialException, OSError, TypeError) as error:  # TypeError: pyserial on a descriptor just closed
            raise LinkLost(f"{self.path} is gone ({error})") from None

    def write(self, data: bytes) -> None:
        """Raises LinkLost, also where the port accepts nothing for 5 s."""
        import serial

        try:
            self._serial.write(data)
        except (serial.SerialException, OSError) as error:
            raise LinkLost(f"{self.path} is gone ({error})") from None

    def close(self) -> None:
        """Closes the port, also one that has disappeared."""
        import contextlib

        with contextlib.suppress(OSError):
            self._serial.close()


def why_not(path: str, baud: int, error: Exception) -> str:
    """One sentence: why a port cannot be opened, and the cure."""
    code = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if code == errno.ENOENT or not os.path.exists(path):
        return f"there is no port {path}{list_known_ports()}; plug the board in, or say --port."
    if code in (errno.EACCES, errno.EPERM):
        return (
            f"{path} may not be opened by this user; add yourself to its group (sudo usermod -aG dialout $USER, then "
            "log in again) or install greenedge's udev rule (greenedge program --udev)."
        )
    if code in (errno.EAGAIN, errno.EBUSY) or "exclusively lock" in text:
        return f"{path} is in use by another program; close it, then run the same command again."
    if code == errno.EINVAL or isinstance(error, ValueError):
        return f"{path} does not do {baud:,} baud; build for a lower rate with --set build.baud=115200."
    return f"{path} cannot be opened: {text.rstrip('.')}; is it a serial port?"


def list_known_ports() -> str:
    """ "; ports here are: …", or nothing where there are none."""
    from serial.tools import list_ports

    names = sorted(port.device for port in list_ports.comports())
    return f"; ports here are: {', '.join(names)}" if names else ""
