"""Back end `tflite`: an int8 .tflite file written straight from the integer graph, with a proof for every channel.

Tools: none to build; `ai-edge-litert` to run. Options: none.
Files: model.tflite; certificate.json (what was proved about each layer's requantisation, per kernel set).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from greenedge.backends.tflite import chain
from greenedge.backends.tflite.runtime import RUNTIME, run_file
from greenedge.errors import GreenedgeError, Reason
from greenedge.graph import Graph
from greenedge.target import Target
from greenedge.tools import Plan

STAGE = "tflite"
MODEL, CERTIFICATE, EDGES = "model.tflite", "certificate.json", "edges.json"


def check(graph: Graph, target: Target, options: Mapping[str, object]) -> list[Reason]:
    """Every reason why the graph has no int8 file."""
    return chain.reasons_against(graph)


def plan(graph: Graph, target: Target, options: Mapping[str, object]) -> Plan:
    """The file and its certificate; nothing is left to run."""
    content, layers = chain.write_chain(graph)
    codes = chain.encodings(graph)
    edges = {"input": graph.inputs[0], "output": graph.outputs[0],
             "edges": {name: {"offset": code.offset, "shape": list(graph.edges[name].shape)} for name, code in codes.items()}}
    files = {MODEL: content, CERTIFICATE: _json(chain.certificate(layers)), EDGES: _json(edges)}
    return Plan(files, (), (MODEL, CERTIFICATE, EDGES))


def _json(value: dict) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def simulate(folder: Path, x: np.ndarray, keep: Sequence[str] = (),
             progress: Callable[[int, int, str], None] = lambda *_: None, kernels: str = "xnnpack") -> dict[str, np.ndarray]:
    """Runs the file in `folder` on graph integers; returns the output edge and the kept edges, as graph integers."""
    about = _read(folder / EDGES)
    edges = about["edges"]
    stored = (np.asarray(x, np.int64) + edges[about["input"]]["offset"]).astype(np.int8)
    wanted = [name for name in keep if name in edges and name not in (about["input"], about["output"])]
    values = run_file(folder / MODEL, stored, wanted, kernels, progress)
    names = [about["output"], *(name for name in wanted if name in values)]
    missing = [name for name in names if name not in values]
    if missing:
        raise GreenedgeError(f"{folder / MODEL} has no tensor {missing[0]!r}; run the build stage again.")
    return {name: values[name].astype(np.int64) - edges[name]["offset"] for name in names}


def report(folder: Path) -> dict:
    """{"edge": …}: the file's size, the runtime and what was proved."""
    layers = _read(folder / CERTIFICATE)["layers"]
    summary = {kernels: {"channels": sum(layer["channels"] for layer in layers),
                         "certified": sum(layer["kernels"][kernels]["certified"] for layer in layers),
                         "differing_accumulators": sum(layer["kernels"][kernels]["differing_accumulators"] for layer in layers)}
               for kernels in ("xnnpack", "reference")}
    return {"edge": {"bytes": (folder / MODEL).stat().st_size, "runtime": RUNTIME, "kernels": "xnnpack", "certificate": summary},
            "evidence": {"bytes": "measured", "certificate": "proved"}, "tools": tools({})}


def proved(folder: Path) -> str:
    """What holds for every input, in one sentence."""
    channels, certified, differing, accumulators = 0, 0, 0, 0
    for layer in _read(folder / CERTIFICATE)["layers"]:
        verdict = layer["kernels"]["xnnpack"]
        channels, certified = channels + layer["channels"], certified + verdict["certified"]
        differing, accumulators = differing + verdict["differing_accumulators"], accumulators + layer["accumulators"]
    if certified == channels:
        return f"all {channels} channels equal on every reachable accumulator (XNNPACK)"
    return (f"{certified} of {channels} channels equal on every reachable accumulator (XNNPACK); the others differ at {differing:,} of "
            f"{accumulators:,}, by one level")


def tools(options: Mapping[str, object]) -> dict[str, str]:
    """The packages that write and run the file."""
    found = {}
    for name in (RUNTIME, "flatbuffers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GreenedgeError(f"{path} is missing or damaged ({error}); run the build stage again.") from None
