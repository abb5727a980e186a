"""The integer graph as hls4ml layers, each with types that hold its integers exactly: what the rules write with.

Every weight, sum and level is an integer in a type as wide as its proven range. hls4ml has its channels last. Each edge
therefore has an `order`: position i of the layer's output holds element order[i] of the graph's edge, counted row by
row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.backends.hls4ml.precision import range_type
from greenedge.graph import Conv, Edge, Graph, MaxPool, Op
from greenedge.graph.ops.base import Ints, Shape
from greenedge.legalise.capabilities import ONE_FILE_AN_OUTPUT, SPATIAL_AXES, Capabilities, Ends
from greenedge.legalise.rules import RuleBuilder, Rules

_ONE_OR_TWO_AXES = SPATIAL_AXES.limit({1, 2}, "hls4ml has one or two", "use 1-D or 2-D layers")
MAX_AXES = 3  # of a transposition, with every toolchain
SUPPORTED: Capabilities = {Conv: (_ONE_OR_TWO_AXES,), MaxPool: (_ONE_OR_TWO_AXES,)}


@dataclass(frozen=True, eq=False)
class Layer:
    """One hls4ml layer: its class, attributes and types. `edge` is what its output holds, None within an operation."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, object]
    precision: Mapping[str, str]
    edge: str | None = None
    weights: tuple[int, int] = (0, 0)  # (inputs, outputs) of its product of vectors
    vectors: int = 1  # of these in one inference


@dataclass(frozen=True, eq=False)
class EdgeLayout:
    """Where an edge is: the layer whose output it is, and the order (elements,) of its elements there."""

    layer: str
    order: Ints


@dataclass(frozen=True, eq=False)
class Handover:
    """The layers in order, the input first, and where each edge of the graph is."""

    layers: tuple[Layer, ...]
    layouts: Mapping[str, EdgeLayout]

    @property
    def traces(self) -> dict[str, str]:
        """{layer: edge} of the layers whose output hls4ml can record: not of a reshape, which it does in place."""
        silent = ("InputLayer", "Reshape")
        return {layer.name: layer.edge for layer in self.layers if layer.edge is not None and layer.kind not in silent}


class LayerBuilder(RuleBuilder):
    """Checks a graph, or makes its layers. `has_depthwise`: the toolchain has such a layer; `is_streamed`: layers hand
    over pixel by pixel (io_stream).
    """

    def __init__(
        self, graph: Graph, has_depthwise: bool = True, is_streamed: bool = False, is_checking: bool = False
    ) -> None:
        super().__init__(graph, is_checking)
        self.has_depthwise, self.is_streamed = has_depthwise, is_streamed
        self.layers: list[Layer] = []
        self.layouts: dict[str, EdgeLayout] = {}

    def source(self, op: Op) -> Edge:
        """The edge that `op` reads first."""
        return self.graph.edges[op.inputs[0]]

    def result(self, op: Op) -> Edge:
        return self.graph.edges[op.output]

    def source_layers(self, op: Op) -> tuple[str, ...]:
        """The layers that hold the edges which `op` reads."""
        return tuple(self.layouts[name].layer for name in op.inputs)

    def find_layer(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    def emit(
        self,
        kind: str,
        sources: tuple[str, ...],
        of: Op,
        attributes: Mapping[str, object],
        part: str = "",
        edge: Edge | None = None,
        order: Ints | None = None,
        precision: Mapping[str, str] | None = None,
        weights: tuple[int, int] = (0, 0),
        vectors: int = 1,
    ) -> str:
        """Appends a layer of operation `of` that reads the layers `sources`; with `edge` it holds that edge. Returns
        its name.
        """
        name = f"n{len(self.layers)}_{_identifier(of.name)}{part}"
        types = dict(precision or {})
        if edge is not None:
            types.setdefault("result", range_type(edge.lo, edge.hi))
            self.layouts[edge.name] = EdgeLayout(name, channels_last_order(edge.shape) if order is None else order)
        written = edge.name if edge is not None else None
        self.layers.append(Layer(name, kind, sources, attributes, types, written, weights, vectors))
        return name


ENDS = Ends(
    1,
    1,
    "a project has one function from one input to one output",
    ("choose ulx3s-85f, whose da4ml takes several, or linux-x86 or cortex-m4", ONE_FILE_AN_OUTPUT),
)
RULES: Rules[LayerBuilder] = Rules("hls4ml", "hls4ml", SUPPORTED, ENDS)


def channels_last_order(shape: Shape) -> Ints:
    """The order of an edge of that shape when its channels come last."""
    index = np.arange(math.prod(shape)).reshape(shape)
    return (np.moveaxis(index, 0, -1) if len(shape) > 1 else index).ravel()


def channels_last_shape(shape: Shape) -> list[int]:
    return [*shape[1:], shape[0]] if len(shape) > 1 else list(shape)


def emit_transpose(
    b: LayerBuilder, op: Op, layer: str, source: Edge, perm: Sequence[int], part: str, edge: Edge | None = None
) -> str:
    """The output of `layer`, in the range of `source`, with hls4ml's axis perm[i] in place i."""
    precision = {"result": range_type(source.lo, source.hi)}
    return b.emit("Transpose", (layer,), op, {"perm": [int(p) for p in perm]}, part, edge, precision=precision)


def sum_types(edge: Edge, weight: Ints) -> dict[str, str]:
    """Sums may overflow on the way: all arithmetic is modulo the type's range, in which the result lies.

    The weights' type is fixed point also where they are -1, 0, +1: hls4ml's products with its own binary and ternary
    types lose a bit (Quartus: -a in the type of a).
    """
    return {
        "weight": range_type(int(weight.min(initial=0)), int(weight.max(initial=0))),
        "accum": range_type(edge.lo, edge.hi),
    }


def name_axes(what: str, values: Sequence[int]) -> dict[str, int]:
    """(height, width) or (width,) as hls4ml's attributes."""
    names = ("width",) if len(values) == 1 else ("height", "width")
    return {f"{what}_{name}": int(value) for name, value in zip(names, values, strict=True)}


def window_attributes(
    before: Sequence[int], after: Sequence[int], strides: Sequence[int], pads: Sequence[int]
) -> dict[str, object]:
    """What every layer with a window has, for spatial sizes before and after it."""
    n = len(strides)
    begin, end = name_axes("pad", pads[:n]), name_axes("pad", pads[n:])
    sides = {"pad_height": ("pad_top", "pad_bottom"), "pad_width": ("pad_left", "pad_right")}
    padding = {side: values[axis] for axis in begin for side, values in zip(sides[axis], (begin, end), strict=True)}
    return {
        **name_axes("in", before),
        **name_axes("out", after),
        **name_axes("stride", strides),
        **padding,
        "data_format": "channels_last",
    }


def _identifier(text: str) -> str:
    """A model's names come from strangers: only letters and digits reach a C++ file."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text)[:40].strip("_") or "layer"
