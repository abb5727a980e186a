"""`greenedge quantise`: a float model as a quantised one that lowers, and what that costs on samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import GreenedgeError
from greenedge.files.arrays import read_array
from greenedge.files.atomic_write import atomic_write
from greenedge.frontends.post_training import read_float_model, run_float
from greenedge.frontends.quantise_float import DEFAULT_OPTIONS, QuantiseOptions, quantise_float
from greenedge.frontends.samples import Samples, count_samples, list_inputs, read_samples
from greenedge.graph import run_graph
from greenedge.lower import Lowered, lower_file
from greenedge.lower.float_io import classes, run_epilogue, run_prologue
from greenedge.progress import ProgressFn

MOST_SAMPLES = 1000  # that ranges are taken from
MOST_COMPARED = 4000
LEAST_SPLIT = 200  # samples from which half are held back for the comparison; fewer serve for both
_Z = 1.959964  # of a 95 % interval


def quantise_model(
    model: Path,
    out: Path,
    calibrate: Path,
    labels: Path | None,
    progress: ProgressFn,
    options: QuantiseOptions = DEFAULT_OPTIONS,
) -> dict[str, Any]:
    """Writes the quantised model to `out`; returns what was done (quantise_float), how often its integers give the
    float model's class, and both accuracies with the points lost where there are labels.

    From 200 samples on at most half are calibrated on and the others are compared ("held_back"); fewer serve for both.
    Raises GreenedgeError for a model that is quantised already and for samples that are none of its own,
    UnsupportedError where what came of it cannot become an integer graph; nothing is written then.
    """
    source = read_float_model(model)
    samples = read_samples(calibrate, list_inputs(source, {}))
    truth = None if labels is None else _read_labels(labels, samples)
    seen, unseen = split_samples(count_samples(samples))
    with atomic_write(out) as path:
        facts = quantise_float(model, _take(samples, seen), path, options, progress)
        lowered = lower_file(path)
        return {
            "model": str(out),
            "layers": len(lowered.graph.linears),
            "samples": len(unseen),
            "calibrated": len(seen),
            "held_back": not np.intersect1d(seen, unseen).size,
            **facts,
            **_compare(model, lowered, _take(samples, unseen), None if truth is None else truth[unseen]),
        }


def split_samples(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(indices to calibrate on, indices to compare), drawn at random by a fixed seed: data may come class by class."""
    order = np.random.default_rng(0).permutation(count)
    if count < LEAST_SPLIT:
        return np.arange(count), np.arange(count)
    cut = min(MOST_SAMPLES, count // 2)
    return np.sort(order[:cut]), np.sort(order[cut : cut + MOST_COMPARED])


def paired_loss(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> dict[str, float]:
    """Percentage points lost between two answers to the same questions, with the 95 % interval for paired proportions
    of Agresti and Min (2005): half an observation is added to each of the four cells."""
    lost, won, count = int((before & ~after).sum()), int((after & ~before).sum()), len(before)
    centre = (lost - won) / (count + 2)
    half = _Z * math.sqrt(lost + won + 1 - (lost - won) ** 2 / (count + 2)) / (count + 2)
    return {"points": 100 * (lost - won) / count, "low": 100 * (centre - half), "high": 100 * (centre + half)}


def _take(samples: Samples, indices: NDArray[np.int64]) -> Samples:
    return {name: x[indices] for name, x in samples.items()}


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
            found["lost"] = paired_loss(theirs == truth, ours == truth)
    return found
