"""The C initialisers of each call: its constants and its layer record, in the words of ge_kernels.h."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from greenedge.backends.c99.memory_plan import Call, Code, Program, form_of
from greenedge.graph import (
    Add,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    DepthToSpace,
    MaxPool,
    Pad,
    Requantise,
    SumPool,
    Transpose,
    Upsample,
)

_DIMS = 6
_PER_LINE = 20


@dataclass
class Text:
    """C text in the making: constants with their size in bytes, and the statements of model_run."""

    constants: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    bytes: int = 0

    def array(self, kind: str, name: str, values: np.ndarray) -> str:
        """A constant array; returns its name."""
        flat = [int(v) for v in np.asarray(values).reshape(-1)]
        suffix = "LL" if kind == "int64_t" else ""
        rows = [
            ", ".join(f"{v}{suffix}" if v != -(1 << 63) else "INT64_MIN" for v in flat[k : k + _PER_LINE])
            for k in range(0, len(flat), _PER_LINE)
        ]
        self.constants.append(f"static const {kind} {name}[{len(flat)}] = {{\n    " + ",\n    ".join(rows) + "};\n")
        self.bytes += len(flat) * int(kind.removesuffix("_t").lstrip("uint")) // 8
        return name

    def record(self, kind: str, name: str, fields: dict[str, object]) -> str:
        """A constant record; returns its name."""
        inner = ", ".join(f".{key} = {value}" for key, value in fields.items())
        self.constants.append(f"static const {kind} {name} = {{{inner}}};\n")
        return name


def write_call(text: Text, program: Program, call: Call, k: int) -> None:
    """Adds call number `k`: constants, record and statement."""
    _WRITERS[type(call.op)](text, program, call, f"l{k}")


def place(program: Program, edge: str) -> str:
    """The C expression of an edge's buffer."""
    buffer = program.buffers[edge]
    return buffer.parameter or f"arena + {buffer.offset}"


def _code(code: Code) -> str:
    return f"{{{int(code.wide)}, {code.offset}}}"


def _sink(text: Text, program: Program, call: Call, name: str, step: Requantise | None) -> str:
    pointer = f"&{_step(text, program, step, name)}" if step else "0"
    return f"{{{_code(program.codes[call.output])}, {pointer}}}"


def _step(text: Text, program: Program, op: Requantise, name: str) -> str:
    shape, channels = program.graph.edges[op.inputs[0]].shape, len(op.x_lo)
    fields: dict[str, object] = {
        "channels": channels,
        "inner": int(np.prod(shape[op.axis + 1 :], dtype=np.int64)),
        "lo": op.lo,
        "hi": op.hi,
    }
    form = form_of(op)
    if form == "affine":
        spread = lambda values: np.broadcast_to(values, (channels,))
        fields |= {
            "m": text.array("int32_t", f"{name}_m", spread(op.affine.m)),
            "b": text.array("int64_t", f"{name}_b", spread(op.affine.b)),
            "s": text.array("uint8_t", f"{name}_s", spread(op.affine.s)),
        }
    elif form == "thresholds":
        fields |= {
            "thresholds": text.array(
                "int32_t",
                f"{name}_thresholds",
                np.broadcast_to(op.require_steps().thresholds, (channels, op.hi - op.lo)),
            ),
            "sign": text.array("int8_t", f"{name}_sign", np.broadcast_to(op.require_steps().sign, (channels,))),
        }
    else:
        fields |= {
            "table": text.array(
                "int16_t",
                f"{name}_table",
                np.broadcast_to(op.require_table().levels, (channels, op.require_table().levels.shape[1])),
            ),
            "first": text.array("int32_t", f"{name}_first", op.x_lo),
            "table_size": op.require_table().levels.shape[1],
        }
    return text.record("ge_step", f"{name}_step", fields)


def _statement(text: Text, program: Program, call: Call, kernel: str, name: str, more: str = "") -> None:
    source, result = (place(program, edge) for edge in (call.op.inputs[0], call.output))
    text.statements.append(f"ge_{kernel}(&{name}{more}, {source}, {result});")


