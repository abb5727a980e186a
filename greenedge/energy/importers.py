"""Reads recordings and reports of other tools: traces (CSV, JLS), MLPerf Tiny runner logs, Vivado power, perf stat."""

from __future__ import annotations

import csv
import re
import xml.parsers.expat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.energy import perf_output
from greenedge.energy.evidence import Figure
from greenedge.energy.recording import read_recording
from greenedge.energy.results import make_row, trace_json
from greenedge.energy.source import SourceInfo, Trace, integrate
from greenedge.energy.stats import mean_interval
from greenedge.energy.table_text import text_encoding
from greenedge.errors import GreenedgeError

_MAX_BYTES = 1 << 30


def read_csv(path: Path, volts: float | None = None, columns: str | None = None) -> Trace:
    """The trace in a table of time and power, or time, current and voltage (or `volts`); `columns` as `--columns`.

    Raises GreenedgeError, with the `--columns …` that reads the file where its header leaves something open.
    """
    _check_size(path)
    _refuse_other_kinds(path)
    return read_recording(path, volts, columns)


def read_jls(path: Path) -> Trace:
    """Power of a Joulescope JLS file, with its first general-purpose input as the marker. Needs `pyjls`.

    Raises GreenedgeError without the package and for a file without power.
    """
    try:
        import pyjls
    except ImportError:
        raise GreenedgeError('pyjls is not installed: pip install "greenedge[joulescope]".') from None
    try:
        reader = pyjls.Reader(str(path))
    except Exception as error:  # noqa: BLE001 - the binding raises several kinds for a file that is not JLS
        raise GreenedgeError(f"{path} is not a JLS file: {error}.") from None
    try:
        signals = {signal.name: signal for signal in reader.signals.values()}
        if "power" not in signals:
            raise GreenedgeError(f"{path} has the signals {', '.join(signals)}; record power as well.")
        power = signals["power"]
        watts = reader.fsr(power.signal_id, 0, power.length)
        marks = None
        if "gpi[0]" in signals:
            bits = reader.fsr(signals["gpi[0]"].signal_id, 0, power.length)
            marks = np.unpackbits(bits, bitorder="little")[: power.length]
        return Trace(
            np.arange(power.length) / power.sample_rate, np.asarray(watts, dtype=float), marks, {"file": path.name}
        )
    finally:
        reader.close()


@dataclass(frozen=True)
class _TraceWindows:
    """Windows of a trace, each with its joules, their uncertainty from the trace (J), length (s) and inferences."""

    spans: Sequence[tuple[float, float]]
    joules: np.ndarray
    trace_u: np.ndarray
    seconds: np.ndarray
    inferences: np.ndarray

    @classmethod
    def integrate(
        cls, trace: Trace, spans: Sequence[tuple[float, float]], inferences: float | Sequence[float]
    ) -> _TraceWindows:
        """Raises GreenedgeError for no window or no inferences, SourceFault for a window outside the trace."""
        if not spans or np.any(np.asarray(inferences) <= 0):
            raise GreenedgeError(
                f"{len(spans)} windows with {inferences} inferences make no figure; give --window A:B and --inferences."
            )
        joules, trace_u = np.array([integrate(trace, a, b) for a, b in spans]).T
        counts = np.broadcast_to(np.asarray(inferences, dtype=float), len(spans))
        return cls(spans, joules, trace_u, np.array([b - a for a, b in spans]), counts)

    def instrument_u(self, sync_s: float, gain_rel: float | None, mean_j: float) -> float | None:
        """Standard uncertainty of the mean in J per inference; None where the gain is unknown.

        Boundaries and markers are independent for every window, the gain is common to all.
        """
        if gain_rel is None:
            return None
        boundary = float(np.mean(self.trace_u / self.inferences)) / len(self.spans) ** 0.5
        sync = sync_s * 2**0.5 * float(np.mean(self.joules / self.seconds / self.inferences))
        return (boundary**2 + sync**2 + (gain_rel * mean_j) ** 2) ** 0.5


