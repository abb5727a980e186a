"""What every layer of a streaming accelerator has: its wires, its foldings, and when it takes and gives integers.

Every wire carries one tensor as a sequence of integers, channels innermost. What travels may differ from the graph's
edge by a constant per channel (`value = h + offset`), which whoever reads it takes into account.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from greenedge.graph import Edge
from greenedge.graph.ops.base import Ints

ZERO: Ints = np.zeros(1, np.int64)


def divisors(n: int) -> list[int]:
    """All of them, rising."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


@dataclass(frozen=True)
class Fold:
    """`pe` outputs (or channels) and, for a matrix-vector unit, `simd` inputs at a time.

    `cycles` are those per beat of a serial unit. `form` is which of a Step's forms is built.
    """

    pe: int
    simd: int = 1
    cycles: int = 1
    form: str = ""


@dataclass(frozen=True, eq=False)
class Wire:
    """One stream. `lo`, `hi` bound what travels; `channels` integers belong together (a pixel, a vector).

    `edge` is the edge of the integer graph that it carries, "" for a tensor that the graph does not have (patches,
    partial sums); `order[k]` is the row-major index in that edge of the k-th integer. `offset` repeats along the
    stream. `signed` follows from `lo`: whether the integers travel as two's complement.
    """

    name: str
    edge: str
    shape: tuple[int, ...]
    order: Ints
    channels: int
    lo: int
    hi: int
    offset: Ints = field(default_factory=lambda: ZERO)
    signed: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signed", self.lo < 0)

    @property
    def total(self) -> int:
        """Integers per sample."""
        return len(self.order)

    @property
    def pixels(self) -> int:
        """Groups of `channels` integers per sample."""
        return self.total // self.channels

    @property
    def bits(self) -> int:
        """Width of one integer."""
        return Edge("", (), self.lo, self.hi).bits

    @property
    def representable(self) -> tuple[int, int]:
        """The least and largest integer of its type, which may lie beyond `lo` and `hi`."""
        edge = Edge("", (), self.lo, self.hi)
        return (-(1 << (edge.bits - 1)), (1 << (edge.bits - 1)) - 1) if self.signed else (0, (1 << edge.bits) - 1)

    def holding(self, *values: int) -> Wire:
        """The same wire with a type that holds these values too (a padding value, the other branch's range)."""
        return replace(self, lo=min(self.lo, *values), hi=max(self.hi, *values))


@dataclass(frozen=True, eq=False)
class Firings:
    """The steps in which a layer works through one sample, as cumulative counts of integers.

    needs    (firings, sources): how many of each source must be there before the firing starts
    frees    (firings, sources): how many of each source are needed no more once it ends
    gives    (firings,): how many of the result it has given
    work     (firings,): how far the layer's cycles are spent; in proportion to what it gives unless stated
    """

    needs: Ints
    frees: Ints
    gives: Ints
    work: Ints

    @classmethod
    def evenly(cls, taken: Ints, gives: Ints, work: Ints | None = None) -> Firings:
        """Firings that free what they take. `taken` is (firings,) for every source alike, or (firings, sources)."""
        taken = taken[:, None] if taken.ndim == 1 else taken
        return cls(taken, taken, gives, gives if work is None else work)


@dataclass(frozen=True, eq=False)
class Layer:
    """What every layer has. Its sources may have a wider type than the wire of that name: they are extended on the way.

    The class variables are facts of a layer's unit:

    ports            of the unit: of its sources, of its results
    latency          cycles from the last integer that a firing needs to its result, without a serial unit's own
    passes_beats     it has no folding of its own: beats leave it as they come
    holds_one_beat   a fork before it waits for it after a single beat
    gives_at_once    a sample's result comes whole after its last input, and meanwhile nothing is taken
    """

    name: str
    sources: tuple[Wire, ...]
    results: tuple[Wire, ...]

    ports: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = (("s",), ("m",))
    latency: ClassVar[int] = 2
    passes_beats: ClassVar[bool] = False
    holds_one_beat: ClassVar[bool] = False
    gives_at_once: ClassVar[bool] = False

    @property
    def source(self) -> Wire:
        return self.sources[0]

    @property
    def result(self) -> Wire:
        return self.results[0]

    @property
    def is_join(self) -> bool:
        """Whether branches meet here."""
        return len(self.sources) > 1

    # -- folding

    @property
    def lanes(self) -> int:
        """The most channels per cycle."""
        return self.result.channels

    @property
    def folds_with_reader(self) -> bool:
        """Whether it gives its integers in an order that depends on its reader's folding, which must be its own."""
        return False

    def foldings(self) -> Iterator[Fold]:
        """Every folding that the unit for this layer has."""
        return map(Fold, divisors(self.lanes))

    def cycles(self, fold: Fold) -> int:
        """Cycles per inference, as the unit's documentation counts them."""
        return max(*(wire.total for wire in self.sources), self.result.total) // fold.pe * fold.cycles

    def elements(self, fold: Fold) -> tuple[int, int]:
        """Integers per beat (taken, given)."""
        return fold.pe, fold.pe

    # -- time

    def delay(self, fold: Fold) -> int:
        """Cycles from the last integer that a firing needs to its result."""
        return self.latency + fold.cycles

    def firings(self) -> Firings:
        """One firing per pixel, which takes its share of every source."""
        return self._even_firings(max(1, self.source.pixels))

    def _even_firings(self, count: int) -> Firings:
        j = np.arange(1, count + 1)
        taken = np.stack([j * (wire.total // count) for wire in self.sources], axis=1)
        return Firings.evenly(taken, j * (self.result.total // count))

    def buffer(self, source: int, fold: Fold) -> int:
        """Integers of one of the sources that the unit stores until it needs them no more."""
        return 3 * self.sources[source].channels
