"""How large an unrolled graph will be, before it is traced.

da4ml makes adders of products: one per non-zero digit of a weight in canonical signed digits, less what common
subexpressions save. Counted are the bits of these adders, which is what da4ml calls cost. On nine traced networks of
690 to 20,300 bits the estimate was 4 % too low to 19 % too high; larger matrices share more. In logic cells it was 33
to 59 % above what yosys counts, which placement adds 25 to 29 % to (benchmarks/da4ml_estimate.py prints all but the
last).
"""

from __future__ import annotations

import math

import numpy as np

from greenedge.graph import Conv, ConvTranspose, Dense, Graph, MaxPool, Op, Requantise, SumPool
from greenedge.graph.half_even import half_even

SHARING = 0.55  # adder bits that are left of the non-zero digits' after common subexpressions
LUTS_PER_BIT = 1.9  # placed logic cells of an ECP5 per bit: 1.88 to 1.96 on three routed networks
TRACEABLE = 400_000  # adder bits beyond which tracing takes hours


def adder_bits(graph: Graph) -> dict[str, float]:
    """Estimated bits of adders per operation of the graph."""
    return {op.name: bits for op in graph.ops if (bits := _bits(graph, op))}


def _bits(graph: Graph, op: Op) -> float:
    edge = graph.edges[op.output]
    if isinstance(op, (Dense, Conv, ConvTranspose)):
        width = (graph.edges[op.inputs[0]].bits + edge.bits) / 2
        vectors = math.prod(edge.shape[1:]) if not isinstance(op, Dense) else math.prod(edge.shape[:-1])
        if isinstance(op, ConvTranspose):
            vectors //= math.prod(op.strides)
        return SHARING * width * vectors * int(digits(op.weight).sum())
    if isinstance(op, SumPool):
        return edge.bits * math.prod(op.kernel) * math.prod(edge.shape)
    if isinstance(op, MaxPool):
        return 2.0 * edge.bits * math.prod(op.kernel) * math.prod(edge.shape)
    if isinstance(op, Requantise) and (affine := op.affine or half_even(op)) is not None:
        per_channel = digits(affine.m) * graph.edges[op.inputs[0]].bits + 2 * edge.bits
        return float(per_channel.mean() * math.prod(edge.shape))
    return 0.0


def digits(values: np.ndarray) -> np.ndarray:
    """Non-zero digits of each integer in canonical signed digit form: the ones of 3v xor v."""
    magnitude = np.abs(values).astype(np.uint64)
    odd = (3 * magnitude) ^ magnitude
    return np.array([int(v).bit_count() for v in odd.ravel()], np.int64).reshape(odd.shape)
