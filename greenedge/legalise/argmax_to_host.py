"""A model that ends in the index of its largest score, for back ends that give scores: the ArgMax goes to the host."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from greenedge.errors import GreenedgeError
from greenedge.graph import ArgMax, Graph
from greenedge.lower import Lowered, Output

if TYPE_CHECKING:
    from onnx import ModelProto


def drop_argmax(graph: Graph) -> Graph:
    """The graph without the ArgMax at its end, if there is one: it gives the scores that the ArgMax chose from."""
    last = graph.producer(graph.outputs[0])
    if len(graph.outputs) != 1 or not isinstance(last, ArgMax):
        return graph
    return graph.replace_ops([op for op in graph.ops if op is not last], last.inputs)


def move_argmax_to_host(lowered: Lowered) -> Lowered:
    """ArgMax(graph) | host → graph | ArgMax, host. Raises GreenedgeError for an epilogue that is another model's."""
    graph = drop_argmax(lowered.graph)
    if graph is lowered.graph:
        return lowered
    last, (edge,) = lowered.graph.producer(lowered.graph.outputs[0]), graph.outputs
    assert isinstance(last, ArgMax)
    output = Output(edge, edge, np.array(1.0), np.array(0.0), False)
    epilogue = _index_on_host(lowered.epilogue, last, graph)
    return dataclasses.replace(lowered, graph=graph, epilogue=epilogue, outputs=(output,))


def _index_on_host(epilogue: ModelProto, last: ArgMax, graph: Graph) -> ModelProto:
    """The epilogue with an ONNX ArgMax in place of the node that gives the index its shape (an Identity or a
    Squeeze)."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(epilogue)
    edge = last.inputs[0]
    shaping = next((node for node in model.graph.node if last.output in node.input), None)
    if shaping is None or shaping.op_type not in ("Identity", "Squeeze"):
        raise GreenedgeError(
            f"epilogue.onnx reads no index {last.output!r}, with which the graph ends; run the lower stage again."
        )
    found = onnx.helper.make_node(
        "ArgMax",
        [edge],
        list(shaping.output),
        name=f"{last.output}_on_host",
        axis=last.axis + 1,
        keepdims=int(shaping.op_type == "Identity"),
    )
    shaping.CopyFrom(found)
    del model.graph.input[:]
    model.graph.input.append(
        onnx.helper.make_tensor_value_info(edge, onnx.TensorProto.INT64, ["batch", *graph.edges[edge].shape])
    )
    return model
