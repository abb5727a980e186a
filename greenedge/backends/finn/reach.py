"""Which integers can come on each wire at all: a set per channel that holds every one that an input can cause.

The sets are exact for one layer behind the input, whose integers are free of each other; further on the inputs of a sum
are taken as free although they are not, so a set may hold more than can occur, never less. A set is (lo, mask): bit k
of the Python integer `mask` stands for lo + k.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import singledispatch

import numpy as np

from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.layer import Layer, Wire
from greenedge.backends.finn.emulate import apply_step
from greenedge.graph.ops.base import Ints

_MOST_PAIRS = 1 << 20  # of two factors that are multiplied one by one
Reach = tuple[int, int]  # (lo, mask)
Channels = tuple[Reach, ...]  # position p of a wire belongs to channel p modulo their number


def list_values(reach: Reach) -> Ints:
    """The integers of a set, rising."""
    lo, mask = reach
    bits = np.frombuffer(mask.to_bytes((mask.bit_length() + 7) // 8, "little"), np.uint8)
    return np.flatnonzero(np.unpackbits(bits, bitorder="little")) + lo


def make_reach(values: Iterable[int]) -> Reach:
    """The set of these integers, at least one."""
    known = [int(v) for v in values]
    lo = min(known)
    mask = 0
    for value in known:
        mask |= 1 << (value - lo)
    return lo, mask


def unite(sets: Iterable[Reach]) -> Reach:
    """What is in any of the sets."""
    known = list(sets)
    lo = min(low for low, _ in known)
    mask = 0
    for low, bits in known:
        mask |= bits << (low - lo)
    return lo, mask


def add_sets(a: Reach, b: Reach, factor: int = 1) -> Reach:
    """a + factor * b, every pair."""
    (lo, mask), size = b, b[1].bit_length()
    stride, low = abs(factor), min(factor * lo, factor * (lo + size - 1))
    if mask + 1 == 1 << size:  # without gaps: doubled instead of added one by one
        total, there = a[1], 1
        while there < size:
            more = min(there, size - there)
            total |= total << (more * stride)
            there += more
        return a[0] + low, total
    total = 0
    for k in range(size):
        if mask >> k & 1:
            total |= a[1] << (factor * (lo + k) - low)
    return a[0] + low, total


def multiply_sets(a: Reach, b: Reach, zeros: tuple[int, int]) -> Reach:
    """(a - zeros[0]) * (b - zeros[1]), every pair; of very many pairs all between the least and the largest."""
    x, y = (list_values(reach) - zero for reach, zero in zip((a, b), zeros, strict=True))
    if len(x) * len(y) <= _MOST_PAIRS:
        return _make_reach_of(np.unique(np.multiply.outer(x, y)))
    ends = np.multiply.outer(x[[0, -1]], y[[0, -1]])
    low, high = int(ends.min()), int(ends.max())
    return low, (1 << (high - low + 1)) - 1


def _make_reach_of(values: Ints) -> Reach:
    """As `make_reach`, for many values, rising."""
    lo = int(values[0])
    bits = np.zeros(int(values[-1]) - lo + 1, bool)
    bits[values - lo] = True
    return lo, int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")


def find_reach(network: hw.Network, layers: Sequence[Layer]) -> dict[str, Channels]:
    """The sets of every wire; `layers` are those of the network, each step function in one form."""
    source = network.source
    whole = (source.lo, (1 << (source.hi - source.lo + 1)) - 1)
    found: dict[str, Channels] = {source.name: (whole,)}
    for layer in layers:
        sets = _reach(layer, [found[wire.name] for wire in layer.sources])
        found |= {wire.name: _within(sets, wire) for wire in layer.results}
    return found


def _within(sets: Channels, wire: Wire) -> Channels:
    """The sets without what the wire's own bounds exclude."""
    kept = []
    for lo, mask in sets:
        cut = max(0, wire.lo - lo)
        bits = (mask >> cut) & ((1 << max(0, wire.hi - (lo + cut) + 1)) - 1)
        kept.append((lo + cut, bits) if bits else (lo, mask))
    return tuple(kept)


