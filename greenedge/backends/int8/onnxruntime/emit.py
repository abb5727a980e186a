"""The integer graph as one ONNX file of 8-bit operators: QLinearConv, QGemm, and exact float steps where there is no sum of products.

Everything lies in the graph's own order, the batch first and free. Every sum with the quantiser behind it is one operator, whose
factors, scales and biases are those with which ONNX Runtime's arithmetic hits every threshold (int8/search.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.backends.int8.arithmetic import LEAST, MOST
from greenedge.backends.int8.layers import Layer, Scaled, scaled
from greenedge.backends.int8.legalise import SUMS, identity, prepared
from greenedge.backends.int8.onnxruntime.data_movement import MOVES
from greenedge.backends.int8.onnxruntime.onnx_builder import CONTRIB, IR, OPSET, SHIFT, File, code_of, padded
from greenedge.backends.int8.quant_params import Encoding
from greenedge.graph import Add, Concat, Conv, ConvTranspose, Dense, Edge, Graph, Input, Op, Requantise, SumPool


@dataclass(frozen=True, eq=False)
class Emitted:
    """A file, the proofs of its layers, and how each stored edge is encoded; tensors are named as the edges are."""

    content: bytes
    layers: tuple[Layer, ...]
    codes: dict[str, Encoding]


def write_file(graph: Graph) -> Emitted:
    """The file for a graph against which there is no reason (rules.py); the same graph gives the same bytes."""
    file = File(prepared(graph))
    for op in file.graph.ops:
        _emit(file, op)
    own = {edge: code for edge, code in file.codes.items() if edge in graph.edges}
    return Emitted(_model(file, graph), tuple(file.layers), own)


def _model(file: File, graph: Graph) -> bytes:
    from onnx import TensorProto, helper

    def value(edge: str):
        return helper.make_tensor_value_info(edge, TensorProto.UINT8, ["N", *graph.edges[edge].shape])

    body = helper.make_graph(
        file.nodes,
        graph.name,
        [value(e) for e in graph.inputs],
        [value(e) for e in dict.fromkeys(graph.outputs)],
        file.constants,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=IR, producer_name="greenedge").SerializeToString(
        deterministic=True
    )


def _emit(file: File, op: Op) -> None:
    graph = file.graph
    if isinstance(op, Input):
        file.codes[op.output] = _code(graph, op.output, graph.edges[op.output].lo, graph.edges[op.output].hi)
    elif isinstance(op, Requantise):
        source = graph.producer(op.inputs[0])
        fused = isinstance(source, SUMS) and not stored_unquantised(graph, source)
        _quantised(file, source if fused else None, op, _code(graph, op.output, op.lo, op.hi))
    elif isinstance(op, SUMS):
        if stored_unquantised(graph, op):
            edge = graph.edges[op.output]
            _quantised(file, op, identity(edge, op.output), _code(graph, op.output, edge.lo, edge.hi))
    else:
        file.codes[op.output] = _concat(file, op) if isinstance(op, Concat) else MOVES[type(op)](file, op)


def stored_unquantised(graph: Graph, op: Op) -> bool:
    """Whether something other than a quantiser reads the accumulators of `op`: they are then stored as they are."""
    return op.output in graph.outputs or any(
        not isinstance(reader, Requantise) for reader in graph.consumers(op.output)
    )


def _code(graph: Graph, edge: str, lo: int, hi: int) -> Encoding:
    """With the zero level that the edge's readers pad with, where they agree on one."""
    levels = {
        reader.pad_value for reader in graph.consumers(edge) if isinstance(reader, (Conv, SumPool)) and any(reader.pads)
    }
    return code_of(lo, hi, levels.pop() if len(levels) == 1 and lo <= min(levels) <= hi else None)


# -- sums with their quantisers ---------------------------------------------------------------------------------------------


def _quantised(file: File, op: Op | None, step: Requantise, code: Encoding) -> None:
    """One operator for a sum (None: for stored levels alone) and its quantiser, and the clip of its bottom."""
    low = code.bounds[0]
    clips = low > LEAST
    written = f"{step.output}/whole" if clips else step.output
    _SUMS.get(type(op), _elementwise)(file, op, step, code, written)
    if clips:
        bounds = [
            file.constant(f"{step.output}/{name}", value + SHIFT, np.uint8)
            for name, value in (("low", low), ("high", MOST))
        ]
        file.node("Clip", [written, *bounds], step.output)
    file.codes[step.output] = code


def _scaled(
    file: File,
    operator: str,
    name: str,
    step: Requantise,
    weight: np.ndarray,
    source: Encoding,
    code: Encoding,
    liftable: bool = True,
):
    chosen = scaled(operator, name, step, weight, source, code, liftable=liftable)
    file.layers.append(chosen.layer)
    return chosen


