"""The float network that corresponds to an integer graph, as ONNX without quantisers: the baseline of every comparison.

Each sum and the quantiser behind it become one layer with a bias (batch norm folded in, as in a float deployment), with
a ReLU where the levels begin at 0, and without rounding. Values are levels times a scale of each edge, chosen so that
additions and pools need no factor of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.backends.int8.legalise import SUMS, identity, prepared
from greenedge.backends.int8.search import line
from greenedge.graph import (
    Add,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    DepthToSpace,
    Graph,
    Input,
    MaxPool,
    Op,
    Pad,
    Requantise,
    Reshape,
    SumPool,
    Transpose,
    Upsample,
)

if TYPE_CHECKING:
    import onnx

_OPSET = 13
_CLOSE = 1e-12


@dataclass
class _File:
    """The model under construction; scale[edge]: the value of one level there."""

    graph: Graph
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    scale: dict[str, float] = field(default_factory=dict)

    def constant(
        self,
        name: str,
        values: np.ndarray | Sequence[int] | float,
        kind: type[np.float32] | type[np.int64] = np.float32,
    ) -> str:
        """Adds an initialiser and returns its name."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, kind), name))
        return name

    def node(self, kind: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{output}/{kind}", **attributes))
        return output


def float_model(graph: Graph) -> onnx.ModelProto:
    """An ONNX model from float levels (N, *shape) to float levels, its tensors named as the graph's edges.

    Every step function must be monotone; one that is not a straight line is replaced by the line nearest to it.
    """
    from onnx import TensorProto, helper

    file = _File(prepared(graph))
    for op in file.graph.ops:
        _emit(file, op)
    outputs = list(dict.fromkeys(graph.outputs))
    for edge in outputs:
        file.node("Mul", [_name(edge), file.constant(f"{edge}/step", 1 / file.scale[edge])], edge)

    def describe(edge: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(edge, TensorProto.FLOAT, ["N", *graph.edges[edge].shape])

    body = helper.make_graph(
        file.nodes, graph.name, list(map(describe, graph.inputs)), list(map(describe, outputs)), file.constants
    )
    return helper.make_model(
        body, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8, producer_name="greenedge"
    )


def _name(edge: str) -> str:
    return f"{edge}/value"


def _emit(file: _File, op: Op) -> None:
    graph = file.graph
    if isinstance(op, Input):
        file.scale[op.output] = 1.0
        file.node("Identity", [op.output], _name(op.output))
    elif isinstance(op, Requantise):
        source = graph.producer(op.inputs[0])
        fused = isinstance(source, SUMS) and not _has_other_readers(graph, source)
        _layer(file, source if fused else None, op)
    elif isinstance(op, SUMS):
        if _has_other_readers(graph, op):
            edge = graph.edges[op.output]
            _layer(file, op, identity(edge, op.output) if edge.hi - edge.lo < 1 << 12 else None)
    else:
        _move(file, op)


def _has_other_readers(graph: Graph, op: Op) -> bool:
    """Whether something other than a quantiser reads the operation's accumulators."""
    return op.output in graph.outputs or any(
        not isinstance(reader, Requantise) for reader in graph.consumers(op.output)
    )


def _layer(file: _File, op: Op | None, step: Requantise | None) -> None:
    """A sum (None: stored levels), the line behind it (None: the identity), and a ReLU where its levels begin at 0."""
    last = step or op
    assert last is not None, "a layer has a sum or a quantiser"
    edge = last.output
    slope, offset = line(step) if step is not None else (np.ones(1), np.zeros(1))
    rectified = step is not None and step.lo == 0 and not step.name.endswith("/stored")
    written = f"{edge}/linear" if rectified else _name(edge)
    if isinstance(op, Dense):
        _dense(file, op, slope, offset, written)
    elif isinstance(op, (Conv, ConvTranspose)):
        _conv(file, op, slope, offset, written)
    else:
        _scaled_sum(file, op, step, slope, offset, written)
        file.scale[edge] = file.scale.pop("/next")
    file.scale.setdefault(edge, 1.0)
    if rectified:
        file.node("Relu", [written], _name(edge))


def _dense(file: _File, op: Dense, slope: np.ndarray, offset: np.ndarray, written: str) -> None:
    weight = op.weight * slope / file.scale[op.inputs[0]]
    inputs = [_name(op.inputs[0]), file.constant(f"{written}/weight", weight)]
    bias = file.constant(f"{written}/bias", np.broadcast_to(offset, weight.shape[1:]))
    if len(file.graph.edges[op.output].shape) == 1:
        file.node("Gemm", [*inputs, bias], written)
    else:
        file.node("Add", [file.node("MatMul", inputs, f"{written}/products"), bias], written)


def _conv(file: _File, op: Conv | ConvTranspose, slope: np.ndarray, offset: np.ndarray, written: str) -> None:
    channels = op.weight.shape[1] * op.groups if isinstance(op, ConvTranspose) else len(op.weight)
    slope, source = np.broadcast_to(slope, (channels,)) / file.scale[op.inputs[0]], _name(op.inputs[0])
    ones = (1,) * (op.weight.ndim - 2)
    more: dict[str, list[int]] = {}
    if isinstance(op, ConvTranspose):
        by_input = np.repeat(slope.reshape(op.groups, 1, -1), op.weight.shape[0] // op.groups, axis=1)
        weight = op.weight * by_input.reshape(op.weight.shape[0], -1, *ones)
        more, pads = {"output_padding": list(op.output_padding)}, op.pads
    else:
        weight, pads = op.weight * slope.reshape(-1, 1, *ones), op.pads
        if any(pads) and op.pad_value:
            source = _add_pad(file, source, pads, op.pad_value * file.scale[op.inputs[0]], f"{written}/padded")
            pads = (0,) * len(pads)
    bias = file.constant(f"{written}/bias", np.broadcast_to(offset, (channels,)))
    file.node(
        "ConvTranspose" if isinstance(op, ConvTranspose) else "Conv",
        [source, file.constant(f"{written}/weight", weight), bias],
        written,
        strides=list(op.strides),
        pads=list(pads),
        dilations=list(op.dilations),
        group=op.groups,
        kernel_shape=list(op.weight.shape[2:]),
        **more,
    )


def _add_pad(file: _File, source: str, pads: Sequence[int], value: float, output: str, rank: int | None = None) -> str:
    """Pads the last axes of `source`; rank with the batch axis, None for a batch, a channel and the axes in pads."""
    n = len(pads) // 2
    rank = rank or n + 2
    whole = [*[0] * (rank - n), *pads[:n], *[0] * (rank - n), *pads[n:]]
    return file.node(
        "Pad",
        [source, file.constant(f"{output}/pads", whole, np.int64), file.constant(f"{output}/level", value)],
        output,
    )


def _scaled_sum(
    file: _File, op: Op | None, step: Requantise | None, slope: np.ndarray, offset: np.ndarray, written: str
) -> None:
    """Additions, pools and levels alone: the slope becomes the scale of the output, unless it differs by channel."""
    first = op or step
    assert first is not None, "a layer has a sum or a quantiser"
    sources = first.inputs
    scale = file.scale[sources[0]]
    if isinstance(op, Add):
        parts = [
            _scale_by(file, edge, m * scale / file.scale[edge], f"{written}/part{k}")
            for k, (edge, m) in enumerate(zip(sources, op.multipliers, strict=True))
        ]
        total = parts[0]
        for k, part in enumerate(parts[1:]):
            total = file.node("Add", [total, part], f"{written}/sum{k}")
    elif isinstance(op, SumPool):
        area, shape = int(np.prod(op.kernel)), file.graph.edges[op.inputs[0]].shape
        total, scale = f"{written}/mean", scale / area
        if tuple(op.kernel) == tuple(shape[1:]) and not any(op.pads):
            file.node("GlobalAveragePool", [_name(sources[0])], total)
        else:
            source, pads = _name(sources[0]), op.pads
            if any(pads) and op.pad_value:
                source, pads = (
                    _add_pad(file, source, pads, op.pad_value * file.scale[sources[0]], f"{written}/padded"),
                    (0,) * len(op.pads),
                )
            file.node(
                "AveragePool",
                [source],
                total,
                kernel_shape=list(op.kernel),
                strides=list(op.strides),
                pads=list(pads),
                count_include_pad=1,
            )
    else:
        total = _name(sources[0])
    by_channel = [1] * (len(file.graph.edges[sources[0]].shape) + 1)
    by_channel[step.axis + 1 if step is not None else 1] = -1
    one = np.ptp(slope) <= _CLOSE * np.abs(slope).max() and slope[0] > 0
    if not one:
        total = file.node(
            "Mul", [total, file.constant(f"{written}/slope", (slope / scale).reshape(by_channel))], f"{written}/scaled"
        )
    file.scale["/next"] = scale / float(slope[0]) if one else 1.0
    small = np.abs(offset).max() < 1e-6 * (max(1, step.hi - step.lo) if step is not None else 1)
    if small:
        file.node("Identity", [total], written)
    else:
        file.node(
            "Add",
            [total, file.constant(f"{written}/offset", (offset * file.scale["/next"]).reshape(by_channel))],
            written,
        )


def _scale_by(file: _File, edge: str, factor: float, output: str) -> str:
    """The edge's value times a factor; no node where that is 1."""
    if abs(factor - 1) <= _CLOSE:
        return _name(edge)
    return file.node("Mul", [_name(edge), file.constant(f"{output}/factor", factor)], output)


def _move(file: _File, op: Op) -> None:
    """An operation that moves values and computes none."""
    source, output, graph = _name(op.inputs[0]), _name(op.output), file.graph
    file.scale[op.output] = file.scale[op.inputs[0]]
    shape, target = graph.edges[op.inputs[0]].shape, graph.edges[op.output].shape
    if isinstance(op, MaxPool):
        more = {"dilations": list(op.dilations)} if op.dilations else {}
        file.node(
            "MaxPool",
            [source],
            output,
            kernel_shape=list(op.kernel),
            strides=list(op.strides),
            pads=list(op.pads),
            **more,
        )
    elif isinstance(op, Reshape):
        file.node("Reshape", [source, file.constant(f"{output}/shape", [0, *op.shape], np.int64)], output)
    elif isinstance(op, Transpose):
        file.node("Transpose", [source], output, perm=[0, *(axis + 1 for axis in op.perm)])
    elif isinstance(op, Pad):
        _add_pad(file, source, op.pads, op.value * file.scale[op.inputs[0]], output, len(target) + 1)
    elif isinstance(op, Upsample):
        apart = [v for size in shape for v in (size, 1)]
        wide = [v for size, factor in zip(shape, op.factors, strict=True) for v in (size, factor)]
        tensor = file.node(
            "Reshape", [source, file.constant(f"{output}/apart", [0, *apart], np.int64)], f"{output}/apart_"
        )
        tensor = file.node("Expand", [tensor, file.constant(f"{output}/wide", [1, *wide], np.int64)], f"{output}/wide_")
        file.node("Reshape", [tensor, file.constant(f"{output}/shape", [0, *target], np.int64)], output)
    elif isinstance(op, DepthToSpace):
        file.node("DepthToSpace", [source], output, blocksize=op.block, mode=op.mode)
    else:
        assert isinstance(op, Concat), op
        scale = file.scale[op.inputs[0]]
        parts = [
            _scale_by(file, edge, scale / file.scale[edge], f"{output}/part{k}") for k, edge in enumerate(op.inputs)
        ]
        file.node("Concat", parts, output, axis=op.axis + 1)
