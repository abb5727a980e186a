"""The same vectors through every stage of a run, integers compared with == (compare.py)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from greenedge.backends.interface import Backend, Feeds, as_feeds
from greenedge.errors import GreenedgeError, VerificationError
from greenedge.files.arrays import read_array
from greenedge.files.atomic_write import atomic_write
from greenedge.frontends.input_type import InputType
from greenedge.frontends.samples import ModelInput, Samples, count_samples, read_samples, to_reals
from greenedge.frontends.source import read_model
from greenedge.graph import Graph, graph_digest, run_graph
from greenedge.graph.joined_outputs import join_outputs
from greenedge.hdl.board_shell.read_back import ReadBack
from greenedge.legalise import HostPass, legalise
from greenedge.lower import Lowered, load_lowering, lower_source
from greenedge.lower.float_io import classes, run_epilogue, run_prologue
from greenedge.progress import ProgressFn
from greenedge.run.folder import RunFolder
from greenedge.verify.built import (
    compare_alternates,
    compare_board,
    compare_build,
    compare_fault_vectors,
    compare_float_outputs,
    compare_partial,
    find_fault_vectors,
)
from greenedge.verify.certified import allow_certified
from greenedge.verify.compare import FAULTS, VerificationReport, describe_certified
from greenedge.verify.evidence import find_missing
from greenedge.verify.fault_vectors import FaultVectors
from greenedge.verify.float_references import REFERENCES, Stages, compare_with_outputs, compare_with_qonnx
from greenedge.verify.litert_reference import STAGES as LITERT
from greenedge.verify.litert_reference import compare_with_litert, find_origin

_ORDER = (*REFERENCES, *LITERT.values(), "qonnx", "graph")  # of the stages in verify.json; what was built comes behind


@dataclass(frozen=True)
class Vectors:
    """The samples of a run: the model's float inputs by name, optional labels, and the model's outputs in other words
    than its file's: torch's, or those that were expected."""

    inputs: Samples
    labels: NDArray[Any] | None = None
    outputs: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)


@dataclass
class Findings:
    """What the comparisons of one verification gave so far.

    `stages` are the integers of each stage, `reports` what must be equal, `remarks` what need not be; `faults` are the
    vectors chosen for faults of the memories, `read_back` what was compared without running it.
    """

    stages: Stages = dataclasses.field(default_factory=dict)
    reports: list[VerificationReport] = dataclasses.field(default_factory=list)
    remarks: list[VerificationReport] = dataclasses.field(default_factory=list)
    floats: list[VerificationReport] = dataclasses.field(default_factory=list)
    accuracy: dict[str, float] = dataclasses.field(default_factory=dict)
    faults: FaultVectors | None = None
    read_back: tuple[ReadBack, ...] = ()


def verify_stage(
    run: RunFolder, folder: Path, chosen: Backend, evidence: Mapping[str, int], progress: ProgressFn
) -> str:
    """Compares every stage of a run; writes verify.json and each stage's integers into `folder`; returns a note.

    `evidence` is what must be compared at least (evidence.py). Raises VerificationError on any difference, and where
    less was compared, after everything has been written.
    """
    lowered = lower_again(run)
    model = legalise(lowered, [one for one in chosen.passes if isinstance(one, HostPass)])
    vectors = _read_vectors(run, model.inputs)
    count = count_samples(vectors.inputs)
    ints = run_prologue(model, vectors.inputs)
    found = Findings()
    progress(0, 0, "integer graph")
    expected = run_graph(model.graph, ints)
    found.stages["graph"] = join_outputs(model.graph, expected)
    reals = to_reals(vectors.inputs, model.inputs)
    if (origin := find_origin(run)) is not None:
        whole = expected if model is lowered else run_graph(lowered.graph, run_prologue(lowered, vectors.inputs))
        found.reports.append(
            compare_with_litert(lowered, origin, run.original, vectors.inputs, whole, found.stages, progress)
        )
    else:
        found.reports.append(compare_with_qonnx(model, run.model, reals, ints, found.stages, progress))
    for reference, outputs in vectors.outputs.items():
        found.reports += compare_with_outputs(reference, model, outputs, ints, found.stages)
    if why := chosen.why_not_runnable(run.build):
        found.accuracy = _measure_accuracy(model, vectors, found.stages)
        _write(folder, found, model.graph, why)
        for report in found.reports:
            report.require()
        _require_evidence(run, evidence, found)
        return f"{_describe(count, found)}; not verified: {why}"
    legal = legalise(lowered, chosen.passes)
    _compare_build_stages(legal, chosen, run.build, as_feeds(ints), vectors, found, progress)
    _write(folder, found, model.graph)
    _require(found, chosen, run.build)
    _require_evidence(run, evidence, found)
    return _describe(count, found)


def _compare_build_stages(
    legal: Lowered,
    backend: Backend,
    build: Path,
    x: Feeds,
    vectors: Vectors,
    found: Findings,
    progress: ProgressFn,
) -> None:
    """Every comparison with what was built, into `found`. The legalised graph is the reference: its layers are the
    build's."""
    graph, stages = legal.graph, found.stages
    expected = run_graph(graph, x)
    assert np.array_equal(join_outputs(graph, expected), stages["graph"]), "a pass has changed an output"
    proof = backend.proof(build)
    report = compare_build(graph, backend.simulate, backend.stage, build, x, expected, stages, progress, proof)
    found.reports.append(allow_certified(graph, backend, build, x, report, stages["graph"], stages[backend.stage]))
    again: Stages = {}  # the same circuit once more, or on few samples: no accuracy of its own
    if backend.simulate_with_backpressure is not None:
        name = f"{backend.stage}-stalls"
        found.reports.append(
            compare_build(graph, backend.simulate_with_backpressure, name, build, x, expected, again, progress)
        )
    found.floats = compare_float_outputs(legal, backend, build, x, stages[backend.stage], progress)
    found.reports += found.floats
    for report, must_be_equal in compare_alternates(graph, backend, build, x, stages["graph"], progress):
        (found.reports if must_be_equal else found.remarks).append(report)
    if (build / "board.json").is_file():
        found.reports += compare_board(graph, build, x, expected, stages, progress)
    found.accuracy = _measure_accuracy(legal, vectors, stages)
    stages |= again
    found.faults = find_fault_vectors(graph, backend, build, x, progress)
    if found.faults is not None and len(found.faults.vectors):
        found.reports.append(compare_fault_vectors(graph, backend, build, found.faults, progress))
    found.reports += compare_partial(graph, backend, build, x, stages, progress, found.faults)
    found.read_back = backend.read_back(graph, build, progress)


