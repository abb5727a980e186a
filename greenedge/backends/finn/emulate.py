"""What the units compute, in NumPy and to the bit, also for numbers that only a fault brings onto a wire.

Every wire is an array (N, total) of what travels on it, in the order of the stream; patches are ordered (pixel, tap,
channel) whatever the folding. Sums wrap in the bits of their wire, as the accumulators do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.layer import Layer, Wire
from greenedge.backends.finn.units import affine_bits, threshold_words
from greenedge.graph.ops.base import Ints

Bools = NDArray[np.bool_]
State = dict[str, Ints]  # wire -> what travels on it, (N, total)


def wrap(values: Ints, bits: int, signed: bool) -> Ints:
    """`values` modulo 2**bits, as two's complement where `signed`."""
    span = 1 << bits
    low = values & (span - 1)
    return np.where(low >> (bits - 1) != 0, low - span, low) if signed else low


def wrap_to(values: Ints, wire: Wire) -> Ints:
    """`values` in the type of `wire`; unchanged where they fit already."""
    least, largest = wire.representable
    if not values.size or (values.min() >= least and values.max() <= largest):
        return values
    return wrap(values, wire.bits, wire.signed)


def run_layers(layers: Sequence[Layer], state: State) -> State:
    """`state` with the wires that `layers` write, in order; every wire that they read is in it."""
    wires = dict(state)
    for layer in layers:
        wires |= run_layer(layer, [wires[source.name] for source in layer.sources])
    return wires


def run_layer(layer: Layer, xs: Sequence[Ints]) -> State:
    """The results of one layer by wire."""
    return {wire.name: values for wire, values in zip(layer.results, _compute(layer, xs), strict=True)}


