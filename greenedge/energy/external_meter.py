"""Times a run for a meter that records by itself: the host's times of every window, and marks to find them in the
recording.

Marks are edges of a pin that the meter records (the most precise), or a load pattern before and after the run: pulses
of work of different lengths, located by correlation and solved for offset and drift (see sync_edges).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

from greenedge.energy.clock import Clock
from greenedge.energy.method import Method
from greenedge.energy.source import Trace
from greenedge.energy.sync_edges import Sync, logic_edges, match_edges, match_pattern
from greenedge.energy.workloads import Workload, serial_port
from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.files.json_file import read_json
from greenedge.progress import ProgressFn, no_progress

SCHEMA = "greenedge-energy-timing/1"
# Lengths of pulses and rests in turn, in units: uneven, so that only one shift fits.
_PATTERN = (1, 1, 2, 1, 1)
_MAX_BYTES = 16 << 20


class Pin(Protocol):
    """A line that the meter records; `set` drives its level."""

    def set(self, high: bool) -> None: ...

    def close(self) -> None: ...


class FilePin:
    """A GPIO line as a file: /sys/class/gpio/gpioN/value, or any file that takes 0 and 1. Raises GreenedgeError."""

    def __init__(self, path: Path):
        try:
            self._file = open(path, "w", encoding="ascii")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise GreenedgeError(f"{path} cannot be written: {error.strerror}; export the GPIO line first.") from None

    def set(self, high: bool) -> None:
        self._file.seek(0)
        self._file.write("1\n" if high else "0\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class RtsPin:
    """The RTS line of a serial adapter, for machines without GPIO. Raises GreenedgeError."""

    def __init__(self, path: str):
        self._port = serial_port(path, 115200)

    def set(self, high: bool) -> None:
        self._port.rts = high

    def close(self) -> None:
        self._port.close()


def open_pin(text: str) -> Pin | None:
    """None for "pattern"; "gpio:FILE" or "rts:PORT" as a pin. Raises GreenedgeError."""
    kind, _, where = text.partition(":")
    if text == "pattern":
        return None
    if kind not in ("gpio", "rts") or not where:
        raise GreenedgeError(f"--marker {text!r} is not known; take pattern, gpio:FILE or rts:PORT.")
    return FilePin(Path(where)) if kind == "gpio" else RtsPin(where)


def time_workload(
    workload: Workload,
    method: Method,
    clock: Clock,
    pin: Pin | None,
    repetitions: int,
    progress: ProgressFn = no_progress,
    unit_s: float = 1.0,
) -> dict:
    """Runs [idle | window | idle] × R; returns the timing. The meter must record from before until after the call.

    The workload is set up and torn down here. `unit_s` is the length of the pattern's shortest pulse.
    """
    run = _TimedRun(workload, clock, pin)
    workload.setup()
    try:
        progress(0, repetitions, "load pattern")
        patterns = [] if pin else [run.pattern(unit_s)]
        windows = []
        for number in range(repetitions):
            progress(number + 1, repetitions, workload.name)
            before, window, after = run.rest(method.idle_s), run.window(method), run.rest(method.idle_s)
            windows.append(window | {"idle": [before, after]})
            if number + 1 < repetitions:
                clock.sleep(method.cooldown_s)
        patterns += [] if pin else [run.pattern(unit_s)]
    finally:
        workload.teardown()
    return {
        "schema": SCHEMA,
        "workload": {"name": workload.name, "kind": workload.kind, "accuracy": workload.accuracy},
        "windows": windows,
        "patterns": patterns,
        "edges": run.edges,
    }


class _TimedRun:
    """The parts of a timed run; `edges` are the times of the pin's edges, in order."""

    def __init__(self, workload: Workload, clock: Clock, pin: Pin | None):
        self.workload, self.clock, self.pin = workload, clock, pin
        self.edges: list[float] = []

    def rest(self, seconds: float) -> list[float]:
        """[start, stop] of an idle stretch."""
        begun = self.clock.now()
        self.clock.sleep(seconds)
        return [begun, self.clock.now()]

    def window(self, method: Method) -> dict:
        """A window of work between two edges of the pin: its span and inferences."""
        begun, runs = self._mark(True), 0
        while self.clock.now() - begun < method.min_window_s or runs * self.workload.batch < method.min_inferences:
            self.workload.infer(1, lambda: None)
            runs += 1
        return {"span": [begun, self._mark(False)], "inferences": runs * self.workload.batch}

    def pattern(self, unit_s: float) -> list[float]:
        """Runs the load pattern; the times of its edges, up and down in turn."""
        edges = []
        for place, units in enumerate(_PATTERN):
            begun = self.clock.now()
            edges.append(begun)
            while self.clock.now() - begun < units * unit_s:
                if place % 2:
                    self.clock.sleep(units * unit_s - (self.clock.now() - begun))
                else:
                    self.workload.infer(1, lambda: None)
        edges.append(self.clock.now())
        self.clock.sleep(2 * unit_s)
        return edges

    def _mark(self, high: bool) -> float:
        before = self.clock.now()
        if self.pin is None:
            return before
        self.pin.set(high)
        # The edge is between the two reads of the clock.
        self.edges.append((before + self.clock.now()) / 2)
        return self.edges[-1]


def save_timing(timing: dict, path: Path) -> None:
    """Raises GreenedgeError where the file cannot be written."""
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(timing, indent=1) + "\n", encoding="utf-8")


def load_timing(path: Path) -> dict:
    """What `save_timing` wrote. Raises GreenedgeError for any other file."""
    try:
        timing = read_json(path, _MAX_BYTES)
        if timing.get("schema") != SCHEMA:
            raise ValueError(f"its schema is {timing.get('schema')!r}")
        spans = [span for window in timing["windows"] for span in (window["span"], *window["idle"])]
        times = [*timing["edges"], *(t for part in (*spans, *timing["patterns"]) for t in part)]
        counts = [window["inferences"] for window in timing["windows"]]
        if not counts or any(len(span) != 2 for span in spans) or not all(n > 0 for n in counts):
            raise ValueError("its windows are not whole")
        if not all(isinstance(t, (int, float)) and abs(t) < 1e12 for t in times):
            raise ValueError("a time in it is no number")
        str(timing["workload"]["name"])
    except OSError as error:
        raise GreenedgeError(f"{path} could not be read: {error.strerror}; check its name.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GreenedgeError(
            f"{path} is no timing ({error}); give a file written by greenedge energy measure --external."
        ) from None
    return timing


def synchronise(trace: Trace, timing: dict) -> Sync:
    """The map from the host's clock to the meter's. Raises SourceFault for lost or extra edges and a pattern that is
    not in the trace, GreenedgeError for a timing without marks."""
    if timing["edges"]:
        return match_edges(logic_edges(trace), timing["edges"])
    first = float(trace.t[-1] - trace.t[0])
    patterns = timing["patterns"]
    if not patterns:
        raise GreenedgeError("the timing has neither edges nor patterns; measure it again with --marker.")
    # The zero of the meter's clock is unknown: centre the search where the run fits into the recording.
    span = patterns[-1][-1] - patterns[0][0]
    shift = float(trace.t[0]) - patterns[0][0] + max(first - span, 0.0) / 2
    moved = [[edge + shift for edge in pattern] for pattern in patterns]
    sync = match_pattern(trace, moved, search_s=max(first - span, 2.0) / 2 + 2.0)
    return Sync(sync.offset_s + (1 + sync.drift) * shift, sync.drift, sync.residual_s)
