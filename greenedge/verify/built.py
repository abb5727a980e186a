"""The integer graph against what was built: simulated, with random stalls, on other runtimes, on the virtual board."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from greenedge.backends.interface import Backend, Feeds, SimulateFn, Values
from greenedge.graph import Graph, run_graph
from greenedge.graph.joined_inputs import join_inputs
from greenedge.graph.joined_outputs import join_outputs, split_outputs
from greenedge.graph.ops.base import Ints
from greenedge.lower import Lowered
from greenedge.progress import ProgressFn, no_progress
from greenedge.verify.compare import (
    FAULTS,
    FirstMismatch,
    VerificationReport,
    compare,
    compare_floats,
    first_difference,
    name_candidate,
)
from greenedge.verify.fault_vectors import FaultVectors, choose_vectors
from greenedge.verify.float_references import Stages

ALTERNATE_SAMPLES = 512  # vectors at most for other kernels of the same file, which may be slow
PARTIAL_SAMPLES = 24  # vectors for stages that are slow to simulate, such as a netlist
_BOARD_CYCLES = 60_000_000  # of the virtual board in one verification: well below a minute


def compare_build(
    graph: Graph,
    simulate: SimulateFn,
    candidate: str,
    build: Path,
    x: Feeds,
    expected: Mapping[str, Ints],
    stages: Stages,
    progress: ProgressFn,
    proof: str | None = None,
) -> VerificationReport:
    """What `simulate` makes of all vectors against the graph; on a difference, layer by layer until the first that
    differs."""
    name = name_candidate(candidate)
    stages[candidate] = join_outputs(graph, simulate(build, x, (), _prefix_progress(progress, name)))
    report = compare(
        "graph", candidate, join_outputs(graph, expected), stages[candidate], layer=graph.outputs[0], proved=proof
    )
    if report.first is None:
        return report
    progress(0, 0, f"{name} differs: looking for the first layer")
    until = _take(x, slice(report.first.sample + 1))  # random stalls come again only with all that went before
    return dataclasses.replace(report, first=_first_layer(graph, simulate, build, until, report.first))


def _take(x: Feeds, part: slice) -> Feeds:
    """These samples of every input."""
    return {edge: values[part] for edge, values in x.items()} if isinstance(x, Mapping) else x[part]


def _prefix_progress(progress: ProgressFn, name: str) -> ProgressFn:
    def report_progress(done: int, total: int, text: str = "") -> None:
        progress(done, total, f"{name} {text}".strip())

    return report_progress


def _first_layer(graph: Graph, simulate: SimulateFn, build: Path, x: Feeds, first: FirstMismatch) -> FirstMismatch:
    """The first layer that differs on the last of the samples `x`, which is the one that `first` is about."""
    names = [op.output for op in graph.layers]
    expected = run_graph(graph, _take(x, slice(-1, None)), keep=names)
    got = {name: np.asarray(values)[-1:] for name, values in simulate(build, x, names, no_progress).items()}
    for name in names:
        if name in got and not np.array_equal(expected[name], got[name]):
            return dataclasses.replace(first_difference(name, expected[name], got[name]), sample=first.sample)
    return first


def compare_alternates(
    graph: Graph, backend: Backend, build: Path, x: Feeds, expected: Ints, progress: ProgressFn
) -> list[tuple[VerificationReport, bool]]:
    """Other runtimes on the same file, each with whether it must be equal, on `ALTERNATE_SAMPLES` vectors at most."""
    reports = []
    for name, alternate in backend.alternate_runtimes(build).items():
        got = join_outputs(graph, alternate.run(_take(x, slice(ALTERNATE_SAMPLES)), _prefix_progress(progress, name)))
        report = compare(
            "graph", name, expected[:ALTERNATE_SAMPLES], got, layer=graph.outputs[0], proved=alternate.proof
        )
        reports.append((report, alternate.must_be_equal))
    return reports


def compare_float_outputs(
    lowered: Lowered, backend: Backend, build: Path, x: Feeds, integers: Ints, progress: ProgressFn
) -> list[VerificationReport]:
    """The float outputs that the built thing computes itself, against the host's from the integers that it gave."""
    from greenedge.lower.float_io import run_epilogue

    own = backend.float_outputs(build, x, _prefix_progress(progress, f"{backend.stage} floats"))
    if not own:
        return []
    expected = run_epilogue(lowered, split_outputs(lowered.graph, integers))
    return [
        compare_floats("epilogue", f"{backend.stage} {name}", expected[name], values, within, layer=name)
        for name, (values, within) in own.items()
    ]