def _lifted(file: File, tensor: str, source: Encoding, chosen: Scaled) -> str:
    """The tensor with its levels multiplied, as `chosen` takes them: in int32, where nothing is rounded."""
    if chosen.lift == 1:
        return tensor
    name = f"{tensor}/lifted"
    if name not in file.lifted:
        file.lifted.add(name)
        more = chosen.source.offset + SHIFT - chosen.lift * (source.offset + SHIFT)
        wide = file.node("Cast", [tensor], f"{name}/wide", to=6)
        wide = file.node("Mul", [wide, file.constant(f"{name}/factor", chosen.lift, np.int32)], f"{name}/product")
        wide = file.node("Add", [wide, file.constant(f"{name}/more", more, np.int32)], f"{name}/sum")
        file.node("Cast", [wide], name, to=2)
    return name


def _numbers(file: File, edge: str, source: Encoding, code: Encoding) -> tuple[list[str], list[str]]:
    """(scale and zero point of the input, of the output)."""

    def pair(name: str, c: Encoding) -> list[str]:
        return [
            file.constant(f"{edge}/{name}_scale", c.scale),
            file.constant(f"{edge}/{name}_zero", c.zero_point + SHIFT, np.uint8),
        ]

    return pair("x", source), pair("y", code)


def _dense(file: File, op: Dense, step: Requantise, code: Encoding, written: str) -> None:
    source, edge, tensor = file.codes[op.inputs[0]], step.output, op.inputs[0]
    chosen = _scaled(file, "QGemm", op.name, step, op.weight.T, source, code)
    tensor = _lifted(file, tensor, source, chosen)
    x, y = _numbers(file, edge, chosen.source, code)
    w = [
        file.constant(f"{edge}/weight", chosen.weight.T, np.int8),
        file.constant(f"{edge}/weight_scale", chosen.scale),
        file.constant(f"{edge}/weight_zero", np.zeros(len(chosen.scale)), np.int8),
    ]
    shape = file.graph.edges[op.output].shape
    rows = len(shape) > 1
    if rows:
        tensor = file.node(
            "Reshape", [tensor, file.constant(f"{edge}/rows", [-1, len(op.weight)], np.int64)], f"{edge}/in_rows"
        )
    bias = file.constant(f"{edge}/bias", chosen.bias, np.int32)
    file.node("QGemm", [tensor, *x, *w, bias, *y], f"{written}/rows" if rows else written, CONTRIB)
    if rows:
        file.node("Reshape", [f"{written}/rows", file.constant(f"{edge}/shape", [-1, *shape], np.int64)], written)


def _convolution(
    file: File,
    tensor: str,
    source: Encoding,
    weight: np.ndarray,
    name: str,
    step: Requantise,
    code: Encoding,
    written: str,
    liftable: bool = True,
    **attributes,
) -> None:
    """QLinearConv with weights (O, I/groups, *kernel)."""
    edge = step.output
    chosen = _scaled(file, "QLinearConv", name, step, weight.reshape(len(weight), -1), source, code, liftable)
    tensor = _lifted(file, tensor, source, chosen)
    x, y = _numbers(file, edge, chosen.source, code)
    w = [
        file.constant(f"{edge}/weight", chosen.weight.reshape(weight.shape), np.int8),
        file.constant(f"{edge}/weight_scale", chosen.scale),
        file.constant(f"{edge}/weight_zero", np.zeros(len(weight)), np.int8),
    ]
    file.node(
        "QLinearConv",
        [tensor, *x, *w, *y, file.constant(f"{edge}/bias", chosen.bias, np.int32)],
        written,
        kernel_shape=list(weight.shape[2:]),
        **attributes,
    )


def _conv(file: File, op: Conv, step: Requantise, code: Encoding, written: str) -> None:
    source = file.codes[op.inputs[0]]
    tensor, pads = _pads(file, op, source)
    _convolution(
        file,
        tensor,
        source,
        op.weight,
        op.name,
        step,
        code,
        written,
        strides=list(op.strides),
        pads=pads,
        dilations=list(op.dilations),
        group=op.groups,
    )


def _sum_pool(file: File, op: SumPool, step: Requantise, code: Encoding, written: str) -> None:
    """A depthwise convolution with weights of one."""
    source, channels = file.codes[op.inputs[0]], file.graph.edges[op.inputs[0]].shape[0]
    tensor, pads = _pads(file, op, source)
    _convolution(
        file,
        tensor,
        source,
        np.ones((channels, 1, *op.kernel), np.int64),
        op.name,
        step,
        code,
        written,
        strides=list(op.strides),
        pads=pads,
        group=channels,
    )


def _pads(file: File, op: Conv | SumPool, source: Encoding) -> tuple[str, list[int]]:
    """QLinearConv pads with the zero point; another level is padded first."""
    if not any(op.pads) or op.pad_value == source.zero_level:
        return op.inputs[0], list(op.pads)
    return padded(file, op.inputs[0], op.pads, op.pad_value + source.offset, f"{op.output}/padded"), [0] * len(op.pads)


