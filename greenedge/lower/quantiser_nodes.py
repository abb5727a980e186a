"""A quantiser that is put into an ONNX file: what it is, and the nodes that are written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.frontends.domains import QONNX
from greenedge.graph.ops.base import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True)
class QuantisedTensor:
    """One quantiser that was added behind `tensor`: real = scale * integer, of `bits` bits, for real values of
    `low` … `high` on the samples."""

    tensor: str
    bits: int
    signed: bool
    scale: float
    low: float
    high: float

    @classmethod
    def covering(cls, tensor: str, bits: int, low: float, high: float) -> QuantisedTensor:
        """The finest scale at which the levels hold low … high, which are not both 0."""
        return cls(tensor, bits, low < 0, float(np.float32(least_scale(bits, low, high))), low, high)


def least_scale(bits: int, low: float, high: float) -> float:
    """The finest scale at which levels of so many bits, signed where `low` is negative, hold low … high."""
    top = (1 << (bits - (low < 0))) - 1
    return max(high / top, -low / (top + 1) if low < 0 else 0.0)


def uses_qonnx(proto: ModelProto, bits: int) -> bool:
    """Whether a quantiser of so many bits is a Quant node in this file, not a pair of ONNX's own."""
    return bits != 8 or any(node.domain == QONNX for node in proto.graph.node)


def cut_at(proto: ModelProto, tensors: Iterable[str]) -> ModelProto:
    """The model with these tensors as its outputs, and no node that none of them needs."""
    import onnx

    cut = onnx.ModelProto()
    cut.CopyFrom(proto)
    known = {value.name: value for value in (*proto.graph.value_info, *proto.graph.output)}
    del cut.graph.output[:]
    needed = set()
    for name in tensors:
        cut.graph.output.append(known.get(name) or onnx.helper.make_tensor_value_info(name, 1, None))
        needed.add(name)
    kept = []
    for node in reversed(cut.graph.node):  # in topological order
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del cut.graph.node[:]
    cut.graph.node.extend(reversed(kept))
    return cut


def insert_quantiser(proto: ModelProto, one: QuantisedTensor, users: set[str], is_qonnx: bool) -> None:
    """Puts the quantiser behind its tensor. Only outputs and the nodes named in `users` read what it gives; a tensor
    that is an output keeps its name for that."""
    graph = proto.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {tensor.name for tensor in graph.initializer}
    is_output = any(value.name == one.tensor for value in graph.output)
    before = _free_name(f"{one.tensor}_unquantised", taken) if is_output else one.tensor
    after = one.tensor if is_output else _free_name(f"{one.tensor}_quantised", taken)
    place = 0
    for k, node in enumerate(graph.node):
        if one.tensor in node.output:
            place = k + 1
            node.output[list(node.output).index(one.tensor)] = before
        for at, name in enumerate(node.input):
            if name == one.tensor:
                node.input[at] = after if node.name in users else before
    nodes = _quantiser(proto, one, before, after, taken) if is_qonnx else _linear(proto, one, before, after, taken)
    for node in reversed(nodes):
        graph.node.insert(place, node)


def _free_name(wanted: str, taken: set[str]) -> str:
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name


def _constant(proto: ModelProto, name: str, values: Array, taken: set[str]) -> str:
    from onnx import numpy_helper

    name = _free_name(name, taken)
    proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def _quantiser(proto: ModelProto, one: QuantisedTensor, before: str, after: str, taken: set[str]) -> list[NodeProto]:
    """QONNX's Quant."""
    from onnx import helper

    values = {"scale": one.scale, "zero_point": 0, "bits": one.bits}
    constants = [
        _constant(proto, f"{after}_{key}", np.array(value, np.float32), taken) for key, value in values.items()
    ]
    more: dict[str, Any] = {"signed": int(one.signed), "narrow": 0, "rounding_mode": "ROUND"}
    return [helper.make_node("Quant", [before, *constants], [after], name=f"{after}_quant", domain=QONNX, **more)]


def _linear(proto: ModelProto, one: QuantisedTensor, before: str, after: str, taken: set[str]) -> list[NodeProto]:
    """QuantizeLinear and DequantizeLinear."""
    from onnx import helper

    scale = _constant(proto, f"{after}_scale", np.array(one.scale, np.float32), taken)
    zero = _constant(proto, f"{after}_zero_point", np.array(0, np.int8 if one.signed else np.uint8), taken)
    levels = _free_name(f"{after}_levels", taken)
    return [
        helper.make_node("QuantizeLinear", [before, scale, zero], [levels], name=f"{after}_quantize"),
        helper.make_node("DequantizeLinear", [levels, scale, zero], [after], name=f"{after}_dequantize"),
    ]
