"""Rules of inputs, quantisers and additions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from greenedge.backends.int8.arithmetic import INT8_MAX, INT8_MIN
from greenedge.backends.int8.builder import tabulate_levels
from greenedge.backends.int8.layers import count_wrong, fit_addition, fit_layer
from greenedge.backends.int8.quant_params import LEVELS, Encoding, common_range, encode, encode_input, shift_levels
from greenedge.backends.int8.requirements import (
    MOST_PAIRS,
    bound_sums,
    count_pairs,
    is_quantised,
    require_channel_axis,
    require_common_range,
    require_int32_sums,
    require_levels,
    require_line,
    require_own_axis,
    require_pair_table,
    require_readers,
)
from greenedge.backends.int8.tflite.accumulators import accumulate_terms
from greenedge.backends.int8.tflite.builder import RULES, RUNTIME, Placed, TfliteBuilder
from greenedge.backends.int8.tflite.flatbuffer import Quantisation
from greenedge.backends.int8.tflite.layout import image, plain
from greenedge.backends.int8.tflite.pairs import look_up_pairs
from greenedge.backends.int8.tflite.quantise import (
    Form,
    flatten_to_rows,
    quantise,
    requantise_form,
    unify_encodings,
    window_options,
    write_operator,
)
from greenedge.errors import ReasonKind
from greenedge.graph import Add, ChannelAdd, Conv, ConvTranspose, Edge, Input, Op, Requantise, SumPool, freeze
from greenedge.graph.lines import shift_step
from greenedge.graph.ops.base import Ints
from greenedge.legalise.narrow_channel_sums import spread_step

MOST_COPIES = 64  # of branches in one addition


@RULES.lowers(Input)
def read_input(b: TfliteBuilder, op: Input) -> None:
    """The file's input: images with channels last, and signals where a window reads them first."""
    edge = b.graph.edges[op.output]
    require_levels(b, edge.lo, edge.hi)
    if edge.hi - edge.lo <= LEVELS:
        b.encodings[op.output] = encode_input(edge.lo, edge.hi, b.choose_zero_level(op.output, edge.lo, edge.hi))
    b.begin_emission()
    reader = next(iter(b.graph.consumers(op.output)), None)
    is_signal = len(edge.shape) == 2 and isinstance(reader, (Conv, ConvTranspose, SumPool))
    layout = image(edge.shape) if len(edge.shape) == 3 or is_signal else plain(edge.shape)
    b.placed[op.output] = b.tensor(op.output, layout, b.encodings[op.output])


@RULES.lowers(Requantise)
def requantise(b: TfliteBuilder, op: Requantise) -> None:
    """Has the sum before it written together with it; levels that are stored are requantised by themselves, or looked
    up."""
    require_levels(b, op.lo, op.hi)
    if op.hi - op.lo <= LEVELS:
        b.encodings[op.output] = b.encode_step(op)
    if b.is_tabulated(op):
        require_channel_axis(b, op, (0, len(b.graph.edges[op.output].shape) - 1), RUNTIME)
        b.begin_emission()
        b.placed[op.output] = _look_up(b, op)
        return
    pair = b.find_pairs(op)
    if pair is not None:
        codes = [b.encodings[edge] for edge in pair.inputs if edge in b.encodings]
        require_pair_table(b, op, codes, (0, len(b.graph.edges[op.output].shape) - 1), RUNTIME)
    elif require_line(b, op, RUNTIME):
        rank = len(b.graph.edges[op.output].shape)
        require_channel_axis(b, op, b.channel_axes.get(op.inputs[0], (0, rank - 1)), RUNTIME)
    b.begin_emission()
    write = b.sum_before(op)
    if write is not None:
        write(op)
    else:
        quantise(b, requantise_form(b, place_channels_last(b, op.inputs[0], op), op.name), op, op.name)


def _look_up(b: TfliteBuilder, op: Requantise) -> Placed:
    """GATHER from a table of the levels by the stored integer, counted from -128, and from 256 more for each channel:
    integers alone, which every kernel set moves as they are."""
    source, code = place_channels_last(b, op.inputs[0], op), b.encode_step(op)
    table = tabulate_levels(op, source.code.offset - INT8_MIN) + code.offset
    shape = source.layout.file
    wide = b.writer.tensor(f"{op.output}/wide", shape, "INT32")
    index = b.writer.tensor(f"{op.output}/index", shape, "INT32")
    b.writer.operator("CAST", [source.tensor], [wide])
    first = b.constant(f"{op.output}/first", table.shape[1] * np.arange(len(table)) - INT8_MIN)
    b.writer.operator("ADD", [wide, first], [index], fusedActivationFunction="NONE")
    parameters = Quantisation((code.scale,), code.zero_point)
    levels = b.writer.constant(f"{op.output}/table", table.reshape(-1).astype(np.int8), parameters)
    result = b.tensor(op.output, source.layout, code)
    b.writer.operator("GATHER", [levels, index], [result.tensor], 2, axis=0)
    return result


