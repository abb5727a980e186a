"""The folder that goes to a board: model, runner, requirements, golden samples with the hash of what they must give."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.backends.int8.tflite.epilogue import WITHIN
from greenedge.graph import Graph, run_graph
from greenedge.lower.dequantise import Dequantise

if TYPE_CHECKING:
    from onnx import ModelProto

FOLDER = "deploy"
SAMPLES, _SEED = 32, 1
_RUNNER = Path(__file__).with_name("on_board.py")
_REQUIREMENTS = (
    "# 64-bit Linux; on a 32-bit board take tflite-runtime==2.14.0 and numpy<2 instead, which runs the file but "
    "rounds otherwise:\n# integers one level apart that the self-test then counts are that runtime's own\n"
    "ai-edge-litert>=2.1\nnumpy\n"
)


def deploy_files(
    graph: Graph,
    model: bytes,
    edges: Mapping[str, Mapping[str, Any]],
    carried: Sequence[Dequantise] = (),
    quantiser: Mapping[str, float] | None = None,
) -> dict[str, bytes]:
    """{"deploy/…": content} for a graph of one input and one output, else nothing; `edges` as edges.json has them.

    What the golden samples must give comes from the integer graph, and from `carried` for the file's float outputs.
    With a `quantiser` (as `read_quantiser` gives it) the runner takes floats too.
    """
    if explain_no_deploy(graph):
        return {}
    ends = {"input": graph.inputs[0], "output": graph.outputs[0]}
    edge = graph.edges[ends["input"]]
    x = np.random.default_rng(_SEED).integers(edge.lo, edge.hi + 1, (SAMPLES, *edge.shape))
    x[0], x[-1] = edge.lo, edge.hi
    y = run_graph(graph, x)[ends["output"]]
    about: dict[str, Any] = {
        key: {part: edges[name][part] for part in ("offset", "lo", "hi", "source", "order", "shape", "file")}
        for key, name in ends.items()
    }
    about["input"]["quantiser"] = quantiser
    about["golden_sha256"] = hashlib.sha256(y.astype("<i8").tobytes()).hexdigest()
    about["floats"] = [{"name": end.output, "within": 0.0 if end.softmax is None else WITHIN} for end in carried]
    golden = io.BytesIO()
    np.savez(golden, x=x.astype(np.int16), y=y, **{f"f{k}": end.apply(y) for k, end in enumerate(carried)})  # type: ignore[arg-type]  # numpy's stub takes **kwds for allow_pickle
    files = {
        "model.tflite": model,
        "run.py": _RUNNER.read_bytes(),
        "requirements.txt": _REQUIREMENTS.encode(),
        "io.json": (json.dumps(about, indent=1) + "\n").encode(),
        "golden.npz": golden.getvalue(),
    }
    return {f"{FOLDER}/{name}": content for name, content in files.items()}


def explain_no_deploy(graph: Graph) -> tuple[str, ...]:
    """Why there is no folder for a board, as a sentence; nothing where there is one."""
    if len(graph.inputs) == len(graph.outputs) == 1:
        return ()
    return (
        f"There is no {FOLDER}/: its runner takes one input to one output, and the file has {len(graph.inputs)} and "
        f"{len(graph.outputs)}, in the order of edges.json.",
    )


def read_quantiser(prologue: ModelProto | None) -> dict[str, float] | None:
    """{"scale", "zero", "lo", "hi"} where an ONNX prologue is round(clip(x/scale + zero, lo, hi)) alone, half to even,
    with one scale for the whole input; else None, as for a model that takes integers and has no prologue."""
    from onnx import numpy_helper

    if prologue is None:
        return None
    nodes = list(prologue.graph.node)
    if [node.op_type for node in nodes if node.op_type != "Add"] != ["Div", "Clip", "Round", "Cast"]:
        return None
    constants = {item.name: numpy_helper.to_array(item) for item in prologue.graph.initializer}
    values = {node.op_type: [constants[name] for name in node.input if name in constants] for node in nodes}
    scale, zero, lo, hi = *values["Div"], *values.get("Add", [np.zeros((), np.float32)]), *values["Clip"]
    if any(value.size != 1 for value in (scale, zero, lo, hi)) or nodes[0].input[0] != prologue.graph.input[0].name:
        return None
    return {key: float(value.reshape(())) for key, value in (("scale", scale), ("zero", zero), ("lo", lo), ("hi", hi))}
