"""What int8 runtimes have in common to refuse: every reason from the (prepared) integer graph alone."""

from __future__ import annotations

import numpy as np

from greenedge.backends.int8.arithmetic import LEAST, MOST
from greenedge.backends.int8.layers import INT32, WIDEST_INPUT
from greenedge.backends.int8.legalise import SUMS, is_straight, off_line, reach
from greenedge.backends.int8.quant_params import LEVELS
from greenedge.errors import Reason, ReasonKind
from greenedge.graph import ConvTranspose, Dense, Graph, Input, Op, Requantise


def storage(graph: Graph, op: Op) -> list[Reason]:
    """What every edge must be that is stored: at most 256 levels."""
    edge = graph.edges[op.output]
    levels = (op.hi - op.lo if isinstance(op, Requantise) else edge.hi - edge.lo) + 1
    if levels <= LEVELS + 1:
        return []
    if not isinstance(op, SUMS):
        if not isinstance(op, (Input, Requantise)):
            return []  # told where the wide numbers come from
        return [
            Reason(op.name, ReasonKind.TOO_WIDE, f"{levels:,} levels", "int8 holds 256", "quantise to at most 8 bits")
        ]
    readers = [r for r in graph.consumers(op.output) if not isinstance(r, Requantise)]
    found = []
    if readers:
        found.append(
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_GRAPH,
                f"its accumulators are read by {', '.join(r.name for r in readers)}",
                "a quantiser must follow every layer",
                "put a QuantIdentity(bit_width=8) after it",
            )
        )
    if op.output in graph.outputs:
        found.append(
            Reason(
                op.name,
                ReasonKind.TOO_WIDE,
                f"an output of {edge.bits}-bit accumulators",
                "the output of an int8 file has 8 bits",
                "put a QuantIdentity(bit_width=8) on the model's output",
            )
        )
    return found


def weights(graph: Graph, op, runtime: str) -> list[Reason]:
    """Weights and sums must fit int8 and int32; a step function that falls changes the sign of its channel's weights."""
    found = []
    falls = any(isinstance(r, Requantise) and (r.require_steps().sign < 0).any() for r in graph.consumers(op.output))
    low, high = int(op.weight.min(initial=0)), int(op.weight.max(initial=0))
    if low < LEAST + falls or high > MOST:
        worst = -low if falls else low if -low > high else high
        found.append(
            Reason(
                op.name,
                ReasonKind.TOO_WIDE,
                f"a weight of {worst}",
                "int8 weights lie in -127…127",
                "use narrow-range weights of at most 8 bits",
            )
        )
    axes = tuple(range(op.weight.ndim - 1)) if isinstance(op, Dense) else tuple(range(1, op.weight.ndim))
    if isinstance(op, ConvTranspose):
        axes = (0, *range(2, op.weight.ndim))
    largest = WIDEST_INPUT * int(np.abs(op.weight).sum(axis=axes).max(initial=0))
    if 2 * largest >= INT32:
        found.append(
            Reason(
                op.name,
                ReasonKind.TOO_WIDE,
                f"sums of up to {largest:,}",
                f"{runtime} adds up in 32 bits, with room for a bias",
                "use fewer inputs or narrower weights",
            )
        )
    return found


def pad_level(graph: Graph, op: Op, level: int) -> list[Reason]:
    """What is padded with must be a level of the input."""
    edge = graph.edges[op.inputs[0]]
    if edge.hi - edge.lo > LEVELS or edge.lo <= level <= edge.hi:
        return []
    return [
        Reason(
            op.name,
            ReasonKind.UNSUPPORTED_OP,
            f"padding with {level}",
            f"its input has the levels {edge.lo}…{edge.hi}",
            "pad with a level of the quantiser",
        )
    ]


def steps(op: Requantise, runtime: str) -> list[Reason]:
    """Every step function must be a line, rounded once."""
    if op.steps is None:
        return [
            Reason(
                op.name,
                ReasonKind.NOT_MONOTONE,
                "a function that rises and falls",
                f"{runtime} multiplies and rounds",
                "use a ReLU",
            )
        ]
    if is_straight(op):
        return []
    furthest = off_line(op.require_steps().thresholds, *reach(op)).max()
    return [
        Reason(
            op.name,
            ReasonKind.NO_AFFINE_FORM,
            f"steps up to {max(furthest, 0.1):.1f} accumulators off every straight line",
            f"{runtime} multiplies and rounds once",
            "use a ReLU and a single quantiser behind it",
        )
    ]
