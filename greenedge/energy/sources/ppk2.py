"""Nordic Power Profiler Kit II over its serial port, by its protocol (one byte commands; 100,000 samples a second).

Facts of the protocol as Nordic's own pc-nrfconnect-ppk shows them: command 0x19 answers calibration as text up to END;
0x11 sets the mode (1 ampere meter, 2 source), 0x0d the voltage, 0x0c the supply, 0x06/0x07 start and stop. A sample is
32 bits little-endian: 14 bits ADC, 3 bits range, 1 unused, 6 bits counter, 8 logic pins. Gaps in the counter are lost
samples.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from greenedge.energy.clock import Clock
from greenedge.energy.source import Probe, SourceFault, SourceInfo

SAMPLE_S = 10e-6
BIN = 100
_START, _STOP, _SUPPLY, _VOLTAGE, _MODE, _META = 0x06, 0x07, 0x0C, 0x0D, 0x11, 0x19
_ADC_V = 1.8 / 163840
_RANGES = 5
_DEFAULTS = {
    "r": (1031.64, 101.65, 10.15, 0.94, 0.043),
    "gs": (1.0,) * 5,
    "gi": (1.0,) * 5,
    "o": (0.0,) * 5,
    "s": (0.0,) * 5,
    "i": (0.0,) * 5,
    "ug": (1.0,) * 5,
}
_FIX = "plug it in, close the nRF Connect application, and join the group dialout (sudo usermod -aG dialout $USER)"


class Port(Protocol):
    """What is used of a serial port."""

    def write(self, data: bytes) -> object: ...

    def read(self, count: int) -> bytes: ...

    def close(self) -> None: ...


def find(root: Path) -> list[Probe]:
    """Kits by their udev name under /dev/serial/by-id."""
    kits = sorted((root / "dev/serial/by-id").glob("*PPK2*-if01")) or sorted((root / "dev/serial/by-id").glob("*PPK2*"))
    if not kits:
        return [Probe("ppk2", "board", "the supplied board", "no Power Profiler Kit II is on USB", _FIX)]
    return [Probe(f"ppk2:{path.name}", "board", "the supplied board") for path in kits]


def open_source(
    source_id: str, root: Path, clock: Clock, volts: float = 3.3, port: Callable[[str], Port] | None = None
) -> Ppk2:
    """ppk2:NAME under /dev/serial/by-id; `port` opens another port (tests). Raises SourceFault."""
    path = root / "dev/serial/by-id" / source_id.partition(":")[2]
    return Ppk2(source_id, (port or _serial)(str(path)), volts, clock)


def _serial(path: str) -> Port:
    try:
        import serial
    except ImportError:
        raise SourceFault("ppk2", "absent", "pyserial is not installed", "pip install pyserial") from None
    try:
        return serial.Serial(path, timeout=0.5)
    except serial.SerialException as error:
        denied = "ermission" in str(error)
        raise SourceFault("ppk2", "denied" if denied else "absent", str(error), _FIX) from None


def calibration(text: str) -> dict[str, np.ndarray]:
    """The five numbers of each modifier from the kit's metadata; a number that is absent, 0 or NaN keeps Nordic's
    default. Raises SourceFault."""
    numbers = {key: np.array(values, dtype=float) for key, values in _DEFAULTS.items()}
    for line in text.split("END")[0].splitlines():
        key, _, value = line.partition(":")
        name, index = key.strip().lower().rstrip("0123456789"), key.strip()[-1:]
        if name not in numbers or not index.isdigit() or int(index) >= _RANGES:
            continue
        try:
            number = float(value)
        except ValueError:
            raise SourceFault(
                "ppk2", "implausible", f"its calibration says {line.strip()!r}", "update its firmware"
            ) from None
        if np.isfinite(number) and number != 0:
            numbers[name][int(index)] = number
    return numbers


def decode(data: bytes, cal: dict[str, np.ndarray], volts: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(counter steps from sample to sample, amperes, logic pins) of whole samples.

    A step is 1 where nothing was lost; the first step is the counter itself. The counter has 6 bits, so the loss of a
    multiple of 64 consecutive samples cannot be detected. Raises SourceFault for a range that the kit does not have.
    """
    words = np.frombuffer(data[: len(data) // 4 * 4], dtype="<u4")
    adc = (words & 0x3FFF).astype(float) * 4
    which = (words >> 14 & 7).astype(int)
    if np.any(which >= _RANGES):
        raise SourceFault(
            "ppk2",
            "implausible",
            f"a sample names range {which.max()}, there are {_RANGES}: the stream is out of step",
            "unplug it, plug it in again and repeat",
        )
    counter = (words >> 18 & 0x3F).astype(np.int64)
    bare = (adc - cal["o"][which]) * (_ADC_V / cal["r"][which])
    amperes = cal["ug"][which] * (
        bare * (cal["gs"][which] * bare + cal["gi"][which]) + cal["s"][which] * volts + cal["i"][which]
    )
    return np.diff(counter, prepend=0) % 64, amperes, (words >> 24).astype(np.uint8)


class Ppk2:
    """The kit as a source meter at `volts`; records between start and stop."""

    def __init__(self, source: str, port: Port, volts: float, clock: Clock):
        if not 0.8 <= volts <= 5.0:
            raise SourceFault(source, "implausible", f"{volts:g} V is asked for", "the kit gives 0.8 to 5.0 V")
        self.port, self.volts, self.clock = port, volts, clock
        self.info = SourceInfo(
            source,
            "stream",
            "board",
            "the supplied board",
            update_period_s=SAMPLE_S,
            max_power_w=5.0,
            host_included=False,
            notes=("gain is not stated as a standard uncertainty",),
        )
        self.port.write(bytes([_META]))
        self.cal = calibration(self._text())
        millivolts = round(volts * 1000)
        self.port.write(bytes([_MODE, 2]))
        self.port.write(bytes([_VOLTAGE, millivolts >> 8, millivolts & 0xFF]))
        self.port.write(bytes([_SUPPLY, 1]))

    def start(self) -> float:
        """Begins the stream; returns the time of its first sample in s of the clock."""
        self.port.write(bytes([_START]))
        self._start, self._rest, self._silent = self.clock.now(), b"", 0
        self._index, self._counter = -1, 0  # of the last sample: its number and its 6-bit counter
        return self._start

    def poll(self) -> tuple[np.ndarray, np.ndarray]:
        """(times in s, watts) in bins of 1 ms since the last call; a bin with a lost sample is left out, so that
        integrate() sees the gap. Raises SourceFault when the kit stays silent."""
        block = self.port.read(8192)
        self._silent = 0 if block else self._silent + 1
        if self._silent > 5:
            raise SourceFault(self.info.id, "dead", "it sends nothing", _FIX)
        data = self._rest + block
        whole = len(data) // 4 * 4
        if whole < 8 * BIN:
            self._rest = data
            return np.zeros(0), np.zeros(0)
        steps, amperes, _ = decode(data[:whole], self.cal, self.volts)
        steps[0] = 1 if self._index < 0 else (steps[0] - self._counter) % 64
        index = self._index + np.cumsum(steps)
        # The last bin may continue in the next block: its samples are kept for that call.
        done = int(np.searchsorted(index, index[-1] // BIN * BIN))
        self._rest = data[4 * done :]
        self._index = int(index[done - 1])
        self._counter = int(np.frombuffer(data[4 * done - 4 : 4 * done], "<u4")[0] >> 18 & 0x3F)
        bins, counts = np.unique(index[:done] // BIN, return_counts=True)
        sums = np.bincount(np.searchsorted(bins, index[:done] // BIN), weights=amperes[:done] * self.volts)
        full = counts == BIN
        return self._start + (bins[full] + 0.5) * BIN * SAMPLE_S, sums[full] / BIN

    def stop(self) -> None:
        self.port.write(bytes([_STOP]))

    def close(self) -> None:
        self.port.write(bytes([_SUPPLY, 0]))
        self.port.close()

    def _text(self) -> str:
        text = ""
        for _ in range(40):
            text += self.port.read(1024).decode("ascii", errors="replace")
            if "END" in text:
                return text
        raise SourceFault(self.info.id, "dead", "it does not answer the request for its calibration", _FIX)
