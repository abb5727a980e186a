"""The same vectors through every stage of a run, integers compared with == (compare.py)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.errors import GreenedgeError, VerificationError
from greenedge.files.atomic_write import atomic_write
from greenedge.frontends.source import read_model
from greenedge.graph import Graph, Requantise, run_graph
from greenedge.lower import Lowered, load_lowered, lower_source, proof
from greenedge.lower.prologue_epilogue import elementwise
from greenedge.verify.compare import First, VerificationReport, compare, compare_floats, first_difference, in_words

Tell = Callable[[int, int, str], None]
BESIDE = 512  # vectors at most for other kernels of the same file, which may be slow
SAMPLED = 24  # vectors for stages that are slow to simulate, such as a netlist
_BOARD_CYCLES = 60_000_000  # of the virtual board in one verification: well below a minute


@dataclass(frozen=True)
class Vectors:
    """The samples of a run: the model's float inputs, optional labels, optional outputs of the torch model."""

    inputs: np.ndarray
    labels: np.ndarray | None = None
    torch: np.ndarray | None = None


def verify_stage(run: Path, folder: Path, backend: str, tell: Tell) -> str:
    """Compares every stage of a run; writes verify.json and each stage's integers into `folder`; returns a note.

    Raises VerificationError on any difference, after everything has been written.
    """
    from greenedge.backends import load_backend, lowered_for

    module = load_backend(backend)
    lowered = lowered_for(module, _with_trace(run))
    vectors = _vectors(run / "2-export")
    ints = _prologue(lowered, vectors)
    stages: dict[str, np.ndarray] = {}
    reports = []
    tell(0, 0, "integer graph")
    graph_outputs = run_graph(lowered.graph, ints)
    stages["graph"] = _joined(lowered.graph, graph_outputs)
    reports.append(_against_qonnx(lowered, run / "2-export" / "model.onnx", vectors, ints, stages, tell))
    reports += _against_torch(lowered, vectors, ints, stages)
    candidate, build = getattr(module, "STAGE", backend), run / "4-build"
    if lowered.prologue is None and len(lowered.graph.inputs) > 1:
        raise GreenedgeError(
            f"{lowered.graph.name} has {len(lowered.graph.inputs)} inputs; builds are verified with one input."
        )
    if hasattr(module, "unverified") and (why := module.unverified(build)):
        _write(folder, reports, [], stages, _accuracies(lowered, vectors, stages), lowered.graph, why)
        for report in reports:
            report.require()
        return f"{_note(len(vectors.inputs), stages, (), ())}; not verified: {why}"
    proved = module.proved(build) if hasattr(module, "proved") else None
    reports.append(
        _against_build(lowered.graph, module.simulate, candidate, build, ints, graph_outputs, stages, tell, proved)
    )
    again: dict[str, np.ndarray] = {}
    if hasattr(module, "stalled"):
        reports.append(
            _against_build(
                lowered.graph, module.stalled, f"{candidate}-stalls", build, ints, graph_outputs, again, tell
            )
        )
    floats = _against_floats(lowered, module, candidate, build, ints, stages[candidate], tell)
    others = _against_others(lowered.graph, module, build, ints, stages["graph"], tell)
    reports += [*floats, *(report for report, claimed in others if claimed)]
    if (build / "board.json").is_file():
        reports += _against_board(lowered.graph, build, next(iter(ints.values())), graph_outputs, stages, tell)
    accuracy = _accuracies(lowered, vectors, stages)  # not of what follows: the same circuit again, or on few samples
    stages |= again
    reports += _against_sampled(lowered.graph, module, build, ints, stages, tell)
    _write(folder, reports, [report for report, claimed in others if not claimed], stages, accuracy, lowered.graph)
    _require(reports, module, candidate, build)
    return _note(len(vectors.inputs), stages, floats, others)


def _require(reports: Sequence[VerificationReport], module, candidate: str, build: Path) -> None:
    """Raises VerificationError for the first difference, or where the build is not what it was made from."""
    for report in reports:
        of_build = report.candidate == candidate and report.mismatches and hasattr(module, "foretold")
        report.require(module.foretold(build) if of_build else None)
    if hasattr(module, "provenance") and (wrong := module.provenance(build)):
        raise VerificationError(wrong)


