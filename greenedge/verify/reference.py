"""qonnx's own float32 execution of the model: the reference that the integer graph answers to."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from greenedge.errors import GreenedgeError, VerificationError
from greenedge.graph import Input, Requantise
from greenedge.graph.ops.base import Array
from greenedge.lower import Lowered
from greenedge.lower.prologue_epilogue import dequantiser


def qonnx_integers(
    lowered: Lowered, model: Path, inputs: Array | Mapping[str, Array], tell: Callable[[int, int, str], None]
) -> dict[str, Array]:
    """{edge: integers} of every input, requantiser and output whose tensor qonnx computes, sample by sample. `inputs`
    is one array, or one for each input of the model by its name.

    Integers are read off the float tensors by their exact scale and zero point. Raises VerificationError where a tensor
    holds something else.
    """
    executor, names = _executor(model)
    given = inputs if isinstance(inputs, Mapping) else {names[0]: inputs}
    feeds = {name: np.asarray(given[name], np.float32) for name in names}
    total = len(feeds[names[0]])
    rows: list[dict[str, Array]] = []
    for k in range(total):
        rows.append(read_integers(lowered, executor({name: x[k : k + 1] for name, x in feeds.items()}), k))
        tell(k + 1, total, "qonnx")
    if not rows:
        raise VerificationError("qonnx was asked for zero samples; give at least one.")
    return {edge: np.concatenate([row[edge] for row in rows]) for edge in rows[0]}


def read_integers(lowered: Lowered, context: Mapping[str, Array], first: int = 0) -> dict[str, Array]:
    """{edge: integers, batch first} read off the float tensors of one execution whose first sample has number `first`.

    A level carries two float32 roundings at most, so a quarter of a step tells a level from noise. A sum over many
    terms may err by more: it is read to the nearest integer, and whether float32 explains that is asked afterwards.
    """
    result = {}
    for edge, (tensor, scale, zero) in _readable(lowered).items():
        y = np.asarray(context[tensor], np.float64).reshape(-1, *lowered.graph.edges[edge].shape) / scale + zero
        level = np.rint(y)
        is_level = isinstance(lowered.graph.producer(edge), (Input, Requantise))
        if not np.isfinite(y).all() or (is_level and np.abs(y - level).max(initial=0) >= 0.25):
            raise VerificationError(
                f"qonnx gave values on tensor {tensor!r} from sample {first} on that are no multiples of its scale."
            )
        result[edge] = level.astype(np.int64)
    return result


def _readable(lowered: Lowered) -> dict[str, tuple[str, Array, Array]]:
    """{edge: (tensor, scale, zero)} of the edges whose integers can be read off a float tensor of the model."""
    graph = lowered.graph
    found: dict[str, tuple[str, Array, Array]] = {}
    edges = [*graph.inputs, *(edge for edge in graph.edges if edge in lowered.trace.quantised), *graph.outputs]
    for edge in dict.fromkeys(edges):
        birth = lowered.trace.births.get(edge)
        parts = dequantiser(birth.expr) if birth is not None else None
        if birth is not None and parts is not None:
            scale, zero = (np.asarray(part)[None] if np.ndim(part) else np.asarray(part) for part in parts)
            found[edge] = birth.tensor, scale, zero
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """qonnx warns about shapes of scalars on every node; what matters to us is compared afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _executor(path: Path) -> tuple[Callable[[Mapping[str, Array]], dict[str, Array]], list[str]]:
    """({input: a sample (1, …)} → {tensor: array} by qonnx.execute_onnx, the names of the inputs). Raises
    GreenedgeError where qonnx cannot take the model."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    try:
        with _quiet():
            model = ModelWrapper(str(path)).transform(InferShapes())
    except (RuntimeError, AssertionError, ValueError, KeyError) as error:
        raise GreenedgeError(
            f"{path}: qonnx cannot read the model ({str(error).splitlines()[0]}); export it with export_qonnx."
        ) from None
    constants = {tensor.name for tensor in model.graph.initializer}
    shapes = {
        value.name: model.get_tensor_shape(value.name) for value in model.graph.input if value.name not in constants
    }

    def execute(sample: Mapping[str, Array]) -> dict[str, Array]:
        feeds = {name: sample[name].reshape(shape) for name, shape in shapes.items()}
        with _quiet():
            context: dict[str, Array] = execute_onnx(model, feeds, return_full_exec_context=True)
            return context

    return execute, list(shapes)
