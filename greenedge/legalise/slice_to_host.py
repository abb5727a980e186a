"""A model that ends in a Slice, for back ends that take none: the Slice and what is behind it go to the host."""

from __future__ import annotations

import dataclasses

import numpy as np

from greenedge.graph import Graph, Op, Slice
from greenedge.graph.ops.onnx_writer import OnnxWriter
from greenedge.lower import Lowered, Output


def _trailing_moves(graph: Graph) -> list[Op]:
    """The Slices behind which nothing computes, with every operation behind them, in the graph's order."""
    moved: dict[str, Op] = {}
    for op in reversed(graph.ops):
        readers = graph.consumers(op.output)
        if op.rearranges and len(op.inputs) == 1 and all(reader.output in moved for reader in readers):
            moved[op.output] = op
    tail: dict[str, Op] = {}
    for op in reversed(moved.values()):
        if isinstance(op, Slice) or op.inputs[0] in tail:
            tail[op.output] = op
    return list(tail.values())


def drop_slices(graph: Graph) -> Graph:
    """The graph without the Slices at its end, nor what rearranges numbers behind them: it gives what they take
    from."""
    tail = {op.output: op for op in _trailing_moves(graph)}
    if not tail:
        return graph

    def source(edge: str) -> str:
        return source(tail[edge].inputs[0]) if edge in tail else edge

    outputs = tuple(dict.fromkeys(source(edge) for edge in graph.outputs))
    return graph.replace_ops([op for op in graph.ops if op.output not in tail], outputs)


def move_slices_to_host(lowered: Lowered) -> Lowered:
    """graph | host → graph without its last Slices | those Slices on int64, host."""
    import onnx

    tail = _trailing_moves(lowered.graph)
    if not tail:
        return lowered
    graph = drop_slices(lowered.graph)
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
