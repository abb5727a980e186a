"""The call-back by which long work reports how far it is. Imports nothing from greenedge."""

from __future__ import annotations

from collections.abc import Callable

# (done, total, text): `total` is 0 where the end is not known; an empty text leaves the last one on the screen.
ProgressFn = Callable[[int, int, str], None]


def no_progress(done: int, total: int, text: str) -> None:
    """The `ProgressFn` of a caller that shows none."""
