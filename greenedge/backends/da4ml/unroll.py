"""A piece of the integer graph as one expression of da4ml's fixed-point variables: every weight a constant, every value
a wire. One rule per operation checks it, estimates its adders, and unrolls it.

da4ml turns products with constant matrices into adder graphs (distributed arithmetic) and knows the range of every
wire; what it is given here is integers, but for (m*x + b) * 2**-s, whose fraction >> drops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from greenedge.backends.da4ml.adders import linear_bits, max_pool_bits, requantise_bits, sum_pool_bits
from greenedge.backends.da4ml.data_movement import RULES
from greenedge.backends.da4ml.partition import Piece
from greenedge.backends.da4ml.wires import Span, Variables, WireBuilder, Wires, join_wires, pad_variables, variables_of
from greenedge.errors import ReasonKind, Refused
from greenedge.graph import Add, Affine, ChannelAdd, Conv, ConvTranspose, Dense, Graph, MaxPool, Requantise, SumPool
from greenedge.graph.half_even import half_even
from greenedge.graph.ops.base import Ints

__all__ = ["RULES", "unroll"]

_MOST_BITS = 48  # of a product with a multiplier: da4ml takes widths from log2 in doubles, exact up to 2**48
# da4ml looks for no more zeros than these below a constant; where one is shifted further, the multiplexer of its clip
# takes the wrong bits (0.5.2: single requantisers were right up to 32 and wrong from 33 on)
_MOST_ZEROS = 31


def unroll(graph: Graph, piece: Piece, spans: Mapping[str, Span]) -> tuple[list[Variables], Variables]:
    """(variables of every source, of the output) as da4ml's, each as a flat array in the order of its edge.

    A constant output is a number. `spans` has the ranges of the sources' elements.
    """
    b = WireBuilder(graph, {name: spans[name] for name in piece.sources})
    sources = [variables_of(b.wires[name]).ravel() for name in piece.sources]
    RULES.run(b, piece.ops)
    assert not b.reasons, b.reasons
    return sources, variables_of(b.wires[piece.output]).ravel()


@RULES.lowers(Dense)
def dense(b: WireBuilder, op: Dense) -> None:
    b.count_adder_bits(op, linear_bits(op, b.source(op), b.result(op)))
    b.begin_emission()
    (x,) = b.inputs(op)
    rows = variables_of(x).reshape(-1, len(op.weight))
    y = np.stack([variables_of(join_wires(x, row) @ op.weight.astype(np.float64)) for row in rows])
    b.emit(op, y.reshape(b.result(op).shape))


@dataclass(frozen=True)
class _Windows:
    """A convolution without padding: the weights (O, I/groups, *kernel) and how the window moves."""

    weight: Ints
    strides: Sequence[int]
    dilations: Sequence[int]
    groups: int


@RULES.lowers(Conv)
def conv(b: WireBuilder, op: Conv) -> None:
    b.count_adder_bits(op, linear_bits(op, b.source(op), b.result(op)))
    b.begin_emission()
    _emit_conv(b, op)


@RULES.lowers(SumPool)
def sum_pool(b: WireBuilder, op: SumPool) -> None:
    b.count_adder_bits(op, sum_pool_bits(op, b.result(op)))
    b.begin_emission()
    _emit_conv(b, op.as_depthwise(b.source(op).shape[0]))


def _emit_conv(b: WireBuilder, op: Conv) -> None:
    (x,) = b.inputs(op)
    padded = pad_variables(variables_of(x), op.pads, op.pad_value)
    b.emit(op, _convolve(x, padded, _Windows(op.weight, op.strides, op.dilations, op.groups)))


@RULES.lowers(ConvTranspose)
def conv_transpose(b: WireBuilder, op: ConvTranspose) -> None:
    """Zeros between the samples, then a convolution with the kernel reversed along every axis."""
    b.count_adder_bits(op, linear_bits(op, b.source(op), b.result(op), op.strides))
    b.begin_emission()
    (x,) = b.inputs(op)
    n, shape = len(op.strides), b.source(op).shape
    sizes = [(size - 1) * s + 1 for size, s in zip(shape[1:], op.strides, strict=True)]
    spread: Variables = np.full([shape[0], *sizes], 0.0, object)
    spread[(slice(None), *(slice(None, None, s) for s in op.strides))] = variables_of(x)
    reach = [(k - 1) * d for k, d in zip(op.kernel, op.dilations, strict=True)]
    begin = [r - p for r, p in zip(reach, op.pads[:n], strict=True)]
    end = [r - p + o for r, p, o in zip(reach, op.pads[n:], op.output_padding, strict=True)]
    spread = pad_variables(spread, [max(0, v) for v in (*begin, *end)], 0)
    crop = [
        slice(max(0, -low), size - max(0, -high)) for size, low, high in zip(spread.shape[1:], begin, end, strict=True)
    ]
    per_in = len(op.weight) // op.groups
    weight = op.weight[(slice(None), slice(None), *(slice(None, None, -1) for _ in op.kernel))]
    weight = weight.reshape(op.groups, per_in, -1, *op.kernel).swapaxes(1, 2).reshape(-1, per_in, *op.kernel)
    b.emit(op, _convolve(x, spread[(slice(None), *crop)], _Windows(weight, (1,) * n, op.dilations, op.groups)))


def _convolve(like: Wires, x: Variables, windows: _Windows) -> Variables:
    """One product of a vector with a constant matrix per position and group; x (I, *space) is padded already."""
    weight, groups = windows.weight, windows.groups
    n, per_in, per_out = len(windows.strides), weight.shape[1], len(weight) // groups
    places = _window_indices(x.shape[1:], weight.shape[2:], windows.strides, windows.dilations)
    out: Variables = np.empty((len(weight), *(len(axis) for axis in places)), object)
    for position in np.ndindex(*out.shape[1:]):
        window = x[np.ix_(range(x.shape[0]), *(places[i][position[i]] for i in range(n)))]
        for g in range(groups):
            vector = window[g * per_in : (g + 1) * per_in].ravel()
            matrix = weight[g * per_out : (g + 1) * per_out].reshape(per_out, -1).T
            # da4ml multiplies wires alone: a window of padding is a vector of numbers
            factors = join_wires(like, vector) if _has_wire(vector) else vector.astype(np.float64)
            product = variables_of(factors @ matrix.astype(np.float64))
            out[(slice(g * per_out, (g + 1) * per_out), *position)] = product
    return out


def _has_wire(values: Variables) -> bool:
    return any(not isinstance(value, (int, float)) for value in values)


def _window_indices(
    space: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[list[list[int]]]:
    """Per axis and output position the indices under the window."""
    return [
        [[o * s + k * d for k in range(width)] for o in range((size - (width - 1) * d - 1) // s + 1)]
        for size, width, s, d in zip(space, kernel, strides, dilations, strict=True)
    ]


@RULES.lowers(MaxPool)
def max_pool(b: WireBuilder, op: MaxPool) -> None:
    b.count_adder_bits(op, max_pool_bits(op, b.result(op)))
    b.begin_emission()
    (x,) = b.inputs(op)
    lowest = float(min(v.low for v in variables_of(x).ravel()))
    padded = pad_variables(variables_of(x), op.pads, int(lowest))
    places = _window_indices(padded.shape[1:], op.kernel, op.strides, op.steps)
    out: Variables = np.empty((padded.shape[0], *(len(axis) for axis in places)), object)
    for index in np.ndindex(*out.shape):
        window = padded[index[0]][np.ix_(*(axis[at] for axis, at in zip(places, index[1:], strict=True)))].ravel()
        out[index] = _maximum([v for v in window if not isinstance(v, (int, float))])
    b.emit(op, out)


def _maximum(values: list[Any]) -> Any:
    """The largest of some wires, in a tree of comparisons."""
    while len(values) > 1:
        pairs = zip(values[::2], values[1::2], strict=False)  # the last of an odd number has no partner
        values = [first.max_of(second) for first, second in pairs] + values[len(values) // 2 * 2 :]
    return values[0]


@RULES.lowers(Add)
def add(b: WireBuilder, op: Add) -> None:
    b.begin_emission()
    terms = [x * float(m) if m != 1 else x for m, x in zip(op.multipliers, b.inputs(op), strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    b.emit(op, variables_of(total))


@RULES.lowers(ChannelAdd)
def channel_add(b: WireBuilder, op: ChannelAdd) -> None:
    """As Add, with a factor for each channel."""
    b.begin_emission()
    factors = op.spread(len(b.graph.edges[op.output].shape))
    first, *others = (x * factor.astype(float) for factor, x in zip(factors, b.inputs(op), strict=True))
    total = first
    for term in others:
        total = total + term
    b.emit(op, variables_of(total))


@RULES.lowers(Requantise)
def requantise(b: WireBuilder, op: Requantise) -> None:
    """clip((m*x + b) >> s, lo, hi), counted from lo; a clip that no reachable x needs is left out."""
    affine = op.affine or half_even(op)
    if affine is None:
        raise Refused(
            ReasonKind.NO_AFFINE_FORM,
            "a step function that is no multiply, add and shift",
            "adders compute clip((m*x + b) >> s)",
            "use batch norm and ReLU before the quantiser",
        )
    b.count_adder_bits(op, requantise_bits(affine, b.source(op), b.result(op)))
    bits, zeros = _product_bits(op, affine), _zeros_below(op, affine)
    if b.require(
        bits <= _MOST_BITS,
        f"products of {bits} bits",
        f"da4ml reckons in {_MOST_BITS}",
        "use `greenedge snap` to narrow it",
        ReasonKind.TOO_WIDE,
    ):
        b.require(
            zeros <= _MOST_ZEROS,
            f"constants with {zeros} zeros behind a shift of {affine.s.max()}",
            f"da4ml 0.5 finds {_MOST_ZEROS}, and its Verilog is wrong beyond",
            "use `greenedge snap` for shorter multipliers, or choose --backend finn",
            ReasonKind.TOO_DEEP,
        )
    b.begin_emission()
    (x,) = b.inputs(op)
    variables = np.moveaxis(variables_of(x), op.axis, -1)
    per_channel = (affine.m, affine.b, affine.s, op.x_lo, op.x_hi)
    m, offset, s, low, high = (np.broadcast_to(v, variables.shape[-1:]) for v in per_channel)
    out: Variables = np.empty(variables.shape, object)
    for index in np.ndindex(*variables.shape):
        c = index[-1]
        line = _Line(int(m[c]), int(offset[c]), int(s[c]), op.affine is None)
        out[index] = line.clip(variables[index], op.lo, op.hi, int(low[c]), int(high[c]))
    b.emit(op, np.moveaxis(out, -1, op.axis))


def _product_bits(op: Requantise, affine: Affine) -> int:
    """Bits of the largest |m*x| + |b| over all channels and reachable x."""
    reach = max(abs(int(op.x_lo.min())), abs(int(op.x_hi.max())))
    pairs = zip(affine.m, affine.b, strict=True)
    return max((abs(int(m)) * reach + abs(int(offset))).bit_length() for m, offset in pairs)


def _zeros_below(op: Requantise, affine: Affine) -> int:
    """Zeros at the low end of the constants that clip and offset a result, counted where it still has its fraction."""
    zeros = [(value & -value).bit_length() - 1 for value in (op.lo, op.hi - op.lo) if value]
    return int(affine.s.max()) + max(zeros, default=0)


@dataclass(frozen=True)
class _Line:
    """(m*x + b) / 2**s, truncated, or rounded to the nearest integer with ties to even."""

    m: int
    b: int
    s: int
    to_even: bool

    def clip(self, x: Any, lo: int, hi: int, x_lo: int, x_hi: int) -> Any:
        """clip(line(x), lo, hi) for a wire x in x_lo…x_hi: a wire, or a number where it is constant (da4ml truncates no
        constant).
        """
        ends = [min(max(self._at(end), lo), hi) for end in (x_lo, x_hi)]
        if ends[0] == ends[1]:
            return float(ends[0])
        y = x * float(self.m) + float(self.b)
        if self.to_even:  # just under a half is added, and the rest of it where what is left is odd
            odd = _truncate(y * 2.0**-self.s).quantize(0, 1, 0, "WRAP", "TRN")
            y = y + float((1 << (self.s - 1)) - 1) + odd
        y = y - float(lo << self.s)
        # the fraction goes before the clipping: da4ml's relu leaves it in the ranges that it reckons with
        y = _truncate(y * 2.0**-self.s)
        if y.low < 0:
            y = y.relu()
        if y.high > hi - lo:
            y = y.min_of(float(hi - lo))
        return y + float(lo) if lo else y

    def _at(self, x: int) -> int:
        value = self.m * x + self.b
        return (value + (1 << (self.s - 1)) - 1 + (value >> self.s & 1) if self.to_even else value) >> self.s


def _truncate(y: Any) -> Any:
    """A wire without its fraction."""
    return y.quantize(int(y.low < 0), int(y.kif[1]), 0, "WRAP", "TRN")