def _conv_transpose(file: File, op: ConvTranspose, step: Requantise, code: Encoding, written: str) -> None:
    """Zeros between the samples, then a convolution with the kernel turned round."""
    source, shape, n = file.codes[op.inputs[0]], file.graph.edges[op.inputs[0]].shape, len(op.strides)
    zero = source.offset  # the int8 of level 0
    tensor, edge = op.inputs[0], step.output
    spread = [v for size in shape[1:] for v in (size, 1)]
    if any(s > 1 for s in op.strides):
        tensor = file.node(
            "Reshape", [tensor, file.constant(f"{edge}/apart", [0, shape[0], *spread], np.int64)], f"{edge}/apart_"
        )
        after = [v for s in op.strides for v in (0, s - 1)]
        tensor = padded(file, tensor, [*[0] * len(after), *after], zero, f"{edge}/zeros", len(after) + 2)
        wide = [size * s for size, s in zip(shape[1:], op.strides)]
        tensor = file.node(
            "Reshape", [tensor, file.constant(f"{edge}/wide", [0, shape[0], *wide], np.int64)], f"{edge}/wide_"
        )
    reach = [(k - 1) * d for k, d in zip(op.weight.shape[2:], op.dilations)]
    begin = [r - p for r, p in zip(reach, op.pads[:n])]
    end = [r - p + o - (s - 1) for r, p, o, s in zip(reach, op.pads[n:], op.output_padding, op.strides)]
    tensor = padded(file, tensor, [*begin, *end], zero, f"{edge}/around")
    per_in, per_out = op.weight.shape[0] // op.groups, op.weight.shape[1]
    turned = op.weight[(slice(None), slice(None), *(slice(None, None, -1) for _ in reach))]
    weight = (
        turned.reshape(op.groups, per_in, per_out, *turned.shape[2:])
        .swapaxes(1, 2)
        .reshape(-1, per_in, *turned.shape[2:])
    )
    held = source.lo <= 0 <= source.hi  # level 0 lies between the samples; multiplied, only levels have room in int8
    _convolution(
        file, tensor, source, weight, op.name, step, code, written, held, dilations=list(op.dilations), group=op.groups
    )


def _elementwise(file: File, op: Add | None, step: Requantise, code: Encoding, written: str) -> None:
    """Additions, and levels alone: whole numbers in float32 (exact), times a scale, to int8 by QuantizeLinear: the same arithmetic."""
    edge = step.output
    sources, multipliers = (op.inputs, op.multipliers) if op is not None else (step.inputs, (1,))
    name = op.name if op is not None else step.name
    chosen = _scaled(file, "QuantizeLinear", name, step, np.ones((step.channels, 1), np.int64), code_of(0, 0), code)
    shape = [1] * (len(file.graph.edges[sources[0]].shape) + 1)
    shape[step.axis + 1] = -1
    factor, bias = chosen.weight.reshape(shape), chosen.bias.reshape(shape)
    parts = []
    for k, (source, multiplier) in enumerate(zip(sources, multipliers)):
        bias = bias - factor * multiplier * (file.codes[source].offset + SHIFT)
        part = file.node("Cast", [source], f"{edge}/float{k}", to=1)
        parts.append(
            file.node("Mul", [part, file.constant(f"{edge}/factor{k}", factor * multiplier)], f"{edge}/part{k}")
        )
    total = parts[0]
    for k, part in enumerate(parts[1:]):
        total = file.node("Add", [total, part], f"{edge}/total{k}")
    total = file.node("Add", [total, file.constant(f"{edge}/bias", bias)], f"{edge}/acc")
    total = file.node("Mul", [total, file.constant(f"{edge}/scale", chosen.scale.reshape(shape))], f"{edge}/real")
    file.node(
        "QuantizeLinear",
        [total, file.constant(f"{edge}/one", 1.0), file.constant(f"{edge}/zero", code.zero_point + SHIFT, np.uint8)],
        written,
    )


def _concat(file: File, op: Concat) -> Encoding:
    codes = [file.codes[edge] for edge in op.inputs]
    common = (
        codes[0]
        if all(c.offset == codes[0].offset for c in codes)
        else code_of(min(c.lo for c in codes), max(c.hi for c in codes))
    )
    parts = []
    for k, (edge, code) in enumerate(zip(op.inputs, codes)):
        if code.offset != common.offset:
            name = f"{op.output}/part{k}"
            about = Edge(edge, file.graph.edges[edge].shape, code.lo, code.hi)
            _quantised(file, None, identity(about, name), common)
            edge = name
        parts.append(edge)
    file.node("Concat", parts, op.output, axis=op.axis + 1)
    return (
        code_of(min(c.lo for c in codes), max(c.hi for c in codes)) if common is not codes[0] else _wider(common, codes)
    )


def _wider(common: Encoding, codes: Sequence[Encoding]) -> Encoding:
    """The common offset for the levels of all parts."""
    return Encoding(min(c.lo for c in codes), common.hi, common.zero_level, 1.0, "NONE")


_SUMS = {Dense: _dense, Conv: _conv, SumPool: _sum_pool, ConvTranspose: _conv_transpose, Add: _elementwise}
