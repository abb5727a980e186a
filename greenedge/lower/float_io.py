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
    from onnx import ModelProto

Feeds = Mapping[str, ArrayLike]  # the model's inputs by name, batch axis first

# Host models that reshape by constant sizes were exported for one sample and run sample by sample.
_FIXED_BATCH = {"Reshape", "Expand", "Tile", "Slice", "Gather"}


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
    if output.dtype.kind in "iu":
        return output.reshape(-1) if output.size == len(output) else None
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

    if total and not any(node.op_type in _FIXED_BATCH for node in model.graph.node):
        return dict(zip(names, run(slice(None)), strict=True))
    parts = [run(slice(i, i + 1)) for i in range(total)]
    if not parts:
        return {name: np.zeros((0,)) for name in names}
    return {name: np.concatenate([part[k] for part in parts]) for k, name in enumerate(names)}
