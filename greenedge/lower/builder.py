"""The integer graph while it is being built: emits operations with their shapes and proved ranges.

Every edge has a range per element pattern (arrays that broadcast against its shape): a dense layer's outputs have one
range each, taken from its weights and its inputs' ranges, so accumulators are as narrow as the model proves.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

import numpy as np

from greenedge.errors import ReasonKind
from greenedge.frontends.source import Node
from greenedge.graph.affine import fit_affine
from greenedge.graph.ops import (
    Add,
    ArgMax,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    DepthToSpace,
    Edge,
    Graph,
    Input,
    MaxPool,
    Op,
    Pad,
    Requantise,
    Reshape,
    SumPool,
    Transpose,
    Upsample,
    frozen,
)
from greenedge.lower.expr import Const, Expr, Var, affine_of
from greenedge.lower.rounding import Quantiser
from greenedge.lower.step_function import Undecidable, negated, step_function
from greenedge.lower.values import Live, compressed

MAX_ACCUMULATOR = 1 << 47  # beyond this no back end has an accumulator, and float64 sums would not be exact


class Refused(Exception):
    """A rule that cannot take its node: kind, value, rule, cure (see errors.Reason)."""

    def __init__(self, kind: str, value: str, rule: str, cure: str):
        self.kind, self.value, self.rule, self.cure = kind, value, rule, cure
        super().__init__(value)


@dataclasses.dataclass(frozen=True, eq=False)
class Birth:
    """Where an edge corresponds to a tensor of the model: the tensor's real value is expr(edge)."""

    tensor: str
    expr: Expr


@dataclasses.dataclass(frozen=True, eq=False)
class Quantised:
    """What a requantiser's levels are of: the real number y(x) of the integer x on its input edge, rounded by `levels`.

    `axis` is that of per-channel boundaries. `before` names the requantiser that was fused into this one: then x is its level.
    """

    y: Expr
    levels: Quantiser
    axis: int
    before: str | None = None


@dataclasses.dataclass
class Trace:
    """Where integers come from, kept while a model is lowered: by edge.

    `reads` has, for the output of a sum of products, the real functions of its input edges that go into the sum.
    """

    births: dict[str, Birth] = dataclasses.field(default_factory=dict)
    quantised: dict[str, Quantised] = dataclasses.field(default_factory=dict)
    reads: dict[str, tuple[Expr, ...]] = dataclasses.field(default_factory=dict)


