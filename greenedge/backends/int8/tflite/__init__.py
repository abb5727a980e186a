"""Back end `tflite`: an int8 .tflite file written straight from the integer graph, with a proof for every channel.

Tools: none to build but Python (Vela for an Ethos-U; edgetpu_compiler for an Edge TPU, where found); to run, `ai-edge-litert`
(or `tflite-runtime`).
Options: storage=int4-dense stores dense layers of at most 4 bits in half a byte a weight (LiteRT on CPU only; channels lose the
factor that makes them finer). kernels=all avoids operators that are exact on XNNPACK alone (a MEAN becomes a convolution with ones,
larger and slower), so that LiteRT's reference kernels and the older runtime come as near as they can. outputs=float lets the file
give the model's float outputs too, outputs=integers nothing but integers; without either, a softmax.
Files: model.tflite; certificate.json (what was proved about each layer's requantisation, per kernel set); edges.json (which
tensor holds which edge of the graph, and how); selftest.json (the emulated arithmetic against the runtime, and which
operators XNNPACK leaves to LiteRT's own kernels); deploy/ (for a board without greenedge: model, runner, golden samples);
what vela.py or edgetpu.py says for an NPU.

The file's images have their channels last: an input of shape (C, H, W) in the graph is (1, H, W, C) in the file, and int8 =
level + the input's offset in edges.json, which is also what the file's own quantisation parameters say. Behind the exact integers
come the model's float outputs, named as in the model (finish.py): the integers are what is proved and compared with ==.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from greenedge.backends.int8 import edges_json, proof_record
from greenedge.backends.int8.proof_record import certificate, doubts, read_proof, sentence, summary
from greenedge.errors import GreenedgeError, Reason
from greenedge.graph import Graph
from greenedge.target import Target
from greenedge.tools.plan import Command, Plan

STAGE = "tflite"
OPTIONS = ("storage", "kernels", "outputs")
MODEL, CERTIFICATE, EDGES, SELFTEST = "model.tflite", "certificate.json", "edges.json", "selftest.json"
_SETS = ("xnnpack", "reference")
_RUNTIMES = ("ai-edge-litert", "tflite-runtime")
_SHAPE_MARK = "greenedge-edges/1"


def check(graph: Graph, target: Target, options: Mapping[str, object]) -> list[Reason]:
    """Every reason why the graph has no exact int8 file."""
    from greenedge.backends.int8.tflite.rules import option_reasons, reasons_against

    compiler = _compiler(target)
    return (
        option_reasons(graph, options, compiler is not None)
        + reasons_against(graph)
        + (compiler.reasons_against(graph) if compiler else [])
    )


def ends(lowered, target: Target, options: Mapping[str, object]) -> tuple[tuple, list[str], dict | None]:
    """(the model's float outputs that the file carries, a sentence for each that it leaves to the host, what makes the input's
    integers of floats where one quantiser does)."""
    from greenedge.backends.int8.tflite.deploy import quantiser
    from greenedge.backends.int8.tflite.float_outputs import carried

    return *carried(lowered, options, _compiler(target) is not None), quantiser(lowered.prologue)


def _compiler(target: Target):
    """The module for the compiler that a target wants after LiteRT's file, or None."""
    from greenedge.backends.int8.tflite import edgetpu, vela

    return vela if "vela" in target.device.toolchain else edgetpu if target.device.family == "edge-tpu" else None


def plan(
    graph: Graph,
    target: Target,
    options: Mapping[str, object],
    ended: tuple[tuple, list[str], dict | None] = ((), [], None),
) -> Plan:
    """The file and its certificate; what is left to run is the check of the certificate's arithmetic on this machine.

    `ended` is what `ends` gave.
    """
    from greenedge.backends.int8.tflite.deploy import deploy_files
    from greenedge.backends.int8.tflite.emit import write_file

    carried, notes, entry = ended
    emitted = write_file(graph, options.get("storage") == "int4-dense", options.get("kernels") == "all", carried)
    about = {**edges_of(graph, emitted, carried), "notes": notes}
    files = {
        MODEL: emitted.content,
        CERTIFICATE: _json(certificate(emitted.layers)),
        EDGES: _json(about),
        **deploy_files(graph, emitted.content, about["edges"], carried, entry),
    }
    command = Command(
        ("{python}", "-m", "greenedge.backends.int8.tflite.selftest", MODEL, SELFTEST),
        "selftest.log",
        "LiteRT's arithmetic",
        timeout_s=300,
    )
    compiler = _compiler(target)
    further, made = (compiler.commands(MODEL, target), compiler.products()) if compiler else ((), ())
    return Plan(files, (command, *further), (MODEL, CERTIFICATE, EDGES, SELFTEST, *made))


