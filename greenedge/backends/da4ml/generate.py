"""Traces the graph with da4ml and writes the core: graph.* and job.json in, rtl/, streams.json and trace.json out.

    python -m greenedge.backends.da4ml.generate      in the build folder; a process of its own, da4ml is imported here
    alone

What was traced is kept in the user's cache folder under the digest of graph, options and versions.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends.da4ml.partition import cut_into_pieces
from greenedge.backends.da4ml.pipeline import KERNEL, Answer, Circuit, kernel, layout
from greenedge.backends.da4ml.wrapper import UNITS, streams_of, top
from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write, sha256_file
from greenedge.files.cache import cache_folder
from greenedge.files.remove import remove
from greenedge.graph import Graph, graph_digest, load_graph
from greenedge.graph.joined_inputs import join_input_edges
from greenedge.graph.joined_outputs import join_output_edges
from greenedge.hdl import RTL
from greenedge.hdl.axi_stream.core import TOP
from greenedge.run.folder import inside

FOLDER = "rtl"
# estimated adder bits from which it pays to let numba compile da4ml's solver, about two minutes once
_COMPILED_FROM = 20_000
_CODE = (
    "partition.py",
    "wires.py",
    "unroll.py",
    "data_movement.py",
    "trace.py",
    "pipeline.py",
    "generate.py",
)
_PACKAGES = ("da4ml", "numba", "numpy")


def trace_kernel(graph: Graph, cutoff: float) -> tuple[dict[str, bytes], dict[str, Any]]:
    """(the kernel's Verilog by name, what da4ml says about it) for at most `cutoff` adders in a row between two
    registers.
    """
    from greenedge.backends.da4ml.estimate import adder_bits

    started = time.monotonic()
    if sum(adder_bits(graph).values()) < _COMPILED_FROM:
        import numba

        numba.config.DISABLE_JIT = True  # type: ignore[attr-defined]  # the module makes its settings when imported
    from greenedge.backends.da4ml.trace import full_span, trace

    pieces = cut_into_pieces(graph)
    spans, files = {edge: full_span(graph.edges[edge]) for edge in graph.inputs}, dict[str, bytes]()
    circuits: list[Circuit] = []
    layers: list[dict[str, Any]] = []
    for k, piece in enumerate(pieces):
        print(f"layer {k + 1} of {len(pieces)}: {piece.output}", flush=True)
        traced = trace(f"{KERNEL}{k}", graph, piece, spans, cutoff)
        spans[piece.output] = traced.span
        circuits.append(traced.circuit)
        layers.append({"layer": piece.output, **traced.counts})
        files |= traced.files
    sizes = {name: (math.prod(edge.shape), edge.bits) for name, edge in graph.edges.items()}
    answer = _answer(graph)
    text, registers = kernel(circuits, graph.inputs, answer, sizes, join_input_edges(graph).bits, _stream_order(graph))
    plan = layout(graph.inputs, circuits, graph.outputs)
    stages = plan.end(graph.outputs)
    about = {
        "latency": stages + 1,
        "stages": stages,
        "register_bits": registers,
        "layers": layers,
        "probes": [
            {"edge": circuit.output, "net": plan.nets[circuit.output], "at": plan.at[circuit.output]}
            for circuit in circuits
        ],
        **{name: sum(layer[name] for layer in layers) for name in ("cost", "adders")},
        "seconds": round(time.monotonic() - started, 2),
    }
    return {**files, f"{KERNEL}.sv": text.encode()}, about


def _answer(graph: Graph) -> Answer:
    """The elements of all outputs, one output after another, each row by row."""
    edges = [graph.edges[name] for name in graph.outputs]
    elements = [(edge.name, k, edge.has_sign) for edge in edges for k in range(math.prod(edge.shape))]
    return Answer(join_output_edges(graph).bits, elements)


def _stream_order(graph: Graph) -> list[tuple[str, int]]:
    """(input, element of it) at every place of the stream: channels last, or one input after another as they are."""
    shapes = [graph.edges[edge].shape for edge in graph.inputs]
    if len(shapes) > 1:
        sizes = zip(graph.inputs, map(math.prod, shapes), strict=True)
        return [(edge, k) for edge, size in sizes for k in range(size)]
    order = np.arange(math.prod(shapes[0])).reshape(shapes[0])
    return [(graph.inputs[0], int(k)) for k in (np.moveaxis(order, 0, -1) if len(shapes[0]) > 1 else order).ravel()]


def fetch_kernel(graph: Graph, cutoff: float) -> tuple[dict[str, bytes], dict[str, Any], bool]:
    """`trace_kernel`, from the cache where it is there; the last says whether it was."""
    code = [sha256_file(Path(__file__).with_name(name)) for name in _CODE]
    key = json.dumps([graph_digest(graph), cutoff, code, [version(name) for name in _PACKAGES]])
    folder = cache_folder("da4ml") / hashlib.sha256(key.encode()).hexdigest()[:24]
    if (kept := _read_kernel(folder)) is not None:
        return *kept, True
    files, about = trace_kernel(graph, cutoff)
    aside = folder.with_name(f".{folder.name}.{time.time_ns()}.part")
    aside.mkdir(parents=True)
    for name, content in files.items():
        (aside / name).write_bytes(content)
    about |= {"files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}}
    (aside / "about.json").write_text(json.dumps(about))
    remove(folder)  # what was damaged
    try:
        aside.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(aside)
    return files, about, False


def _read_kernel(folder: Path) -> tuple[dict[str, bytes], dict[str, Any]] | None:
    """What `trace_kernel` gave, as it was kept in `folder`; None where it is not there whole."""
    try:
        about = json.loads((folder / "about.json").read_text())
        files = {name: inside(folder, name).read_bytes() for name in about["files"]}
        same = about["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return (files, about) if same else None


def write_core(graph: Graph, job: Mapping[str, Any], folder: Path) -> None:
    """rtl/, streams.json and trace.json of the graph in `folder`."""
    files, about, kept = fetch_kernel(graph, float(job["cutoff"]))
    source, output = streams_of(join_input_edges(graph), join_output_edges(graph))
    files = {
        **{name: (RTL / name).read_bytes() for name in UNITS},
        **files,
        f"{TOP}.sv": top(about["latency"], source, output).encode(),
    }
    for name, content in files.items():
        with atomic_write(folder / FOLDER / name) as path:
            path.write_bytes(content)
    streams = {
        "top": TOP,
        "sources": list(files),
        "streams": [source.plain(), output.plain()],
        "latency": about["latency"],
        "probes": about["probes"],
    }
    trace = {key: about[key] for key in ("latency", "stages", "cost", "register_bits", "adders", "seconds", "layers")}
    trace |= {"kept": kept, "cutoff": job["cutoff"], "da4ml": version("da4ml")}
    for name, table in (("streams.json", streams), ("trace.json", trace)):
        with atomic_write(folder / name) as path:
            path.write_text(json.dumps(table, indent=1) + "\n")


def main() -> int:
    """Writes the core of the graph in the working directory."""
    here = Path(".")
    try:
        write_core(load_graph(here), json.loads((here / "job.json").read_text()), here)
    except (GreenedgeError, OSError, ValueError, KeyError) as error:
        print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
