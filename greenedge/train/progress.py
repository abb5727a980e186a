"""The progress bar of a training in a notebook or script."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from greenedge.progress import ProgressFn

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def progress_bar(title: str, console: Console | None = None) -> Iterator[ProgressFn]:
    """Yields a callable (done, total, text) that rich draws; without a terminal only the last state is printed."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, text="")
        yield lambda done, total, text: bar.update(task, completed=done, total=total, text=text)
