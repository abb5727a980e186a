"""What a build would prove, from a sample of the channels of every layer: quick enough for a preflight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from greenedge.backends.int8.layers import scaled
from greenedge.backends.int8.legalise import is_straight, prepared
from greenedge.backends.int8.quant_params import LEVELS, encode
from greenedge.graph import Conv, ConvTranspose, Dense, Graph, Requantise

CHANNELS = 16  # tried in each layer, evenly spaced


@dataclass(frozen=True)
class Forecast:
    """Of the `channels` tried, how many differ somewhere on the first kernel set; at how many of their reachable accumulators."""

    channels: int
    differing_channels: int
    accumulators: int
    differing_accumulators: int
    largest_difference: int

    @property
    def share(self) -> float:
        """Differing accumulators over reachable ones."""
        return self.differing_accumulators / self.accumulators if self.accumulators else 0.0


def forecast(graph: Graph, dense: str, conv: str) -> Forecast:
    """For a graph that can be built; `dense` and `conv` are the runtime's operators (arithmetic.py) for its layers."""
    graph = prepared(graph)
    tried = differing = accumulators = wrong = largest = 0
    for step in graph.ops:
        layer = graph.producer(step.inputs[0]) if isinstance(step, Requantise) else None
        if not isinstance(layer, (Dense, Conv, ConvTranspose)) or step.steps is None or not is_straight(step):
            continue
        source = graph.edges[layer.inputs[0]]
        if source.hi - source.lo > LEVELS:
            continue
        chosen = _sample(step, layer, dense if isinstance(layer, Dense) else conv, source)
        verdict = next(iter(chosen.layer.solution.verdicts.values()))
        tried += len(verdict.differing)
        differing += int((verdict.differing > 0).sum())
        accumulators += int(chosen.layer.accumulators.sum())
        wrong += int(verdict.differing.sum())
        largest = max(largest, int(verdict.largest.max(initial=0)))
    return Forecast(tried, differing, accumulators, wrong, largest)


def _sample(step: Requantise, layer, operator: str, source):
    weight = _by_channel(layer)
    rows = np.unique(np.linspace(0, len(weight) - 1, CHANNELS).astype(int))
    some = step.select_channels(rows)
    return scaled(operator, layer.name, some, weight[rows], encode(source.lo, source.hi), encode(step.lo, step.hi))


def _by_channel(layer) -> np.ndarray:
    """(C, fan-in) weights."""
    if isinstance(layer, Dense):
        return layer.weight.T
    if isinstance(layer, Conv):
        return layer.weight.reshape(len(layer.weight), -1)
    split = layer.weight.reshape(layer.groups, -1, *layer.weight.shape[1:])  # (groups, I/groups, O/groups, *kernel)
    return np.moveaxis(split, 2, 1).reshape(layer.groups * layer.weight.shape[1], -1)
