"""Operators that move values and compute nothing; each gives the encoding of what it writes."""

from __future__ import annotations

import numpy as np

from greenedge.backends.int8.onnxruntime.onnx_builder import File, padded
from greenedge.backends.int8.quant_params import Encoding
from greenedge.graph import DepthToSpace, MaxPool, Pad, Reshape, Transpose, Upsample


def _max_pool(file: File, op: MaxPool) -> Encoding:
    more = {"dilations": list(op.dilations)} if op.dilations else {}
    file.node(
        "MaxPool",
        op.inputs,
        op.output,
        kernel_shape=list(op.kernel),
        strides=list(op.strides),
        pads=list(op.pads),
        **more,
    )
    return file.codes[op.inputs[0]]


def _reshape(file: File, op: Reshape) -> Encoding:
    file.node("Reshape", [op.inputs[0], file.constant(f"{op.output}/shape", [0, *op.shape], np.int64)], op.output)
    return file.codes[op.inputs[0]]


def _transpose(file: File, op: Transpose) -> Encoding:
    file.node("Transpose", op.inputs, op.output, perm=[0, *(axis + 1 for axis in op.perm)])
    return file.codes[op.inputs[0]]


def _upsample(file: File, op: Upsample) -> Encoding:
    """Repeats along each axis: a new axis of length 1, widened, and folded in."""
    shape = file.graph.edges[op.inputs[0]].shape
    apart = [v for size in shape for v in (size, 1)]
    wide = [v for size, factor in zip(shape, op.factors) for v in (size, factor)]
    tensor = file.node(
        "Reshape", [op.inputs[0], file.constant(f"{op.output}/apart", [0, *apart], np.int64)], f"{op.output}/apart_"
    )
    tensor = file.node(
        "Expand", [tensor, file.constant(f"{op.output}/wide", [1, *wide], np.int64)], f"{op.output}/wide_"
    )
    target = file.graph.edges[op.output].shape
    file.node("Reshape", [tensor, file.constant(f"{op.output}/shape", [0, *target], np.int64)], op.output)
    return file.codes[op.inputs[0]]


def _depth_to_space(file: File, op: DepthToSpace) -> Encoding:
    channels, height, width = file.graph.edges[op.inputs[0]].shape
    b, out = op.block, channels // op.block**2
    split, perm = ([b, b, out], [0, 3, 4, 1, 5, 2]) if op.mode == "DCR" else ([out, b, b], [0, 1, 4, 2, 5, 3])
    tensor = file.node(
        "Reshape",
        [op.inputs[0], file.constant(f"{op.output}/blocks", [0, *split, height, width], np.int64)],
        f"{op.output}/blocks_",
    )
    tensor = file.node("Transpose", [tensor], f"{op.output}/turned", perm=perm)
    file.node(
        "Reshape", [tensor, file.constant(f"{op.output}/shape", [0, out, height * b, width * b], np.int64)], op.output
    )
    return file.codes[op.inputs[0]]


def _pad(file: File, op: Pad) -> Encoding:
    code = file.codes[op.inputs[0]]
    padded(file, op.inputs[0], op.pads, op.value + code.offset, op.output, len(file.graph.edges[op.output].shape) + 1)
    return code


MOVES = {
    MaxPool: _max_pool,
    Reshape: _reshape,
    Transpose: _transpose,
    Upsample: _upsample,
    DepthToSpace: _depth_to_space,
    Pad: _pad,
}
