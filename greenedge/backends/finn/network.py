"""The integer graph as a network of hardware layers (layers.py), or every reason why it is none.

Tensors travel channels-last, so a Reshape or Transpose that only renames what comes when is no hardware: `Wire.order` says
which element of the edge each integer is, and a dense layer behind a Flatten takes its rows in that order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from greenedge.backends.finn import layers as hw
from greenedge.backends.finn.steps import MAX_TABLE, step_of
from greenedge.errors import Reason
from greenedge.graph import (Add, Concat, Conv, ConvTranspose, Dense, DepthToSpace, Edge, Graph, Input, MaxPool, Op, Pad, Requantise,
                             Reshape, SumPool, Transpose, Upsample)

MAX_BITS = 8       # of weights, inputs and quantised activations
MAX_SUM_BITS = 16  # of sums that go into a layer with weights without being quantised before
_RESERVED = {"top", "clk", "rst", "reset", "restart", "input", "output", "s", "m", "module", "logic", "wire", "reg", "begin", "end", "result",
             "assign", "for", "if", "else", "case", "initial", "always", "age", "s_gated"}
_ELSEWHERE = "choose another back end"


class _Refused(Exception):
    """Why one operation cannot be built; becomes a Reason."""


def network_of(graph: Graph) -> hw.Network:
    """The layers of a graph against which there is no reason."""
    network, reasons = translate(graph)
    assert network is not None, reasons
    return network


@lru_cache(maxsize=2)
def translate(graph: Graph) -> tuple[hw.Network | None, tuple[Reason, ...]]:
    """(the network, no reasons), or (None, every reason)."""
    builder = _Builder(graph)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        builder.refuse(graph.name, "unsupported-graph", f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs",
                       "finn streams one input to one output", "cut the model in two")
        return None, tuple(builder.reasons)
    for op in graph.ops:
        builder.add(op)
    network = builder.finished()
    return (None, tuple(builder.reasons)) if builder.reasons else (network, ())


def channels_last(shape: tuple[int, ...]) -> np.ndarray:
    """For each place in the stream of an edge, the row-major index of the element there."""
    index = np.arange(int(np.prod(shape))).reshape(shape)
    return np.moveaxis(index, 0, -1).ravel() if len(shape) > 1 else index.ravel()


class _Names:
    """Hands out identifiers for hardware, each once, near the names in the model."""

    def __init__(self) -> None:
        self._taken = set(_RESERVED)

    def take(self, wanted: str) -> str:
        base = re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_") or "layer"
        base = f"n{base}" if base[0].isdigit() else base
        name, k = base, 2
        while name.lower() in self._taken:
            name, k = f"{base}_{k}", k + 1
        self._taken.add(name.lower())
        return name


class _Builder:
    """Adds one operation after another. What reads a refused edge is still checked for what does not depend on it."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.reasons, self.layers, self.notes = graph, [], [], []
        self.live = set(graph.outputs)  # edges that the output depends on
        for op in reversed(graph.ops):
            self.live |= set(op.inputs) if op.output in self.live else set()
        self.names = _Names()
        self.free: dict[str, list[hw.Wire]] = {}   # wires of an edge that nobody has taken yet
        self.views: dict[str, tuple[str, np.ndarray]] = {}  # edge -> (the edge whose wire carries it, order)

    # -- edges and wires

    def refuse(self, node: str, kind: str, value: str, rule: str, cure: str) -> None:
        self.reasons.append(Reason(node, kind, value, rule, cure))

    def readers(self, edge: str) -> list[Op | None]:
        """Who reads the values of `edge`, seen through reshapes; None stands for the output."""
        found: list[Op | None] = [None] if edge in self.graph.outputs else []
        for reader in (op for op in self.graph.consumers(edge) if op.output in self.live):
            found += self.readers(reader.output) if isinstance(reader, (Reshape, Transpose)) else [reader] * reader.inputs.count(edge)
        return found

    def take(self, edge: str) -> hw.Wire | None:
        """A wire that carries `edge`, for one reader; None where its producer was refused."""
        root, order = self.views.get(edge, (edge, None))
        wires = self.free.get(root)
        if not wires:
            return None
        wire = wires.pop()
        return wire if order is None else replace(wire, edge=edge, shape=self.graph.edges[edge].shape, order=order)

    def wire(self, name: str, edge: str, order: np.ndarray, channels: int, **more) -> hw.Wire:
        """A new wire for an edge of the graph, which bounds what travels unless `more` says otherwise."""
        about = self.graph.edges[edge]
        return hw.Wire(name, edge, about.shape, order, channels, **{"lo": about.lo, "hi": about.hi, **more})

    def inner(self, layer: hw.Layer) -> hw.Wire:
        """Appends a layer whose result only the next one reads."""
        self.layers.append(layer)
        return layer.result

    def give(self, layer: hw.Layer) -> None:
        """Appends the layer that writes an edge."""
        self.layers.append(layer)
        self.offer(layer.result)

    def offer(self, wire: hw.Wire) -> None:
        """Makes one wire per reader, with forks where there are several."""
        wires = [wire]
        for _ in self.readers(wire.edge)[1:]:
            last = wires.pop()
            copies = tuple(replace(last, name=self.names.take(f"{wire.name}_to")) for _ in range(2))
            self.layers.append(hw.Fork(f"{copies[0].name}_fork", (last,), copies))
            wires += copies
        self.free[wire.edge] = wires

    # -- operations

    def add(self, op: Op) -> None:
        """Translates one operation, or says why not."""
        if op.output not in self.live:
            return
        build = _BUILD.get(type(op))
        try:
            if build is None:
                raise _Refused("unsupported-op", f"operation {type(op).__name__}", "finn builds no such layer", _ELSEWHERE)
            build(self, op)
        except _Refused as refusal:
            self.refuse(op.name, *refusal.args)

    def sources(self, op: Op) -> list[hw.Wire] | None:
        """The wires that `op` reads, None where one of them was refused."""
        wires = [self.take(edge) for edge in op.inputs]
        return None if any(wire is None for wire in wires) else wires

    def finished(self) -> hw.Network | None:
        output = self.graph.outputs[0]
        wire = self.take(output)
        if wire is None:
            return None
        if not np.array_equal(wire.order, channels_last(wire.shape)):
            producer = self.graph.producer(output)
            self.refuse(producer.name, "unsupported-op", f"an output of {wire.shape} whose first axis does not come innermost",
                        "finn gives outputs channels-last", "put the channels first, or reshape on the host")
            return None
        if not self.layers:
            self.refuse(self.graph.name, "unsupported-graph", "no layer at all", "finn builds at least one layer", "give it a layer")
            return None
        edges = self.graph.edges
        views = tuple(replace(self._written(root), edge=edge, shape=edges[edge].shape, order=order)
                      for edge, (root, order) in self.views.items() if self._written(root) is not None)
        source = next(w for w in self._wires() if w.edge == self.graph.inputs[0])
        return hw.Network(self.graph.name, source, tuple(self.layers), wire, views, tuple(self.notes))

    def _wires(self) -> list[hw.Wire]:
        first = [self.source] if hasattr(self, "source") else []
        return [*first, *(wire for layer in self.layers for wire in layer.results)]

    def _written(self, edge: str) -> hw.Wire | None:
        return next((wire for wire in self._wires() if wire.edge == edge), None)


