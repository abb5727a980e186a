"""Whole numbers in float32, multiplied and rounded to levels by QuantizeLinear."""

from __future__ import annotations

import numpy as np

from greenedge.backends.int8.arithmetic import Float32s
from greenedge.backends.int8.layers import FittedLayer
from greenedge.backends.int8.onnxruntime.onnx_builder import SHIFT, OnnxBuilder, encode_levels
from greenedge.backends.int8.quant_params import Encoding
from greenedge.graph import Requantise
from greenedge.graph.ops.base import Ints


def fit_elementwise(
    b: OnnxBuilder, step: Requantise, name: str, code: Encoding, rank: int
) -> tuple[FittedLayer, list[int]]:
    """The factor, bias and scale of each channel, and the shape in which they broadcast against `rank` axes and the
    batch. What is rounded is the sum itself, in whole numbers of float32: there is no input to be taken multiplied."""
    ones = np.ones((step.channels, 1), np.int64)
    fitted = b.fit("QuantizeLinear", name, step, ones, encode_levels(0, 0), code, liftable=False)
    shape = [1] * (rank + 1)
    shape[step.axis + 1] = -1
    return fitted, shape


def write_rounding(
    b: OnnxBuilder, edge: str, total: str, bias: Ints, scale: Float32s, code: Encoding, written: str
) -> None:
    """(total + bias) * scale, to the nearest level."""
    total = b.node("Add", [total, b.constant(f"{edge}/bias", bias)], f"{edge}/acc")
    total = b.node("Mul", [total, b.constant(f"{edge}/scale", scale)], f"{edge}/real")
    one, zero = b.constant(f"{edge}/one", 1.0), b.constant(f"{edge}/zero", code.zero_point + SHIFT, np.uint8)
    b.node("QuantizeLinear", [total, one, zero], written)
