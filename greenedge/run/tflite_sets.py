"""How far apart LiteRT's two kernel sets are on a .tflite: the same samples through the integer graph of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from greenedge.errors import UnsupportedError
from greenedge.frontends.import_onnx import ModelFile, load_samples
from greenedge.frontends.source import read_model
from greenedge.frontends.tflite.kernels import KERNELS
from greenedge.graph import run_graph
from greenedge.graph.joined_outputs import join_outputs
from greenedge.graph.ops.base import Ints
from greenedge.lower import lower_source
from greenedge.lower.float_io import run_prologue

_MOST = 64  # samples that are taken


@dataclass(frozen=True)
class Distance:
    """Both sets on the same samples: of `integers` in all outputs `differing` are unequal, by `largest` levels at
    most, and `classes` samples of `samples` have their largest output elsewhere."""

    samples: int
    drawn: bool
    integers: int
    differing: int
    largest: int
    classes: int

    @property
    def text(self) -> str:
        what = f"{self.samples} {'random inputs' if self.drawn else 'samples'}"
        if not self.differing:
            return f"on {what} XNNPACK and LiteRT's reference kernels give the same {self.integers:,} integers"
        return (
            f"on {what} XNNPACK and LiteRT's reference kernels differ in {self.differing:,} of {self.integers:,} "
            f"integers at the outputs, by {self.largest} level{'s' * (self.largest > 1)} at most; which of them is the "
            f"largest differs on {self.classes}"
        )


def measure_distance(model: ModelFile) -> Distance | str:
    """The distance, or in words why the other set does not take the file. Raises GreenedgeError for samples that are
    none of the model's."""
    outputs: list[Ints] = []
    for kernels in KERNELS:
        try:
            source = read_model(model.path, kernels)
            lowered = lower_source(source, model.input_types())
        except UnsupportedError as refusal:
            return f"the arithmetic {kernels} does not take the file ({refusal.reasons[0]})"
        samples = {name: values[:_MOST] for name, values in load_samples(model, source).items()}
        outputs.append(join_outputs(lowered.graph, run_graph(lowered.graph, run_prologue(lowered, samples))))
    gap = np.abs(outputs[0] - outputs[1])
    classes = int((outputs[0].argmax(axis=1) != outputs[1].argmax(axis=1)).sum())
    return Distance(len(gap), model.samples is None, gap.size, int((gap > 0).sum()), int(gap.max(initial=0)), classes)
