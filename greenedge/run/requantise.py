"""`greenedge requantise`: a model with output quantisers, and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greenedge.frontends.import_onnx import ModelFile
from greenedge.frontends.samples import Samples, count_samples, read_samples
from greenedge.graph import run_graph
from greenedge.lower import Lowered, lower_file
from greenedge.lower.float_io import classes, run_epilogue, run_prologue
from greenedge.lower.output_quantiser import quantise_outputs


def requantise_model(
    model: Path, out: Path, inputs: Path, bits: int, power_of_two: bool, declared: Mapping[str, str]
) -> dict[str, Any]:
    """Writes the model with output quantisers; returns them, and of how many samples the class is another one."""
    types = ModelFile(model, declared=declared).input_types()
    before = lower_file(model, types)
    x = read_samples(inputs, before.inputs)
    added = quantise_outputs(model, out, lambda lowered: x, bits, power_of_two, types)
    return {
        "model": str(out),
        "samples": count_samples(x),
        "outputs": [dataclasses.asdict(one) for one in added],
        "other_classes": _count_other_classes(before, lower_file(out, types), x),
    }


def _count_other_classes(before: Lowered, after: Lowered, x: Samples) -> int | None:
    """Samples whose class by the first output is another one; None where that is no class."""
    found = [classes(next(iter(run_epilogue(one, _run(one, x)).values()))) for one in (before, after)]
    return None if found[0] is None or found[1] is None else int((found[0] != found[1]).sum())


def _run(lowered: Lowered, x: Samples) -> dict[str, Any]:
    return dict(run_graph(lowered.graph, run_prologue(lowered, x)))
