"""The state of one model on its way through the rules, and the services that rules use.

A rule takes (walk, node, args) and returns what the node's output is; it raises Refused for a node that has no integer
form, and Silent where an input was refused before. `lowering` applies the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.errors import Reason, ReasonKind, Refused
from greenedge.frontends.input_type import InputType, read_annotation
from greenedge.frontends.source import Node, Source
from greenedge.graph import Op
from greenedge.graph.ops.base import Array, Shape
from greenedge.lower.builder import Birth, Builder
from greenedge.lower.expr import Const, ShapeChange, Var
from greenedge.lower.folding import Folding
from greenedge.lower.rounding import Quantiser
from greenedge.lower.row_patterns import find_spelled
from greenedge.lower.values import Broken, Constant, Grid, Host, Live, Masked, Value, cut_constant_axes, single_zero


class Silent(Exception):
    """Ends a rule whose input was refused before: it has no reason of its own."""


@dataclass(frozen=True)
class HostInput:
    """One quantiser that runs on the host: float tensor → levels on an input edge."""

    edge: str
    tensor: str
    scale: Array
    zero: Array
    lo: int
    hi: int
    mode: str


class Walk:
    """One model while its nodes are lowered: the value of every tensor, the graph under construction, the reasons why
    not.

    Raises nothing for an input of unknown shape: it becomes a reason.
    """

    def __init__(self, source: Source, declared: dict[str, InputType]):
        self.source = source
        self.builder = Builder(source.name)
        self.folding = Folding(source.opset)
        self.values: dict[str, Value] = {name: Constant(array) for name, array in source.constants.items()}
        self.reasons: list[Reason] = []
        self.host_inputs: list[HostInput] = []
        self.float_inputs: list[str] = []
        self._readers: dict[str, list[Node]] = {}
        for node in source.nodes:
            for name in dict.fromkeys(node.inputs):
                self._readers.setdefault(name, []).append(node)
        self.spelled, self._inside = find_spelled(source)
        self.direct: dict[str, str] = {}  # input edge -> the model's input whose integers it takes as they are
        sizes = {shape[0] for shape in source.inputs.values() if shape}
        self.batch = next((size for size in sizes if size), 1)
        for name, shape in source.inputs.items():
            self.values[name] = self._add_input(name, shape, declared.get(name))

    def _add_input(self, name: str, shape: Sequence[int | None], declared: InputType | None) -> Value:
        """An input of the model: an edge where its integer type is declared or annotated, else a float tensor of the
        host."""
        full = tuple(size or (self.batch if axis == 0 else 1) for axis, size in enumerate(shape))
        if any(size is None for size in shape[1:]) or not shape:
            self.refuse(
                name,
                Refused(
                    ReasonKind.DYNAMIC_SHAPE,
                    f"input of shape {shape}",
                    "only the batch axis may be open",
                    "export with a fixed input shape",
                ),
            )
            return Broken()
        kind = declared or read_annotation(self.source.annotations.get(name))
        if kind is None:
            self.float_inputs.append(name)
            return Host(np.zeros(full, np.float32))
        edge = self.builder.input(name, full[1:], kind.lo, kind.hi)
        expr = Var() if kind.scale == 1 else Var() * Const.of(np.array(kind.scale, dtype=object))
        self.builder.trace.births[edge] = Birth(name, expr)
        self.direct[edge] = name
        return Live(edge, expr)

    def refuse(self, name: str, refusal: Refused, module: str | None = None) -> None:
        """Notes the reason why the node (or tensor) `name` cannot be lowered, once."""
        reason = refusal.at(name, module)
        if reason not in self.reasons:
            self.reasons.append(reason)

    def stand_in(self, tensor: str) -> Value:
        """Integers of one bit in place of a tensor that a refused node was to write; Broken for one of unknown shape,
        and for one that no input reaches (weights).

        The model has a reason against it by then: nothing is built of what is lowered from here on.
        """
        shape = self.source.shapes.get(tensor)
        if shape is None or len(shape) < 2 or None in shape or not self._is_live(tensor):
            return Broken()
        edge = self.builder.input(f"in place of {tensor}", tuple(size or 1 for size in shape[1:]), 0, 1)
        return Live(edge, Var())

    def _is_live(self, tensor: str) -> bool:
        live = set(self.source.inputs)
        for node in self.source.nodes:
            if live.intersection(node.inputs):
                live.update(node.outputs)
        return tensor in live

    # -- services for the rules -------------------------------------------------------------------------------------

    def is_inside(self, node: Node) -> bool:
        """Whether the node is a part of a function of a row, spelled out, of a tensor of the network."""
        return isinstance(self.values.get(self._inside.get(node.name, "")), (Live, Masked))

    def readers(self, tensor: str) -> list[Node]:
        """The nodes that read a tensor."""
        return self._readers.get(tensor, [])

    def host_input(self, node: Node, value: Host, scale: Array, zero: Array, levels: Quantiser, mode: str) -> str:
        """The input edge made by quantising a host tensor; one edge for equal quantisers of one tensor."""
        tensor = node.inputs[0]
        for known in self.host_inputs:
            if (
                (known.tensor, known.lo, known.hi, known.mode) == (tensor, levels.lo, levels.hi, mode)
                and np.array_equal(known.scale, scale)
                and np.array_equal(known.zero, zero)
            ):
                return known.edge
        name = self._name_host_input(node)
        edge = self.builder.input(name, value.example.shape[1:], levels.lo, levels.hi, single_zero(zero))
        self.host_inputs.append(
            HostInput(edge, tensor, np.asarray(scale), np.asarray(zero), levels.lo, levels.hi, mode)
        )
        return edge

    def _name_host_input(self, node: Node) -> str:
        """The name of the edge that a quantiser of the host makes: the input's that it reads, else the quantiser's; the
        first edge of a model with one input is that input."""
        if len(self.source.inputs) == 1:
            return next(iter(self.source.inputs)) if not self.host_inputs else node.module or node.name
        is_first = all(known.tensor != node.inputs[0] for known in self.host_inputs)
        return node.inputs[0] if is_first and node.inputs[0] in self.source.inputs else node.module or node.name

    def shape_of(self, value: Value) -> Shape:
        """A tensor's shape with its batch axis."""
        if isinstance(value, Masked):
            value = value.live
        if isinstance(value, Live):
            return (self.batch, *self.builder.edges[value.edge].shape)
        if isinstance(value, Host):
            return value.example.shape
        if isinstance(value, Broken):
            raise Silent
        return value.ints.shape if isinstance(value, Grid) else np.shape(value.array)

    def edge_shape(self, value: Live) -> Shape:
        """The shape of a live tensor without its batch axis."""
        return self.builder.edges[value.edge].shape

    def transform(self, node: Node, value: Live, make: Callable[[str], Op], change: ShapeChange) -> Live:
        """Emits the operation make(name) and carries every constant of the expression through `change`."""
        old = self.edge_shape(value)
        edge = self.builder.emit(make(self.builder.unique(node)))

        def move_constant(part: Array) -> Array:
            if part.size == 1:
                return part.reshape(())
            return cut_constant_axes(np.asarray(change(np.broadcast_to(part, old))))

        return Live(edge, value.expr.map_constants(move_constant))

    def fold(self, node: Node, args: Args) -> Value:
        """A node off the integer path: computed now where constant, a host tensor otherwise."""
        return self.fold_all(node, args)[0]

    def fold_all(self, node: Node, args: Args, has_form: bool = True) -> list[Value]:
        """As `fold`, for every output of the node; `has_form`: on integers it would have an integer form."""
        arrays = [None if arg is None else self._example(arg) for arg in args]
        live = [arg for arg in args if isinstance(arg, Live)]
        hosts = [arg for arg in args if isinstance(arg, Host)]
        if not live and not hosts:
            return [Constant(result) for result in self.folding.evaluate(node, arrays)]
        results = self.folding.describe(node, arrays, [isinstance(arg, (Constant, Grid)) for arg in args])
        after = next((host for host in hosts if host.origin is not None), None)
        if live and any(host.origin is None for host in hosts):
            raise Refused(
                ReasonKind.FLOAT_ISLAND,
                f"{node.op} joins integers with the float input",
                "a skip from the float input needs the same quantiser",
                "quantise the input once and use the quantised tensor on both paths",
            )
        if after is not None:
            also = after.also if has_form else (*after.also, node)
            return [Host(result, after.origin, after.why, also) for result in results]
        if live:
            why = f"{node.op} ({node.name}), which has no integer form here"
            return [Host(result, node, why) for result in results]
        return [Host(result) for result in results]

    def _example(self, value: Value) -> Array:
        """An array with the tensor's shape and type; its values where it is constant."""
        if isinstance(value, (Live, Masked)):
            return np.zeros(self.shape_of(value), np.float32)
        if isinstance(value, Host):
            return value.example
        if isinstance(value, Broken):
            raise Silent
        return value.real().astype(np.float32) if isinstance(value, Grid) else value.array


Args = Sequence[Value | None]  # the values of a node's inputs; None where one is left out
Rule = Callable[[Walk, Node, Args], Value]
SplittingRule = Callable[[Walk, Node, Args], list[Value]]  # of an operator with several outputs
