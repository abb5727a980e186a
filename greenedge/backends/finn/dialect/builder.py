"""What builds a network of layers from an integer graph: names, wires for edges, forks where an edge has several readers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from greenedge.backends.finn.dialect import ops as hw
from greenedge.errors import Reason, ReasonKind
from greenedge.graph import Graph, Op, Reshape, Transpose

MAX_BITS = 8  # of weights, inputs and quantised activations
MAX_SUM_BITS = 16  # of sums that go into a layer with weights without being quantised before
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


class Refused(Exception):
    """Why one operation cannot be built; becomes a Reason."""


def too_wide(value: str, most: int = MAX_BITS) -> Refused:
    return Refused(
        ReasonKind.TOO_WIDE, value, f"finn computes with 1 to {most} bits", f"quantise to at most {most} bits"
    )


def channels_last(shape: tuple[int, ...]) -> np.ndarray:
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


class Builder:
    """Adds one operation after another. What reads a refused edge is still checked for what does not depend on it."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.reasons, self.layers, self.notes = graph, [], [], []
        self.live = set(graph.outputs)  # edges that the output depends on
        for op in reversed(graph.ops):
            self.live |= set(op.inputs) if op.output in self.live else set()
        self.names = Names()
        self.source: hw.Wire | None = None
        self.free: dict[str, list[hw.Wire]] = {}  # wires of an edge that nobody has taken yet
        self.views: dict[str, tuple[str, np.ndarray]] = {}  # edge -> (the edge whose wire carries it, order)

    # -- edges and wires

    def refuse(self, node: str, kind: str, value: str, rule: str, cure: str) -> None:
        self.reasons.append(Reason(node, kind, value, rule, cure))

    def readers(self, edge: str) -> list[Op | None]:
        """Who reads the values of `edge`, seen through reshapes; None stands for the output."""
        found: list[Op | None] = [None] if edge in self.graph.outputs else []
        for reader in (op for op in self.graph.consumers(edge) if op.output in self.live):
            through = isinstance(reader, (Reshape, Transpose))
            found += self.readers(reader.output) if through else [reader] * reader.inputs.count(edge)
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

    def add(self, op: Op, rules: Mapping[type[Op], Callable[[Builder, Op], None]]) -> None:
        """Translates one operation by its rule, or says why not."""
        if op.output not in self.live:
            return
        try:
            if type(op) not in rules:
                raise Refused(
                    ReasonKind.UNSUPPORTED_OP,
                    f"operation {type(op).__name__}",
                    "finn builds no such layer",
                    "choose another back end",
                )
            rules[type(op)](self, op)
        except Refused as refusal:
            self.refuse(op.name, *refusal.args)

    def sources(self, op: Op) -> list[hw.Wire] | None:
        """The wires that `op` reads, None where one of them was refused."""
        wires = [self.take(edge) for edge in op.inputs]
        return None if any(wire is None for wire in wires) else wires

    def finished(self) -> hw.Network | None:
        """The network, or None with a reason added."""
        output = self.graph.outputs[0]
        wire = self.take(output)
        if wire is None:
            return None
        if not np.array_equal(wire.order, channels_last(wire.shape)):
            producer = self.graph.producer(output)
            self.refuse(
                producer.name,
                ReasonKind.UNSUPPORTED_OP,
                f"an output of {wire.shape} whose first axis does not come innermost",
                "finn gives outputs channels-last",
                "put the channels first, or reshape on the host",
            )
            return None
        if not self.layers:
            self.refuse(
                self.graph.name,
                ReasonKind.UNSUPPORTED_GRAPH,
                "no layer at all",
                "finn builds at least one layer",
                "give it a layer",
            )
            return None
        edges = self.graph.edges
        views = tuple(
            replace(self.written(root), edge=edge, shape=edges[edge].shape, order=order)
            for edge, (root, order) in self.views.items()
            if self.written(root) is not None
        )
        return hw.Network(self.graph.name, self.source, tuple(self.layers), wire, views, tuple(self.notes))

    def _wires(self) -> list[hw.Wire]:
        first = [self.source] if self.source is not None else []
        return [*first, *(wire for layer in self.layers for wire in layer.results)]

    def written(self, edge: str) -> hw.Wire | None:
        """The wire that its layer writes `edge` to."""
        return next((wire for wire in self._wires() if wire.edge == edge), None)
