"""Output of a document: carbon, files, a table or JSON on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from greenedge.energy import carbon, results, terminal
from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.progress import ProgressFn

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Wanted:
    """The files to write, and the grid for the carbon: a country, a number, or a file of hours."""

    output: Path | None = None
    html: Path | None = None
    csv: Path | None = None
    as_json: bool = False
    country: str | None = None
    g_per_kwh: float | None = None
    intensity_file: Path | None = None

    @property
    def intensity(self) -> carbon.Intensity | None:
        """Of the grid; None where no carbon is wanted. Raises GreenedgeError for an unknown country."""
        if self.intensity_file is not None:
            if self.country is not None or self.g_per_kwh is not None:
                raise GreenedgeError("--intensity-file, --carbon and --intensity each name the grid; give one of them.")
            from greenedge.energy.intensity_file import read_hourly

            return read_hourly(self.intensity_file).intensity_at(datetime.now(UTC))
        if self.country is None and self.g_per_kwh is None:
            return None
        return carbon.intensity(self.country, self.g_per_kwh)


def add_carbon(data: dict, at: carbon.Intensity) -> None:
    """A carbon figure with its intensity in every row that has a total."""
    for row in data["rows"]:
        total = results.figure(row, "total")
        if total is not None:
            about = {key: value for key, value in vars(at).items() if key != "iso" and value is not None}
            row["figures"]["carbon"] = results.figure_json(carbon.carbon(total, at)) | {"intensity": about}


def finish(data: dict, wanted: Wanted) -> None:
    """Writes and prints the document. Raises GreenedgeError, before anything is written, if a label is broken."""
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
    table = wanted.country is not None and wanted.g_per_kwh is None
    notes = terminal.notes(data) + ([carbon.ATTRIBUTION] if table else [])
    for line in notes:
        screen.print(line, markup=False)


def console() -> Console:
    """Standard output: the width of the terminal, 200 columns where it is a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or none. Raises GreenedgeError."""
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def progress_bar() -> Iterator[ProgressFn]:
    """Yields the call-back of a bar on standard error, which disappears at the end."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(done: int, total: int, text: str) -> None:
            bar.update(task, description=text, completed=done, total=total or None)

        yield show
