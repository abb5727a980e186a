"""ONNX Runtime on CPU: the back end's own 8-bit file, or the float network."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.backends.int8 import onnxruntime as backend
from greenedge.backends.int8.onnxruntime.emit import find_reasons, write_file
from greenedge.backends.int8.onnxruntime.runtime import parse_model
from greenedge.backends.int8.onnxruntime.worker import run as run_session
from greenedge.backends.int8.onnxruntime.worker import session_for
from greenedge.backends.interface import Feeds
from greenedge.errors import GreenedgeError, UnsupportedError
from greenedge.graph import Graph
from greenedge.legalise import legalise_graph
from greenedge.runtimes import Probe, Runtime, float_levels
from greenedge.runtimes.floats import float_model

if TYPE_CHECKING:
    import onnxruntime


def probe(name: str) -> Probe:
    """Whether the package is installed and can be imported."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        return Probe(name, None, str(error).splitlines()[0], "pip install onnxruntime")
    return Probe(name, metadata.version("onnxruntime"))


def open_(name: str, graph: Graph, model: Path | None, threads: int) -> Runtime:
    """A session with that many threads."""
    version = metadata.version("onnxruntime")
    if name == "onnxruntime-float":
        session = session_for(float_model(graph).SerializeToString(), threads)
        return _make_runtime(name, version, session, graph, None)

    graph = legalise_graph(graph, backend.PASSES)
    reasons = find_reasons(graph)
    if reasons:
        raise UnsupportedError(f"{graph.name} has no 8-bit file for {name}:", reasons)
    if model is None:
        emitted = write_file(graph)
        content, about = emitted.content, backend.edges_of(graph, emitted)
    else:
        content, about = parse_model(model).SerializeToString(), backend.read_edges(model.parent)
    try:
        session = session_for(content, threads)
    except Exception as error:  # the runtime's errors have no common class of their own
        raise GreenedgeError(
            f"{model or graph.name} cannot be run by ONNX Runtime ({_first_line(error)}); run the build stage again."
        ) from None
    return _make_runtime(name, version, session, graph, about)


def _make_runtime(
    name: str, version: str, session: onnxruntime.InferenceSession, graph: Graph, about: dict[str, Any] | None
) -> Runtime:
    """A session as a Runtime. about: edges.json of an 8-bit file; None for the float network."""
    names = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]

    def encode_inputs(levels: Feeds) -> list[np.ndarray]:
        return float_levels(graph, levels) if about is None else backend.encode_inputs(about, levels)

    def run(levels: Feeds) -> dict[str, np.ndarray]:
        values = dict(zip(outputs, run_session(session, encode_inputs(levels)), strict=True))
        return values if about is None else _read_levels(graph, about, values)

    def prepare(levels: Feeds) -> Callable[[], object]:
        feed = dict(zip(names, encode_inputs(levels), strict=True))
        return lambda: session.run(None, feed)

    return Runtime(
        name, version, "cpu", about is not None, run, prepare, kernels=None if about is None else backend.KERNELS
    )


def _read_levels(graph: Graph, about: dict[str, Any], values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{output edge: graph integers} from the file's outputs."""
    try:
        return backend.graph_outputs(about, values, about["outputs"])
    except KeyError as error:
        raise GreenedgeError(
            f"the file of {graph.name} does not hold {error.args[0]!r} as its edges.json says; run the build stage "
            "again."
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
