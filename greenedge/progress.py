"""The type of a progress callback, and one that shows nothing."""

from __future__ import annotations

from collections.abc import Callable

ProgressFn = Callable[[int, int, str], None]  # (done, total, text); total 0 where the end is not known


def no_progress(done: int, total: int, text: str) -> None:
    """Shows nothing."""
