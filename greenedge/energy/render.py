"""What becomes of a document: carbon added, files written, a table for people or JSON for machines."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from greenedge.energy import carbon, results, terminal
from greenedge.files.atomic_write import atomic_write


@dataclass(frozen=True)
class Wanted:
    """Where a document goes and whose grid its carbon is of."""

    output: Path | None = None
    html: Path | None = None
    csv: Path | None = None
    as_json: bool = False
    country: str | None = None
    g_per_kwh: float | None = None

    @property
    def intensity(self) -> carbon.Intensity | None:
        """Looked up before anything is measured. Raises GreenedgeError for a country that there is not."""
        if self.country is None and self.g_per_kwh is None:
            return None
        return carbon.intensity(self.country, self.g_per_kwh)


def add_carbon(data: dict, at: carbon.Intensity) -> None:
    """A carbon figure with its intensity in every row that has a total."""
    for row in data["rows"]:
        total = results.figure(row, "total")
        if total is not None:
            told = {key: value for key, value in vars(at).items() if key != "iso" and value is not None}
            row["figures"]["carbon"] = results.figure_json(carbon.carbon(total, at)) | {"intensity": told}


def finish(data: dict, wanted: Wanted) -> None:
    """Writes and prints the document, checked. Nothing is written if a label is broken."""
    if wanted.intensity is not None:
        add_carbon(data, wanted.intensity)
    results.check_labels(data)
    if wanted.output:
        results.save(data, wanted.output)
    if wanted.csv:
        write_text(wanted.csv, results.csv_text(data))
    if wanted.html:
        from greenedge.energy.html import page

        write_text(wanted.html, page(data))
    if wanted.as_json:
        print(json.dumps(data, indent=1))
        return
    screen = console()
    screen.print(terminal.result_view(data, screen.width))
    notes = terminal.notes(data) + ([carbon.ATTRIBUTION] if wanted.intensity else [])
    for line in notes:
        screen.print(line, markup=False)


def console():
    """Standard output: as wide as the terminal, wide where it is a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def progress_bar():
    """A bar on standard error while something goes on: called with (text, done, of); of 0 where no end is known."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda text, done, of: bar.update(task, description=text, completed=done, total=of or None)
