"""`greenedge snap`: a model with narrower requantisers, and what that cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.errors import GreenedgeError
from greenedge.files.arrays import read_array
from greenedge.frontends.import_onnx import ModelFile
from greenedge.frontends.samples import Samples, count_samples, read_samples
from greenedge.graph import run_graph
from greenedge.lower import Lowered, lower_file
from greenedge.lower.float_io import classes, run_epilogue, run_prologue
from greenedge.lower.snap import snap_file


def snap_model(
    model: Path, out: Path, bits: int, inputs: Path | None, labels: Path | None, declared: Mapping[str, str]
) -> dict[str, Any]:
    """Writes the snapped model; returns what became of every requantiser and, with labelled samples, the accuracies."""
    if (inputs is None) != (labels is None):
        raise GreenedgeError("--inputs and --labels belong together: samples and their classes.")
    types = ModelFile(model, declared=declared).input_types()
    entries = [dataclasses.asdict(entry) | {"share": entry.share} for entry in snap_file(model, out, bits, types)]
    accuracy = None
    if inputs is not None and labels is not None:
        lowered = [lower_file(path, types) for path in (model, out)]
        x, y = read_samples(inputs, lowered[0].inputs), read_array(labels)
        before, after = (measure_accuracy(one, x, y) for one in lowered)
        accuracy = {"samples": count_samples(x), "before": before, "after": after}
    return {"model": str(out), "multiplier_bits": bits, "requantisers": entries, "accuracy": accuracy}


def measure_accuracy(lowered: Lowered, x: Samples, y: np.ndarray[Any, Any]) -> float:
    """Share of samples whose class is the labelled one."""
    edges = run_graph(lowered.graph, run_prologue(lowered, x))
    output = next(iter(run_epilogue(lowered, edges).values()))
    found = classes(output)
    return float(((output.reshape(len(output), -1).argmax(axis=1) if found is None else found) == y).mean())
