"""How far apart two arithmetics of a .tflite are, of LiteRT's kernel sets or the file's real numbers: the same samples
through the integer graph of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from greenedge.backends.preflight import Lowerings
from greenedge.errors import UnsupportedError
from greenedge.frontends.import_onnx import ModelFile, load_samples
from greenedge.frontends.tflite.kernels import KERNELS
from greenedge.frontends.tflite.network import REAL
from greenedge.graph import run_graph
from greenedge.graph.joined_outputs import join_outputs
from greenedge.graph.ops.base import Ints
from greenedge.lower.float_io import run_prologue

_MOST = 64  # samples that are taken
_WORDS = {"xnnpack": "XNNPACK", "reference": "LiteRT's reference kernels", REAL: "the file's real arithmetic"}


@dataclass(frozen=True)
class Distance:
    """Two arithmetics, `names`, on the same samples: of `integers` in all outputs `differing` are unequal, by
    `largest` levels at most, and `classes` samples of `samples` have their largest output elsewhere."""

    names: tuple[str, str]
    samples: int
    drawn: bool
    integers: int
    differing: int
    largest: int
    classes: int

    @property
    def text(self) -> str:
        what = f"{self.samples} {'random inputs' if self.drawn else 'samples'}"
        both = " and ".join(_WORDS[name] for name in self.names)
        if not self.differing:
            return f"on {what} {both} give the same {self.integers:,} integers"
        return (
            f"on {what} {both} differ in {self.differing:,} of {self.integers:,} "
            f"integers at the outputs, by {self.largest} level{'s' * (self.largest > 1)} at most; which of them is the "
            f"largest differs on {self.classes}"
        )


def measure_distance(model: ModelFile, lowerings: Lowerings) -> Distance | str:
    """The distance between LiteRT's sets, or between the real arithmetic and its default set where the file is read
    in that; or in words why the other one does not take the file. Raises GreenedgeError for samples that are none of
    the model's."""
    names = (REAL, KERNELS[0]) if model.kernels == REAL else KERNELS
    outputs: list[Ints] = []
    for arithmetic in names:
        try:
            source, lowered = lowerings.get(arithmetic)
        except UnsupportedError as refusal:
            return f"the arithmetic {arithmetic} does not take the file ({refusal.reasons[0]})"
        samples = {name: values[:_MOST] for name, values in load_samples(model, source).items()}
        outputs.append(join_outputs(lowered.graph, run_graph(lowered.graph, run_prologue(lowered, samples))))
    gap = np.abs(outputs[0] - outputs[1])
    classes = int((outputs[0].argmax(axis=1) != outputs[1].argmax(axis=1)).sum())
    return Distance(
        names, len(gap), model.samples is None, gap.size, int((gap > 0).sum()), int(gap.max(initial=0)), classes
    )
