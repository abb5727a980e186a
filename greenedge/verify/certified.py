"""Differences that a build's certificate allows: which layer and channel may give another level, and by how much.

The certificate of an 8-bit file names the channels whose rounding is not the integer graph's on every accumulator.
Where the file differs from the graph, each of its layers is compared alone, on the integers that the file itself gave
to it: a difference then comes from that layer and is no echo. Every one has to be in a channel that the certificate
names, and no larger than it says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from greenedge.backends.interface import Backend, Feeds, as_feeds
from greenedge.graph import Graph
from greenedge.graph.ops.base import Ints
from greenedge.progress import no_progress
from greenedge.verify.compare import FirstMismatch, VerificationReport

_PIECE = 64  # samples whose every layer is held at once


def allow_certified(
    graph: Graph, backend: Backend, build: Path, x: Feeds, report: VerificationReport, expected: Ints, got: Ints
) -> VerificationReport:
    """The report without the samples of which the certificate allows every difference; as it is where there is one
    that it does not allow. `expected` and `got` are (N, outputs)."""
    limits = backend.list_certified_differences(build) if report.mismatches else {}
    if not limits:
        return report
    feeds = x if isinstance(x, Mapping) else {graph.inputs[0]: x}
    differing = np.flatnonzero((expected != got).any(axis=1))
    for start in range(0, len(differing), _PIECE):
        some = differing[start : start + _PIECE]
        where = _find_foreign(graph, backend, build, {edge: values[some] for edge, values in feeds.items()}, limits)
        if where is not None:
            return dataclasses.replace(report, first=dataclasses.replace(where, sample=int(some[where.sample])))
    return dataclasses.replace(report, mismatches=0, first=None, within_certificate=report.mismatches)


def _find_foreign(
    graph: Graph, backend: Backend, build: Path, x: Mapping[str, Ints], limits: Mapping[str, Mapping[int, int]]
) -> FirstMismatch | None:
    """The first difference of a layer that the certificate does not allow."""
    given = backend.simulate(build, as_feeds(x), [op.output for op in graph.layers], no_progress)
    values: dict[str, Ints] = dict(x)
    axes = _find_channel_axes(graph)
    for op in graph.ops:
        if not op.inputs:
            continue
        exact = np.asarray(op.execute([values[edge] for edge in op.inputs], graph.input_edges(op)))
        values[op.output] = exact
        if op.output in given:
            theirs = values[op.output] = np.asarray(given[op.output])
            foreign = np.abs(theirs - exact) > _spread_limits(limits.get(op.output), axes.get(op.output), exact.shape)
            if foreign.any():
                at = tuple(int(k) for k in np.argwhere(foreign)[0])
                return FirstMismatch(at[0], op.output, [int(exact[at])], [int(theirs[at])])
    return None


def _find_channel_axes(graph: Graph) -> dict[str, int]:
    """{a quantiser's output: the axis along which a certificate counts its channels}; none where one function serves a
    whole tensor."""
    layers = {op.output: op for op in graph.linears}
    axes = {step.output: step.axis for step in graph.requantisers if step.channels > 1}
    for step in graph.requantisers:
        if (layer := layers.get(step.inputs[0])) is not None:
            axes[step.output] = layer.channel_axis(len(graph.edges[step.output].shape))
    return axes


def _spread_limits(limits: Mapping[int, int] | None, axis: int | None, shape: tuple[int, ...]) -> Ints:
    """Levels by which each element of an output (N, …) may differ, broadcast against it; 0 where no limit is named."""
    whole = (1,) * len(shape)
    if not limits:
        return np.zeros(whole, np.int64)
    if axis is None or max(limits) >= shape[axis + 1]:  # any element may be one of them
        return np.full(whole, max(limits.values()))
    by_channel = np.zeros(shape[axis + 1], np.int64)
    for channel, levels in limits.items():
        by_channel[channel] = levels
    return by_channel.reshape([-1 if k == axis + 1 else 1 for k in range(len(shape))])
