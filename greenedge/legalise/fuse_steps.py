"""Quantisers one behind another as one, for back ends that count thresholds or round once behind every layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from greenedge.graph import Graph, Op, Requantise, Steps, freeze
from greenedge.graph.lines import is_straight
from greenedge.graph.ops.base import Ints
from greenedge.legalise.clamp_at_reach import clamp_step
from greenedge.lower.builder import fit_affine_form


def fuse_steps(graph: Graph) -> Graph:
    """Requantise(g, Requantise(f, x)) → Requantise(g∘f, x), where f(x) has no other reader: level k of g is reached
    where f reaches g's threshold k."""
    return _fuse(graph, lambda step: True)


def fuse_lines(graph: Graph) -> Graph:
    """As `fuse_steps`, where the outcome is one straight line, rounded once."""
    return _fuse(graph, lambda step: is_straight(clamp_step(step)))


def _fuse(graph: Graph, is_wanted: Callable[[Requantise], bool]) -> Graph:
    ops: dict[str, Op] = {op.output: op for op in graph.ops}
    fused: set[str] = set()
    for op in graph.requantisers:
        inner = ops[op.inputs[0]]
        if (
            isinstance(op.forms, Steps)
            and op.forms.rises
            and isinstance(inner, Requantise)
            and isinstance(inner.forms, Steps)
            and inner.output not in graph.outputs
            and len(graph.consumers(inner.output)) == 1
            and (op.axis == inner.axis or 1 in (op.channels, inner.channels))
            and is_wanted(composed := _compose(op, op.forms, inner, inner.forms))
        ):
            ops[op.output] = composed
            fused.add(inner.output)
    if not fused:
        return graph
    return graph.replace_ops([ops[op.output] for op in graph.ops if op.output not in fused])


def _compose(outer: Requantise, after: Steps, inner: Requantise, before: Steps) -> Requantise:
    """The step function `outer`∘`inner`, whose forms are `after` and `before`; `after` rises."""
    channels = max(outer.channels, inner.channels)

    def spread(values: Ints) -> Ints:
        return np.broadcast_to(values, (channels, *values.shape[1:]))

    low, high = (spread(part) for part in inner.reach)
    inside, wanted = spread(before.thresholds), spread(after.thresholds)
    # inner level L is reached at inside[L - lo - 1]; levels at or below lo always, above hi never
    padded = np.hstack([low[:, None], inside, high[:, None] + 1])
    thresholds = np.take_along_axis(padded, np.clip(wanted - inner.lo, 0, padded.shape[1] - 1), axis=1)
    steps = Steps(freeze(spread(before.sign)), freeze(np.clip(thresholds, low[:, None], high[:, None] + 1)), None)
    composed = dataclasses.replace(
        outer,
        inputs=inner.inputs,
        axis=outer.axis if outer.channels > 1 else inner.axis,
        forms=steps,
        x_lo=freeze(spread(inner.x_lo)),
        x_hi=freeze(spread(inner.x_hi)),
    )
    return dataclasses.replace(composed, forms=fit_affine_form(composed, steps))
