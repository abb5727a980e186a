"""What int8 files have in common to refuse; used by the rules of both formats before they emit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from greenedge.backends.int8.arithmetic import INT8_MAX, INT8_MIN
from greenedge.backends.int8.builder import FusingBuilder
from greenedge.backends.int8.layers import INT32, WIDEST_INPUT
from greenedge.backends.int8.quant_params import LEVELS, Encoding
from greenedge.errors import ReasonKind
from greenedge.graph import ChannelAdd, Edge, Linear, Op, Requantise
from greenedge.graph.lines import distance_from_line, is_straight, is_straight_in_float32
from greenedge.legalise.capabilities import QUANTISE_OUTPUT
from greenedge.legalise.rules import RuleBuilder

MOST_PAIRS = 1 << 20  # of levels in a table, a byte each


def require_levels(b: RuleBuilder, lo: int, hi: int) -> None:
    """What is stored has at most 256 levels."""
    b.require(
        hi - lo <= LEVELS,
        f"{hi - lo + 1:,} levels",
        "int8 holds 256",
        "quantise to at most 8 bits",
        ReasonKind.TOO_WIDE,
    )


def require_readers(b: FusingBuilder, op: Op) -> None:
    """A sum of more than 256 levels is read by quantisers, each together with it, and as int32 by what hands it on to
    the outputs. Notes which edges those are."""
    edge = b.graph.edges[op.output]
    is_handed_on = not b.wide.isdisjoint(op.inputs)
    if not is_handed_on and not (op.accumulates and edge.levels > LEVELS + 1):
        return
    readers = [
        r.name
        for r in b.graph.consumers(op.output)
        if not r.selects and ((is_handed_on and not b.requantises_wide) or not isinstance(r, Requantise))
    ]
    if not readers and (is_handed_on or b.graph.needs_storage(op.output)):
        b.wide.add(op.output)  # what reads a sum that is refused is not refused once more
    b.require(
        not readers,
        f"its accumulators are read by {', '.join(readers)}",
        "a quantiser must follow every layer",
        "put a QuantIdentity(bit_width=8) after it",
        ReasonKind.UNSUPPORTED_GRAPH,
    )


def is_quantised(b: FusingBuilder, op: Op) -> bool:
    """Whether a quantiser is written together with the sum, the identity where it is stored in 8 bits."""
    return op.output not in b.wide or any(isinstance(reader, Requantise) for reader in b.graph.consumers(op.output))


def require_int32_sums(b: FusingBuilder, op: Op, largest: int, runtime: str) -> None:
    """What is stored as int32 fits it, `largest` being a bound on its partial sums too."""
    b.require(
        op.output not in b.wide or largest < INT32,
        f"an output of sums of up to {largest:,}",
        f"{runtime} adds up in 32 bits",
        QUANTISE_OUTPUT,
        ReasonKind.TOO_WIDE,
    )


def require_all_wide(b: FusingBuilder, op: Op) -> None:
    """What is joined with accumulators are accumulators."""
    narrow = [edge for edge in op.inputs if edge not in b.wide]
    b.require(
        not narrow or len(narrow) == len(op.inputs),
        f"accumulators joined with {', '.join(narrow)}, of 8 bits",
        "what is joined has one type",
        "put a QuantIdentity(bit_width=8) after each branch",
    )


def require_weights(b: RuleBuilder, op: Linear, runtime: str, unsigned: bool = False) -> None:
    """Weights fit int8, or uint8 with a zero point where the runtime has that, and sums int32; a step function that
    falls changes the sign of its channel's weights."""
    falls = any(
        op.output in step.inputs and step.steps is not None and not step.steps.rises for step in b.graph.requantisers
    )
    low, high = int(op.weight.min(initial=0)), int(op.weight.max(initial=0))
    worst = -low if falls else low if -low > high else high
    span = max(abs(low), high) * 2 if falls else high - low
    b.require(
        (INT8_MIN + falls <= low and high <= INT8_MAX) or (unsigned and span <= LEVELS),
        f"a weight of {worst}",
        "int8 weights lie in -127…127",
        "use narrow-range weights of at most 8 bits",
        ReasonKind.TOO_WIDE,
    )
    largest = WIDEST_INPUT * op.largest_weight_sum
    b.require(
        2 * largest < INT32,
        f"sums of up to {largest:,}",
        f"{runtime} adds up in 32 bits, with room for a bias",
        "use fewer inputs or narrower weights",
        ReasonKind.TOO_WIDE,
    )


