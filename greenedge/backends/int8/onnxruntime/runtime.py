"""Runs an ONNX file as it lies on disk, in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from greenedge.backends.int8.onnxruntime import worker
from greenedge.backends.int8.subprocess_worker import LIMIT_S, run_worker
from greenedge.errors import GreenedgeError, ToolError
from greenedge.files.scratch import scratch_folder
from greenedge.graph.ops.base import Array
from greenedge.progress import ProgressFn, no_progress

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

_MAX_BYTES = 1 << 30
NOTHING: Mapping[str, str] = {}


def run_file(
    model: Path, inputs: Sequence[Array], keep: Mapping[str, str] = NOTHING, progress: ProgressFn = no_progress
) -> dict[str, Array]:
    """{tensor: values, batch first} of the file's outputs and of the tensors in `keep`, {name: type}.

    Raises GreenedgeError for a file that the runtime does not take, ToolError where there is no runtime.
    """
    tree = parse_model(model)
    names = with_outputs(tree, keep)
    with scratch_folder("onnx") as scratch:
        folder = Path(scratch)
        (folder / "model.onnx").write_bytes(tree.SerializeToString())
        for k, x in enumerate(inputs):
            np.save(folder / f"x{k}.npy", x)
        argv = [sys.executable, worker.__file__, str(folder)]
        status, errors = run_worker(argv, folder / "log", len(inputs[0]), "ONNX Runtime", progress)
        if status != 0:
            raise _explain_failure(model, status, errors)
        with np.load(folder / "y.npz", allow_pickle=False) as result:
            return {name: result[f"y{k}"] for k, name in enumerate(names)}


def parse_model(model: Path) -> ModelProto:
    """The file as an ONNX ModelProto. Raises GreenedgeError where it is none, or keeps data elsewhere."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        if model.stat().st_size > _MAX_BYTES:
            raise GreenedgeError(f"{model} has {model.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read.")
        tree = onnx.load_model_from_string(model.read_bytes())
    except OSError as error:
        raise GreenedgeError(
            f"{model} cannot be read ({str(error.strerror).lower()}); run the build stage again."
        ) from None
    except DecodeError:
        raise GreenedgeError(f"{model} is no ONNX file; run the build stage again.") from None
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(tree.graph)):
        raise GreenedgeError(f"{model} keeps its weights in other files; run the build stage again.")
    if not tree.graph.node or not tree.graph.output or not all(isinstance(name, str) for name in _names(tree.graph)):
        raise GreenedgeError(f"{model} is no ONNX file; run the build stage again.")
    return tree


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every constant, also those in attributes and inner graphs."""
    yield from graph.initializer
    yield from (part for tensor in graph.sparse_initializer for part in (tensor.values, tensor.indices))
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            if inner.node:
                yield from _tensors(inner)


def _names(graph: GraphProto) -> Iterator[str | bytes]:
    """What protobuf gives as bytes where it is no UTF-8."""
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))


def with_outputs(tree: ModelProto, keep: Mapping[str, str]) -> list[str]:
    """Declares the tensors in `keep`, {name: type}, as outputs too; all outputs in their order."""
    from onnx import TensorProto, helper

    known = [value.name for value in tree.graph.output]
    written = {name for node in tree.graph.node for name in node.output}
    more = [name for name in keep if name in written and name not in known]
    kinds = {name: TensorProto.DataType.Value(keep[name].upper()) for name in more}
    tree.graph.output.extend(helper.make_tensor_value_info(name, kinds[name], None) for name in more)
    return known + more


def _explain_failure(model: Path, status: int | None, errors: str) -> GreenedgeError:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    last = lines[-1].rstrip(".") if lines else ""
    if status is None:
        return ToolError(f"ONNX Runtime did not end within {LIMIT_S} s on {model}; give it fewer samples.")
    if status == worker.NO_RUNTIME:
        return ToolError(f"ONNX Runtime does not work here ({last}): pip install onnxruntime.")
    reason = last if status == worker.BAD_FILE and last else f"the runtime ended with status {status}"
    return GreenedgeError(f"{model} cannot be run by ONNX Runtime ({reason}); run the build stage again.")
