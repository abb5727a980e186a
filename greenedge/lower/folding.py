"""Constant sub-graphs and host tensors: what a standard node gives, with its bytes and its time bounded beforehand.

The bounds come from ONNX's shape inference over the one node with its constants in place. A host tensor is never
computed: its shape and its type are all that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.source import Node
from greenedge.graph.ops.base import Array

if TYPE_CHECKING:
    from onnx import ModelProto

MAX_ELEMENTS = 1 << 26  # of one folded tensor
MAX_STEPS = 1 << 31  # multiplications and the like over all folded nodes of a model: some seconds
_SLOW = 1 << 12  # what one element of an operator that the reference evaluator computes in a Python loop is worth
_TRIED = 1 << 22  # below, a host tensor is computed all the same: what the node cannot take comes to light
_SMALL = 1 << 12  # elements of a constant whose values shape inference is given
_LOOPED = {"AveragePool", "MaxPool", "LpPool", "Resize", "GridSample", "RoiAlign", "NonMaxSuppression", "LRN", "Col2Im"}
_COUNTED = {"NonZero", "Compress", "Unique", "NonMaxSuppression"}  # as large as their input, not known more exactly
_UNBOUNDED = {  # text, sequences, pictures and chance: no network on integers needs them
    "Bernoulli",
    "ImageDecoder",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "RegexFullMatch",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "TfIdfVectorizer",
}


class Folding:
    """Evaluates the nodes of one model that are off the integer path; the steps spent are counted over all of them."""

    def __init__(self, opset: int) -> None:
        self.opset, self.steps = opset, 0

    def describe(self, node: Node, arrays: Sequence[Array | None], fixed: Sequence[bool]) -> list[Array]:
        """Arrays of the shape and type of every output, large ones without their memory. `fixed` arrays have the values
        that they show, the others only their shape and type.

        Raises Refused where the node is not standard, or its outputs have no bounds.
        """
        _require_standard(node)
        found = _infer_outputs(node, arrays, fixed, self.opset)
        steps = 0 if found is None else _count_steps(node, arrays, sum(math.prod(shape) for shape, _ in found))
        if found is None or steps < _TRIED:
            return self.evaluate(node, arrays)
        for shape, _ in found:
            _require_size(node, math.prod(shape))
        return [np.broadcast_to(np.zeros((), kind), shape) for shape, kind in found]

    def evaluate(self, node: Node, arrays: Sequence[Array | None]) -> list[Array]:
        """One standard ONNX node on arrays, by the reference evaluator.

        Raises Refused where it has no such operator, or its outputs would take too many bytes or steps.
        """
        _require_standard(node)
        self._spend(node, arrays)
        return evaluate(node, arrays, self.opset)

    def _spend(self, node: Node, arrays: Sequence[Array | None]) -> None:
        """Counts the node's steps. Raises Refused beyond MAX_ELEMENTS or MAX_STEPS."""
        found = _infer_outputs(node, arrays, [True] * len(arrays), self.opset)
        if found is not None:
            elements = sum(math.prod(shape) for shape, _ in found)
        elif node.op in _COUNTED:
            elements = sum(array.size * max(1, array.ndim) for array in arrays if array is not None)
        else:
            raise Refused(
                ReasonKind.DYNAMIC_SHAPE,
                f"{node.op} of a size that only its own values tell",
                "sizes are known before anything is computed",
                "export with fixed shapes, or give the constant itself",
            )
        _require_size(node, elements)
        self.steps += _count_steps(node, arrays, elements)
        if self.steps > MAX_STEPS:
            raise Refused(
                ReasonKind.TOO_SLOW,
                f"{node.op} of constants brings the model to {self.steps:,} steps before its first sample",
                f"at most {MAX_STEPS:,} are spent on constants",
                "export with constant folding, so that the file holds the result",
            )