def count_board_samples(build: Path, samples: int) -> int:
    """How many of `samples` go through the virtual board; 0 for a board that is not reached by UART."""
    from greenedge.boards.board_runner import samples_within
    from greenedge.boards.virtual import read_board

    board = read_board(build)
    return samples_within(board, samples, _BOARD_CYCLES) if board["link"] == "uart" else 0


def compare_board(
    graph: Graph, build: Path, x: Feeds, expected: Mapping[str, Ints], stages: Stages, progress: ProgressFn
) -> list[VerificationReport]:
    """The virtual board, every byte through its pins, against the graph: as many samples as are simulated in
    reasonable time.

    None for a board that is not reached by UART; the RTL within has been compared anyway.
    """
    from greenedge.boards.board_runner import infer_on_board

    values = join_inputs(graph, x)
    count = count_board_samples(build, len(values))
    if not count:
        return []
    outputs, _ = infer_on_board(build, values[:count], progress=_prefix_progress(progress, "virtual board"))
    stages["board"] = next(iter(outputs.values())).reshape(count, -1)  # a board calls its output after the stream
    return [compare("graph", "board", join_outputs(graph, expected)[:count], stages["board"], layer=graph.outputs[0])]


def compare_partial(
    graph: Graph,
    backend: Backend,
    build: Path,
    x: Feeds,
    stages: Stages,
    progress: ProgressFn,
    faults: FaultVectors | None = None,
) -> list[VerificationReport]:
    """The back end's further stages against the graph: on the first `PARTIAL_SAMPLES` samples, of which `stages` gets
    the integers, and on as many vectors that see faults as the back end has time for."""
    reports = []
    samples = _take(x, slice(PARTIAL_SAMPLES))
    for name, run in backend.partial_stages(build).items():
        more = faults.vectors[: backend.partial_vectors(build)] if faults else ()
        given = np.concatenate([samples, more]) if len(more) else samples  # faults are those of one input
        got: Values = run(build, given, _prefix_progress(progress, name))
        values = join_outputs(graph, got)
        stages[name] = values[: len(values) - len(more)]
        expected = join_outputs(graph, run_graph(graph, given))
        report = compare("graph", name, expected, values, layer=graph.outputs[0])
        reports.append(dataclasses.replace(report, coverage=faults.first(len(more)) if faults else None))
    return reports


def find_fault_vectors(
    graph: Graph, backend: Backend, build: Path, x: Feeds, progress: ProgressFn
) -> FaultVectors | None:
    """Vectors that see the faults of the build's memories that the first `PARTIAL_SAMPLES` samples do not; None where
    it has no memories of its own, or several inputs."""
    if isinstance(x, Mapping):
        return None
    model = backend.memory_faults(graph, build)
    if model is None or not model.count:
        return None
    return choose_vectors(model, graph.edges[graph.inputs[0]], x[:PARTIAL_SAMPLES], progress)


def compare_fault_vectors(
    graph: Graph, backend: Backend, build: Path, faults: FaultVectors, progress: ProgressFn
) -> VerificationReport:
    """What was built against the graph on every vector that sees faults; with the samples they have its coverage."""
    expected, name = run_graph(graph, faults.vectors), f"{backend.stage}{FAULTS}"
    report = compare_build(graph, backend.simulate, name, build, faults.vectors, expected, {}, progress)
    return dataclasses.replace(report, coverage=faults.coverage)
