"""Recordings and reports of others: traces (CSV, JLS), MLPerf Tiny runner logs, Vivado power reports, perf stat."""

from __future__ import annotations

import csv
import re
import xml.parsers.expat
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from greenedge.energy.evidence import Figure
from greenedge.energy.results import make_row, trace_json
from greenedge.energy.source import SourceInfo, Trace, integrate
from greenedge.energy.sources.perf import stat_joules
from greenedge.energy.stats import mean_interval
from greenedge.errors import GreenedgeError

_MAX_BYTES = 1 << 30
# Column names that mean the same, with the factor to s, W, V, A (PPK2's export, Joulescope's, Otii's, our own).
_COLUMNS = {
    "t": {"time_s": 1.0, "t_s": 1.0, "time": 1.0, "timestamp": 1.0, "timestamp(ms)": 1e-3, "time_ms": 1e-3},
    "w": {"power_w": 1.0, "power": 1.0, "watts": 1.0, "power_mw": 1e-3},
    "v": {"voltage_v": 1.0, "voltage": 1.0, "voltage_mv": 1e-3},
    "a": {"current_a": 1.0, "current": 1.0, "current_ma": 1e-3, "current(ua)": 1e-6, "current_ua": 1e-6},
    "m": {"marker": 1.0, "d0": 1.0, "gpi0": 1.0},
}


def read_csv(path: Path, volts: float | None = None) -> Trace:
    """A trace with a header line: time and power, or time, current and voltage (or `volts`). Raises GreenedgeError."""
    _small(path)
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        header = [name.strip().lower() for name in next(csv.reader(file), [])]
        places = {
            kind: (header.index(name), factor)
            for kind, names in _COLUMNS.items()
            for name, factor in names.items()
            if name in header
        }
        if "t" not in places or not ("w" in places or ("a" in places and ("v" in places or volts))):
            raise GreenedgeError(
                f"{path} has the columns {', '.join(header)[:120]!r}; a trace needs time_s and "
                "power_w, or "
                "time_s, current_a and voltage_v (or --volts)."
            )
        used = sorted({place for place, _ in places.values()})
        try:
            data = np.loadtxt(file, delimiter=",", usecols=used, ndmin=2)
        except ValueError as error:
            raise GreenedgeError(f"{path} has a line that is not numbers: {error}.") from None
    column = {kind: data[:, used.index(place)] * factor for kind, (place, factor) in places.items()}
    watts = column["w"] if "w" in column else column["a"] * (column["v"] if "v" in column else volts)
    return Trace(column["t"], watts, column.get("m"), {"file": path.name})


def read_jls(path: Path) -> Trace:
    """Power of a Joulescope JLS file, with its first general-purpose input as the marker. Needs `pyjls`."""
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


def trace_row(
    name: str,
    trace: Trace,
    windows: list[tuple[float, float]],
    inferences: float | Sequence[float],
    scope: str = "board",
    idle: list[tuple[float, float]] | None = None,
    covers: str = "the supplied board",
    sync_s: float = 0.0,
    gain_rel: float | None = None,
) -> dict:
    """A replayed row: each window has `inferences` (one number, or one for each); idle brackets (two a window, in
    order) give the net."""
    if not windows or np.any(np.asarray(inferences) <= 0):
        raise GreenedgeError(
            f"{len(windows)} windows with {inferences} inferences make no figure; give --window A:B and --inferences."
        )
    parts = [integrate(trace, a, b) for a, b in windows]
    inferences = np.broadcast_to(np.asarray(inferences, dtype=float), len(windows))
    if idle and len(idle) != 2 * len(windows):
        raise GreenedgeError(
            f"{len(idle)} idle stretches for {len(windows)} windows; each window has one before and one after."
        )
    lengths = np.array([b - a for a, b in windows])
    joules = np.array([joules for joules, _ in parts])
    total = mean_interval(joules / inferences)
    # Edges and markers are drawn anew for every window, the gain is the same for all.
    edge = float(np.mean([u for _, u in parts] / inferences)) / len(windows) ** 0.5
    sync = sync_s * 2**0.5 * float(np.mean(joules / lengths / inferences))
    meter = None if gain_rel is None else (edge**2 + sync**2 + (gain_rel * total.mean) ** 2) ** 0.5
    info = SourceInfo(
        "trace:" + trace.meta.get("file", "memory"),
        "stream",
        scope,
        covers,
        evidence="replayed",
        gain_rel=gain_rel,
        host_included=None,
    )
    figures = {"total": Figure(total.mean, "energy", "j", scope, "replayed", total.low, total.high, meter, covers)}
    reps = [
        {
            "energy_j": float(e / n),
            "window_s": float(s),
            "inferences": float(n),
            "spans": [[*map(float, span), "window"]],
        }
        for e, s, n, span in zip(joules, lengths, inferences, windows, strict=True)
    ]
    if idle:
        rest = np.array(
            [j / (b - a) for (j, _), (a, b) in ((integrate(trace, a, b), (a, b)) for a, b in idle)]
        ).reshape(-1, 2)
        net = mean_interval((joules - rest.mean(axis=1) * lengths) / inferences)
        figures["net"] = Figure(net.mean, "energy", "j", scope, "replayed", net.low, net.high, meter, covers)
        mean = mean_interval(rest.mean(axis=1))
        figures["idle"] = Figure(mean.mean, "power", "w", scope, "replayed", mean.low, mean.high, None, covers)
        for k, (rep, value) in enumerate(zip(reps, (joules - rest.mean(axis=1) * lengths) / inferences, strict=True)):
            rep["net_energy_j"] = float(value)
            rep["spans"] += [[*map(float, span), "idle"] for span in idle[2 * k : 2 * k + 2]]
    row = make_row(name, "trace", info, figures, host_included=None)
    return row | {
        "repetitions": reps,
        "trace_sha256": trace.digest(),
        "trace": trace_json(trace, "replayed"),
        "latency_s": {"value": float(np.mean(lengths / inferences))},
    }


