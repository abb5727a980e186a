"""A model that ends in a change of layout, for back ends that have no rule for it or would spend hardware on it.

What is cut out or turned last goes to the host, with what is behind it."""

from __future__ import annotations

import dataclasses

import numpy as np

from greenedge.graph import Gather, Graph, Op, Reshape, Transpose
from greenedge.graph.ops.onnx_writer import OnnxWriter
from greenedge.lower import Lowered, Output


def _trailing_moves(graph: Graph) -> list[Op]:
    """The Gathers and Transposes behind which nothing computes, in the graph's order, with the Reshapes before them and
    every operation behind them."""
    moved: dict[str, Op] = {}
    for op in reversed(graph.ops):
        readers = graph.consumers(op.output)
        if op.rearranges and len(op.inputs) == 1 and all(reader.output in moved for reader in readers):
            moved[op.output] = op
    tail = {op.output for op in moved.values() if isinstance(op, (Gather, Transpose))}
    for op in moved.values():  # the last first
        if isinstance(op, Reshape) and any(reader.output in tail for reader in graph.consumers(op.output)):
            tail.add(op.output)
    for op in reversed(moved.values()):
        if op.inputs[0] in tail:
            tail.add(op.output)
    return [op for op in graph.ops if op.output in tail]


def drop_last_moves(graph: Graph) -> Graph:
    """The graph without these operations at its end: it gives what they take from."""
    tail = {op.output: op for op in _trailing_moves(graph)}
    if not tail:
        return graph

    def source(edge: str) -> str:
        return source(tail[edge].inputs[0]) if edge in tail else edge

    outputs = tuple(dict.fromkeys(source(edge) for edge in graph.outputs))
    return graph.replace_ops([op for op in graph.ops if op.output not in tail], outputs)


def move_last_moves_to_host(lowered: Lowered) -> Lowered:
    """graph | host → graph without its last moves | those moves on int64, host."""
    import onnx

    tail = _trailing_moves(lowered.graph)
    if not tail:
        return lowered
    graph = drop_last_moves(lowered.graph)
    writer = OnnxWriter(lowered.graph)
    writer.kind = np.int64
    for op in tail:
        op.write_onnx(writer)
    model = onnx.ModelProto()
    model.CopyFrom(lowered.epilogue)
    nodes = [*writer.nodes, *model.graph.node]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(values, name) for name, values in writer.constants.items()
    )
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(edge, onnx.TensorProto.INT64, ["batch", *graph.edges[edge].shape])
        for edge in graph.outputs
    )
    kept = [output for output in lowered.outputs if output.edge in graph.outputs]
    named = {output.edge for output in kept}
    one, none = np.array(1.0), np.array(0.0)
    added = [Output(edge, edge, one, none, False) for edge in graph.outputs if edge not in named]
    return dataclasses.replace(lowered, graph=graph, epilogue=model, outputs=(*kept, *added))
