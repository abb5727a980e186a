"""Layers over sequences as layers over images one row high, for back ends whose windows have two axes."""

from __future__ import annotations

from dataclasses import replace

from greenedge.graph import Conv, ConvTranspose, Edge, Graph, MaxPool, Op, Pad, Reshape, SumPool, Upsample, freeze


def widen_sequences(graph: Graph) -> Graph:
    """f(x) → reshape(f2(reshape(x))), for windows, pads and upsampling f over (C, L) and f2 over (C, 1, L). New edges
    end in row."""
    if not any(map(_is_one_dimensional, graph.ops)):
        return graph
    ops: list[Op] = []
    edges = dict(graph.edges)
    for op in graph.ops:
        if not _is_one_dimensional(op):
            ops.append(op)
            continue
        source, target = edges[op.inputs[0]], edges[op.output]
        before, after = (Edge(f"{op.output}/{end}row", (e.shape[0], 1, e.shape[1]), e.lo, e.hi)
                         for end, e in (("in_", source), ("", target)))  # fmt: skip
        edges |= {before.name: before, after.name: after}
        ops += [
            Reshape(before.name, op.inputs, before.name, before.shape),
            replace(_widen(op), inputs=(before.name,), output=after.name),
            Reshape(after.name, (after.name,), op.output, target.shape),
        ]
    return Graph(graph.name, tuple(ops), edges, graph.outputs)


def _is_one_dimensional(op: Op) -> bool:
    if isinstance(op, Pad):
        return len(op.pads) == 4
    if isinstance(op, Upsample):
        return len(op.factors) == 2
    return isinstance(op, (Conv, ConvTranspose, MaxPool, SumPool)) and len(op.kernel) == 1


def _widen(op: Op) -> Op:
    """The same operation on an image one row high."""
    if isinstance(op, Pad):
        return replace(op, pads=(op.pads[0], 0, op.pads[1], op.pads[2], 0, op.pads[3]))
    if isinstance(op, Upsample):
        return replace(op, factors=(op.factors[0], 1, op.factors[1]))
    assert isinstance(op, (Conv, ConvTranspose, MaxPool, SumPool)), op
    op = replace(op, strides=(1, *op.strides), pads=(0, op.pads[0], 0, op.pads[1]))
    if isinstance(op, SumPool):
        return replace(op, kernel=(1, *op.kernel))
    if isinstance(op, MaxPool):
        return replace(op, kernel=(1, *op.kernel), dilations=(1, *op.steps))
    op = replace(op, weight=freeze(op.weight[:, :, None]), dilations=(1, *op.dilations))
    return replace(op, output_padding=(0, *op.output_padding)) if isinstance(op, ConvTranspose) else op
