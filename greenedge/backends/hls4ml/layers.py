"""The integer graph as hls4ml layers, each with types that hold its integers exactly.

Every weight, sum and level is an integer in a type as wide as its proven range. A requantiser is hls4ml's batch
normalisation with scale m*2^-s and bias b*2^-s, both exact in fixed point, whose result type truncates and saturates:
clip((m*x + b) >> s, lo, hi). Steps that round ties to even (half_even.py) are the same with a result type that rounds
so. What hls4ml has no layer for becomes one that it has, with the same integers: a sum pool is a depthwise convolution
with ones, a grouped convolution one with zeros, a dilated kernel one with holes.

hls4ml has its channels last. Each edge therefore has an `order`: position i of the layer's output holds element
order[i] of the graph's edge, counted row by row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from greenedge.backends.hls4ml.precision import clip_type, range_type, scaled_type
from greenedge.graph import Add, Concat, Conv, Dense, Edge, Graph, Input, MaxPool, Op, Pad, Requantise, Reshape, SumPool
from greenedge.graph.half_even import half_even


@dataclass(frozen=True, eq=False)
class Layer:
    """One hls4ml layer: its class, attributes and types. `edge` is what its output holds, None within an operation."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, object]
    precision: Mapping[str, str]
    edge: str | None = None
    weights: tuple[int, int] = (0, 0)  # (inputs, outputs) of its product of vectors
    vectors: int = 1  # of these in one inference


@dataclass(frozen=True, eq=False)
class Held:
    """Where an edge is: the layer that has it and the order of its elements."""

    layer: str
    shape: tuple[int, ...]  # in hls4ml, channels last
    order: np.ndarray
    lo: int
    hi: int


@dataclass(frozen=True, eq=False)
class Handover:
    """The layers in order, the input first, and where each edge of the graph is."""

    layers: tuple[Layer, ...]
    held: Mapping[str, Held]


def hand_over(graph: Graph, depthwise: bool = True) -> Handover:
    """The layers of a graph against which there is no reason (rules.py). `depthwise`: the toolchain has such a
    layer.
    """
    work = _Work(graph, depthwise)
    for op in graph.ops:
        _RULES[type(op)](work, op)
    return Handover(tuple(work.layers), work.held)


def is_traced(layer: Layer) -> bool:
    """Whether hls4ml can tell what that layer gave: it holds an edge, and is no reshape, which hls4ml does in place."""
    return layer.edge is not None and layer.kind not in ("InputLayer", "Reshape")


def channels_last(shape: tuple[int, ...]) -> np.ndarray:
    """The order of an edge of that shape when its channels come last."""
    index = np.arange(math.prod(shape)).reshape(shape)
    return (np.moveaxis(index, 0, -1) if len(shape) > 1 else index).ravel()


class _Work:
    """The layers so far."""

    def __init__(self, graph: Graph, depthwise: bool):
        self.graph, self.depthwise = graph, depthwise
        self.layers: list[Layer] = []
        self.held: dict[str, Held] = {}

    def emit(
        self,
        kind: str,
        sources: tuple[str, ...],
        of: Op,
        part: str = "",
        edge: Edge | None = None,
        order=None,
        precision: Mapping[str, str] | None = None,
        weights: tuple[int, int] = (0, 0),
        vectors: int = 1,
        **attributes,
    ) -> str:
        """Appends a layer of operation `of` that reads the layers `sources`; with `edge` it holds that edge. Returns
        its name.
        """
        name = f"n{len(self.layers)}_{_identifier(of.name)}{part}"
        precision = dict(precision or {})
        if edge is not None:
            precision.setdefault("result", range_type(edge.lo, edge.hi))
            shape = (*edge.shape[1:], edge.shape[0]) if len(edge.shape) > 1 else edge.shape
            self.held[edge.name] = Held(
                name, shape, channels_last(edge.shape) if order is None else order, edge.lo, edge.hi
            )
        self.layers.append(Layer(name, kind, sources, attributes, precision, edge and edge.name, weights, vectors))
        return name

    def edge(self, op: Op) -> Edge:
        return self.graph.edges[op.output]

    def sources(self, op: Op) -> tuple[str, ...]:
        return tuple(self.held[name].layer for name in op.inputs)