def _count_steps(node: Node, arrays: Sequence[Array | None], elements: int) -> int:
    """What the node takes at most to give so many elements: for each the terms of its sum of products, else one."""
    factor = _steps_per_element(node, arrays) * (_SLOW if node.op in _LOOPED else 1)
    return sum(array.size for array in arrays if array is not None) + elements * factor


def _steps_per_element(node: Node, arrays: Sequence[Array | None]) -> int:
    sizes = [array.shape for array in arrays if array is not None]
    if node.op in ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"):
        return max((max(shape, default=1) for shape in sizes), default=1)
    if node.op in ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "Einsum", "CumSum", "Det"):
        return max((math.prod(shape) for shape in sizes[1:]), default=1)
    return max(1, math.prod(int(size) for size in node.attrs.get("kernel_shape", ())))


def _require_standard(node: Node) -> None:
    if node.proto.domain not in ("", "ai.onnx"):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"operator {node.proto.domain}.{node.op}",
            "it is no standard ONNX or QONNX operator",
            "replace the layer",
        )
    if node.op in _UNBOUNDED or node.op.startswith(("Sequence", "Optional")):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            node.op,
            "text, sequences, pictures and random numbers have no place in a network on integers",
            "do it before the model, or remove the node",
        )


def _require_size(node: Node, elements: int) -> None:
    if elements > MAX_ELEMENTS:
        raise Refused(
            ReasonKind.TOO_BIG,
            f"{node.op} gives {elements:,} elements",
            f"a tensor on the host has at most {MAX_ELEMENTS:,}",
            "correct the sizes that it is given",
        )


def _infer_outputs(
    node: Node, arrays: Sequence[Array | None], fixed: Sequence[bool], opset: int
) -> list[tuple[tuple[int, ...], np.dtype[np.generic]]] | None:
    """(shape, type) of every output as ONNX infers them, None where they are not fully known."""
    import onnx

    names = [name for name in node.outputs if name]
    try:
        inferred = onnx.shape_inference.infer_shapes(_one_node(node, arrays, fixed, opset), data_prop=True)
        kinds = {v.name: v.type.tensor_type for v in (*inferred.graph.output, *inferred.graph.value_info)}
        if not all(name in kinds and kinds[name].HasField("shape") and kinds[name].elem_type for name in names):
            return None
        dims = [kinds[name].shape.dim for name in names]
        if not all(d.HasField("dim_value") and d.dim_value >= 0 for shape in dims for d in shape):
            return None
        shapes = [tuple(d.dim_value for d in shape) for shape in dims]
        types = [np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kinds[name].elem_type)) for name in names]
    except (RuntimeError, ValueError, TypeError, KeyError, onnx.shape_inference.InferenceError):
        return None
    return list(zip(shapes, types, strict=True))


def _one_node(node: Node, arrays: Sequence[Array | None], fixed: Sequence[bool], opset: int) -> ModelProto:
    """A model of one node whose small fixed inputs are constants."""
    import onnx
    from onnx import numpy_helper

    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    graph = onnx.GraphProto(name="one", node=[proto])
    for name, array, is_fixed in zip(node.inputs, arrays, fixed, strict=True):
        if array is None or any(value.name == name for value in graph.input):
            continue
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
        if is_fixed and array.size <= _SMALL:
            graph.initializer.append(numpy_helper.from_array(array.copy(), name))
    outputs = [name for name in node.outputs if name]
    graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def evaluate(node: Node, arrays: Sequence[Array | None], opset: int) -> list[Array]:
    """One standard ONNX node on arrays, by the reference evaluator. Raises Refused where it has no such operator."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    feeds = {name: array for name, array in zip(node.inputs, arrays, strict=True) if array is not None}
    inputs, outputs = (
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in names if name]
        for names in (feeds, node.outputs)
    )
    graph = onnx.helper.make_graph([proto], "one", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(part) for part in ReferenceEvaluator(model).run(None, feeds)]
    except (
        ArithmeticError,
        AttributeError,
        IndexError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        first = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"{node.op} could not be evaluated ({first})",
            "it is outside what this converter knows",
            "replace the layer or export with another opset",
        ) from None
