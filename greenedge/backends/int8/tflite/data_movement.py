"""Operators that move values and compute nothing: layouts, padding, joining, resizing, the largest under a window."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from greenedge.backends.int8.quant_params import Encoding
from greenedge.backends.int8.tflite.flatbuffer import Quantisation, Writer
from greenedge.backends.int8.tflite.layout import Layout, image, plain
from greenedge.graph import Concat, DepthToSpace, Graph, MaxPool, Pad, Reshape, Transpose, Upsample


@dataclass(frozen=True)
class Placed:
    """Where an edge of the graph is in the file: tensor index, order of its values, meaning of its int8."""

    tensor: int
    layout: Layout
    code: Encoding


@dataclass
class Emission:
    """One file in the making: where each edge is, and what was proved so far. `int4`: whether dense layers of at most 4 bits
    are stored as such; `all_sets`: whether what is exact on XNNPACK alone will not do."""

    graph: Graph
    writer: Writer
    int4: bool = False
    all_sets: bool = False
    placed: dict[str, Placed] = field(default_factory=dict)
    layers: list = field(default_factory=list)
    moved: dict[tuple[int, Layout], Placed] = field(default_factory=dict)
    lifted: dict[int, Placed] = field(default_factory=dict)

    def tensor(self, name: str, layout: Layout, code: Encoding) -> Placed:
        index = self.writer.tensor(name, layout.file, "INT8", Quantisation((code.scale,), code.zero_point))
        return Placed(index, layout, code)

    def constant(self, name: str, values) -> int:
        return self.writer.constant(name, np.asarray(values, np.int32))


def moved(em: Emission, placed: Placed, target: Layout, name: str) -> Placed:
    """The same values in another layout of the same graph shape; each conversion is written once."""
    if placed.layout == target:
        return placed
    key = (placed.tensor, target)
    if key not in em.moved:
        em.moved[key] = _moved(em, placed, target, name)
    return em.moved[key]


def _moved(em: Emission, placed: Placed, target: Layout, name: str) -> Placed:
    layout = placed.layout
    if layout.flattened:
        whole = Layout(layout.source, layout.order, layout.source, (1, *(layout.source[a] for a in layout.order)))
        placed = moved(em, _reshaped(em, placed, whole, name), plain(layout.source), name)
        return moved(em, _reshaped(em, placed, plain(layout.shape), name), target, name)
    if [a for a in layout.order if layout.source[a] != 1] == [a for a in target.order if target.source[a] != 1]:
        return _reshaped(em, placed, target, name)
    bare = tuple(layout.source[a] for a in layout.order)
    if layout.file != (1, *bare):
        placed = _reshaped(em, placed, replace(layout, file=(1, *bare)), name)
    turned = Layout(target.source, target.order, target.shape, (1, *(target.source[a] for a in target.order)))
    perm = [0, *(1 + layout.order.index(a) for a in target.order)]
    result = em.tensor(f"{name}/turned", turned, placed.code)
    em.writer.operator("TRANSPOSE", [placed.tensor, em.constant(f"{name}/perm", perm)], [result.tensor], 2)
    return result if turned.file == target.file else _reshaped(em, result, target, name)


def _reshaped(em: Emission, placed: Placed, layout: Layout, name: str) -> Placed:
    """The same bytes under another shape."""
    if placed.layout.file == layout.file:
        return replace(placed, layout=layout)
    result = em.tensor(f"{name}/reshaped", layout, placed.code)
    _write_reshape(em, placed, result, name)
    return result


def _write_reshape(em: Emission, source: Placed, result: Placed, name: str) -> None:
    shape = list(result.layout.file)
    em.writer.operator("RESHAPE", [source.tensor, em.constant(f"{name}/shape", shape)], [result.tensor], newShape=shape)


def renamed(em: Emission, placed: Placed, layout: Layout, edge: str) -> Placed:
    """A tensor of its own for `edge`: the same bytes as `placed` in the shape of `layout`."""
    result = em.tensor(edge, layout, placed.code)
    _write_reshape(em, placed, result, edge)
    return result


def as_image(em: Emission, edge: str) -> Placed:
    """The edge with its channels last, in four dimensions."""
    placed = em.placed[edge]
    return moved(em, placed, image(placed.layout.shape), edge)


def as_plain(em: Emission, edge: str) -> Placed:
    """The edge in the graph's own order."""
    placed = em.placed[edge]
    return moved(em, placed, plain(placed.layout.shape), edge)


def padded(
    em: Emission, placed: Placed, pads: tuple[int, ...], level: int, name: str, edge: str | None = None
) -> Placed:
    """The tensor with (begin…, end…) more of `level` along the graph's last axes; it becomes `edge` where one is named."""
    layout, n = placed.layout, len(pads) // 2
    rank = len(layout.shape)
    width = {rank - n + i: (pads[i], pads[n + i]) for i in range(n)}
    shape = tuple(size + sum(width.get(axis, (0, 0))) for axis, size in enumerate(layout.shape))
    lead = len(layout.file) - rank
    rows = [(0, 0)] * lead + [width.get(axis, (0, 0)) for axis in layout.order]
    file = (*layout.file[:lead], *(shape[axis] for axis in layout.order))
    result = em.tensor(edge or f"{name}/padded", Layout(shape, layout.order, shape, file), placed.code)
    inputs = [placed.tensor, em.constant(f"{name}/pads", rows)]
    if level == placed.code.zero_level:
        em.writer.operator("PAD", inputs, [result.tensor], 2)
    else:
        stored = np.array([level + placed.code.offset], np.int8)
        quantisation = Quantisation((placed.code.scale,), placed.code.zero_point)
        em.writer.operator(
            "PADV2", [*inputs, em.writer.constant(f"{name}/pad", stored, quantisation)], [result.tensor], 2
        )
    return result


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """What TFLite's SAME adds before and after one axis."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def same_pads(placed: Placed, op, kernel, dilations) -> bool:
    """Whether the operator's padding is some, and just what SAME means."""
    n = len(kernel)
    own = [same_padding(*axis) for axis in zip(placed.layout.shape[-n:], kernel, op.strides, dilations)]
    return any(op.pads) and list(zip(op.pads[:n], op.pads[n:])) == own


