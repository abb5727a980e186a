"""The rules of operations that move values: each is one or several strided copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.backends.c99.code_builder import RULES, CodeBuilder
from greenedge.graph import Concat, DepthToSpace, Gather, Pad, Requantise, Transpose, Upsample

_DIMS = 6  # of ge_copy's strides


@dataclass(frozen=True)
class Copy:
    """A strided copy over up to 6 axes, the innermost last; strides and starts count elements."""

    size: Sequence[int]
    from_stride: Sequence[int]
    to_stride: Sequence[int]
    to_start: int = 0
    from_start: int = 0


def write_copy(b: CodeBuilder, name: str, source: str, copy: Copy, step: Requantise | None = None) -> None:
    """One copy of the edge `source` into the call's output, through the step function if there is one."""
    lines = {
        key: [fill] * (_DIMS - len(values)) + [int(v) for v in values]
        for key, values, fill in (
            ("size", copy.size, 1),
            ("from_stride", copy.from_stride, 0),
            ("to_stride", copy.to_stride, 0),
        )
    }
    fields = {
        **{key: "{" + ", ".join(map(str, values)) + "}" for key, values in lines.items()},
        "to_start": copy.to_start,
        "from": b.code(source),
        "sink": b.sink(name, step),
    }
    b.text.record("ge_copy_layer", name, fields)
    begin = b.place(source)
    if copy.from_start:
        code = b.program.codes[source]
        begin = f"(const {code.c_type} *)({begin}) + {copy.from_start}"
    b.text.statements.append(f"ge_copy(&{name}, {begin}, {b.place(b.call.output)});")


def row_major(shape: Sequence[int]) -> list[int]:
    """The stride of every axis in elements."""
    return [int(np.prod(shape[k + 1 :], dtype=np.int64)) for k in range(len(shape))]


@RULES.lowers(Transpose)
def transpose(b: CodeBuilder, op: Transpose) -> None:
    b.require_values(op)
    b.begin_emission()
    strides, shape = row_major(b.source(op).shape), b.graph.edges[op.output].shape
    write_copy(b, b.name, op.inputs[0], Copy(shape, [strides[p] for p in op.perm], row_major(shape)))


@RULES.lowers(Gather)
def gather(b: CodeBuilder, op: Gather) -> None:
    """A copy for every run of places along each axis, whose strides in the input are the runs' steps.

    ge_copy reads forwards, so a run backwards is written backwards."""
    b.require_values(op)
    b.begin_emission()
    strides, result = row_major(b.source(op).shape), row_major(op.sizes)
    runs = [op.split_runs(axis) for axis in range(len(op.sizes))]
    begins = [np.cumsum([0, *(run.size for run in along)]).tolist() for along in runs]
    for k, choice in enumerate(np.ndindex(*map(len, runs))):
        taken = [along[i] for along, i in zip(runs, choice, strict=True)]
        begin = [along[i] for along, i in zip(begins, choice, strict=True)]
        from_start = sum(min(run.start, run.last) * stride for run, stride in zip(taken, strides, strict=True))
        backwards = [(run.size - 1) * (run.step < 0) for run in taken]
        to_start = sum((first + back) * out for first, back, out in zip(begin, backwards, result, strict=True))
        copy = Copy(
            [run.size for run in taken],
            [abs(run.step) * stride for run, stride in zip(taken, strides, strict=True)],
            [-out if run.step < 0 else out for run, out in zip(taken, result, strict=True)],
            to_start,
            from_start,
        )
        write_copy(b, b.name if k == 0 else f"{b.name}_{k}", op.inputs[0], copy)


@RULES.lowers(Concat)
def concat(b: CodeBuilder, op: Concat) -> None:
    b.require_values(op)
    b.begin_emission()
    result, start = row_major(b.graph.edges[op.output].shape), 0
    for k, edge in enumerate(op.inputs):
        shape = b.graph.edges[edge].shape
        write_copy(b, f"{b.name}_{k}", edge, Copy(shape, row_major(shape), result, start * result[op.axis]))
        start += shape[op.axis]


@RULES.lowers(Pad)
def pad(b: CodeBuilder, op: Pad) -> None:
    b.require_values(op)
    b.begin_emission()
    shape, whole = b.source(op).shape, b.graph.edges[op.output].shape
    result, size = row_major(whole), int(np.prod(whole, dtype=np.int64))
    b.text.constants.append(f"static const ge_code {b.name}_code = {b.code(op.output)};\n")
    b.text.statements.append(f"ge_fill({size}, {b.name}_code, {op.value}, {b.place(op.output)});")
    begin = op.pads[: len(whole)]
    start = sum(p * r for p, r in zip(begin, result, strict=True))
    write_copy(b, b.name, op.inputs[0], Copy(shape, row_major(shape), result, start))


@RULES.lowers(Upsample)
def upsample(b: CodeBuilder, op: Upsample) -> None:
    """Every axis is split into (size, factor); the factor's stride in the input is 0."""
    b.require_values(op)
    b.begin_emission()
    shape = b.source(op).shape
    source, result = row_major(shape), row_major(b.graph.edges[op.output].shape)
    loops: list[tuple[int, int, int]] = []
    for axis, factor in enumerate(op.factors):
        loops += [(shape[axis], source[axis], result[axis] * factor), (factor, 0, result[axis])]
    loops = [loop for loop in loops if loop[0] > 1] or [(1, 0, 0)]
    size, from_stride, to_stride = zip(*loops, strict=True)
    write_copy(b, b.name, op.inputs[0], Copy(size, from_stride, to_stride))


@RULES.lowers(DepthToSpace)
def depth_to_space(b: CodeBuilder, op: DepthToSpace) -> None:
    """Output (channel, row, row in block, column, column in block); the input's channels are split as the mode says."""
    b.require_values(op)
    b.begin_emission()
    c, h, w = b.source(op).shape
    block = op.block
    inner, plane = c // block**2, h * w
    if op.mode == "DCR":
        channel, row, column = plane, block * inner * plane, inner * plane
    else:
        channel, row, column = block * block * plane, block * plane, plane
    size = (inner, h, block, w, block)
    write_copy(b, b.name, op.inputs[0], Copy(size, (channel, w, row, 1, column), row_major(size)))
