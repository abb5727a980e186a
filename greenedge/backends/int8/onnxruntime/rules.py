"""Why an integer graph has no exact 8-bit ONNX file: every reason, from the graph alone."""

from __future__ import annotations

from greenedge.backends.int8.arithmetic import LEAST, MOST
from greenedge.backends.int8.legalise import SUMS, prepared
from greenedge.backends.int8.quant_params import LEVELS
from greenedge.backends.int8.rules import pad_level, steps, storage, weights
from greenedge.errors import Reason, ReasonKind
from greenedge.graph import Add, Concat, Conv, ConvTranspose, Dense, Graph, Op, Pad, Requantise, SumPool

RUNTIME = "ONNX Runtime"
WIDEST_ADDITION = (
    1 << 15
)  # of the sum of |multiplier|: 128 times that, and half as much again, are whole numbers in float32


def reasons_against(graph: Graph) -> list[Reason]:
    """Every reason why the graph has no exact 8-bit ONNX file."""
    graph = prepared(graph)
    return [reason for op in graph.ops for reason in (*storage(graph, op), *_of_kind(graph, op))]


def _of_kind(graph: Graph, op: Op) -> list[Reason]:
    check = _CHECKS.get(type(op))
    return check(graph, op) if check else []


def _dense(graph: Graph, op: Dense) -> list[Reason]:
    return weights(graph, op, RUNTIME)


def _padded(graph: Graph, op: Conv | SumPool) -> list[Reason]:
    found = weights(graph, op, RUNTIME) if isinstance(op, Conv) else []
    return found + (pad_level(graph, op, op.pad_value) if any(op.pads) else [])


def _conv_transpose(graph: Graph, op: ConvTranspose) -> list[Reason]:
    edge, found = graph.edges[op.inputs[0]], weights(graph, op, RUNTIME)
    if edge.hi - edge.lo <= LEVELS and not LEAST <= MOST - edge.hi <= MOST:
        found.append(
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                f"an input of {edge.lo}…{edge.hi}",
                "the zeros between its samples are no int8 there",
                "let the quantiser's levels include 0",
            )
        )
    return found


def _add(graph: Graph, op: Add) -> list[Reason]:
    total = sum(abs(m) for m in op.multipliers)
    if total <= WIDEST_ADDITION:
        return []
    return [
        Reason(
            op.name,
            ReasonKind.TOO_WIDE,
            f"branches weighted {tuple(op.multipliers)}",
            f"together the weights of an addition are at most {WIDEST_ADDITION:,}",
            "let both branches share one quantiser",
        )
    ]


def _step(graph: Graph, op: Requantise) -> list[Reason]:
    found, source, rank = steps(op, RUNTIME), graph.producer(op.inputs[0]), len(graph.edges[op.output].shape)
    if op.steps is None or op.channels == 1 or not isinstance(source, SUMS) or isinstance(source, Add):
        return found
    wanted = rank - 1 if isinstance(source, Dense) else 0
    if op.axis != wanted:
        found.append(
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                f"a step function per index of axis {op.axis}",
                f"{RUNTIME} has one per output channel",
                "quantise per channel or per tensor",
            )
        )
    return found


def _pad(graph: Graph, op: Pad) -> list[Reason]:
    return pad_level(graph, op, op.value)


def _concat(graph: Graph, op: Concat) -> list[Reason]:
    """The inputs must fit one encoding."""
    edges = [graph.edges[edge] for edge in op.inputs]
    lo, hi = min(e.lo for e in edges), max(e.hi for e in edges)
    if hi - lo <= LEVELS or any(edge.hi - edge.lo > LEVELS for edge in edges):
        return []
    ranges = " and ".join(f"{edge.name} {edge.lo}…{edge.hi}" for edge in edges)
    return [
        Reason(
            op.name,
            ReasonKind.TOO_WIDE,
            f"inputs {ranges}",
            "together they must fit 256 levels",
            "let both branches share one quantiser",
        )
    ]


_CHECKS = {
    Dense: _dense,
    Conv: _padded,
    SumPool: _padded,
    ConvTranspose: _conv_transpose,
    Add: _add,
    Requantise: _step,
    Pad: _pad,
    Concat: _concat,
}
