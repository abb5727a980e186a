"""The integer graph as one ONNX file of 8-bit operators: the rules, applied.

`RULES` is complete once this module is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from greenedge.backends.int8.layers import Layer
from greenedge.backends.int8.onnxruntime import data_movement, elementwise, linear, pairs, rows
from greenedge.backends.int8.onnxruntime.onnx_builder import CONTRIB, IR, OPSET, RULES, OnnxBuilder
from greenedge.backends.int8.quant_params import Encoding
from greenedge.errors import Reason
from greenedge.graph import Graph

if TYPE_CHECKING:
    from onnx import ValueInfoProto

__all__ = ["RULES", "Emitted", "data_movement", "elementwise", "find_reasons", "linear", "pairs", "rows", "write_file"]


@dataclass(frozen=True, eq=False)
class Emitted:
    """A file, the proofs of its layers, and how each stored edge is encoded; tensors are named as the edges are."""

    content: bytes
    layers: tuple[Layer, ...]
    codes: dict[str, Encoding]


def find_reasons(graph: Graph) -> list[Reason]:
    """Every reason why the legalised graph has no exact 8-bit ONNX file."""
    return RULES.run(OnnxBuilder(graph, is_checking=True)).reasons


def write_file(graph: Graph) -> Emitted:
    """The file for a legalised graph against which there is no reason; the same graph gives the same bytes."""
    b = RULES.run(OnnxBuilder(graph))
    assert not b.reasons, "a graph is checked before it is planned"
    codes = {edge: code for edge, code in b.codes.items() if edge in graph.edges}
    return Emitted(_serialise(b), tuple(b.layers), codes)


def _serialise(b: OnnxBuilder) -> bytes:
    from onnx import TensorProto, helper

    def declare(edge: str) -> ValueInfoProto:
        kind = TensorProto.INT32 if b.codes[edge].is_wide else TensorProto.UINT8
        return helper.make_tensor_value_info(edge, kind, ["N", *b.graph.edges[edge].shape])

    body = helper.make_graph(
        b.nodes,
        b.graph.name,
        [declare(edge) for edge in b.graph.inputs],
        [declare(edge) for edge in dict.fromkeys(b.graph.outputs)],
        b.constants,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=IR, producer_name="greenedge")
    return model.SerializeToString(deterministic=True)