def _too_wide(value: str, most: int = MAX_BITS) -> _Refused:
    return _Refused("too-wide", value, f"finn computes with 1 to {most} bits", f"quantise to at most {most} bits")


def _input(self: _Builder, op: Input) -> None:
    edge = self.graph.edges[op.output]
    order = channels_last(edge.shape)
    self.source = self.wire("s", op.output, order, edge.shape[0] if edge.shape else 1)
    self.offer(self.source)
    if edge.bits > MAX_BITS:
        raise _too_wide(f"input of {edge.bits} bits")


def _view(self: _Builder, op: Reshape | Transpose) -> None:
    """The same integers in the same sequence: only what each is called changes."""
    root, order = self.views.get(op.inputs[0], (op.inputs[0], None))
    if root not in self.free:
        return
    shape = self.graph.edges[op.inputs[0]].shape
    order = self._written(root).order if order is None else order
    if isinstance(op, Transpose):  # where each element of the input went
        moved = np.empty(order.size, np.int64)
        moved[np.arange(order.size).reshape(shape).transpose(op.perm).ravel()] = np.arange(order.size)
        order = moved[order]
    self.views[op.output] = (root, order)


# -- layers with weights


def _weight_bits(weight: np.ndarray) -> int:
    """1 for signs alone (every weight +1 or -1), else the two's-complement width, at least 2."""
    if np.all(np.abs(weight) == 1):
        return 1
    return max(2, Edge("w", (), min(int(weight.min()), -1), int(weight.max())).bits)


