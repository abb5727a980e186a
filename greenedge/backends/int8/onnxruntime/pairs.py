"""Operations on two tensors looked up by the pair of levels, where rounding is not proved; the rule of products."""

from __future__ import annotations

import numpy as np

from greenedge.backends.int8.builder import tabulate_pairs
from greenedge.backends.int8.layers import count_wrong, fit_layer
from greenedge.backends.int8.onnxruntime.accumulators import accumulate_product
from greenedge.backends.int8.onnxruntime.onnx_builder import RULES, RUNTIME, SHIFT, OnnxBuilder, encode_levels
from greenedge.backends.int8.onnxruntime.rounding import fit_elementwise, write_rounding
from greenedge.backends.int8.quant_params import LEVELS, Encoding
from greenedge.backends.int8.requirements import MOST_PAIRS, count_pairs, require_int32_sums, require_readers
from greenedge.graph import Multiply, Op, Requantise


@RULES.lowers(Multiply)
def multiply(b: OnnxBuilder, op: Multiply) -> None:
    """Products of levels, and the quantiser behind them: exact in float32, and rounded where that is proved."""
    require_readers(b, op)
    require_int32_sums(b, op, b.graph.edges[op.output].magnitude, RUNTIME)
    b.announce_pairs(op, is_rounded=True)
    b.begin_emission()

    def write(step: Requantise) -> None:
        if is_looked_up(b, op, step):
            look_up_pairs(b, op, step)
        else:
            b.quantise(step, lambda code, written: _write_product(b, step, op, code, written))

    b.write_sum(op, write, lambda: accumulate_product(b, op, op.zeros))


def is_looked_up(b: OnnxBuilder, op: Op, step: Requantise) -> bool:
    """Whether a table gives what rounding does not."""
    if b.find_pairs(step) is not None:
        return True
    if op.output not in b.pairs or count_pairs(step, [b.codes[edge] for edge in op.inputs]) > MOST_PAIRS:
        return False
    code, ones = b.encode(step.output, step.lo, step.hi), np.ones((step.channels, 1), np.int64)
    fitted = fit_layer("QuantizeLinear", op.name, step, ones, encode_levels(0, 0), code, liftable=False)
    return count_wrong(fitted, all_sets=False) > 0


def _write_product(b: OnnxBuilder, step: Requantise, op: Multiply, code: Encoding, written: str) -> None:
    edge = step.output
    product = b.node("Mul", _cast_factors(b, op, edge), f"{edge}/product")
    fitted, shape = fit_elementwise(b, step, op.name, code, len(b.graph.edges[edge].shape))
    scaled = b.node("Mul", [product, b.constant(f"{edge}/factor", fitted.weight.reshape(shape))], f"{edge}/scaled")
    write_rounding(b, edge, scaled, fitted.bias.reshape(shape), fitted.scale.reshape(shape), code, written)


def expect_codes(b: OnnxBuilder, op: Op) -> list[Encoding]:
    """How the inputs are encoded, known while checking; not those that are refused themselves."""
    edges = [edge for edge in b.graph.input_edges(op) if edge.hi - edge.lo <= LEVELS]
    return [encode_levels(edge.lo, edge.hi) for edge in edges]


def _cast_factors(b: OnnxBuilder, op: Multiply, edge: str) -> list[str]:
    """level - zero of both inputs in float32."""
    factors = []
    for k, (source, zero) in enumerate(zip(op.inputs, op.zeros, strict=True)):
        level = b.node("Cast", [source], f"{edge}/float{k}", to=1)
        shift = b.constant(f"{edge}/zero{k}", zero + b.codes[source].offset + SHIFT)
        factors.append(b.node("Sub", [level, shift], f"{edge}/factor{k}"))
    return factors


def look_up_pairs(b: OnnxBuilder, op: Op, step: Requantise) -> None:
    """Gather from a table: a row for each level of the first input, a column for each of the second's, a table for each
    channel."""
    edge, code = step.output, b.encode(step.output, step.lo, step.hi)
    first, second = (b.codes[source] for source in op.inputs)
    table = tabulate_pairs(step, op, first, second) + code.offset + SHIFT
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
