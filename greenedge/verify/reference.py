"""qonnx's own float32 execution of the model: the reference that the integer graph answers to."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.errors import GreenedgeError, Refused, VerificationError
from greenedge.frontends.batch import set_batch
from greenedge.frontends.normalise import collect_constants
from greenedge.graph import Input, Requantise
from greenedge.graph.ops.base import Array
from greenedge.lower import Lowered
from greenedge.lower.builder import Birth
from greenedge.lower.expr import Var
from greenedge.lower.prologue_epilogue import dequantiser

# samples that go through qonnx at once, and numbers of a batch's tensors altogether (256 MB of float32)
_BATCH, _BATCH_ELEMENTS = 64, 1 << 26
# what qonnx, onnx and set_batch raise for a model that they cannot take
_CANNOT = (RuntimeError, AssertionError, ValueError, KeyError, Refused)


def qonnx_integers(
    lowered: Lowered, model: Path, inputs: Array | Mapping[str, Array], tell: Callable[[int, int, str], None]
) -> dict[str, Array]:
    """{edge: integers} of every input, requantiser and output whose tensor qonnx computes. `inputs` is one array, or
    one for each input of the model by its name.

    Integers are read off the float tensors by their exact scale and zero point. Raises VerificationError where a tensor
    holds something else.
    """
    executor, names, batch = _executor(model, _count(inputs))
    given = inputs if isinstance(inputs, Mapping) else {names[0]: inputs}
    feeds = {name: np.asarray(given[name], np.float32) for name in names}
    total = len(feeds[names[0]])
    rows: list[dict[str, Array]] = []
    for first in range(0, total, batch):
        taken = min(batch, total - first)
        # the last batch is filled up with its last sample: the model's shapes are fixed
        places = first + np.minimum(np.arange(batch), taken - 1)
        integers = read_integers(lowered, executor({name: x[places] for name, x in feeds.items()}), first)
        rows.append({edge: values[:taken] for edge, values in integers.items()})
        tell(first + taken, total, "qonnx")
    if not rows:
        raise VerificationError("qonnx was asked for zero samples; give at least one.")
    return {edge: np.concatenate([row[edge] for row in rows]) for edge in rows[0]}


def read_integers(lowered: Lowered, context: Mapping[str, Array], first: int = 0) -> dict[str, Array]:
    """{edge: integers, batch first} read off the float tensors of one execution whose first sample has number `first`.

    A level carries two float32 roundings at most, so a quarter of a step tells a level from noise. A sum over many
    terms may err by more: it is read to the nearest integer, and whether float32 explains that is asked afterwards.
    """
    result = {}
    for edge, (birth, scale, zero) in _readable(lowered).items():
        tensor, shape = birth.tensor, lowered.graph.edges[edge].shape
        values = np.asarray(context[tensor], np.float64)
        for move in reversed(birth.moves):
            values = move.undo(values.reshape(-1, *move.after))
        y = values.reshape(-1, *shape) / scale + zero
        level = np.rint(y)
        is_level = isinstance(lowered.graph.producer(edge), (Input, Requantise)) or edge in lowered.trace.defined
        if not np.isfinite(y).all() or (is_level and np.abs(y - level).max(initial=0) >= 0.25):
            raise VerificationError(
                f"qonnx gave values on tensor {tensor!r} from sample {first} on that are no multiples of its scale."
            )
        result[edge] = level.astype(np.int64)
    return result


def _readable(lowered: Lowered) -> dict[str, tuple[Birth, Array, Array]]:
    """{edge: (birth, scale, zero)} of the edges whose integers can be read off a float tensor of the model."""
    graph = lowered.graph
    found: dict[str, tuple[Birth, Array, Array]] = {}
    levels = lowered.trace.quantised.keys() | lowered.trace.defined
    edges = [*graph.inputs, *(edge for edge in graph.edges if edge in levels), *graph.outputs]
    for edge in dict.fromkeys(edges):
        birth = lowered.trace.births.get(edge)
        parts = dequantiser(birth.expr) if birth is not None else None
        if birth is not None and parts is not None:
            scale, zero = (np.asarray(part)[None] if np.ndim(part) else np.asarray(part) for part in parts)
            found[edge] = birth, scale, zero
    for output in lowered.outputs:  # a quantiser that only renames integers may show them where their birth does not
        found.setdefault(output.edge, (Birth(output.tensor, Var()), output.scale, output.zero))
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """qonnx warns about shapes of scalars on every node; what matters to us is compared afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _count(inputs: Array | Mapping[str, Array]) -> int:
    return len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)


def _executor(path: Path, samples: int) -> tuple[Callable[[Mapping[str, Array]], dict[str, Array]], list[str], int]:
    """({input: a batch} → {tensor: array} by qonnx.execute_onnx, the names of the inputs, the size of the batch).

    qonnx opens a session of its runtime for every node of every call, which costs more than the node: samples go
    through in batches where every tensor of the model then holds one sample beside the other. Raises GreenedgeError
    where qonnx cannot take the model.
    """
    from qonnx.core.onnx_exec import execute_onnx

    try:
        model = _open(path, 1)
    except _CANNOT as error:
        raise GreenedgeError(
            f"{path}: qonnx cannot read the model ({str(error).splitlines()[0]}); export it with export_qonnx."
        ) from None
    shapes = _live_shapes(model)
    batch = max(1, min(samples, _BATCH, _BATCH_ELEMENTS // max(1, sum(map(math.prod, shapes.values())))))
    if batch > 1:
        wide = _widen(path, shapes, batch)
        model, batch = (model, 1) if wide is None else (wide, batch)
    constants = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in constants]

    def execute(samples: Mapping[str, Array]) -> dict[str, Array]:
        feeds = {name: samples[name].reshape(batch, *shapes[name][1:]) for name in names}
        with _quiet():
            context: dict[str, Array] = execute_onnx(model, feeds, return_full_exec_context=True)
            return context

    return execute, names, batch


def _open(path: Path, batch: int) -> Any:
    """The model in a qonnx wrapper, its batch that large and its shapes inferred. Raises one of _CANNOT."""
    import onnx
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes

    with _quiet():
        proto = onnx.load(str(path))
        collect_constants(proto)  # an exporter may list constants among the inputs
        set_batch(proto, batch)
        return ModelWrapper(proto).transform(InferShapes())


def _widen(path: Path, shapes: Mapping[str, tuple[int, ...]], batch: int) -> Any:
    """The model for a batch of that size; None where a tensor would not hold one sample beside the other."""
    try:
        model = _open(path, batch)
    except _CANNOT:
        return None
    return model if _live_shapes(model) == {name: (batch, *shape[1:]) for name, shape in shapes.items()} else None


def _live_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that depend on an input."""
    constants = {tensor.name for tensor in model.graph.initializer}
    live = {value.name for value in model.graph.input} - constants
    for node in model.graph.node:
        if live.intersection(node.input):
            live.update(filter(None, node.output))
    return {name: tuple(model.get_tensor_shape(name) or ()) for name in live}
