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
from greenedge.graph import Graph, Linear, Op, Requantise
from greenedge.graph.ops.base import Ints
from greenedge.progress import no_progress
from greenedge.verify.compare import FirstMismatch, VerificationReport

_PIECE = 64  # samples whose every layer is held at once


def allow_certified(
    graph: Graph, backend: Backend, build: Path, x: Feeds, report: VerificationReport, expected: Ints, got: Ints
) -> VerificationReport:
    """The report without the samples of which the certificate allows every difference; as it is where there is one
    that it does not allow. `expected` and `got` are (N, outputs)."""
    limits = backend.certified_differences(build) if report.mismatches else {}
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
    for op in graph.ops:
        if not op.inputs:
            continue
        exact = np.asarray(op.execute([values[edge] for edge in op.inputs], graph.input_edges(op)))
        values[op.output] = exact
        if op.output in given:
            theirs = values[op.output] = np.asarray(given[op.output])
            foreign = np.abs(theirs - exact) > _spread_limits(graph, op, limits.get(op.output, {}), exact.shape)
            if foreign.any():
                at = tuple(int(k) for k in np.argwhere(foreign)[0])
                return FirstMismatch(at[0], op.output, [int(exact[at])], [int(theirs[at])])
    return None


def _spread_limits(graph: Graph, op: Op, limits: Mapping[int, int], shape: tuple[int, ...]) -> Ints:
    """Levels by which each element of the output may differ, broadcast against it."""
    if not isinstance(op, Requantise) or not limits:
        return np.zeros((1,) * len(shape), np.int64)
    source = graph.producer(op.inputs[0])
    rank = len(shape) - 1
    axis = source.channel_axis(rank) if isinstance(source, Linear) else op.axis if op.channels > 1 else None
    if axis is None or max(limits) >= shape[axis + 1]:  # one function for all: any element may be one of them
        return np.full((1,) * len(shape), max(limits.values()))
    by_channel = np.zeros(shape[axis + 1], np.int64)
    for channel, levels in limits.items():
        by_channel[channel] = levels
    return by_channel.reshape([-1 if k == axis + 1 else 1 for k in range(len(shape))])
