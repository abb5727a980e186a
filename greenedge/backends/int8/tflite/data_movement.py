"""Rules of the operations that move values and compute nothing: layouts, padding, joining, resizing, the largest
under a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from greenedge.backends.int8.requirements import require_all_wide, require_pad_level, require_readers
from greenedge.backends.int8.tflite.builder import RULES, TfliteBuilder
from greenedge.backends.int8.tflite.elementwise import require_one_encoding
from greenedge.backends.int8.tflite.layout import Layout, image, plain
from greenedge.backends.int8.tflite.padding import is_same
from greenedge.backends.int8.tflite.quantise import pair, unify_encodings
from greenedge.graph import Concat, DepthToSpace, Gather, MaxPool, Pad, Reshape, Transpose, Upsample


@RULES.lowers(MaxPool)
def max_pool(b: TfliteBuilder, op: MaxPool) -> None:
    """MAX_POOL_2D, which leaves its own padding out of the comparison; other padding is the smallest level."""
    b.require(
        all(d == 1 for d in op.steps),
        f"dilations {tuple(op.dilations)}",
        "LiteRT's pools have none",
        "use dilation 1",
    )
    b.announce_move(op)
    b.begin_emission()
    source, padding = b.as_image(op.inputs[0]), "VALID"
    if is_same(source, op, op.steps):
        padding = "SAME"
    elif any(op.pads):
        source = b.pad(source, op.pads, source.code.lo, op.name)
    result = b.tensor(op.output, image(b.graph.edges[op.output].shape), source.code)
    (height, width), strides = pair(op.kernel), pair(op.strides)
    b.writer.operator(
        "MAX_POOL_2D",
        [source.tensor],
        [result.tensor],
        2,
        padding=padding,
        filterHeight=height,
        filterWidth=width,
        strideH=strides[0],
        strideW=strides[1],
        fusedActivationFunction="NONE",
    )
    b.placed[op.output] = result


@RULES.lowers(Reshape)
def reshape(b: TfliteBuilder, op: Reshape) -> None:
    """RESHAPE; a flattened image keeps the file's order, in which the next layer's weights are put."""
    b.announce_move(op)
    b.begin_emission()
    placed = b.placed[op.inputs[0]]
    layout = placed.layout
    if len(op.shape) == 1 and not layout.is_flat and not layout.is_natural:
        target = Layout(layout.source, layout.order, tuple(op.shape), (1, *op.shape))
    else:
        placed, target = b.convert_layout(placed, plain(layout.shape), op.inputs[0]), plain(tuple(op.shape))
    b.placed[op.output] = b.copy_as(placed, target, op.output)


@RULES.lowers(Transpose)
def transpose(b: TfliteBuilder, op: Transpose) -> None:
    """The same bytes: only what their axes mean changes."""
    b.announce_move(op)
    b.begin_emission()
    placed = b.placed[op.inputs[0]]
    if placed.layout.is_flat:
        placed = b.as_plain(op.inputs[0])
    layout = placed.layout
    shape = tuple(layout.shape[axis] for axis in op.perm)
    order = tuple(op.perm.index(axis) for axis in layout.order)
    b.placed[op.output] = replace(placed, layout=Layout(shape, order, shape, layout.file))


@RULES.lowers(Upsample)
def upsample(b: TfliteBuilder, op: Upsample) -> None:
    """RESIZE_NEAREST_NEIGHBOR."""
    b.require(
        len(op.factors) in (2, 3) and op.factors[0] == 1,
        f"factors {tuple(op.factors)}",
        "LiteRT resizes one or two image axes",
        "upsample height and width",
    )
    b.announce_move(op)
    b.begin_emission()
    source = b.as_image(op.inputs[0])
    result = b.tensor(op.output, image(b.graph.edges[op.output].shape), source.code)
    size = b.constant(f"{op.name}/size", result.layout.file[1:3])
    b.writer.operator("RESIZE_NEAREST_NEIGHBOR", [source.tensor, size], [result.tensor], 2)
    b.placed[op.output] = result


@RULES.lowers(DepthToSpace)
def depth_to_space(b: TfliteBuilder, op: DepthToSpace) -> None:
    """DEPTH_TO_SPACE, which has ONNX's DCR order; for CRD the channels are gathered into it."""
    b.announce_move(op)
    b.begin_emission()
    source = b.as_image(op.inputs[0])
    block, channels = op.block, source.layout.shape[0]
    tensor = source.tensor
    if op.mode == "CRD":
        order = np.arange(channels).reshape(-1, block * block).T.reshape(-1)
        gathered = b.tensor(f"{op.name}/channels", source.layout, source.code)
        inputs = [tensor, b.constant(f"{op.name}/order", order)]
        b.writer.operator("GATHER", inputs, [gathered.tensor], 2, axis=3)
        tensor = gathered.tensor
    result = b.tensor(op.output, image(b.graph.edges[op.output].shape), source.code)
    b.writer.operator("DEPTH_TO_SPACE", [tensor], [result.tensor], blockSize=block)
    b.placed[op.output] = result