def _check_widths(self: _Builder, op: Dense | Conv) -> None:
    source = self.graph.edges[op.inputs[0]]
    if source.bits > MAX_SUM_BITS:
        raise _too_wide(f"input of {source.bits} bits", MAX_SUM_BITS)
    if _weight_bits(op.weight) > MAX_BITS:
        raise _too_wide(f"weights of {_weight_bits(op.weight)} bits")


def _absorbed(self: _Builder, edge: str) -> bool:
    """Whether every reader takes a constant per channel into its own numbers."""
    return all(isinstance(reader, Requantise) or (isinstance(reader, Add) and _absorbed(self, reader.output))
               for reader in self.readers(edge))


def _linear(self: _Builder, op: Op, kind: type, wire: hw.Wire, weight: np.ndarray, axis: int, order: np.ndarray, **more) -> None:
    """Appends a MatVec or Depthwise; `axis` of `weight` is summed over, the other one is the outputs."""
    bits = _weight_bits(weight)
    left_out = (weight < 0).sum(axis=axis) * (1 << max(bits - 2, 0))
    correct = not _absorbed(self, op.output)
    products = np.stack([weight * wire.lo, weight * wire.hi])
    missing = 0 if correct else left_out
    lowest = int((products.min(axis=0).sum(axis=axis) - missing).min())
    highest = int((products.max(axis=0).sum(axis=axis) - missing).max())
    name = self.names.take(op.name)
    result = self.wire(name, op.output, order, weight.shape[1 - axis], lo=min(lowest, -1), hi=highest,
                       offset=hw.ZERO if correct or not np.any(left_out) else left_out)
    self.give(kind(name, (wire,), (result,), weight, bits, left_out, correct, **more))


def _dense(self: _Builder, op: Dense) -> None:
    _check_widths(self, op)
    wire = self.take(op.inputs[0])
    if wire is None:
        return
    k, m = op.weight.shape
    row, column = np.divmod(wire.order.reshape(-1, k), k)
    if np.any(row != row[:, :1]) or np.any(column != column[0]):
        raise _Refused("unsupported-op", f"a dense layer along the last axis of {wire.shape}",
                       "finn streams the channels innermost", "put the features into the channels, or use a 1×1 convolution")
    order = (row[:, :1] * m + np.arange(m)).ravel()
    _linear(self, op, hw.MatVec, wire, op.weight[column[0]], 0, order)


def _image(self: _Builder, op: Op, wire: hw.Wire) -> tuple[hw.Wire, int, int]:
    """(the wire in pixels, height, width) of an image or a sequence that travels channels-last."""
    shape = wire.shape
    if len(shape) not in (2, 3):
        raise _Refused("unsupported-op", f"{type(op).__name__} on {shape}", "finn computes on (channels, height, width) and "
                       "(channels, length)", "use two or fewer spatial axes")
    if not np.array_equal(wire.order, channels_last(shape)):
        raise _Refused("unsupported-op", f"{type(op).__name__} on {shape} after a reshape or transposition that moves channels",
                       "finn streams images channels-last", "leave the reshape out, or put it before the model")
    return replace(wire, channels=shape[0]), shape[1] if len(shape) == 3 else 1, shape[-1]