def edges_of(graph: Graph, emitted, carried: Sequence = ()) -> dict:
    """What edges.json says about a written file: which tensor holds which edge, and how; which are the model's float outputs."""
    edges = {
        edge: {
            "tensor": placed.tensor,
            "offset": placed.code.offset,
            "lo": graph.edges[edge].lo,
            "hi": graph.edges[edge].hi,
            "source": placed.layout.source,
            "order": placed.layout.order,
            "shape": placed.layout.shape,
            "file": placed.layout.file,
        }
        for edge, placed in emitted.placed.items()
    }
    floats = {
        end.output: {"tensor": emitted.floats[end.output], "edge": end.edge, "softmax": end.softmax is not None}
        for end in carried
    }
    return {"format": _SHAPE_MARK, "inputs": graph.inputs, "outputs": graph.outputs, "edges": edges, "floats": floats}


def _json(value: dict) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def simulate(
    folder: Path,
    x: np.ndarray | Mapping[str, np.ndarray],
    keep: Sequence[str] = (),
    progress=lambda *_: None,
    kernels: str = "xnnpack",
) -> dict[str, np.ndarray]:
    """Runs the file in `folder` on graph integers; returns the output edges and the kept ones as graph integers (int64).

    `x` is one array (N, *shape) or a dict from input edge to array; `kernels` is "xnnpack" or "reference"; accumulators
    cannot be kept, the file has none. Raises GreenedgeError for a damaged file and for values outside an input's range.
    """
    from greenedge.backends.int8.tflite.runtime import run_file

    about = read_edges(folder)
    edges = about["edges"]
    wanted = [name for name in keep if name in edges and name not in about["inputs"]]
    values = run_file(
        folder / MODEL, stored_inputs(about, x), [edges[name]["tensor"] for name in wanted], kernels, progress
    )
    try:
        return graph_outputs(about, values, [*about["outputs"], *wanted])
    except KeyError as error:
        raise GreenedgeError(
            f"{folder / MODEL} does not hold {error.args[0]!r} as {EDGES} says; run the build stage again."
        ) from None


def floats(
    folder: Path, x: np.ndarray | Mapping[str, np.ndarray], progress=lambda *_: None, kernels: str = "xnnpack"
) -> dict[str, tuple[np.ndarray, float]]:
    """{model output: (float32 values in the graph's order, their largest difference from the host's that is no error)} of the float
    outputs that the file itself gives: 0 for scores, which are the host's bit for bit. Raises GreenedgeError as `simulate` does."""
    from greenedge.backends.int8.tflite.float_outputs import WITHIN
    from greenedge.backends.int8.tflite.runtime import run_file

    about = read_edges(folder)
    told = about["floats"]
    if not told:
        return {}
    values = run_file(folder / MODEL, stored_inputs(about, x), (), kernels, progress)
    result = {}
    for name, output in told.items():
        edge, held = about["edges"][output["edge"]], values.get(output["tensor"])
        if held is None or held.dtype != np.float32 or held.shape[1:] != tuple(edge["file"][1:]):
            raise GreenedgeError(f"{folder / MODEL} does not hold {name!r} as {EDGES} says; run the build stage again.")
        result[name] = _layout(edge).to_graph(held), WITHIN if output["softmax"] else 0.0
    return result


