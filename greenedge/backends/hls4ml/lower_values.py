"""The rules of operations on single values: requantisers and additions.

A requantiser is hls4ml's batch normalisation with scale m*2^-s and bias b*2^-s, both exact in fixed point, whose result
type truncates and saturates: clip((m*x + b) >> s, lo, hi). Steps that round ties to even (half_even.py) are the same
with a result type that rounds so.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from greenedge.backends.hls4ml.layers import MAX_AXES, LayerBuilder, emit_transpose
from greenedge.backends.hls4ml.line import Line, Wide, as_wide, emit_line
from greenedge.backends.hls4ml.lower_windows import RULES
from greenedge.backends.hls4ml.precision import DOUBLE_BITS, clip_type, holds, range_type
from greenedge.errors import ReasonKind, Refused
from greenedge.graph import Add, Affine, ChannelAdd, Edge, Requantise
from greenedge.graph.half_even import half_even
from greenedge.graph.ops.base import Ints


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
        line = Line(as_wide([multiplier]), as_wide([0]), 0, range_type(edge.lo, edge.hi))
        emit_line(b, op, b.layouts[name].layer, b.graph.edges[name], line, "", edge, order)
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
    line = Line(as_wide([multiplier]), as_wide([0]), 0, range_type(lo, hi))
    return emit_line(b, op, layer, edge, line, f"_times{k}"), lo, hi


@RULES.lowers(ChannelAdd)
def channel_add(b: LayerBuilder, op: ChannelAdd) -> None:
    """Each branch is multiplied by a line with a factor for each channel, then they are added."""
    shape = b.source(op).shape
    b.require(
        op.axis == 0 or len(shape) == 1,
        f"factors along axis {op.axis} of {len(shape)}",
        "a line of hls4ml runs along the channels",
        "quantise each branch per tensor before the addition",
    )
    b.require(len(set(op.inputs)) == len(op.inputs), "a branch that is added twice", "branches differ", "multiply it")
    b.begin_emission()
    edge, order = b.result(op), b.layouts[op.inputs[0]].order
    terms, lo, hi = [], 0, 0
    for k, (name, factors) in enumerate(zip(op.inputs, op.multipliers, strict=True)):
        source, layout = b.graph.edges[name], b.layouts[name]
        products = [int(m) * end for m in factors for end in (source.lo, source.hi)]
        low, high = min(products), max(products)
        m = as_wide(factors)
        m = m[layout.order] if len(shape) == 1 else m
        line = Line(m, as_wide([0] * len(m)), 0, range_type(low, high))
        terms.append(emit_line(b, op, layout.layer, source, line, f"_times{k}"))
        lo, hi = lo + low, hi + high
    assert len(terms) == 2, "a sum of two branches"
    b.emit("Merge", (terms[0], terms[1]), op, {"op": "add"}, "", edge, order, {"result": range_type(lo, hi)})


@RULES.lowers(Requantise)
def requantise(b: LayerBuilder, op: Requantise) -> None:
    """Channels along another axis than the first are turned to the end for the line, and back."""
    affine = _require_affine(op)
    m, offset, shift = common_shift(affine)
    shape = b.source(op).shape
    is_turned = op.channels > 1 and op.axis != 0 and len(shape) > 1
    b.require(
        holds(m) and holds(offset),
        "a multiplier or offset of more than 53 bits",
        f"hls4ml holds weights in doubles of {DOUBLE_BITS} bits",
        "use `greenedge snap` to narrow it",
        ReasonKind.TOO_WIDE,
    )
    b.require(
        not is_turned or len(shape) <= MAX_AXES,
        f"channels along axis {op.axis} of {len(shape)}",
        f"hls4ml moves up to {MAX_AXES} axes",
        "quantise per tensor",
    )
    b.begin_emission()
    edge, layout, source = b.result(op), b.layouts[op.inputs[0]], b.source(op)
    line = Line(m, offset, shift, "")
    if is_turned:
        place = op.axis - 1  # of the channels among hls4ml's axes
        others = [axis for axis in range(len(shape)) if axis != place]
        layer = emit_transpose(b, op, layout.layer, source, (*others, place), "_turned")
        source = replace(source, shape=(shape[op.axis], *(d for axis, d in enumerate(shape) if axis != op.axis)))
        layer = _emit_levels(b, op, affine, line, layer, source, "_levels", None, None)
        emit_transpose(b, op, layer, edge, np.argsort((*others, place)).tolist(), "", edge)
        return
    if len(shape) == 1 and len(m) > 1:
        line = replace(line, m=m[layout.order], b=offset[layout.order])
    _emit_levels(b, op, affine, line, layout.layer, source, "", edge, layout.order)


def _emit_levels(
    b: LayerBuilder,
    op: Requantise,
    affine: Affine,
    line: Line,
    layer: str,
    source: Edge,
    part: str,
    edge: Edge | None,
    order: Ints | None,
) -> str:
    """clip((m*x + b) >> s, lo, hi) of the output of `layer`, which has the shape and range of `source`."""
    least, most = level_range(op, affine)
    result = clip_type(op.lo, op.hi, least, most, "TRN" if op.affine is not None else "RND_CONV")
    if result is not None:
        return emit_line(b, op, layer, source, replace(line, result=result), part, edge, order)
    # No type saturates at lo and hi: count from lo with room above, then let the ceiling be a type's, then count back.
    top = (1 << (op.hi - op.lo).bit_length()) - 1
    room, bits = max(most - op.lo, 1).bit_length(), top.bit_length()
    line = replace(line, b=line.b - (op.lo << line.shift), result=f"ufixed<{room},{room},TRN,SAT>")
    layer = emit_line(b, op, layer, source, line, f"{part}_floor")
    line = Line(as_wide([1]), as_wide([top - (op.hi - op.lo)]), 0, f"ufixed<{bits},{bits},TRN,SAT>")
    layer = emit_line(b, op, layer, Edge("", source.shape, 0, (1 << room) - 1), line, f"{part}_ceiling")
    line = Line(as_wide([1]), as_wide([op.hi - top]), 0, range_type(op.lo, op.hi))
    return emit_line(b, op, layer, Edge("", source.shape, 0, top), line, part, edge, order)


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
    m, b = (as_wide(int(v) * w for v, w in zip(values, wider, strict=True)) for values in (affine.m, affine.b))
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
