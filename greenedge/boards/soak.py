"""Many inferences on a board under disturbances; counts results that are right, lost, wrong or duplicated."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from greenedge.boards.link_session import Session
from greenedge.progress import ProgressFn, no_progress


@dataclass(frozen=True)
class Soak:
    """Counts of a soak. `lost` samples were reported as lost; `wrong` and `twice` must be 0."""

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
        """Whether every sample is right or reported lost."""
        return self.wrong == self.twice == 0 and self.right + self.lost == self.samples

    def plain(self) -> dict:
        """The JSON form."""
        return {**asdict(self), "passed": self.ok}


@dataclass
class _AnswerCount:
    """The progress call-back of one portion, which starts at sample `first` of `total`."""

    first: int
    total: int
    progress: ProgressFn
    disturb: Callable[[int], None]
    done: int = 0

    def __call__(self, done: int, total: int, text: str) -> None:
        self.done = done
        self.progress(self.first + done, self.total, text)
        self.disturb(self.first + done)


def soak(
    session: Session,
    samples: Sequence[bytes],
    expected: Sequence[bytes],
    disturb: Callable[[int], None] = lambda done: None,
    portion: int = 500,
    progress: ProgressFn = no_progress,
) -> Soak:
    """Streams `samples` in portions; `disturb(done)` is called between answers and may do anything to the board.

    `twice` counts results beyond one per sample. Raises BoardError where the board is away too long.
    """
    began = time.monotonic()
    right = lost = wrong = twice = 0
    for first in range(0, len(samples), portion):
        part = samples[first : first + portion]
        count = _AnswerCount(first, len(samples), progress, disturb)
        results = session.infer(part, count)
        twice += max(0, count.done - sum(result is not None for result in results))
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
