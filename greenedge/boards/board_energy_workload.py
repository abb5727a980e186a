"""A board as a workload of `greenedge energy`: it repeats one sample by itself, between edges of the marker pin."""

from __future__ import annotations

from collections.abc import Callable

from greenedge.boards.link_session import Session

_MOST = 1 << 31  # passes of one request


class BoardWorkload:
    """`infer(n)` has the board compute `n` times `batch` inferences without the line; the marker pin is high meanwhile.

    The host only waits, so it is not part of the work. `edges` is the board's count of marker edges: a meter with
    another count has lost one.
    """

    kind, continuous, together = "board", False, False
    host_included: bool | None = False

    def __init__(self, session: Session, sample: bytes, name: str, interval_s: float, accuracy: float | None = None):
        """`interval_s`: measured seconds per inference at full rate; the time limit of an answer follows from it."""
        self.session, self.sample, self.name, self.interval_s = session, sample, name, interval_s
        self.batch, self.accuracy, self.edges = 1, accuracy, 0

    def setup(self) -> None:
        """Opens a session and sets the marker low."""
        self.session.open()
        self.edges = self.session.mark(False)

    def infer(self, n: int, on_wait: Callable[[], object]) -> None:
        self.edges = self.session.mark(True)
        while n > 0:
            passes = min(n, _MOST)
            self.session.loop(self.sample, passes, wait_s=2 * passes * self.interval_s + 1)
            n -= passes
            on_wait()
        self.edges = self.session.mark(False)

    def teardown(self) -> None:
        """The caller opened the session and closes it."""
