"""Rows from recordings and reports of other tools, by kind: replayed from instruments, estimated from models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from greenedge.energy import estimate, external_meter, importers
from greenedge.energy.source import Trace
from greenedge.energy.sync_edges import logic_edges
from greenedge.errors import GreenedgeError


@dataclass(frozen=True)
class Recording:
    """A file and what it does not state itself. Spans are (start, stop) in seconds of the recording; `timing` is a file
    of `measure --external`; `cycles` the initiation interval, or the latency where `single_shot`; `volts` the
    supply."""

    path: Path
    name: str
    windows: tuple[tuple[float, float], ...] = ()
    idle: tuple[tuple[float, float], ...] = ()
    markers: bool = False
    timing: Path | None = None
    inferences: int = 1
    volts: float | None = None
    scope: str = "board"
    gain: float | None = None
    device: str = ""
    clock_hz: float | None = None
    cycles: int | None = None
    single_shot: bool = False
    columns: str | None = None

    @property
    def rate(self) -> tuple[int, float]:
        """(cycles, clock in Hz). Raises GreenedgeError."""
        if not self.cycles or not self.clock_hz:
            raise GreenedgeError(
                "energy per inference needs --cycles (initiation interval, or latency with "
                "--single-shot) and --clock-hz."
            )
        return self.cycles, self.clock_hz


def span(text: str) -> tuple[float, float]:
    """START:STOP in seconds. Raises GreenedgeError."""
    start, _, stop = text.partition(":")
    try:
        return float(start), float(stop)
    except ValueError:
        raise GreenedgeError(f"{text!r} is not START:STOP in seconds.") from None


def rows_of(recording: Recording, kind: str) -> list[dict]:
    """The rows of a recording that is of that kind (`KINDS`). Raises GreenedgeError for an unknown kind and for what
    the file lacks."""
    if kind not in KINDS:
        raise GreenedgeError(
            f"--as {kind!r} is not known; take {', '.join(list(KINDS)[:-1])}, {list(KINDS)[-1]} or results."
        )
    if not recording.path.is_file():
        raise GreenedgeError(f"{recording.path} is not there; check its name.")
    return KINDS[kind](recording)


def _trace(recording: Recording) -> list[dict]:
    path = recording.path
    trace = (
        importers.read_jls(path)
        if path.suffix == ".jls"
        else importers.read_csv(path, recording.volts, recording.columns)
    )
    if recording.timing is not None:
        return [_row_from_timing(recording, trace, recording.timing)]
    spans = _marker_windows(path, trace) if recording.markers else list(recording.windows)
    idle = list(recording.idle) or None
    return [
        importers.trace_row(
            recording.name, trace, spans, recording.inferences, recording.scope, idle, gain_rel=recording.gain
        )
    ]


def _marker_windows(path: Path, trace: Trace) -> list[tuple[float, float]]:
    """The stretches in which the marker line is high. Raises GreenedgeError."""
    edges = logic_edges(trace)
    if len(edges) < 2 or len(edges) % 2:
        raise GreenedgeError(
            f"{path} has {len(edges)} marker edges; every window has one up and one down: one is "
            "lost, so no window can be trusted."
        )
    return list(zip(edges[::2], edges[1::2], strict=True))


def _row_from_timing(recording: Recording, trace: Trace, path: Path) -> dict:
    """The row of a trace whose windows are in the timing file `path`, synchronised by its marks."""
    timing = external_meter.load_timing(path)
    sync = external_meter.synchronise(trace, timing)

    def in_trace(times: list[float]) -> tuple[float, float]:
        return float(sync.to_meter(times[0])), float(sync.to_meter(times[1]))

    windows = timing["windows"]
    row = importers.trace_row(
        str(timing["workload"]["name"]),
        trace,
        [in_trace(window["span"]) for window in windows],
        [window["inferences"] for window in windows],
        recording.scope,
        [in_trace(times) for window in windows for times in window["idle"]],
        sync_s=sync.residual_s,
        gain_rel=recording.gain,
    )
    accuracy = timing["workload"].get("accuracy")
    fit = {"offset_s": sync.offset_s, "drift_ppm": sync.drift * 1e6, "residual_s": sync.residual_s}
    return row | {"sync": fit, "accuracy": accuracy if isinstance(accuracy, (int, float)) else None}


def _switching(read: Callable[[Path], estimate.Activity]) -> Callable[[Recording], list[dict]]:
    def rows(recording: Recording) -> list[dict]:
        cycles, clock_hz = recording.rate
        activity, streaming = read(recording.path), not recording.single_shot
        return [
            estimate.fpga_row(recording.name, recording.device, clock_hz, activity, cycles=cycles, streaming=streaming)
        ]

    return rows


KINDS: dict[str, Callable[[Recording], list[dict]]] = {
    "trace": _trace,
    "mlperf-tiny": lambda recording: [importers.mlperf_tiny_row(recording.path)],
    "vivado": lambda recording: [importers.vivado_row(recording.name, recording.path, *recording.rate)],
    "perf": lambda recording: importers.perf_row(
        recording.name, recording.path, recording.inferences, recording.windows
    ),
    "codecarbon": lambda recording: importers.codecarbon_row(recording.path, recording.inferences),
    "saif": _switching(estimate.read_saif),
    "toggles": _switching(estimate.read_toggles),
}