def _note(samples: int, stages, floats, others) -> str:
    """What was compared, in one line."""
    fewer = [name for name in stages if len(stages[name]) < samples]
    whole = ", ".join(name for name in stages if name not in fewer)
    few = "".join(f", {len(stages[name])} in {name}" for name in fewer)
    near = "".join(
        f", {report.candidate} {f'within {report.within:g}' if report.within else 'too'}" for report in floats
    )
    beside = "".join(
        f"; {one.candidate} {f'differs on {one.mismatches} of' if one.mismatches else 'equal on'} {one.samples}"
        for one, _ in others
    )
    return f"{samples} samples equal in {whole}{few}{near}{beside}"


def _with_trace(run: Path) -> Lowered:
    """The stored lowering, with the trace of lowering the exported model again (which must give the same graph)."""
    from greenedge.graph import graph_digest

    stored = load_lowered(run / "3-lower")
    again = lower_source(read_model(run / "2-export" / "model.onnx"), dict(stored.declared))
    if graph_digest(again.graph) != graph_digest(stored.graph):
        raise VerificationError(
            f"{run / '3-lower'} does not hold the integer graph of {run / '2-export' / 'model.onnx'}; "
            "run the lower stage again."
        )
    return again


def _vectors(folder: Path) -> Vectors:
    def array(name: str) -> np.ndarray | None:
        path = folder / name
        try:
            return np.load(path, allow_pickle=False) if path.exists() else None
        except (ValueError, OSError, EOFError):
            raise GreenedgeError(f"{path} is no NumPy array; run the export stage again.") from None

    inputs = array("inputs.npy")
    if inputs is None:
        raise GreenedgeError(f"{folder / 'inputs.npy'} is missing; run the export stage again.")
    return Vectors(inputs, array("labels.npy"), array("torch.npy"))


def _prologue(lowered: Lowered, vectors: Vectors) -> dict[str, np.ndarray]:
    from greenedge.lower.float_io import run_prologue

    return run_prologue(lowered, vectors.inputs)


