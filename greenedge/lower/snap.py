"""Snap: an explicit choice of narrower requantisers that *redefines the model*, so that every stage agrees again.

A requantiser needs up to 25 multiplier bits to equal a w8a8 model exactly. Where a narrower multiplier, or a bias on the
accumulator's grid (all that an int8 TFLite bias can hold), is wanted, the model itself is rewritten:

    f(acc)  →  (acc + beta) * m / 2**s      m of at most N bits, beta a whole number, per channel

written into the QONNX file as   tensor / weight scale / input scale + beta, * m/2**s, + 2**-(s+2), * output scale   in place of
what stood between the layer and its quantiser; a float bias of the layer's own is in beta then, and leaves the layer. In real arithmetic the divisions give back the accumulator exactly, and
the quarter step keeps every value off the rounding boundaries, so the lowered affine form is (m, m*beta + 2**(s-1), s).

    report = snap_file(source, target, multiplier_bits=8)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.graph import Graph, Linear, Requantise
from greenedge.lower import Lowered, lower_file
from greenedge.lower.expr import affine_of

MOST_BITS = 24  # m / 2**s is one float32 constant


@dataclass(frozen=True)
class Snapped:
    """One requantiser: what became of it. `changed` of `accumulators` reachable values give another level (by `largest` at most).

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

    m: np.ndarray
    beta: np.ndarray
    s: np.ndarray
    level: np.ndarray


def snap_file(source: Path, target: Path, multiplier_bits: int, declared=None) -> tuple[Snapped, ...]:
    """Writes the snapped model of `source` to `target`; returns what became of every requantiser.

    Raises UnsupportedError where the model does not lower, GreenedgeError for another number of bits than 2 to 24.
    """
    import onnx

    if not 2 <= multiplier_bits <= MOST_BITS:
        raise GreenedgeError(f"{multiplier_bits} multiplier bits; snap takes 2 to {MOST_BITS}.")
    lowered = lower_file(source, declared)
    proto = onnx.load(str(source))
    results, wanted = [], {}
    for op in lowered.graph.ops:
        if isinstance(op, Requantise):
            result, line = _snap(lowered, op, proto, multiplier_bits)
            results.append(result)
            if line is not None:
                wanted[op.name] = line
    with atomic_write(target) as path:
        path.write_bytes(proto.SerializeToString())
    _check(lower_file(target, declared).graph, wanted)
    return tuple(results)


def _check(graph: Graph, wanted: dict[str, _Line]) -> None:
    """The rewritten file, lowered again, has exactly the chosen lines."""
    steps = {op.name: op for op in graph.ops if isinstance(op, Requantise)}
    for name, line in wanted.items():
        op = steps[name]
        channels = len(line.m)
        x_lo, x_hi = (np.broadcast_to(part, (channels,)) for part in (op.x_lo, op.x_hi))
        thresholds = np.broadcast_to(op.require_steps().thresholds, (channels, op.hi - op.lo))
        expected = np.clip(_thresholds(line, op.lo, op.hi), x_lo[:, None], x_hi[:, None] + 1)
        assert np.array_equal(np.clip(thresholds, x_lo[:, None], x_hi[:, None] + 1), expected), (
            f"{name} was not written as chosen"
        )


def _snap(lowered: Lowered, op: Requantise, proto, bits: int) -> tuple[Snapped, _Line | None]:
    """Rewrites one requantiser in `proto`, or says why not."""
    accumulators = int((op.x_hi - op.x_lo + 1).sum())
    graph, layer = lowered.graph, lowered.graph.producer(op.inputs[0])
    quantised, birth = lowered.trace.quantised.get(op.output), lowered.trace.births.get(op.inputs[0])
    left = biased = None
    if op.affine is None:
        left = "it has no affine form"
    elif not isinstance(layer, Linear) or len(graph.consumers(op.inputs[0])) > 1:
        left = "it follows no layer of its own"
    elif quantised is None or quantised.before is not None or birth is None or (parts := affine_of(birth.expr)) is None:
        left = "its accumulator has no scale of its own"
    elif np.any(np.asarray(parts[1]) != 0) and (biased := _biased(proto, birth.tensor, np.ravel(parts[1]))) is None:
        left = "its accumulator has an offset of its own; move the bias behind the layer"
    if left is not None:
        return Snapped(op.name, op.channels, accumulators, left=left), None
    node = _quantiser(proto, lowered.trace.births[op.output].tensor)
    if node is None:
        return Snapped(
            op.name, op.channels, accumulators, left="its quantiser is no Quant node that rounds to nearest"
        ), None
    line = _fit(op, bits)
    if biased is not None:
        del biased.input[2]
    _rewrite(
        proto,
        node,
        birth.tensor,
        _scales(lowered, op, np.asarray(parts[0])),
        line,
        len(graph.edges[op.output].shape),
        op.axis,
    )
    changed, largest = _changed(op, line)
    width = max(int(abs(int(m))).bit_length() for m in line.m)
    return Snapped(op.name, op.channels, accumulators, changed, largest, width), line


def _biased(proto, tensor: str, offset: np.ndarray):
    """The layer that writes `tensor`, where its own constant float bias is all of the offset."""
    from onnx import numpy_helper

    node = next((node for node in proto.graph.node if tensor in node.output), None)
    held = {item.name: item for item in proto.graph.initializer}
    if (
        node is None
        or node.op_type not in ("Conv", "ConvTranspose", "Gemm")
        or len(node.input) != 3
        or node.input[2] not in held
    ):
        return None
    bias = np.ravel(numpy_helper.to_array(held[node.input[2]]))
    same = len(bias) == len(offset) and all(Fraction(float(b)) == part for b, part in zip(bias, offset))
    return node if same else None


