"""Foldings that suit their neighbours: a converter between two layers of different width costs cells as well.

Layer by layer the folding is taken that is smallest together with the converters on its sides, the others' foldings being as
they are, for two rounds; from several starts, for what is smallest so depends on where one begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from greenedge.backends.finn.design import Limits
from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.folding import Fold, conversions, elements, through_pins, tied
from greenedge.backends.finn.resources import Cost, estimate
from greenedge.backends.finn.units import Unit

_ROUNDS = 2
_TOO_SLOW = 1e9
_PACES = (1, 4)  # starts in which every layer gives about so many integers per beat


@dataclass(frozen=True)
class Choice:
    """A folding of one group of layers: its cycles per inference and its cells."""

    cycles: int
    cost: Cost
    fold: Fold


@dataclass(frozen=True)
class Link:
    """A wire between two layers that have foldings; None is the outside, whose width the other side decides."""

    giver: hw.Layer | None
    taker: hw.Layer | None
    bits: int
    total: int  # integers per inference


def links_of(network: hw.Network) -> list[Link]:
    """All of them, seen through forks and queues."""
    givers: dict[str, hw.Layer | None] = {network.source.name: None}
    links = []
    for layer in network.layers:
        if tied(layer):
            givers |= {wire.name: givers[layer.source.name] for wire in layer.results}
            continue
        links += [Link(givers[wire.name], layer, wire.bits, wire.total) for wire in layer.sources]
        givers |= {wire.name: layer for wire in layer.results}
    return [*links, Link(givers[network.result.name], None, network.result.bits, network.result.total)]


@cache
def converters(bits: int, given: int, taken: int, family: str) -> Cost:
    """What it costs that one side gives and the other takes so many integers per beat."""
    cost, size = Cost(), given
    for other in conversions(given, taken):
        cost, size = cost + estimate(Unit("ge_width", {"BITS": bits, "IN": size, "OUT": other}), family), other
    return cost


def between(link: Link, folding: Mapping[str, Fold], family: str, most_cycles: int) -> Cost:
    """The converters on one link; no device holds those that would need more cycles than that."""
    taken = elements(link.taker, folding[link.taker.name])[0] if link.taker else None
    given = elements(link.giver, folding[link.giver.name])[1] if link.giver else through_pins(taken, link.bits)
    taken = through_pins(given, link.bits) if taken is None else taken
    if link.total // min(given, *conversions(given, taken), taken) > most_cycles:
        return Cost(lut4=_TOO_SLOW)
    return converters(link.bits, given, taken, family)


def matched(
    network: hw.Network,
    groups: Sequence[tuple[hw.Layer, ...]],
    options: Sequence[Sequence[Choice]],
    limits: Limits,
    most_cycles: int,
) -> dict[str, Fold]:
    """A folding by layer name, from the choices that each group has; `limits` says what is small."""
    links = links_of(network)
    touching = [[link for link in links if link.giver in group or link.taker in group] for group in groups]
    starts = [
        [min(choices, key=lambda choice: limits.share(choice.cost)) for choices in options],
        *(
            [
                min(choices, key=lambda choice: (abs(choice.fold.pe - pe), limits.share(choice.cost)))
                for choices in options
            ]
            for pe in _PACES
        ),
    ]
    found = []
    for chosen in starts:
        folding = {layer.name: choice.fold for group, choice in zip(groups, chosen) for layer in group}
        for _ in range(_ROUNDS):
            for k, (group, choices, near) in enumerate(zip(groups, options, touching)):

                def size(choice: Choice) -> float:
                    tried = {**folding, **{layer.name: choice.fold for layer in group}}
                    return limits.share(
                        sum((between(link, tried, limits.family, most_cycles) for link in near), choice.cost)
                    )

                chosen[k] = min(choices, key=size)
                folding |= {layer.name: chosen[k].fold for layer in group}
        total = sum(
            (between(link, folding, limits.family, most_cycles) for link in links),
            sum((c.cost for c in chosen), Cost()),
        )
        found.append((limits.share(total), folding))
    return min(found, key=lambda entry: entry[0])[1]
