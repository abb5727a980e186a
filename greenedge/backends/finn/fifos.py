"""When each layer takes and gives its integers: a simulation of the schedule, pixel by pixel and with no data in it.

It finds how deep the queues on the two sides of a branch must be, that nothing waits for ever, and how many cycles lie between
two inferences. A layer is a cycle of firings (a pixel, a vector, a patch): each needs so many integers of every source to be
there, sets so many free, takes so many cycles and gives its result. Times follow by recurrence, so the order in which layers
are looked at does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.folding import Fold, Folding, cycles
from greenedge.backends.finn.units import ring_pixels, unit_of

SAMPLES, FIRINGS = (
    6,
    300_000,
)  # inferences that are simulated: at least three, more while there are no more firings than these
FEW = 2_000  # firings that cost no time: small networks, which many samples are in at once, are simulated until they are filled
SLACK_BEATS = 8  # pipeline registers on the longer way hold what the shorter way must wait for
SHALLOW_BEATS = 2  # what a branch's last unit holds on its way out, with what lies before it, anyway
_ONE_BEAT = (hw.Fork, hw.Concat, hw.Pad)  # hold one beat, and behind them comes a fork that waits for it
_LATENCY = {hw.MatVec: 12, hw.Depthwise: 12, hw.Step: 10, hw.Window: 4}
_UNBOUNDED = 1 << 60


@dataclass(frozen=True)
class Schedule:
    """Cycles between inferences and from first input to last output; the most integers held by each wire into a join."""

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

    def most_held(self) -> int:
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
    """One layer: per firing of a sample (rows) cumulative integers needed, freed (per source) and given; cycles."""

    layer: hw.Layer
    needs: np.ndarray
    frees: np.ndarray
    gives: np.ndarray
    cost: np.ndarray
    latency: int
    sources: list[_Link]
    results: list[_Link]
    totals: list[int] = field(init=False)  # integers of every source per sample
    fired: int = 0
    clock: int = 0
    seen: list[int] = field(default_factory=list)  # per source and result: events looked at

    def __post_init__(self) -> None:
        self.totals = [wire.total for wire in self.layer.sources]

    def advance(self, samples: int) -> bool:
        """Fires as often as it can; whether it fired at all."""
        before, rows = self.fired, len(self.cost)
        while self.fired < rows * samples and (start := self._ready(*divmod(self.fired, rows))) is not None:
            sample, row = divmod(self.fired, rows)
            self.clock = max(self.clock, start) + int(self.cost[row])
            for k, link in enumerate(self.sources):
                link.taken.append((sample * self.totals[k] + int(self.frees[row, k]), self.clock))
            total = sample * int(self.gives[-1]) + int(self.gives[row])
            for link in self.results:
                link.given.append((total, self.clock + self.latency))
            self.fired += 1
        return self.fired > before

    def _ready(self, sample: int, row: int) -> int | None:
        """When this firing's integers are there and its result has room; None if that is not known yet."""
        start = 0
        for k, link in enumerate(self.sources):
            count = sample * self.totals[k] + int(self.needs[row, k])
            time = self._reached(k, link.given, count)
            if time is None:
                return None
            start = max(start, time)
        for k, link in enumerate(self.results, len(self.sources)):
            count = sample * int(self.gives[-1]) + int(self.gives[row]) - link.capacity
            time = self._reached(k, link.taken, count) if count > 0 else 0
            if time is None:
                return None
            start = max(start, time)
        return start

    def _reached(self, k: int, events: list[tuple[int, int]], count: int) -> int | None:
        while self.seen[k] < len(events) and events[self.seen[k]][0] < count:
            self.seen[k] += 1
        return events[self.seen[k]][1] if self.seen[k] < len(events) else (0 if count == 0 else None)

    def waits_for(self) -> tuple[list[str], list[str]]:
        """(full results, empty sources) of the firing that cannot start."""
        sample, row = divmod(self.fired, len(self.cost))
        empty = [
            link.name
            for k, link in enumerate(self.sources)
            if self._reached(k, link.given, sample * self.totals[k] + int(self.needs[row, k])) is None
        ]
        room = [(link, sample * int(self.gives[-1]) + int(self.gives[row]) - link.capacity) for link in self.results]
        return [
            link.name
            for k, (link, count) in enumerate(room, len(self.sources))
            if count > 0 and self._reached(k, link.taken, count) is None
        ], empty


