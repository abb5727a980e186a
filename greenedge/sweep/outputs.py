"""What a study shows: sweep.json and sweep.csv for programs, sweep.html and a table for people. Written anew, whole,
after each trial."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from greenedge import __version__
from greenedge.errors import UnsupportedError, VerificationError
from greenedge.files.atomic_write import atomic_write
from greenedge.files.locks import hold_lock
from greenedge.report.summary import read_json
from greenedge.sweep.figures import KINDS, comparable, of_energy
from greenedge.sweep.front import as_costs, find_front, find_knee
from greenedge.sweep.study import BUILDS, POINTS, Row, Study, key_of
from greenedge.sweep.sweep import Sweep

FORMAT = "greenedge-sweep/2"
JSON, CSV, PAGE = "sweep.json", "sweep.csv", "sweep.html"
STATUSES = ("done", "refused", "failed", "differs")
_DATA = "@@rows@@"


def merge_rows(points: Sequence[Row], builds: Sequence[Row]) -> list[Row]:
    """A row a point: that of its build where it was built, with what its plan estimated."""
    built = {key_of(row["settings"]): row for row in builds}
    if not built:
        return list(points)
    merged = []
    for row in points:
        later = built.get(key_of(row["settings"]), {})
        figures = {**row["figures"], **later.get("figures", {})}
        merged.append({**row, **later, "number": row["number"], "figures": figures})
    return merged


def mark_front(rows: Sequence[Row], objectives: Sequence[str]) -> list[Row]:
    """The rows, those on the front with "front": the number of their group of equal evidence, the knees with "knee"."""
    marked = [dict(row) for row in rows]
    larger = [KINDS[name].larger_is_better for name in objectives]
    for number, group in enumerate(comparable(rows, objectives)):
        costs = as_costs([[rows[k]["figures"][name]["value"] for name in objectives] for k in group], larger)
        on_front = find_front(costs)
        front = [k for k, stays in zip(group, on_front, strict=True) if stays]
        for k in front:
            marked[k]["front"] = number
        knee = find_knee(costs[on_front])
        if knee is not None:
            marked[front[knee]]["knee"] = True
    return marked


def collect(sweep: Sweep, study: Study) -> dict[str, Any]:
    """What sweep.json says: the rows so far with their marks, and how many there will be."""
    rows = merge_rows(study.rows(POINTS), study.rows(BUILDS))
    return {
        "format": FORMAT,
        "source": sweep.source,
        "name": sweep.name,
        "until": sweep.until,
        "build": sweep.build,
        "energy_j": sweep.energy_j or None,
        "sampler": sweep.sampler,
        "axes": {axis.key: list(axis.values) for axis in sweep.space.axes},
        "objectives": list(sweep.space.objectives),
        "points": study.total(),
        "rows": mark_front(rows, sweep.space.objectives),
    }


def write_outputs(sweep: Sweep, study: Study, last: bool = False) -> dict[str, Any]:
    """Writes the three files of a study, each whole; what sweep.json says. The `last` time with the joules that
    `greenedge energy measure` has kept in the runs since."""
    with hold_lock(study.folder / ".outputs.lock"):
        for left in study.folder.glob(".sweep.*.part"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
        found = collect(sweep, study)
        if last:
            rows = [_add_energy(row, study.folder) for row in found["rows"]]
            found["rows"] = mark_front(rows, sweep.space.objectives)
        text = to_json(found)
        for name, content in ((JSON, text), (CSV, to_csv(found)), (PAGE, to_page(found, text))):
            with atomic_write(study.folder / name) as aside:
                aside.write_text(content, encoding="utf-8")
    return found


def _add_energy(row: Row, study: Path) -> Row:
    """The row with the energy and the carbon of an inference that its run's summary has by now."""
    if row.get("stage") != "report":
        return row
    summary = read_json(study / row["folder"], "report", "summary.json") or {}
    plain = {key: value for key, value in row.items() if key not in ("front", "knee")}
    return {**plain, "figures": {**row["figures"], **of_energy(summary.get("energy") or ())}}


