"""The search for a folding under a device's limits.

For a number of cycles every layer takes its smallest folding that is fast enough, so the search is over that number alone:
the fewest cycles that fit, or the most that still give the inferences per second or the latency asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from greenedge.backends.finn.design import Design, Limits
from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.fifos import Deadlock, with_queues
from greenedge.backends.finn.folding import Folding, cycles, foldings, groups, least_cycles
from greenedge.backends.finn.resources import Cost, estimate
from greenedge.backends.finn.stitch import stitch
from greenedge.backends.finn.units import unit_of
from greenedge.backends.finn.width_matching import Choice, links_of, matched
from greenedge.errors import Reason, ReasonKind
from greenedge.target import Target


@dataclass(frozen=True)
class Wish:
    """At most so many cycles between inferences, or from first input to last output; queues of at most so many beats."""

    interval: int | None = None
    latency: int | None = None
    most_beats: int | None = None


class Search:
    """All designs of one network on one device, by cycles per inference; each is simulated once, and only if it is needed."""

    def __init__(self, network: hw.Network, limits: Limits, most_beats: int | None = None) -> None:
        self.network, self.limits, self.most_beats = network, limits, most_beats
        self.groups, self.links = groups(network), links_of(network)
        self.choices = [self._choices(group) for group in self.groups]
        self.least = least_cycles(network)
        fastest = max([self.least, *(min(choice.cycles for choice in choices) for choices in self.choices)])
        self.candidates = sorted(
            {choice.cycles for choices in self.choices for choice in choices if choice.cycles >= fastest} | {fastest}
        )
        self._made: dict[int, Design] = {}

    def _choices(self, group: tuple[hw.Layer, ...]) -> list[Choice]:
        """A global pool gives all it has at once and takes nothing meanwhile, so behind it no step is serial."""
        hurried = any(link.taker in group and isinstance(link.giver, hw.GlobalPool) for link in self.links)
        return [
            Choice(
                max(cycles(layer, fold) for layer in group),
                sum((estimate(unit_of(layer, fold), self.limits.family) for layer in group), Cost()),
                fold,
            )
            for fold in foldings(group[-1])
            if fold.cycles == 1 or not hurried
        ]

    def _options(self, index: int) -> list[list[Choice]]:
        """Per group the foldings that take at most the candidate's cycles."""
        return [[choice for choice in choices if choice.cycles <= self.candidates[index]] for choices in self.choices]

    def likely_fits(self, index: int) -> bool:
        """Whether the layers alone fit, without queues and converters."""
        smallest = (min((choice.cost for choice in choices), key=self.limits.share) for choices in self._options(index))
        return self.limits.hold(sum(smallest, Cost()))

    def design(self, index: int) -> Design:
        """The smallest design whose layers take at most the candidate's cycles each. Raises Deadlock."""
        if index not in self._made:
            folding = matched(
                self.network, self.groups, self._options(index), self.limits, max(self.least, self.candidates[index])
            )
            self._made[index] = designed(self.network, folding, self.limits, self.most_beats)
        return self._made[index]

    def fewest(self) -> Design:
        """The fastest design that fits; where none does, the smallest."""
        last = len(self.candidates) - 1
        index = _first(last, self.likely_fits)
        while index < last and not self.design(index).fits:
            index += 1
        return self.design(index)

    def most(self, interval: int | None, latency: int | None) -> Design:
        """The slowest design that fits and gives what is asked for; where none does, the fastest of all.

        A slower one is smaller as a rule only: its converters may take more."""
        last = max(
            0,
            _first(len(self.candidates), lambda index: interval is not None and self.candidates[index] > interval) - 1,
        )
        if latency is not None:
            last = max(0, _first(last + 1, lambda index: self.design(index).schedule.latency > latency) - 1)
        while last > 0 and not (met(self.design(last), interval, latency) and self.design(last).fits):
            last -= 1
        return self.design(last)


