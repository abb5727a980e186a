"""When each layer takes and gives its integers: a simulation of the schedule, pixel by pixel and with no data in it.

It finds how deep the queues on the two sides of a branch must be, that nothing waits for ever, and how many cycles lie
between two inferences. A layer is a cycle of firings (a pixel, a vector, a patch; `Layer.firings`): each needs so many
integers of every source to be there, sets so many free, takes so many cycles and gives its result. Times follow by
recurrence, so the order in which layers are looked at does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from greenedge.backends.finn.dialect.layer import Fold, Layer, Wire
from greenedge.backends.finn.dialect.ops import Network, Queue
from greenedge.backends.finn.folding import Folding

SAMPLES = 6  # inferences that are simulated: at least three, and more while there are no more than FIRINGS firings
FIRINGS = 300_000
# Firings that cost no time: small networks, which many samples are in at once, are simulated until they are full.
FEW = 2_000
SLACK_BEATS = 8  # pipeline registers on the longer way hold what the shorter way must wait for
SHALLOW_BEATS = 2  # what a branch's last unit holds on its way out, with what lies before it, anyway
_UNBOUNDED = 1 << 60


@dataclass(frozen=True)
class Schedule:
    """Cycles between inferences, and from first input to last output; the most integers on each wire into a join."""

    interval: float
    latency: int
    held: Mapping[str, int]


class Deadlock(Exception):
    """Nothing can go on: `full` are the wires whose queues are full, `empty` those that are waited for."""

    def __init__(self, full: tuple[str, ...], empty: tuple[str, ...]) -> None:
        super().__init__(full, empty)
        self.full, self.empty = full, empty


@dataclass
class _Link:
    """A wire in time: how many integers had been given, and taken, by when."""

    name: str
    capacity: int
    given: list[tuple[int, int]] = field(default_factory=list)
    taken: list[tuple[int, int]] = field(default_factory=list)

    def largest_backlog(self) -> int:
        """Integers between both ends at the worst moment; what is taken and given in one cycle passes by each other."""
        changes = sorted(
            [(time, 1, count) for count, time in self.given] + [(time, 0, count) for count, time in self.taken]
        )
        given = taken = most = 0
        for _, is_given, count in changes:
            given, taken = (count, taken) if is_given else (given, count)
            most = max(most, given - taken)
        return most


@dataclass
class _Actor:
    """One layer: per firing of a sample (rows) cumulative integers needed, freed (per source) and given; cycles.

    They are Python's own numbers: a schedule looks at single ones a million times.
    """

    layer: Layer
    needs: list[list[int]]
    frees: list[list[int]]
    gives: list[int]
    cost: list[int]
    latency: int
    sources: list[_Link]
    results: list[_Link]
    totals: list[int] = field(init=False)  # integers of every source per sample
    fired: int = 0
    seen: list[int] = field(default_factory=list)  # per source and result: events looked at

    def __post_init__(self) -> None:
        self.totals = [wire.total for wire in self.layer.sources]

    def work(self, samples: int) -> Iterator[None]:
        """Fires as often as it can, and pauses where it cannot go on.

        This is where a schedule spends its time: names are bound once, and nothing is called within the loop.
        """
        needs, frees, gives, cost = self.needs, self.frees, self.gives, self.cost
        rows, totals, seen = len(cost), self.totals, self.seen
        waits = [(link.given, k) for k, link in enumerate(self.sources)]
        rooms = [(link.taken, link.capacity, k) for k, link in enumerate(self.results, len(waits))]
        taken = [(link.taken.append, k) for k, link in enumerate(self.sources)]
        given = [link.given.append for link in self.results]
        clock, latency, last = 0, self.latency, gives[-1]
        for fired in range(rows * samples):
            sample, row = divmod(fired, rows)
            need, total = needs[row], sample * last + gives[row]
            for events, k in waits:  # are its integers there, and since when
                count, n = sample * totals[k] + need[k], seen[k]
                while True:
                    end = len(events)
                    while n < end and events[n][0] < count:
                        n += 1
                    seen[k] = n
                    if n < end or not count:
                        break
                    yield
                if n < end and events[n][1] > clock:
                    clock = events[n][1]
            for events, capacity, k in rooms:  # has its result room
                if (count := total - capacity) > 0:
                    n = seen[k]
                    while True:
                        end = len(events)
                        while n < end and events[n][0] < count:
                            n += 1
                        seen[k] = n
                        if n < end:
                            break
                        yield
                    if events[n][1] > clock:
                        clock = events[n][1]
            clock += cost[row]
            for append, k in taken:
                append((sample * totals[k] + frees[row][k], clock))
            for append in given:
                append((total, clock + latency))
            self.fired = fired + 1

    def _time_of(self, k: int, events: list[tuple[int, int]], count: int) -> int | None:
        """When `count` integers are first reached in the events of source or result k; None if not known yet."""
        while self.seen[k] < len(events) and events[self.seen[k]][0] < count:
            self.seen[k] += 1
        return events[self.seen[k]][1] if self.seen[k] < len(events) else (0 if count == 0 else None)

    def waits_for(self) -> tuple[list[str], list[str]]:
        """(full results, empty sources) of the firing that cannot start."""
        sample, row = divmod(self.fired, len(self.cost))
        empty = [
            link.name
            for k, link in enumerate(self.sources)
            if self._time_of(k, link.given, sample * self.totals[k] + self.needs[row][k]) is None
        ]
        room = [(link, sample * self.gives[-1] + self.gives[row] - link.capacity) for link in self.results]
        return [
            link.name
            for k, (link, count) in enumerate(room, len(self.sources))
            if count > 0 and self._time_of(k, link.taken, count) is None
        ], empty


def schedule(network: Network, folding: Folding, depths: Mapping[str, int], beats: int) -> Schedule:
    """The network in time, with queues of `depths` integers on the named wires and none elsewhere.

    `beats` feed one sample.
    A wire into a join that `depths` does not name is unbounded. Raises Deadlock.
    """
    links: dict[str, _Link] = {wire.name: _Link(wire.name, 0) for wire in network.wires}
    joins = {wire.name: wire for layer in network.layers if layer.is_join for wire in layer.sources}
    actors = [_make_source(network.source, links["s"], beats)]
    for layer in network.layers:
        fold = _fold(layer, folding)
        for k, wire in enumerate(layer.sources):
            links[wire.name].capacity += layer.buffer(k, fold)
        actors.append(_make_actor(layer, fold, links))
        for wire in layer.results:  # what is on its way through the unit's registers
            links[wire.name].capacity += actors[-1].latency * fold.pe
    for name, wire in joins.items():
        if name not in depths:
            links[name].capacity = _UNBOUNDED
        elif depths[name]:
            links[name].capacity += (
                depths[name] - 2 * wire.channels
            )  # one pixel, not three, is on its way through the join
    links[network.result.name].capacity = _UNBOUNDED
    firings = sum(len(actor.cost) for actor in actors)
    _run_actors(actors, max(3, min(max(SAMPLES, FEW // firings), FIRINGS // firings)), depths)
    done = _completion_times(links[network.result.name], network.result.total)
    half = len(done) // 2  # before, the network is still filling
    interval = max((done[-1] - done[half]) / (len(done) - 1 - half), *(float(sum(actor.cost)) for actor in actors))
    return Schedule(interval, done[0], {name: links[name].largest_backlog() for name in joins})


def _run_actors(actors: list[_Actor], samples: int, depths: Mapping[str, int]) -> None:
    """Fires all of them until every one has worked through `samples`. Raises Deadlock where none can go on.

    An actor that cannot go on is looked at again once one that it shares a wire with has fired: nothing else changes
    what it waits for.
    """
    ends: dict[str, list[int]] = {}
    for k, actor in enumerate(actors):
        for link in (*actor.sources, *actor.results):
            ends.setdefault(link.name, []).append(k)
    neighbours = [
        [other for link in (*actor.sources, *actor.results) for other in ends[link.name] if other != k]
        for k, actor in enumerate(actors)
    ]
    works = [actor.work(samples) for actor in actors]
    stale = [True] * len(actors)
    while any(stale):
        for k, actor in enumerate(actors):
            if stale[k]:
                stale[k], before = False, actor.fired
                next(works[k], None)
                if actor.fired > before:
                    for other in neighbours[k]:
                        stale[other] = True
    waiting = [actor for actor in actors if actor.fired < len(actor.cost) * samples]
    if waiting:
        raise _deadlock(waiting, depths)


def _completion_times(link: _Link, total: int) -> list[int]:
    """When each sample of `total` integers is complete: its count is first reached (firings of a global pool give
    nothing but the last)."""
    ends: dict[int, int] = {}
    for count, time in link.given:
        if count and count % total == 0:
            ends.setdefault(count, time)
    return list(ends.values())


def _deadlock(waiting: list[_Actor], depths: Mapping[str, int]) -> Deadlock:
    """Names the full queues and what the joins behind them lack, where there are queues: the rest follows."""
    found = [actor.waits_for() for actor in waiting]
    every = tuple(name for names, _ in found for name in names)
    full = tuple(name for name in every if depths.get(name)) or every
    behind = [
        empty
        for actor, (_, empty) in zip(waiting, found, strict=True)
        if any(link.name in full for link in actor.sources)
    ]
    return Deadlock(full, tuple(name for empty in behind for name in empty))


def _fold(layer: Layer, folding: Folding) -> Fold:
    """Fold(0) for a layer that passes beats on."""
    return folding.get(layer.name, Fold(0))


def _make_source(wire: Wire, link: _Link, beats: int) -> _Actor:
    """Who gives the network its input."""
    gives = np.arange(1, wire.pixels + 1) * wire.channels
    cost = np.diff(np.arange(wire.pixels + 1) * beats // wire.pixels)
    nothing: list[list[int]] = [[] for _ in range(wire.pixels)]
    return _Actor(Layer("input", (), (wire,)), nothing, nothing, gives.tolist(), cost.tolist(), 0, [], [link], seen=[0])


def _make_actor(layer: Layer, fold: Fold, links: Mapping[str, _Link]) -> _Actor:
    firings = layer.firings()
    count = len(firings.gives)
    total = layer.cycles(fold) if fold.pe else count
    spent = firings.work * total // max(int(firings.work[-1]), 1) if count else firings.work
    sources, results = [links[w.name] for w in layer.sources], [links[w.name] for w in layer.results]
    return _Actor(
        layer,
        firings.needs.tolist(),
        firings.frees.tolist(),
        firings.gives.tolist(),
        np.diff(np.concatenate([[0], spent])).tolist(),
        layer.delay(fold),
        sources,
        results,
        seen=[0] * (len(sources) + len(results)),
    )


def add_queues(
    network: Network, folding: Folding, beats: int, most_beats: int | None = None
) -> tuple[Network, Schedule]:
    """The network with a queue on every wire into a join that must wait longer than its units' own registers hold.

    `most_beats` caps every queue. Raises Deadlock where the network would then stop.
    """
    free = schedule(network, folding, {}, beats)
    depths = {}
    for layer in network.layers:
        if layer.is_join:
            for wire in layer.sources:
                shallow = _shallow(network, wire)
                depths[wire.name] = _depth(free.held[wire.name], _fold(layer, folding), shallow, most_beats)
    queued = place_queues(network, {name: depth for name, depth in depths.items() if depth})
    return queued, schedule(network, folding, depths, beats) if depths else free


def _shallow(network: Network, wire: Wire) -> int:
    """Beats into a join that are held without a queue."""
    giver = next((layer for layer in network.layers if wire.name in {result.name for result in layer.results}), None)
    return 1 if giver is None or giver.holds_one_beat else SHALLOW_BEATS


def _depth(held: int, fold: Fold, shallow: int, most_beats: int | None) -> int:
    """Integers that the queue holds, a whole number of the join's beats; 0 where none is needed."""
    beats = -(-held // fold.pe)
    if beats <= shallow:
        return 0
    beats += SLACK_BEATS
    return fold.pe * (min(beats, most_beats) if most_beats is not None else beats)


def place_queues(network: Network, depths: Mapping[str, int]) -> Network:
    """The network with queues of so many integers on the named wires."""
    layers: list[Layer] = []
    names = {wire.name for wire in network.wires}
    for layer in network.layers:
        sources = []
        for wire in layer.sources:
            if layer.is_join and wire.name in depths:
                queued = replace(wire, name=_unlike(f"{wire.name}_queued", names), edge="")
                layers.append(Queue(f"{wire.name}_queue", (wire,), (queued,), depths[wire.name]))
                wire = queued
            sources.append(wire)
        layers.append(replace(layer, sources=tuple(sources)))
    return replace(network, layers=tuple(layers))


def _unlike(name: str, names: set[str]) -> str:
    while name in names:
        name += "_"
    return name