def require_pad_level(b: RuleBuilder, op: Op, level: int) -> None:
    """What is padded with is a level of the input."""
    edge = b.graph.edges[op.inputs[0]]
    b.require(
        edge.levels > LEVELS + 1 or edge.lo <= level <= edge.hi,  # a wider input is refused where it is made
        f"padding with {level}",
        f"its input has the levels {edge.lo}…{edge.hi}",
        "pad with a level of the quantiser",
    )


def require_line(b: RuleBuilder, step: Requantise, runtime: str) -> bool:
    """The step function is a line, rounded once. Returns whether it is monotone."""
    if step.steps is None:
        return b.require(
            False,
            "a function that rises and falls",
            f"behind a sum {runtime} multiplies and rounds",
            "put a quantiser of 8 bits between the layer and the activation, whose levels are then looked up",
            ReasonKind.NOT_MONOTONE,
        )
    if not is_straight(step) and not is_straight_in_float32(step):
        furthest = distance_from_line(step).max()
        b.require(
            False,
            f"steps up to {max(furthest, 0.1):.1f} accumulators off every straight line",
            f"behind a sum {runtime} multiplies and rounds once",
            "put a quantiser of 8 bits between the layer and the activation, whose levels are then looked up",
            ReasonKind.NO_AFFINE_FORM,
        )
    return True


def count_pairs(step: Requantise, codes: Sequence[Encoding]) -> int:
    """The entries of its table."""
    return step.channels * int(np.prod([code.levels for code in codes], dtype=object))


def require_pair_table(
    b: RuleBuilder, step: Requantise, codes: Sequence[Encoding], axes: Sequence[int], runtime: str
) -> None:
    """A quantiser behind an operation on two tensors, encoded as `codes` where they are not refused themselves, has a
    table that a file can hold."""
    require_channel_axis(b, step, axes, runtime)
    entries = count_pairs(step, codes)
    b.require(
        len(codes) < 2 or entries <= MOST_PAIRS,
        f"a step function for each of {step.channels} channels behind two tensors, {entries:,} pairs of levels in all",
        f"a table of pairs has at most {MOST_PAIRS:,}",
        "quantise per tensor, or its two inputs to fewer bits",
        ReasonKind.TOO_WIDE,
    )


def require_channel_axis(b: RuleBuilder, step: Requantise, axes: Sequence[int], runtime: str) -> None:
    """A step function per channel runs along one of these axes."""
    b.require(
        step.channels == 1 or step.axis in axes,
        f"a step function per index of axis {step.axis}",
        f"{runtime} has one per output channel",
        "quantise per channel or per tensor",
    )


def require_own_axis(b: RuleBuilder, op: ChannelAdd, runtime: str) -> None:
    """The quantisers behind a sum with factors for each channel have their step functions along the same axis."""
    steps = [step for step in b.graph.consumers(op.output) if isinstance(step, Requantise)]
    b.require(
        all(step.channels == 1 or step.axis == op.axis for step in steps),
        f"factors along axis {op.axis} with step functions along another",
        f"{runtime} has both for each channel",
        "quantise per channel or per tensor",
    )


def bound_sums(op: ChannelAdd, edges: Sequence[Edge]) -> int:
    """A bound on every partial sum."""
    magnitudes = np.array([edge.magnitude for edge in edges])
    return int((np.abs(op.multipliers) * magnitudes[:, None]).sum(axis=0).max())


def require_common_range(b: RuleBuilder, edges: Sequence[Edge], lo: int, hi: int) -> None:
    """Together the branches, stored as lo … hi, fit one int8 encoding."""
    b.require(
        hi - lo <= LEVELS,
        f"inputs {' and '.join(f'{edge.name} {edge.lo}…{edge.hi}' for edge in edges)}",
        "together they must fit 256 levels",
        "let both branches share one quantiser",
        ReasonKind.TOO_WIDE,
    )
