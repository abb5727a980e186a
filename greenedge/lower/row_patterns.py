"""Functions of a row that a model spells out, node by node: found before the walk, so that they are lowered as one.

x * Reciprocal(Sqrt(ReduceMean(x^2) + epsilon)), x / Sqrt(…)               →  RMSNormalization(x)
(x - ReduceMean(x)) / Sqrt(ReduceMean((x - ReduceMean(x))^2) + epsilon)    →  LayerNormalization(x)
Exp(x - ReduceMax(x)) / ReduceSum(Exp(x - ReduceMax(x))), or without max   →  Softmax(x)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from greenedge.frontends.source import Node, Source


@dataclass(frozen=True)
class Spelled:
    """The last node of a function of a row, what the function is, and the tensor that it is of."""

    node: Node
    tensor: str


@dataclass
class _Parts:
    """The nodes of one pattern, while it is matched."""

    source: Source
    producers: dict[str, Node]
    used: list[Node] = field(default_factory=list)

    def made_by(self, tensor: str, *ops: str) -> Node | None:
        """The node that gives a tensor, where it is one of these operators."""
        node = self.producers.get(tensor)
        if node is None or node.op not in ops:
            return None
        self.used.append(node)
        return node

    def constant(self, tensor: str) -> float | None:
        """The one number of a constant."""
        array = self.source.constants.get(tensor)
        return float(array.item()) if array is not None and array.size == 1 else None

    def reduced(self, tensor: str, op: str) -> str | None:
        """x of ReduceOp(x) along its last axis, which stays."""
        node = self.made_by(tensor, op)
        if node is None or not node.attrs.get("keepdims", 1):
            return None
        axes = list(node.attrs.get("axes", ()))
        if len(node.inputs) > 1 and node.inputs[1] in self.source.constants:
            axes = np.ravel(self.source.constants[node.inputs[1]]).tolist()
        shape = self.source.shapes.get(node.inputs[0], self.source.inputs.get(node.inputs[0]))
        last = (-1,) if shape is None else (-1, len(shape) - 1)
        return node.inputs[0] if len(axes) == 1 and axes[0] in last else None

    def squared(self, tensor: str) -> str | None:
        """x of Pow(x, 2) or Mul(x, x)."""
        node = self.made_by(tensor, "Pow", "Mul")
        if node is None or len(node.inputs) != 2:
            return None
        first, second = node.inputs
        is_square = first == second if node.op == "Mul" else self.constant(second) == 2.0
        return first if is_square else None

    def mean_of_squares(self, tensor: str) -> tuple[str, float] | None:
        """(x, epsilon) of Sqrt(ReduceMean(x^2) + epsilon)."""
        root = self.made_by(tensor, "Sqrt")
        total = self.made_by(root.inputs[0], "Add") if root else None
        for mean, epsilon in _both_ways(total):
            value = self.constant(epsilon)
            squares = self.reduced(mean, "ReduceMean") if value is not None else None
            x = self.squared(squares) if squares else None
            if x is not None and value is not None:
                return x, value
        return None


def find_spelled(source: Source) -> tuple[dict[str, Spelled], dict[str, str]]:
    """({name of a last node: its function}, {name of a node before it: the tensor that the function is of}).

    Nothing else reads what lies between.
    """
    producers = {name: node for node in source.nodes for name in node.outputs if name}
    readers: dict[str, list[str]] = {name: ["the model"] for name in source.outputs}
    for node in source.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node.name)
    found: dict[str, Spelled] = {}
    inside: dict[str, str] = {}
    for node in source.nodes:
        for spelled, used in _match(node, source, producers):
            names = {one.name for one in used} | {node.name}
            between = {reader for one in used for name in one.outputs for reader in readers.get(name, [])}
            if between <= names and not names & inside.keys():
                found[node.name] = spelled
                inside |= {one.name: spelled.tensor for one in used}
                break
    return found, inside


def _match(node: Node, source: Source, producers: dict[str, Node]) -> Iterator[tuple[Spelled, list[Node]]]:
    """The functions that may end in this node, and the nodes before it that belong to them."""
    if node.op not in ("Mul", "Div") or len(node.inputs) != 2:
        return
    for x, divisor in _both_ways(node) if node.op == "Mul" else (node.inputs,):
        parts = _Parts(source, producers)
        if node.op == "Mul":
            inverse = parts.made_by(divisor, "Reciprocal")
            if inverse is None:
                continue
            divisor = inverse.inputs[0]
        elif (total := _Parts(source, producers)).reduced(divisor, "ReduceSum") == x:
            yield from _match_softmax(node, x, total)
            continue
        root = parts.mean_of_squares(divisor)
        if root is None or root[0] != x:
            continue
        plain, less = list(parts.used), parts.made_by(x, "Sub")
        if less is not None and parts.reduced(less.inputs[1], "ReduceMean") == less.inputs[0]:
            yield _spell(node, "LayerNormalization", less.inputs[0], epsilon=root[1]), parts.used
        yield _spell(node, "RMSNormalization", x, epsilon=root[1]), plain


def _match_softmax(node: Node, e: str, parts: _Parts) -> Iterator[tuple[Spelled, list[Node]]]:
    power = parts.made_by(e, "Exp")
    if power is None:
        return
    x, plain = power.inputs[0], list(parts.used)
    less = parts.made_by(x, "Sub")
    if less is not None and parts.reduced(less.inputs[1], "ReduceMax") == less.inputs[0]:
        yield _spell(node, "Softmax", less.inputs[0]), parts.used
    yield _spell(node, "Softmax", x), plain


def _spell(node: Node, op: str, x: str, **attrs: float) -> Spelled:
    """The function as one node in place of its last; its proto stays that of the last, which nobody writes."""
    return Spelled(replace(node, op=op, inputs=(x,), attrs={"axis": -1, **attrs}), x)


def _both_ways(node: Node | None) -> tuple[tuple[str, ...], ...]:
    """The inputs of a node that commutes, in both orders; nothing for None."""
    if node is None or len(node.inputs) != 2:
        return ()
    first, second = node.inputs
    return ((first, second), (second, first))
