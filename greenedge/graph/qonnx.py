"""The integer graph as a plain QONNX model: opens in Netron, runs in qonnx, gives the same integers.

Every tensor holds integers and is annotated with its type; a requantiser is a MultiThreshold node (a Gather where the
function is not monotone). float32 holds integers up to 2**24 exactly; where an edge exceeds that, the model is written
in float64. What each operation becomes is in its own file (`write_onnx`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenedge.graph.graph import Graph
from greenedge.graph.ops.onnx_writer import THRESHOLD_DOMAIN, OnnxWriter

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

_OPSET = 13


def to_qonnx(graph: Graph) -> ModelProto:
    """An ONNX ModelProto of the graph with batch size 1."""
    import onnx
    from onnx import numpy_helper

    writer = OnnxWriter(graph)
    for op in graph.ops:
        op.write_onnx(writer)

    def declare(edge: str) -> ValueInfoProto:
        element = writer.output_types.get(edge, writer.element)
        return onnx.helper.make_tensor_value_info(edge, element, [1, *graph.edges[edge].shape])

    inner = [op.output for op in graph.ops if op.inputs and op.output not in graph.outputs]
    proto = onnx.helper.make_graph(
        writer.nodes,
        graph.name,
        [declare(edge) for edge in graph.inputs],
        [declare(edge) for edge in graph.outputs],
        [numpy_helper.from_array(array, name) for name, array in writer.constants.items()],
        value_info=[*(declare(edge) for edge in inner), *writer.inner],
    )
    types = writer.types | {name: edge.dtype for name, edge in graph.edges.items()}
    for name, dtype in sorted(types.items()):
        entry = proto.quantization_annotation.add()
        entry.tensor_name = name
        item = entry.quant_parameter_tensor_names.add()
        item.key, item.value = "finn_datatype", dtype
    opsets = [onnx.helper.make_opsetid("", _OPSET), onnx.helper.make_opsetid(THRESHOLD_DOMAIN, 1)]
    return onnx.helper.make_model(proto, opset_imports=opsets, ir_version=8, producer_name="greenedge")
