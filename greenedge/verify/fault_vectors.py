"""Vectors that see the faults of a build's memories: chosen until every bit is seen, proved unseen, or given up.

A bit is *seen* where turning it changes an output for one of the vectors, *proved unseen* where no input at all can
show it, and *open* else. The choice is seeded: the same build gets the same vectors, unless `seconds` end it early.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greenedge.backends.interface import FaultModel
from greenedge.graph import Edge
from greenedge.graph.ops.base import Ints
from greenedge.progress import ProgressFn, no_progress
from greenedge.verify.compare import Coverage

SEED = 15
SECONDS = 90.0  # the longest that a choice may take
_RANDOM, _BEFORE, _ROUND = 1664, 128, 64  # random candidates, of these before proofs, and of these together
_WORK = 1 << 15  # faults times candidates at once
_STARTS = 64  # inputs from which a search may begin
_SEARCHES, _SHOWN = 40, 96  # searches per fault, and the most inputs found by one that are looked at


@dataclass(frozen=True, eq=False)
class FaultVectors:
    """Chosen `vectors` (N, *shape), roughly those first that see most beside the given samples.

    `newly[k]` bits are seen by vector k and by none before it, `by_samples` by the samples given.
    """

    vectors: Ints
    newly: Ints
    by_samples: int
    coverage: Coverage

    def first(self, count: int) -> Coverage:
        """What the samples and the first `count` vectors see."""
        seen = self.by_samples + int(self.newly[:count].sum())
        rest = self.coverage.total - seen - self.coverage.proved_unseen
        return Coverage(self.coverage.total, seen, self.coverage.proved_unseen, rest)


def choose_vectors(
    model: FaultModel, edge: Edge, samples: Ints, progress: ProgressFn = no_progress, seconds: float = SECONDS
) -> FaultVectors:
    """Vectors for the input `edge` that see what `samples` (N, *shape), which are looked at first, do not."""
    return _Choice(model, edge, samples, progress, seconds).run()


class _Choice:
    """One choice: what is still open, and the vectors so far."""

    def __init__(self, model: FaultModel, edge: Edge, samples: Ints, progress: ProgressFn, seconds: float) -> None:
        self.model, self.edge, self.samples, self.progress = model, edge, samples, progress
        self.end = time.monotonic() + seconds
        self.rng = np.random.default_rng(SEED)
        self.open: Ints = np.arange(model.count)
        self.proved = 0
        self.by_samples = 0
        self.chosen: list[Ints] = []
        self.newly: list[int] = []

    def run(self) -> FaultVectors:
        self.by_samples = sum(count for _, count in self.look(self.samples))
        self.tell("showing faults to the samples")
        self.try_random(_BEFORE)
        self.prove()
        self.try_random(_RANDOM - _BEFORE)
        self.search()
        return self.finish()

    def tell(self, what: str) -> None:
        done = self.model.count - len(self.open)
        self.progress(done, self.model.count, f"{what}: {done:,} of {self.model.count:,} memory bits")

    def look(self, x: Ints) -> list[tuple[int, int]]:
        """Takes off what the inputs see: (input, how much it saw that was open), the best of each round first."""
        used: list[tuple[int, int]] = []
        start = 0
        while start < len(x) and len(self.open):
            size = max(1, min(len(x) - start, _ROUND, _WORK // len(self.open)))
            seen = self.model.see(x[start : start + size], self.open)
            while seen.any():
                counts = seen.sum(axis=0)
                best = int(counts.argmax())
                used.append((start + best, int(counts[best])))
                left = ~seen[:, best]
                self.open, seen = self.open[left], seen[left]
            start += size
        return used

    def add(self, x: Ints) -> None:
        """Chooses from the inputs those that see something new."""
        for k, count in self.look(x):
            self.chosen.append(x[k])
            self.newly.append(count)

    def try_random(self, count: int) -> None:
        for start in range(0, count, _ROUND):
            if not len(self.open) or time.monotonic() > self.end:
                return
            self.add(draw_inputs(self.edge, self.samples, min(_ROUND, count - start), self.rng))
            self.tell("looking for inputs that show faults")

    def prove(self) -> None:
        if not len(self.open):
            return
        self.tell("proving faults without effect")
        harmless = self.model.prove(self.open)
        self.open = self.open[~harmless]
        self.proved = int(harmless.sum())

    def search(self) -> None:
        """Rounds of one search per open fault; each input found is shown to all that are open."""
        starts = np.concatenate([self.samples[:_STARTS], draw_inputs(self.edge, self.samples, _STARTS, self.rng)])
        for _ in range(_SEARCHES):
            for fault in self.open.copy():
                if time.monotonic() > self.end:
                    return
                if not np.isin(fault, self.open):
                    continue
                found = self.model.search(int(fault), starts, self.rng)
                self.add(found[:_SHOWN])
                self.tell("searching inputs")
            starts = draw_inputs(self.edge, self.samples, _STARTS, self.rng)

    def finish(self) -> FaultVectors:
        seen = self.model.count - self.proved - len(self.open)
        places = tuple(self.model.place(int(fault)) for fault in self.open[:8])
        coverage = Coverage(self.model.count, seen, self.proved, len(self.open), places)
        vectors = np.array(self.chosen, np.int64).reshape(-1, *self.edge.shape)
        return FaultVectors(vectors, np.array(self.newly, np.int64), self.by_samples, coverage)


def draw_inputs(edge: Edge, samples: Ints, count: int, rng: np.random.Generator) -> Ints:
    """Random inputs of four kinds: over the whole range, its ends alone, samples with places replaced, mostly low."""
    shape = (count, *edge.shape)
    one = (count,) + (1,) * len(edge.shape)
    share, kind = rng.random(one), rng.integers(0, 4, one)
    chance, whole = rng.random(shape), rng.integers(edge.lo, edge.hi + 1, shape)
    base = samples[rng.integers(0, len(samples), count)] if len(samples) else whole
    ends = np.where(chance < share, edge.lo, edge.hi)
    mixed, sparse = np.where(chance < share, whole, base), np.where(chance < share, edge.lo, whole)
    drawn: NDArray[np.int64] = np.choose(kind, [whole, ends, mixed, sparse])
    return drawn
