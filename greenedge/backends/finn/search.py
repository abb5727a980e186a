"""The search for a folding under a device's limits.

For a number of cycles every layer takes its smallest folding that is fast enough, so the search is over that number
alone: the fewest cycles that fit, or the most that still give the inferences per second or the latency asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from greenedge.backends.finn.design import Design, Limits
from greenedge.backends.finn.dialect.layer import Layer
from greenedge.backends.finn.dialect.ops import Network
from greenedge.backends.finn.fifos import Deadlock, add_queues
from greenedge.backends.finn.folding import Folding, fold_groups, least_cycles
from greenedge.backends.finn.objective import Objective
from greenedge.backends.finn.resources import Cost, estimate
from greenedge.backends.finn.stitch import stitch
from greenedge.backends.finn.units import unit_of
from greenedge.backends.finn.width_matching import Candidate, find_links, match_widths
from greenedge.errors import Reason, ReasonKind
from greenedge.target import Target


class Search:
    """All designs of one network on one device, by cycles per inference; each is simulated once, if it is needed."""

    def __init__(self, network: Network, limits: Limits, most_beats: int | None = None) -> None:
        self.network, self.limits, self.most_beats = network, limits, most_beats
        self.groups, self.links = fold_groups(network), find_links(network)
        self.options = [self._list_options(group) for group in self.groups]
        self.least = least_cycles(network)
        fastest = max([self.least, *(min(option.cycles for option in options) for options in self.options)])
        self.candidates = sorted(
            {option.cycles for options in self.options for option in options if option.cycles >= fastest} | {fastest}
        )
        self._designs: dict[int, Design] = {}

    def _list_options(self, group: tuple[Layer, ...]) -> list[Candidate]:
        """Every folding of a group. Behind a layer that gives all at once no step is serial."""
        hurried = any(
            link.taker in group and link.giver is not None and link.giver.gives_at_once for link in self.links
        )
        return [
            Candidate(
                max(layer.cycles(fold) for layer in group),
                sum((estimate(unit_of(layer, fold), self.limits.family) for layer in group), Cost()),
                fold,
            )
            for fold in group[-1].foldings()
            if fold.cycles == 1 or not hurried
        ]

    def _fast_options(self, index: int) -> list[list[Candidate]]:
        """Per group the foldings that take at most the candidate's cycles."""
        return [[option for option in options if option.cycles <= self.candidates[index]] for options in self.options]

    def likely_fits(self, index: int) -> bool:
        """Whether the layers alone fit, without queues and converters."""
        smallest = (
            min((option.cost for option in options), key=self.limits.share) for options in self._fast_options(index)
        )
        return self.limits.hold(sum(smallest, Cost()))

    def design(self, index: int) -> Design:
        """The smallest design whose layers take at most the candidate's cycles each. Raises Deadlock."""
        if index not in self._designs:
            most_cycles = max(self.least, self.candidates[index])
            options = self._fast_options(index)
            folding = match_widths(self.network, self.groups, options, self.limits, most_cycles)
            self._designs[index] = make_design(self.network, folding, self.limits, self.most_beats)
        return self._designs[index]

    def fewest(self) -> Design:
        """The fastest design that fits; where none does, the smallest."""
        last = len(self.candidates) - 1
        index = _first(last, self.likely_fits)
        while index < last and not self.design(index).fits:
            index += 1
        return self.design(index)

    def most(self, objective: Objective) -> Design:
        """The slowest design that fits and gives what is asked for; where none does, the fastest of all.

        A slower one is smaller as a rule only: its converters may take more."""
        interval, latency = objective.interval, objective.latency
        last = len(self.candidates) - 1
        if interval is not None:
            last = max(0, _first(last + 1, lambda index: self.candidates[index] > interval) - 1)
        if latency is not None:
            last = max(0, _first(last + 1, lambda index: self.design(index).schedule.latency > latency) - 1)
        while last > 0 and not (objective.is_met_by(self.design(last).schedule) and self.design(last).fits):
            last -= 1
        return self.design(last)


