"""The two ends of a network of several inputs or outputs: one stream in, one stream out.

The host sends all inputs of a sample one after another, each row by row (graph/joined_inputs.py); a copy of that stream
goes to each input's place, where a reordering unit takes that input's integers and drops the rest. The outputs are
joined behind one another, each row by row, in the graph's order (graph/joined_outputs.py).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from greenedge.backends.finn.dialect.builder import Builder, make_join, make_reorder
from greenedge.backends.finn.dialect.layer import Wire
from greenedge.backends.finn.folding import through_pins
from greenedge.graph import Input
from greenedge.graph.joined_inputs import join_input_edges
from greenedge.graph.joined_outputs import join_output_edges
from greenedge.graph.ops.base import Ints


def give_input(b: Builder, op: Input, order: Ints, channels: int) -> None:
    """The integers of one of several inputs, in this order (row-major indices), from its copy of the one stream."""
    sizes = [int(np.prod(b.graph.edges[name].shape)) for name in b.graph.inputs]
    edge, start = b.graph.edges[op.output], sum(sizes[: b.graph.inputs.index(op.output)])
    layer = make_reorder(b.names.take(op.output), _take_copy(b), start + order, edge.shape, order)
    result = replace(layer.result, edge=op.output, channels=channels)
    b.layers.append(replace(layer, results=(result,)))
    b.offer(replace(result, lo=edge.lo, hi=edge.hi))  # the stream's type may be wider


def _take_copy(b: Builder) -> Wire:
    """The one stream, for one of the inputs; it is made for the first."""
    if b.source is None:
        edge = join_input_edges(b.graph)
        (total,) = edge.shape
        b.source = Wire("s", edge.name, edge.shape, np.arange(total), through_pins(total, edge.bits), edge.lo, edge.hi)
        b.copies = b.fork(b.source, sum(op.output in b.graph.inputs for op in b.live_ops))
    return b.copies.pop()


def join_results(b: Builder, wires: list[Wire]) -> Wire:
    """One stream of several outputs."""
    rows = [b.put_in_order(wire, np.arange(wire.total)) for wire in wires]
    total = rows[0]
    for wire in rows[1:]:
        layer = make_join(b.names.take("outputs"), total, wire, (total.total, wire.total), along_channels=False)
        channels = int(np.gcd(total.total, wire.total))
        total = b.give_inner(replace(layer, results=(replace(layer.result, channels=channels),)))
    edge = join_output_edges(b.graph)
    b.layers[-1] = replace(b.layers[-1], results=(replace(total, edge=edge.name, shape=edge.shape),))
    return b.layers[-1].result
