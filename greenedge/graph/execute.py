"""Runs the integer graph, exactly and fast.

Sums of products go through floating-point matrix multiplication wherever that is exact: float32 while every partial
sum stays below 2**24, float64 below 2**53, integers beyond. The bound is taken from the weights and the input's range,
so the choice is a proof, not a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from greenedge.errors import GreenedgeError
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
)

_BATCH_BYTES = 256 << 20  # bound on the largest intermediate of one batch: the im2col matrix of a convolution


def run_graph(
    graph: Graph, x: np.ndarray | Mapping[str, np.ndarray], keep: Iterable[str] = ()
) -> dict[str, np.ndarray]:
    """The outputs of `graph` (and the edges named in `keep`) as int64 arrays, batch axis first.

    `x` is one array, or a dict from input edge to array. Raises GreenedgeError for another shape, a value outside the
    input's range, or an array that is not of integers.
    """
    feeds = dict(x) if isinstance(x, Mapping) else {graph.inputs[0]: x}
    feeds = {edge: accepted(graph.edges[edge], feeds.get(edge)) for edge in graph.inputs}
    samples = {len(values) for values in feeds.values()}
    if len(samples) != 1:
        raise GreenedgeError(f"{graph.name}: inputs have different numbers of samples, {sorted(samples)}.")
    (total,) = samples
    wanted = list(dict.fromkeys([*graph.outputs, *keep]))
    step = max(1, _BATCH_BYTES // (8 * _widest(graph)))
    parts = [_run_batch(graph, {e: v[i : i + step] for e, v in feeds.items()}, wanted) for i in range(0, total, step)]
    if not parts:
        return {edge: np.zeros((0, *graph.edges[edge].shape), np.int64) for edge in wanted}
    return {edge: np.concatenate([part[edge] for part in parts]) for edge in wanted}


def accepted(edge: Edge, values) -> np.ndarray:
    """`values` as int64 where they are what may go into `edge`; raises GreenedgeError that says what is wrong."""
    if values is None:
        raise GreenedgeError(f"input {edge.name!r} is missing; it has shape {('batch', *edge.shape)}.")
    values = np.asarray(values)
    if values.shape[1:] != edge.shape:
        raise GreenedgeError(f"input {edge.name!r} has shape {values.shape}; it must be {('batch', *edge.shape)}.")
    if values.dtype.kind not in "iub":
        raise GreenedgeError(
            f"input {edge.name!r} is {values.dtype}; it takes integers (floats go through the prologue first)."
        )
    if values.size and (values.min() < edge.lo or values.max() > edge.hi):
        raise GreenedgeError(
            f"input {edge.name!r} holds {values.min()}…{values.max()}; "
            f"it must lie in {edge.lo}…{edge.hi} ({edge.dtype})."
        )
    return values.astype(np.int64)


def _widest(graph: Graph) -> int:
    """Elements per sample of the largest array that one operation makes."""
    sizes = [1]
    for op in graph.ops:
        size = int(np.prod(graph.edges[op.output].shape))
        if isinstance(op, Conv):
            size = max(
                size, int(np.prod(op.weight.shape[1:])) * op.groups * int(np.prod(graph.edges[op.output].shape[1:]))
            )
        elif isinstance(op, ConvTranspose):
            size *= int(np.prod(op.strides)) * int(np.prod(op.weight.shape[2:]))
        sizes.append(size)
    return max(sizes)


def _run_batch(graph: Graph, feeds: dict[str, np.ndarray], wanted: list[str]) -> dict[str, np.ndarray]:
    values = dict(feeds)
    last_use = {edge: k for k, op in enumerate(graph.ops) for edge in op.inputs}
    for k, op in enumerate(graph.ops):
        if not isinstance(op, Input):
            values[op.output] = execute_op(op, [values[e] for e in op.inputs], [graph.edges[e] for e in op.inputs])
        for edge in op.inputs:
            if last_use[edge] == k and edge not in wanted:
                values.pop(edge, None)
    return {edge: values[edge] for edge in wanted}


def execute_op(op: Op, xs: list[np.ndarray], edges: list[Edge] | None) -> np.ndarray:
    """One operation on arrays with the batch first; `edges` (of the inputs) bound the sums of linear layers."""
    return _RUN[type(op)](op, xs, edges)


def linear_float(op: Dense | Conv | ConvTranspose, x: np.ndarray) -> np.ndarray:
    """The same linear layer on real numbers in float64: for error bounds, which need no exactness."""
    return _RUN[type(op)](op, [x], None)


def _exact_type(largest_sum: int) -> type:
    return np.float32 if largest_sum < 1 << 24 else np.float64 if largest_sum < 1 << 53 else np.int64


def _magnitude(edges: list[Edge] | None) -> int | None:
    """Largest |x| on the first edge; None for real numbers."""
    return None if edges is None else max(abs(edges[0].lo), abs(edges[0].hi), 1)


def _matmul(x: np.ndarray, w: np.ndarray, magnitude: int | None) -> np.ndarray:
    """x @ w for w (..., K, M): without rounding for integers |x| <= magnitude, in float64 where magnitude is None."""
    if magnitude is None:
        return np.matmul(x.astype(np.float64), w.astype(np.float64))
    kind = _exact_type(magnitude * int(np.abs(w).sum(axis=-2).max(initial=0)))
    return np.matmul(x.astype(kind), w.astype(kind)).astype(np.int64)


def _dense(op: Dense, xs, edges):
    return _matmul(xs[0], op.weight, _magnitude(edges))


def _padded(x: np.ndarray, pads: tuple[int, ...], value: int) -> np.ndarray:
    """x with its trailing len(pads)/2 axes padded by (begin..., end...)."""
    n = len(pads) // 2
    if not any(pads):
        return x
    width = [(0, 0)] * (x.ndim - n) + [(pads[i], pads[n + i]) for i in range(n)]
    return np.pad(x, width, constant_values=value)


def _windows(x: np.ndarray, kernel, strides, dilations) -> np.ndarray:
    """(N, C, *out, *kernel) view of x (N, C, *space)."""
    n = len(kernel)
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=tuple(range(2, 2 + n)))
    view = view[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]
    return view[(..., *(slice(None, None, d) for d in dilations))]


def _conv(op: Conv, xs, edges):
    kernel, n = op.weight.shape[2:], len(op.weight.shape) - 2
    x = _padded(xs[0], op.pads, op.pad_value)
    magnitude = None if edges is None else max(_magnitude(edges), abs(op.pad_value))
    view = _windows(x, kernel, op.strides, op.dilations)
    batch, out = view.shape[0], view.shape[2 : 2 + n]
    g, per_in, per_out = op.groups, op.weight.shape[1], op.weight.shape[0] // op.groups
    # (N, g, I/g, *out, *k) -> (g, N*out, I/g*k), one matrix product per group
    view = view.reshape(batch, g, per_in, *out, *kernel)
    order = (1, 0, *range(3, 3 + n), 2, *range(3 + n, 3 + 2 * n))
    columns = view.transpose(order).reshape(g, batch * int(np.prod(out)), -1)
    weight = op.weight.reshape(g, per_out, -1).transpose(0, 2, 1)
    y = _matmul(columns, weight, magnitude)
    y = y.reshape(g, batch, *out, per_out)
    return y.transpose(1, 0, 2 + n, *range(2, 2 + n)).reshape(batch, g * per_out, *out)


def _conv_transpose(op: ConvTranspose, xs, edges):
    """Zeros between the samples, then a convolution with the kernel turned round."""
    x, n = xs[0], len(op.strides)
    kernel = op.weight.shape[2:]
    spread = np.zeros((*x.shape[:2], *((d - 1) * s + 1 for d, s in zip(x.shape[2:], op.strides))), x.dtype)
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in op.strides))] = x
    reach = [(k - 1) * d for k, d in zip(kernel, op.dilations)]
    begin = [r - p for r, p in zip(reach, op.pads[:n])]
    end = [r - p + o for r, p, o in zip(reach, op.pads[n:], op.output_padding)]
    spread = _padded(spread, tuple(max(0, v) for v in (*begin, *end)), 0)
    crop = tuple(slice(max(0, -b), spread.shape[2 + i] - max(0, -e)) for i, (b, e) in enumerate(zip(begin, end)))
    spread = spread[(slice(None), slice(None), *crop)]
    g, per_in = op.groups, op.weight.shape[0] // op.groups
    turned = op.weight[(slice(None), slice(None), *(slice(None, None, -1) for _ in kernel))]
    turned = turned.reshape(g, per_in, -1, *kernel).swapaxes(1, 2).reshape(-1, per_in, *kernel)
    conv = Conv(op.name, op.inputs, op.output, turned, (1,) * n, (0,) * (2 * n), op.dilations, g)
    return _conv(conv, [spread], edges)


def _pool_windows(op, x, fill):
    dilations = getattr(op, "dilations", ()) or (1,) * len(op.kernel)
    return _windows(_padded(x, op.pads, fill), op.kernel, op.strides, dilations)


def _max_pool(op: MaxPool, xs, edges):
    return _pool_windows(op, xs[0], edges[0].lo if edges else 0).max(axis=tuple(range(-len(op.kernel), 0)))


def _sum_pool(op: SumPool, xs, edges):
    return _pool_windows(op, xs[0], op.pad_value).sum(axis=tuple(range(-len(op.kernel), 0)))


def _add(op: Add, xs, edges):
    return sum(m * x for m, x in zip(op.multipliers, xs))


def _concat(op: Concat, xs, edges):
    return np.concatenate(xs, axis=op.axis + 1)


def _requantise(op: Requantise, xs, edges):
    x = np.moveaxis(xs[0], op.axis + 1, -1)
    if op.table is not None:
        rows = np.arange(len(op.table)) if len(op.table) > 1 else 0
        y = op.table[rows, x - op.x_lo]
    elif op.affine is not None and _affine_fits(op):
        y = np.clip((op.affine.m * x + op.affine.b) >> op.affine.s, op.lo, op.hi)
    else:
        y = _count(op, x)
    return np.moveaxis(y, -1, op.axis + 1)


def _affine_fits(op: Requantise) -> bool:
    """Whether m*x + b stays within 64 bits for every reachable x."""
    reach = np.maximum(np.abs(op.x_lo), np.abs(op.x_hi)).astype(object) * np.abs(op.affine.m).astype(object)
    return bool((reach + np.abs(op.affine.b).astype(object)).max() < 1 << 62)


def _count(op: Requantise, x: np.ndarray) -> np.ndarray:
    """lo + how many thresholds sign*x has reached; x has its channels last."""
    x = op.sign * x
    if op.thresholds.shape[1] <= 16:
        y = np.full(x.shape, op.lo, np.int64)
        for k in range(op.thresholds.shape[1]):
            y += x >= op.thresholds[:, k]
        return y
    if len(op.thresholds) == 1:
        return op.lo + np.searchsorted(op.thresholds[0], x, side="right")
    y = np.empty(x.shape, np.int64)
    for c, row in enumerate(op.thresholds):
        y[..., c] = op.lo + np.searchsorted(row, x[..., c], side="right")
    return y


def _pad(op: Pad, xs, edges):
    return _padded(xs[0], op.pads, op.value)


def _reshape(op: Reshape, xs, edges):
    return xs[0].reshape(len(xs[0]), *op.shape)


def _transpose(op: Transpose, xs, edges):
    return xs[0].transpose(0, *(p + 1 for p in op.perm))


def _upsample(op: Upsample, xs, edges):
    y = xs[0]
    for axis, factor in enumerate(op.factors):
        y = np.repeat(y, factor, axis=axis + 1) if factor != 1 else y
    return y


def _depth_to_space(op: DepthToSpace, xs, edges):
    n, c, h, w = xs[0].shape
    b = op.block
    if op.mode == "DCR":
        y = xs[0].reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = xs[0].reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // b**2, h * b, w * b)


def _arg_max(op: ArgMax, xs, edges):
    return np.expand_dims(xs[0].argmax(axis=op.axis + 1), op.axis + 1)  # NumPy takes the first of equals


_RUN = {
    Dense: _dense,
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    MaxPool: _max_pool,
    SumPool: _sum_pool,
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
