"""What the builders of both int8 formats do alike: a sum and the quantiser behind it become one operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from greenedge.backends.int8.layers import Layer
from greenedge.backends.int8.quant_params import LEVELS, Encoding
from greenedge.graph import Conv, Graph, Op, Requantise, SumPool, Table
from greenedge.graph.lines import identity_step, is_straight
from greenedge.graph.ops.base import Ints
from greenedge.legalise.rules import RuleBuilder

WriteSum = Callable[[Requantise], None]


class FusingBuilder(RuleBuilder):
    """The rule of a sum says how it is written with a quantiser behind it; the quantiser's rule then has it written.

    layers          the operators that requantise, in the file's order, with their proofs
    wide            edges that are stored as int32: sums of more than 8 bits on their way to the outputs
    pairs           sum or product of two tensors -> its operation, whose quantisers may be looked up by pairs of levels
    rounded         those of which a quantiser that is a straight line may be multiplied and rounded instead
    requantises_wide  whether a quantiser may read such an edge
    exact           sums behind which a quantiser is written in integers, whatever its form
    channel_axes    sum -> the axes along which its operator can have a step function per index
    """

    def __init__(self, graph: Graph, is_checking: bool = False) -> None:
        super().__init__(graph, is_checking)
        self.layers: list[Layer] = []
        self.channel_axes: dict[str, tuple[int, ...]] = {}
        self.wide: set[str] = set()
        self.exact: set[str] = set()
        self.requantises_wide = False
        self.pairs: dict[str, Op] = {}
        self.rounded: set[str] = set()
        self._sums: dict[str, WriteSum] = {}

    def write_sum(self, op: Op, write: WriteSum, accumulate: Callable[[], None]) -> None:
        """Has `write` called by every quantiser that reads the sum. Where something else reads it too it is stored as
        it is: by `write` at once, with the identity, or by `accumulate` as int32."""
        if op.output in self.wide:
            accumulate()
        elif self.graph.needs_storage(op.output):
            write(identity_step(self.graph.edges[op.output], op.output))
            return
        self._sums[op.output] = write

    def announce_pairs(self, op: Op, is_rounded: bool) -> None:
        """Notes that what reads `op` may be looked up by the pair of its inputs' levels."""
        if len(op.inputs) == 2 and (op.output in self.wide or not self.graph.needs_storage(op.output)):
            self.pairs[op.output] = op
            if is_rounded:
                self.rounded.add(op.output)

    def find_pairs(self, step: Requantise) -> Op | None:
        """The operation by whose pairs of levels `step` has to be looked up; None where it need not or cannot be."""
        source = step.inputs[0]
        return None if source in self.rounded and is_straight(step) else self.pairs.get(source)

    def is_tabulated(self, step: Requantise) -> bool:
        """Whether the step function is looked up: it is no straight line, and reads levels that are stored."""
        source = step.inputs[0]
        is_sum = self.graph.producer(source).accumulates and not self.graph.needs_storage(source)
        return not is_sum and self.graph.edges[source].levels <= LEVELS + 1 and not is_straight(step)

    def sum_before(self, step: Requantise) -> WriteSum | None:
        """What writes the sum that `step` reads together with it; None where it reads levels that are stored."""
        return self._sums.get(step.inputs[0])


def tabulate_levels(step: Requantise, offset: int, size: int = 256) -> Ints:
    """(C, size) level of each stored integer k, which stands for the level k - offset; what never arrives has the
    level of the nearest that does."""
    return find_levels(step, np.arange(size) - offset)


def tabulate_pairs(step: Requantise, op: Op, first: Encoding, second: Encoding) -> Ints:
    """(C, levels of the first * levels of the second): what the quantiser makes of `op` on each pair of levels, the
    second input's next to each other."""
    a, b = np.meshgrid(*(np.arange(code.lo, code.hi + 1) for code in (first, second)), indexing="ij")
    shape = (a.size, *(1,) * step.axis, step.channels)  # a sample for each pair, as many channels as the step has
    pairs = [np.broadcast_to(part.reshape(-1, *(1,) * (step.axis + 1)), shape) for part in (a, b)]
    return find_levels(step, np.asarray(op.execute(pairs, None)).reshape(a.size, step.channels).T)


def find_levels(step: Requantise, x: Ints) -> Ints:
    """(C, n) level of each of the integers `x`, (n,) or (C, n); what never arrives has the level of the nearest that
    does."""
    values = np.clip(x, step.x_lo[:, None], step.x_hi[:, None])
    if isinstance(step.forms, Table):
        return np.take_along_axis(step.forms.levels, values - step.x_lo[:, None], axis=1)
    return step.forms.count(step.lo, values.T).T


def choose_zero_level(
    graph: Graph, edge: str, lo: int, hi: int, padding: tuple[type[Conv] | type[SumPool], ...]
) -> int:
    """The level within lo … hi that the zero point of an edge stands for: the one with which its readers pad, where
    they agree on one, else the model's own or the nearest to it.

    `padding` are the kinds of operations whose operator pads with the zero point. With the model's zero a layer's
    bias is a whole number of accumulators where the model's is.
    """
    levels = {op.pad_value for op in graph.consumers(edge) if isinstance(op, padding) and any(op.pads)}
    if len(levels) == 1 and lo <= min(levels) <= hi:
        return levels.pop()
    return min(max(graph.edges[edge].zero, lo), hi)