def _first(end: int, holds: Callable[[int], bool]) -> int:
    """The first index below `end` from which on `holds`, else `end`; it holds for none before and all after."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


@dataclass(frozen=True)
class Choice:
    """What the search chose: the design; or why none will do, with the best that there is (None: every one stops)."""

    design: Design | None
    refused: ReasonKind | None = None  # TOO_BIG, TOO_SLOW, DEADLOCK
    stopped: Deadlock | None = None

    def require_design(self) -> Design:
        """The design of a choice against which there is no reason."""
        assert self.design is not None and self.refused is None, self.refused
        return self.design


@lru_cache(maxsize=4)
def choose(network: Network, limits: Limits, objective: Objective) -> Choice:
    """The design for an objective."""
    try:
        return _choose_design(Search(network, limits, objective.most_beats), objective)
    except Deadlock as stopped:  # whatever the folding, the same pixels must wait
        return Choice(None, ReasonKind.DEADLOCK, stopped)


def _choose_design(search: Search, objective: Objective) -> Choice:
    fastest = search.fewest()
    if not fastest.fits:
        return Choice(fastest, ReasonKind.TOO_BIG)
    if objective.interval is None and objective.latency is None:
        return Choice(fastest)
    design = search.most(objective)
    is_met = objective.is_met_by(design.schedule) and design.fits
    return Choice(design) if is_met else Choice(fastest, ReasonKind.TOO_SLOW)


def make_design(network: Network, folding: Folding, limits: Limits, most_beats: int | None = None) -> Design:
    """The design with exactly this folding. Raises Deadlock."""
    queued, schedule = add_queues(network, folding, least_cycles(network), most_beats)
    instances = stitch(queued, folding).instances  # converters included
    # no stream moves more than one beat a cycle
    beats = max(stream.beats for instance in instances for stream in instance.ports.values())
    schedule = replace(schedule, interval=max(schedule.interval, beats))
    cost = sum((estimate(instance.unit, limits.family) for instance in instances if instance.unit), Cost())
    return Design(queued, folding, schedule, cost, limits)


def find_refusals(choice: Choice, objective: Objective, target: Target, clock_hz: int, asked: str) -> list[Reason]:
    """Why there is no design, with the best that there is; `asked` is the speed wanted, in words."""
    if choice.refused is None:
        return []
    if choice.stopped is not None:
        return [_explain_deadlock(choice.stopped, objective)]
    design, device = choice.design, target.device
    assert design is not None, "only a deadlock leaves no design"
    name, schedule = design.network.name, design.schedule
    if choice.refused is ReasonKind.TOO_BIG:
        value, rule = _overflow(design, device.title)
        return [Reason(name, choice.refused, value, rule, "use fewer bits or channels, or a larger device")]
    best = (
        f"at {clock_hz / 1e6:g} MHz the fastest that fits {device.title} gives {clock_hz / schedule.interval:,.0f} "
        f"inferences per second with {1e6 * schedule.latency / clock_hz:,.1f} µs of latency"
    )
    cure = "ask for that or less, raise build.clock_hz, or choose a larger device"
    return [Reason(name, choice.refused, asked, best, cure)]


def _explain_deadlock(stopped: Deadlock, objective: Objective) -> Reason:
    full, empty = (", ".join(dict.fromkeys(names)) for names in (stopped.full, stopped.empty))
    return Reason(
        f"{stopped.full[0]}_queue",
        ReasonKind.DEADLOCK,
        f"a queue of at most {objective.most_beats} beats",
        f"the network stops with {full} full while {empty} is waited for",
        "leave build.queue out: queues are then as deep as needed",
    )


def _overflow(design: Design, device: str) -> tuple[str, str]:
    """(what the smallest design needs, what there is) of the resource that is short."""
    cost, limits = design.cost, design.limits
    if limits.blocks is not None and cost.blocks > limits.blocks:
        return f"{cost.blocks} blocks of block RAM at least", f"of {device} {limits.blocks} are planned for"
    return f"about {cost.logic:,.0f} logic cells at least", f"of {device} {limits.logic:,.0f} are planned for"
