"""Foldings that suit their neighbours: a converter between two layers of different width costs cells as well.

Layer by layer the folding is taken that is smallest together with the converters on its sides, the others' foldings
being as they are, for two rounds; from several starts, for what is smallest so depends on where one begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from greenedge.backends.finn.design import Limits
from greenedge.backends.finn.dialect.layer import Fold, Layer
from greenedge.backends.finn.dialect.ops import Network
from greenedge.backends.finn.folding import conversions, through_pins
from greenedge.backends.finn.resources import Cost, estimate
from greenedge.backends.finn.units import Unit

_ROUNDS = 2
_TOO_SLOW = 1e9
_PACES = (1, 4)  # starts in which every layer gives about so many integers per beat


@dataclass(frozen=True)
class Candidate:
    """A folding of one group of layers: its cycles per inference and its cells."""

    cycles: int
    cost: Cost
    fold: Fold


@dataclass(frozen=True)
class Link:
    """A wire between two layers that have foldings; None is the outside, whose width the other side decides."""

    giver: Layer | None
    taker: Layer | None
    bits: int
    total: int  # integers per inference


def find_links(network: Network) -> list[Link]:
    """All of them, seen through forks and queues."""
    givers: dict[str, Layer | None] = {network.source.name: None}
    links = []
    for layer in network.layers:
        if layer.passes_beats:
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


def _widths(link: Link, folding: Mapping[str, Fold]) -> tuple[int, int]:
    """(given, taken) integers per beat on the two sides of a link; the pins of the top follow the layer at them."""
    taken = None if link.taker is None else link.taker.elements(folding[link.taker.name])[0]
    given = None if link.giver is None else link.giver.elements(folding[link.giver.name])[1]
    if given is None:
        assert taken is not None, "a network has a layer"
        given = through_pins(taken, link.bits)
    return given, through_pins(given, link.bits) if taken is None else taken


def between(link: Link, folding: Mapping[str, Fold], family: str, most_cycles: int) -> Cost:
    """The converters on one link; no device holds those that would need more cycles than that."""
    return _join(link.bits, link.total, *_widths(link, folding), family, most_cycles)


@cache
def _join(bits: int, total: int, given: int, taken: int, family: str, most_cycles: int) -> Cost:
    if total // min(given, *conversions(given, taken), taken) > most_cycles:
        return Cost(lut4=_TOO_SLOW)
    return converters(bits, given, taken, family)


@dataclass(frozen=True)
class _Problem:
    """A network whose groups each take one of their options; `limits` says what is small."""

    groups: Sequence[tuple[Layer, ...]]
    options: Sequence[Sequence[Candidate]]
    links: Sequence[Link]
    limits: Limits
    most_cycles: int

    def assign(self, candidates: Sequence[Candidate]) -> dict[str, Fold]:
        """The folding by layer name in which every group has its candidate."""
        pairs = zip(self.groups, candidates, strict=True)
        return {layer.name: candidate.fold for group, candidate in pairs for layer in group}

    def share(self, candidates: Sequence[Candidate], links: Sequence[Link], folding: Mapping[str, Fold]) -> float:
        """The share of the device that these candidates and the converters on these links take together."""
        cost = sum((candidate.cost for candidate in candidates), Cost())
        return self.limits.share(
            sum((between(link, folding, self.limits.family, self.most_cycles) for link in links), cost)
        )

    def starts(self) -> list[list[Candidate]]:
        """Where the descent begins: all smallest, and all near one pace."""
        small = [min(options, key=lambda one: self.limits.share(one.cost)) for options in self.options]
        return [small, *([self._at_pace(options, pe) for options in self.options] for pe in _PACES)]

    def _at_pace(self, options: Sequence[Candidate], pe: int) -> Candidate:
        return min(options, key=lambda one: (abs(one.fold.pe - pe), self.limits.share(one.cost)))

    def descend(self, candidates: list[Candidate]) -> tuple[float, dict[str, Fold]]:
        """(share of the device, folding) once every group in turn has taken what is smallest beside the others."""
        folding = self.assign(candidates)
        for _ in range(_ROUNDS):
            for k, group in enumerate(self.groups):
                candidates[k] = self._find_smallest(k, folding)
                folding |= {layer.name: candidates[k].fold for layer in group}
        return self.share(candidates, self.links, folding), folding

    def _find_smallest(self, k: int, folding: Mapping[str, Fold]) -> Candidate:
        group = self.groups[k]
        near = [link for link in self.links if link.giver in group or link.taker in group]

        def share(one: Candidate) -> float:
            return self.share([one], near, {**folding, **{layer.name: one.fold for layer in group}})

        return min(self.options[k], key=share)


def match_widths(
    network: Network,
    groups: Sequence[tuple[Layer, ...]],
    options: Sequence[Sequence[Candidate]],
    limits: Limits,
    most_cycles: int,
) -> dict[str, Fold]:
    """A folding by layer name, from the candidates that each group has; `limits` says what is small."""
    problem = _Problem(groups, options, find_links(network), limits, most_cycles)
    return min((problem.descend(start) for start in problem.starts()), key=lambda entry: entry[0])[1]
