"""One normal form for every ONNX model that enters; whatever reads a model afterwards sees nothing else.

    normal = normalise(load_proto(path), path.stem)      # UnsupportedError carries all reasons

A batch of one sample, constants as initialisers, float32, one domain for quantisers, standard layers with channels
first, real operators between quantisers, padding as numbers, opset 13 or later, nodes in order with unique names, and
the shape of every tensor. Normalising twice changes nothing. What a step changes in the numbers, or in how the file is
read, becomes a note for the user.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from greenedge.errors import GreenedgeError, Reason, ReasonKind, Refused, UnsupportedError
from greenedge.frontends import attributes, batch, domains, shapes
from greenedge.frontends.channels_last import put_channels_first
from greenedge.frontends.float_types import use_float32
from greenedge.frontends.lead import lead_with_batch
from greenedge.frontends.opsets import raise_opset
from greenedge.frontends.order import name_nodes, sort_nodes
from greenedge.frontends.pads import state_pads
from greenedge.frontends.qoperator import replace_qoperators

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, eq=False)
class Normal:
    """A model in normal form, and what a user should know of how it came to be.

    `kind` says what kind of file it was. `complaints` are ONNX's own about the model. The lowering may know better
    words for them; with any of them nothing is accepted.
    """

    proto: onnx.ModelProto
    notes: tuple[str, ...] = ()
    complaints: tuple[Reason, ...] = ()
    kind: str = ""


def collect_constants(proto: onnx.ModelProto) -> list[str]:
    """Constant nodes → initialisers, and initialisers no longer among the inputs and declared values, in place."""
    graph = proto.graph
    found = [node for node in graph.node if node.op_type == "Constant" and node.domain in domains.STANDARD]
    for node in found:
        tensor = _read_constant(node)
        if tensor is not None:
            graph.initializer.append(tensor)
    if found:
        kept = [node for node in graph.node if node not in found]
        del graph.node[:]
        graph.node.extend(kept)
    names = {tensor.name for tensor in graph.initializer}
    for values in (graph.input, graph.value_info):
        kept_values = [value for value in values if value.name not in names]
        if len(kept_values) != len(values):
            del values[:]
            values.extend(kept_values)
    return []


def _read_constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node under its output's name; None for texts and sparse tensors, which nothing reads."""
    import onnx
    from onnx import numpy_helper

    for attribute in node.attribute:
        if attribute.name == "value" and attribute.HasField("t"):
            tensor = onnx.TensorProto()
            tensor.CopyFrom(attribute.t)
            tensor.name = node.output[0]
            return tensor
        if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
            value = onnx.helper.get_attribute_value(attribute)
            kind = np.float32 if "float" in attribute.name else np.int64
            return numpy_helper.from_array(np.array(value, dtype=kind), node.output[0])
    return None


Step = Callable[["onnx.ModelProto"], list[str]]
STEPS: tuple[Step, ...] = (
    collect_constants,
    name_nodes,
    sort_nodes,
    domains.name_domains,
    raise_opset,
    replace_qoperators,
    use_float32,
    put_channels_first,
    sort_nodes,
)


def normalise(proto: onnx.ModelProto, name: str) -> Normal:
    """The model in normal form; `proto` itself is changed.

    Raises GreenedgeError for a graph that is none (a cycle, a tensor that no node writes), UnsupportedError with every
    reason why a node is not what ONNX allows.
    """
    notes: list[str] = []
    try:
        for step in STEPS:
            notes += step(proto)
        _require_ends(proto.graph)
        if reasons := domains.find_unknown_domains(proto.graph.node):
            raise _refuse(name, reasons)
        shapes.check_nodes(proto)
        size = batch.read_batch(proto.graph)
        inferred, complaint = shapes.infer_values(proto)
        before = shapes.read_shapes(inferred)
        shapes.require_bounded(before)
        _check_attributes(proto, before, name)
        if not batch.is_batch_one(proto.graph):
            notes += batch.make_batch_one(proto)
            inferred, after_change = shapes.infer_values(proto)
            complaint = complaint or after_change
        complaints = [_complain(name, complaint)] if complaint else []
        if size not in (None, 1):
            complaints += batch.find_mixed_samples(proto.graph, before, shapes.read_shapes(inferred), size)
        if not complaints and lead_with_batch(proto, shapes.read_shapes(inferred)):
            inferred, after_change = shapes.infer_values(proto)
            complaints += [_complain(name, after_change)] if after_change else []
        if not complaints:
            state_pads(proto, shapes.read_shapes(inferred))
        shapes.write_values(proto, inferred)
    except Refused as refusal:
        raise _refuse(name, [refusal.at(name)]) from None
    return Normal(proto, tuple(notes), tuple(complaints))


def _complain(name: str, text: str) -> Reason:
    """ONNX's own words about a model, as a reason of the node that it names."""
    node, separator, rest = text.partition(": ")
    return Reason(
        node if separator else name,
        ReasonKind.MALFORMED,
        rest if separator else text,
        "a model follows ONNX's own rules",
        "correct the node, or export the model again",
    )


def _check_attributes(proto: onnx.ModelProto, known: shapes.Shapes, name: str) -> None:
    reasons = attributes.find_wrong_attributes(proto.graph, known)
    if reasons:
        raise _refuse(name, reasons)


def _refuse(name: str, reasons: list[Reason]) -> UnsupportedError:
    return UnsupportedError(f"{name} cannot become an integer graph:", reasons)


def _require_ends(graph: onnx.GraphProto) -> None:
    """Raises GreenedgeError for a model without inputs or outputs, Refused for one that is no tensor."""
    if not graph.input or not graph.output:
        raise GreenedgeError(
            f"the model has {len(graph.input)} inputs and {len(graph.output)} outputs; it needs at least one of each."
        )
    for value in graph.input:
        if not value.type.HasField("tensor_type"):
            raise Refused(
                ReasonKind.UNSUPPORTED_GRAPH,
                f"input {value.name!r} is no tensor",
                "inputs are tensors of numbers",
                "export the model again",
            )