def to_json(found: Mapping[str, Any]) -> str:
    """One row a line."""
    head = {key: value for key, value in found.items() if key != "rows"}
    rows = ",\n".join(json.dumps(row) for row in found["rows"])
    return f'{json.dumps(head)[:-1]}, "rows": [\n{rows}\n]}}\n'


def to_csv(found: Mapping[str, Any]) -> str:
    """A line a row: number, name, status, settings, figures and the evidence of each, sentence."""
    keys = list_figures(found["rows"])
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    evidence = [f"{key} evidence" for key in keys]
    writer.writerow(["number", "status", *found["axes"], *keys, *evidence, "front", "folder", "sentence"])
    for row in found["rows"]:
        figures = [row["figures"].get(key, {}) for key in keys]
        writer.writerow(
            [
                row["number"],
                row["status"],
                *(_defuse(row["settings"].get(key, "")) for key in found["axes"]),
                *(figure.get("value", "") for figure in figures),
                *(figure.get("evidence", "") for figure in figures),
                row.get("front", ""),
                row.get("folder", ""),
                _defuse(row.get("sentence", "")),
            ]
        )
    return file.getvalue()


def _defuse(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "@", "\t", "\r") else text


def list_figures(rows: Sequence[Row]) -> list[str]:
    """The figures that any row has, in the order of KINDS."""
    there = {key for row in rows for key in row["figures"]}
    return [key for key in KINDS if key in there]


def to_page(found: Mapping[str, Any], text: str) -> str:
    """The page, with sweep.json's text in it; it loads nothing."""
    keys = list_figures(found["rows"])
    kinds = {
        key: {
            "label": KINDS[key].label,
            "unit": KINDS[key].unit,
            "larger": KINDS[key].larger_is_better,
            "estimated": KINDS[key].estimated,
        }
        for key in keys
    }
    data = f'{{"kinds": {json.dumps(kinds)}, {text[1:]}'.replace("<", "\\u003c")
    return _render_shell(f"{found['name']}: a sweep").replace(_DATA, data)


@cache
def _render_shell(title: str) -> str:
    """The page with a mark where the rows belong: it is the same after every trial."""
    from greenedge.report.page import template

    return template("pareto.html").render(title=title, data=_DATA, version=__version__)


def terminal(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows of texts): settings, the objectives and what else fits, and how each ended."""
    rows = found["rows"]
    objectives = [key for key in found["objectives"] if key in list_figures(rows)]
    others = [key for key in list_figures(rows) if key not in objectives][: max(0, 6 - len(objectives))]
    keys = objectives + others
    heads = ["", *found["axes"], *(head(key) for key in keys), ""]
    return heads, [
        [
            "◆" if row.get("knee") else "●" if "front" in row else "",
            *(row["settings"].get(key, "") for key in found["axes"]),
            *(_cell(row["figures"].get(key)) for key in keys),
            "" if row["status"] == "done" else f"{row['status']}: {' '.join(row.get('sentence', '').split())[:160]}",
        ]
        for row in rows
    ]


def head(key: str) -> str:
    """A figure's heading: label, unit, and that it is an estimate."""
    kind = KINDS[key]
    notes = [*([kind.unit] if kind.unit else []), *(["estimated"] if kind.estimated else [])]
    return f"{kind.label} ({', '.join(notes)})" if notes else kind.label


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "–"
    value = figure["value"]
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def count_statuses(rows: Sequence[Row]) -> dict[str, int]:
    """{status: rows}, of those that occur."""
    return {status: n for status in STATUSES if (n := sum(row["status"] == status for row in rows))}


def exit_code(rows: Sequence[Row]) -> int:
    """5 where a build differs, else 1 where something failed, 4 where every point was refused, 0."""
    counts = count_statuses(rows)
    if counts.get("differs"):
        return VerificationError.exit_code
    if counts.get("failed"):
        return 1
    return UnsupportedError.exit_code if rows and counts.get("refused") == len(rows) else 0
