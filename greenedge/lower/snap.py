"""Snap: an explicit choice of narrower requantisers that *redefines the model*, so that every stage agrees again.

A requantiser needs up to 25 multiplier bits to equal a w8a8 model exactly. Where a narrower multiplier, or a bias on
the accumulator's grid (all that an int8 TFLite bias can hold), is wanted, the model itself is rewritten:

    f(acc)  →  (acc + beta) * m / 2**s      m of at most N bits, beta a whole number, per channel

written into the QONNX file as

    tensor / weight scale / input scale + beta, * m/2**s, + 2**-(s+2), * output scale

between the layer and its quantiser; a float bias of the layer's own becomes part of beta and is removed from the layer.
In real arithmetic the divisions give back the accumulator exactly, and the quarter step keeps every value off the
rounding boundaries, so the lowered affine form is (m, m*beta + 2**(s-1), s).

    report = snap_file(source, target, multiplier_bits=8)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.frontends.input_type import InputType
from greenedge.frontends.source import parse_normal, read_normal
from greenedge.graph import Affine, Graph, Linear, Requantise
from greenedge.graph.ops.base import Array, Ints
from greenedge.lower import Lowered, lower_file, lower_source
from greenedge.lower.expr import affine_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MAX_BITS = 24  # m / 2**s is one float32 constant
_MARK = "greenedge.snap"  # metadata of a snapped file: its multiplier bits
_REWRITTEN = ("Quant", "IntQuant")


@dataclass(frozen=True)
class Snapped:
    """One requantiser: what became of it. `changed` of `accumulators` reachable values give another level (by `largest`
    at most).

    `left` says why a requantiser stayed as it was, None where it was snapped.
    """

    layer: str
    channels: int
    accumulators: int
    changed: int = 0
    largest: int = 0
    multiplier_bits: int | None = None
    left: str | None = None

    @property
    def share(self) -> float:
        """Changed accumulators over reachable ones."""
        return self.changed / self.accumulators


@dataclass(frozen=True, eq=False)
class _Line:
    """Per channel: level = (m*(x + beta) + 2**(s-1)) >> s, or the constant `level` where m is 0."""

    m: Ints
    beta: Ints
    s: Ints
    level: Ints


@dataclass(frozen=True)
class _Place:
    """Where a requantiser can be rewritten: its affine form, the layer's tensor, the Quant node, the layer's scales.

    `biased` is the layer whose float bias goes into the line, None where it has none. The product of the input scale
    and the signed weight scales (per channel) is the accumulator's scale, exactly.
    """

    affine: Affine
    tensor: str
    quantiser: NodeProto
    input_scale: Fraction
    weight_scale: Array
    biased: NodeProto | None


def snap_file(
    source: Path, target: Path, multiplier_bits: int, declared: Mapping[str | None, InputType] | None = None
) -> tuple[Snapped, ...]:
    """Writes the snapped model of `source` to `target`; returns what became of every requantiser.

    Raises UnsupportedError where the model does not lower, GreenedgeError for another number of bits than 2 to 24.
    """
    if not 2 <= multiplier_bits <= MAX_BITS:
        raise GreenedgeError(f"{multiplier_bits} multiplier bits; snap takes 2 to {MAX_BITS}.")
    normal = read_normal(source)
    lowered, proto = lower_source(parse_normal(normal, source.stem), declared), normal.proto
    results: list[Snapped] = []
    wanted: dict[str, _Line] = {}
    for op in lowered.graph.requantisers:
        result, line = _snap(lowered, op, proto, multiplier_bits)
        results.append(result)
        if line is not None:
            wanted[op.name] = line
    _mark(proto, multiplier_bits)
    with atomic_write(target) as path:
        path.write_bytes(proto.SerializeToString())
    _check(lower_file(target, declared).graph, wanted)
    return tuple(results)


def _mark(proto: ModelProto, multiplier_bits: int) -> None:
    kept = [entry for entry in proto.metadata_props if entry.key != _MARK]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    proto.metadata_props.add(key=_MARK, value=str(multiplier_bits))


def can_snap(source: Path) -> bool:
    """Whether the file has quantisers that can be rewritten, and `snap_file` has not written it."""
    proto = read_normal(source).proto
    is_snapped = any(entry.key == _MARK for entry in proto.metadata_props)
    return not is_snapped and any(node.op_type in _REWRITTEN for node in proto.graph.node)


def _check(graph: Graph, wanted: dict[str, _Line]) -> None:
    """Raises AssertionError unless the rewritten file, lowered again, has exactly the chosen lines."""
    steps = {op.name: op for op in graph.requantisers}
    for name, line in wanted.items():
        op = steps[name]
        channels = len(line.m)
        x_lo, x_hi = (np.broadcast_to(part, (channels,)) for part in (op.x_lo, op.x_hi))
        thresholds = np.broadcast_to(op.require_steps().thresholds, (channels, op.hi - op.lo))
        expected = np.clip(_thresholds(line, op.lo, op.hi), x_lo[:, None], x_hi[:, None] + 1)
        assert np.array_equal(np.clip(thresholds, x_lo[:, None], x_hi[:, None] + 1), expected), (
            f"{name} was not written as chosen"
        )


def _snap(lowered: Lowered, op: Requantise, proto: ModelProto, bits: int) -> tuple[Snapped, _Line | None]:
    """Rewrites one requantiser in `proto`, or says why not."""
    accumulators = int((op.x_hi - op.x_lo + 1).sum())
    place = _find_place(lowered, op, proto)
    if isinstance(place, str):
        return Snapped(op.name, op.channels, accumulators, left=place), None
    line = _fit(op, place.affine, bits)
    if place.biased is not None:
        del place.biased.input[2]
    _rewrite(proto, place, line, len(lowered.graph.edges[op.output].shape), op.axis)
    changed, largest = _count_changes(op, line)
    width = max(int(abs(int(m))).bit_length() for m in line.m)
    return Snapped(op.name, op.channels, accumulators, changed, largest, width), line


def _find_place(lowered: Lowered, op: Requantise, proto: ModelProto) -> _Place | str:
    """Where the requantiser can be rewritten, or why it cannot."""
    graph, trace = lowered.graph, lowered.trace
    layer = graph.producer(op.inputs[0])
    quantised, birth = trace.quantised.get(op.output), trace.births.get(op.inputs[0])
    if op.affine is None:
        return "it has no affine form"
    if not isinstance(layer, Linear) or len(graph.consumers(op.inputs[0])) > 1:
        return "it follows no layer of its own"
    parts = affine_of(birth.expr) if birth is not None else None
    if quantised is None or birth is None or parts is None:
        return "its accumulator has no scale of its own"
    scale, offset = parts
    biased = None
    if np.any(np.asarray(offset) != 0) and (biased := _find_bias_layer(proto, birth.tensor, np.ravel(offset))) is None:
        return "its accumulator has an offset of its own; move the bias behind the layer"
    node = _find_quantiser(proto, trace.births[op.output].tensor)
    if node is None:
        return "its quantiser is no Quant node that rounds to nearest"
    input_parts = affine_of(trace.births[layer.inputs[0]].expr)
    assert input_parts is not None, f"{layer.name} reads a tensor without a scale"
    input_scale = np.ravel(np.asarray(input_parts[0], dtype=object))[0]
    return _Place(op.affine, birth.tensor, node, input_scale, np.ravel(scale) / input_scale, biased)


def _find_bias_layer(proto: ModelProto, tensor: str, offset: Array) -> NodeProto | None:
    """The layer that writes `tensor`, where its own constant float bias is all of the offset."""
    from onnx import numpy_helper

    node = next((node for node in proto.graph.node if tensor in node.output), None)
    constants = {item.name: item for item in proto.graph.initializer}
    if (
        node is None
        or node.op_type not in ("Conv", "ConvTranspose", "Gemm")
        or len(node.input) != 3
        or node.input[2] not in constants
    ):
        return None
    bias = np.ravel(numpy_helper.to_array(constants[node.input[2]]))
    if len(bias) != len(offset):
        return None
    return node if all(Fraction(float(b)) == part for b, part in zip(bias, offset, strict=True)) else None


def _find_quantiser(proto: ModelProto, tensor: str) -> NodeProto | None:
    """The Quant node that writes `tensor`, where it rounds half to even."""
    for node in proto.graph.node:
        if tensor in node.output and node.op_type in _REWRITTEN:
            mode = next((a.s.decode() for a in node.attribute if a.name == "rounding_mode"), "ROUND")
            return node if mode in ("ROUND", "HALF_EVEN") else None
    return None


def _fit(op: Requantise, affine: Affine, bits: int) -> _Line:
    """The line of at most `bits` multiplier bits near the exact one that changes the fewest accumulators."""
    rows = np.array([_fit_channel(op, affine, c, bits) for c in range(op.channels)], dtype=np.int64)
    return _Line(*rows.T)


def _fit_channel(op: Requantise, affine: Affine, c: int, bits: int) -> tuple[int, int, int, int]:
    """(m, beta, s, level) of one channel."""
    m, b, s = (int(part[c]) for part in (affine.m, affine.b, affine.s))
    if m == 0 or _count_steps(op, c) == 0:
        return 0, 0, 0, int(np.clip((m * int(op.x_lo[c]) + b) >> s, op.lo, op.hi))
    slope = Fraction(m, 1 << s)
    shift = max(0, bits - 1 - math.floor(math.log2(abs(slope))))
    while round(abs(slope) * (1 << shift)) >= 1 << bits:
        shift -= 1
    centre = round(Fraction(b - (1 << s) // 2, m))
    candidates = [
        (m_new, beta)
        for m_new in {round(slope * (1 << shift)) + d for d in (-1, 0, 1)}
        for beta in (centre - 1, centre, centre + 1)
        if 0 < abs(m_new) < 1 << bits
    ]

    def count(candidate: tuple[int, int]) -> int:
        m_new, beta = candidate
        return _count_changes(op, _Line(*(np.array([v]) for v in (m_new, beta, shift, 0))), c)[0]

    m_new, beta = min(candidates, key=count)
    return m_new, beta, shift, 0


def _count_steps(op: Requantise, c: int) -> int:
    """How many levels channel c changes to within its reachable range."""
    thresholds, (low, high) = op.require_steps().thresholds[c], op.reach
    return int(((thresholds > low[c]) & (thresholds <= high[c])).sum())


def _thresholds(line: _Line, lo: int, hi: int) -> Ints:
    """(C, hi-lo) smallest x whose level reaches each k, for rising lines: x >= (k*2**s - 2**(s-1)) / m - beta."""
    rows = []
    for m, beta, s, level in np.stack([line.m, line.beta, line.s, line.level], axis=1).tolist():
        if m == 0:
            rows.append([-(1 << 60) if k <= level else 1 << 60 for k in range(lo + 1, hi + 1)])
        else:
            # at s = 0 there is no half to add: the quarter step decides alone
            rows.append([-((-(k * (1 << s) - ((1 << s) >> 1))) // m) - beta for k in range(lo + 1, hi + 1)])
    return np.array(rows, dtype=np.int64)


def _count_changes(op: Requantise, line: _Line, only: int | None = None) -> tuple[int, int]:
    """(reachable accumulators with another level, the largest difference)."""
    count, largest = 0, 0
    channels = range(op.channels) if only is None else [only]
    new = _thresholds(line, op.lo, op.hi)
    for row, c in enumerate(channels):
        low, high = int(op.x_lo[c]), int(op.x_hi[c]) + 1
        a, b = (np.clip(part, low, high) for part in (op.require_steps().thresholds[c], new[row]))
        edges = np.unique(np.concatenate([a, b, [low, high]]))
        apart = np.abs(np.searchsorted(a, edges[:-1], side="right") - np.searchsorted(b, edges[:-1], side="right"))
        count += int((np.diff(edges) * (apart > 0)).sum())
        largest = max(largest, int(apart.max(initial=0)))
    return count, largest


def _rewrite(proto: ModelProto, place: _Place, line: _Line, rank: int, axis: int) -> None:
    """Puts the chain of exact constants between the layer's tensor and its Quant node."""
    from onnx import helper, numpy_helper

    node, tensor = place.quantiser, place.tensor
    index = list(proto.graph.node).index(node)
    names = {t.name for t in proto.graph.initializer}
    base = node.name or node.output[0]
    while f"{base}_snap_0" in names:
        base += "_again"
    for k, (op, value) in enumerate(_chain(proto, place, line, rank, axis)):
        exact = np.asarray(value, np.float32)
        assert np.array_equal(exact.astype(np.float64), np.asarray(value, np.float64)), (
            f"{node.name}: a snapped constant is no float32"
        )
        name = f"{base}_snap_{k}"
        proto.graph.initializer.append(numpy_helper.from_array(exact, name))
        proto.graph.node.insert(index + k, helper.make_node(op, [tensor, name], [f"{name}_out"], name=name))
        tensor = f"{name}_out"
    node.input[0] = tensor


def _chain(proto: ModelProto, place: _Place, line: _Line, rank: int, axis: int) -> list[tuple[str, Array]]:
    """The operators and constants that compute the line from the layer's tensor; `axis` without the batch."""
    spread = [1] * (rank + 1)
    spread[axis + 1] = -1
    out_scale, zero = (_constant(proto, place.quantiser.input[k]) for k in (1, 2))
    constant_rows = line.m == 0
    factor = np.where(constant_rows, 0.0, line.m / 2.0**line.s)
    offset = np.where(constant_rows, line.level, 2.0 ** -(line.s + 2.0)) - zero.reshape(-1)
    return [
        ("Div", np.array([float(w) for w in np.ravel(place.weight_scale)]).reshape(spread)),
        ("Div", np.array(float(place.input_scale))),
        ("Add", line.beta.astype(float).reshape(spread)),
        ("Mul", factor.reshape(spread)),
        ("Add", offset.reshape(spread)),
        ("Mul", out_scale),
    ]


def _constant(proto: ModelProto, name: str) -> Array:
    """An initialiser of the model in float64."""
    from onnx import numpy_helper

    tensor = next(t for t in proto.graph.initializer if t.name == name)
    return np.asarray(numpy_helper.to_array(tensor), np.float64)
