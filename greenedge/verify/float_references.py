"""The integer graph against float32 executions of the model, in qonnx and in torch: a difference must be a proven
tie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import VerificationError
from greenedge.graph import Graph, Requantise
from greenedge.graph.joined_outputs import join_outputs
from greenedge.graph.ops.base import Ints
from greenedge.lower import Lowered, proof
from greenedge.lower.prologue_epilogue import is_elementwise
from greenedge.progress import ProgressFn
from greenedge.verify.compare import FirstMismatch, VerificationReport, compare, first_difference

REFERENCES = ("torch", "expected")  # whose outputs a run may hold beside the model
Stages = dict[str, Ints]  # stage -> all outputs of every sample side by side, (N, total)


def compare_with_qonnx(
    lowered: Lowered,
    model: Path,
    inputs: NDArray[Any] | Mapping[str, NDArray[Any]],
    ints: Mapping[str, Ints],
    stages: Stages,
    progress: ProgressFn,
) -> VerificationReport:
    """The graph against qonnx's float32 execution of the model's file; `stages` gets qonnx's integers."""
    from greenedge.lower.float_ties.explain import explain
    from greenedge.verify.reference import qonnx_integers

    theirs = qonnx_integers(lowered, model, inputs, progress)
    stages["qonnx"] = join_outputs(lowered.graph, theirs)
    report = compare("qonnx", "graph", stages["qonnx"], stages["graph"], proved=describe_proof(lowered.graph))
    if (first := _first_input(lowered, theirs, ints)) is not None:
        return dataclasses.replace(report, first=first, mismatches=max(report.mismatches, 1))
    if not report.mismatches:
        return report
    differences = explain(lowered.graph, lowered.trace, theirs)
    wrong = [difference for difference in differences if not difference.proven_tie]
    if not wrong and differences:
        return dataclasses.replace(report, mismatches=0, float_ties=report.mismatches, first=None)
    where = report.first
    if wrong:
        where = FirstMismatch(wrong[0].sample, wrong[0].layer, [wrong[0].expected], [wrong[0].got])
    samples = len({difference.sample for difference in wrong})
    return dataclasses.replace(report, first=where, mismatches=max(report.mismatches, samples))


def _first_input(lowered: Lowered, theirs: Mapping[str, Ints], ints: Mapping[str, Ints]) -> FirstMismatch | None:
    """The first input integer that qonnx has otherwise than the prologue.

    Element by element both compute the same float32; only where the prologue adds up many numbers may an input at a
    rounding boundary come out one level apart.
    """
    allowed = 0 if is_elementwise(lowered.prologue) else 1
    for edge in ints:
        if np.abs(theirs[edge] - ints[edge]).max(initial=0) > allowed:
            return first_difference(edge, theirs[edge], ints[edge])
    return None


def describe_proof(graph: Graph) -> str:
    """What holds for every reachable accumulator of every requantiser."""
    count, accumulators = count_proved(graph)
    with_affine = sum(1 for op in graph.requantisers if proof(op).get("proved"))
    if not count:
        return "integer arithmetic only: nothing is rounded"
    return f"{count} requantisers equal real arithmetic on all {accumulators:,} reachable accumulators" + (
        f"; affine form equal too for {with_affine}" if with_affine else ""
    )


def count_proved(graph: Graph) -> tuple[int, int]:
    """(requantisers, accumulators that they can meet): what a statement about all of them is about."""
    return len(graph.requantisers), sum(int((op.x_hi - op.x_lo + 1).sum()) for op in graph.requantisers)


def is_comparable_with_outputs(lowered: Lowered) -> bool:
    """Whether the model's float outputs can be turned back into integers."""
    return len(lowered.outputs) == 1 and lowered.outputs[0].dequantised


def compare_with_outputs(
    reference: str, lowered: Lowered, outputs: NDArray[Any], ints: Mapping[str, Ints], stages: Stages
) -> list[VerificationReport]:
    """The graph against float outputs that somebody else gave, turned back into integers where the model ends in a
    quantiser or an accumulator. Raises VerificationError for outputs that are no multiples of the scale, or of another
    shape."""
    from greenedge.lower.float_ties.outputs_only import reachable_by_ties

    if not is_comparable_with_outputs(lowered):
        return []
    output = lowered.outputs[0]
    shape = lowered.graph.edges[output.edge].shape
    if int(np.prod(outputs.shape[1:])) != int(np.prod(shape)):
        raise VerificationError(f"{reference} has outputs of shape {outputs.shape[1:]}, and the model's is {shape}.")
    outputs = outputs.reshape(len(outputs), *shape)
    is_level = isinstance(lowered.graph.producer(output.edge), Requantise)
    levels = read_levels(outputs, output.scale, output.zero, 0.25 if is_level else 0.5)
    if levels is None:
        raise VerificationError(
            f"{reference} gave outputs that are NaN or no multiples of the model's output scale; they are another "
            "model's (cure: give the outputs of this file, or export it again)."
        )
    stages[reference] = levels.reshape(len(levels), -1)
    report = compare(reference, "graph", stages[reference], stages["graph"])
    if not report.mismatches:
        return [report]
    samples = np.flatnonzero((stages[reference] != stages["graph"]).any(axis=1))
    ties = [
        s for s in samples if reachable_by_ties(lowered, {e: v[s : s + 1] for e, v in ints.items()}, levels[s : s + 1])
    ]
    wrong = np.setdiff1d(samples, ties)
    first = None
    if len(wrong):
        here = slice(wrong[0], wrong[0] + 1)
        first = first_difference("output", stages[reference][here], stages["graph"][here])
        first = dataclasses.replace(first, sample=int(wrong[0]))
    return [dataclasses.replace(report, mismatches=len(wrong), float_ties=len(ties), first=first)]


def read_levels(values: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], within: float = 0.25) -> Ints | None:
    """round(values/scale + zero) where every value is within `within` steps of an integer, else None.

    A dequantised level s*(q - z) carries two float32 roundings, so a quarter of a step separates levels from noise. A
    sum of many terms may err by more; it is read to the nearest integer (0.5), and the caller asks what float32
    explains.
    """
    y = np.asarray(values, np.float64) / scale + zero
    if not np.isfinite(y).all():
        return None
    levels = np.rint(y)
    return levels.astype(np.int64) if np.abs(y - levels).max(initial=0) <= within else None
