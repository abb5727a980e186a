"""ONNX graphs of integer operators: what transformers need, each exact in every runtime that follows the standard.

Numbers are int64 unless said otherwise. A matrix product takes levels as uint8 with a zero point of 128 on both sides:
products of uint8 with int8 may saturate at 16 bits on x86 without VNNI, those of uint8 with uint8 do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
ZERO = 128  # of levels as uint8
_LIMIT = 127


class IntegerGraph:
    """Grows a graph; every method adds nodes and returns the name of what they give."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, operator: str, *inputs: str, **attributes: int | Sequence[int]) -> str:
        """One node with one output."""
        name = f"{operator}_{len(self.nodes)}"
        node = helper.make_node(operator, list(inputs), [name], name=name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def constant(self, value: ArrayLike, kind: type[np.generic] = np.int64) -> str:
        """An initialiser; the same numbers are kept once."""
        array = np.ascontiguousarray(value, kind) if np.ndim(value) else np.array(value, kind)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = name = f"constant_{len(self._known)}"
            self.constants[name] = numpy_helper.from_array(array, name)
        return self._known[key]

    def cast(self, x: str, kind: int) -> str:
        """x as another type of TensorProto."""
        return self.add("Cast", x, to=kind)

    def clip(self, x: str, low: int, high: int) -> str:
        """min(max(x, low), high)."""
        return self.add("Clip", x, self.constant(low), self.constant(high))

    def shift(self, x: str, bits: int, reach: int, offset: int = 0) -> str:
        """((x + 2^(bits-1)) >> bits) + offset, for |x| <= reach: ONNX divides towards zero, so a multiple of 2^bits
        keeps what is divided above it."""
        above = (reach >> bits) + 1
        raised = self.add("Add", x, self.constant((1 << bits >> 1) + (above << bits)))
        return self.add("Sub", self.add("Div", raised, self.constant(1 << bits)), self.constant(above - offset))

    def as_levels(self, x: str, bits: int, reach: int) -> str:
        """clip((x + 2^(bits-1)) >> bits, 127) as uint8 around 128."""
        return self.cast(self.clip(self.shift(x, bits, reach, ZERO), ZERO - _LIMIT, ZERO + _LIMIT), TensorProto.UINT8)

    def multiply(self, x: str, y: str, zero_of_x: int = ZERO) -> str:
        """The matrix product of levels as uint8, (..., m, k) and (..., k, n): int32."""
        zeros = self.constant(zero_of_x, np.uint8), self.constant(ZERO, np.uint8)
        return self.add("MatMulInteger", x, y, *zeros)

    def multiply_rows(self, x: str, weights: NDArray[np.int8], multipliers: NDArray[np.int32]) -> str:
        """Levels (1, columns) times weights (rows, columns), times a multiplier for each row: (1, rows)."""
        matrix = self.constant(weights.T.astype(np.int16) + ZERO, np.uint8)
        return self.add("Mul", self.cast(self.multiply(x, matrix), TensorProto.INT64), self.constant(multipliers))

    def look_up(self, table: NDArray[np.generic], index: str) -> str:
        """table[index] of a table with one axis, in the table's type."""
        return self.add("Gather", self.constant(table, table.dtype.type), index, axis=0)

    def sum_last(self, x: str) -> str:
        """The sum along the last axis, which stays."""
        return self.add("ReduceSum", x, self.constant([-1]), keepdims=1)

    def rotate(self, x: str, cosine: str, sine: str, bits: int, reach: int) -> str:
        """Pairs (..., pairs, 2) turned, by cosine (pairs, 1) and sine (pairs, 2) of which the first is negative, as
        levels."""
        other = self.add("Gather", x, self.constant([1, 0]), axis=-1)
        turned = self.add("Add", self.add("Mul", x, cosine), self.add("Mul", other, sine))
        return self.as_levels(turned, bits, reach)

    def weigh(self, logits: str, table: NDArray[np.uint8]) -> str:
        """A softmax's numerators: table[min(max - logit, last)] along the last axis, uint8. logits are int64."""
        largest = self.add("ReduceMax", logits, axes=[-1], keepdims=1)
        distance = self.add("Sub", largest, logits)
        return self.look_up(table, self.add("Min", distance, self.constant(len(table) - 1)))


def name_tensor(name: str, kind: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """An input or output; a text is an axis that varies."""
    return helper.make_tensor_value_info(name, kind, shape)


def finish(
    graph: IntegerGraph, name: str, inputs: list[onnx.ValueInfoProto], outputs: dict[str, onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """The model, checked; outputs are {what the graph calls it: as it is called outside}."""
    ends = [helper.make_node("Identity", [inner], [outer.name]) for inner, outer in outputs.items()]
    body = helper.make_graph(
        [*graph.nodes, *ends], name, inputs, list(outputs.values()), list(graph.constants.values())
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="greenedge")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model
