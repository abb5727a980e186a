"""ONNX's own checker and shape inference, in full mode, over a model in which quantisers stand as identities.

Neither knows QONNX's operators; all of them keep the shape and the element type of what they quantise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from greenedge.errors import GreenedgeError, ReasonKind, Refused
from greenedge.frontends.domains import QUANTISERS

if TYPE_CHECKING:
    import onnx

_CUT = ("greenedge.starts", "greenedge.ends")
Shapes = dict[str, tuple[int, ...]]
MAX_ELEMENTS = 1 << 28
_LARGE = 1 << 10  # elements; inference reads the values of small constants alone, which are shapes and axes
_NODE = re.compile(r"op_type:\s*(\w+),?\s*node name:\s*([^)]*)\)")


def _rejections() -> tuple[type[Exception], ...]:
    """What onnx raises for a model that it does not take."""
    import onnx

    own = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError)
    return (*own, RuntimeError, ValueError, TypeError, IndexError, MemoryError)


def infer_values(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, str | None]:
    """The stand-in with value_info of every tensor, and what ONNX's checker says against the model, None for nothing.

    What it rejects has the value_info that can be had all the same.
    """
    import onnx

    stand_in = _stand_in(proto)
    try:
        inferred = onnx.shape_inference.infer_shapes(stand_in, check_type=True, strict_mode=True, data_prop=True)
        if all(value.type.tensor_type.HasField("shape") for value in inferred.graph.output):
            onnx.checker.check_model(inferred)
        return inferred, None
    except _rejections() as error:
        complaint = describe_error(error)
    try:
        return onnx.shape_inference.infer_shapes(stand_in, data_prop=False), complaint
    except _rejections():
        return stand_in, complaint


def check_nodes(proto: onnx.ModelProto) -> None:
    """Raises GreenedgeError for a standard operator without the inputs and attributes that ONNX's schema asks for."""
    import onnx

    context = onnx.checker.C.CheckerContext()
    context.ir_version = onnx.IR_VERSION
    context.opset_imports = {entry.domain: entry.version for entry in proto.opset_import}
    for node in proto.graph.node:
        if node.domain or not onnx.defs.has(node.op_type):
            continue
        if any(attribute.HasField("g") for attribute in node.attribute):
            continue  # it reads tensors around it, which this check does not know; no such operator is lowered
        try:
            onnx.checker.check_node(node, context)
        except onnx.checker.ValidationError as error:
            reason = next(
                (line.strip() for line in str(error).splitlines() if line.strip()), "it does not follow its schema"
            )
            raise GreenedgeError(
                f"node {node.name} is malformed ({reason.rstrip('.')}); export the model again."
            ) from None


def describe_error(error: Exception) -> str:
    """What ONNX says, in one line without its places in C++."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = next((line for line in lines if "error" in line.lower()), lines[0] if lines else type(error).__name__)
    node = _NODE.search(str(error))
    text = _NODE.sub("", text).removeprefix("[ShapeInferenceError]").removeprefix("[TypeInferenceError]")
    text = re.sub(r"\[\w+Error\]|\(\s*\)|^\s*Inference error\(s\):", "", text).strip(" :.()")
    text = re.sub(r"\s+", " ", text)[:160]
    return f"{node.group(2) or node.group(1)}: {text}" if node else text


def infer_ranks(proto: onnx.ModelProto, unknown: Collection[str]) -> dict[str, int]:
    """{tensor: number of axes} as far as ONNX infers it, where the nodes named `unknown` keep those of their data."""
    import onnx

    stand_in = _stand_in(proto, unknown)
    del stand_in.graph.value_info[:]
    for value in stand_in.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(stand_in)
    except _rejections():
        inferred = stand_in
    values = [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]
    ranks = {t.name: len(t.dims) for t in proto.graph.initializer}
    return ranks | {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}


def read_shapes(inferred: onnx.ModelProto) -> Shapes:
    """{tensor: shape} of all tensors whose shape is fully known."""
    shapes: Shapes = {}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") and d.dim_value >= 0 for d in kind.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    return shapes


def require_bounded(shapes: Shapes) -> None:
    """Raises Refused for a tensor that no supported target holds, before anything of its size is computed."""
    for tensor, shape in shapes.items():
        if math.prod(shape) > MAX_ELEMENTS:
            raise Refused(
                ReasonKind.TOO_BIG,
                f"tensor {tensor!r} of shape {shape}",
                f"a tensor has at most {MAX_ELEMENTS:,} elements",
                "correct the sizes, or make the layer smaller",
            )


def write_values(proto: onnx.ModelProto, inferred: onnx.ModelProto) -> None:
    """value_info of every tensor between the nodes and the shapes of the outputs, as inferred, in place."""
    inner = {name for node in proto.graph.node for name in node.output} - {v.name for v in proto.graph.output}
    known = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.output)}
    fresh = [known[name] for node in proto.graph.node for name in node.output if name in inner and name in known]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(fresh)
    for value in proto.graph.output:
        if value.name in known:
            value.type.CopyFrom(known[value.name].type)


def _stand_in(proto: onnx.ModelProto, unknown: Collection[str] = ()) -> onnx.ModelProto:
    """The model with identities for quantisers, inputs for large constants and slices for the nodes named `unknown`."""
    import onnx

    stand_in = onnx.ModelProto(ir_version=max(proto.ir_version, 4))
    stand_in.opset_import.extend(entry for entry in proto.opset_import if entry.domain == "")
    graph = stand_in.graph
    graph.name = proto.graph.name or "model"
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    if unknown:  # a slice from and to what nobody knows keeps the axes, and nothing is known of their sizes
        graph.input.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.INT64, ["count"]) for n in _CUT)
    for tensor in proto.graph.initializer:
        if int(np.prod(tensor.dims, dtype=object)) > _LARGE:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        else:
            graph.initializer.append(tensor)
    for node in proto.graph.node:
        if node.name in unknown:
            inputs, outputs = [*node.input[:1], *_CUT], node.output[:1]
            graph.node.append(onnx.helper.make_node("Slice", inputs, outputs, name=node.name))
        elif node.op_type in QUANTISERS and node.domain:
            inputs, outputs = node.input[:1], node.output[:1]
            graph.node.append(onnx.helper.make_node("Identity", inputs, outputs, name=node.name))
        else:
            graph.node.append(node)
    return stand_in
