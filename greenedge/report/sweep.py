"""Several trainings side by side: a row each, as data, as a table for the terminal and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from greenedge import __version__
from greenedge.files.atomic_write import atomic_write
from greenedge.report.format import count, joules
from greenedge.report.page import template
from greenedge.report.summary import read_json
from greenedge.report.training import energy_of, tradeoff

# key of a row -> (heading, evidence)
COLUMNS = {
    "score": ("", ""),
    "weights": ("weights", ""),
    "bytes": ("file, bytes", ""),
    "lut4": ("LUT4", "reported by yosys"),
    "core_lut4": ("of it the core", "reported by yosys"),
    "cycles": ("cycles", "simulated"),
    "samples_seen": ("sample-updates", ""),
    "energy": ("training energy", ""),
}


def row_of(name: str, runs: Sequence[Path]) -> dict:
    """One row from the runs of one training for its targets; what no run knows is absent.

    Keys: name, metric, score, weights, bytes, lut4, core_lut4, cycles, samples_seen, energy, seconds, metrics.
    """
    metrics: dict = next((found for run in runs if (found := read_json(run, "train", "metrics.json"))), {})
    total = (metrics.get("ledger") or {}).get("total", {})
    row = {
        "name": name,
        "metric": metrics.get("metric"),
        "score": metrics.get(metrics.get("metric", "")),
        "weights": metrics.get("parameters"),
        "samples_seen": metrics.get("samples_seen"),
        "energy": energy_of(total),
        "seconds": metrics.get("seconds"),
        "metrics": metrics,
    }
    for run in runs:
        summary = read_json(run, "report", "summary.json") or {}
        hardware, edge = summary.get("hardware") or {}, summary.get("edge") or {}
        core = hardware.get("core") or {}
        row |= {
            "lut4": hardware.get("lut4", row.get("lut4")),
            "core_lut4": core.get("lut4", row.get("core_lut4")),
            "cycles": hardware.get("cycles_per_inference", row.get("cycles")),
            "bytes": edge.get("bytes", row.get("bytes")),
        }
    return {key: value for key, value in row.items() if value is not None}


Cell = str | dict  # a text, or an energy as `energy_of` returns it


def table_columns(rows: Sequence[dict]) -> tuple[list[dict], list[list[Cell]]]:
    """(columns, cells of each row): the columns that any row has."""
    keys = [key for key in COLUMNS if any(key in row for row in rows)]
    metric = next((row["metric"] for row in rows if "metric" in row), "score")
    columns = [{"label": COLUMNS[key][0] or metric, "evidence": COLUMNS[key][1]} for key in keys]
    return columns, [[_cell(key, row.get(key)) for key in keys] for row in rows]


def _cell(key: str, value: float | dict | None) -> Cell:
    if value is None:
        return "–"
    if isinstance(value, dict):
        return value
    return f"{value:.4f}" if key == "score" else count(value)


def terminal(rows: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows of texts) for a terminal."""
    columns, cells = table_columns(rows)
    heads = ["", *(f"{c['label']} ({c['evidence']})" if c["evidence"] else c["label"] for c in columns)]
    texts = [
        [f"{joules(cell['value'])} {cell['evidence']}" if isinstance(cell, dict) else cell for cell in line]
        for line in cells
    ]
    return heads, [[row["name"], *line] for row, line in zip(rows, texts, strict=True)]


def write_sweep(rows: Sequence[dict], path: Path, title: str, lead: str, notes: Sequence[str] = ()) -> Path:
    """Writes the page over these rows; returns its path."""
    columns, cells = table_columns(rows)
    views = [{"name": row["name"], "cells": line} for row, line in zip(rows, cells, strict=True)]
    plot = tradeoff([(row["name"], row.get("metrics", {})) for row in rows])
    page = template("sweep.html").render(
        title=title, lead=lead, columns=columns, rows=views, notes=list(notes), plot=plot, version=__version__
    )
    with atomic_write(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path
