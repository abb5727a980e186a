"""The integer graph under construction: emits operations with their shapes and proved ranges.

Every edge has ranges that broadcast against its shape: a dense layer's outputs have one range each, derived from its
weights and its inputs' ranges, so accumulators are as narrow as the model proves.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from fractions import Fraction
from math import gcd, lcm
from typing import ParamSpec, TypeVar

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.source import Node
from greenedge.graph import Affine, Edge, Graph, Input, Linear, Op, Requantise, Steps, Table, freeze
from greenedge.graph.affine import fit_affine
from greenedge.graph.ops.arithmetic import require_countable
from greenedge.graph.ops.base import Array, Ints, Range, Shape
from greenedge.lower.expr import Const, Expr, Undecidable, Var, affine_of
from greenedge.lower.moves import Move
from greenedge.lower.rounding import Quantiser, quantiser
from greenedge.lower.step_function import negate_input, step_function
from greenedge.lower.values import Live, cut_constant_axes
from greenedge.lower.wide_sum import WideSum, plan_wide_sum

_P = ParamSpec("_P")
_T = TypeVar("_T")

MAX_ACCUMULATOR = 1 << 47  # beyond this no back end has an accumulator, and float64 sums would not be exact
_MAX_NEGATED = 1 << 16
_MAX_GRID_RANGE = 1 << 12  # integers of an edge that are tried one by one for a common unit

# behind a cure that changes the training script: the same in a file
QUANTISE_IN_FILE = "or have it done in the file: `greenedge requantise MODEL.onnx --inputs X.npy -o OUT.onnx`"


@dataclasses.dataclass(frozen=True, eq=False)
class Birth:
    """Where an edge corresponds to a tensor of the model: its real value is expr(edge), behind `moves` of it."""

    tensor: str
    expr: Expr
    moves: tuple[Move, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Quantised:
    """What a requantiser's levels are of: the real number y(x) of the integer x on its input edge, rounded by `levels`.

    `axis` is that of per-channel boundaries.
    """

    y: Expr
    levels: Quantiser
    axis: int


@dataclasses.dataclass
class Trace:
    """Where integers come from, kept while a model is lowered: by edge.

    `reads` has, for the output of a sum of products, the real functions of its input edges that go into the sum;
    `slopes`, for that of a sum that only a quantiser may read, about how much of them an integer of each edge is.
    `defined` are the edges whose integers are levels of a quantiser of the model, given by a function of a row that is
    defined in integers.
    """

    births: dict[str, Birth] = dataclasses.field(default_factory=dict)
    quantised: dict[str, Quantised] = dataclasses.field(default_factory=dict)
    reads: dict[str, tuple[Expr, ...]] = dataclasses.field(default_factory=dict)
    slopes: dict[str, tuple[Array, Array]] = dataclasses.field(default_factory=dict)
    defined: set[str] = dataclasses.field(default_factory=set)


class Builder:
    """Collects operations, edges, ranges and their origin for one model."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ops: list[Op] = []
        self.edges: dict[str, Edge] = {}
        self.ranges: dict[str, Range] = {}
        self.trace = Trace()
        self.wide: dict[str, WideSum] = {}  # edges that only a quantiser may read
        self._producer: dict[str, Op] = {}

    def unique(self, node: Node | str) -> str:
        """A name for a new edge: the torch module path where known, else the node's own, made unique."""
        text = node if isinstance(node, str) else (node.module or node.name)
        text = re.sub(r"\.(act|weight|bias|input|output)_quant.*$", "", text)
        base = re.sub(r"\W+", "_", text).strip("_") or "edge"
        base = f"n{base}" if base[0].isdigit() else base
        name, k = base, 2
        while name in self.edges:
            name, k = f"{base}_{k}", k + 1
        return name

    def producer(self, edge: str) -> Op:
        """The operation that writes `edge`."""
        return self._producer[edge]

    # -- edges ------------------------------------------------------------------------------------------------------

    def input(self, tensor: str, shape: Shape, lo: int, hi: int, zero: int = 0) -> str:
        """Adds an input of the graph, named after the model's tensor, whose integers lie in lo..hi; `zero` stands for
        the real number 0."""
        name = self.unique(tensor)
        ones = (1,) * len(shape)
        self._record(Input(name, (), name), shape, np.full(ones, lo), np.full(ones, hi))
        self.set_zero(name, zero)
        return name

    def set_zero(self, edge: str, zero: int) -> None:
        """Notes which integer of an edge stands for the real number 0."""
        self.edges[edge] = dataclasses.replace(self.edges[edge], zero=zero)

    def emit_sum(self, op: Op, *values: Live) -> str:
        """As `emit`, for a sum of products of these real tensors, which the trace notes."""
        self.trace.reads[op.output] = tuple(value.expr for value in values)
        return self.emit(op)

    def emit_wide_sum(self, node: Node, a: Live, b: Live, refusal: Refused) -> Live:
        """a + b as a sum that only a quantiser may read. Raises `refusal` where there is none."""
        pairs = [(self.edges[one.edge], self.ranges[one.edge]) for one in (a, b)]
        (edge_a, range_a), (edge_b, range_b) = pairs
        place = refusal.about(node.name, node.module)
        wide = plan_wide_sum((a, b), (edge_a, edge_b), (range_a, range_b), place)
        if wide is None:
            raise refusal
        edge = self._emit_wide(wide, wide.write(self.unique(node)), a.expr, b.expr)
        unit, offset = (Const.of(self._spread(part, edge, wide.axis)) for part in (wide.unit, wide.offset))
        return Live(edge, Var() * unit + offset)

    def _emit_wide(self, wide: WideSum, op: Op, *reads: Expr) -> str:
        self.trace.reads[op.output] = reads
        edge = self.emit(op)
        self.wide[edge] = wide
        first, second = (np.abs(self._spread(wide.unit * part, edge, wide.axis)) for part in wide.multipliers)
        self.trace.slopes[edge] = (first, second) if wide.is_first_many else (second, first)
        return edge

    def _spread(self, part: Array, edge: str, axis: int) -> Array:
        """(C,) or (1,) numbers along an axis of an edge."""
        shape = [1] * len(self.edges[edge].shape)
        shape[axis] = -1
        return part.reshape(shape)

    def _turn_sum(self, edge: str, sign: Ints, axis: int) -> tuple[str, Array]:
        """The sum that only a quantiser may read, times `sign` of each channel along `axis`, and that as it is spread:
        back ends count upwards behind a sum."""
        wide = self.wide[edge]
        op = wide.write(self.unique(f"{edge}_turned"), sign)
        return self._emit_wide(wide, op, *self.trace.reads[edge]), self._spread(sign, edge, axis)

    def emit(self, op: Op, is_quantiser: bool = False) -> str:
        """Adds an operation whose output edge has its own name; shape and range follow from the operation's rule.

        Raises Refused where the rule refuses its inputs, or the accumulator would be too wide.
        """
        if not is_quantiser and (wide := self.wide.keys() & set(op.inputs)):
            raise self.wide[min(wide)].refusal
        weight = getattr(op, "weight", None)
        if weight is not None:  # of all outputs together, which is far beyond any of them
            widest = max(int(np.abs(bound).max()) for e in op.inputs for bound in self.ranges[e])
            require_countable(widest * int(np.abs(weight.astype(np.int64)).sum()))
        shape, (low, high) = op.infer([self.edges[e] for e in op.inputs], [self.ranges[e] for e in op.inputs])
        if max(abs(int(low.min())), abs(int(high.max()))) >= MAX_ACCUMULATOR:
            raise Refused(
                ReasonKind.TOO_WIDE,
                f"its accumulator reaches {max(abs(int(low.min())), abs(int(high.max()))):,}",
                "accumulators must stay below 2**47",
                "use fewer bits or a smaller fan-in",
            )
        self._record(op, shape, low, high)
        return op.output

    def _record(self, op: Op, shape: Shape, low: Ints, high: Ints) -> None:
        low, high = cut_constant_axes(np.asarray(low, np.int64)), cut_constant_axes(np.asarray(high, np.int64))
        self.ops.append(op)
        self._producer[op.output] = op
        self.edges[op.output] = Edge(op.output, tuple(int(d) for d in shape), int(low.min()), int(high.max()))
        self.ranges[op.output] = (low, high)

    def param(self, array: Array, shape: Shape, what: str) -> Array:
        """A model's array that broadcasts against a batched tensor, as one against `shape`, which has no batch.

        `what` names it in the reason. Raises Refused where it varies along the batch, has too many axes, or would widen
        the tensor.
        """
        array, rank = np.asarray(array), len(shape)
        if array.ndim > rank + 1:  # also with axes of length 1: they would come before the batch
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"{what} has shape {array.shape}",
                f"it must broadcast against {rank} axes",
                "give it one value per channel",
            )
        array = array.reshape((1,) * (rank + 1 - array.ndim) + array.shape)
        if array.shape[0] != 1:
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"{what} has shape {array.shape}, which varies along the batch",
                "one value per channel is the finest",
                "give it one value per channel",
            )
        without_batch: Array = array[0]
        if any(d not in (1, full) for d, full in zip(without_batch.shape, shape, strict=True)):
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"{what} of shape {without_batch.shape} against a tensor of shape {shape}",
                "it may not widen the tensor",
                "give it one value per channel, or expand the tensor explicitly",
            )
        return without_batch

    # -- quantisation -----------------------------------------------------------------------------------------------

    def requantise(
        self,
        node: Node | str,
        source: Live,
        y: Expr,
        levels: Quantiser,
        dequantise: Callable[[Expr], Expr],
        zero: int = 0,
    ) -> Live:
        """source -> the levels of y(edge); `dequantise(expr of the level)` gives the real value of a level, `zero` is
        the level that stands for 0.

        Where the step function only shifts the integers by a constant, nothing is emitted. Raises Refused for a
        function that varies along several axes or cannot be decided on its whole range.
        """
        if max(abs(levels.lo), abs(levels.hi)) >= MAX_ACCUMULATOR:
            raise Refused(
                ReasonKind.TOO_WIDE,
                f"its levels reach {float(max(abs(levels.lo), abs(levels.hi))):.3g}",
                "levels must stay below 2**47",
                "use fewer bits or a zero point nearer to 0",
            )
        edge = self.edges[source.edge]
        if not edge.shape:
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                "a tensor that has no axis beside the batch",
                "every sample has one axis at least",
                "keep the axis (keepdims=True), and drop it behind the last layer",
            )
        axis, flat, (x_lo, x_hi) = self._per_channel(edge, y)
        if (wide := self.wide.get(source.edge)) is not None:
            found = _require_decidable(wide.find_steps, flat, levels, axis, len(x_lo))
            if (found.sign < 0).any() and wide.can_turn(found.sign, axis):
                turned, spread = self._turn_sum(source.edge, cut_constant_axes(found.sign), axis)
                source, y = Live(turned, source.expr), negate_input(y, spread)
                x_lo, x_hi = self._per_channel(self.edges[turned], y)[2]
                found = dataclasses.replace(found, sign=freeze(np.ones_like(found.sign)))
            step: Steps | Table = found
        else:
            step = _require_decidable(step_function, flat, levels, x_lo, x_hi)
        shift = _constant_shift(step, levels, x_lo, x_hi)
        if shift is not None:
            return Live(source.edge, dequantise(Var() + Const.of(float(shift))))
        name = self.unique(node)
        op = Requantise(name, (source.edge,), name, axis, levels.lo, levels.hi, step, freeze(x_lo), freeze(x_hi))
        if isinstance(step, Steps):
            op = dataclasses.replace(op, forms=fit_affine_form(op, step))
        self.emit(op, is_quantiser=True)
        self.set_zero(name, zero)
        self.trace.quantised[name] = Quantised(y, levels, axis)
        return Live(name, dequantise(Var()))

    def _per_channel(self, edge: Edge, y: Expr) -> tuple[int, Expr, Range]:
        """(axis, y with flat constants, (C,) range of x): the one axis along which the function or the range varies."""
        rank = len(edge.shape)
        low, high = self.ranges[edge.name]
        varying = {
            axis for array in y.constants() if array.ndim == rank for axis in range(rank) if array.shape[axis] > 1
        }
        if len(varying) > 1:
            raise Refused(
                ReasonKind.UNSUPPORTED_SCALE,
                f"its function varies along {len(varying)} axes {sorted(varying)}",
                "scales, biases and batch norms may vary along one axis",
                "use one value per channel",
            )
        axis = varying.pop() if varying else _range_axis(low, high)
        others = tuple(a for a in range(rank) if a != axis)
        low, high = low.min(axis=others), high.max(axis=others)
        count = edge.shape[axis] if rank else 1
        if not any(array.size > 1 for array in y.constants()):  # one function for all channels: one row of thresholds
            low, high, count = low.min(keepdims=True), high.max(keepdims=True), 1
        low, high = (np.broadcast_to(part, (count,)).astype(np.int64) for part in (low, high))
        return axis, y.map_constants(lambda a: a.reshape(-1)), (low, high)

    def grid(self, value: Live) -> tuple[Array, Array] | None:
        """(scale, zero) as arrays of Fractions with real = scale * (q - zero), or None; scale has no zeros."""
        parts = affine_of(value.expr)
        if parts is None:
            return None
        shape = self.edges[value.edge].shape
        rank = len(shape)
        alpha, beta = (
            self.param(np.asarray(part, dtype=object), shape, "a scale")
            if np.ndim(part) > rank
            else np.asarray(part, dtype=object).reshape((1,) * (rank - np.ndim(part)) + np.shape(part))
            for part in parts
        )
        if np.any(alpha == 0):
            return None
        return cut_constant_axes(alpha), cut_constant_axes(np.asarray(-beta / alpha, dtype=object))

    def require_grid(self, value: Live) -> tuple[Array, Array]:
        """As `grid`, for a tensor that `materialise` gave. Raises AssertionError for another."""
        grid = self.grid(value)
        assert grid is not None, f"{value.edge} is on no grid"
        return grid

    def materialise(self, node: Node, value: Live) -> Live:
        """The same tensor with a purely affine expr: where the values lie on a grid, they become levels of their own.

        Covers ReLU, clip and the like between a quantiser and the next layer. Raises Refused where there is no grid,
        and for a sum that only a quantiser may read.
        """
        if value.edge in self.wide:
            raise self.wide[value.edge].refusal
        if self.grid(value) is not None:
            return value
        ints, unit = self._find_grid(value)
        levels, scale = quantiser("HALF_EVEN", min(ints), max(ints)), Const.of(np.array(unit, dtype=object))
        return self.requantise(node, value, value.expr / scale, levels, lambda q: q * scale)

    def _find_grid(self, value: Live) -> tuple[list[int], Fraction]:
        """(integers, unit) with value = unit * integer at every integer of the edge. Raises Refused where there are
        none."""
        cure = f"put a QuantIdentity or QuantReLU(bit_width=…) before this layer, {QUANTISE_IN_FILE}"
        rule = "integer layers need quantised inputs"
        low, high = int(self.ranges[value.edge][0].min()), int(self.ranges[value.edge][1].max())
        if any(array.size > 1 for array in value.expr.constants()) or high - low > _MAX_GRID_RANGE:
            raise Refused(ReasonKind.UNQUANTISED, "its input is not quantised", rule, cure)
        pairs = [value.expr.exactly(x, 0, 64) for x in range(low, high + 1)]
        if any(a != b for a, b in pairs):
            raise Refused(ReasonKind.UNQUANTISED, "its input is not quantised", rule, cure)
        unit = _common_unit([a for a, _ in pairs])
        ints = [int(a / unit) for a, _ in pairs]
        if max(ints) - min(ints) > 1 << 16:
            raise Refused(ReasonKind.UNQUANTISED, "its input lies on no grid of 16 bits", rule, cure)
        return ints, unit

    def make_rising(self, value: Live) -> Live:
        """f(Dense(w, x)) → g(Dense(sign*w, x)) with g(y) = f(sign*y) rising in every channel: a maximum commutes with
        it.

        Raises Refused for a function that is not monotone, or falls and follows no layer with weights.
        """
        direction = value.expr.direction()
        if np.isnan(direction).any():
            raise Refused(
                ReasonKind.UNSUPPORTED_ORDER,
                "it follows a function that is not monotone",
                "a maximum commutes with rising functions only",
                "put the quantiser before the pool",
            )
        if not (direction < 0).any():
            return value
        flipped = self._flip(value, np.where(direction < 0, -1, 1).reshape(-1), "rising")
        if flipped is None:
            raise Refused(
                ReasonKind.UNSUPPORTED_ORDER,
                "it follows a falling function",
                "a maximum commutes with rising functions only",
                "put the quantiser before the pool",
            )
        return flipped

    def _flip(self, value: Live, sign: Ints, what: str) -> Live | None:
        """f(Dense(w, x)) → g(Dense(sign*w, x)) with g(y) = f(sign*y), sign +1 or -1 per channel or (1,); None behind
        another operation. The layer's name gets `what` behind it."""
        op = self.producer(value.edge)
        if not isinstance(op, Linear):
            return None
        shape = self.edges[op.output].shape
        channel = op.channel_axis(len(shape))
        sign = np.broadcast_to(sign, (shape[channel],))
        name = self.unique(f"{op.name}_{what}")
        self.trace.reads[name] = self.trace.reads[op.name]
        self.emit(op.with_channel_signs(sign, name))
        spread = [1] * len(shape)
        spread[channel] = -1
        return Live(name, negate_input(value.expr, sign.reshape(spread)))

    def negate(self, node: Node, value: Live) -> Live:
        """f(q) → g(-q) with g(y) = f(-y): in the layer before where that has weights, else by a step of its own.

        Raises Refused for more levels than are listed one by one.
        """
        edge = self.edges[value.edge]
        if edge.levels == 1:  # the least is the largest
            return value
        flipped = self._flip(value, freeze([-1]), "negated")
        if flipped is not None:
            return flipped
        if edge.levels > _MAX_NEGATED:
            raise Refused(
                ReasonKind.TOO_WIDE,
                f"the least of integers from {edge.lo:,} to {edge.hi:,}",
                f"at most {_MAX_NEGATED:,} levels change their sign one by one",
                "put a quantiser before it",
            )
        levels = quantiser("HALF_EVEN", -edge.hi, -edge.lo)
        negated = self.requantise(node, Live(value.edge, Var()), -Var(), levels, lambda q: q)
        return Live(negated.edge, negate_input(value.expr, np.array(-1)).substitute(negated.expr))

    def build(self, outputs: list[str]) -> Graph:
        """The graph of everything emitted, with these edges as its outputs."""
        return Graph(self.name, tuple(self.ops), dict(self.edges), tuple(outputs))


