"""The rules of layers that compute: each call's constants and its layer record, in the words of ge_kernels.h."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from greenedge.backends.c99.code_builder import INT32, RULES, CodeBuilder, choose_form
from greenedge.backends.c99.data_movement import Copy, write_copy
from greenedge.backends.c99.fast_forms import plane_sizes
from greenedge.backends.c99.tensor_code import code_of
from greenedge.graph import (
    Add,
    ChannelAdd,
    Conv,
    ConvTranspose,
    Dense,
    Input,
    MaxPool,
    Multiply,
    Op,
    Requantise,
    Reshape,
    SumPool,
)
from greenedge.graph.ops.base import Ints


@RULES.lowers(Input, Reshape)
def no_call(b: CodeBuilder, op: Op) -> None:
    """An input is a parameter, a reshape's output the buffer of its input: neither is a call."""
    b.require_values(op)
    b.begin_emission()


@RULES.lowers(Dense)
def dense(b: CodeBuilder, op: Dense) -> None:
    b.require_products(op)
    b.begin_emission()
    k, m = op.weight.shape
    offset = b.offset(op.inputs[0])
    fields: dict[str, object] = {
        "vectors": int(np.prod(b.source(op).shape[:-1], dtype=np.int64)),
        "k": k,
        "m": m,
        "weight": b.text.array("int8_t", f"{b.name}_w", op.weight.T),
    }
    if offset:
        fields["bias"] = b.text.array("int32_t", f"{b.name}_bias", offset * op.weight.sum(axis=0))
    fields["sink"] = b.sink(b.name, b.call.step)
    b.text.record("ge_dense_layer", b.name, fields)
    b.add_statement("dense")


@RULES.lowers(Conv)
def conv(b: CodeBuilder, op: Conv) -> None:
    b.require_products(op, max(128, abs(op.pad_value - code_of(b.source(op)).offset)))
    b.begin_emission()
    offset = b.offset(op.inputs[0])
    fields = _convolution_fields(b, op) | {"pad": op.pad_value - offset}
    if offset:
        sums = op.weight.reshape(len(op.weight), -1).sum(axis=1)
        fields["bias"] = b.text.array("int32_t", f"{b.name}_bias", offset * sums)
    fields["sink"] = b.sink(b.name, b.call.step)
    b.text.record("ge_conv_layer", b.name, fields)
    b.add_statement("conv")


@RULES.lowers(ConvTranspose)
def conv_transpose(b: CodeBuilder, op: ConvTranspose) -> None:
    b.require_products(op)
    b.begin_emission()
    fields = _convolution_fields(b, op) | {"sink": b.sink(b.name, b.call.step)}
    b.text.record("ge_conv_transpose_layer", b.name, fields)
    b.add_statement("conv_transpose", f", {b.offset(op.inputs[0])}")


def _convolution_fields(b: CodeBuilder, op: Conv | ConvTranspose) -> dict[str, object]:
    return {
        "in_c": b.source(op).shape[0],
        "out_c": b.graph.edges[op.output].shape[0],
        **describe_geometry(b, op, op.kernel, op.strides, op.dilations, op.pads),
        "groups": op.groups,
        "weight": b.text.array("int8_t", f"{b.name}_w", op.weight),
    }


