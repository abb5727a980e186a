"""Sums of more than 8 bits as they are: MatMulInteger and ConvInteger, whose outputs are int32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from greenedge.backends.int8.layers import exact_layer
from greenedge.backends.int8.onnxruntime.onnx_builder import SHIFT, OnnxBuilder, find_stored_offset
from greenedge.backends.int8.quant_params import encode_wide
from greenedge.graph import Op
from greenedge.graph.ops.base import Ints

KERNELS = ("mlas",)


def accumulate(
    b: OnnxBuilder, operator: str, op: Op, tensor: str, weight: Ints, weight_sums: Ints, **attributes: Any
) -> None:
    """Writes the sums of products with `tensor`, which is stored as the input of `op` is; `weight_sums` broadcast
    against an output without its batch.

    The weights are uint8: x86's fast products of uint8 with int8 add up pairs in 16 bits, where they saturate. The
    operator takes the zero point from what is stored, and so pads with it; what that leaves out is added.
    """
    source, edge = b.codes[op.inputs[0]], b.graph.edges[op.output]
    zero = max(0, -int(weight.min(initial=0)))
    inputs = [
        tensor,
        b.constant(f"{edge.name}/weights", weight + zero, np.uint8),
        b.constant(f"{edge.name}/x_zero_point", source.zero_point + SHIFT, np.uint8),
        b.constant(f"{edge.name}/weight_zero_point", zero, np.uint8),
    ]
    bias = source.zero_level * weight_sums
    if not bias.any():
        b.node(operator, inputs, edge.name, **attributes)
    else:
        total = b.node(operator, inputs, f"{edge.name}/total", **attributes)
        b.node("Add", [total, b.constant(f"{edge.name}/more", bias, np.int32)], edge.name)
    _note(b, op, operator, weight_sums.size)


def accumulate_terms(b: OnnxBuilder, op: Op, multipliers: Sequence[int | Ints]) -> None:
    """Writes the sum of multiplier * level of the inputs; a multiplier may broadcast against its input without its
    batch."""
    edge, total = op.output, ""
    for k, (source, multiplier) in enumerate(zip(op.inputs, multipliers, strict=True)):
        term = cast_to_int32(b, source, 0, f"{edge}/term{k}")
        if np.any(multiplier != 1):
            factor = b.constant(f"{edge}/multiplier{k}", multiplier, np.int32)
            term = b.node("Mul", [term, factor], f"{edge}/weighted{k}")
        is_last = k + 1 == len(op.inputs)
        total = term if not total else b.node("Add", [total, term], edge if is_last else f"{edge}/until{k}")
    _note(b, op, "Add", 1)


def cast_to_int32(b: OnnxBuilder, source: str, zero: int, name: str) -> str:
    """level - zero of what is stored."""
    wide = b.node("Cast", [source], f"{name}/cast", to=6)
    offset = zero + find_stored_offset(b.codes[source])
    return b.node("Sub", [wide, b.constant(f"{name}/offset", offset, np.int32)], f"{name}/level")


def _note(b: OnnxBuilder, op: Op, operator: str, channels: int) -> None:
    """How the edge is stored, and the proof."""
    edge = b.graph.edges[op.output]
    b.codes[edge.name] = encode_wide(edge.lo, edge.hi)
    b.layers.append(exact_layer(op.name, edge, operator, channels, KERNELS))


def accumulate_product(b: OnnxBuilder, op: Op, zeros: Sequence[int]) -> None:
    """Writes the product of (level - zero) of the two inputs."""
    factors = [
        cast_to_int32(b, source, zero, f"{op.output}/factor{k}")
        for k, (source, zero) in enumerate(zip(op.inputs, zeros, strict=True))
    ]
    b.node("Mul", factors, op.output)
    _note(b, op, "Mul", 1)
