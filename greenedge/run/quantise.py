"""`greenedge quantise`: a float model as one of 8 bits that lowers, and what that costs on the samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import GreenedgeError
from greenedge.files.arrays import read_array
from greenedge.files.atomic_write import atomic_write
from greenedge.frontends.post_training import quantise_file, read_float_model, run_float
from greenedge.frontends.samples import Samples, count_samples, list_inputs, read_samples
from greenedge.graph import run_graph
from greenedge.lower import Lowered, lower_file
from greenedge.lower.float_io import classes, run_epilogue, run_prologue
from greenedge.progress import ProgressFn

MOST_SAMPLES = 1000  # that ranges are taken from, and that are compared


def quantise_model(
    model: Path, out: Path, calibrate: Path, labels: Path | None, progress: ProgressFn
) -> dict[str, Any]:
    """Writes the quantised model to `out`; returns how often its integers give the float model's class, and both
    accuracies where there are labels.

    Raises GreenedgeError for a model that is quantised already and for samples that are none of its own,
    UnsupportedError where what came of it cannot become an integer graph; nothing is written then.
    """
    source = read_float_model(model)
    samples = {name: x[:MOST_SAMPLES] for name, x in read_samples(calibrate, list_inputs(source, {})).items()}
    truth = None if labels is None else _read_labels(labels, samples)
    with atomic_write(out) as path:
        quantise_file(model, samples, path, progress)
        lowered = lower_file(path)
        return {
            "model": str(out),
            "layers": len(lowered.graph.linears),
            "samples": count_samples(samples),
            **_compare(model, lowered, samples, truth),
        }


def _read_labels(path: Path, samples: Samples) -> NDArray[Any]:
    labels = read_array(path)
    if labels.dtype.kind not in "iu" or labels.size < count_samples(samples):
        raise GreenedgeError(
            f"{path} has {labels.size} labels of type {labels.dtype} for {count_samples(samples)} samples; give one "
            "whole number for each."
        )
    return labels.reshape(-1)[: count_samples(samples)]


def _compare(model: Path, lowered: Lowered, samples: Samples, truth: NDArray[Any] | None) -> dict[str, Any]:
    floats = run_float(model, samples)[0]
    integers = next(iter(run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, samples))).values()))
    theirs, ours = classes(floats), classes(integers)
    span = float(np.ptp(floats))
    found: dict[str, Any] = {"largest_error": float(np.abs(floats - integers).max() / span) if span else None}
    if theirs is not None and ours is not None:
        found["same_class"] = int((theirs == ours).sum())
        if truth is not None:
            found["float_correct"], found["correct"] = int((theirs == truth).sum()), int((ours == truth).sum())
    return found
