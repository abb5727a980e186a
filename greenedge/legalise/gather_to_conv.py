"""Selections as layers whose weights are zeros and ones, for back ends that cannot leave elements out.

Element k of the result is the sum over i of w[k, i] * x[i], w[k, i] = 1 where i is the place that k comes from. Along
the first axis that is a dense layer or a convolution of one pixel; any other axis changes places with the first before
and behind it. What is multiplied by a constant one costs a wire.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from greenedge.graph import Conv, Dense, Edge, Gather, Graph, Op, Reshape, Transpose, freeze
from greenedge.graph.ops.base import Ints, Shape
from greenedge.legalise.edge_names import choose_name

_IMAGE = 3  # axes (C, H, W): a convolution has two spatial axes at most


def gather_to_conv(graph: Graph) -> Graph:
    """Gather(x) → Conv(ones, x) along every axis that it cuts. The new edges are called EDGE/first, EDGE/picked and so
    on after what gives them."""
    if not any(isinstance(op, Gather) for op in graph.ops):
        return graph
    ops: list[Op] = []
    edges = dict(graph.edges)
    for op in graph.ops:
        ops += _rewrite(op, edges) if isinstance(op, Gather) else [op]
    return replace(graph, ops=tuple(ops), edges=edges)


def _rewrite(op: Gather, edges: dict[str, Edge]) -> list[Op]:
    """The layers, each named after its edge; the last one has the name of `op` and writes its output."""
    source, wanted = edges[op.inputs[0]], edges[op.output]
    shape = source.shape
    moves: list[Op] = []
    for axis in op.find_cut_axes(shape):
        weight = np.zeros((len(op.indices[axis]), shape[axis]), np.int64)
        weight[np.arange(len(weight)), op.indices[axis]] = 1
        after = (*shape[:axis], len(weight), *shape[axis + 1 :])
        moves += _list_moves(weight, axis, shape, after)
        shape = after
    moves = moves or [Reshape("same", (), "", shape)]
    ops: list[Op] = []
    for k, move in enumerate(moves, 1):
        before = edges[ops[-1].output] if ops else source
        if k == len(moves):
            ops.append(replace(move, name=op.name, inputs=(before.name,), output=op.output))
            break
        name = choose_name(f"{op.output}/{move.name}", edges)
        ones = (1,) * len(before.shape)
        shape, _ = move.infer([before], [(np.full(ones, source.lo), np.full(ones, source.hi))])
        edges[name] = replace(wanted, name=name, shape=shape)
        ops.append(replace(move, name=name, inputs=(before.name,), output=name))
    return ops


def _list_moves(weight: Ints, axis: int, before: Shape, after: Shape) -> list[Op]:
    """What picks along one axis, named by what it gives: the pick itself where that axis is the first."""
    rank = len(before)
    if axis == 0 and rank <= _IMAGE:
        return [_pick(weight, rank)]
    views: list[Op] = []
    if rank > _IMAGE:  # the axes before and behind as one each
        whole = (math.prod(before[:axis]), before[axis], math.prod(before[axis + 1 :]))
        views = [Reshape("joined", (), "", whole), Reshape("split", (), "", after)]
        rank, axis = _IMAGE, 1
    swap = list(range(rank))
    swap[0], swap[axis] = axis, 0
    turned = [Transpose("first", (), "", tuple(swap)), _pick(weight, rank), Transpose("back", (), "", tuple(swap))]
    return [*views[:1], *turned, *views[1:]]


def _pick(weight: Ints, rank: int) -> Op:
    """The layer with these weights (out, in) along the first axis of a tensor of that rank."""
    if rank == 1:
        return Dense("picked", (), "", freeze(weight.T))
    n = rank - 1
    kernel = freeze(weight.reshape(*weight.shape, *(1,) * n))
    return Conv("picked", (), "", kernel, (1,) * n, (0,) * 2 * n, (1,) * n, 1)
