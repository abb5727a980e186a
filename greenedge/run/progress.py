"""How a run looks: a live line with a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_QUIET_S = 10.0  # elsewhere than on a terminal, what a stage is doing is said at most this often
_MARKS = {"done": ("✓", "green"), "copied": ("✓", "green"), "unchanged": ("·", "dim"), "failed": ("✗", "red")}


class Screen:
    """Shows the stages of one run on stderr, or anywhere else that rich can write to."""

    def __init__(self, title: str = "", console=None, clock: Callable[[], float] = time.monotonic):
        from rich.console import Console

        self.clock = clock
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        if title:
            self.console.print(f"[bold]{_plain(title)}[/bold]")

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int, str], None]]:
        """Yields tell(done, total, text); what it is told disappears when the stage ends."""
        if not self.console.is_terminal:
            self.console.print(f"  … {name}")
            yield self._seldom()
            return
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn(" "),
            SpinnerColumn(),
            TextColumn("{task.description:<7}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[text]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(name, total=None, text="")
            yield lambda done, total, text: bar.update(
                task, completed=done, total=total or None, text=_plain(text.strip()[: max(20, self.console.width - 50)])
            )

    def _seldom(self) -> Callable[[int, int, str], None]:
        """Prints what it is told as a line, but not more often than every few seconds."""
        last = self.clock()

        def tell(done: int, total: int, text: str) -> None:
            nonlocal last
            if text.strip() and self.clock() - last >= _QUIET_S:
                last = self.clock()
                self.console.print(f"      [dim]{_plain(text.strip()[:100])}[/dim]")

        return tell

    def end_stage(self, name: str, status: str, seconds: float | None, note: str) -> None:
        """One line for a stage that is over."""
        mark, style = _MARKS[status]
        took = "unchanged" if status == "unchanged" else "copied" if status == "copied" else f"{seconds:.1f} s"
        self.console.print(f"  [{style}]{mark}[/{style}] {name:<7} {took:>9}  [dim]{_plain(note)}[/dim]")


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar for one piece of work; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total, text: None
        return
    with Screen().stage(title) as tell:
        yield tell


def _plain(text: str) -> str:
    """Text in which nothing is markup."""
    from rich.markup import escape

    return escape(text)