def schedule(network: hw.Network, folding: Folding, depths: Mapping[str, int], beats: int) -> Schedule:
    """The network in time, with queues of `depths` integers on the named wires and none elsewhere; `beats` feed one sample.

    A wire into a join that `depths` does not name is unbounded. Raises Deadlock.
    """
    links: dict[str, _Link] = {wire.name: _Link(wire.name, 0) for wire in _wires(network)}
    joins = {wire.name: wire for layer in network.layers if len(layer.sources) > 1 for wire in layer.sources}
    actors = [_source(network.source, links["s"], beats)]
    for layer in network.layers:
        for k, wire in enumerate(layer.sources):
            links[wire.name].capacity += _own_buffer(layer, _fold(layer, folding), k)
        actors.append(_actor(layer, _fold(layer, folding), links))
        for wire in layer.results:  # what is on its way through the unit's registers
            links[wire.name].capacity += actors[-1].latency * _fold(layer, folding).pe
    for name, wire in joins.items():
        if name not in depths:
            links[name].capacity = _UNBOUNDED
        elif depths[name]:
            links[name].capacity += (
                depths[name] - 2 * wire.channels
            )  # one pixel, not three, is on its way through the join
    links[network.result.name].capacity = _UNBOUNDED
    firings = sum(len(actor.cost) for actor in actors)
    samples = max(3, min(max(SAMPLES, FEW // firings), FIRINGS // firings))
    waiting = list(actors)
    while waiting:
        moved = [actor.advance(samples) for actor in waiting]
        waiting = [actor for actor in waiting if actor.fired < len(actor.cost) * samples]
        if waiting and not any(moved):
            raise _deadlock(waiting, depths)
    ends: dict[
        int, int
    ] = {}  # a global pool's firings give nothing but the last: a sample ends when its count is first reached
    for count, time in links[network.result.name].given:
        if count and count % network.result.total == 0:
            ends.setdefault(count, time)
    done = list(ends.values())
    half = len(done) // 2  # before, the network is still filling
    interval = max((done[-1] - done[half]) / (len(done) - 1 - half), *(float(actor.cost.sum()) for actor in actors))
    return Schedule(interval, done[0], {name: links[name].most_held() for name in joins})


def _deadlock(waiting: list[_Actor], depths: Mapping[str, int]) -> Deadlock:
    """Told by the queues that are full and by what the joins behind them lack, where there are queues: the rest follows."""
    found = [actor.waits_for() for actor in waiting]
    every = tuple(name for names, _ in found for name in names)
    full = tuple(name for name in every if depths.get(name)) or every
    behind = [empty for actor, (_, empty) in zip(waiting, found) if any(link.name in full for link in actor.sources)]
    return Deadlock(full, tuple(name for empty in behind for name in empty))


def _wires(network: hw.Network) -> list[hw.Wire]:
    return [network.source, *(wire for layer in network.layers for wire in layer.results)]


def _fold(layer: hw.Layer, folding: Folding) -> Fold:
    return folding.get(layer.name, Fold(0))


def _own_buffer(layer: hw.Layer, fold: Fold, k: int) -> int:
    """Integers that a unit stores of a source until it needs them no more."""
    wire = layer.sources[k]
    if isinstance(layer, hw.Window):
        return ring_pixels(unit_of(layer, fold).parameters) * wire.channels
    if isinstance(layer, hw.MatVec):
        return 3 * layer.weight.shape[0]
    if isinstance(layer, hw.Upsample):
        return (layer.width * (layer.factors[0] > 1) + 2 + 10 * fold.pe // wire.channels) * wire.channels
    return 3 * wire.channels


def _source(wire: hw.Wire, link: _Link, beats: int) -> _Actor:
    gives = np.arange(1, wire.pixels + 1) * wire.channels
    cost = np.diff(np.arange(wire.pixels + 1) * beats // wire.pixels)
    nothing = np.zeros((wire.pixels, 0), np.int64)
    return _Actor(hw.Layer("input", (), (wire,)), nothing, nothing, gives, cost, 0, [], [link], seen=[0])


def _actor(layer: hw.Layer, fold: Fold, links: Mapping[str, _Link]) -> _Actor:
    needs, frees, gives = _firings(layer)
    total = cycles(layer, fold) if fold.pe else len(gives)
    steps = np.diff(np.concatenate([[0], gives])) if len(gives) else gives
    cost = np.diff(np.concatenate([[0], np.cumsum(steps) * total // max(int(gives[-1]), 1)]))
    if isinstance(layer, hw.GlobalPool):  # its cycles go into reading
        cost = np.diff(np.arange(len(gives) + 1) * total // len(gives))
    sources, results = [links[w.name] for w in layer.sources], [links[w.name] for w in layer.results]
    latency = _LATENCY.get(type(layer), 2) + fold.cycles
    return _Actor(layer, needs, frees, gives, cost, latency, sources, results, seen=[0] * (len(sources) + len(results)))


def _firings(layer: hw.Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(needs, frees, gives): cumulative integers per firing."""
    if isinstance(layer, hw.Window):
        return _window_firings(layer)
    if isinstance(layer, hw.Concat):
        return _concat_firings(layer)
    if isinstance(layer, hw.Pad):
        inside = np.pad(np.ones((layer.height, layer.width), np.int64), (layer.pads[::2], layer.pads[1::2]))
        taken = np.cumsum(inside.ravel())[:, None] * layer.source.channels
        return taken, taken, np.arange(1, inside.size + 1) * layer.result.channels
    if isinstance(layer, hw.Upsample):  # a row is kept until its last repetition, and freed pixel by pixel then
        (down, across), channels = layer.factors, layer.source.channels
        i, j = np.divmod(np.arange(layer.height * down * layer.width * across), layer.width * across)
        needs = i // down * layer.width + j // across + 1
        frees = np.where((i % down == down - 1) & (j % across == across - 1), needs, i // down * layer.width)
        return (
            needs[:, None] * channels,
            np.maximum.accumulate(frees)[:, None] * channels,
            np.arange(1, len(i) + 1) * channels,
        )
    if isinstance(layer, hw.GlobalPool):
        taken = np.arange(1, layer.source.pixels + 1) * layer.source.channels
        return taken[:, None], taken[:, None], np.append(np.zeros(len(taken) - 1, np.int64), layer.result.total)
    pixels = layer.result.pixels if isinstance(layer, (hw.Linear, hw.Pool)) else max(1, layer.source.pixels)
    j = np.arange(1, pixels + 1)
    taken = np.stack([j * (wire.total // pixels) for wire in layer.sources], axis=1)
    return taken, taken, j * (layer.result.total // pixels)


def _window_firings(layer: hw.Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per output pixel: the last input pixel of its patch must be there; what lies before the next patch is free."""
    rows, columns = layer.out
    channels, (top, left, _, _) = layer.source.channels, layer.pads
    at = lambda i, stride, kernel, dilation, pad, size: np.clip(i * stride + (kernel - 1) * dilation - pad, 0, size - 1)
    y = at(np.arange(rows), layer.strides[0], layer.kernel[0], layer.dilations[0], top, layer.height)
    x = at(np.arange(columns), layer.strides[1], layer.kernel[1], layer.dilations[1], left, layer.width)
    needs = np.maximum.accumulate((y[:, None] * layer.width + x + 1).ravel())
    start_y, start_x = np.arange(rows) * layer.strides[0] - top, np.arange(columns) * layer.strides[1] - left
    first = (start_y[:, None] * layer.width + start_x).ravel()
    size = layer.height * layer.width
    frees = np.maximum.accumulate(np.clip(np.append(first[1:], size + first[0]), 0, size))
    return (
        needs[:, None] * channels,
        frees[:, None] * channels,
        np.arange(1, rows * columns + 1) * layer.result.channels,
    )


def _concat_firings(layer: hw.Concat) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turns of a, then b; a turn of many pixels is taken pixel by pixel."""
    a, b = layer.sources
    turns = a.total // layer.chunks[0]
    pixels = [max(1, chunk // wire.channels) for wire, chunk in zip((a, b), layer.chunks)]
    parts = [np.arange(1, n + 1) * (chunk // n) for n, chunk in zip(pixels, layer.chunks)]
    one = np.concatenate(
        [
            np.stack([parts[0], np.zeros_like(parts[0])], 1),
            np.stack([np.full_like(parts[1], layer.chunks[0]), parts[1]], 1),
        ]
    )
    taken = np.concatenate([one + np.array(layer.chunks) * turn for turn in range(turns)])
    return taken, taken, taken.sum(axis=1)


def with_queues(
    network: hw.Network, folding: Folding, beats: int, most_beats: int | None = None
) -> tuple[hw.Network, Schedule]:
    """The network with a queue on every wire into a join that must wait longer than its units' own registers hold.

    `most_beats` caps every queue. Raises Deadlock where the network would then stop.
    """
    free = schedule(network, folding, {}, beats)
    depths = {}
    for layer in network.layers:
        if len(layer.sources) > 1:
            for wire in layer.sources:
                shallow = _shallow(network, wire)
                depths[wire.name] = _depth(free.held[wire.name], _fold(layer, folding), shallow, most_beats)
    made = placed(network, {name: depth for name, depth in depths.items() if depth})
    return made, schedule(network, folding, depths, beats) if depths else free


def _shallow(network: hw.Network, wire: hw.Wire) -> int:
    """Beats into a join that are held without a queue."""
    giver = next((layer for layer in network.layers if wire.name in {result.name for result in layer.results}), None)
    return 1 if giver is None or isinstance(giver, _ONE_BEAT) else SHALLOW_BEATS


def _depth(held: int, fold: Fold, shallow: int, most_beats: int | None) -> int:
    """Integers that the queue holds, a whole number of the join's beats; 0 where none is needed."""
    beats = -(-held // fold.pe)
    if beats <= shallow:
        return 0
    beats += SLACK_BEATS
    return fold.pe * (min(beats, most_beats) if most_beats is not None else beats)


def placed(network: hw.Network, depths: Mapping[str, int]) -> hw.Network:
    """The network with queues of so many integers on the named wires."""
    layers: list[hw.Layer] = []
    names = {wire.name for wire in _wires(network)}
    for layer in network.layers:
        sources = []
        for wire in layer.sources:
            if len(layer.sources) > 1 and wire.name in depths:
                queued = replace(wire, name=_unlike(f"{wire.name}_queued", names), edge="")
                layers.append(hw.Queue(f"{wire.name}_queue", (wire,), (queued,), depths[wire.name]))
                wire = queued
            sources.append(wire)
        layers.append(replace(layer, sources=tuple(sources)))
    return replace(network, layers=tuple(layers))


def _unlike(name: str, names: set[str]) -> str:
    while name in names:
        name += "_"
    return name
