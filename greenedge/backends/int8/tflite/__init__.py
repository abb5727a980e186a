"""Back end `tflite`: an int8 .tflite file written straight from the integer graph, with a proof for every channel.

Tools: none to build but Python (Vela for an Ethos-U; edgetpu_compiler for an Edge TPU, where found); to run,
`ai-edge-litert` (or `tflite-runtime`). Options: storage=int4-dense stores dense layers of at most 4 bits in half a
byte a weight (LiteRT on CPU only; channels lose the factor that makes them finer). kernels=all avoids operators that
are exact on XNNPACK alone (a MEAN becomes a convolution with ones, larger and slower), so that LiteRT's reference
kernels and the older runtime come as near as they can. outputs=float lets the file give the model's float outputs
too, outputs=integers nothing but integers; without either, a softmax. Files: model.tflite; certificate.json (what was
proved about each layer's requantisation, per kernel set); edges.json (which tensor holds which edge of the graph, and
how); selftest.json (the emulated arithmetic against the runtime, and which operators XNNPACK leaves to LiteRT's own
kernels); deploy/ (for a board without greenedge: model, runner, golden samples); what vela.py or edgetpu.py name for
an NPU.

The file's images have their channels last: an input of shape (C, H, W) in the graph is (1, H, W, C) in the file, and
int8 = level + the input's offset in edges.json, which is also what the file's own quantisation parameters say. Outputs
of more than 8 bits are accumulators, int32 as they are (accumulators.py). Behind the exact integers come the model's
float outputs, named as in the model (epilogue.py); the integers are proved and compared with ==.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np

from greenedge.backends.int8 import edges_json, proof_record
from greenedge.backends.int8.edges_json import WIDE
from greenedge.backends.int8.preflight_estimate import describe_differences
from greenedge.backends.int8.proof_record import Record, certificate, doubts, read_proof, sentence, summary
from greenedge.backends.int8.tflite import edgetpu, vela
from greenedge.backends.int8.tflite.accumulators import refuse_accumulators
from greenedge.backends.int8.tflite.deploy import deploy_files, explain_no_deploy, read_quantiser
from greenedge.backends.int8.tflite.emit import RULES, Emitted, find_reasons, write_file
from greenedge.backends.int8.tflite.epilogue import WITHIN, choose_outputs
from greenedge.backends.int8.tflite.layout import Layout
from greenedge.backends.int8.tflite.options import check_options
from greenedge.backends.interface import Alternate, Backend, Feeds, FloatEpilogue, Floats, Options, Values
from greenedge.errors import GreenedgeError, Reason
from greenedge.graph import Conv, ConvTranspose, Dense, Graph
from greenedge.graph.ops.base import Array
from greenedge.legalise import ARGMAX_TO_HOST, CLAMP_AT_REACH, FOLD_LAYOUTS, FUSE_LINES, NARROW_SUMS, REQUANTISE_EARLY
from greenedge.lower import Lowered
from greenedge.lower.dequantise import Dequantise
from greenedge.progress import ProgressFn, no_progress
from greenedge.target import Target
from greenedge.tools.plan import Command, Plan

STAGE = "tflite"
MODEL, CERTIFICATE, EDGES, SELFTEST = "model.tflite", "certificate.json", "edges.json", "selftest.json"
PASSES = (ARGMAX_TO_HOST, FUSE_LINES, FOLD_LAYOUTS, REQUANTISE_EARLY, NARROW_SUMS, CLAMP_AT_REACH)
NARROW = "int8"  # the type of levels
_SETS = ("xnnpack", "reference")
_RUNTIMES = ("ai-edge-litert", "tflite-runtime")
_SHAPE_MARK = "greenedge-edges/1"
_OPERATORS = {Dense: "FULLY_CONNECTED", Conv: "CONV_2D", ConvTranspose: "CONV_2D"}
_NO_EPILOGUE = FloatEpilogue()


def check(graph: Graph, target: Target, options: Options) -> list[Reason]:
    """Every reason why the legalised graph has no exact int8 file."""
    compiler = _choose_compiler(target)
    return (
        check_options(graph, options, compiler is not None)
        + find_reasons(graph)
        + ([*refuse_accumulators(graph), *compiler.find_reasons(graph)] if compiler else [])
    )


def float_epilogue(lowered: Lowered, target: Target, options: Options) -> FloatEpilogue:
    """The model's float outputs that the file carries, a sentence for each that it leaves to the host and for a deploy
    folder that there is not, and the quantiser that makes the input's integers of floats where there is one."""
    carried, notes = choose_outputs(lowered, options, _choose_compiler(target) is not None)
    return FloatEpilogue(carried, (*notes, *explain_no_deploy(lowered.graph)), read_quantiser(lowered.prologue))