@RULES.lowers(Gather)
def gather(b: TfliteBuilder, op: Gather) -> None:
    """SLICE along the axes of which neighbours are taken, GATHER along each other."""
    b.announce_move(op)
    b.begin_emission()
    placed = b.placed[op.inputs[0]]
    if placed.layout.is_flat:
        placed = b.as_plain(op.inputs[0])
    stages = op.split_stages(placed.layout.shape, has_steps=False)
    for k, stage in enumerate(stages, 1):
        name = op.output if k == len(stages) else f"{op.name}/part{k}"
        result = b.tensor(name, _resize(placed.layout, stage.shape), placed.code)
        if stage.runs is None:
            (axis,) = stage.axes
            index = b.constant(f"{name}/index", op.indices[axis])
            b.writer.operator("GATHER", [placed.tensor, index], [result.tensor], 2, axis=placed.layout.file_axis(axis))
        else:
            begin = [0] * len(result.layout.file)
            for axis, run in zip(stage.axes, stage.runs, strict=True):
                begin[result.layout.file_axis(axis)] = run.start
            bounds = [b.constant(f"{name}/begin", begin), b.constant(f"{name}/size", result.layout.file)]
            b.writer.operator("SLICE", [placed.tensor, *bounds], [result.tensor], 2)
        placed = result
    b.placed[op.output] = placed


def _resize(layout: Layout, shape: Sequence[int]) -> Layout:
    """The same order of axes for a tensor of another shape."""
    lead = len(layout.file) - len(layout.order)
    file = (*layout.file[:lead], *(shape[axis] for axis in layout.order))
    return Layout(tuple(shape), layout.order, tuple(shape), file)


@RULES.lowers(Pad)
def pad(b: TfliteBuilder, op: Pad) -> None:
    """PAD with the zero point, PADV2 with another level."""
    require_pad_level(b, op, op.value)
    b.announce_move(op)
    b.begin_emission()
    placed = b.placed[op.inputs[0]]
    if placed.layout.is_flat:
        placed = b.as_plain(op.inputs[0])
    b.placed[op.output] = b.pad(placed, op.pads, op.value, op.name, op.output)


@RULES.lowers(Concat)
def concat(b: TfliteBuilder, op: Concat) -> None:
    """CONCATENATION of branches in one encoding and one layout."""
    require_readers(b, op)
    require_all_wide(b, op)
    common = None if op.output in b.wide else require_one_encoding(b, op)
    if op.output in b.wide:
        b.encodings[op.output] = b.wide_encoding(op.output)
    elif common is not None:
        # Branches with like encodings keep theirs: where their zero level is not 0, a reader must not rely on 0.
        zeros = {b.encodings[edge].zero_level for edge in op.inputs}
        shared = zeros.pop() if len(zeros) == 1 else 0
        b.encodings[op.output] = replace(common, zero_level=shared or common.zero_level)
    b.begin_emission()
    parts = [b.placed[edge] for edge in op.inputs]
    parts = parts if op.output in b.wide else unify_encodings(b, parts, op)
    layout = parts[0].layout
    if layout.is_flat or any(p.layout.order != layout.order or p.layout.is_flat for p in parts):
        parts = [b.convert_layout(p, plain(p.layout.shape), edge) for p, edge in zip(parts, op.inputs, strict=True)]
        layout = parts[0].layout
    shape = b.graph.edges[op.output].shape
    lead = len(layout.file) - len(shape)
    file = (*layout.file[:lead], *(shape[axis] for axis in layout.order))
    result = b.tensor(op.output, Layout(shape, layout.order, shape, file), parts[0].code)
    b.join(parts, layout.file_axis(op.axis), result)
    b.placed[op.output] = result
