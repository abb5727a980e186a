"""Softmax of rows of levels, defined in integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops.base import Array, Edge, Floats, Ints, Op, Range, Shape, freeze
from greenedge.graph.ops.onnx_writer import OnnxWriter

_FEW_DIFFERENCES = 1 << 10  # entries of a table that stands alone; longer ones are two
_MOST_BITS = 20
_EACH_BITS = 15  # of two tables, whose product stays within 31 bits
_LARGEST = 1 << 31  # numerators and denominators stay below: every runtime has integers of 32 bits


def make_exponentials(scale: float, levels: int, bits: int) -> Ints:
    """(D,) round(2^bits * e^(-scale * d)) for differences d = 0, 1, … below `levels`, as far as they are not 0."""
    values = np.rint(np.ldexp(np.exp(-scale * np.arange(levels, dtype=np.float64)), bits))
    return freeze(values[: int(np.count_nonzero(values))])


def make_exponential_tables(scale: float, levels: int, bits: int) -> tuple[Ints, Ints | None]:
    """(table, fine) for exponentials of up to `bits` bits: one table where it is short enough."""
    table = make_exponentials(scale, levels, bits)
    if len(table) <= _FEW_DIFFERENCES:
        return table, None
    bits, step = min(bits, _EACH_BITS), 1 << ((len(table) - 1).bit_length() + 1) // 2
    table = make_exponentials(scale * step, -(-levels // step), bits)
    return table, make_exponentials(scale, step, _EACH_BITS)


def choose_table_bits(unit: int, per: int, length: int) -> int:
    """The most bits of a table with which the numerators and denominators of rows of `length` stay within 31 bits, 20
    at most: there one level of 8 bits in 100,000 differs from real arithmetic."""
    bits = _MOST_BITS
    while bits > 1 and _reach(unit, per, length) << bits >= _LARGEST:
        bits -= 1
    return bits


def _reach(unit: int, per: int, length: int) -> int:
    """How often the largest entry of a table goes into the largest numerator or denominator."""
    return 2 * (unit + per * length)


def define_softmax(
    name: str, source: str, scale: float, levels: int, length: int, unit: int, per: int, most: int, mask: Ints | None
) -> Softmax:
    """The softmax of rows of `length` logits, each one of `levels` that are worth `scale`; the rest as Softmax has
    it."""
    table, fine = make_exponential_tables(scale, levels, choose_table_bits(unit, per, length))
    return Softmax(name, (source,), name, table, fine, unit, per, most, mask)


@dataclass(frozen=True, eq=False)
class Softmax(Op):
    """p[..., i] = min((2 * unit * e[i] + per * Z) // (2 * per * Z), most) along the last axis, where Z is the sum of e,
    e[i] = exponential(max - x[i]), or 0 where the mask is, and max the largest x that the mask leaves.

    p * per / unit is the probability. `mask` holds 0 and 1 and broadcasts against the tensor; None leaves everything.
    exponential(d) = table[d], or 0 beyond the table; with `fine` (a power of two of them) it is
    (table[d // len(fine)] * fine[d % len(fine)] + half) >> bits, where fine[0] = 2^bits and half = 2^(bits-1).
    """

    table: Ints
    fine: Ints | None
    unit: int
    per: int
    most: int
    mask: Ints | None

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        shape = edges[0].shape
        tables = [part for part in (self.table, self.fine) if part is not None]
        bad = any(not part.ndim == 1 <= len(part) or int(part[0]) < 1 or part.min() < 0 for part in tables)
        if bad or min(self.unit, self.per, self.most) < 1 or 1 << self.fine_bits not in (1, *tables[-1][:1].tolist()):
            raise Refused(
                ReasonKind.UNSUPPORTED_FUNCTION,
                f"a softmax of {len(self.table)} exponentials in units of {self.per} / {self.unit}",
                "exponentials are not negative, the first is not 0, and units are whole",
                "export it again",
            )
        if self.mask is not None and not np.broadcast_to(self.mask, shape).any(axis=-1).all():
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                "a row of its mask that leaves nothing",
                "a softmax needs one element at least in every row",
                "leave the row out, or let it see itself",
            )
        reach = self.inner_magnitude(edges)
        if reach >= _LARGEST:
            raise Refused(
                ReasonKind.TOO_WIDE,
                f"its numerators reach {reach:,} in rows of {shape[-1]}",
                "they must stay below 2**31",
                "use a shorter row, or a table of fewer bits",
            )
        ones = (1,) * len(shape)
        return shape, (np.zeros(ones, np.int64), np.full(ones, min(self.most, self._round(1, 1))))

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        e = self._exponentials(xs[0])
        total = e.sum(axis=-1, keepdims=True)
        levels: Array = np.minimum((2 * self.unit * e + self.per * total) // (2 * self.per * total), self.most)
        return levels

    def _round(self, e: int, total: int) -> int:
        return (2 * self.unit * e + self.per * total) // (2 * self.per * total)

    @property
    def fine_bits(self) -> int:
        """Fraction bits of the fine table."""
        return 0 if self.fine is None else int(self.fine[0]).bit_length() - 1

    def _exponentials(self, x: Array) -> Array:
        """e of every element."""
        seen: NDArray[np.bool_] = np.broadcast_to(True if self.mask is None else self.mask != 0, x.shape)
        largest = np.where(seen, x, x.min()).max(axis=-1, keepdims=True)
        d = np.clip(largest - x, 0, None)
        step = 1 if self.fine is None else len(self.fine)
        inside = seen & (d < len(self.table) * step)
        d = np.where(inside, d, 0)
        e: Array = self.table[d // step]
        if self.fine is not None:
            e = (e * self.fine[d % step] + (1 << self.fine_bits >> 1)) >> self.fine_bits
        return np.where(inside, e, 0)

    def execute_magnitudes(self, xs: Sequence[Floats]) -> Floats:
        """It reads levels, which are exact."""
        return np.zeros_like(xs[0])

    def bound_deviation(self, xs: Sequence[Array]) -> Floats:
        """Of p from softmax in units: half for its rounding, and what `_measure` says."""
        off: Floats = 0.5 + self._measure(xs[0])[1]
        return off

    def bound_levels(self, xs: Sequence[Array]) -> Range:
        real, off = self._measure(xs[0])
        low, high = (np.minimum(np.floor(real + sign * off + 0.5).astype(np.int64), self.most) for sign in (-1, 1))
        return low, high

    def _measure(self, x: Array) -> tuple[Floats, Floats]:
        """(softmax in units, before it is rounded; how far that is from the real one at most): an exponential is off by
        a half (by two with fine tables), and so is each of the n in Z; the unit by its rounding, and float32 by a few
        of its own."""
        e, lost, unit = self._exponentials(x), 0.5 if self.fine is None else 2.0, self.unit / self.per
        total, count = e.sum(axis=-1, keepdims=True).astype(np.float64), e.shape[-1]
        of_tables = lost * (1 + count * e / total) / (total - lost * count).clip(1)
        of_unit = (0.5 / self.unit if self.per > 1 else 0.0) * e / total
        return unit * e / total, unit * (of_tables + of_unit + 2.0**-20)

    def inner_magnitude(self, edges: Sequence[Edge]) -> int:
        largest = int(self.table.max())
        product = 0 if self.fine is None else largest * int(self.fine.max()) + (1 << self.fine_bits)
        return max(_reach(self.unit, self.per, edges[0].shape[-1]) * largest, product)

    def batch_elements(self, edges: Sequence[Edge], output: Edge) -> int:
        return 6 * int(np.prod(output.shape))

    def write_onnx(self, writer: OnnxWriter) -> None:
        shape = writer.shape(self.output)
        row, last = (*shape[:-1], 1), len(shape)
        x, edge = self.inputs[0], writer.graph.edges[self.inputs[0]]

        def name(part: str) -> str:
            return f"{self.name}_{part}"

        if self.mask is not None:  # what is masked becomes the least there is
            mask = writer.constant(name("mask"), self.mask)
            least = writer.constant(name("least"), edge.lo)
            x = writer.inner_node("Sub", [x, least], name("above"), shape)
            x = writer.inner_node("Mul", [x, mask], name("seen"), shape)
            x = writer.inner_node("Add", [x, least], name("kept"), shape)
        largest = writer.inner_node("ReduceMax", [x], name("largest"), row, axes=[last], keepdims=1)
        d = writer.inner_node("Sub", [largest, x], name("difference"), shape)
        e = self._write_exponential(writer, name, d, shape)
        if self.mask is not None:
            e = writer.inner_node("Mul", [e, mask], name("masked"), shape)
        axes = writer.constant(name("axes"), [last], kind=np.int64)
        total = writer.inner_node("ReduceSum", [e, axes], name("total"), row, keepdims=1)
        e = writer.inner_node("Mul", [e, writer.constant(name("unit"), 2 * self.unit)], name("scaled"), shape)
        total = writer.inner_node("Mul", [total, writer.constant(name("per"), self.per)], name("half"), row)
        e = writer.inner_node("Add", [e, total], name("numerator"), shape)
        double = writer.inner_node("Add", [total, total], name("denominator"), row)
        ratio = writer.inner_node("Div", [e, double], name("ratio"), shape)
        whole = writer.inner_node("Floor", [ratio], name("whole"), shape)
        writer.node("Min", [whole, writer.constant(name("most"), self.most)], self.output)

    def _write_exponential(self, writer: OnnxWriter, name: Callable[[str], str], d: str, shape: Shape) -> str:
        """The tensor exponential(d) of differences."""
        from onnx import TensorProto

        def look_up(table: Ints, index: str, part: str) -> str:
            index = writer.inner_node(
                "Cast", [index], name(f"{part}_index"), shape, TensorProto.INT64, to=TensorProto.INT64
            )
            return writer.inner_node(
                "Gather", [writer.constant(name(f"{part}_table"), table), index], name(part), shape
            )

        step = 1 if self.fine is None else len(self.fine)
        end = writer.constant(name("end"), len(self.table) * step)
        d = writer.inner_node("Min", [d, end], name("place"), shape)
        if self.fine is None:
            return look_up(np.append(self.table, 0), d, "exponential")
        count = writer.constant(name("step"), step)
        high = writer.inner_node("Div", [d, count], name("ratio_of_places"), shape)
        high = writer.inner_node("Floor", [high], name("high"), shape)
        low = writer.inner_node("Mul", [high, count], name("base"), shape)
        low = writer.inner_node("Sub", [d, low], name("low"), shape)
        coarse, fine = look_up(np.append(self.table, 0), high, "coarse"), look_up(self.fine, low, "fine")
        product = writer.inner_node("Mul", [coarse, fine], name("product"), shape)
        half = writer.constant(name("rounding"), 1 << self.fine_bits >> 1)
        product = writer.inner_node("Add", [product, half], name("rounded"), shape)
        product = writer.inner_node(
            "Div", [product, writer.constant(name("one"), 1 << self.fine_bits)], name("e"), shape
        )
        return writer.inner_node("Floor", [product], name("exponential"), shape)

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        return cls(**{**values, **{key: int(values[key]) for key in ("unit", "per", "most")}})
