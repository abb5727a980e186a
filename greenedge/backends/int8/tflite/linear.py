"""Rules of the operations that sum products, as the LiteRT operator that sums the same products.

Dense → FULLY_CONNECTED; Conv → CONV_2D or DEPTHWISE_CONV_2D; ConvTranspose → TRANSPOSE_CONV; a sum pool → MEAN where
that is exact, else a depthwise convolution with weights of one, whose arithmetic is known and whose scale and bias
are free for every channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from greenedge.backends.int8.layers import fit_mean
from greenedge.backends.int8.requirements import require_pad_level, require_weights
from greenedge.backends.int8.tflite.accumulators import accumulate, require_exact_sums
from greenedge.backends.int8.tflite.builder import RULES, RUNTIME, Placed, TfliteBuilder
from greenedge.backends.int8.tflite.layout import image, plain
from greenedge.backends.int8.tflite.padding import choose_padding
from greenedge.backends.int8.tflite.quantise import Form, pair, quantise, window_options
from greenedge.graph import Conv, ConvTranspose, Dense, Requantise, SumPool
from greenedge.graph.ops.base import Ints


@RULES.lowers(Dense)
def dense(b: TfliteBuilder, op: Dense) -> None:
    """FULLY_CONNECTED."""
    require_exact_sums(b, op, op.weight, op.summed_axes)
    require_weights(b, op, RUNTIME)
    shape = b.graph.edges[op.output].shape
    b.announce_sum(op, (len(shape) - 1,))
    b.begin_emission()
    b.write_sum(
        op,
        lambda step: quantise(b, _dense_form(b, op, shape), step, op.name),
        lambda: accumulate(b, _dense_form(b, op, shape), op),
    )


def _dense_form(b: TfliteBuilder, op: Dense, shape: tuple[int, ...]) -> Form:
    placed, weight = b.placed[op.inputs[0]], op.weight
    if len(shape) > 1:
        placed = b.as_plain(op.inputs[0])
    elif not placed.layout.is_natural:
        order = np.arange(len(weight)).reshape(placed.layout.source).transpose(placed.layout.order).reshape(-1)
        weight = weight[order]
    more = {"keepNumDims": True} if len(shape) > 1 else {}
    # Version 5 is the oldest that knows keep_num_dims; LiteRT 2.14 has it, and it takes per-channel scales.
    return Form("FULLY_CONNECTED", 5, weight.T, 0, placed, plain(shape), options=more)


@RULES.lowers(Conv)
def conv(b: TfliteBuilder, op: Conv) -> None:
    """CONV_2D, or DEPTHWISE_CONV_2D."""
    require_exact_sums(b, op, op.weight, op.summed_axes)
    require_weights(b, op, RUNTIME)
    if any(op.pads):
        require_pad_level(b, op, op.pad_value)
    b.announce_sum(op, (0,))
    b.begin_emission()
    b.write_sum(
        op,
        lambda step: quantise(b, _conv_form(b, op), step, op.name),
        lambda: accumulate(b, _conv_form(b, op), op),
    )


def _conv_form(b: TfliteBuilder, op: Conv) -> Form:
    source, layout = b.as_image(op.inputs[0]), image(b.graph.edges[op.output].shape)
    channels = source.layout.shape[0]
    source, padding = choose_padding(b, source, op, op.dilations, op.pad_value)
    weight = op.weight.reshape(*op.weight.shape[:2], *pair(op.kernel))
    options = window_options(op.strides, op.dilations, padding)
    if op.groups == channels and op.is_depthwise:
        options["depthMultiplier"] = len(weight) // channels
        return Form("DEPTHWISE_CONV_2D", 3, weight.transpose(1, 2, 3, 0), 3, source, layout, options=options)
    return Form("CONV_2D", 3, weight.transpose(0, 2, 3, 1), 0, source, layout, options=options)


@RULES.lowers(SumPool)
def sum_pool(b: TfliteBuilder, op: SumPool) -> None:
    """MEAN over whole images where that is exact; else a depthwise convolution with ones."""
    require_exact_sums(b, op, np.ones(op.kernel, np.int64), range(len(op.kernel)))
    if any(op.pads):
        require_pad_level(b, op, op.pad_value)
    b.announce_sum(op, (0,))
    b.begin_emission()

    def write(step: Requantise) -> None:
        mean = _write_mean(b, op, step)
        if mean is not None:
            b.placed[step.output] = mean
        else:
            quantise(b, _sum_pool_form(b, op), step, op.name)

    b.write_sum(op, write, lambda: accumulate(b, _sum_pool_form(b, op), op))


def _write_mean(b: TfliteBuilder, op: SumPool, step: Requantise) -> Placed | None:
    """MEAN over whole images, without a kernel full of ones; None where it is not exact."""
    source, code = b.as_image(op.inputs[0]), b.encode_step(step)
    if tuple(op.kernel) != tuple(source.layout.shape[1:]) or any(op.pads):
        return None
    found = fit_mean(op.name, step, source.code, code, int(np.prod(op.kernel)), b.all_sets)
    if found is None:
        return None
    code, layer = found
    result = b.tensor(step.output, image(b.graph.edges[op.output].shape), code)
    inputs = [source.tensor, b.constant(f"{step.output}/axes", [1, 2])]
    b.writer.operator("MEAN", inputs, [result.tensor], 2, keepDims=True)
    b.layers.append(layer)
    return result


def _sum_pool_form(b: TfliteBuilder, op: SumPool) -> Form:
    shape, ones = b.graph.edges[op.output].shape, (1,) * len(op.kernel)
    source, padding = choose_padding(b, b.as_image(op.inputs[0]), op, ones, op.pad_value)
    options = {**window_options(op.strides, ones, padding), "depthMultiplier": 1}
    weight = np.ones((1, *pair(op.kernel), shape[0]), np.int64)
    return Form("DEPTHWISE_CONV_2D", 3, weight, 3, source, image(shape), options=options)


@RULES.lowers(ConvTranspose)
def conv_transpose(b: TfliteBuilder, op: ConvTranspose) -> None:
    """TRANSPOSE_CONV. What lies between the samples adds nothing, as the zero point does; so that has to stand for
    level 0."""
    require_exact_sums(b, op, op.weight, op.summed_axes)
    require_weights(b, op, RUNTIME)
    edge, code = b.graph.edges[op.inputs[0]], b.encodings.get(op.inputs[0])
    zero = 0 if code is None else code.zero_level  # None: refused where it is made
    b.require(
        zero == 0,
        f"an input of {edge.lo}…{edge.hi}, whose zero point stands for {zero}",
        "LiteRT's transposed convolution takes the zero point for 0",
        "let the quantiser begin at 0, or be symmetric",
    )
    b.announce_sum(op, (0,))
    b.begin_emission()
    b.write_sum(
        op,
        lambda step: quantise(b, _conv_transpose_form(b, op), step, op.name),
        lambda: accumulate(b, _conv_transpose_form(b, op), op),
    )


def _conv_transpose_form(b: TfliteBuilder, op: ConvTranspose) -> Form:
    """TFLite cuts as much from the end as from the beginning, and only down to SAME; rows of zeros in the kernel make
    ONNX's cuts equal, and what SAME cannot cut is cut afterwards. XNNPACK leaves a kernel shorter than its stride to
    LiteRT's own kernels, which round otherwise; zeros behind it make it as long."""
    source, n, shape = b.as_image(op.inputs[0]), len(op.strides), b.graph.edges[op.output].shape
    assert source.code.zero_level == 0, "the check requires it"
    strides = pair(op.strides)
    weight = _merge_groups(op)
    weight = _spread_taps(weight.reshape(*weight.shape[:2], *pair(op.kernel)), pair(op.dilations))
    grown = [max(0, s - k) for s, k in zip(strides, weight.shape[2:], strict=True)]
    weight = np.pad(weight, [(0, 0), (0, 0), *((0, rows) for rows in grown)])
    ends = zip(pair(op.pads[n:], 0), pair(op.output_padding, 0), grown, strict=True)
    cuts = list(zip(pair(op.pads[:n], 0), (e - o + g for e, o, g in ends), strict=True))
    rows = [(max(0, end - begin), max(0, begin - end)) for begin, end in cuts]
    even = np.pad(weight, [(0, 0), (0, 0), *rows])
    total = [2 * max(cut) for cut in cuts]
    layout = image(shape)
    options = {"strideH": strides[0], "strideW": strides[1], "padding": "SAME"}
    if all(1 <= k - t <= s for k, t, s in zip(even.shape[2:], total, strides, strict=True)):
        return Form("TRANSPOSE_CONV", 3, even.transpose(1, 2, 3, 0), 0, source, layout, options=options)
    longer = np.pad(weight, [(0, 0), (0, 0), *((0, max(0, -end)) for _, end in cuts)])
    sizes = zip(source.layout.file[1:3], strides, longer.shape[2:], strict=True)
    written = replace(layout, file=(1, *((size - 1) * s + k for size, s, k in sizes), shape[0]))
    options["padding"] = "VALID"
    crop = (cuts[0][0], cuts[1][0])
    return Form("TRANSPOSE_CONV", 3, longer.transpose(1, 2, 3, 0), 0, source, layout, written, options, crop)


def _merge_groups(op: ConvTranspose) -> Ints:
    """(I, O, *kernel): the groups as blocks of one dense kernel; TFLite knows no groups here."""
    if op.groups == 1:
        return op.weight
    inputs, per_out = op.weight.shape[:2]
    dense = np.zeros((inputs, per_out * op.groups, *op.kernel), np.int64)
    per_in = inputs // op.groups
    for g in range(op.groups):
        dense[g * per_in : (g + 1) * per_in, g * per_out : (g + 1) * per_out] = op.weight[g * per_in : (g + 1) * per_in]
    return dense


def _spread_taps(weight: Ints, dilations: Sequence[int]) -> Ints:
    """Dilation as zeros in the kernel."""
    if tuple(dilations) == (1, 1):
        return weight
    height, width = ((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True))
    wide = np.zeros((*weight.shape[:2], height, width), np.int64)
    wide[:, :, :: dilations[0], :: dilations[1]] = weight
    return wide
