"""What the foldings of neighbours mean to each other: groups that fold alike, converters, the pins of the top.

A layer's own foldings and cycles are the layer's (dialect/ops.py). A network's interval is that of its slowest layer,
so for a given number of cycles every layer takes by itself what is smallest among its foldings that are fast enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from greenedge.backends.finn.dialect.layer import Fold, Layer, divisors
from greenedge.backends.finn.dialect.ops import Network

PIN_BITS = 32  # of the top's input and output streams; a wider layer is fed through a converter

Folding = Mapping[str, Fold]  # by layer name


def fold_groups(network: Network) -> list[tuple[Layer, ...]]:
    """The layers that are folded together: a window that groups channels gives them in its reader's order."""
    groups: list[tuple[Layer, ...]] = []
    joined: set[str] = set()
    for layer in network.layers:
        if layer.passes_beats or layer.name in joined:
            continue
        if layer.folds_with_reader:
            reader = network.reader(layer.result)
            joined.add(reader.name)
            groups.append((layer, reader))
        else:
            groups.append((layer,))
    return groups


def conversions(given: int, taken: int) -> tuple[int, ...]:
    """The widths that a stream goes through on its way between two layers: at most two, by the common divisor."""
    return tuple(size for size in dict.fromkeys((math.gcd(given, taken), taken)) if size != given)


def through_pins(elements_per_beat: int, bits: int) -> int:
    """The most integers per beat that divide `elements_per_beat` and fit the pins of the top."""
    return max(d for d in divisors(elements_per_beat) if d == 1 or d * bits <= PIN_BITS)


def least_cycles(network: Network) -> int:
    """Beats through the narrower of the top's two streams: no folding is faster than its pins."""
    ends = (network.source, network.result)
    return max(wire.total // through_pins(wire.total, wire.bits) for wire in ends)
