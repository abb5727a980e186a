"""A model that ends in the index of its largest score: the index as the graph's last operation.

    ArgMax(alpha*x + beta) → ArgMax(x), for one alpha > 0 and one beta for all channels

It is applied where it can be exact in integers; everywhere else the index stays a node of the epilogue.
"""

from __future__ import annotations

import numpy as np

from greenedge.frontends.source import Node
from greenedge.graph.ops import ArgMax, Input
from greenedge.lower.builder import Birth
from greenedge.lower.expr import Var, affine_of
from greenedge.lower.lowering import find_boundaries
from greenedge.lower.values import Constant, Live
from greenedge.lower.walk import Walk

_CHANNELS = 1  # the axis of an ONNX tensor along which the scores of one sample or pixel lie
_EXACT = 1 << 23  # up to here neighbouring integers stay apart in float32, scaled or not


def append_argmax(walk: Walk, boundaries: dict[str, str]) -> dict[str, str]:
    """{tensor: edge} where integers end, with an ArgMax added to the graph if all of them only serve to find an index.

    That is an ONNX ArgMax over the channels that takes the first of equals (keepdims 0 or 1), or a TopK of one whose
    values are not read. Any other (another axis, select_last_index, scales or biases per channel) changes nothing.
    """
    for node in walk.source.nodes:
        scores = walk.values.get(node.inputs[0]) if node.inputs else None
        if not isinstance(scores, Live):
            continue
        tensor = _index_tensor(walk, node, scores)
        if tensor is None or find_boundaries(walk, until=tensor) or not _keeps_order(walk, scores):
            continue
        name = walk.builder.unique(node)
        index = walk.builder.emit(ArgMax(name, (scores.edge,), name, _CHANNELS - 1))
        walk.builder.trace.births[index] = Birth(tensor, Var())
        return {tensor: index}
    return boundaries


def _index_tensor(walk: Walk, node: Node, scores: Live) -> str | None:
    """The tensor that holds the index of the first of the largest channels, where the node computes that."""
    rank = len(walk.shape_of(scores))
    if node.op == "ArgMax":
        over_channels = int(node.attrs.get("axis", 0)) % rank == _CHANNELS
        return node.outputs[0] if over_channels and not node.attrs.get("select_last_index", 0) else None
    if node.op == "TopK" and len(node.outputs) == 2 and len(node.inputs) == 2:
        count = walk.values.get(node.inputs[1])
        one = isinstance(count, Constant) and np.size(count.array) == 1 and int(np.ravel(count.array)[0]) == 1
        over_channels = int(node.attrs.get("axis", -1)) % rank == _CHANNELS
        return node.outputs[1] or None if one and over_channels and node.attrs.get("largest", 1) else None
    return None


def _keeps_order(walk: Walk, scores: Live) -> bool:
    """Whether the largest real number is where the largest integer is, in real arithmetic and in float32."""
    edge, parts = walk.builder.edges[scores.edge], affine_of(scores.expr)
    if parts is None or isinstance(walk.builder.producer(scores.edge), Input) or max(-edge.lo, edge.hi) >= _EXACT:
        return False
    birth = walk.builder.trace.births.get(scores.edge)
    if birth is None or affine_of(birth.expr) is None:
        return False  # where the host finds the index, the scores are compared with the tensor that they were first
    alpha, beta = (np.unique(np.asarray(part, object)) for part in parts)
    return len(alpha) == len(beta) == 1 and bool(alpha[0] > 0)
