"""Rules of inputs, quantisers and additions: exact steps in float32 where there is no sum of products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from greenedge.backends.int8.builder import tabulate_levels
from greenedge.backends.int8.onnxruntime.accumulators import accumulate_terms
from greenedge.backends.int8.onnxruntime.onnx_builder import RULES, RUNTIME, SHIFT, OnnxBuilder
from greenedge.backends.int8.onnxruntime.pairs import expect_codes, is_looked_up, look_up_pairs
from greenedge.backends.int8.onnxruntime.rounding import fit_elementwise, write_rounding
from greenedge.backends.int8.onnxruntime.rows import is_wide, require_exact_step, write_step
from greenedge.backends.int8.quant_params import Encoding
from greenedge.backends.int8.requirements import (
    bound_sums,
    is_quantised,
    require_channel_axis,
    require_int32_sums,
    require_levels,
    require_line,
    require_own_axis,
    require_pair_table,
    require_readers,
)
from greenedge.errors import ReasonKind
from greenedge.graph import Add, ChannelAdd, Input, Requantise
from greenedge.graph.ops.base import Ints
from greenedge.legalise.narrow_channel_sums import spread_step

WIDEST_ADDITION = 1 << 15  # sum of |multiplier|: 128 times that, and half as much again, are exact in float32


@RULES.lowers(Input)
def read_input(b: OnnxBuilder, op: Input) -> None:
    """The file's input, in the edge's own levels."""
    edge = b.graph.edges[op.output]
    require_levels(b, edge.lo, edge.hi)
    b.begin_emission()
    b.codes[op.output] = b.encode(op.output, edge.lo, edge.hi)


@RULES.lowers(Requantise)
def requantise(b: OnnxBuilder, op: Requantise) -> None:
    """Has the sum before it written together with it; levels that are stored are requantised by themselves."""
    require_levels(b, op.lo, op.hi)
    if b.is_tabulated(op):
        b.begin_emission()
        _look_up(b, op)
        return
    if op.inputs[0] in b.exact or is_wide(b, op):
        require_exact_step(b, op)
        b.begin_emission()
        write_step(b, op)
        return
    axes = b.channel_axes.get(op.inputs[0])
    pair = b.find_pairs(op)
    if pair is not None:
        codes = expect_codes(b, pair)
        require_pair_table(b, op, codes, range(len(b.graph.edges[op.output].shape)), RUNTIME)
    elif require_line(b, op, RUNTIME) and axes is not None:
        require_channel_axis(b, op, axes, RUNTIME)
    b.begin_emission()
    write = b.sum_before(op)
    if write is not None:
        write(op)
    else:
        b.quantise(op, lambda code, written: write_elementwise(b, op, op.inputs, (1,), op.name, code, written))


def _look_up(b: OnnxBuilder, op: Requantise) -> None:
    """Gather from a table of the levels by the stored integer, and from 256 more for each channel."""
    edge, code = op.output, b.encode(op.output, op.lo, op.hi)
    table = tabulate_levels(op, b.codes[op.inputs[0]].offset + SHIFT) + code.offset + SHIFT
    index = b.node("Cast", [op.inputs[0]], f"{edge}/index", to=6)
    if len(table) > 1:
        shape = [1] * (len(b.graph.edges[edge].shape) + 1)
        shape[op.axis + 1] = -1
        first = b.constant(f"{edge}/first", table.shape[1] * np.arange(len(table)).reshape(shape), np.int32)
        index = b.node("Add", [index, first], f"{edge}/place")
    b.node("Gather", [b.constant(f"{edge}/table", table.reshape(-1), np.uint8), index], edge)
    b.codes[edge] = code


@RULES.lowers(Add)
def add(b: OnnxBuilder, op: Add) -> None:
    """A weighted sum of branches; of two, looked up where rounding it is not proved."""
    require_readers(b, op)
    largest = sum(abs(m) * edge.magnitude for m, edge in zip(op.multipliers, b.graph.input_edges(op), strict=True))
    require_int32_sums(b, op, largest, RUNTIME)
    is_narrow = sum(abs(m) for m in op.multipliers) <= WIDEST_ADDITION
    b.announce_pairs(op, is_rounded=is_narrow)
    b.require(
        is_narrow or not is_quantised(b, op) or op.output in b.pairs,
        f"branches weighted {tuple(op.multipliers)}",
        f"together the weights of an addition are at most {WIDEST_ADDITION:,}",
        "let both branches share one quantiser",
        ReasonKind.TOO_WIDE,
    )
    b.begin_emission()

    def write(step: Requantise) -> None:
        if is_looked_up(b, op, step):
            look_up_pairs(b, op, step)
            return
        b.quantise(
            step,
            lambda code, written: write_elementwise(b, step, op.inputs, op.multipliers, op.name, code, written),
        )

    b.write_sum(op, write, lambda: accumulate_terms(b, op, op.multipliers))


@RULES.lowers(ChannelAdd)
def channel_add(b: OnnxBuilder, op: ChannelAdd) -> None:
    """As Add, with factors for each channel."""
    require_readers(b, op)
    require_own_axis(b, op, RUNTIME)
    factors, edges = np.abs(op.multipliers), b.graph.input_edges(op)
    require_int32_sums(b, op, bound_sums(op, edges), RUNTIME)
    is_narrow = int(factors.sum(axis=0).max()) <= WIDEST_ADDITION
    b.announce_pairs(op, is_rounded=is_narrow)
    b.channel_axes[op.output] = (op.axis,)
    b.require(
        is_narrow or not is_quantised(b, op) or op.output in b.pairs,
        f"branches weighted up to {int(factors.max()):,}",
        f"together the weights of an addition are at most {WIDEST_ADDITION:,}",
        "let both branches share one quantiser",
        ReasonKind.TOO_WIDE,
    )
    b.begin_emission()
    multipliers = list(op.spread(len(edges[0].shape)))

    def write(step: Requantise) -> None:
        step = spread_step(step, op)
        if is_looked_up(b, op, step):
            look_up_pairs(b, op, step)
            return
        b.quantise(
            step, lambda code, written: write_elementwise(b, step, op.inputs, multipliers, op.name, code, written)
        )

    b.write_sum(op, write, lambda: accumulate_terms(b, op, multipliers))


def write_elementwise(
    b: OnnxBuilder,
    step: Requantise,
    sources: Sequence[str],
    multipliers: Sequence[int | Ints],
    name: str,
    code: Encoding,
    written: str,
) -> None:
    """Whole numbers in float32 (exact), times a scale, to int8 by QuantizeLinear: the same arithmetic as the other
    operators'."""
    edge = step.output
    fitted, shape = fit_elementwise(b, step, name, code, len(b.graph.edges[sources[0]].shape))
    factor, bias = fitted.weight.reshape(shape), fitted.bias.reshape(shape)
    parts = []
    for k, (source, multiplier) in enumerate(zip(sources, multipliers, strict=True)):
        bias = bias - factor * multiplier * (b.codes[source].offset + SHIFT)
        part = b.node("Cast", [source], f"{edge}/float{k}", to=1)
        parts.append(b.node("Mul", [part, b.constant(f"{edge}/factor{k}", factor * multiplier)], f"{edge}/part{k}"))
    total = parts[0]
    for k, part in enumerate(parts[1:]):
        total = b.node("Add", [total, part], f"{edge}/total{k}")
    write_rounding(b, edge, total, bias, fitted.scale.reshape(shape), code, written)