class Builder:
    """Collects operations, edges, ranges and their origin for one model."""

    def __init__(self, name: str):
        self.name = name
        self.ops: list[Op] = []
        self.edges: dict[str, Edge] = {}
        self.ranges: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.trace = Trace()
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
        return self._producer[edge]

    # -- edges ------------------------------------------------------------------------------------------------------

    def input(self, tensor: str, shape: tuple[int, ...], lo: int, hi: int) -> str:
        name = self.unique(tensor)
        ones = (1,) * len(shape)
        self._record(Input(name, (), name), shape, np.full(ones, lo), np.full(ones, hi))
        return name

    def emit_sum(self, op: Op, *values: Live) -> str:
        """As `emit`, for a sum over these real tensors."""
        self.trace.reads[op.output] = tuple(value.expr for value in values)
        return self.emit(op)

    def emit(self, op: Op) -> str:
        """Adds an operation whose output edge is named like itself; its shape and range are derived here."""
        shape, low, high = _derive(op, [self.edges[e] for e in op.inputs], [self.ranges[e] for e in op.inputs])
        if max(abs(int(low.min())), abs(int(high.max()))) >= MAX_ACCUMULATOR:
            raise Refused(
                ReasonKind.TOO_WIDE,
                f"its accumulator reaches {max(abs(int(low.min())), abs(int(high.max()))):,}",
                "accumulators must stay below 2**47",
                "use fewer bits or a smaller fan-in",
            )
        self._record(op, shape, low, high)
        return op.output

    def _record(self, op: Op, shape, low, high) -> None:
        low, high = compressed(np.asarray(low, np.int64)), compressed(np.asarray(high, np.int64))
        self.ops.append(op)
        self._producer[op.output] = op
        self.edges[op.output] = Edge(op.output, tuple(int(d) for d in shape), int(low.min()), int(high.max()))
        self.ranges[op.output] = (low, high)

    def param(self, array: np.ndarray, rank: int, what: str) -> np.ndarray:
        """A model's array that broadcasts against a batched tensor, as one against it without the batch (rank axes)."""
        array = np.asarray(array)
        if array.ndim > rank + 1:
            if any(d != 1 for d in array.shape[: array.ndim - rank - 1]):
                raise Refused(
                    ReasonKind.UNSUPPORTED_SHAPE,
                    f"{what} has shape {array.shape}",
                    f"it must broadcast against {rank} axes",
                    "give it one value per channel",
                )
            array = array.reshape(array.shape[array.ndim - rank - 1 :])
        array = array.reshape((1,) * (rank + 1 - array.ndim) + array.shape)
        if array.shape[0] != 1:
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"{what} has shape {array.shape}, which varies along the batch",
                "one value per channel is the finest",
                "give it one value per channel",
            )
        return array[0]

    # -- quantisation -----------------------------------------------------------------------------------------------

    def requantise(self, node: Node | str, source: Live, y: Expr, levels: Quantiser, back) -> Live:
        """source -> the levels of y(edge); `back(expr of the level)` gives the real value of a level.

        Where the step function only shifts the integers by a constant, nothing is emitted.
        """
        edge = self.edges[source.edge]
        axis, flat, x_lo, x_hi = self._per_channel(edge, y)
        step = _refusing(lambda: step_function(flat, levels, x_lo, x_hi))
        shift = _pure_shift(step, levels, x_lo, x_hi)
        if shift is not None:
            return Live(source.edge, back(Var() + Const.of(float(shift))))
        name = self.unique(node)
        affine = None
        if step.thresholds is not None:
            low, high = np.where(step.sign > 0, x_lo, -x_hi), np.where(step.sign > 0, x_hi, -x_lo)
            affine = fit_affine(step.thresholds, levels.lo, levels.hi, low, high)
            if affine is not None:
                affine = dataclasses.replace(
                    affine, m=frozen(affine.m * step.sign), b=frozen(affine.b), s=frozen(affine.s)
                )
        op = Requantise(
            name,
            (source.edge,),
            name,
            axis,
            levels.lo,
            levels.hi,
            frozen(step.sign),
            None if step.thresholds is None else frozen(step.thresholds),
            affine,
            None if step.table is None else frozen(step.table),
            frozen(x_lo),
            frozen(x_hi),
        )
        self.emit(op)
        self.trace.quantised[name] = Quantised(y, levels, axis)
        return Live(name, back(Var()))

    def _per_channel(self, edge: Edge, y: Expr):
        """(axis, y with flat constants, x_lo, x_hi): the one axis along which the function or the range varies."""
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
        keep = tuple(a for a in range(rank) if a != axis)
        low, high = low.min(axis=keep), high.max(axis=keep)
        count = edge.shape[axis] if rank else 1
        if not any(array.size > 1 for array in y.constants()):  # one function for all channels: one row of thresholds
            low, high, count = low.min(keepdims=True), high.max(keepdims=True), 1
        low, high = (np.broadcast_to(part, (count,)).astype(np.int64) for part in (low, high))
        return axis, y.map_constants(lambda a: a.reshape(-1)), low, high

    def grid(self, value: Live) -> tuple[np.ndarray, np.ndarray] | None:
        """(scale, zero) as arrays of Fractions with real = scale * (q - zero), or None; scale has no zeros."""
        parts = affine_of(value.expr)
        if parts is None:
            return None
        rank = len(self.edges[value.edge].shape)
        alpha, beta = (
            self.param(np.asarray(part, dtype=object), rank, "a scale")
            if np.ndim(part) > rank
            else np.asarray(part, dtype=object).reshape((1,) * (rank - np.ndim(part)) + np.shape(part))
            for part in parts
        )
        if np.any(alpha == 0):
            return None
        return compressed(alpha), compressed(np.asarray(-beta / alpha, dtype=object))

    def materialise(self, node: Node, value: Live) -> Live:
        """The same tensor with a purely affine expr: where the values lie on a grid, they become levels of their own.

        Covers ReLU, clip and the like between a quantiser and the next layer. Raises Refused where there is no grid.
        """
        if self.grid(value) is not None:
            return value
        cure = "put a QuantIdentity or QuantReLU(bit_width=…) before this layer"
        low, high = (
            int(part.flat[0])
            for part in (self.ranges[value.edge][0].min(keepdims=True), self.ranges[value.edge][1].max(keepdims=True))
        )
        if any(array.size > 1 for array in value.expr.constants()) or high - low > 1 << 12:
            raise Refused(
                ReasonKind.UNQUANTISED, "its input is not quantised", "integer layers need quantised inputs", cure
            )
        pairs = [value.expr.exactly(x, 0, 64) for x in range(low, high + 1)]
        if any(a != b for a, b in pairs):
            raise Refused(
                ReasonKind.UNQUANTISED, "its input is not quantised", "integer layers need quantised inputs", cure
            )
        unit = _common_unit([a for a, _ in pairs])
        ints = [int(a / unit) for a, _ in pairs]
        if max(ints) - min(ints) > 1 << 16:
            raise Refused(
                ReasonKind.UNQUANTISED,
                "its input lies on no grid of 16 bits",
                "integer layers need quantised inputs",
                cure,
            )
        from greenedge.lower.rounding import quantiser

        scale = Const.of(np.array(unit, dtype=object))
        return self.requantise(
            node, value, value.expr / scale, quantiser("HALF_EVEN", min(ints), max(ints)), lambda q: q * scale
        )

    def oriented(self, value: Live) -> Live:
        """The same tensor with every channel rising: weights of falling channels change sign in the layer before."""
        edge = self.edges[value.edge]
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
        op = self.producer(value.edge)
        if not isinstance(op, (Dense, Conv, ConvTranspose)):
            raise Refused(
                ReasonKind.UNSUPPORTED_ORDER,
                "it follows a falling function",
                "a maximum commutes with rising functions only",
                "put the quantiser before the pool",
            )
        rank = len(edge.shape)
        channel = rank - 1 if isinstance(op, Dense) else 0
        sign = np.where(direction < 0, -1, 1).reshape(-1)
        sign = np.broadcast_to(sign, (edge.shape[channel],))
        name = self.unique(f"{op.name}_rising")
        flipped = flip_weights(op, sign, name)
        self.trace.reads[name] = self.trace.reads[op.name]
        self.emit(flipped)
        shape = [1] * rank
        shape[channel] = -1
        return Live(name, negated(value.expr, sign.reshape(shape)))

    def finish(self, outputs: list[str]) -> Graph:
        return Graph(self.name, tuple(self.ops), dict(self.edges), tuple(outputs))


