"""LiteRT (XNNPACK or its reference kernels) and the older tflite-runtime, on the back end's own .tflite file."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np

from greenedge.backends.int8 import tflite
from greenedge.backends.int8.tflite import worker
from greenedge.backends.int8.tflite.runtime import read_model
from greenedge.errors import GreenedgeError, UnsupportedError
from greenedge.graph import Graph
from greenedge.runtimes import Found, Runtime

_PROBE_S = 60
_KERNELS = {
    "litert": "xnnpack",
    "litert-reference": "reference",
}  # tflite-runtime's own choice is of neither's arithmetic
_MODULES = {package: module for module, package in worker.RUNTIMES}


def probe(name: str) -> Found:
    """Whether the runtime runs a tiny model, in a process of its own: tflite-runtime imports under numpy 2 and may then take the
    interpreter down with it."""
    package = "tflite-runtime" if name == "tflite-runtime" else "ai-edge-litert"
    version, reason = _probed(package)
    cure = (
        "pip install ai-edge-litert"
        if package == "ai-edge-litert"
        else 'an environment of its own with "tflite-runtime" and "numpy<2"'
    )
    return Found(name, version, reason, "" if version else cure)


@cache
def _probed(package: str) -> tuple[str | None, str]:
    argv = [sys.executable, worker.__file__, "--probe", _MODULES[package]]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_PROBE_S
        )
    except subprocess.TimeoutExpired:
        return None, f"it did not answer within {_PROBE_S} s"
    lines = [line for line in (done.stdout if done.returncode == 0 else done.stderr).splitlines() if line.strip()]
    if done.returncode == 0 and lines:
        return lines[-1], ""
    ended = f"it ended with status {done.returncode}"
    return None, lines[-1] if lines and done.returncode == worker.NO_RUNTIME else ended


def open_(name: str, graph: Graph, model: Path | None, threads: int) -> Runtime:
    """The exact int8 file on that runtime's kernels."""
    import importlib

    from greenedge.backends.int8.tflite.emit import find_reasons, write_file
    from greenedge.legalise import legalise_graph

    graph = legalise_graph(graph, tflite.PASSES)
    reasons = find_reasons(graph)  # of the file alone: no target's compiler has a say here
    if reasons:
        raise UnsupportedError(f"{graph.name} has no int8 file for {name}:", reasons)
    found = probe(name)
    module = importlib.import_module(_MODULES["tflite-runtime" if name == "tflite-runtime" else "ai-edge-litert"])
    emitted = write_file(graph) if model is None else None
    content = emitted.content if emitted else read_model(model)
    about = tflite.edges_of(graph, emitted) if emitted else tflite.read_edges(model.parent)
    resolver = getattr(module.OpResolverType, worker.RESOLVERS[_KERNELS.get(name, "xnnpack")])
    try:
        interpreter = module.Interpreter(
            model_content=content, num_threads=threads, experimental_op_resolver_type=resolver
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError, TypeError, MemoryError) as error:
        line = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise GreenedgeError(
            f"{model or graph.name} cannot be run by {name} ({line}); run the build stage again."
        ) from None
    places = [entry["index"] for entry in interpreter.get_input_details()]

    def run(levels: np.ndarray) -> dict[str, np.ndarray]:
        fed = tflite.stored_inputs(about, levels)
        values = worker.run(interpreter, fed, lambda done: None)
        try:
            return tflite.graph_outputs(
                about, {int(tensor): value for tensor, value in values.items()}, about["outputs"]
            )
        except KeyError as error:
            raise GreenedgeError(
                f"{model} does not hold {error.args[0]!r} as its edges.json says; run the build stage again."
            ) from None

    def prepare(levels: np.ndarray):
        fed = tflite.stored_inputs(about, levels)

        def call() -> None:
            for k in range(len(fed[0])):
                for place, x in zip(places, fed):
                    interpreter.set_tensor(place, x[k : k + 1])
                interpreter.invoke()

        return call

    return Runtime(name, found.version, "cpu", True, run, prepare, kernels=_KERNELS.get(name))
