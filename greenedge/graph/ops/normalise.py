"""RMS and layer norm of rows, defined in integers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Self

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops.base import Array, Edge, Floats, Ints, Op, Range, Shape, freeze
from greenedge.graph.ops.int64_nodes import Int64Nodes
from greenedge.graph.ops.onnx_writer import OnnxWriter

MANTISSAS = 1 << 10  # entries of a table: the first ten bits of the row's square
LARGEST_CONSTANT = 1 << 62


NORM_BITS = 22  # fraction bits of a norm without a table: as fine as float32
_MOST_QUARTERS = 30  # a quotient of 1 is shifted by so many times two bits
_ROOT_BITS = 31  # those and the shift together: their square stays within 2^62


def define_norm(name: str, source: str, norm: str, count: int, scale: Fraction, zero: int, epsilon: float) -> Normalise:
    """The norm of rows of `count` integers that are worth `scale` each, counted from `zero`: z / 2^NORM_BITS is the
    real one."""
    weight, share = (count, count) if norm == "rms" else (count * count, 1)
    inside = Fraction(float(np.float32(epsilon))) * weight / scale**2
    both = (2 * _ROOT_BITS - (share - 1).bit_length()) // 2
    whole = math.floor(inside + Fraction(1, 2))
    return Normalise(name, (source,), name, norm, zero, whole, share << (2 * both), both - NORM_BITS, None)


@dataclass(frozen=True, eq=False)
class Normalise(Op):
    """z[..., i] = (n[i] * R + 2^(shift-1)) >> shift along the last axis of N elements, whose square is D:

    kind 'rms'     n[i] = x[i] - zero,                 D = max(sum of n[i]^2 + epsilon, 1)
    kind 'layer'   n[i] = N * x[i] - sum of x,         D = max(N * sum of x^2 - (sum of x)^2 + epsilon, 1)

    z is n / sqrt(D) in units of 2^shift / sqrt(constant). Without a table R = isqrt((constant // D) * 4^h) with the
    largest h (30 at most) that leaves this below 2^62; with one (MANTISSAS entries, for runtimes without divisions of
    64 bits) R = table[D // 4^h] with the least h that leaves this below MANTISSAS. `shift` is h more.
    """

    needs_step: ClassVar[bool] = True

    norm: str
    zero: int
    epsilon: int
    constant: int
    shift: int
    table: Ints | None

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        edge = edges[0]
        has_table = self.table is None or (self.table.shape == (MANTISSAS,) and int(self.table.min()) >= 0)
        is_whole = self.norm in ("rms", "layer") and self.epsilon >= 0 and has_table
        if not is_whole or not 1 <= self.constant <= LARGEST_CONSTANT or not 1 <= self.shift < 32:
            raise Refused(
                ReasonKind.UNSUPPORTED_FUNCTION,
                f"a norm {self.norm!r} with the constant {self.constant} and the shift {self.shift}",
                "it is 'rms' or 'layer', with a constant up to 2**62",
                "export it again",
            )
        if self.largest_square(edge) >= LARGEST_CONSTANT or self.largest_product(edge) >= LARGEST_CONSTANT:
            raise Refused(
                ReasonKind.TOO_WIDE,
                f"squares of {edge.shape[-1]} integers of {edge.bits} bits",
                "they must stay below 2**62",
                "quantise the norm's input to fewer bits",
            )
        ones = (1,) * len(edge.shape)
        most = (self._largest_scaled(edge) + (1 << (self.shift - 1))) >> self.shift
        return edge.shape, (np.full(ones, -most), np.full(ones, most))

    def largest_square(self, edge: Edge) -> int:
        """What D stays below, for an input like `edge`."""
        reach, n = max(abs(edge.lo - self.zero), abs(edge.hi - self.zero)), edge.shape[-1]
        return (n * reach * reach if self.norm == "rms" else n * n * edge.magnitude**2) + self.epsilon + 1

    def largest_numerator(self, edge: Edge) -> int:
        """The largest |n[i]|, for an input like `edge`."""
        reach = max(abs(edge.lo - self.zero), abs(edge.hi - self.zero))
        return reach if self.norm == "rms" else (edge.shape[-1] - 1) * (edge.levels - 1)

    def largest_product(self, edge: Edge) -> int:
        """What |n[i] * R|, and the largest |z| in its place with a bit more, stay below."""
        if self.table is None:
            widest = self.most_quarters(edge)
        else:
            widest = (self.largest_square(edge).bit_length() + 1) // 2
        scaled = self._largest_scaled(edge) + (2 << self.shift)
        return max(self.largest_numerator(edge) << 31, (2 * scaled) << widest)

    def most_quarters(self, edge: Edge) -> int:
        """The largest h without a table, for an input like `edge`."""
        least = max(1, self.constant // self.largest_square(edge))
        return int(fill_quarters(np.array([least]))[0])

    def _largest_scaled(self, edge: Edge) -> int:
        """A bound on |n[i]| * R / 2^h. n[i]^2 is at most D, or (N - 1) * D for a layer norm: so is n[i]^2 * R^2 at most
        `constant` times as much; a table's R holds for D up to the next mantissa."""
        share = 1 if self.norm == "rms" else max(1, edge.shape[-1] - 1)
        if self.table is None:
            return math.isqrt(share * self.constant) + 1
        places = np.arange(len(self.table)) + 1
        return max(int(r) * (math.isqrt(share * int(p)) + 1) for r, p in zip(self.table, places, strict=True))

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        n, square = self.split_row(np.asarray(xs[0], np.int64))
        if self.table is None:
            quotient = self.constant // square
            half = fill_quarters(quotient)
            root, shift = isqrt(quotient << (2 * half)), self.shift + half
        else:
            half = count_quarters(square)
            root, shift = self.table[square >> (2 * half)], self.shift + half
        z: Array = (n * root + (np.int64(1) << (shift - 1))) >> shift
        return z

    def split_row(self, x: Ints) -> tuple[Ints, Ints]:
        """(n, D) of rows along the last axis; D keeps the axis, with one element."""
        if self.norm == "rms":
            n = x - self.zero
            square = (n * n).sum(axis=-1, keepdims=True)
        else:
            total, count = x.sum(axis=-1, keepdims=True), x.shape[-1]
            n = count * x - total
            square = count * (x * x).sum(axis=-1, keepdims=True) - total * total
        return n, np.maximum(square + self.epsilon, 1)

    def execute_magnitudes(self, xs: Sequence[Floats]) -> Floats:
        """It reads levels, which are exact."""
        return np.zeros_like(xs[0])

    def bound_deviation(self, xs: Sequence[Array]) -> Floats:
        """Of z from the real norm in its unit: half for its rounding, what the root lost (half of the last place of
        constant // D, of epsilon in D, the last of R; a mantissa's width with a table), and rounding of float32."""
        n, square = self.split_row(np.asarray(xs[0], np.int64))
        real = np.abs(n) * np.sqrt(self.constant / square.astype(np.float64)) / 2.0**self.shift
        if self.table is None:
            lost = 1.0 / np.maximum(self.constant // square, 1) + 0.25 / square + 2.0**-30
        else:
            lost = 1.0 / np.maximum(square >> (2 * count_quarters(square)), 1) + 1.0 / np.maximum(self.table.min(), 1)
        off: Floats = 0.5 + real * (np.minimum(lost, 1.0) + 2.0**-20) + 2.0**-10
        return off

    def inner_magnitude(self, edges: Sequence[Edge]) -> int:
        return self.largest_square(edges[0])

    def batch_elements(self, edges: Sequence[Edge], output: Edge) -> int:
        return 4 * int(np.prod(output.shape))

    def write_onnx(self, writer: OnnxWriter) -> None:
        """In int64: a float has not enough bits for the products."""
        nodes = Int64Nodes(writer, self.name)
        edge, most = writer.graph.edges[self.inputs[0]], writer.graph.edges[self.output].magnitude + 1
        row, full = (*edge.shape[:-1], 1), edge.shape
        n, square = self._write_row(nodes, edge)
        root, unit = self._write_root(nodes, square, row, edge)
        # a Div truncates: the dividend is moved above 0 by a multiple of the divisor
        half = nodes.node("Div", [unit, nodes.constant("two", 2)], "half_unit", row)
        offset = nodes.node("Mul", [unit, nodes.constant("most", most)], "offset", row)
        moved = nodes.node("Add", [half, offset], "moved", row)
        dividend = nodes.node("Add", [nodes.node("Mul", [n, root], "product", full), moved], "dividend", full)
        quotient = nodes.node("Div", [dividend, unit], "quotient", full)
        z = nodes.node("Sub", [quotient, nodes.constant("most", most)], "norm", full)
        writer.node("Cast", [z], self.output, to=writer.element)

    def _write_row(self, nodes: Int64Nodes, edge: Edge) -> tuple[str, str]:
        """The tensors of n and D."""
        full, row = edge.shape, (*edge.shape[:-1], 1)
        x = nodes.cast(self.inputs[0], "integers", full)
        if self.norm == "rms":
            n = nodes.node("Sub", [x, nodes.constant("zero", self.zero)], "numerator", full)
            square = nodes.sum_last(nodes.node("Mul", [n, n], "squares", full), "square", full)
        else:
            count, total = nodes.constant("count", full[-1]), nodes.sum_last(x, "total", full)
            n = nodes.node("Sub", [nodes.node("Mul", [x, count], "counted", full), total], "numerator", full)
            squares = nodes.sum_last(nodes.node("Mul", [x, x], "squares", full), "sum_of_squares", full)
            squares = nodes.node("Mul", [squares, count], "counted_squares", row)
            square = nodes.node("Sub", [squares, nodes.node("Mul", [total, total], "squared", row)], "square", row)
        square = nodes.node("Add", [square, nodes.constant("epsilon", self.epsilon)], "with_epsilon", row)
        return n, nodes.node("Max", [square, nodes.constant("one", 1)], "denominator", row)

    def _write_root(self, nodes: Int64Nodes, square: str, row: Shape, edge: Edge) -> tuple[str, str]:
        """The tensors of R and of 2^shift."""
        if self.table is None:
            quotient = nodes.node("Div", [nodes.constant("constant", self.constant), square], "inverse", row)
            most = self.most_quarters(edge)
            limits = [1 << (62 - 2 * k) for k in range(1, most + 1)]
            reached = nodes.count_reached(quotient, limits, row)
            half = nodes.node("Sub", [nodes.constant("most_quarters", most), reached], "quarters", row)
            quarter = nodes.look_up([4**k for k in range(most + 1)], half, "quarter", row)
            root = nodes.write_isqrt(nodes.node("Mul", [quotient, quarter], "filled", row), row)
            return root, nodes.look_up([1 << (self.shift + k) for k in range(most + 1)], half, "divisor", row)
        limits = [MANTISSAS << (2 * k) for k in range(26) if MANTISSAS << (2 * k) <= self.largest_square(edge)]
        half = nodes.count_reached(square, limits, row)
        quarter = nodes.look_up([4**k for k in range(len(limits) + 1)], half, "quarter", row)
        place = nodes.node("Div", [square, quarter], "mantissa", row)
        root = nodes.look_up(self.table, place, "root", row)
        return root, nodes.look_up([1 << (self.shift + k) for k in range(len(limits) + 1)], half, "divisor", row)

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        whole = {key: int(values[key]) for key in ("zero", "epsilon", "constant", "shift")}
        return cls(**{**values, **whole})


def isqrt(values: Ints) -> Ints:
    """The whole part of the square root of integers from 0 to 2^62."""
    root = np.sqrt(values.astype(np.float64)).astype(np.int64)
    root -= root * root > values  # float64 rounds to within one
    root += (root + 1) * (root + 1) <= values
    return root


def fill_quarters(quotients: Ints) -> Ints:
    """The largest h, 30 at most, with quotients * 4^h < 2^62."""
    half = np.zeros_like(quotients)
    for k in range(1, _MOST_QUARTERS + 1):
        half += quotients < np.int64(1) << (62 - 2 * k)
    return half


def count_quarters(squares: Ints) -> Ints:
    """The least h with squares // 4^h < MANTISSAS."""
    half = np.zeros_like(squares)
    for k in range(26):
        half += squares >= np.int64(MANTISSAS) << (2 * k)
    return half


def make_root_table(constant: int) -> Ints:
    """(MANTISSAS,) R of a table for `constant`: sqrt(constant / (m + 1/2)) for the mantissas m from a quarter of them
    on, where D is cut; the exact root below, where it is not."""
    places = np.arange(MANTISSAS, dtype=np.float64)
    middle = np.where(places < MANTISSAS // 4, np.maximum(places, 1), places + 0.5)
    return freeze(np.rint(np.sqrt(constant / middle)).astype(np.int64))
