"""Folding: how many integers each layer takes per cycle (PE, SIMD), searched under a device's limits.

A network's interval is that of its slowest layer, so for a given number of cycles every layer takes by itself what is
smallest among its foldings that are fast enough; the search is over the number of cycles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from greenedge.backends.finn.dialect import ops as hw

PIN_BITS = 32  # of the top's input and output streams; a wider layer is fed through a converter


@dataclass(frozen=True)
class Fold:
    """`pe` outputs (or channels) and, for a matrix-vector unit, `simd` inputs at a time; `cycles` per beat of a serial unit.

    `form` is which of a Step's forms is built.
    """

    pe: int
    simd: int = 1
    cycles: int = 1
    form: str = ""


Folding = Mapping[str, Fold]  # by layer name


def divisors(n: int) -> list[int]:
    """All of them, rising."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


def tied(layer: hw.Layer) -> bool:
    """Whether the layer has no folding of its own: it passes on beats as they come."""
    return isinstance(layer, (hw.Fork, hw.Queue))


def foldings(layer: hw.Layer) -> Iterator[Fold]:
    """Every folding that the unit for this layer has."""
    if isinstance(layer, hw.MatVec):
        k, m = layer.weight.shape
        for pe in divisors(m):
            for simd in divisors(k):
                yield Fold(pe, simd)
    elif isinstance(layer, hw.Step):
        for pe in divisors(_lanes(layer)):
            yield from (Fold(pe, form=form) for form in layer.forms)
            if layer.serial_cycles is not None:
                yield Fold(pe, cycles=layer.serial_cycles, form="affine")
    else:
        yield from map(Fold, divisors(_lanes(layer)))


def _lanes(layer: hw.Layer) -> int:
    """The most channels per cycle."""
    if isinstance(layer, hw.Concat):
        return math.gcd(*layer.chunks)
    if isinstance(layer, hw.Window):
        return layer.source.channels
    if isinstance(layer, hw.Add):
        return math.gcd(*(wire.channels for wire in layer.sources))
    return layer.result.channels


def cycles(layer: hw.Layer, fold: Fold) -> int:
    """Cycles per inference of one layer, as the unit's documentation counts them."""
    if isinstance(layer, hw.MatVec):
        return layer.vectors * (layer.weight.shape[0] // fold.simd) * (layer.weight.shape[1] // fold.pe)
    return max(*(wire.total for wire in layer.sources), layer.result.total) // fold.pe * fold.cycles


def elements(layer: hw.Layer, fold: Fold) -> tuple[int, int]:
    """Integers per beat (taken, given)."""
    return (fold.simd if isinstance(layer, hw.MatVec) else fold.pe), fold.pe


def groups(network: hw.Network) -> list[tuple[hw.Layer, ...]]:
    """The layers that are folded together: a window that groups channels emits them in its reader's order."""
    found, joined = [], set()
    for layer in network.layers:
        if tied(layer) or layer.name in joined:
            continue
        group = (layer,)
        if isinstance(layer, hw.Window) and layer.grouped:
            group = (
                layer,
                next(reader for reader in network.layers if layer.result.name in {w.name for w in reader.sources}),
            )
            joined.add(group[1].name)
        found.append(group)
    return found


def conversions(given: int, taken: int) -> tuple[int, ...]:
    """The widths that a stream goes through on its way between two layers: at most two, by the common divisor."""
    return tuple(size for size in dict.fromkeys((math.gcd(given, taken), taken)) if size != given)


def through_pins(elements_per_beat: int, bits: int) -> int:
    """The most integers per beat that divide `elements_per_beat` and fit the pins of the top."""
    return max(d for d in divisors(elements_per_beat) if d == 1 or d * bits <= PIN_BITS)


def least_cycles(network: hw.Network) -> int:
    """Beats through the narrower of the top's two streams: no folding is faster than its pins."""
    ends = (network.source, network.result)
    return max(wire.total // through_pins(wire.total, wire.bits) for wire in ends)
