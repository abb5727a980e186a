"""When each layer takes and gives its integers: a simulation of the schedule, pixel by pixel and with no data in it.

It finds how deep the queues on the two sides of a branch must be, that nothing waits for ever, and how many cycles lie
between two inferences. A layer is a cycle of firings (a pixel, a vector, a patch; `Layer.firings`): each needs so many
integers of every source to be there, sets so many free, takes so many cycles and gives its result. Times follow by
recurrence, so the order in which layers are looked at does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from greenedge.backends.finn.dialect.layer import Fold, Layer, Wire
from greenedge.backends.finn.dialect.ops import Network, Queue
from greenedge.backends.finn.folding import Folding

SAMPLES = 6  # inferences that are simulated: at least three, and more while there are no more than FIRINGS firings
FIRINGS = 300_000
FIRST = 3  # inferences after which a schedule may be found to repeat itself
# Firings that cost no time: small networks, which many samples are in at once, are simulated until they are full.
FEW = 2_000
SLACK_BEATS = 8  # pipeline registers on the longer way hold what the shorter way must wait for
SHALLOW_BEATS = 2  # what a branch's last unit holds on its way out, with what lies before it, anyway
_UNBOUNDED = 1 << 60
Events: TypeAlias = NDArray[np.int64]  # (N, 2) how many integers had been given, or taken, by when


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


def _largest_backlog(given: Events, taken: Events) -> int:
    """Integers between both ends at the worst moment; what is taken and given in one cycle passes by each other."""
    times = np.concatenate([taken[:, 1], given[:, 1]])
    changes = np.concatenate([-np.diff(taken[:, 0], prepend=0), np.diff(given[:, 0], prepend=0)])
    return int(np.cumsum(changes[np.argsort(times, kind="stable")]).max(initial=0))


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
    clock: int = 0  # when its last firing ended, or the next can begin as far as is known
    seen: list[int] = field(default_factory=list)  # per source and result: events looked at

    def __post_init__(self) -> None:
        self.totals = [wire.total for wire in self.layer.sources]

    def work(self, samples: int) -> Iterator[None]:
        """Fires as often as it can up to the end of `samples`, and pauses where it cannot go on.

        This is where a schedule spends its time: names are bound once, and nothing is called within the loop.
        """
        needs, frees, gives, cost = self.needs, self.frees, self.gives, self.cost
        rows, totals, seen = len(cost), self.totals, self.seen
        waits = [(link.given, k) for k, link in enumerate(self.sources)]
        rooms = [(link.taken, link.capacity, k) for k, link in enumerate(self.results, len(waits))]
        taken = [(link.taken.append, k) for k, link in enumerate(self.sources)]
        given = [link.given.append for link in self.results]
        clock, latency, last = self.clock, self.latency, gives[-1]
        for fired in range(self.fired, rows * samples):
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
                    self.clock = clock
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
                        self.clock = clock
                        yield
                    if events[n][1] > clock:
                        clock = events[n][1]
            clock += cost[row]
            for append, k in taken:
                append((sample * totals[k] + frees[row][k], clock))
            for append in given:
                append((total, clock + latency))
            self.fired = fired + 1
        self.clock = clock

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
    return _Timing(network, folding, depths, beats).summarise()


class _Timing:
    """A network in time: its layers and wires with all that happens on them. Raises Deadlock."""

    def __init__(self, network: Network, folding: Folding, depths: Mapping[str, int], beats: int) -> None:
        self.network, self.depths = network, depths
        self.links = {wire.name: _Link(wire.name, 0) for wire in network.wires}
        self.joins = {wire.name: wire for layer in network.layers if layer.is_join for wire in layer.sources}
        self.actors = [_make_source(network.source, self.links["s"], beats)]
        for layer in network.layers:
            fold = _fold(layer, folding)
            for k, wire in enumerate(layer.sources):
                self.links[wire.name].capacity += layer.buffer(k, fold)
            self.actors.append(_make_actor(layer, fold, self.links))
            for wire in layer.results:  # what is on its way through the unit's registers
                self.links[wire.name].capacity += self.actors[-1].latency * fold.pe
        self.registers = {name: self.links[name].capacity for name in self.joins}  # of units alone, without a queue
        for name in self.joins:
            self.links[name].capacity = self._capacity(name, depths)
        self.links[network.result.name].capacity = _UNBOUNDED
        firings = sum(len(actor.cost) for actor in self.actors)
        self.samples = max(FIRST, min(max(SAMPLES, FEW // firings), FIRINGS // firings))
        self.period: int | None = None  # cycles between any two samples from the second on, where they are alike
        if _run_actors(self.actors, FIRST):
            self.period = _find_period(self.actors)
        if self.period is None and not _run_actors(self.actors, self.samples):
            raise _deadlock([actor for actor in self.actors if actor.fired < len(actor.cost) * self.samples], depths)

    def _capacity(self, name: str, depths: Mapping[str, int]) -> int:
        """Integers that the wire into a join holds, with queues of `depths`."""
        if name not in depths:
            return _UNBOUNDED
        if not depths[name]:
            return self.registers[name]
        # one pixel, not three, is on its way through the join
        return self.registers[name] + depths[name] - 2 * self.joins[name].channels

    def summarise(self) -> Schedule:
        """Interval, latency, and what the joins' wires held."""
        result = self.network.result
        done = _completion_times(self._extend(self.links[result.name].given, self.samples), result.total)
        half = len(done) // 2  # before, the network is still filling
        slowest = max(float(sum(actor.cost)) for actor in self.actors)
        interval = max((done[-1] - done[half]) / (len(done) - 1 - half), slowest)
        held = {}
        for name in self.joins:
            given, taken = (
                self._extend(events, self.samples) for events in (self.links[name].given, self.links[name].taken)
            )
            held[name] = _largest_backlog(given, taken)
        return Schedule(interval, done[0], held)

    def _extend(self, events: list[tuple[int, int]], samples: int) -> Events:
        return _extend(np.array(events, np.int64), self.period, samples)

    def is_same_with(self, depths: Mapping[str, int]) -> bool:
        """Whether queues of `depths` on the wires into joins, which were unbounded, would change no time."""
        return all(
            _has_always_room(actor, link, self._capacity(link.name, depths), self.period, self.samples)
            for actor in self.actors
            for link in actor.results
            if link.name in self.joins
        )


