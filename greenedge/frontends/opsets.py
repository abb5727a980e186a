"""Opsets 7 to 12 as opset 13: the few operators whose spelling changed, rewritten without changing a number.

From opset 13 to 25 every spelling is read as it is. Below 7 a broadcast means something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.errors import ReasonKind, Refused

if TYPE_CHECKING:
    import onnx

OLDEST, NEWEST, RAISED = 7, 25, 13
_LIMIT = float(np.finfo(np.float32).max)  # what opset 6 to 10 means by no limit of a Clip


def raise_opset(proto: onnx.ModelProto) -> list[str]:
    """Opset 7 to 12 → 13, in place. Raises Refused for an opset that is not read or a node with no such form."""
    version = next(entry.version for entry in proto.opset_import if entry.domain == "")
    if not OLDEST <= version <= NEWEST:
        raise Refused(
            ReasonKind.UNSUPPORTED_GRAPH,
            f"opset {version}",
            f"opsets {OLDEST} to {NEWEST} are read",
            f"export with opset_version={min(max(version, 17), 21)}",
        )
    if version >= RAISED:
        return []
    rewriter = _Rewriter(proto.graph, version)
    for node in proto.graph.node:
        rule = RULES.get(node.op_type) if node.domain == "" else None
        if rule is not None:
            rule(rewriter, node)
    for entry in proto.opset_import:
        if entry.domain == "":
            entry.version = RAISED
    return [f"opset {version} is read as opset {RAISED}"]


class _Rewriter:
    """Attributes that became inputs, as new initialisers of the graph."""

    def __init__(self, graph: onnx.GraphProto, version: int) -> None:
        self.graph, self.version = graph, version
        self._taken = {t.name for t in graph.initializer} | {o for n in graph.node for o in n.output}

    def take(self, node: onnx.NodeProto, name: str) -> Any:
        """The attribute's value, removed from the node; None where it has none."""
        import onnx

        for k, attribute in enumerate(node.attribute):
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                del node.attribute[k]
                return value
        return None

    def add_input(self, node: onnx.NodeProto, position: int, what: str, value: Any, kind: type) -> None:
        """A constant as the node's input at `position`."""
        from onnx import numpy_helper

        name = base = f"{node.name}.{what}"
        count = 1
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, kind), name))
        while len(node.input) <= position:
            node.input.append("")
        node.input[position] = name


def _clip(at: _Rewriter, node: onnx.NodeProto) -> None:
    """Clip(x; min, max) → Clip(x, min, max); before opset 11."""
    if at.version < 11:
        for position, name in ((1, "min"), (2, "max")):
            value = at.take(node, name)
            if value is not None and not abs(value) >= _LIMIT:  # a NaN stays, and is refused as a constant
                at.add_input(node, position, name, value, np.float32)


def _pad(at: _Rewriter, node: onnx.NodeProto) -> None:
    """Pad(x; pads, value) → Pad(x, pads, value); before opset 11."""
    if at.version < 11:
        at.add_input(node, 1, "pads", at.take(node, "pads") or [], np.int64)
        value = at.take(node, "value")
        if value:
            at.add_input(node, 2, "value", value, np.float32)


def _slice(at: _Rewriter, node: onnx.NodeProto) -> None:
    """Slice(x; starts, ends, axes) → Slice(x, starts, ends, axes); before opset 10."""
    if at.version < 10:
        for position, name in ((1, "starts"), (2, "ends"), (3, "axes")):
            value = at.take(node, name)
            if value is not None:
                at.add_input(node, position, name, value, np.int64)


def _axes(at: _Rewriter, node: onnx.NodeProto) -> None:
    """Squeeze, Unsqueeze or ReduceSum: axes from an attribute to an input."""
    value = at.take(node, "axes")
    if value is not None:
        at.add_input(node, 1, "axes", value, np.int64)


def _split(at: _Rewriter, node: onnx.NodeProto) -> None:
    """Split(x; split) → Split(x, split)."""
    value = at.take(node, "split")
    if value is not None:
        at.add_input(node, 1, "split", value, np.int64)


def _dropout(at: _Rewriter, node: onnx.NodeProto) -> None:
    """Dropout at inference passes its input on; the ratio plays no part. Before opset 12."""
    if at.version < 12:
        at.take(node, "ratio")


def _top_k(at: _Rewriter, node: onnx.NodeProto) -> None:
    """TopK(x; k) → TopK(x, k); before opset 10."""
    if at.version < 10:
        at.add_input(node, 1, "k", [at.take(node, "k") or 0], np.int64)


def _resize(at: _Rewriter, node: onnx.NodeProto) -> None:
    """Upsample(x; s), Upsample(x, s) or Resize(x, s) of opset 7 to 10 → Resize(x, , s) with the coordinates that they
    always had.

    Opset 10 has asymmetric coordinates and rounds down.
    """
    import onnx

    if node.op_type == "Resize" and at.version >= 11:
        return
    mode = at.take(node, "mode") or b"nearest"
    if (stated := at.take(node, "scales")) is not None:
        at.add_input(node, 1, "scales", stated, np.float32)
    scales = node.input[1] if len(node.input) > 1 else ""
    node.op_type = "Resize"
    del node.input[1:]
    node.input.extend(["", scales])
    settings = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in settings.items())


def _scatter(at: _Rewriter, node: onnx.NodeProto) -> None:
    """Scatter → ScatterElements, its name since opset 11."""
    node.op_type = "ScatterElements"


def _softmax(at: _Rewriter, node: onnx.NodeProto) -> None:
    """Softmax over the last axis is the same before and since opset 13; over axis k it took all axes from k on."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    rank = _find_rank(at.graph, {*node.input[:1], *node.output[:1]})
    if axis == -1 or (rank is not None and axis % rank == rank - 1):
        at.take(node, "axis")
        return
    axes = "an unknown number of" if rank is None else rank
    raise Refused(
        ReasonKind.UNSUPPORTED_OP,
        f"{node.op_type} over axis {axis} of {axes} axes in opset {at.version}",
        "before opset 13 it runs over all axes from there on",
        "export with opset_version=13 or later",
    )


def _find_rank(graph: onnx.GraphProto, tensors: set[str]) -> int | None:
    """How many axes the first of these tensors has whose shape the file states."""
    values = (*graph.input, *graph.output, *graph.value_info)
    known = (v for v in values if v.name in tensors and v.type.tensor_type.HasField("shape"))
    return next((len(v.type.tensor_type.shape.dim) for v in known), None)


RULES: dict[str, Callable[[_Rewriter, onnx.NodeProto], None]] = {
    "Clip": _clip,
    "Pad": _pad,
    "Slice": _slice,
    "Squeeze": _axes,
    "Unsqueeze": _axes,
    "ReduceSum": _axes,
    "Split": _split,
    "Dropout": _dropout,
    "TopK": _top_k,
    "Resize": _resize,
    "Upsample": _resize,
    "Scatter": _scatter,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Hardmax": _softmax,
}