def _choose_compiler(target: Target) -> ModuleType | None:
    """The module for the compiler that a target wants after LiteRT's file, or None."""
    return vela if "vela" in target.device.toolchain else edgetpu if target.device.family == "edge-tpu" else None


def plan(graph: Graph, target: Target, options: Options, epilogue: FloatEpilogue = _NO_EPILOGUE) -> Plan:
    """The file and its certificate; what is left to run is the check of the certificate's arithmetic on this machine.

    `epilogue` is what `float_epilogue` gave.
    """
    carried = epilogue.carried
    emitted = write_file(graph, options.get("storage") == "int4-dense", options.get("kernels") == "all", carried)
    about = {**edges_of(graph, emitted, carried), "notes": list(epilogue.notes)}
    files = {
        MODEL: emitted.content,
        CERTIFICATE: _json(certificate(emitted.layers)),
        EDGES: _json(about),
        **deploy_files(graph, emitted.content, about["edges"], carried, epilogue.quantiser),
    }
    command = Command(
        ("{python}", "-m", "greenedge.backends.int8.tflite.selftest", MODEL, SELFTEST),
        "selftest.log",
        "LiteRT's arithmetic",
        timeout_s=300,
    )
    compiler = _choose_compiler(target)
    commands, products = (compiler.commands(MODEL, target), compiler.products()) if compiler else ((), ())
    return Plan(files, (command, *commands), (MODEL, CERTIFICATE, EDGES, SELFTEST, *products))