def place_channels_last(b: TfliteBuilder, edge: str, step: Requantise) -> Placed:
    """The edge with the axis of the step function's channels last; as it is where one function serves all."""
    placed = b.placed[edge]
    if step.channels == 1:
        return placed
    return b.as_image(edge) if len(placed.layout.shape) > 1 and step.axis == 0 else b.as_plain(edge)


@RULES.lowers(Add)
def add(b: TfliteBuilder, op: Add) -> None:
    """ADD where its rounding is right; else a depthwise convolution across the stacked branches; a table of pairs where
    neither is proved."""
    require_readers(b, op)
    largest = sum(abs(m) * edge.magnitude for m, edge in zip(op.multipliers, b.graph.input_edges(op), strict=True))
    require_int32_sums(b, op, largest, RUNTIME)
    b.announce_sum(op, (0, len(b.graph.edges[op.output].shape) - 1))
    _emit_sum(b, op, np.array(op.multipliers)[:, None], lambda step: step)


@RULES.lowers(ChannelAdd)
def channel_add(b: TfliteBuilder, op: ChannelAdd) -> None:
    """As Add, with weights for each channel; ADD itself has one scale for a tensor."""
    require_readers(b, op)
    require_own_axis(b, op, RUNTIME)
    require_int32_sums(b, op, bound_sums(op, b.graph.input_edges(op)), RUNTIME)
    last = len(b.graph.edges[op.output].shape) - 1
    b.require(
        op.axis in (0, last),
        f"branches weighted along axis {op.axis}",
        f"{RUNTIME}'s convolutions have weights for each channel",
        "quantise each branch per tensor before the addition",
    )
    b.announce_sum(op, (op.axis,))
    _emit_sum(b, op, op.multipliers, lambda step: spread_step(step, op))


def _emit_sum(b: TfliteBuilder, op: Op, multipliers: Ints, spread: Callable[[Requantise], Requantise]) -> None:
    """The sum of branches, `multipliers` being (inputs, C) or (inputs, 1); `spread` gives the step function behind it
    as many channels."""
    is_stackable = sum(map(count_copies, multipliers)) <= MOST_COPIES
    b.announce_pairs(op, is_rounded=is_stackable)
    b.require(
        is_stackable or not is_quantised(b, op) or op.output in b.pairs,
        f"branches weighted {_describe(multipliers)}",
        f"an addition stacks its branches at most {MOST_COPIES} times, each time with a weight of 7 bits",
        "quantise the branches to fewer bits, or let both share one quantiser",
        ReasonKind.TOO_WIDE,
    )
    b.begin_emission()

    def write(step: Requantise) -> None:
        step = spread(step)
        if b.find_pairs(step) or (op.output in b.pairs and not _is_proved(b, op, multipliers, step)):
            look_up_pairs(b, op, step)
            return
        first = place_channels_last(b, op.inputs[0], step)
        parts = [b.convert_layout(b.placed[edge], first.layout, edge) for edge in op.inputs]
        parts, shifts = align_branches(b, op, parts)
        step = shift_input(step, weigh_shifts(multipliers, shifts))
        total = _write_add(b, op, step, parts) if _is_plain(multipliers) else None
        if total is not None:
            b.placed[step.output] = total
        else:
            quantise(b, _stack_form(b, op, multipliers, parts), step, op.name)

    b.write_sum(op, write, lambda: _accumulate_branches(b, op, multipliers))


def _describe(multipliers: Ints) -> str:
    if multipliers.shape[1] == 1:
        return str(tuple(multipliers[:, 0].tolist()))
    return f"up to {int(np.abs(multipliers).max()):,}"


def _is_plain(multipliers: Ints) -> bool:
    """Whether two branches are added as they are, which ADD does."""
    return multipliers.tolist() == [[1], [1]]


def _accumulate_branches(b: TfliteBuilder, op: Op, multipliers: Ints) -> None:
    """The sum as int32."""
    placed = b.placed[op.inputs[0]]
    if multipliers.shape[1] > 1:  # they run along the last axis of what is stored
        is_image = b.channel_axes[op.output] == (0,) and len(placed.layout.shape) > 1
        placed = b.as_image(op.inputs[0]) if is_image else b.as_plain(op.inputs[0])
    parts = [b.convert_layout(b.placed[edge], placed.layout, edge) for edge in op.inputs]
    accumulate_terms(b, op, parts, multipliers, [part.code.offset for part in parts])


def _is_proved(b: TfliteBuilder, op: Op, multipliers: Ints, step: Requantise) -> bool:
    """Whether ADD or the convolution gives every level, or a table would be too large."""
    parts = [b.placed[edge] for edge in op.inputs]
    codes, code = [part.code for part in parts], b.encode_step(step)
    if count_pairs(step, codes) > MOST_PAIRS:
        return True
    common, shifts = align_codes(codes)
    step = shift_input(step, weigh_shifts(multipliers, shifts))
    if _is_plain(multipliers) and fit_addition(op.name, step, common, code) is not None:
        return True
    weight = np.vstack([split_weights(row) for row in multipliers]).T
    weight = np.broadcast_to(weight, (step.channels, weight.shape[1]))
    fitted = fit_layer("DEPTHWISE_CONV_2D", op.name, step, weight, common, code, INT8_MAX, b.all_sets)
    return not count_wrong(fitted, b.all_sets)


