"""Runs the float arithmetic at both ends of an integer graph, the same for every road."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from greenedge.errors import GreenedgeError
from greenedge.lower import Lowered

# Host models that reshape by constant sizes were exported for one sample and run sample by sample.
_FIXED_BATCH = {"Reshape", "Expand", "Tile", "Slice", "Gather"}


def run_prologue(lowered: Lowered, x: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{input edge: int64 array} from the model's inputs, batch axis first.

    Inputs that are declared or annotated as integers are divided by their step, which must come out whole; an integer
    array for them is taken as it is. Raises GreenedgeError for missing inputs, other shapes, NaN, and values off the grid.
    """
    graph = lowered.graph
    floats = [value.name for value in lowered.prologue.graph.input] if lowered.prologue is not None else []
    direct = [edge for edge in graph.inputs if edge not in _made(lowered)]
    feeds = dict(x) if isinstance(x, Mapping) else {(floats or direct)[0]: np.asarray(x)}
    result = {edge: _direct(lowered, edge, feeds) for edge in direct}
    if lowered.prologue is not None:
        arrays = {}
        for value in lowered.prologue.graph.input:
            shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)[1:]
            arrays[value.name] = _float_input(value.name, shape, feeds)
        result |= {name: part.astype(np.int64) for name, part in _run(lowered.prologue, arrays).items()}
    return result


def run_epilogue(lowered: Lowered, edges: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{model output: float array} from the integers on the output edges."""
    return _run(
        lowered.epilogue, {edge: np.asarray(edges[edge], np.int64) for edge in dict.fromkeys(lowered.graph.outputs)}
    )


def classes(output: np.ndarray) -> np.ndarray | None:
    """The class of every sample, (N,): the index that the model gives, or that of its largest score; None for what is neither."""
    if output.dtype.kind in "iu":
        return output.reshape(-1) if output.size == len(output) else None
    return output.argmax(axis=1) if output.ndim == 2 else None


def _made(lowered: Lowered) -> set[str]:
    return {value.name for value in lowered.prologue.graph.output} if lowered.prologue is not None else set()


def _float_input(name: str, shape: tuple[int, ...], feeds) -> np.ndarray:
    if name not in feeds:
        raise GreenedgeError(f"input {name!r} is missing; it has shape {('batch', *shape)}.")
    values = np.asarray(feeds[name], np.float32)
    if values.shape[1:] != shape:
        raise GreenedgeError(f"input {name!r} has shape {values.shape}; it must be {('batch', *shape)}.")
    if not np.isfinite(values).all():
        raise GreenedgeError(f"input {name!r} holds NaN or infinity; clean the data first.")
    return values


def _direct(lowered: Lowered, edge: str, feeds) -> np.ndarray:
    kind = next((t for name, t in lowered.declared.items() if name == edge or _same(name, edge)), None)
    name = next((name for name in feeds if name == edge or _same(name, edge)), None)
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
            f"input {edge!r} holds {float(values.ravel()[np.nanargmax(off)]):g}, which is no multiple of its step {step:g}; "
            "quantise the data or declare another input type."
        )
    return ints.astype(np.int64)


def _same(name: str, edge: str) -> bool:
    import re

    return re.sub(r"\W+", "_", name).strip("_") == edge.removeprefix("n")


def _run(model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(model)
    names = [value.name for value in model.graph.output]
    total = len(next(iter(feeds.values())))
    if total and not any(node.op_type in _FIXED_BATCH for node in model.graph.node):
        return dict(zip(names, session.run(None, feeds)))
    parts = [session.run(None, {name: part[i : i + 1] for name, part in feeds.items()}) for i in range(total)]
    if not parts:
        return {name: np.zeros((0,)) for name in names}
    return {name: np.concatenate([part[k] for part in parts]) for k, name in enumerate(names)}
