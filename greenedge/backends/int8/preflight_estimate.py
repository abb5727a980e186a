"""What a build would prove, estimated from a sample of the channels of every layer: quick enough for a preflight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.backends.int8.layers import FittedLayer, fit_layer
from greenedge.backends.int8.quant_params import LEVELS, encode
from greenedge.files.scratch import scratch_folder
from greenedge.frontends.input_type import InputType
from greenedge.graph import Edge, Graph, Linear, Op, Requantise
from greenedge.graph.lines import is_straight
from greenedge.graph.ops.base import Ints
from greenedge.legalise import Passes, legalise
from greenedge.lower import Lowered

CHANNELS = 16  # tried in each layer, evenly spaced
_SNAP_BITS = 16  # of the multipliers that a note speaks of

Operators = Mapping[type[Op], str]  # the runtime's operator (arithmetic.py) for each kind of layer


@dataclass(frozen=True)
class Estimate:
    """Of the `channels` tried, how many differ somewhere on the first kernel set; at how many of their accumulators."""

    channels: int
    differing_channels: int
    accumulators: int
    differing_accumulators: int
    largest_difference: int

    @property
    def share(self) -> float:
        """Differing accumulators over reachable ones."""
        return self.differing_accumulators / self.accumulators if self.accumulators else 0.0


def estimate(graph: Graph, operators: Operators) -> Estimate:
    """For a legalised graph that can be built."""
    tried = differing = accumulators = wrong = largest = 0
    for step in graph.requantisers:
        layer = graph.producer(step.inputs[0])
        if not isinstance(layer, Linear) or step.steps is None or not is_straight(step):
            continue
        source = graph.edges[layer.inputs[0]]
        if source.hi - source.lo > LEVELS:
            continue
        chosen = _fit_sample(step, layer, operators[type(layer)], source, graph.edges[step.output].zero)
        verdict = next(iter(chosen.layer.solution.verdicts.values()))
        tried += len(verdict.differing)
        differing += int((verdict.differing > 0).sum())
        accumulators += int(chosen.layer.accumulators.sum())
        wrong += int(verdict.differing.sum())
        largest = max(largest, int(verdict.largest.max(initial=0)))
    return Estimate(tried, differing, accumulators, wrong, largest)


def _fit_sample(step: Requantise, layer: Linear, operator: str, source: Edge, zero: int) -> FittedLayer:
    weight = _weights_by_channel(layer)
    rows = np.unique(np.linspace(0, len(weight) - 1, CHANNELS).astype(int))
    some = step.select_channels(rows)
    stored = encode(source.lo, source.hi, min(max(source.zero, source.lo), source.hi))
    code = encode(step.lo, step.hi, min(max(zero, step.lo), step.hi))
    return fit_layer(operator, layer.name, some, weight[rows], stored, code)


def _weights_by_channel(layer: Linear) -> Ints:
    """(C, fan-in) weights. In groups of a transposed convolution, whose inputs come first, a row has a part of each."""
    kept = [axis for axis in range(layer.weight.ndim) if axis not in layer.summed_axes]
    rows = layer.weight.transpose(*kept, *layer.summed_axes)
    parts = rows.reshape(len(rows), layer.channels // len(rows), -1)
    return parts.swapaxes(0, 1).reshape(layer.channels, -1)


def describe_differences(source: Path, lowered: Lowered, passes: Passes, operators: Operators) -> tuple[str, ...]:
    """What an 8-bit file of the legalised model would not hold exactly, and what `snap` would give; () where it holds
    all."""
    now = estimate(lowered.graph, operators)
    if not now.differing_channels:
        return ()
    from greenedge.lower import lower_file
    from greenedge.lower.snap import snap_file

    declared: dict[str | None, InputType] = dict(lowered.declared.items())
    with scratch_folder("check") as folder:
        snapped = Path(folder) / "snapped.onnx"
        entries = snap_file(source, snapped, _SNAP_BITS, declared)
        after = estimate(legalise(lower_file(snapped, declared), passes).graph, operators)
    changed, total = sum(entry.changed for entry in entries), sum(entry.accumulators for entry in entries)
    levels = "one level" if now.largest_difference == 1 else f"up to {now.largest_difference} levels"
    differing = (
        f"{now.differing_channels} of {now.channels} channels tried give another level at {now.share:.1e} of their "
        f"accumulators, by {levels}: an 8-bit file holds whole biases and float32 scales only, so verify may stop at a "
        "differing sample."
    )
    if after.share >= now.share:
        return (f"{differing} `greenedge snap` would not make them fewer; fewer activation bits would.",)
    return (
        f"{differing} `greenedge snap {source} -o SNAPPED.onnx --bits "
        f"{_SNAP_BITS}` would change {changed / total:.1e} of the model's own accumulators, after which "
        f"{after.differing_channels} of {after.channels} differ, at {after.share:.1e}.",
    )