def align_codes(codes: Sequence[Encoding]) -> tuple[Encoding, list[int]]:
    """The encoding that branches get in common, and what is added to the levels of each for it: where int8 does not
    hold the levels of all, each is counted from another level, so that the tops are one."""
    lo, hi = common_range(codes)
    if hi - lo > LEVELS:
        shifts = [hi - code.hi for code in codes]
        return encode(*common_range([shift_levels(code, d) for code, d in zip(codes, shifts, strict=True)])), shifts
    is_shared = all(code.is_like(codes[0]) for code in codes)
    return (replace(codes[0], lo=lo) if is_shared else encode(lo, hi)), [0] * len(codes)


def count_copies(multipliers: Ints) -> int:
    """How many int8 weights the largest of a branch's weights (C,) takes."""
    return max(1, -(-int(np.abs(multipliers).max()) // INT8_MAX))


def split_weights(multipliers: Ints) -> Ints:
    """(copies, C): the weights (C,) of a branch as a sum of nearly equal int8 weights, one for each time that it is
    stacked."""
    count = count_copies(multipliers)
    k = np.arange(count)[:, None]
    weights: Ints = (multipliers * (k + 1)) // count - (multipliers * k) // count
    return weights


def weigh_shifts(multipliers: Ints, shifts: Sequence[int]) -> Ints:
    """(C,) what is added to the sums where so much is added to the levels of each branch."""
    moved: Ints = (multipliers * np.array(shifts)[:, None]).sum(axis=0)
    return moved


def align_branches(b: TfliteBuilder, op: Op, parts: list[Placed]) -> tuple[list[Placed], list[int]]:
    """The branches in one encoding, and what is added to the levels of each by it."""
    common, shifts = align_codes([part.code for part in parts])
    if not any(shifts):
        return unify_encodings(b, parts, op), shifts
    moved = []
    for part, edge, shift in zip(parts, op.inputs, shifts, strict=True):
        name = f"{op.name}/{edge}"
        step = shift_step(Edge(edge, part.layout.shape, part.code.lo, part.code.hi), name, shift)
        moved.append(write_operator(b, requantise_form(b, part, name), step, common, name))
    return moved, shifts


def shift_input(step: Requantise, shift: Ints) -> Requantise:
    """The step function of x + shift, `shift` being (C,) or (1,)."""
    if not shift.any():
        return step
    steps = step.require_steps()
    thresholds = steps.thresholds + (steps.sign * shift)[:, None]
    moved = replace(step, x_lo=freeze(step.x_lo + shift), x_hi=freeze(step.x_hi + shift))
    return moved.with_steps(thresholds=freeze(thresholds))


def require_one_encoding(b: TfliteBuilder, op: Op) -> Encoding | None:
    """The branches fit one encoding: the common one, None where a branch is too wide (and is refused where it is
    made)."""
    edges, codes = b.graph.input_edges(op), [b.encodings[edge] for edge in op.inputs if edge in b.encodings]
    if len(codes) < len(edges) or any(edge.hi - edge.lo > LEVELS for edge in edges):
        return None
    lo, hi = common_range([encode(code.lo, code.hi) for code in codes])
    require_common_range(b, edges, lo, hi)
    return encode(lo, hi) if hi - lo <= LEVELS else None


def _write_add(b: TfliteBuilder, op: Op, step: Requantise, parts: list[Placed]) -> Placed | None:
    """ADD: smaller and faster than a convolution across the stacked parts; None where it is not exact."""
    found = fit_addition(op.name, step, parts[0].code, b.encode_step(step))
    if found is None:
        return None
    code, layer = found
    result = b.tensor(step.output, parts[0].layout, code)
    tensors = [part.tensor for part in parts]
    b.writer.operator("ADD", tensors, [result.tensor], 2, fusedActivationFunction=code.activation)
    b.layers.append(layer)
    return result


def _stack_form(b: TfliteBuilder, op: Op, multipliers: Ints, parts: list[Placed]) -> Form:
    """`parts` are the inputs in one layout and one encoding; they are stacked, and the kernel reaches across the
    stack."""
    rows = [flatten_to_rows(b, part, f"{op.name}/{k}") for k, part in enumerate(parts)]
    weights = [split_weights(row) for row in multipliers]
    copies = [row for row, some in zip(rows, weights, strict=True) for _ in some]
    _, _, count, last = rows[0].layout.file
    stack = replace(rows[0].layout, file=(1, len(copies), count, last))
    stacked = b.tensor(f"{op.name}/stacked", stack, rows[0].code)
    b.join(copies, 1, stacked)
    options = {**window_options((1, 1), (1, 1), "VALID"), "depthMultiplier": 1}
    weight = np.broadcast_to(np.vstack(weights)[None, :, None, :], (1, len(copies), 1, last))
    return Form("DEPTHWISE_CONV_2D", 3, weight, 3, stacked, parts[0].layout, rows[0].layout, options)