def _dense(text: Text, program: Program, call: Call, name: str) -> None:
    op, graph = call.op, program.graph
    k, m = op.weight.shape
    offset = program.codes[op.inputs[0]].offset
    fields = {
        "vectors": int(np.prod(graph.edges[op.inputs[0]].shape[:-1], dtype=np.int64)),
        "k": k,
        "m": m,
        "weight": text.array("int8_t", f"{name}_w", op.weight.T),
    }
    if offset:
        fields["bias"] = text.array("int32_t", f"{name}_bias", offset * op.weight.sum(axis=0))
    fields["sink"] = _sink(text, program, call, name, call.step)
    text.record("ge_dense_layer", name, fields)
    _statement(text, program, call, "dense", name)


def _planes(values: Iterable[int], missing: int) -> list[int]:
    """Two spatial values; a 1-d layer is an image of one row."""
    values = [int(v) for v in values]
    return values if len(values) == 2 else [missing, *values]


def _geometry(program: Program, call: Call, kernel: tuple[int, ...]) -> dict[str, object]:
    op, graph = call.op, program.graph
    source, result = graph.edges[op.inputs[0]].shape, graph.edges[op.output].shape
    n = len(kernel)
    pairs = {"in": _planes(source[1:], 1), "out": _planes(result[1:], 1)}
    taps = {
        "kernel": _planes(kernel, 1),
        "stride": _planes(op.strides, 1),
        "dilation": _planes(getattr(op, "dilations", ()) or (1,) * n, 1),
    }
    top, left = _planes(op.pads[:n], 0)
    return {
        **{f"{key}_{axis}": v for key, pair in {**pairs, **taps}.items() for axis, v in zip("hw", pair)},
        "pad_top": top,
        "pad_left": left,
    }


def _conv(text: Text, program: Program, call: Call, name: str) -> None:
    op, graph = call.op, program.graph
    offset = program.codes[op.inputs[0]].offset
    turned = isinstance(op, ConvTranspose)
    fields = {
        "in_c": graph.edges[op.inputs[0]].shape[0],
        "out_c": graph.edges[op.output].shape[0],
        **_geometry(program, call, op.weight.shape[2:]),
        "groups": op.groups,
        "weight": text.array("int8_t", f"{name}_w", op.weight),
    }
    if not turned:
        fields["pad"] = op.pad_value - offset
        if offset:
            fields["bias"] = text.array(
                "int32_t", f"{name}_bias", offset * op.weight.reshape(len(op.weight), -1).sum(axis=1)
            )
    fields["sink"] = _sink(text, program, call, name, call.step)
    text.record("ge_conv_transpose_layer" if turned else "ge_conv_layer", name, fields)
    if turned:
        _statement(text, program, call, "conv_transpose", name, f", {offset}")
    else:
        _statement(text, program, call, "conv", name)


def _pool(text: Text, program: Program, call: Call, name: str) -> None:
    op, graph = call.op, program.graph
    largest = isinstance(op, MaxPool)
    source = graph.edges[op.inputs[0]]
    fields = {
        "channels": source.shape[0],
        **_geometry(program, call, op.kernel),
        "max": int(largest),
        "pad": source.lo if largest else op.pad_value,
        "from": _code(program.codes[op.inputs[0]]),
        "sink": _sink(text, program, call, name, call.step),
    }
    text.record("ge_pool_layer", name, fields)
    _statement(text, program, call, "pool", name)


def _add(text: Text, program: Program, call: Call, name: str) -> None:
    op, graph = call.op, program.graph
    codes = ", ".join(_code(program.codes[edge]) for edge in op.inputs)
    text.constants.append(f"static const ge_code {name}_from[{len(op.inputs)}] = {{{codes}}};\n")
    fields = {
        "size": int(np.prod(graph.edges[op.output].shape, dtype=np.int64)),
        "terms": len(op.inputs),
        "multiplier": text.array("int32_t", f"{name}_multiplier", np.array(op.multipliers)),
        "from": f"{name}_from",
        "sink": _sink(text, program, call, name, call.step),
    }
    text.record("ge_add_layer", name, fields)
    sources = ", ".join(place(program, edge) for edge in op.inputs)
    text.statements.append(
        f"{{ const void *terms[] = {{{sources}}}; ge_add(&{name}, terms, {place(program, call.output)}); }}"
    )


def _row_major(shape: tuple[int, ...]) -> list[int]:
    return [int(np.prod(shape[k + 1 :], dtype=np.int64)) for k in range(len(shape))]


