"""One .tflite file in the making: where each edge of the graph is in it; and the back end's table of rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from greenedge.backends.int8.builder import FusingBuilder, choose_zero_level
from greenedge.backends.int8.quant_params import LEVELS, Encoding, encode, encode_wide
from greenedge.backends.int8.requirements import require_readers
from greenedge.backends.int8.tflite.flatbuffer import Quantisation, Writer
from greenedge.backends.int8.tflite.layout import Layout, image, plain
from greenedge.graph import Conv, ConvTranspose, Graph, MaxPool, Op, Requantise, SumPool
from greenedge.graph.lines import identity_step
from greenedge.legalise.capabilities import SPATIAL_AXES
from greenedge.legalise.rules import Rules

RUNTIME = "LiteRT"
_WINDOW = (SPATIAL_AXES.limit({1, 2}, "LiteRT's int8 kernels have one or two", "use 1-D or 2-D layers"),)
SUPPORTED = {Conv: _WINDOW, ConvTranspose: _WINDOW, MaxPool: _WINDOW, SumPool: _WINDOW}
RULES: Rules[TfliteBuilder] = Rules("tflite", RUNTIME, SUPPORTED)


@dataclass(frozen=True)
class Placed:
    """Where an edge of the graph is in the file: tensor index, order of its values, meaning of its int8."""

    tensor: int
    layout: Layout
    code: Encoding


class TfliteBuilder(FusingBuilder):
    """One file in the making.

    encodings   how each stored edge will be encoded, known while checking too; an operator without weights may yet
                choose another scale
    placed      where each edge is, once written
    int4        whether dense layers of at most 4 bits are stored as such
    all_sets    whether an operator must be exact on all kernel sets, not on XNNPACK alone
    """

    def __init__(self, graph: Graph, is_checking: bool = False, int4: bool = False, all_sets: bool = False) -> None:
        super().__init__(graph, is_checking)
        self.writer = Writer(graph.name)
        self.int4 = int4
        self.all_sets = all_sets
        self.encodings: dict[str, Encoding] = {}
        self.placed: dict[str, Placed] = {}
        self.lifted: dict[int, Placed] = {}
        self._conversions: dict[tuple[int, Layout], Placed] = {}

    def choose_zero_level(self, edge: str, lo: int, hi: int) -> int:
        """The level within lo … hi that the zero point of an edge stands for."""
        return choose_zero_level(self.graph, edge, lo, hi, (Conv,))

    def encode_step(self, step: Requantise) -> Encoding:
        """The encoding of a quantiser's output."""
        return encode(step.lo, step.hi, self.choose_zero_level(step.output, step.lo, step.hi))

    def announce_sum(self, op: Op, axes: tuple[int, ...]) -> None:
        """Notes the axes along which the sum can be requantised per channel, and its encoding where it is stored as
        it is."""
        self.channel_axes[op.output] = axes
        edge = self.graph.edges[op.output]
        if op.output in self.wide:
            self.encodings[op.output] = self.wide_encoding(op.output)
        elif self.graph.needs_storage(op.output) and edge.hi - edge.lo <= LEVELS:
            self.encodings[op.output] = self.encode_step(identity_step(edge, op.output))

    def wide_encoding(self, edge: str) -> Encoding:
        """The encoding of a sum that is stored as int32."""
        return encode_wide(self.graph.edges[edge].lo, self.graph.edges[edge].hi)

    def announce_move(self, op: Op) -> None:
        """Notes that the output is stored as the (first) input is."""
        require_readers(self, op)
        if op.inputs[0] in self.encodings:
            self.encodings[op.output] = self.encodings[op.inputs[0]]

    def tensor(self, name: str, layout: Layout, code: Encoding) -> Placed:
        """A new tensor: int8, or int32 for what int8 does not hold."""
        if code.is_wide:
            return Placed(self.writer.tensor(name, layout.file, "INT32"), layout, code)
        index = self.writer.tensor(name, layout.file, "INT8", Quantisation((code.scale,), code.zero_point))
        return Placed(index, layout, code)

    def constant(self, name: str, values: ArrayLike) -> int:
        """An int32 constant: shapes, axes, paddings."""
        return self.writer.constant(name, np.asarray(values, np.int32))

    def convert_layout(self, placed: Placed, target: Layout, name: str) -> Placed:
        """The same values in another layout of the same graph shape; each conversion is written once."""
        if placed.layout == target:
            return placed
        key = (placed.tensor, target)
        if key not in self._conversions:
            self._conversions[key] = self._write_conversion(placed, target, name)
        return self._conversions[key]

    def _write_conversion(self, placed: Placed, target: Layout, name: str) -> Placed:
        layout = placed.layout
        if layout.is_flat:
            whole = Layout(layout.source, layout.order, layout.source, (1, *(layout.source[a] for a in layout.order)))
            placed = self.convert_layout(self._reshape(placed, whole, name), plain(layout.source), name)
            return self.convert_layout(self._reshape(placed, plain(layout.shape), name), target, name)
        if [a for a in layout.order if layout.source[a] != 1] == [a for a in target.order if target.source[a] != 1]:
            return self._reshape(placed, target, name)
        bare = tuple(layout.source[a] for a in layout.order)
        if layout.file != (1, *bare):
            placed = self._reshape(placed, replace(layout, file=(1, *bare)), name)
        transposed = Layout(target.source, target.order, target.shape, (1, *(target.source[a] for a in target.order)))
        perm = [0, *(1 + layout.order.index(a) for a in target.order)]
        result = self.tensor(f"{name}/turned", transposed, placed.code)
        inputs = [placed.tensor, self.constant(f"{name}/perm", perm)]
        self.writer.operator("TRANSPOSE", inputs, [result.tensor], 2)
        return result if transposed.file == target.file else self._reshape(result, target, name)

    def _reshape(self, placed: Placed, layout: Layout, name: str) -> Placed:
        """The same bytes under another shape."""
        if placed.layout.file == layout.file:
            return replace(placed, layout=layout)
        result = self.tensor(f"{name}/reshaped", layout, placed.code)
        self._write_reshape(placed, result, name)
        return result

    def _write_reshape(self, source: Placed, result: Placed, name: str) -> None:
        shape = list(result.layout.file)
        inputs = [source.tensor, self.constant(f"{name}/shape", shape)]
        self.writer.operator("RESHAPE", inputs, [result.tensor], newShape=shape)

    def copy_as(self, placed: Placed, layout: Layout, edge: str) -> Placed:
        """A tensor of its own for `edge`: the same bytes as `placed` in the shape of `layout`."""
        result = self.tensor(edge, layout, placed.code)
        self._write_reshape(placed, result, edge)
        return result

    def as_image(self, edge: str) -> Placed:
        """The edge with its channels last, in four dimensions."""
        placed = self.placed[edge]
        return self.convert_layout(placed, image(placed.layout.shape), edge)

    def as_plain(self, edge: str) -> Placed:
        """The edge in the graph's own order."""
        placed = self.placed[edge]
        return self.convert_layout(placed, plain(placed.layout.shape), edge)

    def pad(self, placed: Placed, pads: Sequence[int], level: int, name: str, edge: str | None = None) -> Placed:
        """The tensor with (begin…, end…) more of `level` along the graph's last axes; it becomes `edge` where one is
        named."""
        layout, n = placed.layout, len(pads) // 2
        rank = len(layout.shape)
        width = {rank - n + i: (pads[i], pads[n + i]) for i in range(n)}
        shape = tuple(size + sum(width.get(axis, (0, 0))) for axis, size in enumerate(layout.shape))
        lead = len(layout.file) - rank
        rows = [(0, 0)] * lead + [width.get(axis, (0, 0)) for axis in layout.order]
        file = (*layout.file[:lead], *(shape[axis] for axis in layout.order))
        result = self.tensor(edge or f"{name}/padded", Layout(shape, layout.order, shape, file), placed.code)
        inputs = [placed.tensor, self.constant(f"{name}/pads", rows)]
        if level == placed.code.zero_level:
            self.writer.operator("PAD", inputs, [result.tensor], 2)
        else:
            stored = np.array([level + placed.code.offset], np.int8)
            quantisation = Quantisation((placed.code.scale,), placed.code.zero_point)
            inputs.append(self.writer.constant(f"{name}/pad", stored, quantisation))
            self.writer.operator("PADV2", inputs, [result.tensor], 2)
        return result

    def join(self, parts: Sequence[Placed], axis: int, result: Placed) -> None:
        """Joins along an axis of the file; all parts share one encoding."""
        assert all(p.code.is_like(parts[0].code) for p in parts), "parts of different encodings"
        tensors = [part.tensor for part in parts]
        self.writer.operator("CONCATENATION", tensors, [result.tensor], 2, axis=axis, fusedActivationFunction="NONE")
