"""Why an integer graph has no exact int8 file: every reason, from the graph alone."""

from __future__ import annotations

import numpy as np

from greenedge.backends.tflite.emit import common_range
from greenedge.errors import Reason
from greenedge.graph import (Add, Concat, Conv, ConvTranspose, Dense, Graph, Input, MaxPool, Op, Pad, Requantise,
                             SumPool, Upsample)
from greenedge.int8.arithmetic import LEAST, MOST
from greenedge.int8.layers import INT32, WIDEST_INPUT
from greenedge.int8.levels import LEVELS, encode
from greenedge.int8.steps import SUMS, is_straight, off_line, prepared, reach


def reasons_against(graph: Graph) -> list[Reason]:
    """Every reason why the graph has no exact int8 file."""
    graph = prepared(graph)
    return [reason for op in graph.ops for reason in (*_storage(graph, op), *_of_kind(graph, op))]


def _storage(graph: Graph, op: Op) -> list[Reason]:
    """What every edge must be that is stored: at most 256 levels."""
    edge = graph.edges[op.output]
    levels = (op.hi - op.lo if isinstance(op, Requantise) else edge.hi - edge.lo) + 1
    if levels <= LEVELS + 1:
        return []
    if not isinstance(op, SUMS):
        if not isinstance(op, (Input, Requantise)):
            return []  # told where the wide numbers come from
        return [Reason(op.name, "too-wide", f"{levels:,} levels", "int8 holds 256", "quantise to at most 8 bits")]
    readers = [r for r in graph.consumers(op.output) if not isinstance(r, Requantise)]
    found = []
    if readers:
        found.append(Reason(op.name, "unsupported-graph", f"its accumulators are read by {', '.join(r.name for r in readers)}",
                            "a quantiser must follow every layer", "put a QuantIdentity(bit_width=8) after it"))
    if op.output in graph.outputs:
        found.append(Reason(op.name, "too-wide", f"an output of {edge.bits}-bit accumulators",
                            "the output of an int8 file has 8 bits", "put a QuantIdentity(bit_width=8) on the model's output"))
    return found


def _of_kind(graph: Graph, op: Op) -> list[Reason]:
    check = _CHECKS.get(type(op))
    return check(graph, op) if check else []


def _weights(graph: Graph, op) -> list[Reason]:
    found = []
    top = int(np.abs(op.weight).max(initial=0))
    if op.weight.min(initial=0) < LEAST or op.weight.max(initial=0) > MOST:
        found.append(Reason(op.name, "too-wide", f"a weight of {top}", "int8 weights lie in -127…127",
                            "use narrow-range weights of at most 8 bits"))
    axes = tuple(range(op.weight.ndim - 1)) if isinstance(op, Dense) else tuple(range(1, op.weight.ndim))
    if isinstance(op, ConvTranspose):
        axes = (0, *range(2, op.weight.ndim))
    largest = WIDEST_INPUT * int(np.abs(op.weight).sum(axis=axes).max(initial=0))
    if 2 * largest >= INT32:
        found.append(Reason(op.name, "too-wide", f"sums of up to {largest:,}", "LiteRT adds up in 32 bits, with room for a bias",
                            "use fewer inputs or narrower weights"))
    if isinstance(op, (Conv, ConvTranspose)) and op.weight.ndim > 4:
        found.append(_rank(op, op.weight.ndim - 2))
    return found


def _rank(op: Op, axes: int) -> Reason:
    return Reason(op.name, "unsupported-op", f"a window over {axes} axes", "LiteRT's int8 kernels have one or two", "use 1-D or 2-D layers")


def _conv(graph: Graph, op: Conv) -> list[Reason]:
    found = _weights(graph, op)
    if any(op.pads):
        found += _pad_level(graph, op, op.pad_value)
    return found


