"""Operations on two tensors looked up by the pair of levels, quantiser and all; the rule of products.

LiteRT's int8 MUL rounds differently in every kernel set, and a sum of two unlike branches seldom has a scale and a bias
that hit every step. A table of what the quantiser makes of each pair, 65,536 at 8 bits, moves integers alone: every
kernel set gives the same, for any step function.
"""

from __future__ import annotations

import numpy as np

from greenedge.backends.int8.arithmetic import LITERT
from greenedge.backends.int8.builder import tabulate_pairs
from greenedge.backends.int8.layers import exact_layer
from greenedge.backends.int8.requirements import require_int32_sums, require_readers
from greenedge.backends.int8.tflite.accumulators import cast_to_int32, int32_operator
from greenedge.backends.int8.tflite.builder import RULES, RUNTIME, Placed, TfliteBuilder
from greenedge.backends.int8.tflite.flatbuffer import Quantisation
from greenedge.backends.int8.tflite.layout import Layout, image, plain
from greenedge.graph import Multiply, Op, Requantise


@RULES.lowers(Multiply)
def multiply(b: TfliteBuilder, op: Multiply) -> None:
    """GATHER from a table for each pair of levels; MUL of int32 where the products themselves are stored."""
    require_readers(b, op)
    require_int32_sums(b, op, b.graph.edges[op.output].magnitude, RUNTIME)
    b.announce_sum(op, (0, len(b.graph.edges[op.output].shape) - 1))
    b.announce_pairs(op, is_rounded=False)
    b.begin_emission()
    b.write_sum(op, lambda step: look_up_pairs(b, op, step), lambda: _accumulate(b, op))


def look_up_pairs(b: TfliteBuilder, op: Op, step: Requantise) -> None:
    """Place in the table: the first input's level times as many as the second has, plus the second's, plus a table for
    each channel."""
    edge, code = step.output, b.encode_step(step)
    parts, layout = _place_inputs(b, op, is_image=step.channels == 1 or step.axis == 0)
    first, second = (part.code for part in parts)
    table = tabulate_pairs(step, op, first, second) + code.offset
    row = cast_to_int32(b, parts[0], first.bounds[0], f"{edge}/row")
    shape = parts[0].layout.file
    row = int32_operator(b, "MUL", [row, b.constant(f"{edge}/width", [second.levels])], shape, f"{edge}/start")
    column = int32_operator(b, "CAST", [parts[1].tensor], parts[1].layout.file, f"{edge}/column")
    begin = b.constant(f"{edge}/begin", table.shape[1] * np.arange(len(table)) - second.bounds[0])
    column = int32_operator(b, "ADD", [column, begin], _widen(parts[1], len(table)), f"{edge}/place")
    index = int32_operator(b, "ADD", [row, column], layout.file, f"{edge}/index")
    quantisation = Quantisation((code.scale,), code.zero_point)
    levels = b.writer.constant(f"{edge}/table", table.reshape(-1).astype(np.int8), quantisation)
    result = b.tensor(edge, layout, code)
    b.writer.operator("GATHER", [levels, index], [result.tensor], 2, axis=0)
    b.placed[edge] = result


def _widen(part: Placed, channels: int) -> tuple[int, ...]:
    """The shape of a part to which something for each channel is added."""
    *lead, last = part.layout.file
    return (*lead, max(last, channels))


def _place_inputs(b: TfliteBuilder, op: Op, is_image: bool) -> tuple[list[Placed], Layout]:
    """Both inputs and the output with their axes in one order: with channels last as an image, or the graph's own."""
    shape = b.graph.edges[op.output].shape
    if len(shape) > 1 and is_image:
        return [b.as_image(edge) for edge in op.inputs], image(shape)
    return [b.as_plain(edge) for edge in op.inputs], plain(shape)


def _accumulate(b: TfliteBuilder, op: Multiply) -> None:
    """The products as int32."""
    edge = b.graph.edges[op.output]
    parts, layout = _place_inputs(b, op, is_image=True)
    factors = [
        cast_to_int32(b, part, part.code.offset + zero, f"{edge.name}/factor{k}")
        for k, (part, zero) in enumerate(zip(parts, op.zeros, strict=True))
    ]
    product = int32_operator(b, "MUL", factors, layout.file, edge.name)
    b.placed[edge.name] = Placed(product, layout, b.wide_encoding(edge.name))
    b.layers.append(exact_layer(op.name, edge, "int32 MUL", 1, LITERT))