@singledispatch
def _reach(layer: Layer, sources: Sequence[Channels]) -> Channels:
    """Layers that only move integers: any of the source's anywhere."""
    return (unite(reach for sets in sources for reach in sets),)


@_reach.register
def _fork(layer: hw.Fork, sources: Sequence[Channels]) -> Channels:
    return sources[0]


@_reach.register
def _queue(layer: hw.Queue, sources: Sequence[Channels]) -> Channels:
    return sources[0]


@_reach.register
def _window(layer: hw.Window, sources: Sequence[Channels]) -> Channels:
    return _with_padding(sources[0], layer.pad, layer.pads)


@_reach.register
def _pad(layer: hw.Pad, sources: Sequence[Channels]) -> Channels:
    return _with_padding(sources[0], layer.pad, layer.pads)


def _with_padding(sets: Channels, pad: int, pads: Sequence[int]) -> Channels:
    return tuple(unite([reach, (pad, 1)]) for reach in sets) if any(pads) else sets


@_reach.register
def _matvec(layer: hw.MatVec, sources: Sequence[Channels]) -> Channels:
    corrections = np.zeros(layer.weight.shape[1], np.int64) if layer.correct else layer.correction
    return tuple(
        _sum([(sources[0][k % len(sources[0])], int(w)) for k, w in enumerate(column)], -int(correction))
        for column, correction in zip(layer.weight.T, corrections, strict=True)
    )


@_reach.register
def _depthwise(layer: hw.Depthwise, sources: Sequence[Channels]) -> Channels:
    corrections = np.zeros(len(layer.weight), np.int64) if layer.correct else layer.correction
    return tuple(
        _sum([(sources[0][c % len(sources[0])], int(w)) for w in row], -int(corrections[c]))
        for c, row in enumerate(layer.weight)
    )


def _sum(terms: Sequence[tuple[Reach, int]], start: int) -> Reach:
    total: Reach = (start, 1)
    for reach, factor in terms:
        if factor:
            total = add_sets(total, reach, factor)
    return total


@_reach.register
def _pool(layer: hw.Pool, sources: Sequence[Channels]) -> Channels:
    if layer.largest:
        return sources[0]
    return tuple(_sum([(reach, 1)] * layer.taps, 0) for reach in sources[0])


@_reach.register
def _pool_global(layer: hw.GlobalPool, sources: Sequence[Channels]) -> Channels:
    if layer.largest:
        return sources[0]
    return tuple(_sum([(reach, 1)] * layer.source.pixels, 0) for reach in sources[0])


@_reach.register
def _add(layer: hw.Add, sources: Sequence[Channels]) -> Channels:
    count = math.lcm(*(len(sets) for sets in sources))
    a, b = (
        [add_sets((0, 1), sets[c % len(sets)], factor) for c in range(count)]
        for sets, factor in zip(sources, layer.multipliers, strict=True)
    )
    return tuple(add_sets(one, other) for one, other in zip(a, b, strict=True))


@_reach.register
def _multiply(layer: hw.Multiply, sources: Sequence[Channels]) -> Channels:
    count = math.lcm(*(len(sets) for sets in sources))
    pairs = [(sources[0][c % len(sources[0])], sources[1][c % len(sources[1])]) for c in range(count)]
    products = {pair: multiply_sets(*pair, layer.zeros) for pair in set(pairs)}  # channels often have the same sets
    return tuple(products[pair] for pair in pairs)


@_reach.register
def _step(layer: hw.Step, sources: Sequence[Channels]) -> Channels:
    count = math.lcm(len(sources[0]), layer.period)
    return tuple(
        make_reach(
            np.unique(apply_step(layer, list_values(sources[0][c % len(sources[0])]), np.array(c % layer.period)))
        )
        for c in range(count)
    )


@_reach.register
def _arg_max(layer: hw.ArgMax, sources: Sequence[Channels]) -> Channels:
    return ((0, (1 << layer.source.channels) - 1),)
