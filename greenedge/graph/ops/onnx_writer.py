"""Collects the ONNX nodes of a graph; what an operation's `write_onnx` is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from greenedge.graph.ops.base import Edge, Ints, Shape

if TYPE_CHECKING:
    from greenedge.graph.graph import Graph

THRESHOLD_DOMAIN = "qonnx.custom_op.general"
_EXACT_FLOAT32 = 1 << 24  # float32 holds every integer up to here


class OnnxWriter:
    """Nodes, constants and tensor types of one graph in float arithmetic: float32, or float64 where an edge, or
    a term of a sum, exceeds 2**24."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        inner = (op.inner_magnitude(graph.input_edges(op)) for op in graph.ops)
        is_wide = max((*inner, *(edge.magnitude for edge in graph.edges.values())), default=0) > _EXACT_FLOAT32
        self.kind: DTypeLike = np.float64 if is_wide else np.float32
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self.types: dict[str, str] = {}  # constant -> QONNX type
        self.inner: list[Any] = []  # value infos of tensors that are no edges
        self.output_types: dict[str, int] = {}  # edge -> ONNX element type, where it is another than `element`

    @property
    def element(self) -> int:
        """ONNX's number of the type that holds the integers."""
        import onnx

        return int(onnx.TensorProto.DOUBLE if self.kind is np.float64 else onnx.TensorProto.FLOAT)

    def shape(self, edge: str) -> Shape:
        """The shape of an edge, without the batch."""
        return self.graph.edges[edge].shape

    def has_readers(self, edge: str) -> bool:
        """Whether an operation of the graph reads the edge."""
        return bool(self.graph.consumers(edge))

    def constant(self, name: str, values: ArrayLike, dtype: str | None = None, kind: DTypeLike | None = None) -> str:
        """A constant tensor in the type of the integers, or `kind`; `dtype` is its QONNX type."""
        self.constants[name] = np.asarray(values, dtype=kind or self.kind)
        if dtype:
            self.types[name] = dtype
        return name

    def weight(self, name: str, weight: Ints) -> str:
        """The weights of the layer `name`, annotated with the narrowest type that holds them."""
        low, high = int(min(weight.min(initial=0), 0)), int(max(weight.max(initial=0), 1))
        return self.constant(f"{name}_weight", weight, Edge("w", (), low, high).dtype)

    def pad_inputs(self, name: str, source: str, pads: Sequence[int], value: int) -> list[str]:
        """The inputs of a Pad node; pads is (begin..., end...) without the batch."""
        n = len(pads) // 2
        amounts = self.constant(f"{name}_pads", [0, *pads[:n], 0, *pads[n:]], kind=np.int64)
        return [source, amounts, self.constant(f"{name}_fill", value)]

    def subtract_zeros(self, name: str, inputs: Sequence[str], zeros: Sequence[int]) -> list[str]:
        """The inputs of a product of the operation `name`, counted from their zeros."""
        factors = []
        for k, (edge, zero) in enumerate(zip(inputs, zeros, strict=True)):
            if zero:
                constant = self.constant(f"{name}_zero{k}", zero)
                edge = self.inner_node("Sub", [edge, constant], f"{name}_factor{k}", self.shape(edge))
            factors.append(edge)
        return factors

    def declare(self, tensor: str, shape: Sequence[int], element: int | None = None) -> None:
        """Shape (without the batch) and type of a tensor that is no edge of the graph."""
        import onnx

        self.inner.append(onnx.helper.make_tensor_value_info(tensor, element or self.element, [1, *shape]))

    def inner_node(
        self,
        op: str,
        inputs: Sequence[str],
        output: str,
        shape: Sequence[int],
        element: int | None = None,
        **attributes: Any,
    ) -> str:
        """A node whose output is no edge of the graph; its shape (without the batch) is given."""
        self.declare(output, shape, element)
        return self.node(op, inputs, output, **attributes)

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node with one output, named after it."""
        self.nodes_of(op, inputs, [output], output, **attributes)
        return output

    def nodes_of(self, op: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: Any) -> None:
        """A node with several outputs."""
        import onnx

        self.nodes.append(onnx.helper.make_node(op, list(inputs), list(outputs), name=name, **attributes))
