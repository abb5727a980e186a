"""Single-bit faults in the memories of a build: what each changes, which inputs show it, and which no input can show.

A fault is one bit of a memory file as the unit reads it (weights, corrections, m and b, thresholds, tables), turned for
the whole run. Its effect is worked out where it sits, for the one channel that it concerns, and what changes there goes
through the rest of the network as the units compute it (emulate.py). The places of a reordering unit are counted and
stay open: what a wrong place reads is whatever lies there from before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from greenedge.backends.finn.design import describe_damage, read_design
from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.layer import Fold, Layer, Wire
from greenedge.backends.finn.emulate import (
    Bools,
    State,
    apply_affine,
    apply_step,
    outside_table,
    run_layer,
    run_layers,
    wrap,
    wrap_to,
)
from greenedge.backends.finn.reach import Channels, find_reach, list_values
from greenedge.backends.finn.units import (
    affine_bits,
    depthwise_words,
    matvec_words,
    place_words,
    repeat_rows,
    table_words,
    threshold_words,
)
from greenedge.graph import Edge, Graph
from greenedge.graph.joined_inputs import join_input_edges
from greenedge.graph.ops.base import Ints

_CHUNK = 1 << 21  # integers in one array of effects
_FAR = 1 << 40  # a distance that any other is below
_STEPS, _TRIES, _STUCK = 150, 48, 6  # of a search: most steps, inputs per step, steps without gain before larger ones


@dataclass(frozen=True, eq=False)
class Memory:
    """The bits of one memory file. Element e of word w belongs to parameter `index[w, e]` of the layer and to the
    positions `channel[w, e]`, + `channels`, + 2*`channels` … of its result."""

    file: str
    layer: Layer
    kind: str  # "weights", "correction", "affine", "thresholds", "search", "levels", "table" or "places"
    bits: int  # of an element
    index: Ints
    channel: Ints
    channels: int

    @property
    def count(self) -> int:
        return self.index.size * self.bits

    def locate(self, fault: int) -> tuple[int, int]:
        """(word, bit of the word) of the fault-th bit."""
        element, bit = divmod(fault, self.bits)
        word, lane = divmod(element, self.index.shape[1])
        return word, lane * self.bits + bit

    def channel_of(self, faults: Ints) -> Ints:
        return self.channel.ravel()[faults // self.bits]

    def effect(self, state: Mapping[str, Ints], faults: Ints) -> Ints:
        """(N, faults, positions): what stands at the positions of each fault's channel instead of what should."""
        index, bit, channel = self.index.ravel()[faults // self.bits], faults % self.bits, self.channel_of(faults)
        x, good = state[self.layer.source.name], self.pick(state[self.layer.result.name], channel)
        if isinstance(self.layer, hw.Linear):
            return self._change_sums(self.layer, x, good, index, bit)
        assert isinstance(self.layer, hw.Step)
        return self._change_levels(self.layer, self.pick(x, channel), good, index, bit)

    def pick(self, values: Ints, channel: Ints) -> Ints:
        """(N, len(channel), positions) of a wire of the layer's size."""
        by_channel = values.reshape(len(values), -1, self.channels)
        return np.ascontiguousarray(by_channel[:, :, channel].transpose(0, 2, 1))

    def _change_sums(self, layer: hw.Linear, x: Ints, good: Ints, index: Ints, bit: Ints) -> Ints:
        if self.kind == "correction":
            changed = layer.correction.ravel()[index] ^ (1 << bit)
            return wrap_to(good + (changed - layer.correction.ravel()[index])[:, None], layer.result)
        factor, constant = self.weight_change(layer, index, bit)
        shape = layer.weight.shape
        if isinstance(layer, hw.MatVec):
            inputs = x.reshape(len(x), -1, shape[0])[:, :, index // shape[1]]
        else:
            channel, tap = np.divmod(index, shape[1])
            inputs = x.reshape(len(x), -1, shape[1], shape[0])[:, :, tap, channel]
        return wrap_to(good + factor[:, None] * inputs.transpose(0, 2, 1) + constant[:, None], layer.result)

    def levels_of(self, x: Ints, fault: int) -> tuple[Ints, Ints]:
        """(level, level with the fault) of the values `x` (n,) of the channel of a step function's fault."""
        layer, index, bit = self.layer, self.index.ravel()[[fault // self.bits]], np.array([fault % self.bits])
        assert isinstance(layer, hw.Step)
        good = apply_step(layer, x, self._row_of(layer, index))
        return good, self._change_levels(layer, x[None, None], good[None, None], index, bit)[0, 0]

    def _row_of(self, layer: hw.Step, index: Ints) -> Ints:
        """Which row of the layer's parameters each of these belongs to."""
        if self.kind == "table":
            return index // layer.require_table().shape[1]
        return index // self._entries(layer) if self.kind in ("search", "levels") else index

    def list_touched(self, values: Ints, fault: int) -> Ints:
        """Of these rising values of the channel of a step function's fault those whose level it may change."""
        if self.kind not in ("search", "levels"):
            return values
        assert isinstance(self.layer, hw.Step)
        tree, source = self.layer.tree, self.layer.source
        row, place = divmod(int(self.index.ravel()[fault // self.bits]), self._entries(self.layer))
        if self.kind == "levels":
            first, end = tree.span_level(row, place)
        else:
            threshold = tree.thresholds[row, [place]]
            changed = wrap(threshold ^ (1 << fault % self.bits), source.bits, source.signed)
            span = tree.span(row, place)
            first, end = max(span[0], int(min(threshold, changed)[0])), min(span[1], int(max(threshold, changed)[0]))
        return values[np.searchsorted(values, first) : np.searchsorted(values, end)]

    def _entries(self, layer: hw.Step) -> int:
        """Thresholds, or levels, of a row of a unit that searches."""
        return int((layer.tree.thresholds if self.kind == "search" else layer.tree.levels).shape[1])

    @staticmethod
    def weight_change(layer: hw.Linear, index: Ints, bit: Ints) -> tuple[Ints, Ints]:
        """(factor, constant): the sum changes by factor * its input + constant; the unit leaves out a constant for
        negative weights, see ge_product.sv."""
        weight, bits = layer.weight.ravel()[index], layer.weight_bits
        if bits == 1:
            changed = -weight
        else:
            changed = wrap(weight ^ (1 << bit), bits, True)
        left_out = 1 << max(bits - 2, 0)
        return changed - weight, left_out * ((weight < 0).astype(np.int64) - (changed < 0))

    def _change_levels(self, layer: hw.Step, x: Ints, good: Ints, index: Ints, bit: Ints) -> Ints:
        if self.kind == "affine":
            assert layer.affine is not None
            wide, row = affine_bits(layer)[1], index
            in_b = bit < wide
            b = np.where(
                in_b, wrap(layer.affine.b[row] ^ (1 << np.minimum(bit, wide)), wide, True), layer.affine.b[row]
            )
            m = layer.affine.m[row] ^ np.where(in_b, 0, 1 << np.maximum(bit - wide, 0))
            return apply_affine(layer, x, m[:, None], b[:, None])
        if self.kind == "thresholds":
            return self._change_counts(layer, x, good, index, bit)
        if self.kind in ("search", "levels"):
            return self._change_search(layer, x, index, bit)
        row, entry = np.divmod(index, layer.require_table().shape[1])
        changed = wrap_to(layer.require_table()[row, entry] ^ (1 << bit), layer.result)
        if layer.result.signed:
            changed = wrap(changed, layer.result.bits, True)
        return np.where(x - layer.table_lo == entry[:, None], changed[:, None], good)

    def _change_search(self, layer: hw.Step, x: Ints, index: Ints, bit: Ints) -> Ints:
        """The level that is found with a threshold changed, which turns the search off its way, or one level."""
        tree, source, result = layer.tree, layer.source, layer.result
        row, entry = (part[:, None] for part in np.divmod(index, self._entries(layer)))
        flip, found = (1 << bit)[:, None], np.zeros(x.shape, np.int64)
        for stage in range(tree.stages):
            place = tree.places(stage)[found]
            thresholds = tree.thresholds[row, place]
            if self.kind == "search":
                changed = wrap(thresholds ^ flip, source.bits, source.signed)
                thresholds = np.where(place == entry, changed, thresholds)
            found = 2 * found + (x >= thresholds)
        levels = wrap(tree.levels[row, found], result.bits, result.signed)
        if self.kind == "levels":
            levels = np.where(found == entry, wrap(levels ^ flip, result.bits, result.signed), levels)
        return levels

    @staticmethod
    def _change_counts(layer: hw.Step, x: Ints, good: Ints, index: Ints, bit: Ints) -> Ints:
        thresholds, wide = threshold_words(layer), layer.source.bits + 1
        steps = thresholds.shape[1]
        turns = bit >= steps * wide  # a bit that turns one count round, or all
        place = np.where(turns, np.minimum(bit - steps * wide, steps - 1), np.minimum(bit // wide, steps - 1))
        before = thresholds[index, place]
        after = wrap(before ^ (1 << (bit % wide)), wide, layer.source.signed)
        reached = (x >= before[:, None]).astype(np.int64)
        sign = np.where(layer.falls[index, place], -1, 1)[:, None]
        more = sign * ((x >= after[:, None]) - reached)
        turned = sign * (1 - 2 * reached) if layer.fall_bits > 1 else 2 * (layer.start - good) + steps
        return wrap_to(good + np.where(turns[:, None], turned, more), layer.result)


def list_memories(layers: Sequence[Layer], folding: Mapping[str, Fold]) -> list[Memory]:
    """The memories of these layers in order, each as units.py writes its file."""
    found: list[Memory] = []
    for layer in layers:
        if isinstance(layer, hw.Linear):
            found += _list_linear(layer, folding[layer.name])
        elif isinstance(layer, hw.Step):
            found += _list_step(layer, folding[layer.name])
        elif isinstance(layer, hw.Reorder):
            words, bits = place_words(layer, folding[layer.name])
            none = np.zeros_like(words)
            found.append(Memory(f"{layer.name}_places.mem", layer, "places", bits, none, none, 1))
    return found


def _list_linear(layer: hw.Linear, fold: Fold) -> list[Memory]:
    index = np.arange(layer.weight.size).reshape(layer.weight.shape)
    if isinstance(layer, hw.MatVec):
        outputs, words = layer.weight.shape[1], matvec_words(index, fold)
        channel = words % outputs
    else:
        outputs, words = layer.weight.shape[0], depthwise_words(index, fold)
        channel = words // layer.weight.shape[1]
    found = [Memory(f"{layer.name}_weights.mem", layer, "weights", layer.weight_bits, words, channel, outputs)]
    if layer.correct:
        rows = np.arange(outputs).reshape(-1, fold.pe)
        bits = layer.result.bits
        found.append(Memory(f"{layer.name}_correction.mem", layer, "correction", bits, rows, rows, outputs))
    return found


def _list_step(layer: hw.Step, fold: Fold) -> list[Memory]:
    channels, row = repeat_rows(layer, fold)
    lanes = np.arange(channels).reshape(-1, fold.pe)
    if fold.form == "table":
        size = layer.require_table().shape[1]
        if layer.period == 1:
            channels, row, lanes = fold.pe, np.zeros(fold.pe, np.int64), np.arange(fold.pe)[None]
        entries = table_words((row[:, None] * size + np.arange(size)), fold)
        channel = table_words(np.repeat(lanes.ravel()[:, None], size, axis=1), fold)
        return [Memory(f"{layer.name}_table.mem", layer, "table", layer.result.bits, entries, channel, channels)]
    if fold.form == "search":
        return _list_search(layer, fold, row, lanes)
    if fold.form == "affine":
        bits, file = sum(affine_bits(layer)), f"{layer.name}_parameters.mem"
    else:
        steps = layer.require_thresholds().shape[1]
        bits = steps * (layer.source.bits + 1) + layer.fall_bits
        file = f"{layer.name}_thresholds.mem"
    return [Memory(file, layer, fold.form, bits, row.reshape(-1, fold.pe), lanes, channels)]


def _list_search(layer: hw.Step, fold: Fold, row: Ints, lanes: Ints) -> list[Memory]:
    """Those of the stages, then that of the levels."""
    tree, channels = layer.tree, len(row)
    parts = [(f"{s}", "search", layer.source.bits, tree.places(s), tree.thresholds) for s in range(tree.stages)]
    parts.append(("levels", "levels", layer.result.bits, np.arange(1 << tree.stages), tree.levels))
    return [
        Memory(
            f"{layer.name}_search_{name}.mem",
            layer,
            kind,
            bits,
            table_words(row[:, None] * values.shape[1] + places, fold),
            table_words(np.repeat(lanes.ravel()[:, None], len(places), axis=1), fold),
            channels,
        )
        for name, kind, bits, places, values in parts
    ]


def keep_form(layer: Layer, folding: Mapping[str, Fold]) -> Layer:
    """The layer with the one form of its step function that is built; other layers as they are."""
    if not isinstance(layer, hw.Step):
        return layer
    form = folding[layer.name].form
    return replace(
        layer,
        affine=layer.affine if form == "affine" else None,
        thresholds=layer.thresholds if form in ("thresholds", "search") else None,
        table=layer.table if form == "table" else None,
    )


class MemoryFaults:
    """All single-bit faults of a build's memories, numbered 0 … count-1 in the order of the files' layers."""

    def __init__(self, graph: Graph, network: hw.Network, folding: Mapping[str, Fold]) -> None:
        self.graph, self.network = graph, network
        self.layers = [keep_form(layer, folding) for layer in network.layers]
        self.memories = list_memories(self.layers, folding)
        self.starts = np.cumsum([0, *(memory.count for memory in self.memories)])
        self._listed: dict[tuple[str, int], Ints] = {}  # values of a wire's channel, listed once
        self._readers = {wire.name: layer for layer in self.layers for wire in layer.sources}
        self._place = {layer.name: k for k, layer in enumerate(self.layers)}
        self._largest = max(wire.total for layer in self.layers for wire in layer.results)

    @classmethod
    def of_build(cls, graph: Graph, folder: Path) -> MemoryFaults:
        """The faults of the build of `graph` in `folder`. Raises GreenedgeError for a damaged build."""
        network, folding = read_design(graph, folder)
        try:
            return cls(graph, network, folding)
        except (KeyError, ValueError, AssertionError) as error:
            raise describe_damage(folder, error) from None

    @property
    def count(self) -> int:
        """How many bits the memories have."""
        return int(self.starts[-1])

    def place(self, fault: int) -> str:
        """Where a fault sits: file, word, bit."""
        k = self._memory_of(fault)
        word, bit = self.memories[k].locate(int(fault - self.starts[k]))
        return f"{self.memories[k].file}, word {word}, bit {bit}"

    def _memory_of(self, fault: int) -> int:
        return int(np.searchsorted(self.starts, fault, side="right")) - 1

    def run(self, x: Ints) -> State:
        """Every wire for graph integers (N, *shape)."""
        return self.run_on(self.layers, x)

    def run_on(self, layers: Sequence[Layer], x: Ints) -> State:
        """The wires that these layers write, and the input's."""
        source = self.network.source
        return run_layers(layers, {source.name: x.reshape(len(x), -1)[:, source.order]})

    def see(self, x: Ints, faults: Ints) -> Bools:
        """(faults, N): which of the rising `faults` change an output for which of the inputs `x` (N, *shape)."""
        state = self.run(x)
        seen = np.zeros((len(faults), len(x)), bool)
        for k, memory in enumerate(self.memories):
            if memory.kind == "places":  # what a wrong place reads depends on what came before: these stay open
                continue
            first, last = np.searchsorted(faults, self.starts[k : k + 2])
            step = max(1, _CHUNK // (len(x) * max(1, memory.layer.result.total // memory.channels)))
            for start in range(first, last, step):
                chunk = slice(start, min(start + step, last))
                seen[chunk] = self._see_in(memory, state, faults[chunk] - self.starts[k])
        return seen

    def _see_in(self, memory: Memory, state: State, faults: Ints) -> Bools:
        values, channel, wire = memory.effect(state, faults), memory.channel_of(faults), memory.layer.result
        good = memory.pick(state[wire.name], channel)
        while (step := self._next_step(wire)) is not None and memory.channels % step.period == 0:
            places = channel[:, None] + memory.channels * np.arange(values.shape[2])
            lost = outside_table(step, values.reshape(-1, values.shape[2])).reshape(values.shape[:2])
            after = memory.pick(state[step.result.name], channel)
            values = np.where(lost[..., None], after, apply_step(step, values, places % step.period))
            good, wire = after, step.result
        sample, row = np.nonzero((values != good).any(axis=2).reshape(len(good), len(faults)))
        seen = np.zeros((len(faults), len(good)), bool)
        if len(sample):
            rows = values[sample, row]
            first, again = _find_unique(np.column_stack([sample, channel[row], rows]))
            differs = self._differ(state, wire, memory.channels, sample[first], channel[row[first]], rows[first])
            seen[row, sample] = differs[again]
        return seen

    # -- no input shows it

    def prove(self, faults: Ints) -> Bools:
        """(faults,): of which it is proved that no input can show them.

        A bit of a step function that changes no level of a value that can come (reach.py), and a weight whose change of
        the sum is zero for all that its input can be, or never crosses a step.
        """
        return np.array([self._is_harmless(int(fault)) for fault in faults], bool)

    @cached_property
    def _reach(self) -> dict[str, Channels]:
        return find_reach(self.network, self.layers)

    def _values(self, wire: Wire, channel: int) -> Ints:
        """Every value that can come in a channel of a wire."""
        sets = self._reach[wire.name]
        key = wire.name, channel % len(sets)
        if key not in self._listed:
            self._listed[key] = list_values(sets[key[1]])
        return self._listed[key]

    def _is_harmless(self, fault: int) -> bool:
        k = self._memory_of(fault)
        memory, own = self.memories[k], fault - int(self.starts[k])
        channel = int(memory.channel_of(np.array([own]))[0])
        if isinstance(memory.layer, hw.Step):
            return not len(self._find_wanted(memory, own))
        if memory.kind != "weights":
            return False
        sums = self._values(memory.layer.result, channel)
        changes = np.unique(self._sum_changes(memory, own, channel))
        after = wrap_to(sums + changes[:, None], memory.layer.result)
        good = np.broadcast_to(sums, after.shape)
        return not self._matters(memory.layer.result, memory.channels, channel, good, after).any()

    def _find_wanted(self, memory: Memory, own: int) -> Ints:
        """The values before a step function at which its fault changes a level in a way that may matter, rising."""
        channel, wire = int(memory.channel_of(np.array([own]))[0]), memory.layer.source
        sets = [self._values(wire, c) for c in self._sets_of(memory, wire, channel)]
        values = sets[0] if len(sets) == 1 else np.unique(np.concatenate(sets))
        values = memory.list_touched(values, own)
        good, bad = memory.levels_of(values, own)
        return values[self._matters(memory.layer.result, memory.channels, channel, good, bad)]

    def _matters(self, wire: Wire, channels: int, channel: int, good: Ints, bad: Ints) -> Bools:
        """Which of `bad` instead of `good`, of one shape, in a channel of `wire` may change something further on.

        Followed through what works on each integer alone: steps, queues, and sums with all that the other branch can
        bring. What differs where something else reads it may matter.
        """
        differs = np.asarray(good != bad)
        reader = self._reader(wire)
        if not differs.any() or reader is None:
            return differs
        good, bad = good[differs], bad[differs]
        after: Bools
        if isinstance(reader, hw.Queue):
            after = self._matters(reader.result, channels, channel, good, bad)
        elif isinstance(reader, hw.Step) and channels % reader.period == 0:
            row = np.array(channel % reader.period)
            lost = outside_table(reader, bad[:, None])
            levels = apply_step(reader, good, row), apply_step(reader, bad, row)
            after = lost | self._matters(reader.result, channels, channel, *levels)
        elif isinstance(reader, hw.Add):
            after = self._matters_in_sum(reader, wire, channels, channel, good, bad)
        else:
            return differs
        differs[differs] = after
        return differs

    def _matters_in_sum(self, layer: hw.Add, wire: Wire, channels: int, channel: int, good: Ints, bad: Ints) -> Bools:
        side = next(k for k, source in enumerate(layer.sources) if source.name == wire.name)
        count = len(self._reach[layer.sources[1 - side].name])
        classes = sorted({(channel + channels * k) % count for k in range(count)})
        others = np.unique(np.concatenate([self._values(layer.sources[1 - side], c) for c in classes]))
        rest = layer.multipliers[1 - side] * others
        right, wrong = (wrap_to(layer.multipliers[side] * x[:, None] + rest, layer.result) for x in (good, bad))
        return np.asarray(self._matters(layer.result, channels, channel, right, wrong).any(axis=1))

    def _sets_of(self, memory: Memory, wire: Wire, channel: int) -> list[int]:
        """The channels of the sets of `wire` that a channel of the memory meets."""
        count = len(self._reach[wire.name])
        return sorted({(channel + memory.channels * k) % count for k in range(count)})

    def _sum_changes(self, memory: Memory, own: int, channel: int) -> Ints:
        """By how much a weight's fault can change the sum of its channel."""
        layer, place = memory.layer, int(memory.index.ravel()[own // memory.bits])
        assert isinstance(layer, hw.Linear)
        factor, constant = memory.weight_change(layer, np.array([place]), np.array([own % memory.bits]))
        row = place // layer.weight.shape[1] if isinstance(layer, hw.MatVec) else channel
        return factor[0] * self._values(layer.source, row) + constant[0]

    # -- an input that may show it

    def search(self, fault: int, starts: Ints, rng: np.random.Generator) -> Ints:
        """Inputs (N, *shape) with which a fault changes a level, found from `starts` (N, *shape) by climbing: changes
        of few integers that bring a value of its channel nearer to one where the fault matters.

        None of them where none is found within the steps allowed.
        """
        k = self._memory_of(fault)
        memory, own = self.memories[k], fault - int(self.starts[k])
        near, (path, step) = self._level_distance(memory, own), self._path_to_step(memory)
        # only a changed sum is led to an edge: a change of a level is rare, and a climb on from it would lose it
        is_sum = isinstance(memory.layer, hw.Linear)
        across = self._edge_distance(memory, own, path, step) if is_sum and step is not None else None
        if near is None and across is None:
            return starts[:0]
        last = step if across is not None and step is not None else memory.layer
        layers = [*self._before(self._place[last.name]), *([] if last is step else [memory.layer])]

        def distance(x: Ints) -> Ints:
            state = self.run_on(layers, x)
            far = near(state) if near is not None else None
            if far is None:
                assert across is not None, "one of the two is there"
                far = across(state)
            return np.asarray(far.min(axis=1))

        return _climb(distance, starts, join_input_edges(self.graph), rng)

    def _level_distance(self, memory: Memory, own: int) -> Callable[[State], Ints] | None:
        """How far each value of the channel is from one at which the fault changes a level that matters, (N,
        positions); None for another fault than of a step function, and where there is no such value."""
        if not isinstance(memory.layer, hw.Step):
            return None
        channel, wire = memory.channel_of(np.array([own])), memory.layer.source
        wanted = self._find_wanted(memory, own)
        if not len(wanted):
            return None

        def measure(state: State) -> Ints:
            values = memory.pick(state[wire.name], channel)[:, 0]
            right = np.minimum(np.searchsorted(wanted, values), len(wanted) - 1)
            return np.minimum(np.abs(wanted[right] - values), np.abs(values - wanted[np.maximum(right - 1, 0)]))

        return measure

    def _path_to_step(self, memory: Memory) -> tuple[list[Layer], hw.Step | None]:
        """(queues and sums behind the layer, the step function behind them; None where something else reads them)."""
        path: list[Layer] = []
        reader = self._reader(memory.layer.result)
        while isinstance(reader, hw.Queue | hw.Add):
            path.append(reader)
            reader = self._reader(reader.result)
        is_step = isinstance(reader, hw.Step) and memory.channels % reader.period == 0
        return path, reader if is_step and isinstance(reader, hw.Step) else None

    def _edge_distance(
        self, memory: Memory, own: int, path: Sequence[Layer], step: hw.Step
    ) -> Callable[[State], Ints] | None:
        """How far the change of each sum is from crossing an edge of `step`, (N, positions); None for a step function
        without edges."""
        channel = memory.channel_of(np.array([own]))
        sums, row = self._values(step.source, int(channel[0])), np.array(int(channel[0]) % step.period)
        edges = sums[1:][np.diff(apply_step(step, sums, row)) != 0]
        if not len(edges):
            return None

        def measure(state: State) -> Ints:
            wire = memory.layer.result.name
            good, changed = memory.pick(state[wire], channel)[:, 0], memory.effect(state, np.array([own]))[:, 0]
            for layer in path:
                if isinstance(layer, hw.Add):
                    side = next(k for k, source in enumerate(layer.sources) if source.name == wire)
                    rest = memory.pick(state[layer.sources[1 - side].name], channel)[:, 0]
                    good, changed = (
                        layer.multipliers[side] * x + layer.multipliers[1 - side] * rest for x in (good, changed)
                    )
                wire = layer.result.name
            low, high = np.minimum(good, changed), np.maximum(good, changed)
            above = np.searchsorted(edges, low, side="right")
            up = np.maximum(edges[np.minimum(above, len(edges) - 1)] - high, 0)
            down = low - edges[np.maximum(above - 1, 0)] + 1
            crossing = np.minimum(np.where(above < len(edges), up, _FAR), np.where(above > 0, down, _FAR))
            return np.where(good != changed, crossing, _FAR)

        return measure

    def _before(self, until: int) -> list[Layer]:
        """The layers that what comes before the `until`-th one depends on."""
        needed = {wire.name for wire in self.layers[until].sources}
        chosen = []
        for layer in reversed(self.layers[:until]):
            if any(wire.name in needed for wire in layer.results):
                chosen.append(layer)
                needed |= {wire.name for wire in layer.sources}
        return chosen[::-1]

    # -- through the network

    def _next_step(self, wire: Wire) -> hw.Step | None:
        """The step function that alone reads `wire`, None where something else does."""
        reader = self._reader(wire)
        return reader if isinstance(reader, hw.Step) else None

    def _reader(self, wire: Wire) -> Layer | None:
        """The layer that reads `wire`, None for the result: every wire has one reader."""
        if wire.name == self.network.result.name:
            return None
        return self._readers.get(wire.name)

    def _differ(self, state: State, wire: Wire, channels: int, sample: Ints, channel: Ints, values: Ints) -> Bools:
        """(rows,): whether the output changes where `values` stand on the positions of `channel` of `wire`."""
        step = max(1, _CHUNK // self._largest)
        parts = [
            self._differ_in(state, wire, channels, sample[part], channel[part], values[part])
            for part in (slice(start, start + step) for start in range(0, len(sample), step))
        ]
        return np.concatenate(parts)

    def _differ_in(self, state: State, wire: Wire, channels: int, sample: Ints, channel: Ints, values: Ints) -> Bools:
        changed = state[wire.name][sample]
        changed[np.arange(len(sample))[:, None], channel[:, None] + channels * np.arange(values.shape[1])] = values
        return self.outputs_differ(state, {wire.name: changed}, sample)

    def outputs_differ(self, state: State, changed: State, sample: Ints) -> Bools:
        """(rows,): whether the output differs from that of `sample` in `state` where the wires `changed` do."""
        result, alive = np.zeros(len(sample), bool), np.arange(len(sample))
        wires, rows = dict(changed), sample
        for layer in self.layers:
            if not any(source.name in wires for source in layer.sources):
                continue
            xs = [wires[s.name] if s.name in wires else state[s.name][rows] for s in layer.sources]
            keep = ~outside_table(layer, xs[0])  # what lies beyond a table is no evidence
            wires |= run_layer(layer, xs)
            for source in layer.sources:
                wires.pop(source.name, None)
            # rows that are again as without the fault, on every wire, differ no more
            keep &= np.any([(values != state[name][rows]).any(axis=1) for name, values in wires.items()], axis=0)
            if not keep.all():
                wires = {name: values[keep] for name, values in wires.items()}
                alive, rows = alive[keep], rows[keep]
            if not len(rows):
                return result
        result[alive] = True
        return result


def _climb(distance: Callable[[Ints], Ints], starts: Ints, edge: Edge, rng: np.random.Generator) -> Ints:
    """Inputs of distance 0, none after `_STEPS` steps without: each tries `_TRIES` changes of the best one so far."""
    far = distance(starts)
    best, least, stuck = starts[int(far.argmin())].ravel(), int(far.min()), 0
    for _ in range(_STEPS):
        if least == 0:
            break
        tries = _change_few(best, edge, rng, 4 if stuck < _STUCK else 12)
        far = distance(tries.reshape(_TRIES, *edge.shape))
        stuck = 0 if far.min() < least else stuck + 1
        if far.min() <= least or stuck > 3 * _STUCK:
            best, least = tries[int(far.argmin())], int(far.min())
    else:
        return starts[:0]
    # what is changed may be hidden further on: more inputs as good, each some changes away from the last
    found = [best]
    for most in (4, 4, 8, 16):
        tries = _change_few(found[int(rng.integers(len(found)))], edge, rng, most)
        found.extend(tries[distance(tries.reshape(_TRIES, *edge.shape)) == 0])
    return np.array(found, np.int64).reshape(-1, *edge.shape)


def _change_few(x: Ints, edge: Edge, rng: np.random.Generator, most: int) -> Ints:
    """(_TRIES, n): copies of `x` (n,) with fewer than `most` integers moved by one or drawn anew."""
    tries = np.repeat(x[None], _TRIES, axis=0)
    count = rng.integers(1, most, _TRIES)
    for j in range(int(count.max())):
        here = np.flatnonzero(count > j)
        place = rng.integers(0, tries.shape[1], len(here))
        whole = rng.integers(edge.lo, edge.hi + 1, len(here))
        step = tries[here, place] + rng.choice([-1, 1], len(here))
        tries[here, place] = np.clip(np.where(rng.random(len(here)) < 0.3, step, whole), edge.lo, edge.hi)
    return tries


def _find_unique(rows: Ints) -> tuple[Ints, Ints]:
    """(first, again): indices of different rows, and which of them each row equals."""
    mixing = np.random.default_rng(0).integers(1, 1 << 62, rows.shape[1]) | 1
    with np.errstate(over="ignore"):
        _, first, again = np.unique((rows * mixing).sum(axis=1), return_index=True, return_inverse=True)
    if not np.array_equal(rows[first][again], rows):  # two rows of one hash
        _, first, again = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, again.ravel()
