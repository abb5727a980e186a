"""The integer graph as one ONNX file of 8-bit operators: QLinearConv, QGemm, and exact float steps where there is no sum of products.

Everything lies in the graph's own order, the batch first and free. Every sum with the quantiser behind it is one operator, whose
factors, scales and biases are those with which ONNX Runtime's arithmetic hits every threshold (int8/search.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from greenedge.graph import (Add, Concat, Conv, ConvTranspose, Dense, DepthToSpace, Edge, Graph, Input, MaxPool, Op, Pad, Requantise, Reshape,
                             SumPool, Transpose, Upsample)
from greenedge.int8.arithmetic import LEAST, MOST
from greenedge.int8.layers import Layer, scaled
from greenedge.int8.levels import LEVELS, Encoding
from greenedge.int8.steps import SUMS, identity, prepared

OPSET, IR = 13, 8  # the oldest with per-channel QuantizeLinear: ONNX Runtime 1.8 and later read the file
CONTRIB = "com.microsoft"
SHIFT = 128  # activations are stored as uint8 = int8 + 128: x86's 8-bit products take an unsigned input


@dataclass(frozen=True, eq=False)
class Emitted:
    """A file, the proofs of its layers, and how each stored edge is encoded; tensors are named as the edges are."""

    content: bytes
    layers: tuple[Layer, ...]
    codes: dict[str, Encoding]


@dataclass
class _File:
    """One file in the making."""

    graph: Graph
    nodes: list = field(default_factory=list)
    constants: list = field(default_factory=list)
    codes: dict[str, Encoding] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def constant(self, name: str, values, kind=np.float32) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, kind), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{output}/{kind}", domain=domain, **attributes))
        return output


def write_file(graph: Graph) -> Emitted:
    """The file for a graph against which there is no reason (rules.py); the same graph gives the same bytes."""
    file = _File(prepared(graph))
    for op in file.graph.ops:
        _emit(file, op)
    own = {edge: code for edge, code in file.codes.items() if edge in graph.edges}
    return Emitted(_model(file, graph), tuple(file.layers), own)


def _model(file: _File, graph: Graph) -> bytes:
    from onnx import TensorProto, helper

    def value(edge: str):
        return helper.make_tensor_value_info(edge, TensorProto.UINT8, ["N", *graph.edges[edge].shape])

    body = helper.make_graph(file.nodes, graph.name, [value(e) for e in graph.inputs], [value(e) for e in dict.fromkeys(graph.outputs)],
                             file.constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=IR, producer_name="greenedge").SerializeToString(deterministic=True)


def code_of(lo: int, hi: int, zero_level: int | None = None) -> Encoding:
    """Levels lo … hi at the top of int8, which saturates there; a Clip bounds the bottom, so the zero point is free."""
    assert hi - lo <= LEVELS, "more levels than int8 holds"
    return Encoding(lo, hi, min(max(0, lo), hi) if zero_level is None else zero_level, 1.0, "NONE")


def _emit(file: _File, op: Op) -> None:
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
        file.codes[op.output] = _MOVES[type(op)](file, op)


def stored_unquantised(graph: Graph, op: Op) -> bool:
    """Whether something other than a quantiser reads the accumulators of `op`: they are then stored as they are."""
    return op.output in graph.outputs or any(not isinstance(reader, Requantise) for reader in graph.consumers(op.output))


def _code(graph: Graph, edge: str, lo: int, hi: int) -> Encoding:
    """With the zero level that the edge's readers pad with, where they agree on one."""
    levels = {reader.pad_value for reader in graph.consumers(edge) if isinstance(reader, (Conv, SumPool)) and any(reader.pads)}
    return code_of(lo, hi, levels.pop() if len(levels) == 1 and lo <= min(levels) <= hi else None)


# -- sums with their quantisers ---------------------------------------------------------------------------------------------


def _quantised(file: _File, op: Op | None, step: Requantise, code: Encoding) -> None:
    """One operator for a sum (None: for stored levels alone) and its quantiser, and the clip of its bottom."""
    low = code.bounds[0]
    clips = low > LEAST
    written = f"{step.output}/whole" if clips else step.output
    _SUMS.get(type(op), _elementwise)(file, op, step, code, written)
    if clips:
        bounds = [file.constant(f"{step.output}/{name}", value + SHIFT, np.uint8) for name, value in (("low", low), ("high", MOST))]
        file.node("Clip", [written, *bounds], step.output)
    file.codes[step.output] = code


