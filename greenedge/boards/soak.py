"""Many inferences on a board while bad things happen; counts what came right, lost, wrong or twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from greenedge.boards.link_session import Session


@dataclass(frozen=True)
class Soak:
    """A soak's result. `lost` samples are reported as lost; `wrong` and `twice` must be 0."""

    samples: int
    right: int
    lost: int
    wrong: int
    twice: int
    requests: int
    requests_lost: int
    bad_frames: int
    resets_seen: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Every sample is right or reported lost."""
        return self.wrong == self.twice == 0 and self.right + self.lost == self.samples

    def plain(self) -> dict:
        """As JSON holds it."""
        return {**asdict(self), "passed": self.ok}


def soak(
    session: Session,
    samples: Sequence[bytes],
    expected: Sequence[bytes],
    disturb: Callable[[int], None] = lambda done: None,
    portion: int = 500,
    tell: Callable[[int, int, str], None] = lambda *_: None,
) -> Soak:
    """Streams `samples` in portions; `disturb(done)` is called between answers and may do anything to the board.

    A result that would come twice would raise `done` above its portion, which is counted.
    """
    began = time.monotonic()
    right = lost = wrong = twice = 0
    for first in range(0, len(samples), portion):
        part = samples[first : first + portion]
        answered: list[int] = []

        def told(done: int, total: int, text: str) -> None:
            answered.append(done)
            tell(first + done, len(samples), text)
            disturb(first + done)

        results = session.infer(part, told)
        came = sum(result is not None for result in results)
        twice += max(0, (answered[-1] if answered else 0) - came)
        for result, want in zip(results, expected[first : first + portion], strict=True):
            lost += result is None
            right += result == want
            wrong += result is not None and result != want
    tally = session.tally
    return Soak(
        len(samples),
        right,
        lost,
        wrong,
        twice,
        tally.requests,
        tally.lost,
        tally.bad_frames,
        tally.resets,
        round(time.monotonic() - began, 2),
    )