def mlperf_tiny_row(path: Path) -> dict:
    """A row from the results file of the MLPerf Tiny runner in energy mode; its own rules (5 trials of ≥ 10 s) are
    flags."""
    _small(path)
    text = path.read_text(encoding="utf-8", errors="replace")
    trials = re.findall(
        r"Energy data for trial \d+.*?Elapsed time\s*:\s*(\d+\.?\d*).*?Inferences\s*:\s*([1-9]\d{0,17})\b.*?"
        r"Energy/Inf\s*:\s*(\d+\.?\d*) uJ/inf",
        text,
        re.DOTALL,
    )
    median = re.search(r"Median energy cost is (\d+\.?\d*) uJ/inf", text)
    if not trials or not median:
        raise GreenedgeError(
            f"{path} has {len(trials)} energy trials and {'a' if median else 'no'} median; give the "
            "results file "
            "of an MLPerf Tiny run in energy mode."
        )
    joules = [float(uj) * 1e-6 for _, _, uj in trials]
    told = float(median[1]) * 1e-6
    if abs(float(np.median(joules)) - told) > 1e-3 * told + 1e-9:
        raise GreenedgeError(
            f"{path} says a median of {told * 1e6:g} uJ, its trials have {np.median(joules) * 1e6:g} "
            "uJ; the file is "
            "not whole: run it again."
        )
    flags = [] if len(trials) == 5 else [f"MLPerf Tiny asks for 5 trials, there are {len(trials)}"]
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


def vivado_power(path: Path) -> dict[str, Figure | str]:
    """Total, dynamic and static on-chip power and Vivado's own confidence level, from `report_power -format xml`.

    Vivado calculates, so every figure is estimated; its report has no band, so none is given. Raises GreenedgeError.
    """
    _small(path)
    cells = _first_cells(path)
    names = {"total": "Total On-Chip Power (W)", "dynamic": "Dynamic (W)", "static": "Device Static (W)"}
    missing = [cell for cell in names.values() if not re.fullmatch(r"\d+(\.\d+)?", cells.get(cell, ""))]
    if missing:
        raise GreenedgeError(f"{path} has no number for {', '.join(missing)}; write it with report_power -format xml.")
    figures: dict[str, Figure | str] = {
        key: Figure(float(cells[cell]), "power", "w", "chip", "estimated", covers="fpga") for key, cell in names.items()
    }
    return figures | {"confidence": cells.get("Confidence Level", "not stated")}


def _first_cells(path: Path) -> dict[str, str]:
    """{first cell of a table row: its second cell} of a Vivado report; the first row of a name counts. Raises
    GreenedgeError for anything that declares entities and for what is no XML."""
    cells: dict[str, str] = {}
    row: list[str] = []

    def refuse(*_) -> None:
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
    """Joules per inference of a streaming design: total on-chip power × initiation interval."""
    if cycles <= 0 or clock_hz <= 0:
        raise GreenedgeError(f"{cycles} cycles at {clock_hz:g} Hz make no time; both must be above 0.")
    power = vivado_power(path)
    total, seconds = power["total"], cycles / clock_hz
    info = SourceInfo(
        "vivado:" + path.name,
        "model",
        "chip",
        "fpga",
        evidence="estimated",
        host_included=False,
        notes=(f"Vivado report_power, confidence level {power['confidence']}",),
    )
    energy = Figure(total.value * seconds, "energy", "j", "chip", "estimated", covers="fpga")
    return make_row(name, "model", info, {"total": energy, "power": total}, host_included=False) | {
        "latency_s": {"value": seconds}
    }


def perf_row(name: str, path: Path, inferences: int) -> list[dict]:
    """A row for each energy event of a `perf stat -x,` output over a whole command."""
    _small(path)
    rows = []
    for event, joules in stat_joules(path.read_text(encoding="utf-8", errors="replace")).items():
        scope = "board" if event == "energy-psys" else "chip"
        info = SourceInfo(f"perf:{event}", "counter", scope, event, evidence="replayed", host_included=True)
        figures = {"total": Figure(joules / inferences, "energy", "j", scope, "replayed", covers=event)}
        rows.append(make_row(name, "command", info, figures, host_included=True))
    return rows


def _small(path: Path) -> None:
    if not path.is_file():
        raise GreenedgeError(f"{path} is not there; check its name.")
    if path.stat().st_size > _MAX_BYTES:
        raise GreenedgeError(f"{path} is {path.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read.")