def _joined(graph: Graph, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """All outputs of every sample side by side, (N, total)."""
    parts = [np.asarray(outputs[edge]).reshape(len(outputs[edge]), -1) for edge in graph.outputs]
    return np.concatenate(parts, axis=1)


def _against_qonnx(lowered: Lowered, model: Path, vectors: Vectors, ints, stages, tell: Tell) -> VerificationReport:
    """The graph against qonnx's float32 execution; a difference must be a proven tie."""
    from greenedge.lower.float_ties.outputs_only import explain
    from greenedge.verify.reference import qonnx_integers

    given = qonnx_integers(lowered, model, vectors.inputs, tell)
    stages["qonnx"] = _joined(lowered.graph, given)
    report = compare("qonnx", "graph", stages["qonnx"], stages["graph"], proved=_proof(lowered.graph))
    if (first := _first_input(lowered, given, ints)) is not None:
        return dataclasses.replace(report, first=first, mismatches=max(report.mismatches, 1))
    if not report.mismatches:
        return report
    differences = explain(lowered.graph, lowered.trace, given)
    wrong = [d for d in differences if not d.proven_tie]
    if wrong or not differences:
        first = wrong[0] if wrong else None
        where = First(first.sample, first.layer, [first.expected], [first.got]) if first else report.first
        return dataclasses.replace(
            report, first=where, mismatches=max(report.mismatches, len({d.sample for d in wrong}))
        )
    return dataclasses.replace(report, mismatches=0, float_ties=report.mismatches, first=None)


def _first_input(lowered: Lowered, given, ints) -> First | None:
    """The first input integer that qonnx has otherwise than the prologue.

    Element by element both compute the same float32; only where the prologue adds up many numbers may an input at a
    rounding boundary come out one level apart.
    """
    allowed = 0 if elementwise(lowered.prologue) else 1
    for edge in ints:
        if np.abs(given[edge] - ints[edge]).max(initial=0) > allowed:
            return first_difference(edge, given[edge], ints[edge])
    return None


def _proof(graph: Graph) -> str | None:
    """What holds for every reachable accumulator of every requantiser."""
    ops = [op for op in graph.ops if isinstance(op, Requantise)]
    entries = [proof(op) for op in ops]
    with_affine = sum(1 for entry in entries if entry.get("proved"))
    if not ops:
        return "integer arithmetic only: nothing is rounded"
    return (
        f"{len(ops)} requantisers equal real arithmetic on all {sum(e['accumulators'] for e in entries):,} reachable accumulators"
        + (f"; affine form equal too for {with_affine}" if with_affine else "")
    )


def _against_torch(lowered: Lowered, vectors: Vectors, ints, stages) -> list[VerificationReport]:
    """torch's float outputs turned back into integers, where the model ends in a quantiser or an accumulator."""
    from greenedge.lower.float_ties.explain import reachable_by_ties

    if vectors.torch is None or len(lowered.outputs) != 1 or not lowered.outputs[0].dequantised:
        return []
    output = lowered.outputs[0]
    is_level = isinstance(lowered.graph.producer(output.edge), Requantise)
    levels = integers_of(vectors.torch, output.scale, output.zero, 0.25 if is_level else 0.5)
    if levels is None:
        raise VerificationError(
            "torch gave outputs that are NaN or no multiples of the output scale; export the model again."
        )
    stages["torch"] = levels.reshape(len(levels), -1)
    report = compare("torch", "graph", stages["torch"], stages["graph"])
    if not report.mismatches:
        return [report]
    samples = np.flatnonzero((stages["torch"] != stages["graph"]).any(axis=1))
    tied = [
        s for s in samples if reachable_by_ties(lowered, {e: v[s : s + 1] for e, v in ints.items()}, levels[s : s + 1])
    ]
    left = np.setdiff1d(samples, tied)
    kept = np.delete(np.arange(len(levels)), tied)
    rest = compare("torch", "graph", stages["torch"][kept], stages["graph"][kept]) if len(kept) else report
    first = dataclasses.replace(rest.first, sample=int(left[0])) if len(left) else None
    return [dataclasses.replace(report, mismatches=len(left), float_ties=len(tied), first=first)]


def integers_of(values: np.ndarray, scale: np.ndarray, zero: np.ndarray, apart: float = 0.25) -> np.ndarray | None:
    """round(values/scale + zero) where every value is within `apart` steps of an integer, else None.

    A dequantised level s*(q - z) carries two float32 roundings, so a quarter of a step separates levels from noise. A sum of
    many terms may err by more; it is read to the nearest integer (0.5), and the caller asks what float32 explains.
    """
    y = np.asarray(values, np.float64) / scale + zero
    if not np.isfinite(y).all():
        return None
    levels = np.rint(y)
    return levels.astype(np.int64) if np.abs(y - levels).max(initial=0) <= apart else None


def _against_build(
    graph: Graph, simulate, candidate: str, build: Path, ints, expected, stages, tell: Tell, proved: str | None = None
) -> VerificationReport:
    """What `simulate` makes of all vectors against the graph; on a difference, layer by layer until the first that differs."""
    x, name = next(iter(ints.values())), in_words(candidate)
    got = simulate(build, x, (), lambda done, total, text="": tell(done, total, f"{name} {text}".strip()))
    stages[candidate] = _joined(graph, got)
    report = compare(
        "graph", candidate, _joined(graph, expected), stages[candidate], layer=graph.outputs[0], proved=proved
    )
    if not report.mismatches:
        return report
    tell(0, 0, f"{name} differs: looking for the first layer")
    until = x[: report.first.sample + 1]  # random stalls come again only with all that went before
    return dataclasses.replace(report, first=_first_layer(graph, simulate, build, until, report.first))


def _against_others(
    graph: Graph, module, build: Path, ints, expected: np.ndarray, tell: Tell
) -> list[tuple[VerificationReport, bool]]:
    """Other kernels on the same file, each with whether it must be equal, on `BESIDE` vectors at most."""
    reports = []
    for name, (run, proved, claimed) in (module.beside(build) if hasattr(module, "beside") else {}).items():
        x = next(iter(ints.values()))[:BESIDE]
        got = _joined(graph, run(x, lambda done, total, text="": tell(done, total, f"{name} {text}".strip())))
        reports.append((compare("graph", name, expected[:BESIDE], got, layer=graph.outputs[0], proved=proved), claimed))
    return reports


def _against_floats(
    lowered: Lowered, module, candidate: str, build: Path, ints, integers: np.ndarray, tell: Tell
) -> list[VerificationReport]:
    """The float outputs that the built thing computes itself, against the host's from the integers that it gave."""
    from greenedge.lower.float_io import run_epilogue

    if not hasattr(module, "floats"):
        return []
    given = module.floats(
        build,
        next(iter(ints.values())),
        lambda done, total, text="": tell(done, total, f"{candidate} floats {text}".strip()),
    )
    if not given:
        return []
    expected = run_epilogue(lowered, _parted(lowered.graph, integers))
    return [
        compare_floats("epilogue", f"{candidate} {name}", expected[name], values, within, layer=name)
        for name, (values, within) in given.items()
    ]


def _parted(graph: Graph, joined: np.ndarray) -> dict[str, np.ndarray]:
    """What `_joined` put side by side, edge by edge."""
    sizes = [int(np.prod(graph.edges[edge].shape)) for edge in graph.outputs]
    parts = np.split(joined, np.cumsum(sizes)[:-1], axis=1)
    return {edge: part.reshape(len(joined), *graph.edges[edge].shape) for edge, part in zip(graph.outputs, parts)}


def _against_board(graph: Graph, build: Path, x: np.ndarray, expected, stages, tell: Tell) -> list[VerificationReport]:
    """The virtual board, every byte through its pins, against the graph: as many samples as are simulated in reasonable time.

    None for a board that is not reached by UART; the RTL within has been compared anyway.
    """
    from greenedge.boards.board_runner import infer_on_board, samples_within
    from greenedge.boards.virtual import read_board

    board = read_board(build)
    if board["link"] != "uart":
        return []
    count = samples_within(board, len(x), _BOARD_CYCLES)
    outputs, _ = infer_on_board(
        build, x[:count], tell=lambda done, total, text: tell(done, total, f"virtual board {text}".strip())
    )
    stages["board"] = next(iter(outputs.values())).reshape(count, -1)  # a board calls its output after the stream
    return [compare("graph", "board", _joined(graph, expected)[:count], stages["board"], layer=graph.outputs[0])]


def _against_sampled(graph: Graph, module, build: Path, ints, stages, tell: Tell) -> list[VerificationReport]:
    """The back end's further stages against the graph on the first `SAMPLED` vectors."""
    reports = []
    for name, run in (module.sampled(build) if hasattr(module, "sampled") else {}).items():
        x = next(iter(ints.values()))[:SAMPLED]
        got = run(build, x, lambda done, total, text="": tell(done, total, f"{name} {text}".strip()))
        stages[name] = _joined(graph, got)
        reports.append(compare("graph", name, stages["graph"][:SAMPLED], stages[name], layer=graph.outputs[0]))
    return reports


def _first_layer(graph: Graph, simulate, build: Path, x: np.ndarray, first: First) -> First:
    """The first layer that differs on the last of the samples `x`, which is the one that `first` is about."""
    names = [op.output for op in graph.ops if op.inputs]
    expected = run_graph(graph, x[-1:], keep=names)
    got = {name: np.asarray(values)[-1:] for name, values in simulate(build, x, names, lambda *_: None).items()}
    for name in names:
        if name in got and not np.array_equal(expected[name], got[name]):
            found = first_difference(name, expected[name], got[name])
            return dataclasses.replace(found, sample=first.sample)
    return first


def _accuracies(lowered: Lowered, vectors: Vectors, stages) -> dict[str, float]:
    """Share of samples whose class is the labelled one, per stage, through the common epilogue."""
    from greenedge.lower.float_io import classes, run_epilogue

    if vectors.labels is None or len(lowered.graph.outputs) != 1:
        return {}
    edge = lowered.graph.outputs[0]
    shape = lowered.graph.edges[edge].shape
    result = {}
    for stage, values in stages.items():
        found = classes(next(iter(run_epilogue(lowered, {edge: values.reshape(-1, *shape)}).values())))
        if found is not None and vectors.labels.shape == found.shape:
            result[stage] = float((found == vectors.labels).mean())
    return result


_ORDER = ("torch", "qonnx", "graph")


def _write(folder: Path, reports, told, stages, accuracy, graph: Graph, unverified: str | None = None) -> None:
    order = sorted(stages, key=lambda stage: _ORDER.index(stage) if stage in _ORDER else len(_ORDER))
    for stage in order:
        with atomic_write(folder / f"{stage}.npy") as path, open(path, "wb") as file:
            np.save(file, stages[stage])
    entries = [dataclasses.asdict(report) for report in reports]
    content = {
        "format": "greenedge-verify/1",
        "model": graph.name,
        "stages": order,
        "verify": entries,
        "beside": [dataclasses.asdict(report) for report in told],
        "accuracy": {stage: accuracy[stage] for stage in order if stage in accuracy},
        **({"unverified": unverified} if unverified else {}),
    }
    with atomic_write(folder / "verify.json") as path:
        path.write_text(json.dumps(content, indent=1) + "\n")
