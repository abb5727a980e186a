"""Tensors between the inputs and outputs whose first axis is not the batch (merged with the heads, or moved behind the
sequence) get one axis of one element in front, so that the batch of one sample leads everywhere.

    Reshape(x, (heads, S, d)) → Reshape(x, (1, heads, S, d));   Transpose(x, (1, 0, 2)) → Transpose(x, (0, 2, 1, 3))
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.frontends.domains import QONNX, QUANTISERS
from greenedge.frontends.shapes import Shapes

if TYPE_CHECKING:
    import onnx

_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
_BY_ELEMENT = (
    *("Add", "Sub", "Mul", "Div", "Where", "Neg", "Abs", "Relu", "Clip", "Sigmoid", "Tanh", "Erf", "Gelu", "Exp"),
    *("Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear", "Max", "Min", "MatMul"),
    *QUANTISERS,
)
_ALONG_AXIS = ("Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "Concat", "Gather", "Split")


def lead_with_batch(proto: onnx.ModelProto, known: Shapes) -> bool:
    """Puts the axis in front, in place, of all such tensors, or of none where a node among them has no such form;
    whether it did. `known` are the shapes of tensors for a batch of one."""
    graph = proto.graph
    live = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    ends = {value.name for value in graph.output}
    found: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or not live.intersection(node.input):
            continue
        live.update(filter(None, node.output))
        names = [name for name in (*node.input, *node.output) if name in live]
        if any(known.get(name, (1,))[:1] != (1,) for name in names):
            if not _can_lead(node, names, known, ends):
                return False
            found.append(node)
    if not found:
        return False
    writer = _Writer(graph, known, live)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += writer.rewrite(node) if any(node is one for one in found) else [node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    read = {name for node in nodes for name in node.input} | ends
    kept = [tensor for tensor in graph.initializer if tensor.name in read]  # shapes of before are read no more
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)
    return True


def _can_lead(node: onnx.NodeProto, names: Sequence[str], known: Shapes, ends: set[str]) -> bool:
    """Whether the node has a form with one axis more; outputs of the model stay as they are."""
    if not all(name in known for name in names) or node.domain not in ("", QONNX):
        return False
    if any(known[name][:1] != (1,) and name in ends for name in node.output):
        return False
    if node.op_type == "Gemm":  # of rows alone: its weights and bias are constants
        given = {attribute.name: attribute for attribute in node.attribute}
        plain = all(given[name].f == 1.0 for name in ("alpha", "beta") if name in given)
        return plain and not ("transA" in given and given["transA"].i) and list(node.input).count(names[0]) == 1
    return node.op_type in (*_RESHAPES, "Transpose", *_BY_ELEMENT, *_ALONG_AXIS)


class _Writer:
    """Nodes in their form with one axis more. A tensor whose first axis was not the batch keeps its name; one that has
    the batch in front is read and written through a reshape."""

    def __init__(self, graph: onnx.GraphProto, known: Shapes, live: set[str]) -> None:
        self.graph, self.known, self.live = graph, known, live
        self.leading: set[str] = set()  # tensors with the batch in front that exist with one axis more as well

    def rewrite(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes in place of `node`."""
        if node.op_type in _RESHAPES:
            return [self._reshape(node.input[0], node.output[0], node)]
        if node.op_type == "Gemm":
            return self._spell_gemm(node)
        before: list[onnx.NodeProto] = []
        after: list[onnx.NodeProto] = []
        new = copy.deepcopy(node)
        for k, name in enumerate(node.input):
            if name in self.live and self._has_batch(name):
                new.input[k] = f"{name}.lead"
                if name not in self.leading:
                    before.append(self._lead(name))
        for k, name in enumerate(node.output):
            if name and self._has_batch(name):
                new.output[k] = f"{name}.led"
                after.append(self._reshape(f"{name}.led", name))
        self._shift_axes(new, len(self.known[node.input[0]]) if node.input[0] in self.known else 0)
        return [*before, new, *after]

    def _spell_gemm(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """MatMul(x, W) + bias, which takes rows behind a batch."""
        import onnx

        nodes = []
        source, weight, output = node.input[0], node.input[1], node.output[0]
        if self._has_batch(source):
            nodes.append(self._lead(source))
            source = f"{source}.lead"
        if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
            nodes.append(self._node("Transpose", [weight], f"{output}.weight"))
            nodes[-1].attribute.append(onnx.helper.make_attribute("perm", [1, 0]))
            weight = f"{output}.weight"
        has_bias = len(node.input) > 2 and bool(node.input[2])
        led = f"{output}.led" if self._has_batch(output) else output
        product = self._node("MatMul", [source, weight], f"{output}.product" if has_bias else led)
        product.name = node.name
        product.metadata_props.extend(node.metadata_props)
        nodes.append(product)
        if has_bias:
            nodes.append(self._node("Add", [product.output[0], node.input[2]], led))
        return [*nodes, self._reshape(led, output)] if led != output else nodes

    def _has_batch(self, name: str) -> bool:
        return self.known[name][:1] == (1,)

    def _lead(self, name: str) -> Any:
        self.leading.add(name)
        return self._node(
            "Reshape", [name, self._constant(f"{name}.lead.shape", (1, *self.known[name]))], f"{name}.lead"
        )

    def _reshape(self, source: str, target: str, like: onnx.NodeProto | None = None) -> Any:
        """A reshape to the form that the tensor `target` has; named as the node that it stands for."""
        shape = self.known[target] if self._has_batch(target) else (1, *self.known[target])
        made = self._node("Reshape", [source, self._constant(f"{target}.shape", shape)], target)
        if like is not None:
            made.name = like.name
            made.metadata_props.extend(like.metadata_props)
        return made

    def _shift_axes(self, node: onnx.NodeProto, rank: int) -> None:
        """Axes counted from the front, one further."""
        import onnx

        for attribute in node.attribute:
            if (
                attribute.name == "axis"
                and attribute.i >= 0
                and node.op_type not in ("QuantizeLinear", "DequantizeLinear")
            ):
                attribute.i += 1
            elif attribute.name == "perm":
                shifted = [0, *(axis + 1 for axis in attribute.ints)]
                del attribute.ints[:]
                attribute.ints.extend(shifted)
        names = {attribute.name for attribute in node.attribute}
        if node.op_type in ("Gather", "Split") and "axis" not in names:
            node.attribute.append(onnx.helper.make_attribute("axis", 1))
        if node.op_type == "Transpose" and "perm" not in names:
            node.attribute.append(onnx.helper.make_attribute("perm", [0, *range(rank, 0, -1)]))

    def _node(self, op: str, inputs: Sequence[str], output: str) -> Any:
        import onnx

        return onnx.helper.make_node(op, list(inputs), [output], name=f"{output}.{op}")

    def _constant(self, name: str, values: Sequence[int]) -> str:
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name