def window_padding(em: Emission, placed: Placed, op, kernel, dilations, level: int) -> tuple[Placed, str]:
    """The input of a windowed operator and its padding mode; padding that TFLite cannot express is written out first."""
    if not any(op.pads):
        return placed, "VALID"
    if level == placed.code.zero_level and same_pads(placed, op, kernel, dilations):
        return placed, "SAME"
    return padded(em, placed, op.pads, level, op.name), "VALID"


def two(values: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of a tuple over one or two spatial axes; a signal has height 1."""
    return (1, *values) if len(values) == 1 else tuple(values)


def emit_max_pool(em: Emission, op: MaxPool) -> None:
    source = as_image(em, op.inputs[0])
    if same_pads(source, op, op.kernel, (1,) * len(op.kernel)):
        padding = "SAME"  # the operator leaves its own padding out of the comparison
    else:
        padding = "VALID"
        source = padded(em, source, op.pads, source.code.lo, op.name) if any(op.pads) else source
    result = em.tensor(op.output, image(em.graph.edges[op.output].shape), source.code)
    height, width = two(op.kernel)
    strides = two(op.strides)
    em.writer.operator(
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
    em.placed[op.output] = result


def emit_reshape(em: Emission, op: Reshape) -> None:
    placed = em.placed[op.inputs[0]]
    layout = placed.layout
    if len(op.shape) == 1 and not layout.flattened and not layout.natural:
        target = Layout(
            layout.source, layout.order, tuple(op.shape), (1, *op.shape)
        )  # the next layer's weights are turned
    else:
        placed, target = moved(em, placed, plain(layout.shape), op.inputs[0]), plain(tuple(op.shape))
    em.placed[op.output] = renamed(em, placed, target, op.output)


def emit_transpose(em: Emission, op: Transpose) -> None:
    """The same bytes: only what their axes mean changes."""
    placed = em.placed[op.inputs[0]]
    if placed.layout.flattened:
        placed = as_plain(em, op.inputs[0])
    layout = placed.layout
    shape = tuple(layout.shape[axis] for axis in op.perm)
    order = tuple(op.perm.index(axis) for axis in layout.order)
    em.placed[op.output] = replace(placed, layout=Layout(shape, order, shape, layout.file))


def emit_upsample(em: Emission, op: Upsample) -> None:
    source = as_image(em, op.inputs[0])
    result = em.tensor(op.output, image(em.graph.edges[op.output].shape), source.code)
    size = em.constant(f"{op.name}/size", result.layout.file[1:3])
    em.writer.operator("RESIZE_NEAREST_NEIGHBOR", [source.tensor, size], [result.tensor], 2)
    em.placed[op.output] = result


def emit_depth_to_space(em: Emission, op: DepthToSpace) -> None:
    source = as_image(em, op.inputs[0])
    block, channels = op.block, source.layout.shape[0]
    tensor = source.tensor
    if op.mode == "CRD":  # TFLite has ONNX's DCR order
        order = np.arange(channels).reshape(-1, block * block).T.reshape(-1)
        turned = em.tensor(f"{op.name}/channels", source.layout, source.code)
        em.writer.operator("GATHER", [tensor, em.constant(f"{op.name}/order", order)], [turned.tensor], 2, axis=3)
        tensor = turned.tensor
    result = em.tensor(op.output, image(em.graph.edges[op.output].shape), source.code)
    em.writer.operator("DEPTH_TO_SPACE", [tensor], [result.tensor], blockSize=block)
    em.placed[op.output] = result


def emit_pad(em: Emission, op: Pad) -> None:
    placed = em.placed[op.inputs[0]]
    if placed.layout.flattened:
        placed = as_plain(em, op.inputs[0])
    em.placed[op.output] = padded(em, placed, op.pads, op.value, op.name, op.output)


def write_concat(em: Emission, parts: list[Placed], axis: int, result: Placed) -> None:
    """Joins along an axis of the file; all parts share one encoding."""
    assert all(p.code.alike(parts[0].code) for p in parts), "parts of different encodings"
    em.writer.operator(
        "CONCATENATION", [p.tensor for p in parts], [result.tensor], 2, axis=axis, fusedActivationFunction="NONE"
    )


def emit_concat(em: Emission, op: Concat, parts: list[Placed]) -> None:
    """`parts` are the inputs in one common encoding."""
    layout = parts[0].layout
    if layout.flattened or any(p.layout.order != layout.order or p.layout.flattened for p in parts):
        parts = [moved(em, p, plain(p.layout.shape), edge) for p, edge in zip(parts, op.inputs)]
        layout = parts[0].layout
    shape = em.graph.edges[op.output].shape
    lead = len(layout.file) - len(shape)
    file = (*layout.file[:lead], *(shape[axis] for axis in layout.order))
    result = em.tensor(op.output, Layout(shape, layout.order, shape, file), parts[0].code)
    write_concat(em, parts, layout.file_axis(op.axis), result)
    em.placed[op.output] = result


MOVES = {
    MaxPool: emit_max_pool,
    Reshape: emit_reshape,
    Transpose: emit_transpose,
    Upsample: emit_upsample,
    DepthToSpace: emit_depth_to_space,
    Pad: emit_pad,
}
