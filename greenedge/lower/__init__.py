"""QONNX → the exact integer graph, or every reason why not.

    lowered = lower_file(Path("model.onnx"))          # UnsupportedError carries all reasons
    save_lowering(lowered, RunFolder(run).lower)
    lowered = load_lowering(RunFolder(run).lower)

`declared` gives integer types to inputs without a quantiser: {"input name" or None: parse_input_type("uint8:1/255")}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.errors import GreenedgeError, Reason, ReasonKind, UnsupportedError
from greenedge.files.atomic_write import atomic_write
from greenedge.files.json_file import read_json
from greenedge.frontends.input_type import InputType
from greenedge.frontends.kinds import FLOAT_PROGRAM
from greenedge.frontends.post_training import is_float
from greenedge.frontends.samples import ModelInput, list_inputs
from greenedge.frontends.source import DEFAULT_ARITHMETIC, Source, read_model
from greenedge.graph import Graph, Requantise, Steps
from greenedge.graph.ops.base import Floats
from greenedge.graph.qonnx import to_qonnx
from greenedge.graph.store import graph_digest, load_graph, save_graph
from greenedge.lower import argmax, prologue_epilogue
from greenedge.lower.builder import Trace
from greenedge.lower.lowering import build_graph, find_boundaries, lower_nodes
from greenedge.lower.model_inputs import describe_inputs, read_inputs
from greenedge.lower.walk import Walk

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = [
    "Lowered",
    "Output",
    "load_lowering",
    "lower_file",
    "lower_source",
    "proof",
    "save_lowering",
]


@dataclass(frozen=True, eq=False)
class Output:
    """One edge at which the integers end: `dequantised` where the model's own output is just scale * (integer -
    zero)."""

    edge: str
    tensor: str
    scale: Floats
    zero: Floats
    dequantised: bool


@dataclass(frozen=True, eq=False)
class Lowered:
    """An integer graph with its two host models (ONNX protobufs; prologue is None for inputs that are integers
    already).

    `source` and `trace` (edges → the model's tensors and real functions) exist after lowering, not after loading.
    `inputs` are the model's own, in its order; `direct` says of which one an input edge takes the integers as they are.
    """

    graph: Graph
    prologue: ModelProto | None
    epilogue: ModelProto
    outputs: tuple[Output, ...]
    declared: dict[str, InputType]
    source: Source | None = None
    trace: Trace = field(default_factory=Trace)
    inputs: tuple[ModelInput, ...] = ()
    direct: Mapping[str, str] = field(default_factory=dict)


def lower_file(
    path: Path, declared: Mapping[str | None, InputType] | None = None, arithmetic: str = DEFAULT_ARITHMETIC
) -> Lowered:
    """The exact integer graph of an ONNX file, or of a .tflite in that arithmetic. Raises UnsupportedError with every
    reason, GreenedgeError for a bad file."""
    return lower_source(read_model(Path(path), arithmetic), declared)


def lower_source(source: Source, declared: Mapping[str | None, InputType] | None = None) -> Lowered:
    """As `lower_file`, for a model already read."""
    if not source.complaints:
        return _lower(source, declared)
    subject = f"{source.name} cannot become an integer graph:"
    try:
        _lower(source, declared)
    except GreenedgeError:
        raise  # in the words of a rule, which name the layer and a cure
    except Exception:  # a rule relies on what ONNX rejects here; its own words are the reason then
        raise UnsupportedError(subject, source.complaints) from None
    raise UnsupportedError(subject, source.complaints)


def _lower(source: Source, declared: Mapping[str | None, InputType] | None) -> Lowered:
    types = _assign_input_types(source, declared or {})
    walk = Walk(source, types)
    lower_nodes(walk)
    boundaries = find_boundaries(walk) if not walk.reasons else {}
    for edge in boundaries.values():
        if edge in walk.builder.wide:
            walk.refuse(edge, walk.builder.wide[edge].refusal)
    if not walk.reasons and not boundaries:
        walk.reasons.append(
            Reason(
                source.name,
                ReasonKind.UNQUANTISED,
                "it has no quantised layer",
                "integer layers need quantised weights and activations",
                "train it with Brevitas quantisers and export it with export_qonnx",
            )
        )
    if walk.reasons:
        raise UnsupportedError(f"{source.name} cannot become an integer graph:", _sum_up(source, walk.reasons))
    boundaries = argmax.append_argmax(walk, boundaries)
    graph = build_graph(walk, boundaries)
    outputs = []
    for tensor, edge in boundaries.items():
        scale, zero = prologue_epilogue.require_dequantiser(prologue_epilogue.expr_of(walk, tensor))
        outputs.append(Output(edge, tensor, scale, zero, tensor in source.outputs))
    return Lowered(
        graph,
        prologue_epilogue.write_prologue(walk),
        prologue_epilogue.write_epilogue(walk, boundaries),
        tuple(outputs),
        types,
        source,
        walk.builder.trace,
        list_inputs(source, dict(types.items())),
        {edge: name for edge, name in walk.direct.items() if edge in graph.inputs},
    )


def _sum_up(source: Source, reasons: list[Reason]) -> list[Reason]:
    """Of a float model one reason in place of one for each layer that is not quantised."""
    if not is_float(source):
        return reasons
    file = f"FLOAT{'.pt2' if source.kind == FLOAT_PROGRAM else '.onnx'}"
    whole = Reason(
        source.name,
        ReasonKind.UNQUANTISED,
        "a float model, without any quantiser",
        "integer layers need quantised weights and activations",
        f"run `greenedge quantise {file} --calibrate SAMPLES.npy -o OUT.onnx`, or train it with Brevitas quantisers",
    )
    others = [reason for reason in reasons if reason.kind is not ReasonKind.UNQUANTISED]
    return [whole, *others] if len(others) < len(reasons) else reasons


def _assign_input_types(source: Source, declared: Mapping[str | None, InputType]) -> dict[str, InputType]:
    """The declared type of every input that has one; the type of None is for all inputs that are not named."""
    unknown = sorted(name for name in declared if name is not None and name not in source.inputs)
    if unknown:
        raise GreenedgeError(
            f"{source.name} has no input {unknown[0]!r}; its inputs are {', '.join(sorted(source.inputs))}."
        )
    key: dict[str, str | None] = {name: name if name in declared else None for name in source.inputs}
    return {name: declared[key[name]] for name in source.inputs if key[name] in declared}


# -- storage ----------------------------------------------------------------------------------------------------------


def save_lowering(lowered: Lowered, folder: Path) -> None:
    """Writes graph.json, graph.npz, graph.onnx, prologue.onnx (where there is one), epilogue.onnx and lower.json."""
    save_graph(lowered.graph, folder)
    models = {
        "graph.onnx": to_qonnx(lowered.graph),
        "prologue.onnx": lowered.prologue,
        "epilogue.onnx": lowered.epilogue,
    }
    for name, model in models.items():
        if model is not None:
            with atomic_write(folder / name) as path:
                path.write_bytes(model.SerializeToString(deterministic=True))
    with atomic_write(folder / "lower.json") as path:
        path.write_text(json.dumps(_summary(lowered), indent=1) + "\n")


def load_lowering(folder: Path) -> Lowered:
    """What `save_lowering` wrote, without source and trace. Raises GreenedgeError where a file is missing or
    damaged."""
    import onnx
    from google.protobuf.message import DecodeError

    folder = Path(folder)
    graph = load_graph(folder)
    try:
        summary = read_json(folder / "lower.json")
        prologue_file = folder / "prologue.onnx"
        prologue = onnx.load_model_from_string(prologue_file.read_bytes()) if prologue_file.exists() else None
        epilogue = onnx.load_model_from_string((folder / "epilogue.onnx").read_bytes())
        outputs = tuple(
            Output(o["edge"], o["tensor"], np.array(o["scale"]), np.array(o["zero"]), bool(o["dequantised"]))
            for o in summary["outputs"]
        )
        declared = {name: InputType(t["lo"], t["hi"], Fraction(t["scale"])) for name, t in summary["declared"].items()}
        inputs, direct = read_inputs(summary, graph, prologue, declared)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DecodeError) as error:
        raise GreenedgeError(
            f"{folder}: the stored lowering is damaged ({error}); run the lower stage again."
        ) from None
    return Lowered(graph, prologue, epilogue, outputs, declared, inputs=inputs, direct=direct)


def _summary(lowered: Lowered) -> dict[str, Any]:
    """The contents of lower.json."""
    graph = lowered.graph
    layers = [
        {
            "name": op.name,
            "op": type(op).__name__,
            "shape": list(graph.edges[op.output].shape),
            "type": graph.edges[op.output].dtype,
            "lo": graph.edges[op.output].lo,
            "hi": graph.edges[op.output].hi,
        }
        for op in graph.ops
    ]
    requantisers = [proof(op) for op in graph.requantisers]
    return {
        "format": "greenedge-lower/1",
        "name": graph.name,
        "digest": graph_digest(graph),
        "layers": layers,
        "requantisers": requantisers,
        "outputs": [
            {
                "edge": o.edge,
                "tensor": o.tensor,
                "scale": o.scale.tolist(),
                "zero": o.zero.tolist(),
                "dequantised": o.dequantised,
            }
            for o in lowered.outputs
        ],
        "declared": {name: {"lo": t.lo, "hi": t.hi, "scale": str(t.scale)} for name, t in lowered.declared.items()},
        **describe_inputs(lowered.inputs, lowered.direct),
    }


def proof(op: Requantise) -> dict[str, Any]:
    """Evidence that the forms of a requantiser agree: evaluated at every threshold, one below it, and both range ends.

    All forms are monotone, so agreement there is agreement on every reachable accumulator.
    """
    entry: dict[str, Any] = {
        "name": op.name,
        "channels": op.channels,
        "levels": op.hi - op.lo + 1,
        "accumulators": int((op.x_hi - op.x_lo + 1).sum()),
        "form": "thresholds" if isinstance(op.forms, Steps) else "table",
    }
    if not isinstance(op.forms, Steps) or op.forms.affine is None:
        return entry | {"affine": None}
    affine = op.forms.affine
    sign, m, b, s = (part[:, None] for part in (op.forms.sign, affine.m, affine.b, affine.s))
    t = sign * op.forms.thresholds
    points = np.hstack([t, t - sign, op.x_lo[:, None], op.x_hi[:, None]])
    points = np.clip(points, op.x_lo[:, None], op.x_hi[:, None])
    exact = (m.astype(object) * points + b) >> s  # Python's integers: no product overflows
    disagreeing = int((np.clip(exact, op.lo, op.hi).T != op.forms.count(op.lo, points.T)).sum())
    assert disagreeing == 0, f"{op.name}: the affine form differs from the thresholds at {disagreeing} points"
    return entry | {
        "affine": {"multiplier_bits": max(abs(int(v)).bit_length() for v in m.flat), "shift": int(s.max())},
        "proved": "thresholds and affine form agree on every reachable accumulator",
    }
