"""Integer arithmetic that several operations share: exact products, windows, ranges.

Sums of products go through floating-point matrix multiplication wherever that is exact: float32 while every partial sum
stays below 2**24, float64 below 2**53, integers beyond. The bound is taken from the weights and the input's range.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops.base import Array, Edge, Ints, Range, Shape

EXACT_FLOAT32, EXACT_FLOAT64 = 1 << 24, 1 << 53  # integers below these are exact in float32, in float64
_COUNTABLE = 1 << 62  # ranges of sums are counted in 64 bits


def choose_exact_type(largest_sum: int) -> DTypeLike:
    """The fastest type in which every integer up to `largest_sum` (inclusive) is exact."""
    return np.float32 if largest_sum < EXACT_FLOAT32 else np.float64 if largest_sum < EXACT_FLOAT64 else np.int64


def multiply(x: Array, weight: Array, magnitude: int | None) -> Array:
    """x @ weight for weight (..., K, M): exact for integers |x| <= magnitude; in float64, rounded, where magnitude is
    None."""
    exact = choose_product_type(weight, magnitude)
    product: Array = np.matmul(x.astype(exact, copy=False), weight.astype(exact))
    return product if magnitude is None else product.astype(np.int64)


def choose_product_type(weight: Array, magnitude: int | None) -> DTypeLike:
    """The type in which `multiply` computes: a caller that copies its input may copy it as that."""
    if magnitude is None:
        return np.float64
    return choose_exact_type(magnitude * int(np.abs(weight).sum(axis=-2).max(initial=0)))


def pad_array(x: Array, pads: Sequence[int], value: int) -> Array:
    """x with its trailing len(pads)/2 axes padded by (begin..., end...)."""
    n = len(pads) // 2
    if not any(pads):
        return x
    width = [(0, 0)] * (x.ndim - n) + [(pads[i], pads[n + i]) for i in range(n)]
    return np.pad(x, width, constant_values=value)


def slide_windows(x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """(N, C, *out, *kernel) view of x (N, C, *space)."""
    n = len(kernel)
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=tuple(range(2, 2 + n)))
    view = view[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]
    taps = (slice(None),) * (view.ndim - n)
    return view[(*taps, *(slice(None, None, d) for d in dilations))]


def window_shape(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> Shape:
    """Positions of a window along every spatial axis. Raises Refused for a window larger than the padded input."""
    n = len(kernel)
    out = tuple(
        (size[i] + pads[i] + pads[n + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(n)
    )
    if min(out, default=1) < 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"its window {tuple(kernel)} does not fit {tuple(size)}",
            "the window must fit its padded input",
            "use a smaller kernel or more padding",
        )
    return out


def product_range(weight: Ints | np.int64, low: Ints, high: Ints) -> Range:
    """Smallest and largest weight * x for x in [low, high], element by element."""
    a, b = weight * low, weight * high
    return np.minimum(a, b), np.maximum(a, b)


def sum_range(factors: Sequence[Any], ranges: Sequence[Range]) -> Range:
    """Smallest and largest sum of factor * x; a factor is an integer, or integers that broadcast against the range.

    Raises Refused where the sum may leave 62 bits: it would wrap in the integers that it is counted in.
    """
    reach = sum(_reach(factor) * max(1, *map(_reach, bounds)) for factor, bounds in zip(factors, ranges, strict=True))
    require_countable(reach)
    terms = [product_range(np.asarray(factor, np.int64), *b) for factor, b in zip(factors, ranges, strict=True)]
    low, high = terms[0]
    for more_low, more_high in terms[1:]:
        low, high = low + more_low, high + more_high
    return low, high


def require_countable(reach: int) -> None:
    """Raises Refused for a sum that may reach 2**62 or more."""
    if reach >= _COUNTABLE:
        raise Refused(
            ReasonKind.TOO_WIDE,
            f"its accumulator may reach {reach:,}",
            "accumulators must stay below 2**47",
            "use fewer bits or a smaller fan-in",
        )


def _reach(values: Any) -> int:
    """The largest magnitude of an integer, or of integers."""
    return abs(values) if isinstance(values, int) else int(np.abs(values).max())


def spread_range(bounds: Range, edge: Edge) -> Range:
    """The range at full size along every axis."""
    low, high = (np.broadcast_to(part, edge.shape) for part in bounds)
    return low, high


def channel_range(edge: Edge, bounds: Range, extra: int | None) -> Range:
    """(C,) range of every channel (axis 0), with `extra` (a padding value) included where it is not None."""
    low, high = (np.broadcast_to(part, (edge.shape[0], *part.shape[1:])).reshape(edge.shape[0], -1) for part in bounds)
    low, high = low.min(axis=1), high.max(axis=1)
    return (low, high) if extra is None else (np.minimum(low, extra), np.maximum(high, extra))
