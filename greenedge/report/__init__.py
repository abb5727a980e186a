"""The report of a run: summary.json for programs, one offline HTML page for people. No number is computed here.

report_stage(run, folder)            the last stage of a run: both files
write_report([run, …], path)         one page over several runs, from what they recorded
summarise(run)                       the dict that summary.json holds
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from greenedge.files.atomic_write import atomic_write
from greenedge.report.page import render
from greenedge.report.summary import summarise

__all__ = ["report_stage", "summarise", "write_report"]


def report_stage(run: Path, folder: Path) -> None:
    """Writes summary.json and report.html of a run into `folder`."""
    summary = summarise(run)
    with atomic_write(folder / "summary.json") as path:
        path.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_write(folder / "report.html") as path:
        path.write_text(render([(run, summary)]), encoding="utf-8")


def write_report(runs: Sequence[Path], path: Path) -> Path:
    """Writes one page over these runs; returns its path. Raises GreenedgeError for a folder that is no run."""
    page = render([(run, summarise(run)) for run in runs])
    with atomic_write(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path
