"""Sums of many branches as a chain of sums of two."""

from __future__ import annotations

import numpy as np

from greenedge.graph import Add, Edge, Graph, Op
from greenedge.graph.ops.arithmetic import product_range
from greenedge.legalise.edge_names import choose_name


def split_additions(graph: Graph) -> Graph:
    """Add(m; a, b, c) → Add(1, m_c; Add(m_a, m_b; a, b), c). New edges are called NAME_of_K, K being how many they
    add."""
    if all(not isinstance(op, Add) or len(op.inputs) <= 2 for op in graph.ops):
        return graph
    ops: list[Op] = []
    edges = dict(graph.edges)
    for op in graph.ops:
        if isinstance(op, Add) and len(op.inputs) > 2:
            ops += _chain(op, edges)
        else:
            ops.append(op)
    return Graph(graph.name, tuple(ops), edges, graph.outputs)


def _chain(op: Add, edges: dict[str, Edge]) -> list[Op]:
    """The operations that add up one branch after another; their edges are added to `edges`."""
    total, factor = op.inputs[0], op.multipliers[0]
    chain: list[Op] = []
    for k, (branch, multiplier) in enumerate(zip(op.inputs[1:], op.multipliers[1:], strict=True), 2):
        is_last = k == len(op.inputs)
        name = op.name if is_last else choose_name(f"{op.name}_of_{k}", edges)
        output = op.output if is_last else name
        chain.append(Add(name, (total, branch), output, (factor, multiplier)))
        if not is_last:
            terms = [(edges[total], factor), (edges[branch], multiplier)]
            ends = [product_range(np.int64(m), np.array([e.lo]), np.array([e.hi])) for e, m in terms]
            low, high = (sum(int(part[side][0]) for part in ends) for side in (0, 1))
            edges[output] = Edge(output, edges[op.output].shape, low, high)
            total, factor = output, 1
    return chain
