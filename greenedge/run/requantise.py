"""`greenedge requantise`: a model with the quantisers that it lacks, and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greenedge.errors import UnsupportedError
from greenedge.frontends.import_onnx import ModelFile
from greenedge.frontends.samples import Samples, count_samples, read_samples
from greenedge.graph import run_graph
from greenedge.lower import Lowered, lower_file
from greenedge.lower.float_io import classes, run_epilogue, run_prologue
from greenedge.lower.output_quantiser import quantise_outputs


def requantise_model(
    model: Path,
    out: Path,
    inputs: Path,
    bits: int,
    power_of_two: bool,
    keep_outputs: bool,
    declared: Mapping[str, str],
) -> dict[str, Any]:
    """Writes the model with the quantisers that it lacks; returns them, and of how many samples the class is another
    one than the model's own, where that lowers."""
    types = ModelFile(model, declared=declared).input_types()
    added = quantise_outputs(
        model, out, lambda lowered: read_samples(inputs, lowered.inputs), bits, power_of_two, types, keep_outputs
    )
    after = lower_file(out, types)
    x = read_samples(inputs, after.inputs)
    try:
        others = _count_other_classes(lower_file(model, types), after, x)
    except UnsupportedError:
        others = None
    return {
        "model": str(out),
        "samples": count_samples(x),
        "quantisers": [dataclasses.asdict(one) for one in added],
        "other_classes": others,
    }


def _count_other_classes(before: Lowered, after: Lowered, x: Samples) -> int | None:
    """Samples whose class by the first output is another one; None where that is no class."""
    found = [classes(next(iter(run_epilogue(one, _run(one, x)).values()))) for one in (before, after)]
    return None if found[0] is None or found[1] is None else int((found[0] != found[1]).sum())


def _run(lowered: Lowered, x: Samples) -> dict[str, Any]:
    return dict(run_graph(lowered.graph, run_prologue(lowered, x)))
