"""What the rules unroll with: ranges of wires, and the builder that checks a graph or makes da4ml's expression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.graph import Edge, Graph, Op
from greenedge.graph.ops.base import Floats
from greenedge.legalise.rules import RuleBuilder, Rules

Wires = Any  # da4ml's FixedVariableArray; da4ml is imported where a graph is traced alone, and has no types
Variables = NDArray[np.object_]  # of da4ml's FixedVariables, and of numbers where a value is constant


@dataclass(frozen=True)
class Span:
    """The least and the greatest value of every element of an edge, in its shape, and the steps between (floats)."""

    low: Floats
    high: Floats
    step: Floats


class WireBuilder(RuleBuilder):
    """Checks a graph and estimates its adders; with `spans`, the ranges of what is read, makes wires instead."""

    def __init__(self, graph: Graph, spans: Mapping[str, Span] | None = None) -> None:
        super().__init__(graph, is_checking=spans is None)
        self.adder_bits: dict[str, float] = {}
        self.wires: dict[str, Wires] = {name: _source_wires(span) for name, span in (spans or {}).items()}

    def source(self, op: Op) -> Edge:
        """The edge that `op` reads first."""
        return self.graph.edges[op.inputs[0]]

    def result(self, op: Op) -> Edge:
        return self.graph.edges[op.output]

    def inputs(self, op: Op) -> list[Wires]:
        """The wires of the edges that `op` reads."""
        return [self.wires[name] for name in op.inputs]

    def emit(self, op: Op, variables: Variables) -> None:
        """The output of `op`, with the solver's options of its first input."""
        self.wires[op.output] = join_wires(self.wires[op.inputs[0]], variables)

    def count_adder_bits(self, op: Op, bits: float) -> None:
        """Notes the estimated bits of the adders of `op`."""
        if bits:
            self.adder_bits[op.name] = bits


RULES: Rules[WireBuilder] = Rules("da4ml", "da4ml")


def _source_wires(span: Span) -> Wires:
    from da4ml.trace import FixedVariableArray, HWConfig

    return FixedVariableArray.from_lhs(span.low, span.high, span.step, HWConfig(1, -1, -1), 0.0)


def join_wires(like: Wires, variables: Variables) -> Wires:
    """An array of da4ml with these variables (or numbers) and the solver's options of `like`."""
    from da4ml.trace import FixedVariableArray

    return FixedVariableArray(variables, like.solver_options)


def variables_of(wires: Wires) -> Variables:
    """The variables of an array, or of a plain array of numbers."""
    variables: Variables = wires if isinstance(wires, np.ndarray) else wires._vars
    return variables


def pad_variables(variables: Variables, pads: Sequence[int], value: int) -> Variables:
    """The trailing len(pads)/2 axes padded by (begin..., end...) with a constant."""
    n = len(pads) // 2
    width = [(0, 0)] * (variables.ndim - n) + [(pads[i], pads[n + i]) for i in range(n)]
    sizes = [size + begin + end for size, (begin, end) in zip(variables.shape, width, strict=True)]
    whole = np.full(sizes, float(value), object)
    inner = (slice(begin, begin + size) for size, (begin, _) in zip(variables.shape, width, strict=True))
    whole[tuple(inner)] = variables
    return whole


def bits_of(low: float, high: float, step: float) -> tuple[int, bool, int]:
    """(width, signed, shift) of a wire with da4ml's range low…high in steps of `step`: value = wire << shift."""
    shift = round(math.log2(step)) if low != high or low else 0
    least, most = round(low / 2**shift), round(high / 2**shift)
    edge = Edge("", (), least, most)
    return (0 if least == most == 0 else edge.bits), edge.has_sign, shift
