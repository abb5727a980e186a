"""Runs the float arithmetic at both ends of an integer graph, the same for every back end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from greenedge.errors import GreenedgeError
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
    grid."""
    kind = next((t for name, t in lowered.declared.items() if _names_edge(name, edge)), None)
    name = next((name for name in feeds if _names_edge(name, edge)), None)
    if name is None:
        raise GreenedgeError(f"input {edge!r} is missing; it has shape {('batch', *lowered.graph.edges[edge].shape)}.")
    values = np.asarray(feeds[name])
    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    step = float(kind.scale) if kind else 1.0
    ints = np.rint(values.astype(np.float64) / step)
    off = np.abs(values - (ints * step))
    if values.size and (
        not np.isfinite(values).all() or off.max() > 1e-6 * max(1.0, step, float(np.abs(values).max()))
    ):
        raise GreenedgeError(
            f"input {edge!r} holds {float(values.ravel()[np.nanargmax(off)]):g}, which is no multiple of its step "
            f"{step:g}; quantise the data or declare another input type."
        )
    return ints.astype(np.int64)


def _names_edge(name: str, edge: str) -> bool:
    """Whether `edge` is, or was made from, the input's name (Builder.unique)."""
    return name == edge or re.sub(r"\W+", "_", name).strip("_") == edge.removeprefix("n")


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