def stored_inputs(about: dict, x: np.ndarray | Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The int8 arrays that the file takes for graph integers, in its own order. Raises GreenedgeError for values it does not take."""
    return [_layout(edge).to_file(levels).astype(np.int8) for edge, levels in edges_json.stored(about, x)]


def graph_outputs(about: dict, values: Mapping[int, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """{edge: graph integers} from the stored values of tensors. Raises KeyError where one is not there in its shape."""
    result = {}
    for name in dict.fromkeys(names):
        edge = about["edges"][name]
        held = values.get(edge["tensor"])
        if held is None or held.dtype != np.int8 or held.shape[1:] != tuple(edge["file"][1:]):
            raise KeyError(name)
        result[name] = _layout(edge).to_graph(held).astype(np.int64) - edge["offset"]
    return result


def _layout(edge: Mapping):
    from greenedge.backends.int8.tflite.layout import Layout

    return Layout(*(tuple(edge[part]) for part in ("source", "order", "shape", "file")))


def read_edges(folder: Path) -> dict:
    """edges.json of a build. Raises GreenedgeError where it is missing or damaged."""
    path = folder / EDGES
    about = edges_json.read_edges(path, _SHAPE_MARK, ("tensor",), ("source", "order", "file"))
    for name, edge in about["edges"].items():
        sizes = {int(np.prod(edge[key], dtype=object)) for key in ("source", "shape", "file")}
        if len(sizes) != 1 or sorted(edge["order"]) != list(range(len(edge["source"]))):
            raise edges_json.damaged(path, f"the shapes of {name!r} do not go together")
    told = about.setdefault("floats", {})
    if not isinstance(told, dict) or not all(
        isinstance(output, dict)
        and type(output.get("tensor")) is int
        and isinstance(output.get("softmax"), bool)
        and isinstance(output.get("edge"), str)
        and output["edge"] in about["edges"]
        for output in told.values()
    ):
        raise edges_json.damaged(path, "its float outputs are no tensors of edges")
    return about


def foresee(graph: Graph):
    """What the certificate would say, from a sample of channels (greenedge.backends.int8.preflight_estimate)."""
    from greenedge.backends.int8.preflight_estimate import forecast

    return forecast(graph, "FULLY_CONNECTED", "CONV_2D")


def report(folder: Path) -> dict:
    """{"edge": …}: the file's size, its operators, the runtime, and per kernel set what was proved or why nothing counts."""
    from greenedge.backends.int8.tflite.runtime import operators

    recorded, tested = read_proof(folder / CERTIFICATE, folder / SELFTEST, _SETS)
    told = {}
    for kernels in _SETS:
        doubt = doubts(recorded, tested, kernels)
        told[kernels] = {"withheld": doubt} if doubt else summary(recorded, kernels)
    edge = {
        "bytes": (folder / MODEL).stat().st_size,
        "runtime": f"{tested['runtime']} {tested['version']}",
        "kernels": "xnnpack",
        "certificate": told,
        "operators": operators(folder / MODEL),
        "left_to_builtins": tested["left_to_builtins"],
    }
    found = {
        "edge": edge,
        "proved": proved(folder),
        "evidence": {"bytes": "measured", "certificate": "proved"},
        "notes": _output_notes(read_edges(folder)),
        "tools": {**tools({}), tested["runtime"]: tested["version"]},
    }
    return _with_compiler(found, folder)


def _output_notes(about: dict) -> list[str]:
    """What the file gives behind the integers, and what it does not."""
    told, first = about["floats"], len({about["edges"][edge]["tensor"] for edge in about["outputs"]})
    notes = [
        f"{MODEL} also gives the model's own {'softmax' if output['softmax'] else 'float output'} {name!r} as its output {first + k}, in "
        f"float32, behind the exact integers (output {'0' if first == 1 else f'0 to {first - 1}'})."
        for k, (name, output) in enumerate(told.items())
    ]
    return notes + [str(note) for note in about.get("notes", [])]


def _with_compiler(found: dict, folder: Path) -> dict:
    """The report, and what the compiler after LiteRT's file had to say."""
    from greenedge.backends.int8.tflite import edgetpu, vela

    for compiler in (vela, edgetpu):
        if compiler.made(folder):
            more = compiler.report(folder)
            found = {
                **found,
                **{key: {**found[key], **more[key]} for key in ("edge", "evidence", "tools")},
                "notes": [*found["notes"], *more["notes"]],
            }
    return found


def beside(folder: Path) -> dict[str, tuple]:
    """LiteRT's reference kernels on the same file: {stage: (run, what is proved of it, whether that is equality everywhere)}."""
    recorded, tested = read_proof(folder / CERTIFICATE, folder / SELFTEST, _SETS)
    told = summary(recorded, "reference")
    holds = doubts(recorded, tested, "reference") is None and _is_here(tested)
    run = lambda x, progress: simulate(folder, x, (), progress, "reference")
    return {
        f"{STAGE}-reference": (
            run,
            sentence(recorded, "reference") if holds else None,
            holds and told["certified"] == told["channels"],
        )
    }


def _is_here(tested: Mapping) -> bool:
    """Whether the runtime whose arithmetic was tested is the one at hand."""
    try:
        return metadata.version(str(tested["runtime"])) == tested["version"]
    except metadata.PackageNotFoundError:
        return False


def proved(folder: Path) -> str | None:
    """What holds for every input on XNNPACK, in one sentence; None where the runtime at hand is not the one that was tested, or its
    arithmetic not the emulated one."""
    recorded, tested = read_proof(folder / CERTIFICATE, folder / SELFTEST, _SETS)
    return None if doubts(recorded, tested, "xnnpack") or not _is_here(tested) else sentence(recorded, "xnnpack")


def foretold(folder: Path) -> str | None:
    """What the certificate had said of differences, with the cure; None where it knows none."""
    recorded, _ = read_proof(folder / CERTIFICATE, folder / SELFTEST, ("xnnpack",))
    return proof_record.foretold(recorded, "xnnpack")


def tools(options: Mapping[str, object]) -> dict[str, str]:
    """The packages that write and run the file."""
    found = _compilers()
    for name in (*_RUNTIMES, "flatbuffers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _compilers() -> dict[str, str]:
    from greenedge.backends.int8.tflite import edgetpu, vela

    return {**vela.tools(), **edgetpu.tools()}
