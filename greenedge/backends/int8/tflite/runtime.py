"""Runs a .tflite file as it lies on disk, in a process of its own: a damaged file may crash the runtime."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from greenedge.backends.int8.subprocess_worker import LIMIT_S, run_worker
from greenedge.backends.int8.tflite import worker
from greenedge.backends.int8.tflite.flatbuffer import IDENTIFIER, pack
from greenedge.errors import GreenedgeError, ToolError
from greenedge.files.scratch import scratch_folder
from greenedge.graph.ops.base import Array
from greenedge.progress import ProgressFn, no_progress

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT

RUNTIME = "ai-edge-litert"
_MAX_BYTES = 1 << 30


def run_file(
    model: Path,
    inputs: Sequence[Array],
    keep: Sequence[int] = (),
    kernels: str = "xnnpack",
    progress: ProgressFn = no_progress,
) -> dict[int, Array]:
    """{tensor index: stored values, batch first} of the file's outputs (int8; float32 for its float outputs) and of the
    tensors numbered in `keep`.

    `inputs` are int8, (N, …), one for each of the file's inputs in its own order. Kept tensors come from the same
    bytes with those tensors declared as outputs too. Raises GreenedgeError for a file that the runtime does not take,
    ToolError where there is no runtime.
    """
    content = read_model(model)
    with scratch_folder("tflite") as scratch:
        folder = Path(scratch)
        (folder / "model.tflite").write_bytes(with_outputs(content, keep, model) if keep else content)
        for k, x in enumerate(inputs):
            np.save(folder / f"x{k}.npy", x)
        argv = [sys.executable, worker.__file__, str(folder), kernels]
        status, errors = run_worker(argv, folder / "log", len(inputs[0]), "LiteRT", progress)
        if status != 0:
            raise _explain_failure(model, status, errors)
        with np.load(folder / "y.npz", allow_pickle=False) as result:
            return {int(name): result[name] for name in result.files}


def read_model(model: Path) -> bytes:
    """The file's bytes. Raises GreenedgeError where they cannot be a .tflite file."""
    try:
        if model.stat().st_size > _MAX_BYTES:
            raise GreenedgeError(f"{model} has {model.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read.")
        content = model.read_bytes()
    except OSError as error:
        raise GreenedgeError(
            f"{model} cannot be read ({str(error.strerror).lower()}); run the build stage again."
        ) from None
    if content[4:8] != IDENTIFIER:
        raise GreenedgeError(f"{model} is no .tflite file; run the build stage again.")
    return content


def _explain_failure(model: Path, status: int | None, errors: str) -> GreenedgeError:
    lines = [
        line.strip()
        for line in errors.splitlines()
        if line.strip() and not line.startswith(("INFO:", "W0000", "WARNING:"))
    ]
    last = lines[-1].rstrip(".") if lines else ""
    if status is None:
        return ToolError(f"LiteRT did not end within {LIMIT_S} s on {model}; give it fewer samples.")
    if status == worker.NO_RUNTIME:
        return ToolError(f"no TFLite runtime works here ({last}): pip install {RUNTIME}.")
    reason = last if status == worker.BAD_FILE and last else f"the runtime ended with status {status}"
    return GreenedgeError(f"{model} cannot be run by LiteRT ({reason}); run the build stage again.")


def parse_model(content: bytes, model: Path) -> ModelT:
    """The file as the schema's object tree. Raises GreenedgeError where it is damaged."""
    import struct

    from ai_edge_litert import schema_py_generated as schema

    try:
        return schema.ModelT.InitFromPackedBuf(content, 0)
    except (AttributeError, IndexError, ValueError, TypeError, OverflowError, MemoryError, struct.error) as error:
        raise GreenedgeError(f"{model} is damaged ({error}); run the build stage again.") from None


def with_outputs(content: bytes, keep: Sequence[int], model: Path) -> bytes:
    """The same file with the tensors numbered in `keep` as further outputs."""
    tree = parse_model(content, model)
    if not tree.subgraphs or tree.subgraphs[0].operators is None:
        raise GreenedgeError(f"{model} is damaged (it has no operators); run the build stage again.")
    subgraph = tree.subgraphs[0]
    written = {int(t) for operator in subgraph.operators for t in operator.outputs}
    known = list(map(int, subgraph.outputs))
    subgraph.outputs = [*known, *(t for t in dict.fromkeys(keep) if t in written and t not in known)]
    return pack(tree)


def weight_offsets(model: Path) -> dict[str, tuple[int, int]]:
    """{tensor name: (first byte in the file, number of bytes)} of every int8 constant, so that a test can change
    one."""
    content = read_model(model)
    from ai_edge_litert import schema_py_generated as schema

    subgraph = parse_model(content, model).subgraphs[0]
    root = schema.Model.GetRootAs(content, 0)
    found = {}
    for tensor in subgraph.tensors:
        buffer = root.Buffers(tensor.buffer)
        if tensor.type == schema.TensorType.INT8 and buffer is not None and not buffer.DataIsNone():
            vector = buffer._tab.Offset(4)  # the schema's slot of Buffer.data
            found[tensor.name.decode()] = (buffer._tab.Vector(vector), buffer.DataLength())
    return found


def operators(model: Path) -> dict[str, int]:
    """{operator: how many} in the file."""
    from ai_edge_litert import schema_py_generated as schema

    tree = parse_model(read_model(model), model)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    found: dict[str, int] = {}
    for operator in tree.subgraphs[0].operators:
        name = names[tree.operatorCodes[operator.opcodeIndex].builtinCode]
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))
