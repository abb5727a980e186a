"""A piece of the integer graph as one expression of da4ml's fixed-point variables: every weight a constant, every value
a wire.

da4ml turns products with constant matrices into adder graphs (distributed arithmetic) and knows the range of every
wire; what it is given here is integers, but for (m*x + b) * 2**-s, whose fraction >> drops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from greenedge.backends.da4ml.partition import Piece
from greenedge.graph import (
    Add,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    DepthToSpace,
    Edge,
    Input,
    MaxPool,
    Op,
    Pad,
    Requantise,
    Reshape,
    SumPool,
    Transpose,
    Upsample,
)
from greenedge.graph.half_even import half_even


@dataclass(frozen=True)
class Span:
    """The least and the greatest value of every element of an edge, in its shape, and the steps between (floats)."""

    low: np.ndarray
    high: np.ndarray
    step: np.ndarray


def unroll(piece: Piece, spans: Mapping[str, Span]):
    """(variables of every source, of the output) as da4ml's, each as a flat array in the order of its edge.

    A constant output is a number. `spans` has the ranges of the sources' elements.
    """
    values = {name: _source(spans[name]) for name in piece.sources}
    sources = [values[name]._vars.ravel() for name in piece.sources]
    for op in piece.ops:
        values[op.output] = _RULES[type(op)](op, *(values[name] for name in op.inputs))
    return sources, values[piece.output]._vars.ravel()


def _source(span: Span):
    from da4ml.trace import FixedVariableArray, HWConfig

    return FixedVariableArray.from_lhs(span.low, span.high, span.step, HWConfig(1, -1, -1), 0.0)


def _array(like, variables):
    """An array of da4ml with these variables (or numbers) and the solver's options of `like`."""
    from da4ml.trace import FixedVariableArray

    return FixedVariableArray(variables, like.solver_options)


def _dense(op: Dense, x):
    if x._vars.ndim == 1:
        return x @ op.weight.astype(np.float64)
    rows = x.reshape(-1, x.shape[-1])
    y = np.stack([(rows[k] @ op.weight.astype(np.float64))._vars for k in range(rows.shape[0])])
    return _array(x, y.reshape(*x.shape[:-1], op.weight.shape[1]))


def _conv(op: Conv, x):
    return _windows(op, x, op.weight, op.strides, op.pads, op.dilations, op.groups, op.pad_value)


def _sum_pool(op: SumPool, x):
    channels = x.shape[0]
    weight = np.ones((channels, 1, *op.kernel), np.int64)
    return _windows(op, x, weight, op.strides, op.pads, (1,) * len(op.kernel), channels, op.pad_value)


def _windows(op: Op, x, weight, strides, pads, dilations, groups: int, pad_value: int):
    """One product of a vector with a constant matrix per position and group."""
    padded = _padded(x._vars, pads, pad_value)
    n, per_in, per_out = len(strides), weight.shape[1], len(weight) // groups
    places = _places(padded.shape[1:], weight.shape[2:], strides, dilations)
    out = np.empty((len(weight), *(len(axis) for axis in places)), object)
    for position in np.ndindex(*out.shape[1:]):
        window = padded[np.ix_(range(padded.shape[0]), *(places[i][position[i]] for i in range(n)))]
        for g in range(groups):
            vector = window[g * per_in : (g + 1) * per_in].ravel()
            matrix = weight[g * per_out : (g + 1) * per_out].reshape(per_out, -1).T
            wires = _array(x, vector) if _variable(vector) else vector.astype(np.float64)
            product = wires @ matrix.astype(np.float64)
            out[(slice(g * per_out, (g + 1) * per_out), *position)] = getattr(product, "_vars", product)
    return _array(x, out)


def _variable(values: np.ndarray) -> bool:
    return any(not isinstance(value, (int, float)) for value in values)


