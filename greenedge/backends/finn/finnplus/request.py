"""What FINN+ is asked: the network as FINN's own hardware operations (NHWC, our folding): job.json, an array per layer.

Padding is a node of its own there (FMPadding). An Add with multipliers other than 1 goes as a plain ElementwiseAdd:
FINN has no other, and its cycles are the same.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np

from greenedge.backends.finn.design import Design
from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.layer import Fold, Layer, Wire
from greenedge.graph import Edge
from greenedge.graph.ops.base import Ints

# FINN+ asks for an AMD part; this one has none of its rules on weight ranges. Our own units take its place.
VIRTUAL_PART = "xczu3eg-sbva484-1-e"


@dataclass(frozen=True)
class Node:
    """One of FINN's operations, as job.json holds it, and its weights or thresholds."""

    entry: dict[str, Any]
    data: Ints | None = None


def job_files(design: Design, clock_hz: int) -> dict[str, bytes]:
    """{"job.json": …, "job/LAYER.npy": …} for the worker."""
    entries: list[dict[str, Any]] = []
    files: dict[str, bytes] = {}
    given = {design.network.source.name: 1}  # integers per beat of every wire
    for layer in design.network.layers:
        fold = design.folding.get(layer.name) or Fold(given[layer.source.name])
        given |= {wire.name: fold.pe for wire in layer.results}
        for node in nodes_of(layer, fold):
            if node.data is not None:
                node.entry["data"] = f"job/{layer.name}.npy"
                files[node.entry["data"]] = _npy(node.data)
            entries.append(node.entry)
    renamed = {queue.result.name: queue.source.name for queue in design.network.queues}
    for entry in entries:
        entry["inputs"] = [
            {**tensor, "name": renamed.get(tensor["name"], tensor["name"])} for tensor in entry["inputs"]
        ]
    job = {"nodes": entries, "part": VIRTUAL_PART, "clock_ns": 1e9 / clock_hz}
    return {"job.json": (json.dumps(job, indent=1) + "\n").encode(), **files}


@singledispatch
def nodes_of(layer: Layer, fold: Fold) -> list[Node]:
    """The layer as FINN's operations, in order."""
    raise AssertionError(f"FINN+ is asked about no layer such as {layer}")


@nodes_of.register
def _queue(layer: hw.Queue, fold: Fold) -> list[Node]:
    """FINN+ is asked for cycles, which queues do not change."""
    return []


@nodes_of.register
def _reorder(layer: hw.Reorder, fold: Fold) -> list[Node]:
    """FINN+ has no such layer: what comes behind begins anew."""
    return []


def _tensor(wire: Wire, *shape: int) -> dict[str, Any]:
    return {"name": wire.name, "shape": list(shape) or [1, wire.pixels, wire.channels], "type": _type(wire)}


def _type(wire: Wire) -> str:
    return Edge("", (), wire.lo, wire.hi).dtype


def _node(
    layer: Layer,
    op: str,
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    data: Ints | None = None,
    name: str | None = None,
    **attributes: Any,
) -> Node:
    """One operation with FINN's attributes; it is called as the layer unless `name` says otherwise."""
    entry = {"name": name or layer.name, "op": op, "inputs": inputs, "outputs": outputs, "attributes": attributes}
    return Node(entry, data)


def _weight_type(layer: hw.Linear) -> str:
    """FINN's RTL units want two bits at least."""
    return Edge("", (), min(int(layer.weight.min()), -2), max(int(layer.weight.max()), 1)).dtype


@nodes_of.register
def _matvec(layer: hw.MatVec, fold: Fold) -> list[Node]:
    k, m = layer.weight.shape
    return [
        _node(
            layer,
            "MVAU",
            [_tensor(layer.source, 1, layer.vectors, k)],
            [_tensor(layer.result, 1, layer.vectors, m)],
            MW=k,
            MH=m,
            SIMD=fold.simd,
            PE=fold.pe,
            inputDataType=_type(layer.source),
            weightDataType=_weight_type(layer),
            outputDataType=_type(layer.result),
            accDataType=_type(layer.result),
            ActVal=0,
            noActivation=1,
            numInputVectors=[1, layer.vectors],
            data=layer.weight,
        )
    ]