def flip_weights(op: Op, sign: np.ndarray, name: str) -> Op:
    """The same linear layer with output channel c multiplied by sign[c]."""
    if isinstance(op, Dense):
        weight = op.weight * sign
    elif isinstance(op, Conv):
        weight = op.weight * sign.reshape(-1, *(1,) * (op.weight.ndim - 1))
    else:
        per_group = sign.reshape(op.groups, 1, -1)
        blocks = op.weight.reshape(op.groups, op.weight.shape[0] // op.groups, *op.weight.shape[1:])
        weight = (blocks * per_group.reshape(*per_group.shape, *(1,) * (op.weight.ndim - 2))).reshape(op.weight.shape)
    return dataclasses.replace(op, name=name, output=name, weight=frozen(weight))


def _refusing(compute):
    try:
        return compute()
    except Undecidable as error:
        raise Refused(
            ReasonKind.NO_STEP_FUNCTION,
            str(error),
            "a quantiser's input must be decidable on its whole range",
            "use a monotone activation, or quantise to fewer bits before it",
        ) from None


def _pure_shift(step, levels: Quantiser, x_lo: np.ndarray, x_hi: np.ndarray) -> int | None:
    """d where level(x) == x + d for every reachable x of every channel, else None."""
    if step.thresholds is None or (step.sign < 0).any():
        return None
    first = levels.lo + (step.thresholds <= x_lo[:, None]).sum(axis=1)
    d = first - x_lo
    if (d != d[0]).any():
        return None
    d = int(d[0])
    if (x_lo + d < levels.lo).any() or (x_hi + d > levels.hi).any():
        return None
    k = np.arange(levels.lo + 1, levels.hi + 1)
    inside = (k - d > x_lo[:, None]) & (k - d <= x_hi[:, None])
    right = np.where(inside, step.thresholds == k - d, True) & ~(
        (step.thresholds > x_lo[:, None]) & (step.thresholds <= x_hi[:, None]) & ~inside
    )
    return d if right.all() else None


def _range_axis(low: np.ndarray, high: np.ndarray) -> int:
    for axis in range(low.ndim):
        if low.shape[axis] > 1 or high.shape[axis] > 1:
            return axis
    return 0


def _common_unit(values: list[Fraction]) -> Fraction:
    """The largest rational of which all values are whole multiples (1 where all are zero)."""
    from math import gcd, lcm

    denominator = lcm(*(v.denominator for v in values))
    numerator = gcd(*(int(v * denominator) for v in values))
    return Fraction(numerator or 1, denominator)


# -- shapes and ranges ------------------------------------------------------------------------------------------------


def _derive(op: Op, edges: list[Edge], ranges) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """(shape, lowest, highest) of an operation's output from those of its inputs."""
    return _DERIVE[type(op)](op, edges, ranges)


def _spread(ranges, edge: Edge):
    """Range arrays at full size along every axis."""
    return tuple(np.broadcast_to(part, edge.shape) for part in ranges)


def _products(weight: np.ndarray, low: np.ndarray, high: np.ndarray):
    """Smallest and largest weight * x for x in [low, high], element by element."""
    a, b = weight * low, weight * high
    return np.minimum(a, b), np.maximum(a, b)


def _dense(op: Dense, edges, ranges):
    shape = edges[0].shape
    if shape[-1:] != op.weight.shape[:1]:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"its input has {shape[-1] if shape else 0} features and its weights {op.weight.shape[0]}",
            "they must match",
            "export the model again",
        )
    low, high = (np.broadcast_to(part, (*part.shape[:-1], shape[-1])) for part in ranges[0])
    keep = tuple(range(low.ndim - 1))
    low, high = low.min(axis=keep), high.max(axis=keep)
    small, large = _products(op.weight, low[:, None], high[:, None])
    ones = (1,) * (len(shape) - 1)
    return (*shape[:-1], op.weight.shape[1]), small.sum(0).reshape(*ones, -1), large.sum(0).reshape(*ones, -1)


