"""The model's own inputs beside its integer graph: what a person names, where the graph has input edges.

An input may have several edges (two quantisers of one tensor) or none (nothing reads it), and an edge may be called
otherwise than its input. lower.json says so where a model has several; one input is what prologue and graph show.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from greenedge.frontends.input_type import InputType
from greenedge.frontends.samples import ModelInput
from greenedge.graph import Graph

if TYPE_CHECKING:
    from onnx import ModelProto

Inputs = tuple[tuple[ModelInput, ...], dict[str, str]]  # in the model's order; {input edge: the input that it takes}


def describe_inputs(inputs: tuple[ModelInput, ...], direct: Mapping[str, str]) -> dict[str, Any]:
    """What lower.json says of the inputs; nothing of one."""
    if len(inputs) == 1:
        return {}
    return {"inputs": [{"name": one.name, "shape": list(one.shape)} for one in inputs], "direct": dict(direct)}


def read_inputs(
    summary: Mapping[str, Any], graph: Graph, prologue: ModelProto | None, declared: Mapping[str, InputType]
) -> Inputs:
    """The inputs of a stored lowering. Raises KeyError, TypeError, ValueError or AttributeError for a damaged
    lower.json."""
    if "inputs" in summary:
        direct = {str(edge): str(name) for edge, name in summary["direct"].items()}
        shapes = {str(entry["name"]): tuple(map(int, entry["shape"])) for entry in summary["inputs"]}
        if not set(direct) <= set(graph.inputs) or not set(direct.values()) <= set(shapes):
            raise ValueError("its inputs are none of the graph's")
    else:
        made = {value.name for value in prologue.graph.output} if prologue is not None else set()
        direct = {edge: edge for edge in graph.inputs if edge not in made}
        shapes = {} if prologue is None else {value.name: _read_shape(value) for value in prologue.graph.input}
        shapes |= {edge: graph.edges[edge].shape for edge in direct}
    edges = {name: graph.edges[edge] for edge, name in direct.items()}
    kinds = {
        name: InputType(edge.lo, edge.hi, declared[name].scale if name in declared else Fraction(1))
        for name, edge in edges.items()
    }
    return tuple(ModelInput(name, shape, kinds.get(name)) for name, shape in shapes.items()), direct


def _read_shape(value: Any) -> tuple[int, ...]:
    """The sizes of a host model's input behind the batch axis."""
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)[1:]