def trace_row(
    name: str,
    trace: Trace,
    windows: Sequence[tuple[float, float]],
    inferences: float | Sequence[float],
    scope: str = "board",
    idle: Sequence[tuple[float, float]] | None = None,
    covers: str = "the supplied board",
    sync_s: float = 0.0,
    gain_rel: float | None = None,
) -> dict:
    """A replayed row from windows (start, stop in s), with `inferences` in each (one number, or one for each window).

    `idle` has two stretches for each window, in order, and gives the net energy; `sync_s` is the standard uncertainty
    of the windows' times, `gain_rel` that of the meter's gain. Raises GreenedgeError, SourceFault.
    """
    _refuse_overlap(windows)
    parts = _TraceWindows.integrate(trace, windows, inferences)
    if idle and len(idle) != 2 * len(windows):
        raise GreenedgeError(
            f"{len(idle)} idle stretches for {len(windows)} windows; each window has one before and one after."
        )
    total = mean_interval(parts.joules / parts.inferences)
    meter = parts.instrument_u(sync_s, gain_rel, total.mean)
    info = SourceInfo(
        "trace:" + trace.meta.get("file", "memory"), "stream", scope, covers, evidence="replayed", gain_rel=gain_rel
    )
    figures = {"total": Figure(total.mean, "energy", "j", scope, "replayed", total.low, total.high, meter, covers)}
    reps = _repetitions(parts)
    if idle:
        idle_w = np.array([integrate(trace, a, b)[0] / (b - a) for a, b in idle]).reshape(-1, 2).mean(axis=1)
        net_j = (parts.joules - idle_w * parts.seconds) / parts.inferences
        net, rest = mean_interval(net_j), mean_interval(idle_w)
        figures["net"] = Figure(net.mean, "energy", "j", scope, "replayed", net.low, net.high, meter, covers)
        figures["idle"] = Figure(rest.mean, "power", "w", scope, "replayed", rest.low, rest.high, None, covers)
        for k, rep in enumerate(reps):
            rep["net_energy_j"] = float(net_j[k])
            rep["spans"] += [[*map(float, span), "idle"] for span in idle[2 * k : 2 * k + 2]]
    return make_row(name, "trace", info, figures, host_included=None, flags=list(trace.notes)) | {
        "repetitions": reps,
        "trace_sha256": trace.digest(),
        "trace": trace_json(trace, "replayed"),
        "latency_s": {"value": float(np.mean(parts.seconds / parts.inferences))},
    }


def _refuse_overlap(windows: Sequence[tuple[float, float]]) -> None:
    """Raises GreenedgeError for windows that share time: its joules would count twice, as if measured independently."""
    ordered = sorted(windows)
    for (start, stop), (after, _) in zip(ordered, ordered[1:], strict=False):
        if after < stop:
            raise GreenedgeError(
                f"the windows from {start:g} s to {stop:g} s and from {after:g} s overlap; "
                "give windows that share no time."
            )


def _repetitions(parts: _TraceWindows) -> list[dict[str, Any]]:
    return [
        {
            "energy_j": float(joules / count),
            "window_s": float(seconds),
            "inferences": float(count),
            "spans": [[*map(float, span), "window"]],
        }
        for joules, seconds, count, span in zip(parts.joules, parts.seconds, parts.inferences, parts.spans, strict=True)
    ]


_NUMBER = r"(\d{1,18}(?:\.\d{0,18})?)"  # of bounded length: no text makes the search for one take long
_STREAMING = re.compile(r"\bsww\d\d\b", re.IGNORECASE)
_TRIAL = re.compile(r"Energy data for trial \d")
_TRIAL_PARTS = tuple(
    re.compile(rf"{what}[ \t]{{0,40}}:[ \t]{{0,40}}{number}")
    for what, number in (
        ("Elapsed time", _NUMBER),
        ("Inferences", r"([1-9]\d{0,17})\b"),
        ("Energy/Inf", f"{_NUMBER} uJ/inf"),
    )
)
_MEDIAN = re.compile(f"Median energy cost is {_NUMBER} uJ/inf")


def _read_trial(text: str) -> tuple[str, str, str] | None:
    """(seconds, inferences, µJ per inference) of one trial's part of the runner's results; None where one lacks."""
    found = [pattern.search(text) for pattern in _TRIAL_PARTS]
    values = [match[1] for match in found if match]
    return (values[0], values[1], values[2]) if len(values) == len(_TRIAL_PARTS) else None


