"""Back end `onnxruntime`: an 8-bit ONNX file of the integer graph for desktops and servers, exact, with a proof for
every channel.

Tools: `onnxruntime` to run. Options: none. Files: model.onnx (QLinearConv, QGemm; uint8 = level + the edge's offset
in edges.json; outputs of more than 8 bits are accumulators, int32 as they are; any batch); certificate.json (what was
proved about each layer's requantisation); edges.json (how each edge of the graph, a tensor of the same name, is
stored); selftest.json (the emulated arithmetic against the runtime on this processor).

Whoever opens a session on an x86 processor without VNNI, whose fast 8-bit products saturate, must set the session
option session.x64quantprecision=1 (as worker.py does) to get the same integers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends.int8 import edges_json, proof_record
from greenedge.backends.int8.edges_json import WIDE
from greenedge.backends.int8.onnxruntime.emit import RULES, Emitted, find_reasons, write_file
from greenedge.backends.int8.onnxruntime.onnx_builder import find_stored_offset
from greenedge.backends.int8.preflight_estimate import describe_differences
from greenedge.backends.int8.proof_record import Record, certificate, doubts, read_proof, sentence, summary
from greenedge.backends.interface import Backend, Feeds, FloatEpilogue, Options, Values
from greenedge.errors import GreenedgeError, Reason
from greenedge.graph import Conv, ConvTranspose, Dense, Graph
from greenedge.graph.ops.base import Array
from greenedge.legalise import ARGMAX_TO_HOST, CLAMP_AT_REACH, FOLD_LAYOUTS, FUSE_LINES, NARROW_SUMS, REQUANTISE_EARLY
from greenedge.lower import Lowered
from greenedge.progress import ProgressFn, no_progress
from greenedge.target import Target
from greenedge.tools.plan import Command, Plan

MODEL, CERTIFICATE, EDGES, SELFTEST = "model.onnx", "certificate.json", "edges.json", "selftest.json"
KERNELS = "mlas"
PASSES = (ARGMAX_TO_HOST, FUSE_LINES, FOLD_LAYOUTS, REQUANTISE_EARLY, NARROW_SUMS, CLAMP_AT_REACH)
_FORMAT = "greenedge-onnx-edges/1"
NARROW = "uint8"  # the type of levels
_NO_EPILOGUE = FloatEpilogue()
_OPERATORS = {Dense: "QGemm", Conv: "QLinearConv", ConvTranspose: "QLinearConv"}


def check(graph: Graph, target: Target, options: Options) -> list[Reason]:
    """Every reason why the legalised graph has no exact 8-bit ONNX file."""
    return find_reasons(graph)


def plan(graph: Graph, target: Target, options: Options, epilogue: FloatEpilogue = _NO_EPILOGUE) -> Plan:
    """The file and its certificate; what is left to run is the check of the certificate's arithmetic on this
    machine."""
    emitted = write_file(graph)
    about = edges_of(graph, emitted)
    files = {MODEL: emitted.content, CERTIFICATE: _json(certificate(emitted.layers)), EDGES: _json(about)}
    command = Command(
        ("{python}", "-m", "greenedge.backends.int8.onnxruntime.selftest", SELFTEST),
        "selftest.log",
        "ONNX Runtime's arithmetic",
        timeout_s=300,
    )
    return Plan(files, (command,), (MODEL, CERTIFICATE, EDGES, SELFTEST))


def edges_of(graph: Graph, emitted: Emitted) -> Record:
    """What edges.json says about a written file: how each edge is stored."""
    edges = {
        edge: {
            "type": WIDE if code.is_wide else NARROW,
            "offset": find_stored_offset(code),
            "lo": graph.edges[edge].lo,
            "hi": graph.edges[edge].hi,
            "shape": graph.edges[edge].shape,
        }
        for edge, code in emitted.codes.items()
    }
    return {"format": _FORMAT, "inputs": graph.inputs, "outputs": graph.outputs, "edges": edges}


def _json(value: Record) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def simulate(folder: Path, x: Feeds, keep: Sequence[str] = (), progress: ProgressFn = no_progress) -> Values:
    """Runs the file in `folder` on graph integers; returns the output edges and the kept ones as graph integers
    (int64).

    Accumulators cannot be kept, the file has none. Raises GreenedgeError for a damaged file and for values outside an
    input's range.
    """
    from greenedge.backends.int8.onnxruntime.runtime import run_file

    about = read_edges(folder)
    wanted = [name for name in keep if name in about["edges"] and name not in about["inputs"]]
    kept = {name: about["edges"][name]["type"] for name in wanted}
    values = run_file(folder / MODEL, encode_inputs(about, x), kept, progress)
    try:
        return graph_outputs(about, values, [*about["outputs"], *wanted])
    except KeyError as error:
        raise GreenedgeError(
            f"{folder / MODEL} does not hold {error.args[0]!r} as {EDGES} says; run the build stage again."
        ) from None


def encode_inputs(about: Record, x: Feeds) -> list[Array]:
    """The uint8 arrays that the file takes for graph integers, in its own order. Raises GreenedgeError for values it
    does not take."""
    return [levels.astype(np.uint8) for _, levels in edges_json.offset_inputs(about, x)]


def graph_outputs(about: Record, values: Mapping[str, Array], names: Sequence[str]) -> Values:
    """{edge: graph integers} from the stored values of tensors. Raises KeyError where one is not there in its shape."""
    result: Values = {}
    for name in dict.fromkeys(names):
        edge, stored = about["edges"][name], values.get(name)
        if stored is None or stored.dtype != np.dtype(edge["type"]) or stored.shape[1:] != tuple(edge["shape"]):
            raise KeyError(name)
        result[name] = stored.astype(np.int64) - edge["offset"]
    return result


def read_edges(folder: Path) -> Record:
    """edges.json of a build. Raises GreenedgeError where it is missing or damaged."""
    return edges_json.read_edges(folder / EDGES, _FORMAT, NARROW)


def preflight_notes(source: Path, lowered: Lowered, target: Target, options: Options) -> tuple[str, ...]:
    """What the certificate would say of differences, from a sample of channels."""
    return describe_differences(source, lowered.graph, _OPERATORS)


def report(folder: Path) -> Record:
    """{"edge": …}: the file's size, its operators, the runtime, and what was proved or why nothing counts."""
    from greenedge.backends.int8.onnxruntime.runtime import parse_model

    recorded, tested = read_proof(folder / CERTIFICATE, folder / SELFTEST, (KERNELS,))
    doubt = doubts(recorded, tested, KERNELS)
    operators: dict[str, int] = {}
    for node in parse_model(folder / MODEL).graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    edge: dict[str, Any] = {
        "bytes": (folder / MODEL).stat().st_size,
        "runtime": f"{tested['runtime']} {tested['version']}",
        "kernels": KERNELS,
        "certificate": {KERNELS: {"withheld": doubt} if doubt else summary(recorded, KERNELS)},
        "operators": dict(sorted(operators.items())),
        "left_to_builtins": {},
    }
    return {
        "edge": edge,
        "proved": proof(folder),
        "evidence": {"bytes": "measured", "certificate": "proved"},
        "tools": {**tools({}), tested["runtime"]: tested["version"]},
    }


