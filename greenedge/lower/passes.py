"""What is done to the whole graph once every node has been lowered. Each pass is its equation and keeps all integers."""

from __future__ import annotations

import dataclasses

import numpy as np

from greenedge.graph.affine import fit_affine
from greenedge.graph.ops import Conv, ConvTranspose, Dense, Edge, Graph, Op, Requantise, frozen
from greenedge.lower.builder import Birth, Trace, flip_weights
from greenedge.lower.expr import Const, Var


def fuse_requantisers(graph: Graph, trace: Trace) -> Graph:
    """Requantise(g, Requantise(f, x)) → Requantise(g∘f, x), where nobody else reads f(x): level k of g is reached where f
    reaches g's threshold k."""
    ops, gone = {op.output: op for op in graph.ops}, set()
    for op in graph.ops:
        if not isinstance(op, Requantise) or op.thresholds is None:
            continue
        inner = ops.get(op.inputs[0])
        if (
            isinstance(inner, Requantise)
            and inner.thresholds is not None
            and op.inputs[0] not in graph.outputs
            and len(graph.consumers(inner.output)) == 1
            and (op.sign > 0).all()
            and _same_axis(op, inner)
        ):
            ops[op.output] = _composed(op, inner)
            gone.add(inner.output)
            if op.output in trace.quantised:
                trace.quantised[op.output] = dataclasses.replace(trace.quantised[op.output], before=inner.output)
    return _with(graph, [ops[op.output] for op in graph.ops if op.output not in gone])


def _same_axis(outer: Requantise, inner: Requantise) -> bool:
    return outer.axis == inner.axis or 1 in (len(outer.sign), len(inner.sign))


def _composed(outer: Requantise, inner: Requantise) -> Requantise:
    channels = max(len(outer.sign), len(inner.sign))
    axis = outer.axis if len(outer.sign) > 1 else inner.axis
    low = np.broadcast_to(np.where(inner.sign > 0, inner.x_lo, -inner.x_hi), (channels,))
    high = np.broadcast_to(np.where(inner.sign > 0, inner.x_hi, -inner.x_lo), (channels,))
    inside = np.broadcast_to(inner.thresholds, (channels, inner.thresholds.shape[1]))
    wanted = np.broadcast_to(outer.thresholds, (channels, outer.thresholds.shape[1]))
    # inner level L is reached at inside[L - lo - 1]; levels at or below lo always, above hi never
    padded = np.hstack([low[:, None], inside, high[:, None] + 1])
    thresholds = np.take_along_axis(padded, np.clip(wanted - inner.lo, 0, padded.shape[1] - 1), axis=1)
    thresholds = np.clip(thresholds, low[:, None], high[:, None] + 1)
    sign = np.broadcast_to(inner.sign, (channels,))
    affine = fit_affine(thresholds, outer.lo, outer.hi, low, high)
    if affine is not None:
        affine = dataclasses.replace(affine, m=frozen(affine.m * sign), b=frozen(affine.b), s=frozen(affine.s))
    return dataclasses.replace(
        outer,
        inputs=inner.inputs,
        axis=axis,
        sign=frozen(sign),
        thresholds=frozen(thresholds),
        affine=affine,
        x_lo=frozen(np.broadcast_to(inner.x_lo, (channels,))),
        x_hi=frozen(np.broadcast_to(inner.x_hi, (channels,))),
    )


def absorb_signs(graph: Graph, trace: Trace) -> Graph:
    """Requantise(sign*Dense(w, x)) → Requantise(Dense(sign*w, x)) where nobody else reads the layer: every step rises."""
    ops, edges = {op.output: op for op in graph.ops}, dict(graph.edges)
    for op in graph.ops:
        if not isinstance(op, Requantise) or (op.sign > 0).all():
            continue
        layer = ops[op.inputs[0]]
        edge = edges[layer.output]
        channel = len(edge.shape) - 1 if isinstance(layer, Dense) else 0
        if (
            not isinstance(layer, (Dense, Conv, ConvTranspose))
            or len(graph.consumers(layer.output)) > 1
            or layer.output in graph.outputs
            or op.axis != channel
        ):
            continue
        sign = np.broadcast_to(op.sign, (edge.shape[channel],))
        ops[layer.output] = flip_weights(layer, sign, layer.name)
        low, high = np.where(op.sign > 0, op.x_lo, -op.x_hi), np.where(op.sign > 0, op.x_hi, -op.x_lo)
        affine = op.affine and dataclasses.replace(op.affine, m=frozen(op.affine.m * op.sign))
        ops[op.output] = dataclasses.replace(
            op, sign=frozen(np.ones_like(op.sign)), affine=affine, x_lo=frozen(low), x_hi=frozen(high)
        )
        edges[layer.output] = Edge(
            edge.name,
            edge.shape,
            min(int(low.min()), -edge.hi if (sign < 0).all() else int(low.min())),
            max(int(high.max()), -edge.lo if (sign < 0).all() else int(high.max())),
        )
        spread = [1] * len(edge.shape)
        spread[channel] = -1
        turned = Const.of(sign.reshape(spread).astype(float)) * Var()
        if (birth := trace.births.get(layer.output)) is not None:
            trace.births[layer.output] = Birth(birth.tensor, birth.expr.substitute(turned))
        first = op.output
        while first in trace.quantised and trace.quantised[first].before is not None:
            first = trace.quantised[first].before
        if (quantised := trace.quantised.get(first)) is not None:
            trace.quantised[first] = dataclasses.replace(quantised, y=quantised.y.substitute(turned))
    return dataclasses.replace(_with(graph, [ops[op.output] for op in graph.ops]), edges=edges)


def remove_dead(graph: Graph, trace: Trace) -> Graph:
    """Operations that reach no output go, with their edges; inputs stay."""
    needed, keep = set(graph.outputs), []
    for op in reversed(graph.ops):
        if op.output in needed or not op.inputs:
            keep.append(op)
            needed.update(op.inputs)
    return _with(graph, keep[::-1])


def _with(graph: Graph, ops: list[Op]) -> Graph:
    kept = {op.output for op in ops}
    return Graph(
        graph.name, tuple(ops), {name: edge for name, edge in graph.edges.items() if name in kept}, graph.outputs
    )
