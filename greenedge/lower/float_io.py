"""Runs the float arithmetic at both ends of an integer graph, the same for every back end."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from greenedge.errors import GreenedgeError
from greenedge.frontends.input_type import read_levels
from greenedge.graph.execute import accept_input
from greenedge.graph.ops.base import Array, Ints, Shape
from greenedge.lower import Lowered

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Feeds = Mapping[str, ArrayLike]  # the model's inputs by name, batch axis first

# Host models are in normal form, for one sample. Operators beside these may take several samples for one (a reshape to
# constant sizes, a mean over the first axis): a model with any of them runs sample by sample.
_BY_SAMPLE = {
    *("Abs", "Add", "Cast", "Ceil", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Greater", "GreaterOrEqual"),
    *("HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg"),
    *("Not", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Softplus", "Sqrt", "Sub", "Tanh", "Where"),
    *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"),
    *("MatMul", "Gemm"),
}
_ALONG_AXIS = {"Softmax", "LogSoftmax", "ArgMax", "Concat", "Flatten", "TopK"}  # by sample but along the first axis


def run_prologue(lowered: Lowered, x: ArrayLike | Feeds) -> dict[str, Ints]:
    """{input edge: int64 array} from the model's inputs, batch axis first.

    Inputs that are declared or annotated as integers are divided by their step, which must come out whole; an integer
    array for them is taken as it is. Raises GreenedgeError for missing inputs, other shapes, NaN, and values off the
    grid.
    """
    graph = lowered.graph
    floats = [value.name for value in lowered.prologue.graph.input] if lowered.prologue is not None else []
    direct = [edge for edge in graph.inputs if edge not in _prologue_outputs(lowered)]
    feeds: Feeds = dict(x) if isinstance(x, Mapping) else {(floats or direct)[0]: np.asarray(x)}
    counts = {name: len(np.asarray(values)) for name, values in feeds.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        raise GreenedgeError(f"the inputs have different numbers of samples, {shown}; give as many for each.")
    result = {edge: _read_integers(lowered, edge, feeds) for edge in direct}
    if lowered.prologue is not None:
        arrays = {}
        for value in lowered.prologue.graph.input:
            shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)[1:]
            arrays[value.name] = _read_floats(value.name, shape, feeds)
        result |= {name: part.astype(np.int64) for name, part in _run(lowered.prologue, arrays).items()}
    return result


def run_epilogue(lowered: Lowered, edges: Feeds) -> dict[str, Array]:
    """{model output: float array} from the integers on the output edges."""
    return _run(
        lowered.epilogue, {edge: np.asarray(edges[edge], np.int64) for edge in dict.fromkeys(lowered.graph.outputs)}
    )


def classes(output: Array) -> Ints | None:
    """The class of every sample, (N,): the index that the model gives, or that of its largest score; None for what is
    neither."""
    if output.dtype.kind in "iu" and output.size == len(output):
        return output.reshape(-1)
    return output.argmax(axis=1) if output.ndim == 2 else None


def _prologue_outputs(lowered: Lowered) -> set[str]:
    """The input edges whose integers the host computes."""
    return {value.name for value in lowered.prologue.graph.output} if lowered.prologue is not None else set()


def _read_floats(name: str, shape: Shape, feeds: Feeds) -> Array:
    """An input of the prologue in float32, of the model's shape and finite. Raises GreenedgeError for another."""
    if name not in feeds:
        raise GreenedgeError(f"input {name!r} is missing; it has shape {('batch', *shape)}.")
    values = np.asarray(feeds[name], np.float32)
    if values.shape[1:] != shape:
        raise GreenedgeError(f"input {name!r} has shape {values.shape}; it must be {('batch', *shape)}.")
    if not np.isfinite(values).all():
        raise GreenedgeError(f"input {name!r} holds NaN or infinity; clean the data first.")
    return values


def _read_integers(lowered: Lowered, edge: str, feeds: Feeds) -> Ints:
    """The integers of an input that is declared as such, floats divided by its step. Raises GreenedgeError off the
    grid and beyond its range."""
    own = lowered.direct.get(edge, edge)
    kind = lowered.declared.get(_find_name(lowered.declared, own, edge) or "")
    name = _find_name(feeds, own, edge)
    if name is None:
        raise GreenedgeError(f"input {own!r} is missing; it has shape {('batch', *lowered.graph.edges[edge].shape)}.")
    levels = read_levels(np.asarray(feeds[name]), kind.scale if kind else Fraction(1), f"input {own!r}")
    return accept_input(dataclasses.replace(lowered.graph.edges[edge], name=own), levels)


def _find_name(names: Collection[str], own: str, edge: str) -> str | None:
    """The name among these of the input that an edge takes: its own, else one that the edge was made from
    (Builder.unique)."""
    made = (name for name in names if re.sub(r"\W+", "_", name).strip("_") == edge.removeprefix("n"))
    return own if own in names else next(made, None)


def _is_by_sample(node: NodeProto) -> bool:
    """Whether the node computes every sample of a batch by itself, so that the batch may be of any size."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), None)
    return node.op_type in _BY_SAMPLE or (node.op_type in _ALONG_AXIS and (axis == -1 or (axis or 0) > 0))


def _run(model: ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a host model by name, for all samples."""
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(model)
    names = [value.name for value in model.graph.output]
    total = len(next(iter(feeds.values())))

    def run(samples: slice) -> Sequence[Array]:
        outputs = session.run(None, {name: part[samples] for name, part in feeds.items()})
        assert isinstance(outputs, list)
        return outputs

    if total and all(_is_by_sample(node) for node in model.graph.node):
        return dict(zip(names, run(slice(None)), strict=True))
    parts = [run(slice(i, i + 1)) for i in range(total)]
    if not parts:
        return {name: np.zeros((0,)) for name in names}
    return {name: np.concatenate([part[k] for part in parts]) for k, name in enumerate(names)}