@singledispatch
def _compute(layer: Layer, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    raise AssertionError(f"nothing emulates {layer}")


def multiply(x: Ints, weight: Ints) -> Ints:
    """x @ weight for integers whose sums stay below 2**53, by the float unit and exact."""
    return np.asarray(x.astype(np.float64) @ weight.astype(np.float64)).astype(np.int64)


@_compute.register
def _matvec(layer: hw.MatVec, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    k, m = layer.weight.shape
    sums = multiply(xs[0].reshape(-1, k), layer.weight) - (0 if layer.correct else layer.correction)
    return (wrap_to(sums.reshape(len(xs[0]), layer.vectors * m), layer.result),)


@_compute.register
def _depthwise(layer: hw.Depthwise, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    channels, taps = layer.weight.shape
    sums = (xs[0].reshape(len(xs[0]), -1, taps, channels) * layer.weight.T).sum(axis=2)
    sums = sums - (0 if layer.correct else layer.correction)
    return (wrap_to(sums.reshape(len(xs[0]), -1), layer.result),)


def window_index(layer: hw.Window) -> Ints:
    """The place in the source of every integer of the patches; source.total stands for padding."""
    rows, columns = layer.out
    channels, top, left = layer.source.channels, layer.pads[0], layer.pads[1]
    y = np.arange(rows)[:, None] * layer.strides[0] - top + np.arange(layer.kernel[0]) * layer.dilations[0]
    x = np.arange(columns)[:, None] * layer.strides[1] - left + np.arange(layer.kernel[1]) * layer.dilations[1]
    inside = ((y >= 0) & (y < layer.height))[:, None, :, None] & ((x >= 0) & (x < layer.width))[None, :, None, :]
    pixel = y[:, None, :, None] * layer.width + x[None, :, None, :]
    index = pixel[..., None] * channels + np.arange(channels)
    return np.where(inside[..., None], index, layer.source.total).ravel()


@_compute.register
def _window(layer: hw.Window, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    padded = np.concatenate([xs[0], np.full((len(xs[0]), 1), layer.pad)], axis=1)
    return (padded[:, window_index(layer)],)


@_compute.register
def _pad(layer: hw.Pad, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    top, left, bottom, right = layer.pads
    image = xs[0].reshape(len(xs[0]), layer.height, layer.width, -1)
    padded = np.pad(image, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=layer.pad)
    return (padded.reshape(len(xs[0]), -1),)


@_compute.register
def _pool(layer: hw.Pool, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    patches = xs[0].reshape(len(xs[0]), -1, layer.taps, layer.result.channels)
    return (_reduce(patches, 2, layer.largest, layer.result),)


@_compute.register
def _pool_global(layer: hw.GlobalPool, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    return (_reduce(xs[0].reshape(len(xs[0]), -1, layer.source.channels), 1, layer.largest, layer.result),)


def _reduce(values: Ints, axis: int, largest: bool, result: Wire) -> Ints:
    reduced: Ints = values.max(axis=axis) if largest else values.sum(axis=axis)
    return wrap_to(reduced.reshape(len(values), -1), result)


@_compute.register
def _step(layer: hw.Step, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    return (apply_step(layer, xs[0], np.arange(xs[0].shape[1]) % layer.period),)


def apply_affine(layer: hw.Step, x: Ints, m: Ints, b: Ints) -> Ints:
    """clip((m*x + b) >> shift) as the unit computes it, m*x + b modulo 2**bits of b."""
    total = wrap(m * x + b, affine_bits(layer)[1], True)  # int64 wraps by itself, which the modulus does not see
    return np.clip(total >> layer.require_affine().shift, layer.lo, layer.hi)


def apply_step(layer: hw.Step, x: Ints, row: Ints) -> Ints:
    """The levels of `x`, whose elements belong to rows `row` (broadcast) of the layer's parameters.

    All forms agree where a value may come without a fault; beyond, each is what its unit would do: the form is that
    which `affine`, thresholds or table is there first, so a caller hands in a layer with the built form alone.
    """
    if layer.affine is not None:
        return apply_affine(layer, x, layer.affine.m[row], layer.affine.b[row])
    if layer.thresholds is not None and layer.thresholds.shape[1] >= hw.LEAST_STEPS:
        return wrap_to(layer.tree.find(x, row), layer.result)
    if layer.thresholds is not None:
        thresholds, count = threshold_words(layer), np.zeros(x.shape, np.int64)
        for k in range(thresholds.shape[1]):
            count += (x >= thresholds[row, k]) ^ layer.falls[row, k]
        return wrap_to(layer.start + count, layer.result)
    table = layer.require_table()
    return table[row, np.clip(x - layer.table_lo, 0, table.shape[1] - 1)]


def outside_table(layer: Layer, x: Ints) -> Bools:
    """(N,) which samples would be looked up beyond a table, where what comes is no matter of the table alone."""
    if not isinstance(layer, hw.Step) or layer.affine is not None or layer.thresholds is not None:
        return np.zeros(len(x), bool)
    index = x - layer.table_lo
    return ((index < 0) | (index >= layer.require_table().shape[1])).reshape(len(x), -1).any(axis=1)


@_compute.register
def _add(layer: hw.Add, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    return (wrap_to(layer.multipliers[0] * xs[0] + layer.multipliers[1] * xs[1], layer.result),)


@_compute.register
def _multiply(layer: hw.Multiply, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    return (wrap_to((xs[0] - layer.zeros[0]) * (xs[1] - layer.zeros[1]), layer.result),)


@_compute.register
def _fork(layer: hw.Fork, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    return xs[0], xs[0]


@_compute.register
def _queue(layer: hw.Queue, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    return (xs[0],)


@_compute.register
def _concat(layer: hw.Concat, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    turns = [x.reshape(len(x), -1, chunk) for x, chunk in zip(xs, layer.chunks, strict=True)]
    return (np.concatenate(turns, axis=2).reshape(len(xs[0]), -1),)


@_compute.register
def _upsample(layer: hw.Upsample, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    image = xs[0].reshape(len(xs[0]), layer.height, layer.width, -1)
    for axis, factor in enumerate(layer.factors, start=1):
        image = image.repeat(factor, axis=axis)
    return (image.reshape(len(xs[0]), -1),)


@_compute.register
def _reorder(layer: hw.Reorder, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    return (xs[0][:, layer.index],)


@_compute.register
def _arg_max(layer: hw.ArgMax, xs: Sequence[Ints]) -> tuple[Ints, ...]:
    return (xs[0].reshape(len(xs[0]), -1, layer.source.channels).argmax(axis=2),)


def source_of_graph(network: hw.Network, x: Ints) -> State:
    """The input wire of `network` for graph integers (N, *shape)."""
    return {network.source.name: x.reshape(len(x), -1)[:, network.source.order]}