def _identifier(text: str) -> str:
    """A model's names come from strangers: only letters and digits reach a C++ file."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text)[:40].strip("_") or "layer"


# -- one rule per operation --------------------------------------------------------------------------------------------


def _input(work: _Work, op: Input) -> None:
    edge = work.edge(op)
    shape = [*edge.shape[1:], edge.shape[0]] if len(edge.shape) > 1 else list(edge.shape)
    work.emit("InputLayer", (), op, edge=edge, input_shape=shape, data_format="channels_last")


def _dense(work: _Work, op: Dense) -> None:
    edge, source = work.edge(op), work.held[op.inputs[0]]
    weight = op.weight[source.order]
    n_in, n_out = weight.shape
    work.emit(
        "Dense",
        work.sources(op),
        op,
        edge=edge,
        precision=_sums(edge, weight),
        weights=(n_in, n_out),
        n_in=n_in,
        n_out=n_out,
        weight_data=weight.astype(np.float64),
        bias_data=None,
    )


def _sums(edge: Edge, weight: np.ndarray) -> dict[str, str]:
    """Sums may overflow on the way: all arithmetic is modulo the type's range, in which the result lies.

    The weights' type is fixed point also where they are -1, 0, +1: hls4ml's products with its own binary and ternary
    types lose a bit (Quartus: -a in the type of a).
    """
    return {
        "weight": range_type(int(weight.min(initial=0)), int(weight.max(initial=0))),
        "accum": range_type(edge.lo, edge.hi),
    }


def _conv(work: _Work, op: Conv) -> None:
    weight, channels = _with_holes(op.weight, op.dilations), work.graph.edges[op.inputs[0]].shape[0]
    depthwise = work.depthwise and op.groups == channels == len(weight) and channels > 1
    if op.groups > 1 and not depthwise:
        weight = _with_zeros(weight, op.groups)
    _convolution(work, op, weight, op.strides, op.pads, depthwise)


def _sum_pool(work: _Work, op: SumPool) -> None:
    channels = work.graph.edges[op.inputs[0]].shape[0]
    weight = np.ones((channels, 1, *op.kernel), np.int64)
    depthwise = work.depthwise and channels > 1
    _convolution(work, op, weight if depthwise else _with_zeros(weight, channels), op.strides, op.pads, depthwise)


def _convolution(work: _Work, op: Op, weight: np.ndarray, strides, pads, depthwise: bool) -> None:
    edge, source = work.edge(op), work.graph.edges[op.inputs[0]]
    n = len(strides)
    per_pixel = (math.prod(weight.shape[1:]), weight.shape[0])
    # (O, I, *kernel) -> (*kernel, I, O); depthwise (C, 1, *kernel) -> (*kernel, C, 1)
    axes = (*range(2, 2 + n), 0, 1) if depthwise else (*range(2, 2 + n), 1, 0)
    data = weight.transpose(axes).astype(np.float64)
    sizes = {
        **_windowed(source.shape[1:], edge.shape[1:], strides, pads),
        **_named("filt", weight.shape[2:]),
        "n_chan": source.shape[0],
        "n_filt": edge.shape[0],
        "padding": "valid" if not any(pads) else "same",
    }
    extra = {"depthwise_data": data, "depth_multiplier": 1} if depthwise else {"weight_data": data}
    work.emit(
        f"{'Depthwise' if depthwise else ''}Conv{n}D",
        work.sources(op),
        op,
        edge=edge,
        precision=_sums(edge, weight),
        weights=per_pixel,
        vectors=math.prod(edge.shape[1:]),
        bias_data=None,
        **sizes,
        **extra,
    )


def _named(what: str, values) -> dict[str, int]:
    """(height, width) or (width,) as hls4ml's attributes."""
    names = ("width",) if len(values) == 1 else ("height", "width")
    return {f"{what}_{name}": int(value) for name, value in zip(names, values)}


def _windowed(before, after, strides, pads) -> dict[str, object]:
    n = len(strides)
    begin, end = _named("pad", pads[:n]), _named("pad", pads[n:])
    sides = {"pad_height": ("pad_top", "pad_bottom"), "pad_width": ("pad_left", "pad_right")}
    padding = {side: values[axis] for axis in begin for side, values in zip(sides[axis], (begin, end))}
    return {
        **_named("in", before),
        **_named("out", after),
        **_named("stride", strides),
        **padding,
        "data_format": "channels_last",
    }


def _with_holes(weight: np.ndarray, dilations) -> np.ndarray:
    """A dilated kernel as a larger one with zeros."""
    spread = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations)]
    wide = np.zeros((*weight.shape[:2], *spread), np.int64)
    wide[(slice(None), slice(None), *(slice(None, None, d) for d in dilations))] = weight
    return wide