def describe_geometry(
    b: CodeBuilder,
    op: Op,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> dict[str, object]:
    """The fields of a layer's sizes, strides and padding at the top and the left."""
    source, result = b.source(op).shape, b.graph.edges[op.output].shape
    pairs = {
        "in": plane_sizes(source[1:], 1),
        "out": plane_sizes(result[1:], 1),
        "kernel": plane_sizes(kernel, 1),
        "stride": plane_sizes(strides, 1),
        "dilation": plane_sizes(dilations, 1),
    }
    top, left = plane_sizes(pads[: len(kernel)], 0)
    sizes = {f"{key}_{axis}": v for key, pair in pairs.items() for axis, v in zip("hw", pair, strict=True)}
    return {**sizes, "pad_top": top, "pad_left": left}


@RULES.lowers(MaxPool)
def max_pool(b: CodeBuilder, op: MaxPool) -> None:
    b.require_values(op)
    b.begin_emission()
    _write_pool(b, op, op.steps, b.source(op).lo, is_max=True)


@RULES.lowers(SumPool)
def sum_pool(b: CodeBuilder, op: SumPool) -> None:
    b.require_values(op)
    b.begin_emission()
    _write_pool(b, op, (1,) * len(op.kernel), op.pad_value, is_max=False)


def _write_pool(b: CodeBuilder, op: MaxPool | SumPool, dilations: Sequence[int], pad: int, is_max: bool) -> None:
    fields = {
        "channels": b.source(op).shape[0],
        **describe_geometry(b, op, op.kernel, op.strides, dilations, op.pads),
        "max": int(is_max),
        "pad": pad,
        "from": b.code(op.inputs[0]),
        "sink": b.sink(b.name, b.call.step),
    }
    b.text.record("ge_pool_layer", b.name, fields)
    b.add_statement("pool")


@RULES.lowers(Add)
def add(b: CodeBuilder, op: Add) -> None:
    b.require_values(op)
    b.begin_emission()
    _write_add(b, op, np.array(op.multipliers)[:, None], int(np.prod(b.graph.edges[op.output].shape, dtype=np.int64)))


@RULES.lowers(ChannelAdd)
def channel_add(b: CodeBuilder, op: ChannelAdd) -> None:
    """ge_add with a multiplier for each channel."""
    b.require_values(op)
    magnitudes = np.array([edge.magnitude for edge in b.graph.input_edges(op)])
    largest = int((np.abs(op.multipliers) * magnitudes[:, None]).sum(axis=0).max())
    b.require_width(largest <= INT32, f"sums of up to {largest.bit_length() + 1} bits")
    b.begin_emission()
    _write_add(b, op, op.multipliers, int(np.prod(b.graph.edges[op.output].shape[op.axis + 1 :], dtype=np.int64)))


def _write_add(b: CodeBuilder, op: Op, multipliers: Ints, inner: int) -> None:
    """`multipliers` is (inputs, C); the channel changes after `inner` elements."""
    codes = ", ".join(b.code(edge) for edge in op.inputs)
    b.text.constants.append(f"static const ge_code {b.name}_from[{len(op.inputs)}] = {{{codes}}};\n")
    fields = {
        "size": int(np.prod(b.graph.edges[op.output].shape, dtype=np.int64)),
        "terms": len(op.inputs),
        "channels": multipliers.shape[1],
        "inner": inner,
        "multiplier": b.text.array("int32_t", f"{b.name}_multiplier", multipliers),
        "from": f"{b.name}_from",
        "sink": b.sink(b.name, b.call.step),
    }
    b.text.record("ge_add_layer", b.name, fields)
    sources = ", ".join(b.place(edge) for edge in op.inputs)
    b.text.statements.append(
        f"{{ const void *terms[] = {{{sources}}}; ge_add(&{b.name}, terms, {b.place(b.call.output)}); }}"
    )


@RULES.lowers(Multiply)
def multiply(b: CodeBuilder, op: Multiply) -> None:
    b.require_values(op)
    for edge, zero in zip(b.graph.input_edges(op), op.zeros, strict=True):
        b.require_width(max(abs(edge.lo - zero), abs(edge.hi - zero)) <= INT32, f"factors of {edge.bits} bits")
    b.begin_emission()
    shape = b.graph.edges[op.output].shape
    fields = {
        "size": _list(_four(shape, 1)),
        "stride": _list(_list(_four(_strides(edge.shape), 0)) for edge in b.graph.input_edges(op)),
        "zero": _list(op.zeros),
        "from": _list(b.code(edge) for edge in op.inputs),
        "sink": b.sink(b.name, b.call.step),
    }
    b.text.record("ge_multiply_layer", b.name, fields)
    sources = ", ".join(b.place(edge) for edge in op.inputs)
    b.text.statements.append(f"ge_multiply(&{b.name}, {sources}, {b.place(b.call.output)});")


def _strides(shape: Sequence[int]) -> list[int]:
    """Elements from one place to the next along each axis; 0 where there is one place."""
    inner = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
    return [0 if size == 1 else step for size, step in zip(shape, inner, strict=True)]


def _four(values: Sequence[int], fill: int) -> list[int]:
    return [fill] * (4 - len(values)) + [int(value) for value in values]


def _list(values: Iterable[object]) -> str:
    return "{" + ", ".join(map(str, values)) + "}"


@RULES.lowers(Requantise)
def requantise(b: CodeBuilder, op: Requantise) -> None:
    b.require_values(op)
    b.require(
        choose_form(op) is not None,
        "a step function of more than 65,536 entries",
        "it is stored as a table",
        "use a monotone activation such as ReLU",
    )
    b.begin_emission()
    size = int(np.prod(b.graph.edges[b.call.output].shape, dtype=np.int64))
    write_copy(b, b.name, op.inputs[0], Copy((size,), (1,), (1,)), step=op)
