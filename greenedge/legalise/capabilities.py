"""What a back end can carry of each operation, as data: one function checks it, one test prints it.

SUPPORTED = {Conv: (SPATIAL_AXES.limit({1, 2}, "LiteRT's int8 kernels have one or two", "use 1-D or 2-D layers"),)}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from greenedge.errors import Reason, ReasonKind
from greenedge.graph import Edge, Graph, Op

Value = int | tuple[int, ...]


@dataclass(frozen=True)
class Measure:
    """A number or tuple that an operation has, in a sentence's words: "a window over {} axes"."""

    name: str
    words: str
    of: Callable[[Any, list[Edge], Edge], Value]

    def limit(
        self,
        allowed: frozenset[Value] | set[Value] | range,
        rule: str,
        cure: str,
        kind: ReasonKind = ReasonKind.UNSUPPORTED_OP,
    ) -> Limit:
        """The values that a back end takes, why, and what to do about another."""
        return Limit(self, frozenset(allowed), rule, cure, kind)


@dataclass(frozen=True)
class Limit:
    """The allowed values of one measure."""

    measure: Measure
    allowed: frozenset[Value]
    rule: str
    cure: str
    kind: ReasonKind = ReasonKind.UNSUPPORTED_OP

    def __str__(self) -> str:
        numbers = sorted(value for value in self.allowed if isinstance(value, int))
        if len(numbers) == len(self.allowed) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
            return f"{self.measure.name} {numbers[0]}…{numbers[-1]}"
        others = sorted((value for value in self.allowed if not isinstance(value, int)), key=str)
        values: list[Value] = [*numbers, *others]
        return f"{self.measure.name} {', '.join(map(str, values))}"


Capabilities = Mapping[type[Op], tuple[Limit, ...]]


@dataclass(frozen=True)
class Ends:
    """The most inputs and outputs of what a back end makes (None: any number), why, and what to do about more."""

    inputs: int | None = None
    outputs: int | None = None
    rule: str = ""
    cures: tuple[str, str] = ("", "")  # for inputs, for outputs

    def __str__(self) -> str:
        ends = ((self.inputs, "input"), (self.outputs, "output"))
        return ", ".join(f"{most} {what}{'s' * (most > 1)}" for most, what in ends if most is not None)


# A cure for more outputs than one that needs no training script: the file itself is cut.
ONE_FILE_AN_OUTPUT = "make a file for each output: onnx.load, delete the others from graph.output, onnx.save"
# Cures that need no training script: the command writes the file anew.
QUANTISE_OUTPUT = "give the file an output quantiser: `greenedge requantise MODEL.onnx --inputs X.npy -o OUT.onnx`"


def check_ends(graph: Graph, ends: Ends) -> list[Reason]:
    """Why the graph has more inputs or outputs than these, by name."""
    return [
        Reason(
            graph.name,
            ReasonKind.UNSUPPORTED_GRAPH,
            f"{len(names)} {what} ({', '.join(names)})",
            ends.rule,
            cure,
        )
        for names, most, what, cure in (
            (graph.inputs, ends.inputs, "inputs", ends.cures[0]),
            (graph.outputs, ends.outputs, "outputs", ends.cures[1]),
        )
        if most is not None and len(names) > most
    ]


def check_capabilities(op: Op, graph: Graph, supported: Capabilities, speaker: str) -> list[Reason]:
    """Every limit that the operation exceeds."""
    reasons = []
    for limit in supported.get(type(op), ()):
        value = limit.measure.of(op, graph.input_edges(op), graph.edges[op.output])
        if value not in limit.allowed:
            shown = limit.measure.words.format(value)
            reasons.append(Reason(op.name, limit.kind, shown, limit.rule, limit.cure))
    return reasons


def _spread(values: tuple[int, ...]) -> Value:
    """One number where all are equal."""
    return values[0] if len(set(values)) == 1 else values


SPATIAL_AXES = Measure("spatial axes", "a window over {} axes", lambda op, inputs, output: len(op.kernel))
DILATIONS = Measure("dilation", "dilations {}", lambda op, inputs, output: _spread(op.steps))
RANK = Measure("rank", "a tensor of {} axes", lambda op, inputs, output: len(output.shape))
GROUPS = Measure("groups", "{} groups", lambda op, inputs, output: op.groups)
BRANCHES = Measure("branches", "{} branches", lambda op, inputs, output: len(inputs))