def _first(end: int, holds: Callable[[int], bool]) -> int:
    """The first index below `end` from which on `holds`, else `end`; it holds for none before and all after."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def met(design: Design, interval: int | None, latency: int | None) -> bool:
    """Whether the schedule is as fast as asked."""
    return (interval is None or design.schedule.interval <= interval) and (
        latency is None or design.schedule.latency <= latency
    )


@dataclass(frozen=True)
class Found:
    """What the search found: the design, or why there is none with the best that there is (None: every one stops)."""

    design: Design | None
    refused: str | None = None  # "too-big", "too-slow", "deadlock"
    stopped: Deadlock | None = None


@lru_cache(maxsize=4)
def choose(network: hw.Network, limits: Limits, wish: Wish) -> Found:
    """The design for a wish."""
    try:
        return _searched(Search(network, limits, wish.most_beats), wish)
    except Deadlock as stopped:  # whatever the folding, the same pixels must wait
        return Found(None, "deadlock", stopped)


def _searched(search: Search, wish: Wish) -> Found:
    fastest = search.fewest()
    if not fastest.fits:
        return Found(fastest, ReasonKind.TOO_BIG)
    if wish.interval is None and wish.latency is None:
        return Found(fastest)
    design = search.most(wish.interval, wish.latency)
    return (
        Found(design)
        if met(design, wish.interval, wish.latency) and design.fits
        else Found(fastest, ReasonKind.TOO_SLOW)
    )


def designed(network: hw.Network, folding: Folding, limits: Limits, most_beats: int | None = None) -> Design:
    """The design with exactly this folding. Raises Deadlock."""
    queued, schedule = with_queues(network, folding, least_cycles(network), most_beats)
    instances = stitch(queued, folding).instances  # converters included
    beats = max(
        stream.beats for instance in instances for stream in instance.ports.values()
    )  # none moves more than one a cycle
    schedule = replace(schedule, interval=max(schedule.interval, beats))
    cost = sum((estimate(instance.unit, limits.family) for instance in instances if instance.unit), Cost())
    return Design(queued, folding, schedule, cost, limits)


def refusals(choice: Found, wish: Wish, target: Target, clock_hz: int, asked: str) -> list[Reason]:
    """Why there is no design, with the best that there is; `asked` is the speed wanted, in words."""
    design, device = choice.design, target.device
    if choice.refused == "deadlock":
        full, empty = (", ".join(dict.fromkeys(names)) for names in (choice.stopped.full, choice.stopped.empty))
        return [
            Reason(
                f"{choice.stopped.full[0]}_queue",
                "deadlock",
                f"a queue of at most {wish.most_beats} beats",
                f"the network stops with {full} full while {empty} is waited for",
                "leave build.queue out: queues are then as deep as needed",
            )
        ]
    if design is None or choice.refused is None:
        return []
    name, schedule = design.network.name, design.schedule
    if choice.refused == "too-big":
        value, rule = _overflow(design, device.title)
        return [Reason(name, ReasonKind.TOO_BIG, value, rule, "use fewer bits or channels, or a larger device")]
    if choice.refused == "too-slow":
        best = (
            f"at {clock_hz / 1e6:g} MHz the fastest that fits {device.title} gives {clock_hz / schedule.interval:,.0f} inferences per "
            f"second with {1e6 * schedule.latency / clock_hz:,.1f} µs of latency"
        )
        return [
            Reason(
                name,
                ReasonKind.TOO_SLOW,
                asked,
                best,
                "ask for that or less, raise build.clock_hz, or choose a larger device",
            )
        ]
    return []


def _overflow(design: Design, device: str) -> tuple[str, str]:
    """(what the smallest design needs, what there is) of the resource that is short."""
    cost, limits = design.cost, design.limits
    if limits.blocks is not None and cost.blocks > limits.blocks:
        return f"{cost.blocks} blocks of block RAM at least", f"of {device} {limits.blocks} are planned for"
    return f"about {cost.logic:,.0f} logic cells at least", f"of {device} {limits.logic:,.0f} are planned for"
