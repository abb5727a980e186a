"""The layers of a streaming accelerator in plain numbers: what each computes, and the wires between them.

Every wire carries one tensor as a sequence of integers, channels innermost. What travels may differ from the graph's edge by
a constant per channel (`value = h + offset`), which whoever reads it takes into account.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from greenedge.graph import Edge

ZERO = np.zeros(1, np.int64)
MOST_STEPS = 63  # thresholds per channel where there is another form


@dataclass(frozen=True, eq=False)
class Wire:
    """One stream. `lo`, `hi` bound what travels; `channels` integers belong together (a pixel, a vector).

    `edge` is the edge of the integer graph that it carries, "" for a tensor that the graph does not have (patches, partial
    sums); `order[k]` is the row-major index in that edge of the k-th integer. `offset` repeats along the stream.
    """

    name: str
    edge: str
    shape: tuple[int, ...]
    order: np.ndarray
    channels: int
    lo: int
    hi: int
    offset: np.ndarray = field(default_factory=lambda: ZERO)

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
    def signed(self) -> bool:
        """Whether that width is two's complement."""
        return self.lo < 0

    def holding(self, *values: int) -> Wire:
        """The same wire with a type that holds these values too (a padding value, the other branch's range)."""
        return replace(self, lo=min(self.lo, *values), hi=max(self.hi, *values))


@dataclass(frozen=True, eq=False)
class Layer:
    """What every layer has. Its sources may have a wider type than the wire of that name: they are extended on the way."""

    name: str
    sources: tuple[Wire, ...]
    results: tuple[Wire, ...]

    @property
    def source(self) -> Wire:
        return self.sources[0]

    @property
    def result(self) -> Wire:
        return self.results[0]


@dataclass(frozen=True, eq=False)
class Window(Layer):
    """Image (height, width, channels) to patches: per output pixel, or (`grouped`) per group of channels in it, all taps.

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

    @property
    def out(self) -> tuple[int, int]:
        """Output rows and columns."""
        size = (self.height + self.pads[0] + self.pads[2], self.width + self.pads[1] + self.pads[3])
        rows, columns = (
            (n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(size, self.kernel, self.dilations, self.strides)
        )
        return rows, columns

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]


@dataclass(frozen=True, eq=False)
class Pad(Layer):
    """An image of height × width with `pads` (top, left, bottom, right) around it, filled with `pad`."""

    height: int
    width: int
    pads: tuple[int, int, int, int]
    pad: int


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """Sums of products. The unit leaves out `correction` (one per output) unless `correct`; see ge_mvu.sv."""

    weight: np.ndarray
    weight_bits: int
    correction: np.ndarray
    correct: bool

    @property
    def vectors(self) -> int:
        """Per sample."""
        return self.result.pixels


@dataclass(frozen=True, eq=False)
class MatVec(Linear):
    """y = x @ weight, weight (K, M). `spread` is how many times denser than needed a grouped convolution was made."""

    spread: int = 1


@dataclass(frozen=True, eq=False)
class Depthwise(Linear):
    """y[c] = sum over taps of patch[c, tap] * weight[c, tap], weight (C, taps)."""


@dataclass(frozen=True, eq=False)
class Pool(Layer):
    """Largest value or sum over the taps of every channel's patch."""

    taps: int
    largest: bool


@dataclass(frozen=True, eq=False)
class GlobalPool(Layer):
    """Largest value or sum over the whole image, per channel."""

    largest: bool


@dataclass(frozen=True, eq=False)
class Step(Layer):
    """A requantisation that repeats every `period` integers, in the forms that exist for it (each None or exact).

    affine (m, b, shift): clip((m*h + b) >> shift, lo, hi), m >= 0, m and b (period,). thresholds (period, steps): lo + how many
    of them h has reached, or where `falls` (period,) lies below. table (period, size): the level at h - table_lo.
    """

    period: int
    lo: int
    hi: int
    affine: tuple[np.ndarray, np.ndarray, int] | None
    thresholds: np.ndarray | None
    falls: np.ndarray
    table: np.ndarray | None
    table_lo: int = 0

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms to choose from: "affine", "thresholds", "table". Many comparators are never smaller than another form."""
        found = [form for form in ("affine", "table", "thresholds") if getattr(self, form) is not None]
        few = self.thresholds is not None and self.thresholds.shape[1] <= MOST_STEPS
        return tuple(found if few or len(found) == 1 else [form for form in found if form != "thresholds"])

    @property
    def serial_cycles(self) -> int | None:
        """Cycles per beat of the unit that multiplies bit by bit; None where it cannot (ge_requantise.sv)."""
        if self.affine is None:
            return None
        multiplier_bits = max(1, int(self.affine[0].max()).bit_length())
        return multiplier_bits + 2 if self.affine[2] > multiplier_bits else None


@dataclass(frozen=True, eq=False)
class Add(Layer):
    """multipliers[0]*a + multipliers[1]*b."""

    multipliers: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Fork(Layer):
    """One wire to two."""


@dataclass(frozen=True, eq=False)
class Concat(Layer):
    """`chunks[0]` integers of a, then `chunks[1]` of b, again and again."""

    chunks: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Upsample(Layer):
    """Nearest neighbour on an image of height × width."""

    height: int
    width: int
    factors: tuple[int, int]


@dataclass(frozen=True, eq=False)
class ArgMax(Layer):
    """The index of the first largest channel of every pixel."""


@dataclass(frozen=True, eq=False)
class Queue(Layer):
    """A buffer of `depth` integers on one side of a branch."""

    depth: int


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
    def weight_bits(self) -> int:
        """Bits of weight memory, without any waste."""
        return sum(layer.weight.size * layer.weight_bits for layer in self.layers if isinstance(layer, Linear))

    @property
    def macs(self) -> int:
        """Multiplications per inference, those by the zeros of a spread grouped convolution included."""
        return sum(layer.weight.size * layer.vectors for layer in self.layers if isinstance(layer, Linear))