def proof(folder: Path) -> str | None:
    """What holds for every input, in one sentence; None where the runtime at hand is not the one that was tested, or
    its arithmetic not the emulated one."""
    recorded, tested = read_proof(folder / CERTIFICATE, folder / SELFTEST, (KERNELS,))
    is_here = metadata.version("onnxruntime") == tested["version"]
    return sentence(recorded, KERNELS) if is_here and not doubts(recorded, tested, KERNELS) else None


def describe_deviation(folder: Path) -> str | None:
    """What the certificate says of differences, with the cure; None where it knows none."""
    recorded, _ = read_proof(folder / CERTIFICATE, folder / SELFTEST, (KERNELS,))
    return proof_record.describe_deviation(recorded, KERNELS)


def list_certified_differences(folder: Path) -> dict[str, dict[int, int]]:
    """{edge: {channel: levels}} by which the file may differ; nothing where its arithmetic is not that of the
    certificate."""
    recorded, tested = read_proof(folder / CERTIFICATE, folder / SELFTEST, (KERNELS,))
    return {} if doubts(recorded, tested, KERNELS) else proof_record.list_differences(recorded, KERNELS)


def tools(options: Options) -> dict[str, str]:
    """The packages that write and run the file."""
    return {name: metadata.version(name) for name in ("onnx", "onnxruntime")}


BACKEND = Backend(
    name="onnxruntime",
    stage="onnxruntime",
    options=(),
    rules=RULES,
    passes=PASSES,
    check=check,
    plan=plan,
    simulate=simulate,
    report=report,
    tools=tools,
    proof=proof,
    describe_deviation=describe_deviation,
    list_certified_differences=list_certified_differences,
    preflight_notes=preflight_notes,
)
