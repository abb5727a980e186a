"""One function (m*x + b) * 2**-shift per channel, as the batch normalisation that computes it exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.backends.hls4ml.layers import LayerBuilder
from greenedge.backends.hls4ml.precision import range_type, scale_type
from greenedge.graph import Edge, Op
from greenedge.graph.ops.base import Floats, Ints

Wide = NDArray[np.object_]  # integers of Python, for products beyond 64 bits


@dataclass(frozen=True)
class Line:
    """(m*x + b) * 2**-shift with m and b (channels,) or (1,) for all, in a result type."""

    m: Wide
    b: Wide
    shift: int
    result: str


def emit_copy(b: LayerBuilder, op: Op, layer: str, source: Edge, part: str) -> str:
    """The output of `layer`, which has the shape and range of `source`, in a layer of its own."""
    line = Line(as_wide([1]), as_wide([0]), 0, range_type(source.lo, source.hi))
    return emit_line(b, op, layer, source, line, part)


def emit_shift(b: LayerBuilder, op: Op, layer: str, source: Edge, by: int, part: str, edge: Edge | None = None) -> str:
    """The output of `layer`, which has the shape and range of `source`, plus `by`."""
    line = Line(as_wide([1]), as_wide([by]), 0, range_type(source.lo + by, source.hi + by))
    return emit_line(b, op, layer, source, line, part, edge)


def emit_line(
    b: LayerBuilder,
    op: Op,
    layer: str,
    source: Edge,
    line: Line,
    part: str,
    edge: Edge | None = None,
    order: Ints | None = None,
) -> str:
    """A batch normalisation of the output of `layer`, which has the shape and range of `source`."""
    is_image, count = len(source.shape) > 1, source.shape[0]
    line = replace(line, m=np.resize(line.m, count), b=np.resize(line.b, count))
    # hls4ml would drop it, and its clipping with it: add half a step, which >> drops
    if (line.m == 1 << line.shift).all() and not line.b.any():
        line = replace(line, m=line.m * 2, b=line.b + 1, shift=line.shift + 1)
    attributes = {
        "n_in": math.prod(source.shape),
        "n_filt": count if is_image else -1,
        "scale_data": _scale(line.m, line.shift),
        "bias_data": _scale(line.b, line.shift),
    }
    precision = {
        "scale": scale_type(line.m, line.shift),
        "bias": scale_type(line.b, line.shift),
        "result": line.result,
    }
    return b.emit("BatchNormalization", (layer,), op, attributes, part, edge, order, precision)


def as_wide(values: Iterable[Any]) -> Wide:
    return np.array([int(v) for v in values], object)


def _scale(values: Wide, shift: int) -> Floats:
    """Each value * 2**-shift, which a double holds (precision.holds)."""
    return np.array([math.ldexp(int(v), -shift) for v in values])
