"""Rules of the operations that move values and compute nothing: shapes, axes, padding, joining, the largest under a
window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from greenedge.backends.int8.onnxruntime.elementwise import write_elementwise
from greenedge.backends.int8.onnxruntime.onnx_builder import RULES, OnnxBuilder, encode_levels
from greenedge.backends.int8.quant_params import LEVELS, Encoding, encode_wide
from greenedge.backends.int8.requirements import (
    require_all_wide,
    require_common_range,
    require_pad_level,
    require_readers,
)
from greenedge.graph import Concat, DepthToSpace, Edge, Gather, MaxPool, Pad, Requantise, Reshape, Transpose, Upsample
from greenedge.graph.lines import identity_step
from greenedge.graph.ops.gather import describe_stage


@RULES.lowers(MaxPool)
def max_pool(b: OnnxBuilder, op: MaxPool) -> None:
    """MaxPool."""
    b.begin_emission()
    more: dict[str, Any] = {"dilations": list(op.dilations)} if op.dilations else {}
    b.node(
        "MaxPool",
        op.inputs,
        op.output,
        kernel_shape=list(op.kernel),
        strides=list(op.strides),
        pads=list(op.pads),
        **more,
    )
    b.codes[op.output] = b.codes[op.inputs[0]]


@RULES.lowers(Reshape)
def reshape(b: OnnxBuilder, op: Reshape) -> None:
    """Reshape."""
    require_readers(b, op)
    b.begin_emission()
    b.reshape(op.inputs[0], [0, *op.shape], f"{op.output}/shape", op.output)
    b.codes[op.output] = b.codes[op.inputs[0]]


@RULES.lowers(Transpose)
def transpose(b: OnnxBuilder, op: Transpose) -> None:
    """Transpose."""
    require_readers(b, op)
    b.begin_emission()
    b.node("Transpose", op.inputs, op.output, perm=[0, *(axis + 1 for axis in op.perm)])
    b.codes[op.output] = b.codes[op.inputs[0]]


@RULES.lowers(Upsample)
def upsample(b: OnnxBuilder, op: Upsample) -> None:
    """Repeats along each axis: a new axis of length 1, widened, and folded in."""
    require_readers(b, op)
    b.begin_emission()
    shape = b.graph.edges[op.inputs[0]].shape
    apart = [v for size in shape for v in (size, 1)]
    wide = [v for size, factor in zip(shape, op.factors, strict=True) for v in (size, factor)]
    tensor = b.reshape(op.inputs[0], [0, *apart], f"{op.output}/apart", f"{op.output}/apart_")
    widths = b.constant(f"{op.output}/wide", [1, *wide], np.int64)
    tensor = b.node("Expand", [tensor, widths], f"{op.output}/wide_")
    b.reshape(tensor, [0, *b.graph.edges[op.output].shape], f"{op.output}/shape", op.output)
    b.codes[op.output] = b.codes[op.inputs[0]]


@RULES.lowers(DepthToSpace)
def depth_to_space(b: OnnxBuilder, op: DepthToSpace) -> None:
    """The blocks as axes of their own, moved behind height and width, and folded in."""
    require_readers(b, op)
    b.begin_emission()
    channels, height, width = b.graph.edges[op.inputs[0]].shape
    n, out = op.block, channels // op.block**2
    split, perm = ([n, n, out], [0, 3, 4, 1, 5, 2]) if op.mode == "DCR" else ([out, n, n], [0, 1, 4, 2, 5, 3])
    tensor = b.reshape(op.inputs[0], [0, *split, height, width], f"{op.output}/blocks", f"{op.output}/blocks_")
    tensor = b.node("Transpose", [tensor], f"{op.output}/turned", perm=perm)
    b.reshape(tensor, [0, out, height * n, width * n], f"{op.output}/shape", op.output)
    b.codes[op.output] = b.codes[op.inputs[0]]


@RULES.lowers(Gather)
def gather(b: OnnxBuilder, op: Gather) -> None:
    """Slice along the axes with a constant step, Gather along each other."""
    require_readers(b, op)
    b.begin_emission()
    source, stages = op.inputs[0], op.split_stages(b.graph.edges[op.inputs[0]].shape)
    for k, stage in enumerate(stages, 1):
        kind, inputs, attributes = describe_stage(op, stage)
        name = op.output if k == len(stages) else f"{op.output}/part{k}"
        constants = [b.constant(f"{name}/{key}", values, np.int64) for key, values in inputs.items()]
        source = b.node(kind, [source, *constants], name, **attributes)
    b.codes[op.output] = b.codes[op.inputs[0]]


@RULES.lowers(Pad)
def pad(b: OnnxBuilder, op: Pad) -> None:
    """Pad with a level of the input."""
    require_pad_level(b, op, op.value)
    b.begin_emission()
    code = b.codes[op.inputs[0]]
    b.pad(op.inputs[0], op.pads, op.value + code.offset, op.output, len(b.graph.edges[op.output].shape) + 1)
    b.codes[op.output] = code


@RULES.lowers(Concat)
def concat(b: OnnxBuilder, op: Concat) -> None:
    """Concat of branches in one encoding; those that have another are requantised first."""
    require_readers(b, op)
    require_all_wide(b, op)
    edges = b.graph.input_edges(op)
    lo, hi = min(edge.lo for edge in edges), max(edge.hi for edge in edges)  # reached: an encoding may hold more
    if op.output not in b.wide and all(edge.hi - edge.lo <= LEVELS for edge in edges):
        require_common_range(b, edges, lo, hi)
    b.begin_emission()
    codes = [b.codes[edge] for edge in op.inputs]
    if op.output in b.wide:
        b.node("Concat", op.inputs, op.output, axis=op.axis + 1)
        b.codes[op.output] = encode_wide(min(c.lo for c in codes), max(c.hi for c in codes))
        return
    is_shared = all(code.offset == codes[0].offset for code in codes)
    common = replace(codes[0], lo=min(c.lo for c in codes)) if is_shared else encode_levels(lo, hi)
    parts = []
    for k, (edge, code) in enumerate(zip(edges, codes, strict=True)):
        is_common = code.offset == common.offset
        parts.append(edge.name if is_common else _recode(b, edge, common, f"{op.output}/part{k}"))
    b.node("Concat", parts, op.output, axis=op.axis + 1)
    b.codes[op.output] = common


def _recode(b: OnnxBuilder, edge: Edge, common: Encoding, name: str) -> str:
    """The branch in the encoding `common`, as the tensor `name`."""
    step: Requantise = identity_step(edge, name)
    b.quantise_as(
        name, common, lambda to, written: write_elementwise(b, step, (edge.name,), (1,), step.name, to, written)
    )
    return name
