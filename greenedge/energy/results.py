"""Results as versioned JSON and CSV. The evidence of a number decides its key; a file that breaks this rule is neither
written nor read."""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

import greenedge
from greenedge.energy.evidence import Figure, evidence_class, figure_from_json, figure_json, key_for, worst
from greenedge.energy.liveness import Liveness
from greenedge.energy.method import Method
from greenedge.energy.schema import FIGURES, check_labels, find_error
from greenedge.energy.session import Repetition, Session
from greenedge.energy.source import SourceInfo, Trace
from greenedge.energy.stats import Interval, bootstrap_product, instrument_u, mean_interval
from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.files.json_file import read_json

SCHEMA = "greenedge-energy/1"
_MAX_BYTES = 64 << 20


def session_row(session: Session, method: Method, alive: Liveness, seed: int = 0) -> dict:
    """The row of a document for one workload on one source; `seed` is that of the session."""
    info, reps, workload = session.meter.info, session.reps, session.workload
    # The host is in the figure only where the source covers it: a GPU's counter does not include the CPU.
    asked = info.host_included is not False and workload.host_included is not None
    host = workload.host_included if asked else info.host_included
    # Delays between calls are subtracted at the idle power, so the total is derived, not read.
    rested = session.delay_s or not workload.continuous
    total_evidence = worst([info.evidence, "derived"]) if rested else info.evidence
    u = _instrument(session)
    figures = {
        "total": _figure("energy", "j", mean_interval([r.total_j for r in reps]), info, total_evidence, u),
        "net": _figure(
            "energy", "j", mean_interval([r.net_j for r in reps]), info, worst([info.evidence, "derived"]), u
        ),
        "idle": _figure("power", "w", mean_interval([r.idle_w for r in reps]), info, info.evidence, None),
        "edp": _figure(
            "edp",
            "js",
            bootstrap_product([r.total_j for r in reps], [r.latency_s for r in reps], np.random.default_rng(seed)),
            info,
            total_evidence,
            None,
        ),
    }
    row = make_row(
        workload.name,
        workload.kind,
        info,
        figures,
        batch=workload.batch,
        accuracy=workload.accuracy,
        host_included=host,
        flags=session.flags,
    )
    latency = mean_interval([r.latency_s for r in reps])
    row |= {
        "latency_s": {"value": latency.mean, "low": latency.low, "high": latency.high},
        "method": asdict(method) | {"delay_s": session.delay_s},
        "liveness": {k: v for k, v in asdict(alive).items() if v not in (None, "")},
        "repetitions": [_repetition(rep, info.evidence) for rep in reps],
        "trace_sha256": session.meter.digest(),
    }
    for key, values in (("temperature_c", session.temperature_c), ("clock_hz", session.clock_hz)):
        if values != (None, None):
            row[key] = list(values)
    trace = session.meter.trace()
    if trace is not None:
        row["trace"] = trace_json(trace, info.evidence)
    return row


def trace_json(trace: Trace, evidence: str) -> dict:
    """At most 2,000 points of a trace, for plots; the digest is over all samples."""
    bins = min(len(trace.t), 2000)
    cuts = np.linspace(0, len(trace.t), bins + 1).astype(int)[:-1]
    counts = np.diff(np.append(cuts, len(trace.t)))
    # Means over bins: every n-th sample would alias periodic loads.
    t, watts = (np.add.reduceat(values, cuts) / counts for values in (trace.t, trace.watts))
    return {"t_s": t.tolist(), key_for("power", "w", evidence): watts.tolist()}


def make_row(
    name: str,
    kind: str,
    info: SourceInfo,
    figures: Mapping[str, Figure],
    *,
    batch: int = 1,
    accuracy: float | None = None,
    host_included: bool | None = None,
    flags: Iterable[str] = (),
    ranking: bool = True,
) -> dict:
    """A row from figures. Its evidence is that of the total, or the worst where the figures have several classes.
    `ranking` False excludes it from comparisons."""
    evidence = worst(f.evidence for k, f in figures.items() if k != "carbon")
    if "total" in figures and evidence_class(figures["total"].evidence) == evidence_class(evidence):
        evidence = figures["total"].evidence
    source = {
        "id": info.id,
        "kind": info.kind,
        "covers": info.covers,
        "update_period_s": info.update_period_s,
        "gain_rel": info.gain_rel,
        "overlaps": list(info.overlaps),
        "notes": list(info.notes),
    }
    row = {
        "workload": name,
        "kind": kind,
        "batch": batch,
        "accuracy": accuracy,
        "scope": info.scope,
        "evidence": evidence,
        "host_included": host_included,
        "source": {k: v for k, v in source.items() if v is not None},
        "figures": {key: figure_json(figure) for key, figure in figures.items()},
        "flags": list(flags),
    }
    return row | ({} if ranking else {"ranking": False})


def document(rows: Iterable[dict], note: str = "", session: str | None = None) -> dict:
    """A document with its environment. `session` is shared by documents whose rows were interleaved. Raises
    GreenedgeError for rows whose labels are broken."""
    data = {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "greenedge": greenedge.__version__,
        "environment": environment(),
        "rows": list(rows),
    }
    data |= {key: value for key, value in (("note", note), ("session", session)) if value}
    check_labels(data)
    return data


