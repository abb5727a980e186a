"""The integer graph as one .tflite file: the rules, applied. `RULES` is complete once this module is imported.

Every sum with the quantiser behind it becomes one operator; the other operations move values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from greenedge.backends.int8.layers import Layer
from greenedge.backends.int8.tflite import data_movement, elementwise, linear, pairs
from greenedge.backends.int8.tflite.builder import RULES, Placed, TfliteBuilder
from greenedge.backends.int8.tflite.epilogue import write_output
from greenedge.backends.int8.tflite.layout import image, plain
from greenedge.errors import Reason
from greenedge.graph import Graph
from greenedge.lower.dequantise import Dequantise

__all__ = ["RULES", "Emitted", "data_movement", "elementwise", "find_reasons", "linear", "pairs", "write_file"]


@dataclass(frozen=True, eq=False)
class Emitted:
    """A file, the proofs of its layers, where each stored edge of the graph is in it, and its float outputs: {name:
    tensor}."""

    content: bytes
    layers: tuple[Layer, ...]
    placed: dict[str, Placed]
    floats: dict[str, int] = field(default_factory=dict)


def find_reasons(graph: Graph) -> list[Reason]:
    """Every reason why the legalised graph has no exact int8 file."""
    return RULES.run(TfliteBuilder(graph, is_checking=True)).reasons


def write_file(graph: Graph, int4: bool = False, all_sets: bool = False, ends: Sequence[Dequantise] = ()) -> Emitted:
    """The file for a legalised graph against which there is no reason; the same graph gives the same bytes.

    With `int4` the weights of dense layers that have at most 4 bits, and an even number for each output, take half a
    byte each; there is then no factor left with which a channel could be made finer. With `all_sets` operators that
    are exact on XNNPACK alone are avoided. `ends` (epilogue.py) become further outputs behind the graph's own.
    """
    b = RULES.run(TfliteBuilder(graph, False, int4, all_sets))
    assert not b.reasons, "a graph is checked before it is planned"
    inputs = [b.placed[edge].tensor for edge in graph.inputs]
    for edge in graph.outputs:
        b.placed[edge] = _place_output(b, edge, inputs)
    outputs = list(dict.fromkeys(b.placed[edge].tensor for edge in graph.outputs))
    floats = {end.output: write_output(b, end) for end in ends}
    # an edge that is an input seen otherwise has no tensor that an operator writes
    placed = {
        edge: where
        for edge, where in b.placed.items()
        if edge in graph.edges and (edge in graph.inputs or where.tensor not in inputs)
    }
    return Emitted(b.writer.finish(inputs, [*outputs, *floats.values()]), tuple(b.layers), placed, floats)


def _place_output(b: TfliteBuilder, edge: str, inputs: list[int]) -> Placed:
    """Outputs lie as users of TFLite expect: images with channels last, the rest in the graph's own order."""
    placed = b.placed[edge]
    if edge in b.graph.inputs:  # a runtime feeds and reads the edge in one layout
        return b.copy_as(placed, placed.layout, f"{edge}/output")
    shape = placed.layout.shape
    placed = b.convert_layout(placed, image(shape) if len(shape) == 3 else plain(shape), f"{edge}/output")
    return b.copy_as(placed, placed.layout, f"{edge}/output") if placed.tensor in inputs else placed
