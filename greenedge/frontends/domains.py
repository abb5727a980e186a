"""Node domains: every spelling of QONNX's quantisers in one domain, channels-last layers as standard ones."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from greenedge.errors import Reason, ReasonKind

if TYPE_CHECKING:
    import onnx

QONNX = "qonnx.custom_op.general"
CHANNELS_LAST = "qonnx.custom_op.channels_last"
STANDARD = ("", "ai.onnx")
QUANTISERS = ("Quant", "IntQuant", "BipolarQuant", "Trunc", "FloatQuant", "MultiThreshold")
_QONNX_SPELLINGS = ("", "ai.onnx", "onnx.brevitas", "qonnx", "finn", "finn.custom_op.general", QONNX)
_MICROSOFT = ("QuantizeLinear", "DequantizeLinear")  # onnxruntime's copies mean what the standard ones mean
_LAST = ("Conv", "MaxPool", "BatchNormalization")  # what the channels-last domain has


def name_domains(proto: onnx.ModelProto) -> list[str]:
    """Quantisers of every older domain into QONNX's; standard operators into the domain "", in place."""
    moved: set[str] = set()
    for node in proto.graph.node:
        domain = QONNX if node.op_type in QUANTISERS and node.domain in _QONNX_SPELLINGS else node.domain
        if domain == "ai.onnx" or (domain == "com.microsoft" and node.op_type in _MICROSOFT):
            domain = ""
        if domain != node.domain and domain == QONNX:
            moved.add(node.domain or "ai.onnx")
        node.domain = domain
    _import_domains(proto)
    return [f"quantisers of the domain {name!r} are read as those of {QONNX!r}" for name in sorted(moved)]


def _import_domains(proto: onnx.ModelProto) -> None:
    """opset_import of the domains that are used, ONNX's own first; QONNX's version follows from the nodes."""
    import onnx

    versions: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        versions[domain] = max(entry.version, versions.get(domain, 0))
    used = {node.domain for node in proto.graph.node} - {""}
    if QONNX in used:
        second = any(node.op_type == "Trunc" and len(node.input) == 6 for node in proto.graph.node)
        versions[QONNX] = max(versions.get(QONNX, 1), 2 if second else 1)
    ids = [onnx.helper.make_opsetid("", versions.get("", 13))]
    ids += [onnx.helper.make_opsetid(domain, versions.get(domain, 1)) for domain in sorted(used)]
    if [(entry.domain, entry.version) for entry in proto.opset_import] != [(e.domain, e.version) for e in ids]:
        del proto.opset_import[:]
        proto.opset_import.extend(ids)


def find_unknown_domains(nodes: Iterable[onnx.NodeProto]) -> list[Reason]:
    """A reason for every node whose domain is not read, or has no such operator."""
    reasons = []
    for node in nodes:
        if node.domain == QONNX and node.op_type in QUANTISERS or node.domain == "":
            continue
        reasons.append(
            Reason(
                node.name,
                ReasonKind.UNSUPPORTED_OP,
                f"operator {node.domain}.{node.op_type}",
                "it is no standard ONNX or QONNX operator",
                "replace the layer",
            )
        )
    return reasons


def put_channels_first(proto: onnx.ModelProto) -> list[str]:
    """X(channels last) → Transpose(X(Transpose(x))) for the layers of the channels-last domain, in place.

    The rank follows from the layer's attributes or weights; where nothing tells it, the node keeps its domain and is
    refused.
    """
    ranks = _Ranks(proto.graph)
    nodes: list[onnx.NodeProto] = []
    firsts: dict[str, str] = {}  # tensors with channels last that exist with channels first as well
    count = 0
    for node in proto.graph.node:
        rank = ranks.of(node) if node.domain == CHANNELS_LAST and node.op_type in _LAST else None
        ranks.pass_on(node)
        if rank is None:
            nodes.append(node)
            continue
        nodes += _wrap(node, rank, firsts)
        count += 1
    if not count:
        return []
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    _import_domains(proto)
    return [f"{count} layers with channels last are read as a transposition, the layer and its inverse"]


def _wrap(node: onnx.NodeProto, rank: int, firsts: dict[str, str]) -> list[onnx.NodeProto]:
    """The standard layer between transpositions: of its data, of a convolution's weights, and back.

    Data that a layer before gave is taken as it gave it; `firsts` is extended by this layer's output.
    """
    import onnx

    first = [0, rank - 1, *range(1, rank - 1)]
    last = [0, *range(2, rank), 1]
    layer = copy.deepcopy(node)
    layer.domain = ""
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


class _Ranks:
    """How many axes tensors have, as far as declarations, constants and operators that keep the rank tell."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        values = [v for v in (*graph.input, *graph.output, *graph.value_info) if v.type.tensor_type.HasField("shape")]
        self._known = {v.name: len(v.type.tensor_type.shape.dim) for v in values}
        self._known |= {t.name: len(t.dims) for t in graph.initializer}

    def of(self, node: onnx.NodeProto) -> int | None:
        """The rank of the node's data, None where nothing tells it or it is below 3."""
        lengths = {a.name: len(a.ints) for a in node.attribute}
        rank = next((lengths[key] + 2 for key in ("kernel_shape", "strides") if lengths.get(key)), None)
        rank = rank or next((self._known[name] for name in node.input[:2] if name in self._known), None)
        return rank if rank is not None and rank > 2 and _is_whole(node) else None

    def pass_on(self, node: onnx.NodeProto) -> None:
        """Notes the rank of the node's first output."""
        if not node.output or node.output[0] in self._known:
            return
        rank = next((self._known[name] for name in node.input[:1] if name in self._known), None)
        if node.op_type in (*QUANTISERS, *_LAST, "Relu", "Transpose", "AveragePool", "Clip", "Sigmoid", "Identity"):
            if rank is not None:
                self._known[node.output[0]] = rank
        elif node.op_type in ("Add", "Sub", "Mul", "Div") and all(name in self._known for name in node.input):
            self._known[node.output[0]] = max(self._known[name] for name in node.input)


def _is_whole(node: onnx.NodeProto) -> bool:
    """Whether the node has the inputs and the one output of its layer."""
    counts: dict[str, Sequence[int]] = {"Conv": (2, 3), "MaxPool": (1,), "BatchNormalization": (5,)}
    return len(node.input) in counts[node.op_type] and len(node.output) == 1 and all(node.input)
