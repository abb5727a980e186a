"""Quantisers in front of the layers of a model that are refused for want of one, written into its file.

    Add(a, b)  →  Add(Quant(a), Quant(b))      where a and b are sums of products, or functions of them

Such files come of quantising layer by layer: each layer rounds its own input, and what a skip connection adds is
float. The first such layer gets quantisers, whose scale covers what samples give; then the model is lowered again.
All that a sum adds gets one scale: its integers are then added as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from greenedge.errors import GreenedgeError, Reason, ReasonKind, UnsupportedError
from greenedge.frontends.input_type import InputType
from greenedge.frontends.normalise import Normal
from greenedge.frontends.samples import Samples
from greenedge.frontends.source import parse_normal
from greenedge.graph import run_graph
from greenedge.lower import Lowered, lower_source
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.lower.quantiser_nodes import QuantisedTensor, cut_at, insert_quantiser, uses_qonnx

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_CURED = (ReasonKind.UNQUANTISED, ReasonKind.UNEQUAL_SCALES, ReasonKind.TOO_WIDE)  # by a quantiser before the layer
_QUANTISERS = ("Quant", "BipolarQuant", "DequantizeLinear", "MultiThreshold")


def quantise_branches(
    proto: ModelProto,
    name: str,
    read: Callable[[Lowered], Samples],
    bits: int,
    declared: Mapping[str | None, InputType] | None,
) -> tuple[QuantisedTensor, ...]:
    """Puts quantisers of `bits` bits into a normal model until it lowers, in place; returns them. () where it does.

    Raises UnsupportedError with the reasons that no quantiser cures.
    """
    added: list[QuantisedTensor] = []
    while (refusal := _find_refusal(proto, name, declared)) is not None:
        node = _find_node(proto, refusal.reasons)
        tensors = _list_unquantised(proto, node) if node is not None else []
        if node is None or not tensors:
            raise refusal
        lowered = lower_source(parse_normal(Normal(cut_at(proto, tensors)), name), declared)
        values = run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, read(lowered))))
        low = min(float(values[tensor].min()) for tensor in tensors)
        high = max(float(values[tensor].max()) for tensor in tensors)
        if low == high == 0:
            raise GreenedgeError(f"{node.name}: its inputs are 0 on every sample; give samples on which they are not.")
        for tensor in tensors:
            one = QuantisedTensor.covering(tensor, bits, low, high)
            insert_quantiser(proto, one, {node.name}, uses_qonnx(proto, bits))
            added.append(one)
    return tuple(added)


def _find_refusal(
    proto: ModelProto, name: str, declared: Mapping[str | None, InputType] | None
) -> UnsupportedError | None:
    try:
        lower_source(parse_normal(Normal(proto), name), declared)
    except UnsupportedError as refusal:
        return refusal
    return None


def _find_node(proto: ModelProto, reasons: Sequence[Reason]) -> NodeProto | None:
    """The first node of the file that a quantiser before it may cure."""
    cured = {reason.node for reason in reasons if reason.kind in _CURED}
    return next((node for node in proto.graph.node if node.name in cured), None)


def _list_unquantised(proto: ModelProto, node: NodeProto) -> list[str]:
    """The tensors that the node reads, that depend on an input and that no quantiser gives."""
    writers = {name: one for one in proto.graph.node for name in one.output}
    live = {value.name for value in proto.graph.input}
    for one in proto.graph.node:  # in topological order
        if live.intersection(one.input):
            live.update(one.output)
    quantised = {name for name, one in writers.items() if one.op_type in _QUANTISERS}
    return [name for name in dict.fromkeys(node.input) if name in live and name not in quantised]
