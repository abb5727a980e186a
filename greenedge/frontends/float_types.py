"""Floating-point tensors of every width as float32, the precision in which the references compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from greenedge.errors import ReasonKind, Refused

if TYPE_CHECKING:
    import onnx

# ONNX's numbers of float16, float64 and bfloat16 with their names
OTHER_FLOATS = {10: "float16", 11: "float64", 16: "bfloat16"}
_NO_NUMBERS = {8: "text", 14: "complex numbers", 15: "complex numbers"}
_FLOAT = 1
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "stash_type", "precision")


def use_float32(proto: onnx.ModelProto) -> list[str]:
    """Constants, declarations and casts of other widths → float32, in place.

    Raises Refused for a number that float32 does not hold. Narrower numbers keep their value; wider ones are rounded.
    """
    found: set[str] = set()
    for tensor in proto.graph.initializer:
        if tensor.data_type in _NO_NUMBERS:
            raise Refused(
                ReasonKind.CONSTANT,
                f"constant {tensor.name!r} holds {_NO_NUMBERS[tensor.data_type]}",
                "constants are real numbers",
                "export the model again without it",
            )
    for tensor in _list_tensors(proto.graph):
        if tensor.data_type in OTHER_FLOATS:
            found.add(OTHER_FLOATS[tensor.data_type])
            _round_tensor(tensor)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        kind = value.type.tensor_type
        if kind.elem_type in OTHER_FLOATS:
            found.add(OTHER_FLOATS[kind.elem_type])
            kind.elem_type = _FLOAT
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in OTHER_FLOATS:
                found.add(OTHER_FLOATS[attribute.i])
                attribute.i = _FLOAT
    return [f"its {name} numbers are read as float32, in which everything is computed" for name in sorted(found)]


def _list_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _round_tensor(tensor: onnx.TensorProto) -> None:
    from onnx import numpy_helper

    wide = numpy_helper.to_array(tensor).astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        narrow = wide.astype(np.float32)
    if np.isfinite(wide).sum() != np.isfinite(narrow).sum():
        raise Refused(
            ReasonKind.CONSTANT,
            f"constant {tensor.name!r} reaches {float(np.abs(wide[np.isfinite(wide)]).max()):.3g}",
            "everything is computed in float32, which ends at 3.4e38",
            "scale the parameter down, or export the model in float32",
        )
    tensor.CopyFrom(numpy_helper.from_array(narrow, tensor.name))
