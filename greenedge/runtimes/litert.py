"""LiteRT (XNNPACK or its reference kernels) and the older tflite-runtime, on the back end's own .tflite file."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends.int8 import tflite
from greenedge.backends.int8.tflite import worker
from greenedge.backends.int8.tflite.runtime import read_model
from greenedge.backends.interface import Feeds
from greenedge.errors import GreenedgeError, UnsupportedError
from greenedge.graph import Graph
from greenedge.runtimes import Probe, Runtime
from greenedge.tools.capture import capture

_PROBE_S = 60
_KERNELS = {  # the certificate of neither set holds for tflite-runtime's own kernels
    "litert": "xnnpack",
    "litert-reference": "reference",
}
_MODULES = {package: module for module, package in worker.RUNTIMES}


def probe(name: str) -> Probe:
    """Whether the runtime runs a tiny model, in a process of its own.

    tflite-runtime can be imported under numpy 2, and may then crash the interpreter.
    """
    package = _package_of(name)
    version, reason = _probe_package(package)
    cure = (
        "pip install ai-edge-litert"
        if package == "ai-edge-litert"
        else 'an environment of its own with "tflite-runtime" and "numpy<2"'
    )
    return Probe(name, version, reason, "" if version else cure)


def _package_of(name: str) -> str:
    return "tflite-runtime" if name == "tflite-runtime" else "ai-edge-litert"


@cache
def _probe_package(package: str) -> tuple[str | None, str]:
    """(version, "") or (None, reason)."""
    argv = [sys.executable, worker.__file__, "--probe", _MODULES[package]]
    try:
        done = capture(argv, _PROBE_S)
    except subprocess.TimeoutExpired:
        return None, f"it did not answer within {_PROBE_S} s"
    lines = [line for line in (done.stdout if done.returncode == 0 else done.stderr).splitlines() if line.strip()]
    if done.returncode == 0 and lines:
        return lines[-1], ""
    ended = f"it ended with status {done.returncode}"
    return None, lines[-1] if lines and done.returncode == worker.NO_RUNTIME else ended


def open_(name: str, graph: Graph, model: Path | None, threads: int) -> Runtime:
    """The exact int8 file on that runtime's kernels."""
    content, about = _read_or_build(name, graph, model)
    interpreter = _open_interpreter(name, content, threads, str(model or graph.name))
    indices = [entry["index"] for entry in interpreter.get_input_details()]

    def run(levels: Feeds) -> dict[str, np.ndarray]:
        stored = worker.run(interpreter, tflite.encode_inputs(about, levels), lambda done: None)
        values = {int(tensor): value for tensor, value in stored.items()}
        try:
            return tflite.graph_outputs(about, values, about["outputs"])
        except KeyError as error:
            raise GreenedgeError(
                f"{model} does not hold {error.args[0]!r} as its edges.json says; run the build stage again."
            ) from None

    def prepare(levels: Feeds) -> Callable[[], object]:
        stored = tflite.encode_inputs(about, levels)

        def call() -> None:
            for k in range(len(stored[0])):
                for index, x in zip(indices, stored, strict=True):
                    interpreter.set_tensor(index, x[k : k + 1])
                interpreter.invoke()

        return call

    version = _probe_package(_package_of(name))[0]
    assert version is not None, "open_runtime probes before it opens"
    return Runtime(name, version, "cpu", True, run, prepare, kernels=_KERNELS.get(name))


def _read_or_build(name: str, graph: Graph, model: Path | None) -> tuple[bytes, dict[str, Any]]:
    """(the file's bytes, its edges.json): of `model`, or built in memory where that is None."""
    from greenedge.backends.int8.tflite.emit import find_reasons, write_file
    from greenedge.legalise import legalise_graph

    graph = legalise_graph(graph, tflite.PASSES)
    reasons = find_reasons(graph)  # of the file alone; no target's compiler takes part here
    if reasons:
        raise UnsupportedError(f"{graph.name} has no int8 file for {name}:", reasons)
    if model is not None:
        return read_model(model), tflite.read_edges(model.parent)
    emitted = write_file(graph)
    return emitted.content, tflite.edges_of(graph, emitted)


def _open_interpreter(name: str, content: bytes, threads: int, shown: str) -> Any:
    """An interpreter of the runtime, whose packages have no types, with its tensors allocated."""
    module = importlib.import_module(_MODULES[_package_of(name)])
    resolver = getattr(module.OpResolverType, worker.RESOLVERS[_KERNELS.get(name, "xnnpack")])
    try:
        interpreter = module.Interpreter(
            model_content=content, num_threads=threads, experimental_op_resolver_type=resolver
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError, TypeError, MemoryError) as error:
        line = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise GreenedgeError(f"{shown} cannot be run by {name} ({line}); run the build stage again.") from None
    return interpreter