def _find_period(actors: list[_Actor]) -> int | None:
    """Cycles between two samples, if the last of `FIRST` went as the one before it in all actors: so will all later.

    A firing looks back at those of its own sample and of the one before. Only where a wire holds more than a sample it
    looks further back: there it must never have waited, nor wait later on.
    """
    ends = [_ends(actor).reshape(FIRST, -1) for actor in actors]
    period = int(ends[0][-1, -1] - ends[0][-2, -1])
    if not all((each[-1] - each[-2] == period).all() for each in ends):
        return None
    far = [(actor, link) for actor in actors for link in actor.results if actor.gives[-1] < link.capacity < _UNBOUNDED]
    return period if all(_has_always_room(*each, each[1].capacity, period, FIRST) for each in far) else None


def _extend(events: Events, period: int | None, samples: int) -> Events:
    """What happens at one end of a wire in so many samples, where `FIRST` were simulated and repeat themselves."""
    if period is None or samples <= FIRST:
        return events
    last = events.reshape(FIRST, -1, 2)[-1]
    total = events[-1, 0] // FIRST
    later = np.arange(1, samples - FIRST + 1)[:, None, None] * (total, period)
    return np.concatenate([events, (last + later).reshape(-1, 2)])


def _ends(actor: _Actor) -> NDArray[np.int64]:
    """(firings,) when each of its firings ended."""
    events = actor.sources[0].taken if actor.sources else actor.results[0].given
    return np.array(events, np.int64)[:, 1]


def _has_always_room(actor: _Actor, link: _Link, capacity: int, period: int | None, samples: int) -> bool:
    """Whether with so much room on `link` every firing of `actor` could have begun when it did: none began before, or
    just when, there was room. With a `period`, of all samples to come."""
    samples = max(samples, FIRST + capacity // actor.gives[-1] + 1)  # from then on they look back at alike ones
    given, taken = (_extend(np.array(events, np.int64), period, samples) for events in (link.given, link.taken))
    starts = given[:, 1] - actor.latency - np.resize(np.array(actor.cost, np.int64), len(given))
    wanted = given[:, 0] - capacity
    waits = wanted > 0
    first = np.searchsorted(taken[:, 0], wanted[waits], side="left")
    return bool((first < len(taken)).all()) and bool((taken[first, 1] < starts[waits]).all())


def _run_actors(actors: list[_Actor], samples: int) -> bool:
    """Fires all of them until every one has worked through `samples`; whether they could.

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
    return all(actor.fired == len(actor.cost) * samples for actor in actors)


def _completion_times(given: Events, total: int) -> list[int]:
    """When each sample of `total` integers is complete: its count is first reached (firings of a global pool give
    nothing but the last)."""
    ends: dict[int, int] = {}
    for count, time in given.tolist():
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
    timing = _Timing(network, folding, {}, beats)
    free = timing.summarise()
    depths = {}
    for layer in network.layers:
        if layer.is_join:
            for wire in layer.sources:
                shallow = _shallow(network, wire)
                depths[wire.name] = _depth(free.held[wire.name], _fold(layer, folding), shallow, most_beats)
    queued = place_queues(network, {name: depth for name, depth in depths.items() if depth})
    return queued, free if timing.is_same_with(depths) else schedule(network, folding, depths, beats)


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
