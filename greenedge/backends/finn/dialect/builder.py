"""What the rules build a network with: names, wires for edges, forks where an edge has several readers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.layer import ZERO, Layer, Wire
from greenedge.errors import ReasonKind
from greenedge.graph import Graph, Op, Reshape, Transpose
from greenedge.graph.ops.base import Ints
from greenedge.legalise.rules import NotEmitting, RuleBuilder

NO_HARDWARE = (Reshape, Transpose)  # they rename what comes when; their rule is lower_stream.view
_RESERVED = {
    "top",
    "clk",
    "rst",
    "reset",
    "restart",
    "input",
    "output",
    "s",
    "m",
    "s_gated",
    "result",
    "age",
    "module",
    "logic",
    "wire",
    "reg",
    "begin",
    "end",
    "assign",
    "for",
    "if",
    "else",
    "case",
    "initial",
    "always",
}


def channels_last(shape: tuple[int, ...]) -> Ints:
    """For each place in the stream of an edge, the row-major index of the element there."""
    index = np.arange(int(np.prod(shape))).reshape(shape)
    return np.moveaxis(index, 0, -1).ravel() if len(shape) > 1 else index.ravel()


class Names:
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


def make_reorder(name: str, wire: Wire, taken: Ints, shape: tuple[int, ...], order: Ints) -> hw.Reorder:
    """The layer that gives those elements of a wire that have the row-major indices `taken` in its edge.

    Its result carries no edge of the graph; it has `shape` and `order`.
    """
    place = np.empty(wire.total, np.int64)  # of each element in the stream
    place[wire.order] = np.arange(wire.total)
    index = place[taken]
    offset = np.resize(wire.offset, wire.total)[index] if np.any(wire.offset) else ZERO
    channels = shape[0] if shape else 1
    result = replace(wire, name=name, edge="", shape=shape, order=order, channels=channels, offset=offset)
    return hw.Reorder(name, (wire,), (result,), index)


def make_join(name: str, a: Wire, b: Wire, chunks: tuple[int, int], along_channels: bool) -> hw.Concat:
    """`chunks[0]` integers of a, then `chunks[1]` of b; the result carries no edge of the graph."""
    both = (a.holding(b.lo, b.hi), b.holding(a.lo, a.hi))
    channels, total = sum(chunks) if along_channels else a.channels, a.total + b.total
    result = replace(both[0], name=name, edge="", shape=(total,), order=np.arange(total), channels=channels)
    return hw.Concat(name, both, (result,), chunks)


@dataclass(frozen=True)
class Image:
    """A wire in pixels that travels channels-last."""

    wire: Wire
    height: int
    width: int


class Builder(RuleBuilder):
    """Adds one layer after another. What reads a refused edge is still checked for what does not depend on that edge.

    There is no checking without emission: whether a network fits a device is known only once its layers are.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.layers: list[Layer] = []
        self.notes: list[str] = []
        self.live = set(graph.outputs)  # edges that the output depends on
        for op in reversed(graph.ops):
            self.live |= set(op.inputs) if op.output in self.live else set()
        self.names = Names()
        self.source: Wire | None = None
        self.copies: list[Wire] = []  # of the source, for inputs that have not taken theirs
        self._free: dict[str, list[Wire]] = {}  # wires of an edge that nobody has taken yet
        self._views: dict[str, tuple[str, Ints]] = {}  # edge -> (the edge whose wire carries it, order)

    @property
    def live_ops(self) -> list[Op]:
        """The operations that the output depends on."""
        return [op for op in self.graph.ops if op.output in self.live]

    # -- edges and wires

    def find_readers(self, edge: str) -> list[Op | None]:
        """Who reads the values of `edge`, seen through operations that are no hardware; None stands for the output."""
        readers: list[Op | None] = [None] if edge in self.graph.outputs else []
        for reader in (op for op in self.graph.consumers(edge) if op.output in self.live):
            if isinstance(reader, NO_HARDWARE):
                readers += self.find_readers(reader.output)
            else:
                readers += [reader] * reader.inputs.count(edge)
        return readers

    def take(self, edge: str) -> Wire:
        """A wire that carries `edge`, for one reader. Ends the rule where the producer of the edge was refused."""
        root, order = self._views.get(edge, (edge, None))
        wires = self._free.get(root)
        if not wires:
            raise NotEmitting
        wire = wires.pop()
        return wire if order is None else replace(wire, edge=edge, shape=self.graph.edges[edge].shape, order=order)

    def take_all(self, op: Op) -> list[Wire]:
        """The wires that `op` reads. Ends the rule where the producer of one was refused, as `take` does."""
        return [self.take(edge) for edge in op.inputs]

    def take_image(self, op: Op) -> Image:
        """The first wire that `op` reads, as an image; requires that it is one. Sequences were widened before."""
        wire = self.require_channels_last(op, self.take(op.inputs[0]))
        channels, height, width = wire.shape
        return Image(replace(wire, channels=channels), height, width)

    def require_channels_last(self, op: Op, wire: Wire) -> Wire:
        """The wire of an image or sequence, put in order where it does not travel channels-last.

        Ends the rule where it is none.
        """
        shape = wire.shape
        self.require(
            len(shape) in (2, 3),
            f"{op.kind} on {shape}",
            "finn computes on (channels, height, width) and (channels, length)",
            "use two or fewer spatial axes",
        )
        self.begin_emission()
        return replace(self.put_in_order(wire, channels_last(shape)), channels=shape[0])

    def put_in_order(self, wire: Wire, order: Ints) -> Wire:
        """The same edge in another order, by a layer of its own where that is not how it travels."""
        if np.array_equal(wire.order, order):
            return wire
        name = self.names.take(f"{wire.name}_reorder")
        return self.give_inner(make_reorder(name, wire, order, wire.shape, order))

    def make_wire(
        self,
        name: str,
        edge: str,
        order: Ints,
        channels: int,
        bounds: tuple[int, int] | None = None,
        offset: Ints = ZERO,
    ) -> Wire:
        """A new wire for an edge of the graph, whose range bounds what travels unless `bounds` says otherwise."""
        about = self.graph.edges[edge]
        low, high = bounds or (about.lo, about.hi)
        return Wire(name, edge, about.shape, order, channels, low, high, offset)

    def give_inner(self, layer: Layer) -> Wire:
        """Appends a layer whose result only the next one reads."""
        self.layers.append(layer)
        return layer.result

    def give(self, layer: Layer) -> None:
        """Appends the layer that writes an edge."""
        self.layers.append(layer)
        self.offer(layer.result)

    def offer(self, wire: Wire) -> None:
        """Makes one wire per reader, with forks where there are several."""
        self._free[wire.edge] = self.fork(wire, len(self.find_readers(wire.edge)))

    def fork(self, wire: Wire, count: int) -> list[Wire]:
        """So many copies of a wire, at least one."""
        wires = [wire]
        for _ in range(count - 1):
            last = wires.pop()
            copies = tuple(replace(last, name=self.names.take(f"{wire.name}_to")) for _ in range(2))
            self.layers.append(hw.Fork(f"{copies[0].name}_fork", (last,), copies))
            wires += copies
        return wires

    def order_of(self, edge: str) -> tuple[str, Ints]:
        """(the edge whose wire carries `edge`, in which order). Ends the rule where its producer was refused."""
        if edge in self._views:
            return self._views[edge]
        wire = self._find_wire(edge)
        if wire is None:
            raise NotEmitting
        return edge, wire.order

    def view(self, edge: str, root: str, order: Ints) -> None:
        """States that the wire of `root` carries `edge` too, in this order."""
        self._views[edge] = (root, order)

    # -- the network

    def take_outputs(self) -> list[Wire]:
        """A wire of each output, in their order. Ends what asks where the producer of one was refused, as `take`
        does."""
        return [self.take(edge) for edge in self.graph.outputs]

    def put_last(self, wire: Wire) -> Wire:
        """The wire of the one output, channels last, as the host takes it."""
        order = channels_last(wire.shape)
        if np.array_equal(wire.order, order):
            return wire
        layer = make_reorder(self.names.take(f"{wire.name}_reorder"), wire, order, wire.shape, order)
        return self.give_inner(replace(layer, results=(replace(layer.result, edge=wire.edge),)))

    def finish(self, wire: Wire) -> hw.Network | None:
        """The network that ends in `wire`, or None with a reason added."""
        if not self.layers:
            self.refuse(
                self.graph.name,
                ReasonKind.UNSUPPORTED_GRAPH,
                "no layer at all",
                "finn builds at least one layer",
                "give it a layer",
            )
            return None
        assert self.source is not None, "an output that is carried comes from an input"
        return hw.Network(self.graph.name, self.source, tuple(self.layers), wire, self._view_wires(), tuple(self.notes))

    def _view_wires(self) -> tuple[Wire, ...]:
        edges = self.graph.edges
        carriers = ((edge, self._find_wire(root), order) for edge, (root, order) in self._views.items())
        return tuple(
            replace(wire, edge=edge, shape=edges[edge].shape, order=order)
            for edge, wire, order in carriers
            if wire is not None
        )

    def _find_wire(self, edge: str) -> Wire | None:
        """The wire that its layer writes `edge` to."""
        first = [self.source] if self.source is not None else []
        wires = [*first, *(wire for layer in self.layers for wire in layer.results)]
        return next((wire for wire in wires if wire.edge == edge), None)