def _scaled(file: _File, operator: str, name: str, step: Requantise, weight: np.ndarray, source: Encoding, code: Encoding):
    chosen = scaled(operator, name, step, weight, source, code)
    file.layers.append(chosen.layer)
    return chosen


def _numbers(file: _File, edge: str, source: Encoding, code: Encoding) -> tuple[list[str], list[str]]:
    """(scale and zero point of the input, of the output)."""
    def pair(name: str, c: Encoding) -> list[str]:
        return [file.constant(f"{edge}/{name}_scale", c.scale), file.constant(f"{edge}/{name}_zero", c.zero_point + SHIFT, np.uint8)]

    return pair("x", source), pair("y", code)


def _dense(file: _File, op: Dense, step: Requantise, code: Encoding, written: str) -> None:
    source, edge, tensor = file.codes[op.inputs[0]], step.output, op.inputs[0]
    chosen = _scaled(file, "QGemm", op.name, step, op.weight.T, source, code)
    x, y = _numbers(file, edge, source, code)
    w = [file.constant(f"{edge}/weight", chosen.weight.T, np.int8), file.constant(f"{edge}/weight_scale", chosen.scale),
         file.constant(f"{edge}/weight_zero", np.zeros(len(chosen.scale)), np.int8)]
    shape = file.graph.edges[op.output].shape
    rows = len(shape) > 1
    if rows:
        tensor = file.node("Reshape", [tensor, file.constant(f"{edge}/rows", [-1, len(op.weight)], np.int64)], f"{edge}/in_rows")
    bias = file.constant(f"{edge}/bias", chosen.bias, np.int32)
    file.node("QGemm", [tensor, *x, *w, bias, *y], f"{written}/rows" if rows else written, CONTRIB)
    if rows:
        file.node("Reshape", [f"{written}/rows", file.constant(f"{edge}/shape", [-1, *shape], np.int64)], written)


def _convolution(file: _File, tensor: str, source: Encoding, weight: np.ndarray, name: str, step: Requantise, code: Encoding, written: str,
                 **attributes) -> None:
    """QLinearConv with weights (O, I/groups, *kernel)."""
    edge = step.output
    chosen = _scaled(file, "QLinearConv", name, step, weight.reshape(len(weight), -1), source, code)
    x, y = _numbers(file, edge, source, code)
    w = [file.constant(f"{edge}/weight", chosen.weight.reshape(weight.shape), np.int8), file.constant(f"{edge}/weight_scale", chosen.scale),
         file.constant(f"{edge}/weight_zero", np.zeros(len(weight)), np.int8)]
    file.node("QLinearConv", [tensor, *x, *w, *y, file.constant(f"{edge}/bias", chosen.bias, np.int32)], written,
              kernel_shape=list(weight.shape[2:]), **attributes)


def _conv(file: _File, op: Conv, step: Requantise, code: Encoding, written: str) -> None:
    source = file.codes[op.inputs[0]]
    tensor, pads = _pads(file, op, source)
    _convolution(file, tensor, source, op.weight, op.name, step, code, written, strides=list(op.strides), pads=pads,
                 dilations=list(op.dilations), group=op.groups)


def _sum_pool(file: _File, op: SumPool, step: Requantise, code: Encoding, written: str) -> None:
    """A depthwise convolution with weights of one."""
    source, channels = file.codes[op.inputs[0]], file.graph.edges[op.inputs[0]].shape[0]
    tensor, pads = _pads(file, op, source)
    _convolution(file, tensor, source, np.ones((channels, 1, *op.kernel), np.int64), op.name, step, code, written, strides=list(op.strides),
                 pads=pads, group=channels)


def _pads(file: _File, op: Conv | SumPool, source: Encoding) -> tuple[str, list[int]]:
    """QLinearConv pads with the zero point; another level is padded first."""
    if not any(op.pads) or op.pad_value == source.zero_level:
        return op.inputs[0], list(op.pads)
    return _padded(file, op.inputs[0], op.pads, op.pad_value + source.offset, f"{op.output}/padded"), [0] * len(op.pads)