def _places(space, kernel, strides, dilations) -> list[list[list[int]]]:
    """Per axis and output position the indices under the window."""
    return [
        [[o * s + k * d for k in range(width)] for o in range((size - (width - 1) * d - 1) // s + 1)]
        for size, width, s, d in zip(space, kernel, strides, dilations)
    ]


def _padded(variables: np.ndarray, pads, value: int) -> np.ndarray:
    n = len(pads) // 2
    width = [(0, 0)] * (variables.ndim - n) + [(pads[i], pads[n + i]) for i in range(n)]
    padded = np.full([size + begin + end for size, (begin, end) in zip(variables.shape, width)], float(value), object)
    padded[tuple(slice(begin, begin + size) for size, (begin, _) in zip(variables.shape, width))] = variables
    return padded


def _conv_transpose(op: ConvTranspose, x):
    """Zeros between the samples, then a convolution with the kernel turned round."""
    n, kernel = len(op.strides), op.weight.shape[2:]
    spread = np.full([x.shape[0], *((size - 1) * s + 1 for size, s in zip(x.shape[1:], op.strides))], 0.0, object)
    spread[(slice(None), *(slice(None, None, s) for s in op.strides))] = x._vars
    reach = [(k - 1) * d for k, d in zip(kernel, op.dilations)]
    begin = [r - p for r, p in zip(reach, op.pads[:n])]
    end = [r - p + o for r, p, o in zip(reach, op.pads[n:], op.output_padding)]
    spread = _padded(spread, tuple(max(0, v) for v in (*begin, *end)), 0)
    crop = (slice(max(0, -b), size - max(0, -e)) for size, b, e in zip(spread.shape[1:], begin, end))
    spread = spread[(slice(None), *crop)]
    per_in = len(op.weight) // op.groups
    turned = op.weight[(slice(None), slice(None), *(slice(None, None, -1) for _ in kernel))]
    turned = turned.reshape(op.groups, per_in, -1, *kernel).swapaxes(1, 2).reshape(-1, per_in, *kernel)
    return _windows(op, _array(x, spread), turned, (1,) * n, (0,) * 2 * n, op.dilations, op.groups, 0)


def _max_pool(op: MaxPool, x):
    n = len(op.kernel)
    lowest = float(min(v.low for v in x._vars.ravel()))
    padded = _padded(x._vars, op.pads, int(lowest))
    places = _places(padded.shape[1:], op.kernel, op.strides, op.dilations or (1,) * n)
    out = np.empty((x.shape[0], *(len(axis) for axis in places)), object)
    for index in np.ndindex(*out.shape):
        window = padded[index[0]][np.ix_(*(places[i][index[1 + i]] for i in range(n)))].ravel()
        out[index] = _largest([v for v in window if not isinstance(v, (int, float))])
    return _array(x, out)


def _largest(values: list):
    while len(values) > 1:
        values = [a.max_of(b) for a, b in zip(values[::2], values[1::2])] + values[len(values) // 2 * 2 :]
    return values[0]


def _add(op: Add, *xs):
    total = None
    for multiplier, x in zip(op.multipliers, xs):
        term = x * float(multiplier) if multiplier != 1 else x
        total = term if total is None else total + term
    return total


def _concat(op: Concat, *xs):
    return _array(xs[0], np.concatenate([x._vars for x in xs], axis=op.axis))


def _requantise(op: Requantise, x):
    """clip((m*x + b) >> s, lo, hi), counted from lo; a clip that no reachable x needs is left out."""
    axis = op.axis
    variables = np.moveaxis(x._vars, axis, -1)
    channels = variables.shape[-1]
    affine = op.affine or half_even(op)
    m, b, s, low, high = (np.broadcast_to(v, (channels,)) for v in (affine.m, affine.b, affine.s, op.x_lo, op.x_hi))
    out = np.empty(variables.shape, object)
    for index in np.ndindex(*variables.shape):
        c = index[-1]
        line = _Line(int(m[c]), int(b[c]), int(s[c]), op.affine is None)
        out[index] = line.clipped(variables[index], op.lo, op.hi, int(low[c]), int(high[c]))
    return _array(x, np.moveaxis(out, -1, axis))


@dataclass(frozen=True)
class _Line:
    """(m*x + b) / 2**s, truncated, or rounded to the nearest integer with ties to even."""

    m: int
    b: int
    s: int
    to_even: bool

    def clipped(self, x, lo: int, hi: int, x_lo: int, x_hi: int):
        """clip(line(x), lo, hi) for x in x_lo…x_hi: a wire, or a number where it is constant (da4ml truncates no
        constant).
        """
        ends = [min(max(self._at(end), lo), hi) for end in (x_lo, x_hi)]
        if ends[0] == ends[1]:
            return float(ends[0])
        y = x * float(self.m) + float(self.b)
        if self.to_even:  # just under a half is added, and the rest of it where what is left is odd
            odd = _truncated(y * 2.0**-self.s).quantize(0, 1, 0, "WRAP", "TRN")
            y = y + float((1 << (self.s - 1)) - 1) + odd
        y = y - float(lo << self.s)
        # the fraction goes before the clipping: da4ml's relu leaves it in the ranges that it reckons with
        y = _truncated(y * 2.0**-self.s)
        if y.low < 0:
            y = y.relu()
        if y.high > hi - lo:
            y = y.min_of(float(hi - lo))
        return y + float(lo) if lo else y

    def _at(self, x: int) -> int:
        value = self.m * x + self.b
        return (value + (1 << (self.s - 1)) - 1 + (value >> self.s & 1) if self.to_even else value) >> self.s


def _truncated(y):
    """y without its fraction."""
    return y.quantize(int(y.low < 0), int(y.kif[1]), 0, "WRAP", "TRN")


def _pad(op: Pad, x):
    return _array(x, _padded(x._vars, op.pads, op.value))


def _reshape(op: Reshape, x):
    return x.reshape(*op.shape)


def _transpose(op: Transpose, x):
    return _array(x, x._vars.transpose(op.perm))


def _upsample(op: Upsample, x):
    variables = x._vars
    for axis, factor in enumerate(op.factors):
        variables = np.repeat(variables, factor, axis=axis)
    return _array(x, variables)


def _depth_to_space(op: DepthToSpace, x):
    c, h, w = x.shape
    b = op.block
    if op.mode == "DCR":
        y = x._vars.reshape(b, b, c // b**2, h, w).transpose(2, 3, 0, 4, 1)
    else:
        y = x._vars.reshape(c // b**2, b, b, h, w).transpose(0, 3, 1, 4, 2)
    return _array(x, y.reshape(c // b**2, h * b, w * b))


_RULES = {
    Dense: _dense,
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    SumPool: _sum_pool,
    MaxPool: _max_pool,
    Add: _add,
    Concat: _concat,
    Requantise: _requantise,
    Pad: _pad,
    Reshape: _reshape,
    Transpose: _transpose,
    Upsample: _upsample,
    DepthToSpace: _depth_to_space,
}
OPERATIONS = (Input, *_RULES)


def bits_of(low: float, high: float, step: float) -> tuple[int, bool, int]:
    """(width, signed, shift) of a wire with da4ml's range low…high in steps of `step`: value = wire << shift."""
    shift = round(math.log2(step)) if low != high or low else 0
    least, most = round(low / 2**shift), round(high / 2**shift)
    edge = Edge("", (), least, most)
    return (0 if least == most == 0 else edge.bits), edge.is_signed, shift