def _require(found: Findings, backend: Backend, build: Path) -> None:
    """Raises VerificationError for the first difference, or where the build is not what it was made from."""
    for report in found.reports:
        is_build = report.candidate == backend.stage and report.mismatches
        report.require(backend.describe_deviation(build) if is_build else None)
    if wrong := backend.stale_artifact(build):
        raise VerificationError(wrong)
    for entry in found.read_back:
        if entry.differs:
            raise VerificationError(entry.differs)


def _require_evidence(run: RunFolder, evidence: Mapping[str, int], found: Findings) -> None:
    if missing := find_missing(evidence, found.reports):
        raise VerificationError(f"{run} {missing}; run the same `greenedge run` or `greenedge build` again.")


def _describe(samples: int, found: Findings) -> str:
    """What was compared, in one line."""
    covered = [report for report in found.reports if report.coverage is not None]
    fewer = [
        name
        for name in found.stages
        if len(found.stages[name]) < samples and name not in {report.candidate for report in covered}
    ]
    by_coverage = "".join(
        f"; {'simulated ' if one.candidate == 'netlist' else ''}{one.candidate.removesuffix(FAULTS)}, "
        f"{one.samples:,} vectors, {one.coverage.text}"
        for one in covered
        if one.coverage is not None
    )
    back = "".join(f"; {entry.what} read back" for entry in found.read_back)
    certified = {report.candidate: report for report in found.reports if report.within_certificate}
    whole = ", ".join(name for name, values in found.stages.items() if len(values) >= samples and name not in certified)
    allowed = "".join(
        f"; {describe_certified(name, report.within_certificate, report.samples)}" for name, report in certified.items()
    )
    few = "".join(f", {len(found.stages[name])} in {name}" for name in fewer)
    near = "".join(
        f", {report.candidate} {f'within {report.within:g}' if report.within else 'too'}" for report in found.floats
    )
    alternates = "".join(
        f"; {one.candidate} {f'differs on {one.mismatches} of' if one.mismatches else 'equal on'} {one.samples}"
        for one in [*found.reports, *found.remarks]
        if one.reference == "graph" and one.candidate not in found.stages and one.coverage is None
    )
    return f"{samples} samples equal in {whole}{few}{near}{allowed}{alternates}{by_coverage}{back}"


