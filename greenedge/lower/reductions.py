"""Reductions: the largest, the least, the sum or the mean along some axes is a pool whose window is all of them.

ReduceMax(f(q))               →  f(MaxPool(q)), for a rising f
ReduceSum(scale*(q - zero))   →  scale * (SumPool(q) - n*zero), for n elements in one; ReduceMean the same by n
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.source import Node
from greenedge.graph.ops import MaxPool, SumPool
from greenedge.graph.ops.base import Array, Shape
from greenedge.lower.expr import Const, Var
from greenedge.lower.structure import drop_batch_axis, read_axes, reshape_live, transpose_live
from greenedge.lower.values import Live, Value, cut_constant_axes
from greenedge.lower.walk import Args, Rule, Walk


@dataclass(frozen=True)
class Window:
    """The window of a pool that reduces some of the axes behind the first, and leaves the others as they are."""

    kernel: Shape

    @property
    def ones(self) -> Shape:
        return (1,) * len(self.kernel)

    @property
    def pads(self) -> Shape:
        return (0,) * (2 * len(self.kernel))

    @property
    def count(self) -> int:
        """Elements that become one."""
        return int(np.prod(self.kernel))

    def reduce_constant(self, part: Array) -> Array:
        """A constant of the expression, which does not vary along the axes that are reduced, behind the pool."""
        axes = (0, *self.kernel)
        reduced: Array = part[tuple(slice(1) if axis and size > 1 else slice(None) for axis, size in enumerate(axes))]
        return cut_constant_axes(reduced)


Prepare = Callable[[Walk, Node, Live], Live]
Pool = Callable[[Walk, Node, Live, Window], Live]


def _reduce(walk: Walk, node: Node, args: Args, prepare: Prepare, pool: Pool) -> Value:
    """pool(prepare(x)) with the axes that are reduced under its window, in the shape that the model gives it."""
    value = args[0]
    if not isinstance(value, Live):
        return walk.fold(node, args)
    shape = walk.edge_shape(value)
    given = read_axes(node, args)
    if not given and node.attrs.get("noop_with_empty_axes", 0):
        return value
    axes = sorted({drop_batch_axis(axis, len(shape)) for axis in given or range(len(shape) + 1)})
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    target = kept if node.attrs.get("keepdims", 1) else tuple(s for a, s in enumerate(shape) if a not in axes)
    value = prepare(walk, node, value)
    _require_constant_along(walk, value, axes)
    value, window = _bring_under_window(walk, node, value, axes)
    return reshape_live(walk, node, pool(walk, node, value, window), target)


def _require_constant_along(walk: Walk, value: Live, axes: list[int]) -> None:
    """Raises Refused where the tensor's scale or bias varies along an axis over which it is reduced."""
    rank = len(walk.edge_shape(value))
    if any(part.ndim == rank and part.shape[axis] > 1 for part in value.expr.constants() for axis in axes):
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            "a reduction over elements that have scales of their own",
            "one scale along the axes that are reduced",
            "put a per-tensor quantiser before it",
        )


def _bring_under_window(walk: Walk, node: Node, value: Live, axes: list[int]) -> tuple[Live, Window]:
    """The tensor as (channels, …) with a window over the axes that are reduced.

    They stay where they are in an image, else they are moved last, behind all others in one.
    """
    shape = walk.edge_shape(value)
    rank, count = len(shape), int(np.prod([shape[axis] for axis in axes]))
    if 0 not in axes and (rank <= 3 or len(axes) == rank - 1):
        return value, Window(tuple(size if axis in axes else 1 for axis, size in enumerate(shape) if axis))
    rest = [axis for axis in range(rank) if axis not in axes]
    value = transpose_live(walk, node, value, (*rest, *axes))
    if rank <= 2:
        return reshape_live(walk, node, value, (int(np.prod([shape[axis] for axis in rest])), count)), Window((count,))
    return reshape_live(walk, node, value, (1, int(np.prod([shape[axis] for axis in rest])), count)), Window((1, count))


def reduce_max(walk: Walk, node: Node, args: Args) -> Value:
    """ReduceMax(f(q)) → f(MaxPool(q)) for a rising f; falling channels are flipped in the layer before."""
    return _reduce(walk, node, args, _make_rising, _pool_largest)


def reduce_min(walk: Walk, node: Node, args: Args) -> Value:
    """ReduceMin(f(q)) → f(-MaxPool(-q)) for a rising f."""
    return _reduce(walk, node, args, _make_rising_and_negate, _pool_largest)


def reduce_sum(walk: Walk, node: Node, args: Args) -> Value:
    """ReduceSum(scale*(q - zero)) → scale * (SumPool(q) - n*zero)."""
    return _reduce(walk, node, args, _materialise, _add_up)


def reduce_mean(walk: Walk, node: Node, args: Args) -> Value:
    """ReduceMean(scale*(q - zero)) → scale * (SumPool(q) - n*zero) / n."""
    return _reduce(walk, node, args, _materialise, _average)


def _make_rising(walk: Walk, node: Node, value: Live) -> Live:
    return walk.builder.make_rising(value)


def _make_rising_and_negate(walk: Walk, node: Node, value: Live) -> Live:
    return walk.builder.negate(node, walk.builder.make_rising(value))


def _materialise(walk: Walk, node: Node, value: Live) -> Live:
    return walk.builder.materialise(node, value)


def _pool_largest(walk: Walk, node: Node, value: Live, window: Window) -> Live:
    def make(name: str) -> MaxPool:
        return MaxPool(name, (value.edge,), name, window.kernel, window.ones, window.pads, window.ones)

    return walk.transform(node, value, make, window.reduce_constant)


def _add_up(walk: Walk, node: Node, value: Live, window: Window) -> Live:
    """scale*(q - zero) → scale * (SumPool(q) - n*zero)."""
    shape = walk.edge_shape(value)
    scale, zero = (window.reduce_constant(np.broadcast_to(p, shape)) for p in walk.builder.require_grid(value))
    name = walk.builder.unique(node)
    edge = walk.builder.emit_sum(SumPool(name, (value.edge,), name, window.kernel, window.ones, window.pads), value)
    acc = Var() + Const.of(-zero * window.count) if np.any(zero != 0) else Var()
    return Live(edge, acc * Const.of(scale))


def _average(walk: Walk, node: Node, value: Live, window: Window) -> Live:
    total = _add_up(walk, node, value, window)
    return Live(total.edge, total.expr / Const.of(float(window.count)))


RULES: dict[str, Rule] = {
    "ReduceMax": reduce_max,
    "ReduceMin": reduce_min,
    "ReduceSum": reduce_sum,
    "ReduceMean": reduce_mean,
}
