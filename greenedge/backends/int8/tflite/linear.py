"""Operations that sum products, as the LiteRT operator that sums the same products.

Dense → FULLY_CONNECTED; Conv → CONV_2D or DEPTHWISE_CONV_2D; ConvTranspose → TRANSPOSE_CONV. A sum pool is a depthwise
convolution with weights of one, a weighted addition a depthwise convolution across its stacked inputs, and a quantiser
alone a 1x1 one: so their requantisation too is a convolution's, whose arithmetic is known and whose scale and bias are
free for every channel.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from greenedge.backends.int8.tflite.data_movement import (
    Emission,
    Placed,
    as_image,
    as_plain,
    renamed,
    two,
    window_padding,
    write_concat,
)
from greenedge.backends.int8.tflite.layout import Layout, image, plain
from greenedge.graph import Add, Conv, ConvTranspose, Dense, Op, Requantise, SumPool


@dataclass(frozen=True, eq=False)
class Form:
    """One operator before its channels have scales: weights (int64, in the file's order) with the output channel on `axis`.

    `layout` is the one the edge gets, `written` the one in which the operator writes, where it is another; a `crop` says
    at which (row, column) of what is written the edge begins.
    """

    operator: str
    version: int
    weight: np.ndarray
    axis: int
    source: Placed
    layout: Layout
    written: Layout | None = None
    options: dict = field(default_factory=dict)
    crop: tuple[int, int] | None = None


def form_of(em: Emission, op: Op, edge: str) -> Form:
    """The operator for an operation of `FORMS`, to be requantised into `edge`."""
    return FORMS[type(op)](em, op, em.graph.edges[edge].shape)


def _dense(em: Emission, op: Dense, shape) -> Form:
    placed, weight = em.placed[op.inputs[0]], op.weight
    if len(shape) > 1:
        placed = as_plain(em, op.inputs[0])
    elif not placed.layout.natural:
        order = np.arange(len(weight)).reshape(placed.layout.source).transpose(placed.layout.order).reshape(-1)
        weight = weight[order]
    more = {"keepNumDims": True} if len(shape) > 1 else {}
    # Version 5 is the oldest that knows keep_num_dims; LiteRT 2.14 has it, and it takes per-channel scales.
    return Form("FULLY_CONNECTED", 5, weight.T, 0, placed, plain(shape), options=more)


def _conv(em: Emission, op: Conv, shape) -> Form:
    source = as_image(em, op.inputs[0])
    channels, kernel = source.layout.shape[0], op.weight.shape[2:]
    source, padding = window_padding(em, source, op, kernel, op.dilations, op.pad_value)
    weight = op.weight.reshape(*op.weight.shape[:2], *two(kernel))
    depthwise = op.groups == channels and op.groups > 1 and op.weight.shape[1] == 1
    options = _window_options(op.strides, op.dilations, padding)
    if depthwise:
        return Form(
            "DEPTHWISE_CONV_2D",
            3,
            weight.transpose(1, 2, 3, 0),
            3,
            source,
            image(shape),
            options={**options, "depthMultiplier": len(weight) // channels},
        )
    return Form("CONV_2D", 3, weight.transpose(0, 2, 3, 1), 0, source, image(shape), options=options)


def _window_options(strides, dilations, padding: str) -> dict:
    (stride_h, stride_w), (dilation_h, dilation_w) = two(strides), two(dilations)
    return {
        "strideH": stride_h,
        "strideW": stride_w,
        "dilationHFactor": dilation_h,
        "dilationWFactor": dilation_w,
        "padding": padding,
    }


def _sum_pool(em: Emission, op: SumPool, shape) -> Form:
    source, padding = window_padding(em, as_image(em, op.inputs[0]), op, op.kernel, (1,) * len(op.kernel), op.pad_value)
    options = {**_window_options(op.strides, (1,) * len(op.kernel), padding), "depthMultiplier": 1}
    weight = np.ones((1, *two(op.kernel), shape[0]), np.int64)
    return Form("DEPTHWISE_CONV_2D", 3, weight, 3, source, image(shape), options=options)


def _conv_transpose(em: Emission, op: ConvTranspose, shape) -> Form:
    """TFLite cuts as much from the end as from the beginning, and only down to SAME; rows of zeros in the kernel make ONNX's
    cuts equal, and what SAME cannot cut is cut afterwards."""
    source, n = as_image(em, op.inputs[0]), len(op.strides)
    strides = two(op.strides)
    weight = _one_group(op)
    weight = _spread(weight.reshape(*weight.shape[:2], *two(op.weight.shape[2:])), two(op.dilations))
    cuts = list(zip(_padding(op.pads[:n]), (e - o for e, o in zip(_padding(op.pads[n:]), _padding(op.output_padding)))))
    rows = [(max(0, end - begin), max(0, begin - end)) for begin, end in cuts]
    even = np.pad(weight, [(0, 0), (0, 0), *rows])
    total = [2 * max(cut) for cut in cuts]
    layout = image(shape)
    options = {"strideH": strides[0], "strideW": strides[1], "padding": "SAME"}
    if all(1 <= k - t <= s for k, t, s in zip(even.shape[2:], total, strides)):
        return Form("TRANSPOSE_CONV", 3, even.transpose(1, 2, 3, 0), 0, source, layout, options=options)
    longer = np.pad(weight, [(0, 0), (0, 0), *((0, max(0, -end)) for _, end in cuts)])
    full = [(size - 1) * s + k for size, s, k in zip(source.layout.file[1:3], strides, longer.shape[2:])]
    written = replace(layout, file=(1, *full, shape[0]))
    return Form(
        "TRANSPOSE_CONV",
        3,
        longer.transpose(1, 2, 3, 0),
        0,
        source,
        layout,
        written,
        {**options, "padding": "VALID"},
        crop=tuple(begin for begin, _ in cuts),
    )


def _padding(values: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of paddings; a signal has none along its height."""
    return (0, *values) if len(values) == 1 else tuple(values)


def _one_group(op: ConvTranspose) -> np.ndarray:
    """(I, O, *kernel): the groups as blocks of one dense kernel; TFLite knows no groups here."""
    if op.groups == 1:
        return op.weight
    inputs, per_out = op.weight.shape[:2]
    dense = np.zeros((inputs, per_out * op.groups, *op.weight.shape[2:]), np.int64)
    per_in = inputs // op.groups
    for g in range(op.groups):
        dense[g * per_in : (g + 1) * per_in, g * per_out : (g + 1) * per_out] = op.weight[g * per_in : (g + 1) * per_in]
    return dense


def _spread(weight: np.ndarray, dilations: tuple[int, int]) -> np.ndarray:
    """Dilation as zeros in the kernel."""
    if dilations == (1, 1):
        return weight
    height, width = ((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations))
    wide = np.zeros((*weight.shape[:2], height, width), np.int64)
    wide[:, :, :: dilations[0], :: dilations[1]] = weight
    return wide


def by_row(em: Emission, edge: str, step: Requantise) -> Placed:
    """The edge with the axis of the step function's channels last; as it is where one function serves all."""
    placed = em.placed[edge]
    if step.channels == 1:
        return placed
    return as_image(em, edge) if len(placed.layout.shape) > 1 and step.axis == 0 else as_plain(em, edge)


def _rows(em: Emission, placed: Placed, name: str) -> Placed:
    """The same bytes as (1, 1, N, C), C the last axis of the file."""
    last = placed.layout.file[-1]
    rows = replace(placed.layout, file=(1, 1, int(np.prod(placed.layout.file)) // last, last))
    return placed if placed.layout == rows else renamed(em, placed, rows, f"{name}/rows")


def alone(em: Emission, placed: Placed, name: str) -> Form:
    """Stored levels requantised without a sum."""
    rows = _rows(em, placed, name)
    options = {**_window_options((1, 1), (1, 1), "VALID"), "depthMultiplier": 1}
    weight = np.ones((1, 1, 1, rows.layout.file[-1]), np.int64)
    return Form("DEPTHWISE_CONV_2D", 3, weight, 3, rows, placed.layout, rows.layout, options)


def addition(em: Emission, op: Add, parts: list[Placed]) -> Form:
    """`parts` are the inputs in one layout and one encoding; they are stacked, and the kernel reaches across the stack."""
    rows = [_rows(em, part, f"{op.name}/{k}") for k, part in enumerate(parts)]
    _, _, count, last = rows[0].layout.file
    stacked = em.tensor(f"{op.name}/stacked", replace(rows[0].layout, file=(1, len(rows), count, last)), rows[0].code)
    write_concat(em, rows, 1, stacked)
    options = {**_window_options((1, 1), (1, 1), "VALID"), "depthMultiplier": 1}
    weight = np.broadcast_to(np.array(op.multipliers).reshape(1, -1, 1, 1), (1, len(rows), 1, last))
    return Form("DEPTHWISE_CONV_2D", 3, weight, 3, stacked, parts[0].layout, rows[0].layout, options)


FORMS = {Dense: _dense, Conv: _conv, ConvTranspose: _conv_transpose, SumPool: _sum_pool}
