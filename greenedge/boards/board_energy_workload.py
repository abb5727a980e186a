"""A board as a workload of `greenedge energy`: it computes one sample over and over without the line, markers around."""

from __future__ import annotations

from collections.abc import Callable

from greenedge.boards.link_session import Session

_MOST = 1 << 31  # passes of one request


class BoardWorkload:
    """`infer(n)` has the board compute `n` times `batch` inferences by itself; the marker pin is high meanwhile.

    The host only waits, so it is not part of the work. `edges` counts the marker's edges as the board does: a meter
    that saw another number has lost one.
    """

    kind, continuous, together = "board", False, False
    host_included: bool | None = False

    def __init__(self, session: Session, sample: bytes, name: str, interval_s: float, accuracy: float | None = None):
        """`interval_s`: seconds per inference at full rate, as LOOP has shown; how long an answer may take follows."""
        self.session, self.sample, self.name, self.interval_s = session, sample, name, interval_s
        self.batch, self.accuracy, self.edges = 1, accuracy, 0

    def setup(self) -> None:
        """Begins a session and takes the marker down."""
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
        """The session belongs to whoever opened it."""
