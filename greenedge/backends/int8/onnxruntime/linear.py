"""Rules of the sums of products: QGemm and QLinearConv, each with the quantiser behind it.

Everything lies in the graph's own order, the batch first and free. Factors, scales and biases are those with which ONNX
Runtime's arithmetic hits every threshold (int8/search.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from greenedge.backends.int8.arithmetic import INT8_MAX, INT8_MIN
from greenedge.backends.int8.onnxruntime.accumulators import accumulate
from greenedge.backends.int8.onnxruntime.onnx_builder import CONTRIB, RULES, RUNTIME, OnnxBuilder
from greenedge.backends.int8.quant_params import LEVELS, Encoding
from greenedge.backends.int8.requirements import require_pad_level, require_readers, require_weights
from greenedge.graph import Conv, ConvTranspose, Dense, Op, Requantise, SumPool
from greenedge.graph.ops.base import Ints


@RULES.lowers(Dense)
def dense(b: OnnxBuilder, op: Dense) -> None:
    """QGemm; inputs of several rows are flattened around it. MatMulInteger where the sums themselves are stored."""
    require_readers(b, op)
    require_weights(b, op, RUNTIME, unsigned=True)
    b.channel_axes[op.output] = (len(b.graph.edges[op.output].shape) - 1,)
    b.begin_emission()
    b.write_sum(
        op,
        lambda step: b.quantise(step, lambda code, written: _write_gemm(b, op, step, code, written)),
        lambda: accumulate(b, "MatMulInteger", op, op.inputs[0], op.weight, op.weight.sum(axis=0)),
    )


def _write_gemm(b: OnnxBuilder, op: Dense, step: Requantise, code: Encoding, written: str) -> None:
    source, edge, tensor = b.codes[op.inputs[0]], step.output, op.inputs[0]
    fitted = b.fit("QGemm", op.name, step, op.weight.T, source, code)
    tensor = b.lift(tensor, source, fitted)
    x, y = b.scale_and_zero(edge, "x", fitted.source), b.scale_and_zero(edge, "y", code)
    w = _write_weights(b, edge, fitted.weight.T, fitted.scale)
    shape = b.graph.edges[op.output].shape
    has_rows = len(shape) > 1
    if has_rows:
        tensor = b.reshape(tensor, [-1, len(op.weight)], f"{edge}/rows", f"{edge}/in_rows")
    bias = b.constant(f"{edge}/bias", fitted.bias, np.int32)
    b.node("QGemm", [tensor, *x, *w, bias, *y], f"{written}/out_rows" if has_rows else written, CONTRIB)
    if has_rows:
        b.reshape(f"{written}/out_rows", [-1, *shape], f"{edge}/shape", written)


def _write_weights(b: OnnxBuilder, edge: str, weight: Ints, scale: np.ndarray) -> list[str]:
    """As int8 with the zero point 0; as uint8 where int8 does not hold them."""
    low = int(weight.min(initial=0))
    is_int8 = low >= INT8_MIN and weight.max(initial=0) <= INT8_MAX
    zero, kind = (0, np.int8) if is_int8 else (-low, np.uint8)
    return [
        b.constant(f"{edge}/weight", weight + zero, kind),
        b.constant(f"{edge}/weight_scale", scale),
        b.constant(f"{edge}/weight_zero", np.full(len(scale), zero), kind),
    ]


@RULES.lowers(Conv)
def conv(b: OnnxBuilder, op: Conv) -> None:
    """QLinearConv; ConvInteger where the sums themselves are stored."""
    require_readers(b, op)
    require_weights(b, op, RUNTIME, unsigned=True)
    if any(op.pads):
        require_pad_level(b, op, op.pad_value)
    b.channel_axes[op.output] = (0,)
    b.begin_emission()
    _write_window_sum(b, op, op.weight, dilations=list(op.dilations), group=op.groups)


@RULES.lowers(SumPool)
def sum_pool(b: OnnxBuilder, op: SumPool) -> None:
    """A depthwise convolution with weights of one."""
    require_readers(b, op)
    if any(op.pads):
        require_pad_level(b, op, op.pad_value)
    b.channel_axes[op.output] = (0,)
    b.begin_emission()
    ones = op.as_depthwise(b.graph.edges[op.inputs[0]].shape[0])
    _write_window_sum(b, op, ones.weight, group=ones.groups)


def _write_window_sum(b: OnnxBuilder, op: Conv | SumPool, weight: Ints, **attributes: Any) -> None:
    """QLinearConv pads with the zero point; another level is padded first."""

    def window(name: str) -> tuple[str, dict[str, Any]]:
        source, tensor, pads = b.codes[op.inputs[0]], op.inputs[0], list(op.pads)
        if any(pads) and op.pad_value != source.zero_level:
            tensor = b.pad(tensor, pads, op.pad_value + source.offset, f"{name}/padded")
            pads = [0] * len(pads)
        return tensor, {"strides": list(op.strides), "pads": pads, **attributes}

    def write(step: Requantise, code: Encoding, written: str) -> None:
        tensor, more = window(step.output)
        _write_convolution(b, tensor, b.codes[op.inputs[0]], weight, op.name, step, code, written, **more)

    def write_sums() -> None:
        tensor, more = window(op.output)
        _accumulate_convolution(b, op, tensor, weight, **more)

    b.write_sum(op, lambda step: b.quantise(step, lambda code, written: write(step, code, written)), write_sums)


def _accumulate_convolution(b: OnnxBuilder, op: Op, tensor: str, weight: Ints, **attributes: Any) -> None:
    """ConvInteger with weights (O, I/groups, *kernel)."""
    total = weight.sum(axis=tuple(range(1, weight.ndim))).reshape(-1, *[1] * (weight.ndim - 2))
    accumulate(b, "ConvInteger", op, tensor, weight, total, kernel_shape=list(weight.shape[2:]), **attributes)


def _write_convolution(
    b: OnnxBuilder,
    tensor: str,
    source: Encoding,
    weight: Ints,
    name: str,
    step: Requantise,
    code: Encoding,
    written: str,
    liftable: bool = True,
    **attributes: Any,
) -> None:
    """QLinearConv with weights (O, I/groups, *kernel)."""
    edge = step.output
    fitted = b.fit("QLinearConv", name, step, weight.reshape(len(weight), -1), source, code, liftable)
    tensor = b.lift(tensor, source, fitted)
    x, y = b.scale_and_zero(edge, "x", fitted.source), b.scale_and_zero(edge, "y", code)
    w = _write_weights(b, edge, fitted.weight.reshape(weight.shape), fitted.scale)
    inputs = [tensor, *x, *w, *y, b.constant(f"{edge}/bias", fitted.bias, np.int32)]
    b.node("QLinearConv", inputs, written, kernel_shape=list(weight.shape[2:]), **attributes)


@RULES.lowers(ConvTranspose)
def conv_transpose(b: OnnxBuilder, op: ConvTranspose) -> None:
    """Zeros between the samples, then a convolution with the kernel reversed along every axis."""
    require_readers(b, op)
    require_weights(b, op, RUNTIME, unsigned=True)
    edge = b.graph.edges[op.inputs[0]]
    b.require(
        edge.levels > LEVELS + 1 or INT8_MIN <= INT8_MAX - edge.hi <= INT8_MAX,
        f"an input of {edge.lo}…{edge.hi}",
        "the zeros between its samples are no int8 there",
        "let the quantiser's levels include 0",
    )
    b.channel_axes[op.output] = (0,)
    b.begin_emission()
    b.write_sum(
        op,
        lambda step: b.quantise(step, lambda code, written: _write_conv_transpose(b, op, step, code, written)),
        lambda: _accumulate_conv_transpose(b, op),
    )


def _write_conv_transpose(b: OnnxBuilder, op: ConvTranspose, step: Requantise, code: Encoding, written: str) -> None:
    source = b.codes[op.inputs[0]]
    tensor, weight, more = _as_convolution(b, op, step.output)
    # Level 0 lies between the samples; where it is no level of the input, int8 has no room for it multiplied.
    liftable = source.lo <= 0 <= source.hi
    _write_convolution(b, tensor, source, weight, op.name, step, code, written, liftable, **more)


def _accumulate_conv_transpose(b: OnnxBuilder, op: ConvTranspose) -> None:
    """The sums as int32."""
    tensor, weight, more = _as_convolution(b, op, op.output)
    _accumulate_convolution(b, op, tensor, weight, **more)


def _as_convolution(b: OnnxBuilder, op: ConvTranspose, edge: str) -> tuple[str, Ints, dict[str, Any]]:
    """The input with zeros between and around its samples, and the weights and attributes of the convolution over
    it."""
    source, n = b.codes[op.inputs[0]], len(op.strides)
    tensor = _spread_samples(b, op, edge)
    reach = [(k - 1) * d for k, d in zip(op.kernel, op.dilations, strict=True)]
    begin = [r - p for r, p in zip(reach, op.pads[:n], strict=True)]
    end = [r - p + o - (s - 1) for r, p, o, s in zip(reach, op.pads[n:], op.output_padding, op.strides, strict=True)]
    tensor = b.pad(tensor, [*begin, *end], source.offset, f"{edge}/around")
    per_in, per_out = op.weight.shape[0] // op.groups, op.weight.shape[1]
    flipped = op.weight[(slice(None), slice(None), *(slice(None, None, -1) for _ in reach))]
    blocks = flipped.reshape(op.groups, per_in, per_out, *op.kernel).swapaxes(1, 2)
    weight = blocks.reshape(-1, per_in, *op.kernel)
    return tensor, weight, {"dilations": list(op.dilations), "group": op.groups}


def _spread_samples(b: OnnxBuilder, op: ConvTranspose, edge: str) -> str:
    """The input with zeros between its samples: a new axis of length 1 behind each, padded to the stride, and folded
    in."""
    tensor, shape = op.inputs[0], b.graph.edges[op.inputs[0]].shape
    if all(s == 1 for s in op.strides):
        return tensor
    apart = [v for size in shape[1:] for v in (size, 1)]
    tensor = b.reshape(tensor, [0, shape[0], *apart], f"{edge}/apart", f"{edge}/apart_")
    after = [v for s in op.strides for v in (0, s - 1)]
    zero = b.codes[op.inputs[0]].offset  # the int8 of level 0
    tensor = b.pad(tensor, [*[0] * len(after), *after], zero, f"{edge}/zeros", len(after) + 2)
    wide = [size * s for size, s in zip(shape[1:], op.strides, strict=True)]
    return b.reshape(tensor, [0, shape[0], *wide], f"{edge}/wide", f"{edge}/wide_")
