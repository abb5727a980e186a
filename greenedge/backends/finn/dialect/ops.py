"""The layers of a streaming accelerator in plain numbers: what each computes, how it folds, when it takes and gives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from greenedge.backends.finn.dialect.layer import Firings, Fold, Layer, Wire, divisors
from greenedge.backends.finn.dialect.reorder import Turn, find_grain, find_turn
from greenedge.backends.finn.dialect.ring import WindowGeometry
from greenedge.backends.finn.dialect.search_tree import SearchTree, make_tree
from greenedge.graph.ops.base import Ints

LEAST_STEPS = 16  # thresholds per channel that are worth a search
MOST_STEPS = 63  # thresholds per channel that are compared one by one where there is another form
MOST_STAGES = 10  # of ge_search


@dataclass(frozen=True, eq=False)
class Window(Layer):
    """Image (height, width, channels) to patches: all taps per output pixel, or (`grouped`) per group of its channels.

    A kernel of 1×1 skips pixels. `pads` is (top, left, bottom, right); `pad` is what padding holds.
    """

    height: int
    width: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    pad: int
    grouped: bool

    latency: ClassVar[int] = 4

    @property
    def geometry(self) -> WindowGeometry:
        return WindowGeometry(self.height, self.width, self.kernel, self.strides, self.dilations, self.pads)

    @property
    def out(self) -> tuple[int, int]:
        """Output rows and columns."""
        return self.geometry.out

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def lanes(self) -> int:
        return self.source.channels

    @property
    def folds_with_reader(self) -> bool:
        return self.grouped

    def firings(self) -> Firings:
        """Per output pixel: the last input pixel of its patch is needed; what lies before the next patch is free."""
        rows, columns = self.out
        channels, (top, left, _, _) = self.source.channels, self.pads
        y, x = self._last_taps(0, rows, top, self.height), self._last_taps(1, columns, left, self.width)
        needs = np.maximum.accumulate((y[:, None] * self.width + x + 1).ravel())
        start_y, start_x = np.arange(rows) * self.strides[0] - top, np.arange(columns) * self.strides[1] - left
        first = (start_y[:, None] * self.width + start_x).ravel()
        size = self.height * self.width
        frees = np.maximum.accumulate(np.clip(np.append(first[1:], size + first[0]), 0, size))
        gives = np.arange(1, rows * columns + 1) * self.result.channels
        return Firings(needs[:, None] * channels, frees[:, None] * channels, gives, gives)

    def _last_taps(self, axis: int, count: int, pad: int, size: int) -> Ints:
        """The row (axis 0) or column (axis 1) of the last tap inside the image, for each of `count` patches."""
        last = np.arange(count) * self.strides[axis] + (self.kernel[axis] - 1) * self.dilations[axis] - pad
        return np.clip(last, 0, size - 1)

    def buffer(self, source: int, fold: Fold) -> int:
        channels = self.source.channels
        return self.geometry.ring_pixels(channels, fold.pe) * channels


@dataclass(frozen=True, eq=False)
class Pad(Layer):
    """An image of height × width with `pads` (top, left, bottom, right) around it, filled with `pad`."""

    height: int
    width: int
    pads: tuple[int, int, int, int]
    pad: int

    holds_one_beat: ClassVar[bool] = True

    def firings(self) -> Firings:
        """Per output pixel; only those inside the image take one."""
        inside = np.pad(np.ones((self.height, self.width), np.int64), (self.pads[::2], self.pads[1::2]))
        taken = np.cumsum(inside.ravel()) * self.source.channels
        return Firings.evenly(taken, np.arange(1, inside.size + 1) * self.result.channels)


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """Sums of products. The unit leaves out `correction` (one per output) unless `correct`; see ge_mvu.sv."""

    weight: Ints
    weight_bits: int
    correction: Ints
    correct: bool

    latency: ClassVar[int] = 12

    @property
    def vectors(self) -> int:
        """Per sample."""
        return self.result.pixels

    def firings(self) -> Firings:
        return self._even_firings(self.vectors)


@dataclass(frozen=True, eq=False)
class MatVec(Linear):
    """y = x @ weight, weight (K, M). `spread` is how many times denser than needed a grouped convolution was made."""

    spread: int = 1

    def foldings(self) -> Iterator[Fold]:
        k, m = self.weight.shape
        return (Fold(pe, simd) for pe in divisors(m) for simd in divisors(k))

    def cycles(self, fold: Fold) -> int:
        k, m = self.weight.shape
        return self.vectors * int(k // fold.simd) * int(m // fold.pe)

    def elements(self, fold: Fold) -> tuple[int, int]:
        return fold.simd, fold.pe

    def buffer(self, source: int, fold: Fold) -> int:
        """Three input vectors."""
        return 3 * int(self.weight.shape[0])


@dataclass(frozen=True, eq=False)
class Depthwise(Linear):
    """y[c] = sum over taps of patch[c, tap] * weight[c, tap], weight (C, taps)."""


@dataclass(frozen=True, eq=False)
class Pool(Layer):
    """Largest value or sum over the taps of every channel's patch."""

    taps: int
    largest: bool

    def firings(self) -> Firings:
        return self._even_firings(self.result.pixels)


