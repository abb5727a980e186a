"""Layers with channels last, of QONNX's domain for them, as standard layers between transpositions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

from greenedge.frontends.domains import CHANNELS_LAST, import_domains
from greenedge.frontends.shapes import infer_ranks

if TYPE_CHECKING:
    import onnx

_INPUTS = {"Conv": (2, 3), "MaxPool": (1,), "BatchNormalization": (5,)}  # what the domain has, and their inputs


def put_channels_first(proto: onnx.ModelProto) -> list[str]:
    """X(channels last) → Transpose(X(Transpose(x))) for the layers of the channels-last domain, in place.

    The rank follows from the layer's attributes or weights; where nothing tells it, the node keeps its domain and is
    refused.
    """
    found = [node for node in proto.graph.node if node.domain == CHANNELS_LAST and _is_whole(node)]
    if not found:
        return []
    names = {node.name for node in found}
    ranks = infer_ranks(proto, names)
    nodes: list[onnx.NodeProto] = []
    firsts: dict[str, str] = {}  # tensors with channels last that exist with channels first as well
    count = 0
    for node in proto.graph.node:
        rank = _find_rank(node, ranks) if node.name in names else None
        if rank is None or rank < 3:
            nodes.append(node)
            continue
        nodes += _wrap(node, rank, firsts)
        count += 1
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    import_domains(proto)
    return [f"{count} layers with channels last are read as a transposition, the layer and its inverse"]


def _wrap(node: onnx.NodeProto, rank: int, firsts: dict[str, str]) -> list[onnx.NodeProto]:
    """The standard layer between transpositions: of its data, of a convolution's weights, and back.

    Data that a layer before gave is taken as it gave it; `firsts` is extended by this layer's output.
    """
    import onnx

    first = [0, rank - 1, *range(1, rank - 1)]
    last = [0, *range(2, rank), 1]
    layer = copy.deepcopy(node)
    layer.ClearField("domain")
    before = []
    for k in range(2 if node.op_type == "Conv" else 1):
        if node.input[k] in firsts:
            layer.input[k] = firsts[node.input[k]]
            continue
        layer.input[k] = f"{node.output[0]}.first{k}"
        name = f"{node.name}.first{k}"
        before.append(onnx.helper.make_node("Transpose", [node.input[k]], [layer.input[k]], name=name, perm=first))
    layer.output[0] = firsts[node.output[0]] = f"{node.output[0]}.first"
    back = onnx.helper.make_node("Transpose", [layer.output[0]], [node.output[0]], name=f"{node.name}.last", perm=last)
    return [*before, layer, back]


def _find_rank(node: onnx.NodeProto, ranks: Mapping[str, int]) -> int | None:
    """How many axes the node's data has, from its own attributes, else from its data or its weights."""
    lengths = {a.name: len(a.ints) for a in node.attribute}
    own = next((lengths[key] + 2 for key in ("kernel_shape", "strides") if lengths.get(key)), None)
    count = 2 if node.op_type == "Conv" else 1
    return own or next((ranks[name] for name in node.input[:count] if name in ranks), None)


def _is_whole(node: onnx.NodeProto) -> bool:
    """Whether the node has the inputs and the one output of its layer."""
    return len(node.input) in _INPUTS.get(node.op_type, ()) and len(node.output) == 1 and all(node.input)
