"""A sum of products before it has scales (`Form`), and the operator that it becomes with the quantiser behind it.

The graph has no scales, so they are chosen here: activations take theirs from their encoding, and each channel's
weight scale, bias and whole factor are those with which LiteRT's arithmetic hits every threshold (int8/search.py).
What was proved about each channel goes with the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from greenedge.backends.int8.arithmetic import INT8_MAX, Float32s
from greenedge.backends.int8.layers import FittedLayer, fit_layer, prove_multiple
from greenedge.backends.int8.quant_params import Encoding, common_range, encode
from greenedge.backends.int8.tflite.builder import Placed, TfliteBuilder
from greenedge.backends.int8.tflite.flatbuffer import Quantisation
from greenedge.backends.int8.tflite.layout import Layout
from greenedge.graph import Edge, Op, Requantise
from greenedge.graph.lines import identity_step
from greenedge.graph.ops.base import Ints

INT4_MAX = 7
_INT4_VERSION = 12  # of FULLY_CONNECTED: the first whose weights may be int4


@dataclass(frozen=True, eq=False)
class Form:
    """One operator before its channels have scales: weights (int64, in the file's order) with the output channel on
    `axis`.

    `layout` is the one the edge gets, `written` the one in which the operator writes, where it is another; a `crop`
    says at which (row, column) of what is written the edge begins.
    """

    operator: str
    version: int
    weight: Ints
    axis: int
    source: Placed
    layout: Layout
    written: Layout | None = None
    options: dict[str, Any] = field(default_factory=dict)
    crop: tuple[int, int] | None = None


def quantise(b: TfliteBuilder, form: Form, step: Requantise, name: str, code: Encoding | None = None) -> None:
    """Chooses scales and writes the operator of `form` with the quantiser `step` behind it, into `code` where it is
    given."""
    b.placed[step.output] = write_operator(b, form, step, b.encode_step(step) if code is None else code, name)


def write_operator(b: TfliteBuilder, form: Form, step: Requantise, code: Encoding, name: str) -> Placed:
    """As `quantise`; says where the result is."""
    weight = np.moveaxis(form.weight, form.axis, 0)
    # XNNPACK (in LiteRT 2.3) is a level off now and then where rows of int4 end in the middle of a byte.
    is_narrow = (
        b.int4
        and form.operator == "FULLY_CONNECTED"
        and form.weight.shape[1] % 2 == 0
        and np.abs(form.weight).max(initial=0) <= INT4_MAX
    )
    rows, largest = weight.reshape(len(weight), -1), INT4_MAX if is_narrow else INT8_MAX
    fitted = fit_layer(form.operator, name, step, rows, form.source.code, code, largest, b.all_sets)
    if fitted.lift > 1:
        form = replace(form, source=_lift(b, form.source, fitted))
    b.layers.append(fitted.layer)
    stored = np.moveaxis(fitted.weight.reshape(weight.shape), 0, form.axis)
    quantisation = Quantisation(_floats(fitted.scale), 0, form.axis)
    if is_narrow:
        w = b.writer.pack_int4(f"{step.output}/weight", stored, quantisation)
        form = replace(form, version=max(form.version, _INT4_VERSION))
    else:
        w = b.writer.constant(f"{step.output}/weight", stored.astype(np.int8), quantisation)
    return _write_form(b, form, code, w, fitted.bias, fitted.scale, step.output)


def _lift(b: TfliteBuilder, placed: Placed, fitted: FittedLayer) -> Placed:
    """The tensor with its levels multiplied, for an operator that needs finer accumulators; written once for all that
    do."""
    if placed.tensor not in b.lifted:
        name = f"{fitted.layer.edge}/input"
        edge = Edge(name, placed.layout.shape, placed.code.lo, placed.code.hi)
        layer = prove_multiple(name, edge, placed.code, fitted.lift, fitted.source)
        assert layer is not None, "whole multiples within int8 are exact in both arithmetics"
        b.layers.append(layer)
        b.lifted[placed.tensor] = b.tensor(name, placed.layout, fitted.source)
        b.writer.operator("QUANTIZE", [placed.tensor], [b.lifted[placed.tensor].tensor], 2)
    return b.lifted[placed.tensor]


def _write_form(
    b: TfliteBuilder, form: Form, code: Encoding, w: int, bias: Ints, scales: Float32s, edge: str
) -> Placed:
    si = np.float32(form.source.code.scale)
    target = (
        b.tensor(edge, form.layout, code) if form.written is None else b.tensor(f"{edge}/written", form.written, code)
    )
    bias_tensor = b.writer.constant(f"{edge}/bias", bias.astype(np.int32), Quantisation(_floats(scales * si)))
    inputs = (form.source.tensor, w, bias_tensor)
    write_sum_operator(b, form, inputs, target.tensor, target.layout.file, edge, code.activation)
    return place_result(b, form, target, edge)


def write_sum_operator(
    b: TfliteBuilder,
    form: Form,
    inputs: tuple[int, int, int],
    target: int,
    shape: tuple[int, ...],
    edge: str,
    activation: str = "NONE",
) -> None:
    """The operator of `form` on (source, weight, bias); it writes the tensor `target` of the file's `shape`."""
    source, weight, bias = inputs
    version, options, is_transposed = form.version, dict(form.options), form.operator == "TRANSPOSE_CONV"
    if not is_transposed or activation != "NONE":
        options["fusedActivationFunction"] = activation
        version = max(version, 4) if is_transposed else version
    leading = [b.constant(f"{edge}/shape", shape), weight, source] if is_transposed else [source, weight]
    b.writer.operator(form.operator, [*leading, bias], [target], version, **options)


def place_result(b: TfliteBuilder, form: Form, target: Placed, edge: str) -> Placed:
    """What the operator of `form` has written, in the layout that the edge gets."""
    if form.written is None:
        return target
    if form.crop is None:
        return b.copy_as(target, form.layout, edge)
    result = b.tensor(edge, form.layout, target.code)
    begin = b.constant(f"{edge}/begin", [0, *form.crop, 0])
    size = b.constant(f"{edge}/size", form.layout.file)
    b.writer.operator("SLICE", [target.tensor, begin, size], [result.tensor], 2)
    return result


def _floats(values: Float32s) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def window_options(strides: Sequence[int], dilations: Sequence[int], padding: str) -> dict[str, Any]:
    """The options that all windowed operators have."""
    (stride_h, stride_w), (dilation_h, dilation_w) = pair(strides), pair(dilations)
    return {
        "strideH": stride_h,
        "strideW": stride_w,
        "dilationHFactor": dilation_h,
        "dilationWFactor": dilation_w,
        "padding": padding,
    }


def pair(values: Sequence[int], first: int = 1) -> tuple[int, int]:
    """(height, width) of values over one or two spatial axes; along its height a signal has `first`."""
    height, width = (first, *values) if len(values) == 1 else values
    return height, width


def flatten_to_rows(b: TfliteBuilder, placed: Placed, name: str) -> Placed:
    """The same bytes as (1, 1, N, C), C the last axis of the file."""
    last = placed.layout.file[-1]
    rows = replace(placed.layout, file=(1, 1, int(np.prod(placed.layout.file)) // last, last))
    return placed if placed.layout == rows else b.copy_as(placed, rows, f"{name}/rows")


def requantise_form(b: TfliteBuilder, placed: Placed, name: str) -> Form:
    """Stored levels requantised without a sum: a depthwise convolution of 1x1 with ones."""
    rows = flatten_to_rows(b, placed, name)
    options = {**window_options((1, 1), (1, 1), "VALID"), "depthMultiplier": 1}
    weight = np.ones((1, 1, 1, rows.layout.file[-1]), np.int64)
    return Form("DEPTHWISE_CONV_2D", 3, weight, 3, rows, placed.layout, rows.layout, options)


def unify_encodings(b: TfliteBuilder, parts: Sequence[Placed], op: Op) -> list[Placed]:
    """The parts in one encoding: where theirs differ, those that do not have the common one are written again."""
    if all(part.code.is_like(parts[0].code) for part in parts):
        lowest = min(part.code.lo for part in parts)  # is_like does not look at it: the tops are the same
        return [replace(part, code=replace(part.code, lo=lowest)) for part in parts]
    common = encode(*common_range([part.code for part in parts]))
    result = []
    for part, edge in zip(parts, op.inputs, strict=True):
        if not part.code.is_like(common):
            name = f"{op.name}/{edge}"
            about = Edge(edge, part.layout.shape, part.code.lo, part.code.hi)
            part = write_operator(b, requantise_form(b, part, name), identity_step(about, name), common, name)
        result.append(part)
    return result
