"""Sum pools as convolutions, for back ends that have no pool of sums."""

from __future__ import annotations

from greenedge.graph import Graph, Op, SumPool


def sum_pool_to_depthwise(graph: Graph) -> Graph:
    """SumPool(x) → Conv(ones, x), depthwise."""
    ops: list[Op] = [
        op.as_depthwise(graph.edges[op.inputs[0]].shape[0]) if isinstance(op, SumPool) else op for op in graph.ops
    ]
    return graph if all(a is b for a, b in zip(ops, graph.ops, strict=True)) else graph.replace_ops(ops)
