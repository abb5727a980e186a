"""Quantisers right behind their sums, for runtimes that round once behind every layer."""

from __future__ import annotations

from dataclasses import replace

from greenedge.graph import Graph, MaxPool, Op, Requantise


def requantise_early(graph: Graph) -> Graph:
    """step(move(x)) → move(step(x)) for a sum x, where `move` (an operation that rearranges, or a maximum) is read by
    the step alone.

    A step function works on every value alone, and a rising one keeps the largest the largest. New edges have a "/" in
    their names.
    """
    while True:
        found = next(
            ((step, axis) for step in graph.requantisers if (axis := _early_axis(graph, step)) is not None), None
        )
        if found is None:
            return graph
        graph = move_before(graph, *found)


def _early_axis(graph: Graph, step: Requantise) -> int | None:
    """The axis the step function has in front of the operation before it; None where the two cannot change places."""
    move = graph.producer(step.inputs[0])
    if (
        step.steps is None
        or move.output in graph.outputs
        or len(graph.consumers(move.output)) > 1
        or not _moves_a_sum(graph, move)
    ):
        return None
    if isinstance(move, MaxPool):
        return step.axis if step.steps.rises and (step.channels == 1 or step.axis == 0) else None
    if step.channels == 1:
        return 0
    return move.input_axis(step.axis, graph.input_edges(move), graph.edges[move.output])


def _moves_a_sum(graph: Graph, op: Op) -> bool:
    """Whether `op` passes on values (through any number of such operations) that a sum has made."""
    while _passes_on(op):
        op = graph.producer(op.inputs[0])
        if op.accumulates:
            return True
    return False


def _passes_on(op: Op) -> bool:
    """Whether every output is an input of the one edge that `op` reads."""
    return isinstance(op, MaxPool) or (op.selects and len(op.inputs) == 1)


def move_before(graph: Graph, step: Requantise, axis: int) -> Graph:
    """step(move(x)) → move(step(x)), the step along `axis` of x; the new edge is called STEP/MOVE."""
    move = graph.producer(step.inputs[0])
    early = f"{step.output}/{move.name}"
    edges = {name: edge for name, edge in graph.edges.items() if name != move.output}
    edges[early] = replace(edges[step.output], name=early, shape=graph.edges[move.inputs[0]].shape)
    ops: list[Op] = []
    for op in graph.ops:
        if op is move:
            ops.append(replace(step, inputs=move.inputs, output=early, axis=axis))
        elif op is step:
            ops.append(replace(move, inputs=(early,), output=step.output))
        else:
            ops.append(op)
    return Graph(graph.name, tuple(ops), edges, graph.outputs)