def mlperf_tiny_row(path: Path) -> dict:
    """A row from the results file of the MLPerf Tiny runner in energy mode; a breach of its rules (5 trials of ≥ 10 s)
    becomes a flag. Raises GreenedgeError for a file without trials or whose median differs from theirs."""
    _check_size(path)
    text = path.read_text(encoding="utf-8", errors="replace")
    trials = [found for part in _TRIAL.split(text)[1:] if (found := _read_trial(part))]
    median = _MEDIAN.search(text)
    if not trials or not median:
        raise GreenedgeError(
            f"{path} has {len(trials)} energy trials and {'a' if median else 'no'} median; give the "
            "results file of an MLPerf Tiny run in energy mode."
        )
    joules = [float(uj) * 1e-6 for _, _, uj in trials]
    stated = float(median[1]) * 1e-6
    if abs(float(np.median(joules)) - stated) > 1e-3 * stated + 1e-9:
        raise GreenedgeError(
            f"{path} says a median of {stated * 1e6:g} uJ, its trials have {np.median(joules) * 1e6:g} "
            "uJ; the file is not whole: run it again."
        )
    # The streaming wake word (sww01) is one long recording, of which the rules ask no trials.
    five = len(trials) == 5 or _STREAMING.search(text) is not None
    flags = [] if five else [f"MLPerf Tiny asks for 5 trials, there are {len(trials)}"]
    flags += [
        f"trial {i} took {float(s):g} s, MLPerf Tiny asks for 10 s"
        for i, (s, _, _) in enumerate(trials)
        if float(s) < 10
    ]
    interval = mean_interval(joules)
    info = SourceInfo(
        "mlperf-tiny:" + path.name,
        "stream",
        "board",
        "the device under test",
        evidence="replayed",
        host_included=False,
        notes=("total of the device, idle included; the runner subtracts none",),
    )
    figures = {
        "total": Figure(
            interval.mean, "energy", "j", "board", "replayed", interval.low, interval.high, None, info.covers
        )
    }
    row = make_row("MLPerf Tiny run", "serial", info, figures, host_included=False, flags=flags)
    seconds = [float(s) / int(n) for s, n, _ in trials]
    return row | {
        "repetitions": [
            {"energy_j": e, "window_s": float(s), "inferences": int(n), "latency_s": float(s) / int(n)}
            for e, (s, n, _) in zip(joules, trials, strict=True)
        ],
        "latency_s": {"value": float(np.mean(seconds))},
    }


def vivado_power(path: Path) -> tuple[dict[str, Figure], str]:
    """(total, dynamic and static on-chip power; Vivado's confidence level) from `report_power -format xml`.

    Vivado calculates, so every figure is estimated, without a band since its report has none. Raises GreenedgeError.
    """
    _check_size(path)
    cells = _first_cells(path)
    names = {"total": "Total On-Chip Power (W)", "dynamic": "Dynamic (W)", "static": "Device Static (W)"}
    missing = [cell for cell in names.values() if not re.fullmatch(r"\d+(\.\d+)?", cells.get(cell, ""))]
    if missing:
        raise GreenedgeError(f"{path} has no number for {', '.join(missing)}; write it with report_power -format xml.")
    figures = {
        key: Figure(float(cells[cell]), "power", "w", "chip", "estimated", covers="fpga") for key, cell in names.items()
    }
    return figures, cells.get("Confidence Level", "not stated")


def _first_cells(path: Path) -> dict[str, str]:
    """{first cell of a table row: its second cell} of a Vivado report; of rows with the same first cell the first.

    Raises GreenedgeError for a file that declares entities (they can expand without bound) and for one that is not XML.
    """
    cells: dict[str, str] = {}
    row: list[str] = []

    def refuse(*_: object) -> None:
        raise GreenedgeError(f"{path} declares entities; a Vivado power report has none: give the file Vivado wrote.")

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "tablerow":
            row.clear()
        elif tag == "tablecell":
            row.append(attributes.get("contents", "").strip())

    def end(tag: str) -> None:
        if tag == "tablerow" and len(row) >= 2:
            cells.setdefault(row[0], row[1])

    parser = xml.parsers.expat.ParserCreate()
    parser.StartDoctypeDeclHandler, parser.StartElementHandler, parser.EndElementHandler = refuse, start, end
    try:
        with open(path, "rb") as file:
            parser.ParseFile(file)
    except xml.parsers.expat.ExpatError as error:
        raise GreenedgeError(f"{path} is not XML: {error}; write it with report_power -format xml.") from None
    return cells


def vivado_row(name: str, path: Path, cycles: int, clock_hz: float) -> dict:
    """Joules per inference of a streaming design: total on-chip power × initiation interval. Raises GreenedgeError."""
    if cycles <= 0 or clock_hz <= 0:
        raise GreenedgeError(f"{cycles} cycles at {clock_hz:g} Hz make no time; both must be above 0.")
    power, confidence = vivado_power(path)
    total, seconds = power["total"], cycles / clock_hz
    info = SourceInfo(
        "vivado:" + path.name,
        "model",
        "chip",
        "fpga",
        evidence="estimated",
        host_included=False,
        notes=(f"Vivado report_power, confidence level {confidence}",),
    )
    energy = Figure(total.value * seconds, "energy", "j", "chip", "estimated", covers="fpga")
    return make_row(name, "model", info, {"total": energy, "power": total}, host_included=False) | {
        "latency_s": {"value": seconds}
    }


def perf_row(name: str, path: Path, inferences: int, windows: Sequence[tuple[float, float]] = ()) -> list[dict]:
    """A row for each energy event of a `perf stat` output: the mean of its runs; with -I and `windows` (s from the
    start) of the windows. Raises GreenedgeError, SourceFault."""
    _check_size(path)
    runs = perf_output.read_runs(_decode(path))
    if windows and len(runs) > 1:
        raise GreenedgeError(
            f"{path} holds {len(runs)} runs of perf stat, so a --window may be of any; give one run alone."
        )
    return [_perf_event_row(name, path, event, runs, inferences, windows) for event in runs[0].joules]