def same_session(one: dict, other: dict) -> bool:
    """Whether the rows of two documents were measured interleaved, so that their repetitions pair."""
    return one.get("session") is not None and one["session"] == other.get("session")


def environment() -> dict:
    """Machine, system and versions; no host name and no user."""
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cpus": os.cpu_count(),
    }


def save(data: dict, path: Path) -> None:
    """Writes the document. Raises GreenedgeError if a label is broken."""
    check_labels(data)
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def load(path: Path) -> dict:
    """Reads a document and checks schema and labels. Raises GreenedgeError."""
    try:
        data = read_json(path, _MAX_BYTES)
    except OSError as error:
        raise GreenedgeError(f"{path} could not be read: {error.strerror}; check its name.") from None
    except ValueError as error:
        raise GreenedgeError(f"{path} is not JSON: {error}; give a file written by greenedge energy measure.") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("rows"), list):
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise GreenedgeError(f"{path} has schema {found!r}; {SCHEMA!r} is read here: measure again.")
    reasons = (find_error(row, f"row {k}") for k, row in enumerate(data["rows"]))
    if reason := next(filter(None, reasons), None):
        raise GreenedgeError(f"{path} is damaged: {reason}; measure again.")
    check_labels(data)
    return data


def figure(row: dict, name: str) -> Figure | None:
    """A figure of a row: total, net, idle, edp, carbon."""
    part = row["figures"].get(name)
    return figure_from_json(part, FIGURES[name][0]) if part else None


def require_figure(row: dict, name: str) -> Figure:
    """`figure`, which must be there. Raises GreenedgeError."""
    found = figure(row, name)
    if found is None:
        raise GreenedgeError(f"the row {row['workload']!r} has no {name} figure; measure it again.")
    return found


def source_text(row: dict) -> str:
    """What a row's source covers, and its kind: a GPU has both a counter and a power."""
    kind = row["source"].get("kind")
    return row["source"]["covers"] + (f", {kind}" if kind in ("counter", "power", "stream") else "")


def csv_text(data: dict) -> str:
    """CSV with a line for each row. Measured, simulated and estimated energies are in separate columns."""
    energies = [key_for("energy", "j", label) for label in ("measured", "simulated", "estimated")]
    columns = [
        "workload",
        "source",
        "covers",
        "scope",
        "evidence",
        "host_included",
        "batch",
        "repetitions",
        "latency_s",
        *(f"{name}_{key}" for name in ("total", "net") for key in (*energies, "low", "high")),
        "accuracy",
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for row in data["rows"]:
        line = {key: row.get(key) for key in ("workload", "scope", "evidence", "host_included", "batch", "accuracy")}
        line |= {
            "source": row["source"]["id"],
            "covers": row["source"]["covers"],
            "repetitions": len(row.get("repetitions", [])) or None,
            "latency_s": row.get("latency_s", {}).get("value"),
        }
        for name in ("total", "net"):
            part = row["figures"].get(name, {})
            line |= {f"{name}_{key}": part[key] for key in (*energies, "low", "high") if key in part}
        writer.writerow(line)
    return out.getvalue()


def overlaps(rows: Iterable[dict]) -> list[tuple[str, str]]:
    """(container, part) among the covers of these rows, which may not be summed."""
    rows = list(rows)
    return [
        (row["source"]["covers"], other["source"]["covers"])
        for row in rows
        for other in rows
        if row is not other
        and any(other["source"]["covers"].startswith(name) for name in row["source"].get("overlaps", ()))
    ]


def _figure(base: str, unit: str, interval: Interval, info: SourceInfo, evidence: str, u: float | None) -> Figure:
    return Figure(interval.mean, base, unit, info.scope, evidence, interval.low, interval.high, u, info.covers)


def _instrument(session: Session) -> float | None:
    """Type B uncertainty per inference of the mean window; boundaries average down over repetitions, gain and offset do
    not."""
    info, reps = session.meter.info, session.reps
    count = np.mean([r.window.count for r in reps])
    edge = float(np.mean([r.window.boundary_u for r in reps])) / len(reps) ** 0.5
    u = instrument_u(
        float(np.mean([r.window.joules for r in reps])),
        float(np.mean([r.window.seconds for r in reps])),
        info.gain_rel,
        info.offset_w,
        edge,
    )
    return None if u is None else u / float(count)


def _repetition(rep: Repetition, evidence: str) -> dict:
    window = rep.window
    return {
        "round": rep.round,
        "place": rep.place,
        "inferences": window.count,
        "window_s": window.seconds,
        "active_s": window.active_s,
        "latency_s": rep.latency_s,
        key_for("window_energy", "j", evidence): window.joules,
        "edge_u_j": window.boundary_u,
        key_for("energy", "j", evidence): rep.total_j,
        key_for("net_energy", "j", evidence): rep.net_j,
        key_for("idle_before", "w", evidence): rep.before.watts,
        key_for("idle_after", "w", evidence): rep.after.watts,
        "spans": [
            [part.t0, part.t1, kind] for part, kind in ((rep.before, "idle"), (window, "window"), (rep.after, "idle"))
        ],
    }
