"""A model that ends in the index of its largest score: the index as the graph's last operation.

    ArgMax(alpha*x + beta) → ArgMax(x), for one alpha > 0 and one beta for all channels

It is taken where it can be exact as integers; everywhere else it stays what it was, a node of the epilogue.
"""

from __future__ import annotations

import numpy as np

from greenedge.frontends.source import Node
from greenedge.graph.ops import ArgMax, Input
from greenedge.lower.builder import Birth
from greenedge.lower.expr import Var, affine_of
from greenedge.lower.lowering import Walk
from greenedge.lower.values import Constant, Live

_CHANNELS = 1  # the axis of an ONNX tensor along which the scores of one sample or pixel lie
_EXACT = 1 << 23  # up to here neighbouring integers stay apart in float32, scaled or not


def with_index(walk: Walk, boundaries: dict[str, str]) -> dict[str, str]:
    """{tensor: edge} where integers end, with an ArgMax added to the graph if all of them only serve to find an index.

    That is an ONNX ArgMax over the channels that takes the first of equals (keepdims 0 or 1), or a TopK of one whose
    values nobody reads. Anything else (another axis, select_last_index, scales or biases of their own per channel) changes nothing.
    """
    for node in walk.source.nodes:
        tensor = _index_tensor(walk, node)
        if tensor is None or walk.boundaries(until=tensor) or not _same_order(walk, node):
            continue
        edge = walk.values[node.inputs[0]].edge
        name = walk.builder.unique(node)
        made = walk.builder.emit(ArgMax(name, (edge,), name, _CHANNELS - 1))
        walk.builder.trace.births[made] = Birth(tensor, Var())
        return {tensor: made}
    return boundaries


def _index_tensor(walk: Walk, node: Node) -> str | None:
    """The tensor that holds the index of the first of the largest channels, where the node computes that."""
    if not node.inputs or not isinstance(walk.values.get(node.inputs[0]), Live):
        return None
    rank = len(walk.shape_of(walk.values[node.inputs[0]]))
    if node.op == "ArgMax":
        over_channels = int(node.attrs.get("axis", 0)) % rank == _CHANNELS
        return node.outputs[0] if over_channels and not node.attrs.get("select_last_index", 0) else None
    if node.op == "TopK" and len(node.outputs) == 2 and len(node.inputs) == 2:
        count = walk.values.get(node.inputs[1])
        one = isinstance(count, Constant) and np.size(count.array) == 1 and int(np.ravel(count.array)[0]) == 1
        over_channels = int(node.attrs.get("axis", -1)) % rank == _CHANNELS
        return node.outputs[1] or None if one and over_channels and node.attrs.get("largest", 1) else None
    return None


def _same_order(walk: Walk, node: Node) -> bool:
    """Whether the largest real number is where the largest integer is, in real arithmetic and in float32."""
    value = walk.values[node.inputs[0]]
    edge, parts = walk.builder.edges[value.edge], affine_of(value.expr)
    if parts is None or isinstance(walk.builder.producer(value.edge), Input) or max(-edge.lo, edge.hi) >= _EXACT:
        return False
    alpha, beta = (np.unique(np.asarray(part, object)) for part in parts)
    return len(alpha) == len(beta) == 1 and alpha[0] > 0