def _perf_event_row(
    name: str,
    path: Path,
    event: str,
    runs: list[perf_output.Run],
    inferences: int,
    windows: Sequence[tuple[float, float]],
) -> dict:
    scope = "board" if event == "energy-psys" else "chip"
    parts = len(runs[0].joules[event])
    covers = event if parts == 1 else f"{event} of {parts} parts"
    if windows:
        trace = runs[0].trace(event)
        if trace is None:
            raise GreenedgeError(
                f"{path} has one figure for the whole command; leave --window out, or run perf with -I."
            )
        row = trace_row(name, trace, windows, inferences, scope, covers=covers)
        return row | {"source": row["source"] | {"id": f"perf:{event}"}, "host_included": True}
    joules = [run.total(event) / inferences for run in runs if event in run.joules]
    mean = mean_interval(joules)
    info = SourceInfo(f"perf:{event}", "counter", scope, covers, evidence="replayed", host_included=True)
    flags = [f"{len(joules)} runs of perf stat stand in one file; the figure is their mean"] if len(joules) > 1 else []
    figures = {"total": Figure(mean.mean, "energy", "j", scope, "replayed", mean.low, mean.high, covers=covers)}
    row = make_row(name, "command", info, figures, host_included=True, flags=flags)
    return row | ({"repetitions": [{"energy_j": value} for value in joules]} if flags else {})


def codecarbon_row(path: Path, inferences: int) -> list[dict]:
    """A row for each line of CodeCarbon's emissions.csv (kWh of a whole run). Its RAM, and its CPU where it found no
    counter, are constants of a model and the file does not say which: estimated. Raises GreenedgeError."""
    _check_size(path)
    rows = []
    lines = csv.DictReader(_decode(path).splitlines())
    try:
        for number, line in enumerate(lines, 2):
            rows.append(_codecarbon_line(path, number, line, inferences))
    except csv.Error as error:
        raise GreenedgeError(f"{path} is no table of CodeCarbon's: {error}.") from None
    if not rows:
        raise GreenedgeError(f"{path} has no line of a run; give the emissions.csv that CodeCarbon wrote.")
    return rows


def _codecarbon_line(path: Path, number: int, line: dict[str, str], inferences: int) -> dict:
    names = ["energy_consumed"] if line.get("energy_consumed") else ["cpu_energy", "gpu_energy", "ram_energy"]
    try:
        kwh = [float(line[name]) for name in names if line.get(name)]
        seconds = float(line.get("duration") or "nan")
    except (TypeError, ValueError):
        kwh, seconds = [], float("nan")
    if not kwh or not all(0 <= value < 1e6 for value in kwh):
        raise GreenedgeError(f"{path}:{number} has no energy in kWh; give the emissions.csv that CodeCarbon wrote.")
    joules = sum(kwh) * 3.6e6 / inferences
    note = "CodeCarbon's kWh of the whole run; what of it was measured its file does not say"
    info = SourceInfo(
        "codecarbon:" + path.name, "model", "module", " + ".join(names), evidence="estimated", notes=(note,)
    )
    figures = {"total": Figure(joules, "energy", "j", "module", "estimated", covers=info.covers)}
    name = f"{line.get('project_name') or path.stem} {str(line.get('run_id') or number - 1)[:8]}"
    row = make_row(name, "command", info, figures, host_included=True, ranking=False)
    return row | ({"latency_s": {"value": seconds / inferences}} if 0 < seconds < 1e9 else {})


def _decode(path: Path) -> str:
    return path.read_bytes().decode(text_encoding(path), errors="replace")


def _refuse_other_kinds(path: Path) -> None:
    """Raises GreenedgeError for a file of another kind, with the kind."""
    with open(path, "rb") as file:
        head = file.read(4096).decode(text_encoding(path), errors="replace")
    kinds = {
        "perf": re.search(r"Joules.{1,4}\S*energy-|energy-\w+/?\W.{0,40}Joules|\"unit\" ?: ?\"Joules\"", head),
        "codecarbon": re.match(r"(?=[^\n]*\bduration\b)(?=[^\n]*\b(cpu_energy|energy_consumed)\b)", head),
        "mlperf-tiny": _TRIAL.search(head),
    }
    for kind, found in kinds.items():
        if found:
            raise GreenedgeError(f"{path} is no table of power over time but of another kind: add --as {kind}.")


def _check_size(path: Path) -> None:
    """Raises GreenedgeError for a file that is absent or too large."""
    if not path.is_file():
        raise GreenedgeError(f"{path} is not there; check its name.")
    if path.stat().st_size > _MAX_BYTES:
        raise GreenedgeError(f"{path} is {path.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read.")