def _copy(
    text: Text,
    program: Program,
    call: Call,
    name: str,
    size,
    from_stride,
    to_stride,
    to_start=0,
    source=None,
    step: Requantise | None = None,
) -> None:
    """One strided copy of `source` (the operation's first input if None) into the call's output."""
    source = source or call.op.inputs[0]
    lines = {
        key: [fill] * (_DIMS - len(values)) + [int(v) for v in values]
        for key, values, fill in (("size", size, 1), ("from_stride", from_stride, 0), ("to_stride", to_stride, 0))
    }
    fields = {
        **{key: "{" + ", ".join(map(str, values)) + "}" for key, values in lines.items()},
        "to_start": to_start,
        "from": _code(program.codes[source]),
        "sink": _sink(text, program, call, name, step),
    }
    text.record("ge_copy_layer", name, fields)
    text.statements.append(f"ge_copy(&{name}, {place(program, source)}, {place(program, call.output)});")


def _step_alone(text: Text, program: Program, call: Call, name: str) -> None:
    size = int(np.prod(program.graph.edges[call.output].shape, dtype=np.int64))
    _copy(text, program, call, name, [size], [1], [1], step=call.op)


def _transpose(text: Text, program: Program, call: Call, name: str) -> None:
    strides = _row_major(program.graph.edges[call.op.inputs[0]].shape)
    shape = program.graph.edges[call.output].shape
    _copy(text, program, call, name, shape, [strides[p] for p in call.op.perm], _row_major(shape))


def _concat(text: Text, program: Program, call: Call, name: str) -> None:
    result, start = _row_major(program.graph.edges[call.output].shape), 0
    for k, edge in enumerate(call.op.inputs):
        shape = program.graph.edges[edge].shape
        _copy(text, program, call, f"{name}_{k}", shape, _row_major(shape), result, start * result[call.op.axis], edge)
        start += shape[call.op.axis]


def _pad(text: Text, program: Program, call: Call, name: str) -> None:
    op, shape = call.op, program.graph.edges[call.op.inputs[0]].shape
    whole = program.graph.edges[call.output].shape
    result = _row_major(whole)
    size, code = int(np.prod(whole, dtype=np.int64)), program.codes[call.output]
    text.constants.append(f"static const ge_code {name}_code = {_code(code)};\n")
    text.statements.append(f"ge_fill({size}, {name}_code, {op.value}, {place(program, call.output)});")
    _copy(text, program, call, name, shape, _row_major(shape), result, sum(p * r for p, r in zip(op.pads, result)))


def _upsample(text: Text, program: Program, call: Call, name: str) -> None:
    """Every axis is split into (size, factor); the factor's stride in the input is 0."""
    shape = program.graph.edges[call.op.inputs[0]].shape
    source, result = _row_major(shape), _row_major(program.graph.edges[call.output].shape)
    size, from_stride, to_stride = [], [], []
    for axis, factor in enumerate(call.op.factors):
        for n, f, t in ((shape[axis], source[axis], result[axis] * factor), (factor, 0, result[axis])):
            if n > 1:
                size, from_stride, to_stride = [*size, n], [*from_stride, f], [*to_stride, t]
    _copy(text, program, call, name, size or [1], from_stride or [0], to_stride or [0])


def _depth_to_space(text: Text, program: Program, call: Call, name: str) -> None:
    """Output (channel, row, row in block, column, column in block); the input's channels are split as the mode says."""
    c, h, w = program.graph.edges[call.op.inputs[0]].shape
    b = call.op.block
    inner, plane = c // b**2, h * w
    if call.op.mode == "DCR":
        channel, row, column = plane, b * inner * plane, inner * plane
    else:
        channel, row, column = b * b * plane, b * plane, plane
    size = (inner, h, b, w, b)
    _copy(text, program, call, name, size, (channel, w, row, 1, column), _row_major(size))


_WRITERS = {
    Dense: _dense,
    Conv: _conv,
    ConvTranspose: _conv,
    MaxPool: _pool,
    SumPool: _pool,
    Add: _add,
    Requantise: _step_alone,
    Transpose: _transpose,
    Concat: _concat,
    Pad: _pad,
    Upsample: _upsample,
    DepthToSpace: _depth_to_space,
}
