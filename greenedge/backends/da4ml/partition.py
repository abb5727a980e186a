"""The graph cut into pieces that da4ml traces one at a time.

da4ml keeps what requantisers shift out as a scale of everything behind them, and its Verilog is wrong where the scales
of several layers add up (0.5.2: from about 57 bits). So a trace ends at every requantiser, whose result is an integer
again, and the next one starts from that integer with scale 1. It also ends where an edge has several readers: then no
operation belongs to two pieces, and no two pieces wait for one another.
"""

from __future__ import annotations

from dataclasses import dataclass

from greenedge.graph import Graph, Op


@dataclass(frozen=True)
class Piece:
    """Operations, in order, between edges of plain integers: `sources`, each once, and `output`."""

    ops: tuple[Op, ...]
    sources: tuple[str, ...]
    output: str


def cut_into_pieces(graph: Graph) -> list[Piece]:
    """Every operation but the inputs in exactly one piece, the pieces in an order in which they can be computed."""
    read_often = (op.output for op in graph.ops if len(graph.consumers(op.output)) > 1)
    ends = {*graph.inputs, *graph.outputs, *(step.output for step in graph.requantisers), *read_often}
    return [_piece(graph, op, ends) for op in graph.layers if op.output in ends]


def _piece(graph: Graph, last: Op, ends: set[str]) -> Piece:
    """The operations between `last` and the next edges of `ends` in front of it."""
    within, ahead = {last.output}, [last]
    sources: list[str] = []
    while ahead:
        for edge in ahead.pop().inputs:
            if edge in ends:
                sources += [] if edge in sources else [edge]
            else:
                within.add(edge)
                ahead.append(graph.producer(edge))
    return Piece(tuple(op for op in graph.ops if op.output in within), tuple(sources), last.output)