def _with_zeros(weight: np.ndarray, groups: int) -> np.ndarray:
    """A grouped kernel (O, I/g, …) as one over all channels."""
    per_out, per_in = len(weight) // groups, weight.shape[1]
    wide = np.zeros((len(weight), per_in * groups, *weight.shape[2:]), np.int64)
    for g in range(groups):
        rows = slice(g * per_out, (g + 1) * per_out)
        wide[rows, g * per_in : (g + 1) * per_in] = weight[rows]
    return wide


def _max_pool(work: _Work, op: MaxPool) -> None:
    edge, source = work.edge(op), work.graph.edges[op.inputs[0]]
    n, inner = len(op.kernel), source.shape[1:]
    sources = work.sources(op)
    if any(op.pads):  # the levels are not negative, so a zero never wins
        inner = tuple(size + op.pads[i] + op.pads[n + i] for i, size in enumerate(inner))
        sources = (_padded(work, op, sources[0], source, inner, op.pads, "_pad"),)
    sizes = _windowed(inner, edge.shape[1:], op.strides, (0,) * 2 * n)
    if n == 1:
        sizes |= {"n_in": inner[0], "n_out": edge.shape[1]}
    work.emit(
        f"MaxPooling{n}D",
        sources,
        op,
        edge=edge,
        precision={"accum": range_type(source.lo, source.hi)},
        n_filt=edge.shape[0],
        padding="valid",
        count_pad=False,
        **sizes,
        **_named("pool", op.kernel),
    )


def _padded(work: _Work, op: Op, layer: str, source: Edge, inner, pads, part: str, edge: Edge | None = None) -> str:
    n = len(inner)
    sizes = _windowed(source.shape[1:], inner, (1,) * n, pads)
    return work.emit(
        f"ZeroPadding{n}D",
        (layer,),
        op,
        part,
        edge,
        n_chan=source.shape[0],
        precision={"result": range_type(min(source.lo, 0), max(source.hi, 0))},
        **sizes,
    )


def _pad(work: _Work, op: Pad) -> None:
    edge, n = work.edge(op), len(op.pads) // 2
    pads = (*op.pads[1:n], *op.pads[n + 1 :])
    _padded(work, op, work.sources(op)[0], work.graph.edges[op.inputs[0]], edge.shape[1:], pads, "", edge)


def _reshape(work: _Work, op: Reshape) -> None:
    edge, source = work.edge(op), work.held[op.inputs[0]]
    shape = [*edge.shape[1:], edge.shape[0]] if len(edge.shape) > 1 else list(edge.shape)
    work.emit("Reshape", (source.layer,), op, edge=edge, order=source.order, target_shape=shape)


def _add(work: _Work, op: Add) -> None:
    """Branches are multiplied first where they must be, then added two by two."""
    weights: dict[str, int] = {}
    for name, multiplier in zip(op.inputs, op.multipliers):
        weights[name] = weights.get(name, 0) + multiplier
    edge, order = work.edge(op), work.held[op.inputs[0]].order
    if len(weights) == 1:
        ((name, multiplier),) = weights.items()
        _affine(
            work,
            op,
            work.held[name].layer,
            work.graph.edges[name],
            "",
            [multiplier],
            [0],
            0,
            range_type(edge.lo, edge.hi),
            edge,
            order,
        )
        return
    terms = [_term(work, op, name, multiplier, k) for k, (name, multiplier) in enumerate(weights.items())]
    total, lo, hi = terms[0]
    for k, (layer, low, high) in enumerate(terms[1:]):
        lo, hi = lo + low, hi + high
        last = k == len(terms) - 2
        precision = {"result": range_type(edge.lo, edge.hi) if last else range_type(lo, hi)}
        total = work.emit(
            "Merge", (total, layer), op, "" if last else f"_sum{k}", edge if last else None, order, precision, op="add"
        )


def _term(work: _Work, op: Add, name: str, multiplier: int, k: int) -> tuple[str, int, int]:
    edge = work.graph.edges[name]
    if multiplier == 1:
        return work.held[name].layer, edge.lo, edge.hi
    lo, hi = sorted((multiplier * edge.lo, multiplier * edge.hi))
    layer = _affine(work, op, work.held[name].layer, edge, f"_times{k}", [multiplier], [0], 0, range_type(lo, hi))
    return layer, lo, hi