def _channel_range(edge: Edge, ranges, extra: int | None):
    """Range of every channel (axis 0), with `extra` (a padding value) included where given."""
    low, high = (np.broadcast_to(part, (edge.shape[0], *part.shape[1:])).reshape(edge.shape[0], -1) for part in ranges)
    low, high = low.min(axis=1), high.max(axis=1)
    return (low, high) if extra is None else (np.minimum(low, extra), np.maximum(high, extra))


def _window_shape(size, kernel, strides, pads, dilations):
    n = len(kernel)
    out = tuple(
        (size[i] + pads[i] + pads[n + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(n)
    )
    if min(out, default=1) < 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"its window {tuple(kernel)} does not fit {tuple(size)}",
            "the window must fit its padded input",
            "use a smaller kernel or more padding",
        )
    return out


def _conv(op: Conv, edges, ranges):
    edge, n = edges[0], op.weight.ndim - 2
    if len(edge.shape) != n + 1 or edge.shape[0] != op.weight.shape[1] * op.groups:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"its input has shape {edge.shape} and its weights {op.weight.shape} in {op.groups} groups",
            "channels must match",
            "export the model again",
        )
    low, high = _channel_range(edge, ranges[0], op.pad_value if any(op.pads) else None)
    grouped = lambda part: np.repeat(part.reshape(op.groups, -1), op.weight.shape[0] // op.groups, axis=0)
    expand = lambda part: grouped(part).reshape(*op.weight.shape[:2], *(1,) * n)
    small, large = _products(op.weight, expand(low), expand(high))
    total = lambda part: part.reshape(len(part), -1).sum(1).reshape(-1, *(1,) * n)
    shape = _window_shape(edge.shape[1:], op.weight.shape[2:], op.strides, op.pads, op.dilations)
    return (op.weight.shape[0], *shape), total(small), total(large)


def _conv_transpose(op: ConvTranspose, edges, ranges):
    edge, n = edges[0], op.weight.ndim - 2
    low, high = _channel_range(edge, ranges[0], 0)  # some taps meet no sample: zero is always among the terms
    expand = lambda part: part.reshape(-1, *(1,) * (n + 1))
    small, large = _products(op.weight, expand(low), expand(high))
    per_group = lambda part: part.reshape(op.groups, -1, *part.shape[1:])
    out = op.weight.shape[1] * op.groups
    total = lambda part: np.moveaxis(per_group(part), 2, 1).reshape(out, -1).sum(1).reshape(-1, *(1,) * n)
    size = tuple(
        (edge.shape[1 + i] - 1) * op.strides[i]
        - op.pads[i]
        - op.pads[n + i]
        + op.dilations[i] * (op.weight.shape[2 + i] - 1)
        + op.output_padding[i]
        + 1
        for i in range(n)
    )
    return (out, *size), total(np.minimum(small, 0)), total(np.maximum(large, 0))


def _pooled(op, edges, ranges):
    if len(edges[0].shape) != len(op.kernel) + 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"a window of {len(op.kernel)} axes on a tensor of shape {edges[0].shape}",
            "pools run over images",
            "export the model again",
        )
    dilations = getattr(op, "dilations", ()) or (1,) * len(op.kernel)
    shape = (edges[0].shape[0], *_window_shape(edges[0].shape[1:], op.kernel, op.strides, op.pads, dilations))
    extra = op.pad_value if isinstance(op, SumPool) and any(op.pads) else None
    low, high = (part.reshape(-1, *(1,) * len(op.kernel)) for part in _channel_range(edges[0], ranges[0], extra))
    count = int(np.prod(op.kernel)) if isinstance(op, SumPool) else 1
    return shape, low * count, high * count


