"""The calls of fast kernels: their streams and records, in the words of ge_fast.h."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from greenedge.backends.c99.code_builder import CodeBuilder
from greenedge.backends.c99.fast_forms import (
    FastForm,
    order_of_taps,
    pack_stream,
    pack_words,
    plane_sizes,
    tabulate_codes,
)
from greenedge.backends.c99.initialisers import describe_geometry
from greenedge.backends.c99.scaling import Scaling
from greenedge.graph import Add, Conv, Dense, MaxPool, Requantise, SumPool
from greenedge.graph.ops.base import Ints


def write_fast_call(b: CodeBuilder, form: FastForm) -> None:
    """The constants and the statement of the current call."""
    _WRITERS[form.kernel](b, form, b.call.op)


def _write_conv(b: CodeBuilder, form: FastForm, op: Conv) -> None:
    scaling = _scaling_of(form)
    in_c, out_c = b.source(op).shape[0], op.channels
    order = order_of_taps(form, in_c // op.groups, plane_sizes(op.kernel, 1))
    flat, per_out = op.weight.reshape(out_c, -1), out_c // op.groups
    streams = [
        pack_stream(flat[c : c + per_out], order, _select(scaling, c, per_out)) for c in range(0, out_c, per_out)
    ]
    fields: dict[str, object] = {"in_c": in_c // op.groups, "out_c": per_out}
    fields |= describe_geometry(b, op, op.kernel, op.strides, op.dilations, op.pads)
    fields |= {"groups": op.groups, "pad": op.pad_value - b.offset(op.inputs[0])}
    fields |= {"range": scaling.range, "stream": _write_stream(b, np.concatenate(streams))}
    b.text.record("ge_fast_conv_layer", b.name, fields)
    _add_statement(b, form)


def _write_dense(b: CodeBuilder, form: FastForm, op: Dense) -> None:
    scaling = _scaling_of(form)
    k, m = op.weight.shape
    stream = pack_stream(op.weight.T, [*range(k), *[-1] * (-k % 4)], scaling)
    fields: dict[str, object] = {
        "vectors": int(np.prod(b.source(op).shape[:-1], dtype=np.int64)),
        "k": k,
        "m": m,
        "range": scaling.range,
        "stream": _write_stream(b, stream),
    }
    b.text.record("ge_fast_dense_layer", b.name, fields)
    _add_statement(b, form)


def _write_depthwise(b: CodeBuilder, form: FastForm, op: Conv) -> None:
    scaling = _scaling_of(form)
    (channels, *size), out = b.source(op).shape, b.graph.edges[op.output].shape[1:]
    words: list[Ints] = []
    for c in range(channels):
        rows = np.zeros((3, 4), np.int64)
        rows[:, :3] = op.weight[c, 0] << scaling.doublings[c]
        words += [np.array(scaling.words(c), np.int64), pack_words(rows.reshape(-1))]
    fields: dict[str, object] = {
        "channels": channels,
        "in_h": size[0],
        "in_w": size[1],
        "out_h": out[0],
        "out_w": out[1],
        "stride_h": op.strides[0],
        "stride_w": op.strides[1],
        "pad_top": op.pads[0],
        "pad_left": op.pads[1],
        "plane_h": form.plane[0],
        "plane_w": form.plane[1],
        "pad": op.pad_value - b.offset(op.inputs[0]),
        "range": scaling.range,
        "stream": _write_stream(b, np.concatenate(words)),
    }
    b.text.record("ge_fast_depthwise_layer", b.name, fields)
    _add_statement(b, form)


def _write_mean(b: CodeBuilder, form: FastForm, op: SumPool) -> None:
    scaling = _scaling_of(form)
    shape = b.source(op).shape
    stream = np.array([scaling.words(c) for c in range(shape[0])], np.int64)
    fields: dict[str, object] = {
        "channels": shape[0],
        "area": int(np.prod(shape[1:], dtype=np.int64)),
        "range": scaling.range,
        "stream": _write_stream(b, stream),
    }
    b.text.record("ge_fast_mean_layer", b.name, fields)
    _add_statement(b, form)


def _write_max(b: CodeBuilder, form: FastForm, op: MaxPool) -> None:
    edge = b.source(op)
    fields: dict[str, object] = {"channels": edge.shape[0]}
    fields |= describe_geometry(b, op, op.kernel, op.strides, op.steps, op.pads)
    fields |= {"lowest": edge.lo - b.offset(op.inputs[0])}
    b.text.record("ge_fast_max_layer", b.name, fields)
    _add_statement(b, form)


def _write_sum(b: CodeBuilder, form: FastForm, op: SumPool) -> None:
    channels, *size = b.source(op).shape
    area = int(np.prod(size, dtype=np.int64))
    result = b.place(op.output)
    result = f"(int32_t *)(void *)({result})" if result.startswith("arena") else result
    bias = area * b.offset(op.inputs[0])
    b.text.statements.append(f"ge_fast_sum({channels}, {area}, {bias}, {_cast(b.place(op.inputs[0]))}, {result});")


def _write_add(b: CodeBuilder, form: FastForm, op: Add) -> None:
    scaling = _scaling_of(form)
    factors = [int(v) << scaling.doublings[0] for v in op.multipliers]
    fields: dict[str, object] = {
        "size": int(np.prod(b.graph.edges[op.output].shape, dtype=np.int64)),
        "factor": "{" + ", ".join(map(str, factors)) + "}",
        "step": "{" + ", ".join(map(_word, scaling.words(0))) + "}",
        "range": scaling.range,
    }
    b.text.record("ge_fast_add_layer", b.name, fields)
    _add_statement(b, form)


def _write_map(b: CodeBuilder, form: FastForm, op: Requantise) -> None:
    codes = b.program.codes
    table = b.text.array("int8_t", f"{b.name}_table", tabulate_codes(op, codes[op.inputs[0]], codes[b.call.output]))
    size = int(np.prod(b.graph.edges[op.output].shape, dtype=np.int64))
    b.text.statements.append(
        f"ge_fast_map({size}, {table}, {_cast(b.place(op.inputs[0]))}, {_cast(b.place(op.output), False)});"
    )


def _add_statement(b: CodeBuilder, form: FastForm) -> None:
    """kernel(&layer, sources, result, scratch)."""
    sources = [_cast(b.place(edge)) for edge in b.call.op.inputs]
    words = [f"&{b.name}", *sources, _cast(b.place(b.call.output), False), *([b.scratch] if form.scratch_bytes else [])]
    b.text.statements.append(f"ge_fast_{form.kernel}({', '.join(words)});")


def _cast(place: str, constant: bool = True) -> str:
    """A place as a pointer to codes: the arena's is one to uint8_t, a parameter's is right already."""
    return f"({'const ' if constant else ''}int8_t *)({place})" if place.startswith("arena") else place


def _write_stream(b: CodeBuilder, words: Ints) -> str:
    return b.text.array("int32_t", f"{b.name}_stream", words)


def _word(value: int) -> str:
    return str(value) if value != -(1 << 31) else "INT32_MIN"


def _scaling_of(form: FastForm) -> Scaling:
    assert form.scaling is not None, form.kernel
    return form.scaling


def _select(scaling: Scaling, first: int, count: int) -> Scaling:
    """The scaling of some channels."""
    part = slice(first, first + count)
    return Scaling(scaling.m[part], scaling.b[part], scaling.doublings[part], scaling.shift, scaling.lo, scaling.hi)


_WRITERS: dict[str, Callable[[CodeBuilder, FastForm, Any], None]] = {
    "conv": _write_conv,
    "conv_1x1": _write_conv,
    "conv_3x3": _write_conv,
    "dense": _write_dense,
    "depthwise": _write_depthwise,
    "mean": _write_mean,
    "max": _write_max,
    "sum": _write_sum,
    "add": _write_add,
    "map": _write_map,
}