def fit_affine_form(op: Requantise, steps: Steps) -> Steps:
    """The steps of `op` with the affine form that equals them on its whole reachable range, where there is one."""
    low, high = dataclasses.replace(op, forms=steps).reach
    affine = fit_affine(steps.thresholds, op.lo, op.hi, low, high)
    if affine is not None:
        affine = Affine(freeze(affine.m * steps.sign), freeze(affine.b), freeze(affine.s))
    return dataclasses.replace(steps, affine=affine)


def _require_decidable(find: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What `find` gives, with Refused where it is undecidable."""
    try:
        return find(*args, **kwargs)
    except Undecidable as error:
        raise Refused(
            ReasonKind.NO_STEP_FUNCTION,
            str(error),
            "a quantiser's input must be decidable on its whole range",
            "use a monotone activation, or quantise to fewer bits before it",
        ) from None


def _constant_shift(step: Steps | Table, levels: Quantiser, x_lo: Ints, x_hi: Ints) -> int | None:
    """d where level(x) == x + d for every reachable x of every channel, else None."""
    if isinstance(step, Table) or not step.rises:
        return None
    first = levels.lo + (step.thresholds <= x_lo[:, None]).sum(axis=1)
    shifts = first - x_lo
    if (shifts != shifts[0]).any():
        return None
    d = int(shifts[0])
    if (x_lo + d < levels.lo).any() or (x_hi + d > levels.hi).any():
        return None
    k = np.arange(levels.lo + 1, levels.hi + 1)
    inside = (k - d > x_lo[:, None]) & (k - d <= x_hi[:, None])
    right = np.where(inside, step.thresholds == k - d, True) & ~(
        (step.thresholds > x_lo[:, None]) & (step.thresholds <= x_hi[:, None]) & ~inside
    )
    return d if right.all() else None


def _range_axis(low: Ints, high: Ints) -> int:
    """The first axis along which the range varies; 0 where it does along none."""
    for axis in range(low.ndim):
        if low.shape[axis] > 1 or high.shape[axis] > 1:
            return axis
    return 0


def _common_unit(values: list[Fraction]) -> Fraction:
    """The largest rational of which all values are whole multiples (1 where all are zero)."""
    denominator = lcm(*(v.denominator for v in values))
    numerator = gcd(*(int(v * denominator) for v in values))
    return Fraction(numerator or 1, denominator)
