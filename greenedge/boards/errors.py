"""Errors between host and board."""

from __future__ import annotations

from collections.abc import Sequence

from greenedge.errors import GreenedgeError


class BoardError(GreenedgeError):
    """The board cannot be reached, or is not the board that the run was built for.

    `results` has an entry for each sample: its output, None where none had arrived.
    """

    def __init__(self, message: str, results: Sequence[bytes | None] = ()):
        super().__init__(message)
        self.results = list(results)


class LinkLost(Exception):
    """The port disappeared while it was in use; the session tries to reconnect."""