def _add(op: Add, edges, ranges):
    if len({edge.shape for edge in edges}) != 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"its inputs have shapes {[edge.shape for edge in edges]}",
            "the branches must have one shape",
            "expand the smaller branch explicitly",
        )
    terms = [_products(np.int64(m), *pair) for m, pair in zip(op.multipliers, ranges)]
    return edges[0].shape, sum(low for low, _ in terms), sum(high for _, high in terms)


def _concat(op: Concat, edges, ranges):
    shape = list(edges[0].shape)
    shape[op.axis] = sum(edge.shape[op.axis] for edge in edges)
    parts = [_spread(pair, edge) for pair, edge in zip(ranges, edges)]
    return tuple(shape), *(np.concatenate([part[k] for part in parts], axis=op.axis) for k in (0, 1))


def _requantise(op: Requantise, edges, ranges):
    from greenedge.graph.execute import _count

    if op.table is not None:
        low, high = op.table.min(axis=1), op.table.max(axis=1)
    else:
        ends = np.stack([_count(op, op.x_lo), _count(op, op.x_hi)])
        low, high = ends.min(axis=0), ends.max(axis=0)
    shape = [1] * len(edges[0].shape)
    shape[op.axis] = len(low)
    return edges[0].shape, low.reshape(shape), high.reshape(shape)


def _pad(op: Pad, edges, ranges):
    n = len(op.pads) // 2
    shape = tuple(d + op.pads[i] + op.pads[n + i] for i, d in enumerate(edges[0].shape))
    if any(op.pads[i] or op.pads[n + i] for i in range(n) if ranges[0][0].shape[i] > 1):
        low, high = (part.min(keepdims=True) if k == 0 else part.max(keepdims=True) for k, part in enumerate(ranges[0]))
    else:
        low, high = ranges[0]
    return shape, np.minimum(low, op.value), np.maximum(high, op.value)


def _reshape(op: Reshape, edges, ranges):
    return op.shape, *(part.reshape(op.shape) for part in _spread(ranges[0], edges[0]))


def _transpose(op: Transpose, edges, ranges):
    return tuple(edges[0].shape[p] for p in op.perm), *(part.transpose(op.perm) for part in ranges[0])


def _upsample(op: Upsample, edges, ranges):
    def stretched(part):
        for axis, factor in enumerate(op.factors):
            part = np.repeat(part, factor, axis=axis) if part.shape[axis] > 1 else part
        return part

    return tuple(d * f for d, f in zip(edges[0].shape, op.factors)), *(stretched(part) for part in ranges[0])


def _depth_to_space(op: DepthToSpace, edges, ranges):
    c, h, w = edges[0].shape
    low, high = ranges[0]
    return (c // op.block**2, h * op.block, w * op.block), low.min(keepdims=True), high.max(keepdims=True)


def _arg_max(op: ArgMax, edges, ranges):
    shape = tuple(1 if axis == op.axis else size for axis, size in enumerate(edges[0].shape))
    ones = (1,) * len(shape)
    return shape, np.zeros(ones, np.int64), np.full(ones, edges[0].shape[op.axis] - 1)


_DERIVE = {
    Dense: _dense,
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    MaxPool: _pooled,
    SumPool: _pooled,
    Add: _add,
    Concat: _concat,
    Requantise: _requantise,
    Pad: _pad,
    Reshape: _reshape,
    Transpose: _transpose,
    Upsample: _upsample,
    DepthToSpace: _depth_to_space,
    ArgMax: _arg_max,
}
