"""Estimated bits of the adders that da4ml makes of each kind of operation.

A product with a constant is one adder for each non-zero digit of the constant in canonical signed digits, less what
common subexpressions save; da4ml calls the bits of all adders cost. How good the estimates are: estimate.py.
"""

from __future__ import annotations

import math

import numpy as np

from greenedge.graph import Affine, Edge, Linear, MaxPool, SumPool
from greenedge.graph.ops.base import Ints

_ONES = np.array([byte.bit_count() for byte in range(256)], np.uint8)
SHARING = 0.55  # adder bits that are left of the non-zero digits' after common subexpressions


def linear_bits(op: Linear, source: Edge, result: Edge, strides: tuple[int, ...] = ()) -> float:
    """A layer with weights; `strides` are those of a transposed convolution, of whose taps one in a stride is used."""
    width = (source.bits + result.bits) / 2
    vectors = math.prod(result.shape) // op.channels // math.prod(strides)
    return SHARING * width * vectors * int(count_digits(op.weight).sum())


def sum_pool_bits(op: SumPool, result: Edge) -> float:
    return result.bits * math.prod(op.kernel) * math.prod(result.shape)


def max_pool_bits(op: MaxPool, result: Edge) -> float:
    """A comparison and a multiplexer for every value under the window."""
    return 2.0 * result.bits * math.prod(op.kernel) * math.prod(result.shape)


def requantise_bits(affine: Affine, source: Edge, result: Edge) -> float:
    """The multiplication, and clipping at both ends."""
    per_channel = count_digits(affine.m) * source.bits + 2 * result.bits
    return float(per_channel.mean() * math.prod(result.shape))


def count_digits(values: Ints) -> Ints:
    """Non-zero digits of each integer in canonical signed digit form: the ones of 3v xor v."""
    magnitude = np.abs(values).astype(np.uint64)
    odd = np.ascontiguousarray((3 * magnitude) ^ magnitude)
    return _ONES[odd.view(np.uint8).reshape(*odd.shape, 8)].sum(axis=-1, dtype=np.int64)