@dataclass(frozen=True, eq=False)
class GlobalPool(Layer):
    """Largest value or sum over the whole image, per channel."""

    largest: bool

    gives_at_once: ClassVar[bool] = True

    def firings(self) -> Firings:
        """Per input pixel, which is what its cycles go into; the last one gives the result."""
        count = np.arange(1, self.source.pixels + 1)
        gives = np.append(np.zeros(len(count) - 1, np.int64), self.result.total)
        return Firings.evenly(count * self.source.channels, gives, count)


class AffineForm(NamedTuple):
    """clip((m*h + b) >> shift, lo, hi) with one shift for all; m >= 0, m and b (period,)."""

    m: Ints
    b: Ints
    shift: int


@dataclass(frozen=True, eq=False)
class Step(Layer):
    """A requantisation that repeats every `period` integers, in the forms that exist for it (each None or exact).

    affine: see AffineForm. thresholds (period, steps): `start` + how many of them h has reached, or where `falls`
    (period, steps) lies below. table (period, size): the level at h - table_lo.
    """

    period: int
    lo: int
    hi: int
    affine: AffineForm | None
    thresholds: Ints | None
    falls: Ints
    table: Ints | None
    table_lo: int = 0
    start: int = 0

    latency: ClassVar[int] = 10

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms to choose from: "affine", "thresholds", "table", "search" (the thresholds found by bisection). Many
        comparators are never smaller than another form."""
        exist = {"affine": self.affine, "table": self.table, "thresholds": self.thresholds}
        names = tuple(name for name, form in exist.items() if form is not None)
        steps = 0 if self.thresholds is None else self.thresholds.shape[1]
        if self.affine is None and steps >= LEAST_STEPS and self.tree.stages <= MOST_STAGES:
            names = (*names, "search")
        return names if steps <= MOST_STEPS or len(names) == 1 else tuple(n for n in names if n != "thresholds")

    @cached_property
    def tree(self) -> SearchTree:
        """The thresholds as the unit that searches has them."""
        return make_tree(self.require_thresholds(), self.falls, self.start, self.source.representable)

    def delay(self, fold: Fold) -> int:
        return 3 * self.tree.stages + 4 if fold.form == "search" else super().delay(fold)

    def require_affine(self) -> AffineForm:
        assert self.affine is not None, f"{self.name} has no affine form"
        return self.affine

    def require_thresholds(self) -> Ints:
        assert self.thresholds is not None, f"{self.name} has no thresholds"
        return self.thresholds

    @property
    def fall_bits(self) -> int:
        """Bits per channel that say which of its thresholds fall: none, one where they are alike, else one for each."""
        falls = self.falls
        return 0 if not falls.any() else 1 if np.all(falls == falls[:, :1]) else falls.shape[1]

    def require_table(self) -> Ints:
        assert self.table is not None, f"{self.name} has no table"
        return self.table

    @property
    def serial_cycles(self) -> int | None:
        """Cycles per beat of the unit that multiplies bit by bit; None where it cannot (ge_requantise.sv)."""
        if self.affine is None:
            return None
        multiplier_bits = max(1, int(self.affine.m.max()).bit_length())
        return multiplier_bits + 2 if self.affine.shift > multiplier_bits else None

    def foldings(self) -> Iterator[Fold]:
        for pe in divisors(self.lanes):
            yield from (Fold(pe, form=form) for form in self.forms)
            if self.serial_cycles is not None:
                yield Fold(pe, cycles=self.serial_cycles, form="affine")


@dataclass(frozen=True, eq=False)
class Add(Layer):
    """multipliers[0]*a + multipliers[1]*b."""

    multipliers: tuple[int, int]

    ports = (("a", "b"), ("m",))

    @property
    def lanes(self) -> int:
        return math.gcd(*(wire.channels for wire in self.sources))


@dataclass(frozen=True, eq=False)
class Multiply(Layer):
    """(a - zeros[0]) * (b - zeros[1])."""

    zeros: tuple[int, int]

    ports = (("a", "b"), ("m",))
    latency: ClassVar[int] = 5

    @property
    def lanes(self) -> int:
        return math.gcd(*(wire.channels for wire in self.sources))


@dataclass(frozen=True, eq=False)
class Fork(Layer):
    """One wire to two."""

    ports = (("s",), ("m0", "m1"))
    passes_beats: ClassVar[bool] = True
    holds_one_beat: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class Concat(Layer):
    """`chunks[0]` integers of a, then `chunks[1]` of b, again and again."""

    chunks: tuple[int, int]

    ports = (("a", "b"), ("m",))
    holds_one_beat: ClassVar[bool] = True

    @property
    def lanes(self) -> int:
        return math.gcd(*self.chunks)

    def firings(self) -> Firings:
        """Turns of a, then b; a turn of many pixels is taken pixel by pixel."""
        turns = self.source.total // self.chunks[0]
        pixels = [max(1, chunk // wire.channels) for wire, chunk in zip(self.sources, self.chunks, strict=True)]
        a, b = (np.arange(1, n + 1) * (chunk // n) for n, chunk in zip(pixels, self.chunks, strict=True))
        turn = np.concatenate([np.stack([a, np.zeros_like(a)], 1), np.stack([np.full_like(b, self.chunks[0]), b], 1)])
        taken = np.concatenate([turn + np.array(self.chunks) * k for k in range(turns)])
        return Firings.evenly(taken, taken.sum(axis=1))


@dataclass(frozen=True, eq=False)
class Upsample(Layer):
    """Nearest neighbour on an image of height × width."""

    height: int
    width: int
    factors: tuple[int, int]

    def firings(self) -> Firings:
        """Per output pixel. A row is stored until its last repetition, and freed pixel by pixel then."""
        (down, across), channels = self.factors, self.source.channels
        i, j = np.divmod(np.arange(self.height * down * self.width * across), self.width * across)
        needs = i // down * self.width + j // across + 1
        is_last = (i % down == down - 1) & (j % across == across - 1)
        frees = np.maximum.accumulate(np.where(is_last, needs, i // down * self.width))
        gives = np.arange(1, len(i) + 1) * channels
        return Firings(needs[:, None] * channels, frees[:, None] * channels, gives, gives)

    def buffer(self, source: int, fold: Fold) -> int:
        channels = self.source.channels
        return (self.width * (self.factors[0] > 1) + 2 + 10 * fold.pe // channels) * channels


@dataclass(frozen=True, eq=False)
class Reorder(Layer):
    """result[k] = source[index[k]]: integers left out, repeated or in another order."""

    index: Ints

    latency: ClassVar[int] = 4

    @cached_property
    def grain(self) -> int:
        """How many neighbours stay together."""
        return find_grain(self.index, self.source.total)

    @property
    def lanes(self) -> int:
        return self.grain

    def turn_of(self, fold: Fold) -> Turn:
        """What the unit repeats, in beats of `fold.pe` integers."""
        return find_turn(self.index, self.source.total, fold.pe)

    def firings(self) -> Firings:
        """Per group of neighbours, or what is in one pixel of it, for who reads the result may hold no more: what lies
        before all that is still to go is free."""
        size = math.gcd(self.grain, self.result.channels)
        turn = find_turn(self.index, self.source.total, size)
        turns = self.source.total // (turn.size * size)
        begin = np.repeat(np.arange(turns) * turn.size, len(turn.places))
        needs = np.maximum.accumulate(begin + np.tile(turn.places, turns) + 1)
        frees = begin + np.tile(turn.free, turns)
        gives = np.arange(1, len(needs) + 1) * size
        return Firings(needs[:, None] * size, frees[:, None] * size, gives, gives)

    def buffer(self, source: int, fold: Fold) -> int:
        return self.turn_of(fold).depth * fold.pe


@dataclass(frozen=True, eq=False)
class ArgMax(Layer):
    """The index of the first largest channel of every pixel."""


@dataclass(frozen=True, eq=False)
class Queue(Layer):
    """A buffer of `depth` integers on one side of a branch."""

    depth: int

    passes_beats: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class Network:
    """The layers in an order in which every wire is written before it is read.

    `views` are edges that a wire carries too, in another shape. `notes` say what a user should know.
    """

    name: str
    source: Wire
    layers: tuple[Layer, ...]
    result: Wire
    views: tuple[Wire, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def wires(self) -> tuple[Wire, ...]:
        """Every wire, the input first, in the order of what writes them."""
        return (self.source, *(wire for layer in self.layers for wire in layer.results))

    @property
    def queues(self) -> tuple[Queue, ...]:
        """The queues before its joins."""
        return tuple(layer for layer in self.layers if isinstance(layer, Queue))

    def reader(self, wire: Wire) -> Layer:
        """The first layer that reads a wire."""
        return next(layer for layer in self.layers if any(source.name == wire.name for source in layer.sources))