def _quantiser(proto, tensor: str):
    """The Quant node that writes `tensor`, where it rounds half to even."""
    for node in proto.graph.node:
        if tensor in node.output and node.op_type in ("Quant", "IntQuant"):
            mode = next((a.s.decode() for a in node.attribute if a.name == "rounding_mode"), "ROUND")
            return node if mode in ("ROUND", "HALF_EVEN") else None
    return None


def _scales(lowered: Lowered, op: Requantise, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(input scale, signed weight scale per channel): their product is the accumulator's scale, exactly."""
    source = lowered.graph.producer(op.inputs[0]).inputs[0]
    scale, _ = affine_of(lowered.trace.births[source].expr)
    scale = np.ravel(np.asarray(scale, dtype=object))[0]
    return np.array(scale, dtype=object), np.ravel(alpha) / scale


def _fit(op: Requantise, bits: int) -> _Line:
    """The line of at most `bits` multiplier bits near the exact one that changes the fewest accumulators."""
    rows = [_fit_channel(op, c, bits) for c in range(op.channels)]
    return _Line(*(np.array(column, dtype=np.int64) for column in zip(*rows)))


def _fit_channel(op: Requantise, c: int, bits: int) -> tuple[int, int, int, int]:
    m, b, s = (int(part[c]) for part in (op.affine.m, op.affine.b, op.affine.s))
    if m == 0 or _span(op, c) == 0:
        return 0, 0, 0, int(np.clip((m * int(op.x_lo[c]) + b) >> s, op.lo, op.hi))
    slope = Fraction(m, 1 << s)
    shift = max(0, bits - 1 - math.floor(math.log2(abs(slope))))
    while round(abs(slope) * (1 << shift)) >= 1 << bits:
        shift -= 1
    centre = round(Fraction(b - (1 << s) // 2, m))
    best = None
    for m_new in {round(slope * (1 << shift)) + d for d in (-1, 0, 1)}:
        for beta in (centre - 1, centre, centre + 1):
            if 0 < abs(m_new) < 1 << bits:
                line = _Line(*(np.array([v]) for v in (m_new, beta, shift, 0)))
                count = _changed(op, line, c)[0]
                if best is None or count < best[0]:
                    best = (count, m_new, beta, shift)
    return best[1], best[2], best[3], 0


def _span(op: Requantise, c: int) -> int:
    reached = (
        op.require_steps().thresholds[c]
        > min(op.require_steps().sign[c] * op.x_lo[c], op.require_steps().sign[c] * op.x_hi[c])
    ) & (
        op.require_steps().thresholds[c]
        <= max(op.require_steps().sign[c] * op.x_lo[c], op.require_steps().sign[c] * op.x_hi[c])
    )
    return int(reached.sum())


def _thresholds(line: _Line, lo: int, hi: int) -> np.ndarray:
    """(C, hi-lo) smallest x whose level reaches each k, for rising lines: x >= (k*2**s - 2**(s-1)) / m - beta."""
    rows = []
    for m, beta, s, level in zip(*(part.tolist() for part in (line.m, line.beta, line.s, line.level))):
        if m == 0:
            rows.append([-(1 << 60) if k <= level else 1 << 60 for k in range(lo + 1, hi + 1)])
        else:
            # at s = 0 there is no half to add: the quarter step decides alone
            rows.append([-((-(k * (1 << s) - ((1 << s) >> 1))) // m) - beta for k in range(lo + 1, hi + 1)])
    return np.array(rows, dtype=np.int64)


def _changed(op: Requantise, line: _Line, only: int | None = None) -> tuple[int, int]:
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


def _rewrite(proto, quant, tensor: str, scales, line: _Line, rank: int, axis: int) -> None:
    """Puts the chain of exact constants between the layer's tensor and its Quant node."""
    from onnx import helper, numpy_helper

    x_scale, w_scale = scales
    spread = [1] * (rank + 1)
    spread[axis + 1] = -1
    out_scale, zero = (_value(proto, quant.input[k]) for k in (1, 2))
    constant_rows = line.m == 0
    factor = np.where(constant_rows, 0.0, line.m / 2.0**line.s)
    offset = np.where(constant_rows, line.level, 2.0 ** -(line.s + 2.0)) - zero.reshape(-1)
    steps = [
        ("Div", np.array([float(w) for w in np.ravel(w_scale)]).reshape(spread)),
        ("Div", np.array(float(x_scale))),
        ("Add", line.beta.astype(float).reshape(spread)),
        ("Mul", factor.reshape(spread)),
        ("Add", offset.reshape(spread)),
        ("Mul", out_scale),
    ]
    index = list(proto.graph.node).index(quant)
    taken = {t.name for t in proto.graph.initializer}
    base = quant.name or quant.output[0]
    while f"{base}_snap_0" in taken:
        base += "_again"
    for k, (op, value) in enumerate(steps):
        exact = np.asarray(value, np.float32)
        assert np.array_equal(exact.astype(np.float64), np.asarray(value, np.float64)), (
            f"{quant.name}: a snapped constant is no float32"
        )
        name = f"{base}_snap_{k}"
        proto.graph.initializer.append(numpy_helper.from_array(exact, name))
        proto.graph.node.insert(index + k, helper.make_node(op, [tensor, name], [f"{name}_out"], name=name))
        tensor = f"{name}_out"
    quant.input[0] = tensor


def _value(proto, name: str) -> np.ndarray:
    from onnx import numpy_helper

    tensor = next(t for t in proto.graph.initializer if t.name == name)
    return np.asarray(numpy_helper.to_array(tensor), np.float64)