@nodes_of.register
def _depthwise(layer: hw.Depthwise, fold: Fold) -> list[Node]:
    channels, taps = layer.weight.shape
    return [
        _node(
            layer,
            "VVAU",
            [_tensor(layer.source, 1, 1, layer.vectors, channels * taps)],
            [_tensor(layer.result, 1, 1, layer.vectors, channels)],
            Channels=channels,
            Kernel=[1, taps],
            Dim=[1, layer.vectors],
            PE=fold.pe,
            SIMD=1,
            inputDataType=_type(layer.source),
            weightDataType=_weight_type(layer),
            outputDataType=_type(layer.result),
            accDataType=_type(layer.result),
            ActVal=0,
            noActivation=1,
            data=layer.weight.reshape(channels, 1, 1, taps),
        )
    ]


def _padding(layer: hw.Window | hw.Pad, fold: Fold, name: str, result: dict[str, Any]) -> Node:
    wire = layer.source
    size = [layer.height, layer.width]
    return _node(
        layer,
        "FMPadding",
        [_tensor(wire, 1, *size, wire.channels)],
        [result],
        ImgDim=size,
        Padding=list(layer.pads),
        NumChannels=wire.channels,
        SIMD=fold.pe,
        inputDataType=_type(wire),
        name=name,
    )


@nodes_of.register
def _window(layer: hw.Window, fold: Fold) -> list[Node]:
    wire, (rows, columns) = layer.source, layer.out
    height, width = layer.height + layer.pads[0] + layer.pads[2], layer.width + layer.pads[1] + layer.pads[3]
    inside = {
        **_tensor(wire, 1, height, width, wire.channels),
        "name": f"{layer.name}_padded" if any(layer.pads) else wire.name,
    }
    before = [_padding(layer, fold, f"{layer.name}_padding", inside)] if any(layer.pads) else []
    return [
        *before,
        _node(
            layer,
            "ConvolutionInputGenerator",
            [inside],
            [_tensor(layer.result, 1, rows, columns, layer.result.channels)],
            ConvKernelDim=list(layer.kernel),
            IFMChannels=wire.channels,
            IFMDim=[height, width],
            OFMDim=[rows, columns],
            SIMD=fold.pe,
            Stride=list(layer.strides),
            Dilation=list(layer.dilations),
            inputDataType=_type(wire),
            outputDataType=_type(wire),
            depthwise=int(layer.grouped),
            is1D=int(height == 1),
        ),
    ]


@nodes_of.register
def _pad(layer: hw.Pad, fold: Fold) -> list[Node]:
    return [
        _padding(layer, fold, layer.name, _tensor(layer.result, 1, *layer.result.shape[-2:], layer.result.channels))
    ]


@nodes_of.register
def _pool(layer: hw.Pool, fold: Fold) -> list[Node]:
    return [
        _node(
            layer,
            "Pool",
            [_tensor(layer.source)],
            [_tensor(layer.result)],
            Channels=layer.result.channels,
            PE=fold.pe,
            KernelSize=[1, layer.taps],
            Function="MaxPool" if layer.largest else "AccPool",
            OutImgDims=[1, layer.result.pixels],
            InputDataType=_type(layer.source),
            OutputDataType=_type(layer.result),
        )
    ]


@nodes_of.register
def _global(layer: hw.GlobalPool, fold: Fold) -> list[Node]:
    wire = layer.source
    source, result = _tensor(wire, 1, 1, wire.pixels, wire.channels), _tensor(layer.result, 1, 1, 1, wire.channels)
    return [
        _node(
            layer,
            "GlobalAccPool",
            [source],
            [result],
            NumChannels=wire.channels,
            PE=fold.pe,
            inputDataType=_type(wire),
            numInputVectors=[1, 1, wire.pixels],
        )
    ]


