"""What is done to the whole graph once every node has been lowered. Each pass is its equation and keeps all
integers."""

from __future__ import annotations

import dataclasses

import numpy as np

from greenedge.graph import Edge, Graph, Linear, Op, Requantise, Steps, freeze
from greenedge.graph.ops.base import Ints
from greenedge.lower.builder import Birth, Trace
from greenedge.lower.expr import Const, Var


def absorb_signs(graph: Graph, trace: Trace) -> Graph:
    """Requantise(sign*Dense(w, x)) → Requantise(Dense(sign*w, x)) where the layer has no other reader: every step
    rises."""
    ops, edges = {op.output: op for op in graph.ops}, dict(graph.edges)
    for op in graph.requantisers:
        layer = ops[op.inputs[0]]
        edge = edges[layer.output]
        if (
            isinstance(op.forms, Steps)
            and not op.forms.rises
            and isinstance(layer, Linear)
            and len(graph.consumers(layer.output)) == 1
            and layer.output not in graph.outputs
            and op.axis == layer.channel_axis(len(edge.shape))
        ):
            sign = np.broadcast_to(op.forms.sign, (edge.shape[op.axis],))
            ops[layer.output] = layer.with_channel_signs(sign, layer.name)
            ops[op.output] = _rise(op, op.forms)
            edges[layer.output] = _flip_edge(edge, op, bool((sign < 0).all()))
            _flip_trace(trace, layer, op, sign, len(edge.shape))
    return dataclasses.replace(graph.replace_ops([ops[op.output] for op in graph.ops]), edges=edges)


def _rise(op: Requantise, steps: Steps) -> Requantise:
    """The requantiser of sign*x: the same levels from an input whose falling channels have changed sign."""
    low, high = op.reach
    affine = steps.affine and dataclasses.replace(steps.affine, m=freeze(steps.affine.m * steps.sign))
    rising = Steps(freeze(np.ones_like(steps.sign)), steps.thresholds, affine)
    return dataclasses.replace(op, forms=rising, x_lo=freeze(low), x_hi=freeze(high))


def _flip_edge(edge: Edge, op: Requantise, all_fall: bool) -> Edge:
    """The range of the layer's output once its falling channels have changed sign."""
    low, high = op.reach
    lo, hi = int(low.min()), int(high.max())
    return Edge(edge.name, edge.shape, min(lo, -edge.hi) if all_fall else lo, max(hi, -edge.lo) if all_fall else hi)


def _flip_trace(trace: Trace, layer: Op, op: Requantise, sign: Ints, rank: int) -> None:
    """The real functions of the layer's integers, now that those of falling channels have changed sign."""
    shape = [1] * rank
    shape[op.axis] = -1
    flipped = Const.of(sign.reshape(shape).astype(float)) * Var()
    if (birth := trace.births.get(layer.output)) is not None:
        trace.births[layer.output] = Birth(birth.tensor, birth.expr.substitute(flipped))
    if (quantised := trace.quantised.get(op.output)) is not None:
        trace.quantised[op.output] = dataclasses.replace(quantised, y=quantised.y.substitute(flipped))


def remove_dead(graph: Graph, trace: Trace) -> Graph:
    """Operations that reach no output go, with their edges; inputs stay."""
    needed, keep = set(graph.outputs), []
    for op in reversed(graph.ops):
        if op.output in needed or not op.inputs:
            keep.append(op)
            needed.update(op.inputs)
    return graph.replace_ops(keep[::-1])
