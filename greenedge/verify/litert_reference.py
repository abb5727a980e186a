"""LiteRT on the file that a run was made from: the reference of a .tflite, in the kernel set that it was read with.

The integers before what the host computes (a softmax, a scale) are compared with ==; the model of such a run is our own
form of that file, so no other execution of it would say more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from greenedge.backends.int8.tflite.runtime import run_file
from greenedge.errors import GreenedgeError, ToolError, VerificationError
from greenedge.frontends.samples import Samples
from greenedge.frontends.tflite.file import File, Tensor, read_file
from greenedge.frontends.tflite.network import INT8, METADATA, OFFSETS, REAL
from greenedge.graph.joined_outputs import join_outputs
from greenedge.graph.ops.base import Array, Ints
from greenedge.lower import Lowered
from greenedge.progress import ProgressFn
from greenedge.run.folder import RunFolder
from greenedge.verify.compare import VerificationReport, compare
from greenedge.verify.float_references import Stages, count_proved

if TYPE_CHECKING:
    from onnx import ModelProto

STAGES = {"xnnpack": "litert", "reference": "litert-reference"}  # kernel set → the reference's name in a report
WORDS = {"xnnpack": "XNNPACK", "reference": "LiteRT's reference kernels"}


@dataclass(frozen=True)
class Origin:
    """Where a model in normal form came from: the arithmetic it was read in, and which tensor of the file holds the
    integers of which tensor here."""

    arithmetic: str
    tensors: Mapping[str, int]


def read_origin(model: ModelProto) -> Origin | None:
    """What a model says of the .tflite that it was read from; None for one that came from none.

    Raises GreenedgeError where that is damaged.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA), None)
    if text is None:
        return None
    try:
        facts = json.loads(text)
        origin = Origin(facts["arithmetic"], {str(name): int(number) for name, number in facts["tensors"].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        origin = None
    if origin is None or origin.arithmetic not in (*STAGES, REAL):
        raise GreenedgeError("the model does not say how its .tflite was read; run the export stage again.")
    return origin


def find_origin(run: RunFolder) -> Origin | None:
    """As `read_origin`, of a run's exported model; None where the run keeps no .tflite, or one that was read for its
    real arithmetic, which no runtime of it computes: its form in quantisers is an ONNX model like any other."""
    if not run.original.is_file():
        return None
    import onnx

    origin = read_origin(onnx.load(run.model, load_external_data=False))
    return None if origin is not None and origin.arithmetic == REAL else origin


def compare_with_litert(
    lowered: Lowered,
    origin: Origin,
    original: Path,
    samples: Samples,
    expected: Mapping[str, Ints],
    stages: Stages,
    progress: ProgressFn,
) -> VerificationReport:
    """The graph's outputs `expected` against LiteRT on the file `original`; `stages` gets LiteRT's integers.

    `samples` are the model's inputs by name, as the file takes them. Raises VerificationError where the model is not
    the file's.
    """
    file, stage = read_file(original), STAGES[origin.arithmetic]
    numbers = {output.edge: origin.tensors.get(output.tensor, -1) for output in lowered.outputs}
    theirs = run_litert(file, original, samples, list(numbers.values()), origin.arithmetic, progress)
    shapes = {edge: lowered.graph.edges[edge].shape for edge in numbers}
    zeros = {output.edge: np.ravel(output.zero)[0] for output in lowered.outputs}
    integers: dict[str, Ints] = {}
    for edge, number in numbers.items():
        values = theirs.get(number)
        if values is None or values.dtype.kind not in "iu" or values[0].size != int(np.prod(shapes[edge])):
            raise VerificationError(
                f"{original} has no tensor that holds the integers of {edge!r}; run the export stage again."
            )
        # Of uint8 the graph may hold what the file stores, or the same levels 128 lower: its zero point says which.
        offset = int(file.tensors[number].zeros[0]) - int(zeros[edge]) if values.dtype == np.uint8 else 0
        integers[edge] = values.reshape(-1, *shapes[edge]).astype(np.int64) - offset
    stages[stage] = join_outputs(lowered.graph, integers)
    count, accumulators = count_proved(lowered.graph)
    words = WORDS[origin.arithmetic]
    proved = f"{count} requantisers hold the arithmetic of {words} on all {accumulators:,} reachable accumulators"
    return compare(stage, "graph", stages[stage], join_outputs(lowered.graph, expected), proved=proved)


def run_litert(
    file: File, original: Path, samples: Samples, keep: list[int], kernels: str, progress: ProgressFn
) -> dict[int, Array]:
    """{tensor: stored values} of some tensors of a file, for samples by input in the file's order."""
    arrays = [
        _store(file, file.tensors[number], values) for number, values in zip(file.inputs, samples.values(), strict=True)
    ]
    try:
        return run_file(original, arrays, keep, kernels, progress)
    except ToolError:
        raise
    except GreenedgeError as error:
        reason = str(error).rpartition(";")[0] or str(error)
        raise GreenedgeError(f"{reason}; LiteRT does not take the original file: convert it again.") from None


def _store(file: File, tensor: Tensor, values: Array) -> Array:
    """Samples as an input takes them. A float input gets the real numbers of the levels that the host makes of them,
    so that no runtime's own rounding of a sample in the middle between two levels takes part."""
    kind = {"INT8": np.int8, "UINT8": np.uint8}.get(tensor.kind)
    if kind is not None:
        return values.astype(kind)
    reader = next((op for op in file.operators if tensor.number in op.inputs), None)
    if reader is None:  # nothing depends on it
        return values.astype(np.float32)
    out = file.tensors[reader.outputs[0]]
    scale, zero = np.float32(out.scales[0]), np.float32(out.zeros[0])
    low, high = (end + OFFSETS.get(out.kind, 0) for end in INT8)
    levels = np.clip(np.rint(values.astype(np.float32) / scale) + zero, low, high)
    real: Array = ((levels - zero) * scale).astype(np.float32)
    return real