def _pair(values: Sequence[int], one: int = 1) -> tuple[int, int]:
    """(vertical, horizontal) of a value per spatial axis."""
    return (values[0], values[1]) if len(values) == 2 else (one, values[0])


def _window(self: _Builder, op: Op, wire: hw.Wire, kernel, strides, dilations, pads, pad: int, grouped: bool) -> hw.Wire:
    """The patches of an image, or the image itself where every pixel is one patch."""
    wire, height, width = _image(self, op, wire)
    half = len(pads) // 2
    top, left = _pair(pads[:half], 0)
    bottom, right = _pair(pads[half:], 0)
    kernel, strides, dilations = _pair(kernel), _pair(strides), _pair(dilations or (1,) * len(kernel))
    around = (top, left, bottom, right)
    if any(p > (k - 1) * d for p, k, d in zip(around, kernel * 2, dilations * 2)):  # a patch of nothing but padding
        wire, height, width = _padded(self, op.name + "_pad", wire, height, width, around, pad), height + top + bottom, width + left + right
        around = (0, 0, 0, 0)
    if kernel == strides == (1, 1):
        return wire
    wire = wire.holding(pad) if any(around) else wire
    name = self.names.take(f"{op.name}_window")
    layer = hw.Window(name, (wire,), (), height, width, kernel, strides, dilations, around, pad, grouped)
    rows, columns = layer.out
    size = rows * columns * layer.taps * wire.channels
    patches = replace(wire, name=name, edge="", shape=(size,), channels=wire.channels * layer.taps, order=np.arange(size))
    return self.inner(replace(layer, results=(patches,)))


def _padded(self: _Builder, name: str, wire: hw.Wire, height: int, width: int, pads: tuple[int, int, int, int], value: int) -> hw.Wire:
    """The image with padding around it, as a layer of its own."""
    name, wire = self.names.take(name), wire.holding(value)
    shape = (wire.channels, height + pads[0] + pads[2], width + pads[1] + pads[3])
    result = replace(wire, name=name, edge="", shape=shape, order=channels_last(shape))
    return self.inner(hw.Pad(name, (wire,), (result,), height, width, pads, value))


