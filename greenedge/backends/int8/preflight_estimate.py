"""What a build would prove, estimated from a sample of the channels of every layer: quick enough for a preflight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.backends.int8.layers import FittedLayer, fit_layer
from greenedge.backends.int8.quant_params import LEVELS, encode
from greenedge.graph import Edge, Graph, Linear, Op, Requantise
from greenedge.graph.lines import is_straight
from greenedge.graph.ops.base import Ints
from greenedge.lower.snap import can_snap

CHANNELS = 32  # tried in all, shared out among the layers
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
    share = max(2, CHANNELS // max(1, len(graph.linears)))
    for step in graph.requantisers:
        layer = graph.producer(step.inputs[0])
        if not isinstance(layer, Linear) or step.steps is None or not is_straight(step):
            continue
        source = graph.edges[layer.inputs[0]]
        if source.hi - source.lo > LEVELS:
            continue
        chosen = _fit_sample(step, layer, share, operators[type(layer)], source, graph.edges[step.output].zero)
        verdict = next(iter(chosen.layer.solution.verdicts.values()))
        tried += len(verdict.differing)
        differing += int((verdict.differing > 0).sum())
        accumulators += int(chosen.layer.accumulators.sum())
        wrong += int(verdict.differing.sum())
        largest = max(largest, int(verdict.largest.max(initial=0)))
    return Estimate(tried, differing, accumulators, wrong, largest)


def _fit_sample(step: Requantise, layer: Linear, channels: int, operator: str, source: Edge, zero: int) -> FittedLayer:
    """The layer of as many channels, evenly spaced."""
    weight = _weights_by_channel(layer)
    rows = np.unique(np.linspace(0, len(weight) - 1, channels).astype(int))
    some = step.select_channels(rows)
    stored = encode(source.lo, source.hi, min(max(source.zero, source.lo), source.hi))
    code = encode(step.lo, step.hi, min(max(zero, step.lo), step.hi))
    return fit_layer(operator, layer.name, some, weight[rows], stored, code, first_set_alone=True)


def _weights_by_channel(layer: Linear) -> Ints:
    """(C, fan-in) weights. In groups of a transposed convolution, whose inputs come first, a row has a part of each."""
    kept = [axis for axis in range(layer.weight.ndim) if axis not in layer.summed_axes]
    rows = layer.weight.transpose(*kept, *layer.summed_axes)
    parts = rows.reshape(len(rows), layer.channels // len(rows), -1)
    return parts.swapaxes(0, 1).reshape(layer.channels, -1)


def describe_differences(source: Path, graph: Graph, operators: Operators) -> tuple[str, ...]:
    """What an 8-bit file of the legalised graph would not hold exactly; () where it holds all of what was tried."""
    found = estimate(graph, operators)
    if not found.differing_channels:
        return ()
    levels = "one level" if found.largest_difference == 1 else f"up to {found.largest_difference} levels"
    cure = "Fewer activation bits would make them fewer."
    if can_snap(source):
        command = f"greenedge snap {source} -o SNAPPED.onnx --bits {_SNAP_BITS}"
        cure = f"`{command}` may make them fewer, and says what it changes."
    return (
        f"{found.differing_channels} of {found.channels} channels tried give another level at {found.share:.1e} of "
        f"their accumulators, by {levels}: an 8-bit file holds whole biases and float32 scales only, so verify may end "
        f"within its certificate instead of exact. {cure}",
    )
