"""What a monitor measured, for other programs: a document, a CSV with a line for each window, OpenMetrics text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from greenedge.energy import results
from greenedge.energy.evidence import key_for
from greenedge.energy.monitor import EnergyWindow, Monitor, Part, summarise
from greenedge.files.atomic_write import atomic_write

_KEYS = tuple(key_for("energy", "j", label) for label in ("measured", "simulated", "estimated"))
_COLUMNS = ("window", "begun", "seconds", "source", "covers", "scope", "evidence", *_KEYS, "low", "high", "flags")
CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def make_document(monitor: Monitor) -> dict:
    """A document (see results) with a row for each window's name and figure; an inference is a window. Raises
    GreenedgeError, SourceFault."""
    ended = [window for window in monitor.windows if window.seconds is not None]
    rows = []
    for name in dict.fromkeys(window.name for window in ended):
        own = [window for window in ended if window.name == name]
        for info, figure, parts in summarise(ended, name):
            flags = [*monitor.flags, *dict.fromkeys(flag for part in parts for flag in part.flags)]
            flags += [f"estimated: {monitor.reason}"] if monitor.reason else []
            row = results.make_row(
                name,
                "window",
                info,
                {"total": figure},
                host_included=info.host_included,
                flags=flags,
                ranking=info.evidence != "estimated",
            )
            seconds = [window.seconds or 0.0 for window in own]
            key = key_for("energy", "j", info.evidence)
            row["repetitions"] = [
                {key: part.energy, "window_s": length} for part, length in zip(parts, seconds, strict=True)
            ]
            row["latency_s"] = {"value": sum(seconds) / len(seconds)}
            rows.append(row)
    return results.document(rows, note="an inference is one window")


def csv_text(windows: Sequence[EnergyWindow]) -> str:
    """A line for each window and figure, in the order in which they ended."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for window in windows:
        for part in window.parts:
            info = part.info
            writer.writerow(
                {
                    "window": window.name,
                    "begun": datetime.fromtimestamp(window.begun, UTC).isoformat(timespec="milliseconds"),
                    "seconds": window.seconds,
                    "source": info.id,
                    "covers": info.covers,
                    "scope": info.scope,
                    "evidence": info.evidence,
                    key_for("energy", "j", info.evidence): part.energy,
                    "low": part.low,
                    "high": part.high,
                    "flags": "; ".join(part.flags),
                }
            )
    return out.getvalue()


def save(monitor: Monitor, path: Path) -> None:
    """Writes what was measured so far: CSV for a name that ends in .csv, OpenMetrics for .prom, else JSON."""
    if path.suffix == ".csv":
        text = csv_text(monitor.windows)
    elif path.suffix == ".prom":
        text = openmetrics_text(monitor)
    else:
        results.save(make_document(monitor), path)
        return
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")


def openmetrics_text(monitor: Monitor) -> str:
    """OpenMetrics 1.0: joules since the monitor was made, and by window. Measured, simulated and estimated joules are
    metrics of different names, so that no query adds them."""
    samples: dict[str, list[str]] = {}
    for part in monitor.totals():
        samples.setdefault(_metric("energy", part), []).append(_sample("energy", part, {}, part.energy))
    sums: dict[tuple[str, str], tuple[Part, float]] = {}
    for window in monitor.windows:
        for part in window.parts:
            _, before = sums.get((window.name, part.info.id), (part, 0.0))
            sums[window.name, part.info.id] = (part, before + part.energy)
    for (name, _), (part, joules) in sums.items():
        metric = _metric("window_energy", part)
        samples.setdefault(metric, []).append(_sample("window_energy", part, {"window": name}, joules))
    counts: dict[str, int] = {}
    for window in monitor.windows:
        counts[window.name] = counts.get(window.name, 0) + 1
    lines = []
    for metric, own in samples.items():
        lines += [f"# TYPE {metric} counter", f"# UNIT {metric} joules", *own]
    if counts:
        lines.append("# TYPE greenedge_windows counter")
        lines += [f'greenedge_windows_total{{window="{_escape(name)}"}} {count}' for name, count in counts.items()]
    return "\n".join([*lines, "# EOF", ""])


def _metric(base: str, part: Part) -> str:
    middle = key_for(base, "joules", part.info.evidence)
    return f"greenedge_{middle}"


def _sample(base: str, part: Part, more: dict[str, str], joules: float) -> str:
    info = part.info
    labels = {"source": info.id, "covers": info.covers, "scope": info.scope, "evidence": info.evidence} | more
    text = ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items())
    return f"{_metric(base, part)}_total{{{text}}} {joules!r}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