def _conv(self: _Builder, op: Conv) -> None:
    _check_widths(self, op)
    wire = self.take(op.inputs[0])
    if wire is None:
        return
    wire, _, _ = _image(self, op, wire)
    order = channels_last(self.graph.edges[op.output].shape)
    outputs, per_group = op.weight.shape[:2]
    geometry = (op.weight.shape[2:], op.strides, op.dilations, op.pads, op.pad_value)
    if op.groups > 1 and per_group == 1:
        wire = _repeated(self, op, wire, outputs // wire.channels)
        patches = _window(self, op, wire, *geometry, True)
        _linear(self, op, hw.Depthwise, patches, op.weight.reshape(outputs, -1), 1, order)
        return
    weight = op.weight.reshape(outputs, per_group, -1)
    if op.groups > 1:
        weight = _spread(weight, op.groups)
        self.notes.append(f"{op.name}: a convolution in {op.groups} groups is built as a dense one with zeros, {op.groups} times "
                          "the multiplications and weight memory of its groups.")
    patches = _window(self, op, wire, *geometry, False)
    matrix = weight.transpose(2, 1, 0).reshape(-1, outputs)  # rows in (kh, kw, c) order, as patches come
    _linear(self, op, hw.MatVec, patches, matrix, 0, order, spread=op.groups)


def _repeated(self: _Builder, op: Conv, wire: hw.Wire, times: int) -> hw.Wire:
    """Every channel `times` times in a row: the input of a depthwise convolution with a channel multiplier."""
    if times == 1:
        return wire
    self.notes.append(f"{op.name}: a depthwise convolution with multiplier {times} reads every channel {times} times.")
    name = self.names.take(f"{op.name}_repeat")
    shape = (wire.channels * times, *wire.shape[1:])
    flat = replace(wire, channels=1)  # a row per pixel, each channel a point of it
    result = replace(wire, name=name, edge="", shape=shape, order=channels_last(shape), channels=1)
    made = self.inner(hw.Upsample(name, (flat,), (result,), wire.pixels, wire.channels, (1, times)))
    return replace(made, channels=shape[0])


def _spread(weight: np.ndarray, groups: int) -> np.ndarray:
    """(O, I/g, taps) of a grouped convolution as the (O, I, taps) of a dense one, zero outside the groups."""
    outputs, per_group, taps = weight.shape
    dense = np.zeros((outputs, per_group * groups, taps), np.int64)
    for g in range(groups):
        rows = slice(g * outputs // groups, (g + 1) * outputs // groups)
        dense[rows, g * per_group:(g + 1) * per_group] = weight[rows]
    return dense


# -- layers without weights


def _pool(self: _Builder, op: MaxPool | SumPool) -> None:
    wire = self.take(op.inputs[0])
    if wire is None:
        return
    wire, height, width = _image(self, op, wire)
    largest = isinstance(op, MaxPool)
    pad = self.graph.edges[op.inputs[0]].lo if largest else op.pad_value
    order = channels_last(self.graph.edges[op.output].shape)
    if _pair(op.kernel) == (height, width) and not any(op.pads):
        name = self.names.take(op.name)
        same = {"lo": wire.lo, "hi": wire.hi} if largest else {}
        self.give(hw.GlobalPool(name, (wire,), (self.wire(name, op.output, order, wire.channels, **same),), largest))
        return
    patches = _window(self, op, wire, op.kernel, op.strides, getattr(op, "dilations", ()), op.pads, pad, True)
    name = self.names.take(op.name)
    same = {"lo": patches.lo, "hi": patches.hi} if largest else {}
    result = self.wire(name, op.output, order, wire.channels, **same)
    self.give(hw.Pool(name, (patches,), (result,), int(np.prod(op.kernel)), largest))


def _pad(self: _Builder, op: Pad) -> None:
    wire = self.take(op.inputs[0])
    if wire is None:
        return
    wire, height, width = _image(self, op, wire)
    half = len(op.pads) // 2
    if op.pads[0] or op.pads[half]:
        raise _Refused("unsupported-op", f"{op.pads[0] + op.pads[half]} more channels of padding", "finn pads rows and columns",
                       "concatenate the channels instead, or leave them out")
    (top, left), (bottom, right) = _pair(op.pads[1:half], 0), _pair(op.pads[half + 1:], 0)
    made = _padded(self, op.name, wire, height, width, (top, left, bottom, right), op.value)
    shape = self.graph.edges[op.output].shape
    self.give(replace(self.layers.pop(), results=(replace(made, edge=op.output, shape=shape, order=channels_last(shape)),)))


def _requantise(self: _Builder, op: Requantise) -> None:
    edge = self.graph.edges[op.output]
    if edge.bits > MAX_BITS:
        self.refuse(op.name, *_too_wide(f"output of {edge.bits} bits").args)
    wire = self.take(op.inputs[0])
    if wire is None:
        return
    name = self.names.take(op.name)
    made = step_of(op, name, wire, self.wire(name, op.output, wire.order, wire.channels))
    if made is None:
        raise _Refused("unsupported-op", f"a function of {wire.hi - wire.lo + 1:,} values that is not monotone",
                       f"finn counts thresholds, or tabulates at most {MAX_TABLE:,} values",
                       "use a monotone activation such as ReLU, or quantise to fewer bits before it")
    self.give(made)


def _add(self: _Builder, op: Add) -> None:
    wires = self.sources(op)
    if wires is None:
        return
    if len(wires) == 1:
        raise _Refused("unsupported-op", "an Add of one input", "finn adds two or more", "scale in the next quantiser instead")
    if any(not np.array_equal(wire.order, wires[0].order) for wire in wires):
        raise _Refused("unsupported-op", "branches whose elements come in another order", "finn adds streams as they come",
                       "reshape or transpose both branches alike")
    total, factor = wires[0], op.multipliers[0]
    for k, (wire, other) in enumerate(zip(wires[1:], op.multipliers[1:]), 2):
        last = k == len(wires)
        name = self.names.take(op.name if last else f"{op.name}_of_{k}")
        ends = [(factor * a + other * b) for a in (total.lo, total.hi) for b in (wire.lo, wire.hi)]
        offset = _sum_of(factor * total.offset, other * wire.offset)
        result = replace(total, name=name, edge="", lo=min(*ends, -1), hi=max(ends), offset=offset,
                         channels=max(total.channels, wire.channels))
        if last:
            about = self.graph.edges[op.output]  # its proved range may be tighter
            result = replace(result, edge=op.output, shape=about.shape, lo=max(result.lo, min(-1, about.lo - int(offset.max()))),
                             hi=min(result.hi, about.hi - int(offset.min())))
        layer = hw.Add(name, (total, wire), (result,), (factor, other))
        if last:
            self.give(layer)
        else:
            total, factor = self.inner(layer), 1


def _sum_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two repeating sequences added: repeats after their common multiple."""
    length = int(np.lcm(len(a), len(b)))
    return np.tile(a, length // len(a)) + np.tile(b, length // len(b))


def _concat(self: _Builder, op: Concat) -> None:
    wires = self.sources(op)
    if wires is None:
        return
    if len(wires[0].shape) > 1:
        wires = [_image(self, op, wire)[0] for wire in wires]
    # integers of each branch per turn: a pixel's channels, or a row or image of them
    chunks = [w.shape[0] * (int(np.prod(w.shape[op.axis:])) if op.axis else 1) for w in wires]
    total, taken = wires[0], chunks[0]
    out = self.graph.edges[op.output].shape
    for k, (wire, chunk) in enumerate(zip(wires[1:], chunks[1:]), 2):
        last = k == len(wires)
        name = self.names.take(op.name if last else f"{op.name}_of_{k}")
        both = (total.holding(wire.lo, wire.hi), wire.holding(total.lo, total.hi))
        channels = taken + chunk if op.axis == 0 else total.channels
        result = replace(both[0], name=name, edge="", shape=(total.total + wire.total,), order=np.arange(total.total + wire.total),
                         channels=channels)
        if last:
            order = channels_last(out) if len(out) > 1 else np.concatenate([w.order + start for w, start in zip(wires, _starts(chunks))])
            result = replace(result, edge=op.output, shape=out, order=order)
        layer = hw.Concat(name, both, (result,), (taken, chunk))
        if last:
            self.give(layer)
        else:
            total, taken = self.inner(layer), taken + chunk


def _starts(chunks: list[int]) -> list[int]:
    return [sum(chunks[:k]) for k in range(len(chunks))]


def _upsample(self: _Builder, op: Upsample) -> None:
    wire = self.take(op.inputs[0])
    if wire is None:
        return
    wire, height, width = _image(self, op, wire)
    if op.factors[0] != 1:
        raise _Refused("unsupported-op", f"{op.factors[0]} times as many channels", "finn repeats rows and columns",
                       "upsample rows and columns only")
    name = self.names.take(op.name)
    order = channels_last(self.graph.edges[op.output].shape)
    result = replace(wire, name=name, edge=op.output, shape=self.graph.edges[op.output].shape, order=order)
    self.give(hw.Upsample(name, (wire,), (result,), height, width, _pair(op.factors[1:])))


def _unbuilt(value: str, cure: str) -> Callable[[_Builder, Op], None]:
    def build(self: _Builder, op: Op) -> None:
        raise _Refused("unsupported-op", value, "finn has no unit for it", cure)
    return build


_BUILD: dict[type, Callable[[_Builder, Op], None]] = {
    Input: _input, Reshape: _view, Transpose: _view, Dense: _dense, Conv: _conv, MaxPool: _pool, SumPool: _pool, Pad: _pad,
    Requantise: _requantise, Add: _add, Concat: _concat, Upsample: _upsample,
    ConvTranspose: _unbuilt("a transposed convolution", "use nearest-neighbour upsampling and a convolution"),
    DepthToSpace: _unbuilt("DepthToSpace", "use nearest-neighbour upsampling and a convolution"),
}