def _concat(work: _Work, op: Concat) -> None:
    edge, rank = work.edge(op), len(work.edge(op).shape)
    order = None
    if rank == 1:
        starts = np.cumsum([0, *(len(work.held[name].order) for name in op.inputs)])
        order = np.concatenate([work.held[name].order + start for name, start in zip(op.inputs, starts)])
    work.emit("Concatenate", work.sources(op), op, edge=edge, order=order, op=f"concatenate{rank}d", axis=rank)


def _requantise(work: _Work, op: Requantise) -> None:
    m, b, shift = common_shift(op)
    edge, source = work.edge(op), work.held[op.inputs[0]]
    if len(edge.shape) == 1 and len(m) > 1:
        m, b = m[source.order], b[source.order]
    least, most = reach(op)
    result = clip_type(op.lo, op.hi, least, most, "TRN" if op.affine is not None else "RND_CONV")
    reads = work.graph.edges[op.inputs[0]]
    if result is not None:
        _affine(work, op, source.layer, reads, "", m, b, shift, result, edge, source.order)
        return
    # No type saturates at lo and hi: count from lo with room above, then let the ceiling be a type's, then count back.
    top = (1 << (op.hi - op.lo).bit_length()) - 1
    room = max(most - op.lo, 1).bit_length()
    layer = _affine(
        work, op, source.layer, reads, "_floor", m, b - (op.lo << shift), shift, f"ufixed<{room},{room},TRN,SAT>"
    )
    floor = Edge("", edge.shape, 0, (1 << room) - 1)
    up, down = top - (op.hi - op.lo), op.hi - top
    bits = top.bit_length()
    layer = _affine(work, op, layer, floor, "_ceiling", [1], [up], 0, f"ufixed<{bits},{bits},TRN,SAT>")
    _affine(
        work,
        op,
        layer,
        Edge("", edge.shape, 0, top),
        "",
        [1],
        [down],
        0,
        range_type(edge.lo, edge.hi),
        edge,
        source.order,
    )


def common_shift(op: Requantise) -> tuple[np.ndarray, np.ndarray, int]:
    """(m, b, s) as Python integers with one s for all channels: (m*x + b) >> s is m*2**d, b*2**d, s + d."""
    affine = op.affine or half_even(op)
    shift = int(affine.s.max())
    wider = [1 << (shift - int(s)) for s in affine.s]
    m, b = ([int(v) * w for v, w in zip(values, wider)] for values in (affine.m, affine.b))
    return np.array(m, object), np.array(b, object), shift


def reach(op: Requantise) -> tuple[int, int]:
    """The least and the largest level over all channels and reachable x before it is clipped; one more where it is
    rounded.
    """
    affine = op.affine or half_even(op)
    ends = [
        (int(m) * int(x) + int(b)) >> int(s)
        for x_end in (op.x_lo, op.x_hi)
        for m, b, s, x in zip(affine.m, affine.b, affine.s, np.broadcast_to(x_end, affine.m.shape))
    ]
    return min(ends), max(ends) + (op.affine is None)


def _affine(
    work: _Work,
    op: Op,
    layer: str,
    source: Edge,
    part: str,
    m,
    b,
    shift: int,
    result: str,
    edge: Edge | None = None,
    order=None,
) -> str:
    """A batch normalisation (m*x + b) * 2**-shift with that result type; m and b per channel, or one for all."""
    image = len(source.shape) > 1
    count = source.shape[0]
    m, b = (np.resize(np.array([int(v) for v in values], object), count) for values in (m, b))
    # hls4ml would drop it, and its clipping with it: add half a step, which >> drops
    if (m == 1 << shift).all() and not b.any():
        m, b, shift = m * 2, b + 1, shift + 1
    precision = {"scale": scaled_type(m, shift), "bias": scaled_type(b, shift), "result": result}
    return work.emit(
        "BatchNormalization",
        (layer,),
        op,
        part,
        edge,
        order,
        precision,
        n_in=math.prod(source.shape),
        n_filt=count if image else -1,
        scale_data=_scaled(m, shift),
        bias_data=_scaled(b, shift),
    )


def _scaled(values, shift: int) -> np.ndarray:
    return np.array([math.ldexp(int(v), -shift) for v in values])


_RULES = {
    Input: _input,
    Dense: _dense,
    Conv: _conv,
    SumPool: _sum_pool,
    MaxPool: _max_pool,
    Pad: _pad,
    Reshape: _reshape,
    Add: _add,
    Concat: _concat,
    Requantise: _requantise,
}
OPERATIONS = tuple(_RULES)