@nodes_of.register
def _step(layer: hw.Step, fold: Fold) -> list[Node]:
    data, channels = layer.thresholds, layer.source.channels
    if data is None or layer.fall_bits or not data.size:
        # FINN has rising thresholds only, at least one; its cycles do not depend on them
        data = np.arange(max(1, layer.hi - layer.lo))[None]
    data = np.resize(data if channels % len(data) == 0 else data[:1], (channels, data.shape[1]))
    kind = Edge("", (), min(int(data.min()), -1), int(data.max())).dtype
    return [
        _node(
            layer,
            "Thresholding",
            [_tensor(layer.source)],
            [_tensor(layer.result)],
            NumChannels=channels,
            PE=fold.pe,
            numSteps=data.shape[1],
            ActVal=layer.lo,
            inputDataType=_type(layer.source),
            weightDataType=kind,
            outputDataType=_type(layer.result),
            numInputVectors=[1, layer.source.pixels],
            data=data,
        )
    ]


@nodes_of.register
def _add(layer: hw.Add, fold: Fold) -> list[Node]:
    return [_elementwise("ElementwiseAdd", layer, fold)]


@nodes_of.register
def _multiply(layer: hw.Multiply, fold: Fold) -> list[Node]:
    """FINN counts its factors from 0; its cycles do not depend on that."""
    return [_elementwise("ElementwiseMul", layer, fold)]


def _elementwise(op: str, layer: Layer, fold: Fold) -> Node:
    shape = [1, layer.result.pixels, layer.result.channels]
    a, b = layer.sources
    return _node(
        layer,
        op,
        [_tensor(a, *shape), _tensor(b, *shape)],
        [_tensor(layer.result)],
        PE=fold.pe,
        lhs_dtype=_type(a),
        rhs_dtype=_type(b),
        out_dtype=_type(layer.result),
        lhs_shape=shape,
        rhs_shape=shape,
        out_shape=shape,
        lhs_style="input",
        rhs_style="input",
    )


@nodes_of.register
def _fork(layer: hw.Fork, fold: Fold) -> list[Node]:
    wire = layer.source
    return [
        _node(
            layer,
            "DuplicateStreams",
            [_tensor(wire)],
            [_tensor(copy) for copy in layer.results],
            NumOutputStreams=2,
            NumChannels=wire.channels,
            PE=fold.pe,
            inputDataType=_type(wire),
            numInputVectors=[1, wire.pixels],
        )
    ]


@nodes_of.register
def _concat(layer: hw.Concat, fold: Fold) -> list[Node]:
    turns = layer.sources[0].total // layer.chunks[0]
    inputs = [_tensor(wire, 1, turns, chunk) for wire, chunk in zip(layer.sources, layer.chunks, strict=True)]
    result = _tensor(layer.result, 1, turns, sum(layer.chunks))
    return [
        _node(
            layer,
            "StreamingConcat",
            inputs,
            [result],
            SIMD=fold.pe,
            ChannelsPerStream=list(layer.chunks),
            inputDataTypes=[_type(wire) for wire in layer.sources],
            numInputVectors=[1, turns],
        )
    ]


@nodes_of.register
def _upsample(layer: hw.Upsample, fold: Fold) -> list[Node]:
    height, width = layer.height * layer.factors[0], layer.width * layer.factors[1]
    channels = layer.source.channels
    return [
        _node(
            layer,
            "UpsampleNearestNeighbour",
            [_tensor(layer.source, 1, layer.height, layer.width, channels)],
            [_tensor(layer.result, 1, height, width, channels)],
            SIMD=fold.pe,
            HO=height,
            WO=width,
            HI=layer.height,
            WI=layer.width,
            NumChannels=channels,
            inputDataType=_type(layer.source),
        )
    ]


@nodes_of.register
def _arg_max(layer: hw.ArgMax, fold: Fold) -> list[Node]:
    wire = layer.source
    return [
        _node(
            layer,
            "LabelSelect",
            [_tensor(wire)],
            [_tensor(layer.result)],
            Labels=wire.channels,
            PE=fold.pe,
            K=1,
            inputDataType=_type(wire),
            outputDataType=_type(layer.result),
            numInputVectors=[1, wire.pixels],
        )
    ]


def _npy(array: Ints) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array))
    return buffer.getvalue()