def lower_again(run: RunFolder) -> Lowered:
    """The stored lowering, with the trace of lowering the exported model again (which must give the same graph)."""
    stored = load_lowering(run.lower)
    declared: dict[str | None, InputType] = dict(stored.declared.items())
    again = lower_source(read_model(run.model), declared)
    if graph_digest(again.graph) != graph_digest(stored.graph):
        raise VerificationError(
            f"{run.lower} does not hold the integer graph of {run.model}; run the lower stage again."
        )
    for name, ours, theirs in (
        ("prologue", again.prologue, stored.prologue),
        ("epilogue", again.epilogue, stored.epilogue),
    ):
        if _to_bytes(ours) != _to_bytes(theirs):
            raise VerificationError(
                f"{run.lower / name}.onnx does not hold the {name} of {run.model}; run the lower stage again."
            )
    if len(again.inputs) > 1 and _name_inputs(again) != _name_inputs(stored):
        raise VerificationError(
            f"{run.lower / 'lower.json'} does not name the inputs of {run.model}; run the lower stage again."
        )
    return again


def _name_inputs(lowered: Lowered) -> tuple[Any, ...]:
    return [(one.name, one.shape) for one in lowered.inputs], dict(lowered.direct)


def _to_bytes(model: ModelProto | None) -> bytes:
    return b"" if model is None else model.SerializeToString(deterministic=True)


def _read_vectors(run: RunFolder, inputs: Sequence[ModelInput]) -> Vectors:
    def read(name: str) -> NDArray[Any] | None:
        path = run.export / name
        try:
            return read_array(path) if path.exists() else None
        except GreenedgeError as error:
            raise GreenedgeError(f"{str(error).partition(';')[0].rstrip('.')}; run the export stage again.") from None

    if not run.inputs.is_file():
        raise GreenedgeError(f"{run.inputs} is missing; run the export stage again.")
    try:
        samples = read_samples(run.inputs, inputs)
    except GreenedgeError as error:
        raise GreenedgeError(f"{str(error).partition(';')[0].rstrip('.')}; run the export stage again.") from None
    given = {name: read(f"{name}.npy") for name in REFERENCES}
    return Vectors(
        samples, read("labels.npy"), {name: outputs for name, outputs in given.items() if outputs is not None}
    )


def _measure_accuracy(lowered: Lowered, vectors: Vectors, stages: Stages) -> dict[str, float]:
    """Share of samples whose class is the labelled one, per stage, through the common epilogue."""
    if vectors.labels is None or len(lowered.graph.outputs) != 1:
        return {}
    edge = lowered.graph.outputs[0]
    shape = lowered.graph.edges[edge].shape
    result = {}
    for stage, values in stages.items():
        index = classes(next(iter(run_epilogue(lowered, {edge: values.reshape(-1, *shape)}).values())))
        if index is not None and vectors.labels.shape == index.shape:
            result[stage] = float((index == vectors.labels).mean())
    return result


def _to_plain(report: VerificationReport) -> dict[str, Any]:
    """The report as verify.json holds it; without a coverage or a certificate where there was none to look at."""
    plain = dataclasses.asdict(report)
    left_out = {"coverage": None, "within_certificate": 0}
    return {key: value for key, value in plain.items() if key not in left_out or value != left_out[key]}


def _write(folder: Path, found: Findings, graph: Graph, unverified: str | None = None) -> None:
    order = sorted(found.stages, key=lambda stage: _ORDER.index(stage) if stage in _ORDER else len(_ORDER))
    for stage in order:
        with atomic_write(folder / f"{stage}.npy") as path, open(path, "wb") as file:
            np.save(file, found.stages[stage])
    if found.faults is not None:
        with atomic_write(folder / "fault_vectors.npy") as path, open(path, "wb") as file:
            np.save(file, found.faults.vectors)
    content = {
        "format": "greenedge-verify/1",
        "model": graph.name,
        "stages": order,
        "verify": [_to_plain(report) for report in found.reports],
        "beside": [_to_plain(report) for report in found.remarks],
        **({"read_back": [dataclasses.asdict(entry) for entry in found.read_back]} if found.read_back else {}),
        "accuracy": {stage: found.accuracy[stage] for stage in order if stage in found.accuracy},
        **({"unverified": unverified} if unverified else {}),
    }
    with atomic_write(folder / "verify.json") as path:
        path.write_text(json.dumps(content, indent=1) + "\n")