def _padded(file: _File, tensor: str, pads: Sequence[int], stored: int, output: str, rank: int | None = None) -> str:
    """Pads the last axes (begin…, end…); negative numbers cut."""
    n = len(pads) // 2
    rank = rank or n + 2
    whole = [*[0] * (rank - n), *pads[:n], *[0] * (rank - n), *pads[n:]]
    return file.node("Pad", [tensor, file.constant(f"{output}/pads", whole, np.int64), file.constant(f"{output}/level", stored + SHIFT, np.uint8)], output,
                     mode="constant")


def _conv_transpose(file: _File, op: ConvTranspose, step: Requantise, code: Encoding, written: str) -> None:
    """Zeros between the samples, then a convolution with the kernel turned round."""
    source, shape, n = file.codes[op.inputs[0]], file.graph.edges[op.inputs[0]].shape, len(op.strides)
    zero = source.offset  # the int8 of level 0
    tensor, edge = op.inputs[0], step.output
    spread = [v for size in shape[1:] for v in (size, 1)]
    if any(s > 1 for s in op.strides):
        tensor = file.node("Reshape", [tensor, file.constant(f"{edge}/apart", [0, shape[0], *spread], np.int64)], f"{edge}/apart_")
        after = [v for s in op.strides for v in (0, s - 1)]
        tensor = _padded(file, tensor, [*[0] * len(after), *after], zero, f"{edge}/zeros", len(after) + 2)
        wide = [size * s for size, s in zip(shape[1:], op.strides)]
        tensor = file.node("Reshape", [tensor, file.constant(f"{edge}/wide", [0, shape[0], *wide], np.int64)], f"{edge}/wide_")
    reach = [(k - 1) * d for k, d in zip(op.weight.shape[2:], op.dilations)]
    begin = [r - p for r, p in zip(reach, op.pads[:n])]
    end = [r - p + o - (s - 1) for r, p, o, s in zip(reach, op.pads[n:], op.output_padding, op.strides)]
    tensor = _padded(file, tensor, [*begin, *end], zero, f"{edge}/around")
    per_in, per_out = op.weight.shape[0] // op.groups, op.weight.shape[1]
    turned = op.weight[(slice(None), slice(None), *(slice(None, None, -1) for _ in reach))]
    weight = turned.reshape(op.groups, per_in, per_out, *turned.shape[2:]).swapaxes(1, 2).reshape(-1, per_in, *turned.shape[2:])
    _convolution(file, tensor, source, weight, op.name, step, code, written, dilations=list(op.dilations), group=op.groups)


def _elementwise(file: _File, op: Add | None, step: Requantise, code: Encoding, written: str) -> None:
    """Additions, and levels alone: whole numbers in float32 (exact), times a scale, to int8 by QuantizeLinear: the same arithmetic."""
    edge = step.output
    sources, multipliers = (op.inputs, op.multipliers) if op is not None else (step.inputs, (1,))
    name = op.name if op is not None else step.name
    chosen = _scaled(file, "QuantizeLinear", name, step, np.ones((len(step.thresholds), 1), np.int64), code_of(0, 0), code)
    shape = [1] * (len(file.graph.edges[sources[0]].shape) + 1)
    shape[step.axis + 1] = -1
    factor, bias = chosen.weight.reshape(shape), chosen.bias.reshape(shape)
    parts = []
    for k, (source, multiplier) in enumerate(zip(sources, multipliers)):
        bias = bias - factor * multiplier * (file.codes[source].offset + SHIFT)
        part = file.node("Cast", [source], f"{edge}/float{k}", to=1)
        parts.append(file.node("Mul", [part, file.constant(f"{edge}/factor{k}", factor * multiplier)], f"{edge}/part{k}"))
    total = parts[0]
    for k, part in enumerate(parts[1:]):
        total = file.node("Add", [total, part], f"{edge}/total{k}")
    total = file.node("Add", [total, file.constant(f"{edge}/bias", bias)], f"{edge}/acc")
    total = file.node("Mul", [total, file.constant(f"{edge}/scale", chosen.scale.reshape(shape))], f"{edge}/real")
    file.node("QuantizeLinear", [total, file.constant(f"{edge}/one", 1.0), file.constant(f"{edge}/zero", code.zero_point + SHIFT, np.uint8)], written)