def edges_of(graph: Graph, emitted: Emitted, carried: Sequence[Dequantise] = ()) -> Record:
    """What edges.json says about a written file: which tensor holds which edge, and how; which are the float
    outputs."""
    edges = {
        edge: {
            "tensor": placed.tensor,
            "type": WIDE if placed.code.is_wide else NARROW,
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


def _json(value: Record) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def simulate(
    folder: Path,
    x: Feeds,
    keep: Sequence[str] = (),
    progress: ProgressFn = no_progress,
    kernels: str = "xnnpack",
) -> Values:
    """Runs the file in `folder` on graph integers; returns the output edges and the kept ones as graph integers
    (int64).

    `x` is one array (N, *shape) or a dict from input edge to array; `kernels` is "xnnpack" or "reference"; accumulators
    cannot be kept, the file has none. Raises GreenedgeError for a damaged file and for values outside an input's range.
    """
    from greenedge.backends.int8.tflite.runtime import run_file

    about = read_edges(folder)
    edges = about["edges"]
    wanted = [name for name in keep if name in edges and name not in about["inputs"]]
    tensors = [edges[name]["tensor"] for name in wanted]
    values = run_file(folder / MODEL, encode_inputs(about, x), tensors, kernels, progress)
    try:
        return graph_outputs(about, values, [*about["outputs"], *wanted])
    except KeyError as error:
        raise GreenedgeError(
            f"{folder / MODEL} does not hold {error.args[0]!r} as {EDGES} says; run the build stage again."
        ) from None


def float_outputs(
    folder: Path, x: Feeds, progress: ProgressFn = no_progress, kernels: str = "xnnpack"
) -> dict[str, tuple[Floats, float]]:
    """{model output: (float32 values in the graph's order, their largest difference from the host's that is no
    error)} of the float outputs that the file itself gives: 0 for scores, which are the host's bit for bit.

    Raises GreenedgeError as `simulate` does.
    """
    from greenedge.backends.int8.tflite.runtime import run_file

    about = read_edges(folder)
    if not about["floats"]:
        return {}
    values = run_file(folder / MODEL, encode_inputs(about, x), (), kernels, progress)
    result = {}
    for name, output in about["floats"].items():
        edge, stored = about["edges"][output["edge"]], values.get(output["tensor"])
        if stored is None or stored.dtype != np.float32 or stored.shape[1:] != tuple(edge["file"][1:]):
            raise GreenedgeError(f"{folder / MODEL} does not hold {name!r} as {EDGES} says; run the build stage again.")
        result[name] = _layout(edge).to_graph(stored), WITHIN if output["softmax"] else 0.0
    return result


def encode_inputs(about: Record, x: Feeds) -> list[Array]:
    """The int8 arrays that the file takes for graph integers, in its own order. Raises GreenedgeError for values it
    does not take."""
    return [_layout(edge).to_file(levels).astype(np.int8) for edge, levels in edges_json.offset_inputs(about, x)]


def graph_outputs(about: Record, values: Mapping[int, Array], names: Sequence[str]) -> Values:
    """{edge: graph integers} from the stored values of tensors. Raises KeyError where one is not there in its shape."""
    result: Values = {}
    for name in dict.fromkeys(names):
        edge = about["edges"][name]
        stored = values.get(edge["tensor"])
        if stored is None or stored.dtype != np.dtype(edge["type"]) or stored.shape[1:] != tuple(edge["file"][1:]):
            raise KeyError(name)
        result[name] = _layout(edge).to_graph(stored).astype(np.int64) - edge["offset"]
    return result


def _layout(edge: Record) -> Layout:
    return Layout(tuple(edge["source"]), tuple(edge["order"]), tuple(edge["shape"]), tuple(edge["file"]))


def read_edges(folder: Path) -> Record:
    """edges.json of a build. Raises GreenedgeError where it is missing or damaged."""
    path = folder / EDGES
    about = edges_json.read_edges(path, _SHAPE_MARK, NARROW, ("tensor",), ("source", "order", "file"))
    for name, edge in about["edges"].items():
        sizes = {int(np.prod(edge[key], dtype=object)) for key in ("source", "shape", "file")}
        if len(sizes) != 1 or sorted(edge["order"]) != list(range(len(edge["source"]))):
            raise edges_json.damage_error(path, f"the shapes of {name!r} do not go together")
    floats = about.setdefault("floats", {})
    if not isinstance(floats, dict) or not all(_is_float_output(output, about["edges"]) for output in floats.values()):
        raise edges_json.damage_error(path, "its float outputs are no tensors of edges")
    return about


def _is_float_output(output: object, edges: Record) -> bool:
    return (
        isinstance(output, dict)
        and type(output.get("tensor")) is int
        and isinstance(output.get("softmax"), bool)
        and isinstance(output.get("edge"), str)
        and output["edge"] in edges
    )


def preflight_notes(source: Path, lowered: Lowered, target: Target, options: Options) -> tuple[str, ...]:
    """What the certificate would say of differences, from a sample of channels; then a
    sentence for each float output that is left to the host."""
    differences = describe_differences(source, lowered.graph, _OPERATORS)
    return (*differences, *float_epilogue(lowered, target, options).notes)


def report(folder: Path) -> Record:
    """{"edge": …}: the file's size, its operators, the runtime, and per kernel set what was proved or why nothing
    counts."""
    from greenedge.backends.int8.tflite.runtime import operators

    recorded, tested = read_proof(folder / CERTIFICATE, folder / SELFTEST, _SETS)
    certificates: Record = {}
    for kernels in _SETS:
        doubt = doubts(recorded, tested, kernels)
        certificates[kernels] = {"withheld": doubt} if doubt else summary(recorded, kernels)
    edge = {
        "bytes": (folder / MODEL).stat().st_size,
        "runtime": f"{tested['runtime']} {tested['version']}",
        "kernels": "xnnpack",
        "certificate": certificates,
        "operators": operators(folder / MODEL),
        "left_to_builtins": tested["left_to_builtins"],
    }
    content = {
        "edge": edge,
        "proved": proof(folder),
        "evidence": {"bytes": "measured", "certificate": "proved"},
        "notes": _output_notes(read_edges(folder)),
        "tools": {**tools({}), tested["runtime"]: tested["version"]},
    }
    return _add_compiler_report(content, folder)


def _output_notes(about: Record) -> list[str]:
    """What the file gives behind the integers, and what it does not."""
    floats, first = about["floats"], len({about["edges"][edge]["tensor"] for edge in about["outputs"]})
    integers = "0" if first == 1 else f"0 to {first - 1}"
    notes = [
        f"{MODEL} also gives the model's own {'softmax' if output['softmax'] else 'float output'} {name!r} as its "
        f"output {first + k}, in float32, behind the exact integers (output {integers})."
        for k, (name, output) in enumerate(floats.items())
    ]
    return notes + [str(note) for note in about.get("notes", [])]


def _add_compiler_report(content: Record, folder: Path) -> Record:
    """The report with what the compiler after LiteRT's file says."""
    for compiler in (vela, edgetpu):
        if compiler.is_built_for(folder):
            more = compiler.report(folder)
            content = {
                **content,
                **{key: {**content[key], **more[key]} for key in ("edge", "evidence", "tools")},
                "notes": [*content["notes"], *more["notes"]],
            }
    return content


def alternate_runtimes(folder: Path) -> dict[str, Alternate]:
    """LiteRT's reference kernels on the same file."""
    recorded, tested = read_proof(folder / CERTIFICATE, folder / SELFTEST, _SETS)
    totals = summary(recorded, "reference")
    counts = doubts(recorded, tested, "reference") is None and _is_here(tested)

    def run(x: Feeds, progress: ProgressFn) -> Values:
        return simulate(folder, x, (), progress, "reference")

    is_everywhere = counts and totals["certified"] == totals["channels"]
    return {f"{STAGE}-reference": Alternate(run, sentence(recorded, "reference") if counts else None, is_everywhere)}


def _is_here(tested: Record) -> bool:
    """Whether the runtime whose arithmetic was tested is the one at hand."""
    try:
        return metadata.version(str(tested["runtime"])) == tested["version"]
    except metadata.PackageNotFoundError:
        return False


def proof(folder: Path) -> str | None:
    """What holds for every input on XNNPACK, in one sentence; None where the runtime at hand is not the one that was
    tested, or its arithmetic not the emulated one."""
    recorded, tested = read_proof(folder / CERTIFICATE, folder / SELFTEST, _SETS)
    return None if doubts(recorded, tested, "xnnpack") or not _is_here(tested) else sentence(recorded, "xnnpack")


def describe_deviation(folder: Path) -> str | None:
    """What the certificate says of differences, with the cure; None where it knows none."""
    recorded, _ = read_proof(folder / CERTIFICATE, folder / SELFTEST, ("xnnpack",))
    return proof_record.describe_deviation(recorded, "xnnpack")


def list_certified_differences(folder: Path) -> dict[str, dict[int, int]]:
    """{edge: {channel: levels}} by which the file may differ on XNNPACK; nothing where its arithmetic is not that of
    the certificate."""
    recorded, tested = read_proof(folder / CERTIFICATE, folder / SELFTEST, ("xnnpack",))
    return {} if doubts(recorded, tested, "xnnpack") else proof_record.list_differences(recorded, "xnnpack")


def tools(options: Options) -> dict[str, str]:
    """The packages that write and run the file."""
    versions = {**vela.tools(), **edgetpu.tools()}
    for name in (*_RUNTIMES, "flatbuffers"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def requirements() -> tuple[tuple[str, str, str], ...]:
    """The compiler that no package brings: (program, needed for, how to get it)."""
    return ((edgetpu.COMPILER, "Coral Edge TPU targets", "coral.ai, Edge TPU Compiler"),)


def needs(target: Target, options: Options) -> tuple[str, ...]:
    """Vela where the target's NPU takes its command stream."""
    return ("ethos-u-vela",) if _choose_compiler(target) is vela else ()


BACKEND = Backend(
    name="tflite",
    stage=STAGE,
    options=("storage", "kernels", "outputs"),
    rules=RULES,
    passes=PASSES,
    check=check,
    plan=plan,
    simulate=simulate,
    report=report,
    tools=tools,
    needs=needs,
    proof=proof,
    alternate_runtimes=alternate_runtimes,
    describe_deviation=describe_deviation,
    list_certified_differences=list_certified_differences,
    float_epilogue=float_epilogue,
    float_outputs=float_outputs,
    preflight_notes=preflight_notes,
    requirements=requirements,
)
