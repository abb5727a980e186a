"""The rule of products of two tensors: exact in float32 and rounded where that is proved, else looked up by the pair of
levels."""

from __future__ import annotations

import numpy as np

from greenedge.backends.int8.builder import tabulate_pairs
from greenedge.backends.int8.layers import fit_layer
from greenedge.backends.int8.onnxruntime.accumulators import accumulate_product
from greenedge.backends.int8.onnxruntime.elementwise import write_rounding
from greenedge.backends.int8.onnxruntime.onnx_builder import RULES, RUNTIME, SHIFT, OnnxBuilder, encode_levels
from greenedge.backends.int8.quant_params import LEVELS
from greenedge.backends.int8.requirements import require_int32_sums, require_readers
from greenedge.graph import Multiply, Requantise
from greenedge.graph.lines import is_straight


@RULES.lowers(Multiply)
def multiply(b: OnnxBuilder, op: Multiply) -> None:
    """Products of levels, and the quantiser behind them."""
    require_readers(b, op)
    require_int32_sums(b, op, b.graph.edges[op.output].magnitude, RUNTIME)
    if op.output in b.wide or not b.graph.needs_storage(op.output):
        edges = [edge for edge in b.graph.input_edges(op) if edge.hi - edge.lo <= LEVELS]
        b.products[op.output] = [encode_levels(edge.lo, edge.hi) for edge in edges]
    b.begin_emission()
    b.write_sum(op, lambda step: _write_product(b, op, step), lambda: accumulate_product(b, op, op.zeros))


def _write_product(b: OnnxBuilder, op: Multiply, step: Requantise) -> None:
    """By rounding where every channel is proved."""
    edge, code = step.output, b.encode(step.output, step.lo, step.hi)
    if is_straight(step):
        ones = np.ones((step.channels, 1), np.int64)
        fitted = fit_layer("QuantizeLinear", op.name, step, ones, encode_levels(0, 0), code)
        if not any(verdict.differing.any() for verdict in fitted.layer.solution.verdicts.values()):
            b.layers.append(fitted.layer)
            shape = [-1 if axis == step.axis + 1 else 1 for axis in range(len(b.graph.edges[edge].shape) + 1)]
            product = b.node("Mul", _cast_factors(b, op, edge), f"{edge}/product")
            factor = b.constant(f"{edge}/factor", fitted.weight.reshape(shape))
            scaled = b.node("Mul", [product, factor], f"{edge}/scaled")
            bias, scale = fitted.bias.reshape(shape), fitted.scale.reshape(shape)
            b.quantise_as(edge, code, lambda to, written: write_rounding(b, edge, scaled, bias, scale, to, written))
            return
    _look_up_pairs(b, op, step)


def _cast_factors(b: OnnxBuilder, op: Multiply, edge: str) -> list[str]:
    """level - zero of both inputs in float32."""
    factors = []
    for k, (source, zero) in enumerate(zip(op.inputs, op.zeros, strict=True)):
        level = b.node("Cast", [source], f"{edge}/float{k}", to=1)
        shift = b.constant(f"{edge}/zero{k}", zero + b.codes[source].offset + SHIFT)
        factors.append(b.node("Sub", [level, shift], f"{edge}/factor{k}"))
    return factors


def _look_up_pairs(b: OnnxBuilder, op: Multiply, step: Requantise) -> None:
    """Gather from a table: a row for each level of the first input, a column for each of the second's, a table for each
    channel."""
    edge, code = step.output, b.encode(step.output, step.lo, step.hi)
    first, second = (b.codes[source] for source in op.inputs)
    table = tabulate_pairs(step, op.zeros, first, second) + code.offset + SHIFT
    wide = [b.node("Cast", [source], f"{edge}/wide{k}", to=6) for k, source in enumerate(op.inputs)]
    row = b.node("Mul", [wide[0], b.constant(f"{edge}/width", second.levels, np.int32)], f"{edge}/row")
    shape = [1] * (len(b.graph.edges[edge].shape) + 1)
    shape[step.axis + 1] = -1
    begin = table.shape[1] * np.arange(len(table)) - (first.bounds[0] + SHIFT) * second.levels
    begin = (begin - (second.bounds[0] + SHIFT)).reshape(shape)
    column = b.node("Add", [wide[1], b.constant(f"{edge}/begin", begin, np.int32)], f"{edge}/column")
    index = b.node("Add", [row, column], f"{edge}/index")
    b.node("Gather", [b.constant(f"{edge}/table", table.reshape(-1), np.uint8), index], edge)
    b.codes[edge] = code