# -- what moves values and computes nothing ---------------------------------------------------------------------------------


def _max_pool(file: _File, op: MaxPool) -> Encoding:
    more = {"dilations": list(op.dilations)} if op.dilations else {}
    file.node("MaxPool", op.inputs, op.output, kernel_shape=list(op.kernel), strides=list(op.strides), pads=list(op.pads), **more)
    return file.codes[op.inputs[0]]


def _reshape(file: _File, op: Reshape) -> Encoding:
    file.node("Reshape", [op.inputs[0], file.constant(f"{op.output}/shape", [0, *op.shape], np.int64)], op.output)
    return file.codes[op.inputs[0]]


def _transpose(file: _File, op: Transpose) -> Encoding:
    file.node("Transpose", op.inputs, op.output, perm=[0, *(axis + 1 for axis in op.perm)])
    return file.codes[op.inputs[0]]


def _upsample(file: _File, op: Upsample) -> Encoding:
    """Repeats along each axis: a new axis of length 1, widened, and folded in."""
    shape = file.graph.edges[op.inputs[0]].shape
    apart = [v for size in shape for v in (size, 1)]
    wide = [v for size, factor in zip(shape, op.factors) for v in (size, factor)]
    tensor = file.node("Reshape", [op.inputs[0], file.constant(f"{op.output}/apart", [0, *apart], np.int64)], f"{op.output}/apart_")
    tensor = file.node("Expand", [tensor, file.constant(f"{op.output}/wide", [1, *wide], np.int64)], f"{op.output}/wide_")
    target = file.graph.edges[op.output].shape
    file.node("Reshape", [tensor, file.constant(f"{op.output}/shape", [0, *target], np.int64)], op.output)
    return file.codes[op.inputs[0]]


def _depth_to_space(file: _File, op: DepthToSpace) -> Encoding:
    channels, height, width = file.graph.edges[op.inputs[0]].shape
    b, out = op.block, channels // op.block ** 2
    split, perm = ([b, b, out], [0, 3, 4, 1, 5, 2]) if op.mode == "DCR" else ([out, b, b], [0, 1, 4, 2, 5, 3])
    tensor = file.node("Reshape", [op.inputs[0], file.constant(f"{op.output}/blocks", [0, *split, height, width], np.int64)], f"{op.output}/blocks_")
    tensor = file.node("Transpose", [tensor], f"{op.output}/turned", perm=perm)
    file.node("Reshape", [tensor, file.constant(f"{op.output}/shape", [0, out, height * b, width * b], np.int64)], op.output)
    return file.codes[op.inputs[0]]


def _pad(file: _File, op: Pad) -> Encoding:
    code = file.codes[op.inputs[0]]
    _padded(file, op.inputs[0], op.pads, op.value + code.offset, op.output, len(file.graph.edges[op.output].shape) + 1)
    return code


def _concat(file: _File, op: Concat) -> Encoding:
    codes = [file.codes[edge] for edge in op.inputs]
    common = codes[0] if all(c.offset == codes[0].offset for c in codes) else code_of(min(c.lo for c in codes), max(c.hi for c in codes))
    parts = []
    for k, (edge, code) in enumerate(zip(op.inputs, codes)):
        if code.offset != common.offset:
            name = f"{op.output}/part{k}"
            about = Edge(edge, file.graph.edges[edge].shape, code.lo, code.hi)
            _quantised(file, None, identity(about, name), common)
            edge = name
        parts.append(edge)
    file.node("Concat", parts, op.output, axis=op.axis + 1)
    return code_of(min(c.lo for c in codes), max(c.hi for c in codes)) if common is not codes[0] else _wider(common, codes)


def _wider(common: Encoding, codes: Sequence[Encoding]) -> Encoding:
    """The common offset for the levels of all parts."""
    return Encoding(min(c.lo for c in codes), common.hi, common.zero_level, 1.0, "NONE")


_SUMS = {Dense: _dense, Conv: _conv, SumPool: _sum_pool, ConvTranspose: _conv_transpose, Add: _elementwise}
_MOVES = {MaxPool: _max_pool, Reshape: _reshape, Transpose: _transpose, Upsample: _upsample, DepthToSpace: _depth_to_space, Pad: _pad,
          Concat: _concat}
