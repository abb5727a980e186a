"""The rules of operations on single values and branches: requantisers, additions, concatenations, reshapes.

A requantiser is hls4ml's batch normalisation with scale m*2^-s and bias b*2^-s, both exact in fixed point, whose result
type truncates and saturates: clip((m*x + b) >> s, lo, hi). Steps that round ties to even (half_even.py) are the same
with a result type that rounds so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.backends.hls4ml.layers import LayerBuilder, channels_last_order, channels_last_shape
from greenedge.backends.hls4ml.lower_windows import RULES
from greenedge.backends.hls4ml.precision import DOUBLE_BITS, clip_type, holds, range_type, scaled_type
from greenedge.errors import ReasonKind, Refused
from greenedge.graph import Add, Affine, Concat, Edge, Op, Requantise, Reshape
from greenedge.graph.half_even import half_even
from greenedge.graph.ops.base import Floats, Ints

Wide = NDArray[np.object_]  # integers of Python, for products beyond 64 bits


@dataclass(frozen=True)
class Line:
    """(m*x + b) * 2**-shift with m and b (channels,) or (1,) for all, in a result type."""

    m: Wide
    b: Wide
    shift: int
    result: str


@RULES.lowers(Reshape)
def reshape(b: LayerBuilder, op: Reshape) -> None:
    before, after = b.source(op).shape, op.shape
    b.require(
        len(after) == 1 or np.array_equal(channels_last_order(before), channels_last_order(after)),
        f"a reshape from {before} to {after}",
        "hls4ml has the channels last, so values would have to move",
        "flatten, or keep the channels apart",
    )
    b.begin_emission()
    edge, source = b.result(op), b.layouts[op.inputs[0]]
    attributes = {"target_shape": channels_last_shape(edge.shape)}
    b.emit("Reshape", (source.layer,), op, attributes, edge=edge, order=source.order)


@RULES.lowers(Add)
def add(b: LayerBuilder, op: Add) -> None:
    """Branches are multiplied first where they must be, then added two by two."""
    b.require(all(op.multipliers), f"branches weighted {tuple(op.multipliers)}", "a branch counts", "remove the branch")
    b.begin_emission()
    weights: dict[str, int] = {}
    for name, multiplier in zip(op.inputs, op.multipliers, strict=True):
        weights[name] = weights.get(name, 0) + multiplier
    edge, order = b.result(op), b.layouts[op.inputs[0]].order
    if len(weights) == 1:
        ((name, multiplier),) = weights.items()
        line = Line(_wide([multiplier]), _wide([0]), 0, range_type(edge.lo, edge.hi))
        _emit_line(b, op, b.layouts[name].layer, b.graph.edges[name], line, "", edge, order)
        return
    terms = [_emit_term(b, op, name, multiplier, k) for k, (name, multiplier) in enumerate(weights.items())]
    total, lo, hi = terms[0]
    for k, (layer, low, high) in enumerate(terms[1:]):
        lo, hi = lo + low, hi + high
        is_last = k == len(terms) - 2
        precision = {"result": range_type(edge.lo, edge.hi) if is_last else range_type(lo, hi)}
        part, held = ("", edge) if is_last else (f"_sum{k}", None)
        total = b.emit("Merge", (total, layer), op, {"op": "add"}, part, held, order, precision)


def _emit_term(b: LayerBuilder, op: Add, name: str, multiplier: int, k: int) -> tuple[str, int, int]:
    """(layer, range) of a branch times its factor."""
    edge, layer = b.graph.edges[name], b.layouts[name].layer
    if multiplier == 1:
        return layer, edge.lo, edge.hi
    lo, hi = sorted((multiplier * edge.lo, multiplier * edge.hi))
    line = Line(_wide([multiplier]), _wide([0]), 0, range_type(lo, hi))
    return _emit_line(b, op, layer, edge, line, f"_times{k}"), lo, hi


@RULES.lowers(Concat)
def concat(b: LayerBuilder, op: Concat) -> None:
    b.require(
        len(op.inputs) == 2 and len(set(op.inputs)) == 2,
        f"{len(op.inputs)} inputs joined",
        "hls4ml joins two different tensors",
        "join two by two",
    )
    b.require(op.axis == 0, f"a concatenation along axis {op.axis}", "channels are joined", "concatenate channels")
    b.begin_emission()
    edge = b.result(op)
    rank, order = len(edge.shape), None
    if rank == 1:
        first, second = (b.layouts[name].order for name in op.inputs)
        order = np.concatenate([first, second + len(first)])
    attributes = {"op": f"concatenate{rank}d", "axis": rank}
    b.emit("Concatenate", b.source_layers(op), op, attributes, edge=edge, order=order)


@RULES.lowers(Requantise)
def requantise(b: LayerBuilder, op: Requantise) -> None:
    affine = _require_affine(op)
    b.require(
        op.channels == 1 or op.axis == 0,
        f"channels along axis {op.axis}",
        "hls4ml has one function per channel",
        "quantise per channel or per tensor",
    )
    m, offset, shift = common_shift(affine)
    b.require(
        holds(m) and holds(offset),
        "a multiplier or offset of more than 53 bits",
        f"hls4ml holds weights in doubles of {DOUBLE_BITS} bits",
        "use `greenedge snap` to narrow it",
        ReasonKind.TOO_WIDE,
    )
    b.begin_emission()
    edge, source = b.result(op), b.layouts[op.inputs[0]]
    if len(edge.shape) == 1 and len(m) > 1:
        m, offset = m[source.order], offset[source.order]
    least, most = level_range(op, affine)
    result = clip_type(op.lo, op.hi, least, most, "TRN" if op.affine is not None else "RND_CONV")
    if result is not None:
        _emit_line(b, op, source.layer, b.source(op), Line(m, offset, shift, result), "", edge, source.order)
        return
    # No type saturates at lo and hi: count from lo with room above, then let the ceiling be a type's, then count back.
    top = (1 << (op.hi - op.lo).bit_length()) - 1
    room, bits = max(most - op.lo, 1).bit_length(), top.bit_length()
    line = Line(m, offset - (op.lo << shift), shift, f"ufixed<{room},{room},TRN,SAT>")
    layer = _emit_line(b, op, source.layer, b.source(op), line, "_floor")
    line = Line(_wide([1]), _wide([top - (op.hi - op.lo)]), 0, f"ufixed<{bits},{bits},TRN,SAT>")
    layer = _emit_line(b, op, layer, Edge("", edge.shape, 0, (1 << room) - 1), line, "_ceiling")
    line = Line(_wide([1]), _wide([op.hi - top]), 0, range_type(edge.lo, edge.hi))
    _emit_line(b, op, layer, Edge("", edge.shape, 0, top), line, "", edge, source.order)


def _require_affine(op: Requantise) -> Affine:
    """The multiply, add and shift of a step function, rounding down or (half_even) to the nearest. Raises Refused where
    there is none, or where no type rounds and clips as it does.
    """
    affine = op.affine or half_even(op)
    if affine is None or (op.affine is None and clip_type(op.lo, op.hi, *level_range(op, affine)) is None):
        raise Refused(
            ReasonKind.NO_AFFINE_FORM,
            "a step function that is no multiply, add and shift",
            "a batch normalisation computes clip((m*x + b) >> s)",
            "use batch norm and ReLU before the quantiser",
        )
    return affine


def common_shift(affine: Affine) -> tuple[Wide, Wide, int]:
    """(m, b, s) as Python integers with one s for all channels: (m*x + b) >> s is m*2**d, b*2**d, s + d."""
    shift = int(affine.s.max())
    wider = [1 << (shift - int(s)) for s in affine.s]
    m, b = (_wide(int(v) * w for v, w in zip(values, wider, strict=True)) for values in (affine.m, affine.b))
    return m, b, shift


def level_range(op: Requantise, affine: Affine) -> tuple[int, int]:
    """The least and the largest level over all channels and reachable x before it is clipped; one more where it is
    rounded.
    """
    ends = [
        (int(m) * int(x) + int(b)) >> int(s)
        for x_end in (op.x_lo, op.x_hi)
        for m, b, s, x in zip(affine.m, affine.b, affine.s, np.broadcast_to(x_end, affine.m.shape), strict=True)
    ]
    return min(ends), max(ends) + (op.affine is None)


def _emit_line(
    b: LayerBuilder,
    op: Op,
    layer: str,
    source: Edge,
    line: Line,
    part: str,
    edge: Edge | None = None,
    order: Ints | None = None,
) -> str:
    """A batch normalisation of the output of `layer`, which has the shape and range of `source`."""
    is_image, count = len(source.shape) > 1, source.shape[0]
    line = replace(line, m=np.resize(line.m, count), b=np.resize(line.b, count))
    # hls4ml would drop it, and its clipping with it: add half a step, which >> drops
    if (line.m == 1 << line.shift).all() and not line.b.any():
        line = replace(line, m=line.m * 2, b=line.b + 1, shift=line.shift + 1)
    attributes = {
        "n_in": math.prod(source.shape),
        "n_filt": count if is_image else -1,
        "scale_data": _scale(line.m, line.shift),
        "bias_data": _scale(line.b, line.shift),
    }
    precision = {
        "scale": scaled_type(line.m, line.shift),
        "bias": scaled_type(line.b, line.shift),
        "result": line.result,
    }
    return b.emit("BatchNormalization", (layer,), op, attributes, part, edge, order, precision)


def _wide(values: Iterable[Any]) -> Wide:
    return np.array([int(v) for v in values], object)


def _scale(values: Wide, shift: int) -> Floats:
    """Each value * 2**-shift, which a double holds (precision.holds)."""
    return np.array([math.ldexp(int(v), -shift) for v in values])