def _pool(graph: Graph, op: MaxPool | SumPool) -> list[Reason]:
    found = [_rank(op, len(op.kernel))] if len(op.kernel) > 2 else []
    if isinstance(op, MaxPool) and any(d != 1 for d in op.dilations):
        found.append(Reason(op.name, "unsupported-op", f"dilations {tuple(op.dilations)}", "LiteRT's pools have none", "use dilation 1"))
    if isinstance(op, SumPool) and any(op.pads):
        found += _pad_level(graph, op, op.pad_value)
    return found


def _pad_level(graph: Graph, op: Op, level: int) -> list[Reason]:
    edge = graph.edges[op.inputs[0]]
    if edge.hi - edge.lo > LEVELS or edge.lo <= level <= edge.hi:
        return []
    return [Reason(op.name, "unsupported-op", f"padding with {level}", f"its input has the levels {edge.lo}…{edge.hi}",
                   "pad with a level of the quantiser")]


def _add(graph: Graph, op: Add) -> list[Reason]:
    found = []
    if max(abs(m) for m in op.multipliers) > MOST:
        found.append(Reason(op.name, "too-wide", f"branches weighted {tuple(op.multipliers)}", f"the weights of an addition lie in -{MOST}…{MOST}",
                            "let both branches share one quantiser"))
    return found + _common(graph, op)


def _common(graph: Graph, op: Op) -> list[Reason]:
    """The inputs must fit one encoding."""
    edges = [graph.edges[edge] for edge in op.inputs]
    if any(edge.hi - edge.lo > LEVELS for edge in edges):
        return []
    lo, hi = common_range([encode(*_written(graph, edge.name)) for edge in edges])
    if hi - lo <= LEVELS:
        return []
    ranges = " and ".join(f"{edge.name} {edge.lo}…{edge.hi}" for edge in edges)
    return [Reason(op.name, "too-wide", f"inputs {ranges}", "together they must fit 256 levels", "let both branches share one quantiser")]


def _written(graph: Graph, edge: str) -> tuple[int, int]:
    """The levels for which the tensor of a stored edge is encoded."""
    op = graph.producer(edge)
    if isinstance(op, Requantise):
        return op.lo, op.hi
    if isinstance(op, (Input, *SUMS)):
        return graph.edges[edge].lo, graph.edges[edge].hi
    ranges = [_written(graph, source) for source in op.inputs]
    return min(lo for lo, _ in ranges), max(hi for _, hi in ranges)


def _step(graph: Graph, op: Requantise) -> list[Reason]:
    if op.thresholds is None:
        return [Reason(op.name, "not-monotone", "a function that rises and falls", "LiteRT multiplies and rounds", "use a ReLU")]
    found = []
    rank = len(graph.edges[op.output].shape)
    source = graph.producer(op.inputs[0])
    wanted = {Dense: (rank - 1,), Add: (0, rank - 1)}.get(type(source), (0,) if isinstance(source, SUMS) else (0, rank - 1))
    if len(op.thresholds) > 1 and op.axis not in wanted:
        found.append(Reason(op.name, "unsupported-op", f"a step function per index of axis {op.axis}",
                            "LiteRT has one per output channel", "quantise per channel or per tensor"))
    if not is_straight(op):
        furthest = off_line(op.thresholds, *reach(op)).max()
        found.append(Reason(op.name, "not-affine", f"steps up to {max(furthest, 0.1):.1f} accumulators off every straight line",
                            "LiteRT multiplies and rounds once", "use a ReLU and a single quantiser behind it"))
    return found


def _pad(graph: Graph, op: Pad) -> list[Reason]:
    return _pad_level(graph, op, op.value)


def _upsample(graph: Graph, op: Upsample) -> list[Reason]:
    if len(op.factors) in (2, 3) and op.factors[0] == 1:
        return []
    return [Reason(op.name, "unsupported-op", f"factors {tuple(op.factors)}", "LiteRT resizes one or two image axes", "upsample height and width")]


def _concat(graph: Graph, op: Concat) -> list[Reason]:
    return _common(graph, op)


_CHECKS = {Dense: _weights, Conv: _conv, ConvTranspose: _weights, SumPool: _pool, MaxPool: _pool, Add: _add, Requantise: _step,
           Pad: _pad, Upsample: _upsample, Concat: _concat}
