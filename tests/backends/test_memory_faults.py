"""Memory faults: emulated as the RTL behaves, proofs that no input contradicts, vectors that see the rest."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from greenedge.backends import finn
from greenedge.backends.finn.design import Limits
from greenedge.backends.finn.dialect.lower import require_network
from greenedge.backends.finn.emulate import apply_step, wrap
from greenedge.backends.finn.memory_faults import MemoryFaults
from greenedge.backends.finn.objective import Objective
from greenedge.backends.finn.reach import add_sets, find_reach, list_values, make_reach, multiply_sets, unite
from greenedge.backends.finn.search import choose
from greenedge.backends.finn.units import threshold_words, unit_of
from greenedge.graph import Dense, Graph, freeze, run_graph
from greenedge.legalise import legalise_graph
from greenedge.target import load_target
from greenedge.tools.run import execute
from greenedge.verify.fault_vectors import choose_vectors
from tests.backends.finn_sketches import SKETCHES, curved
from tests.backends.nets import inputs, mlp

SLOW = pytest.mark.slow
BOARD = "ulx3s-85f"


def _faults(graph: Graph, interval: int | None = None) -> MemoryFaults:
    """The faults of a graph's build, as the search folds it."""
    limits = Limits.of(load_target(BOARD).device)
    design = choose(require_network(graph), limits, Objective(interval)).require_design()
    return MemoryFaults(graph, design.network, design.folding)


def _legal(sketch, rng) -> Graph:
    return legalise_graph(sketch(rng), finn.BACKEND.passes)


@pytest.mark.parametrize("sketch", SKETCHES, ids=lambda sketch: sketch.__name__)
def test_the_emulated_network_computes_the_graph(rng, sketch):
    graph = _legal(sketch, rng)
    faults = _faults(graph, 400)
    x = inputs(rng, graph, 12)
    result = faults.network.result
    travels = faults.run(x)[result.name] + np.resize(result.offset, result.total)
    assert np.array_equal(travels, run_graph(graph, x)[graph.outputs[0]].reshape(len(x), -1)[:, result.order])


@pytest.mark.parametrize("sketch", SKETCHES, ids=lambda sketch: sketch.__name__)
def test_every_bit_of_every_memory_file_is_a_fault(rng, sketch):
    """As many as the unit reads, and each parameter where the unit's file has it."""
    graph = _legal(sketch, rng)
    limits = Limits.of(load_target(BOARD).device)
    design = choose(require_network(graph), limits, Objective(400)).require_design()
    faults = MemoryFaults(graph, design.network, design.folding)
    files = {}
    for layer in design.network.layers:
        if layer.name in design.folding:
            files |= unit_of(layer, design.folding[layer.name]).memories()
    assert {memory.file: memory.count for memory in faults.memories} == {
        name: rows.size * bits for name, (rows, bits) in files.items()
    }
    for memory in faults.memories:
        rows, bits = files[memory.file]
        assert memory.index.shape == rows.shape and memory.bits == bits
        if memory.kind == "weights" and memory.layer.weight_bits > 1:
            assert np.array_equal(memory.layer.weight.ravel()[memory.index], rows)


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
@pytest.mark.parametrize(
    "name", ["mlp", *(pytest.param(name, marks=SLOW) for name in ("functions", "residual", "accumulators"))]
)
def test_a_fault_shows_where_the_rtl_shows_it(rng, tmp_path, name):
    """Random bits of the memory files turned: the simulated RTL is wrong on exactly the inputs that are foretold."""
    drawn = np.random.default_rng(5)  # the same network at every run, so that it is compiled once
    sketches = {sketch.__name__: sketch for sketch in SKETCHES}
    graph = mlp(drawn, (8, 6, 4)) if name == "mlp" else _legal(sketches[name], drawn)
    plan = finn.plan(graph, load_target(BOARD), {"fps": 100_000})
    execute(dataclasses.replace(plan, commands=plan.commands[:1], products=plan.products[:2]), tmp_path / "build")
    faults = MemoryFaults.of_build(graph, tmp_path / "build")
    x = inputs(rng, graph, 40)
    expected = run_graph(graph, x)[graph.outputs[0]].reshape(len(x), -1)
    for memory, start in zip(faults.memories, faults.starts, strict=False):
        for fault in rng.integers(0, memory.count, 5):
            word, bit = memory.locate(int(fault))
            path = tmp_path / "build" / "rtl" / memory.file
            good = path.read_text()
            words = good.split()
            words[word] = format(int(words[word], 16) ^ (1 << bit), f"0{len(words[word])}x")
            path.write_text("\n".join(words) + "\n")
            got = finn.simulate(tmp_path / "build", x)[graph.outputs[0]].reshape(len(x), -1)
            path.write_text(good)
            seen = faults.see(x, np.array([start + fault]))[0]
            shown = (got != expected).any(axis=1)
            if name == "functions":  # a sum beyond a table is no evidence, although the RTL shows something there
                assert not (seen & ~shown).any(), faults.place(int(start + fault))
            else:
                assert np.array_equal(shown, seen), faults.place(int(start + fault))


def _every_input(graph: Graph) -> np.ndarray:
    edge = graph.edges[graph.inputs[0]]
    return np.array(list(itertools.product(range(edge.lo, edge.hi + 1), repeat=edge.shape[0])), np.int64)


@pytest.mark.parametrize(
    "weight_bits, out_bits", [(4, 8), *(pytest.param(*bits, marks=SLOW) for bits in ((2, 4), (1, 3)))]
)
def test_what_is_proved_unseen_no_input_shows_and_the_rest_is_found(rng, weight_bits, out_bits):
    """Against every input that a small network has: 4 integers of 2 bits."""
    graph = mlp(rng, (4, 5, 3), weight_bits, 2, out_bits)
    faults, every = _faults(graph), _every_input(graph)
    all_faults = np.arange(faults.count)
    shown = faults.see(every, all_faults).any(axis=1)
    proved = faults.prove(all_faults)
    assert not (proved & shown).any(), [faults.place(int(k)) for k in np.flatnonzero(proved & shown)]
    assert shown.any() and (proved.any() or weight_bits < 4)
    chosen = choose_vectors(faults, graph.edges["x"], every[:3])
    coverage = chosen.coverage
    assert (coverage.total, coverage.seen) == (faults.count, int(shown.sum())), "every fault that shows has a vector"
    assert coverage.seen + coverage.proved_unseen + coverage.open == coverage.total
    sees = faults.see(np.concatenate([every[:3], chosen.vectors]), all_faults)
    assert int(sees.any(axis=1).sum()) == coverage.seen
    assert chosen.first(0).seen == int(sees[:, :3].any(axis=1).sum())
    assert chosen.first(2).seen == int(sees[:, :5].any(axis=1).sum())
    again = choose_vectors(_faults(graph), graph.edges["x"], every[:3])
    assert np.array_equal(again.vectors, chosen.vectors), "the choice is seeded"


def test_faults_of_a_dead_input_are_proved_unseen(rng):
    """A hidden channel that is always 0 makes the magnitude bits of its weights useless, not those of their signs."""
    graph = mlp(rng, (4, 5, 3), 4, 2)
    dead = graph.producer("fc1")
    weight = np.array(dead.weight)
    weight[:, 2] = -np.abs(weight[:, 2]) - 1
    act = graph.producer("act1")
    thresholds = np.array(act.forms.thresholds)
    thresholds[2] = int(act.x_hi[2]) + 100
    steps = dataclasses.replace(act.forms, thresholds=freeze(thresholds), affine=None)
    ops = [Dense("fc1", dead.inputs, "fc1", freeze(np.clip(weight, -7, 7))) if op is dead else op for op in graph.ops]
    ops = [dataclasses.replace(act, forms=steps) if op is act else op for op in ops]
    faults = _faults(graph.replace_ops(ops))
    memory = next(memory for memory in faults.memories if memory.file == "fc2_weights.mem")
    start = int(faults.starts[faults.memories.index(memory)])
    own = np.arange(memory.count)
    of_dead = memory.index.ravel()[own // memory.bits] // 3 == 2
    low = own % memory.bits < 3  # the sign changes what ge_product leaves out
    assert faults.prove(start + own[of_dead & low]).all()
    assert not faults.prove(start + own[~of_dead & low]).all()


def test_a_fault_of_steps_up_and_down_gives_what_a_layer_with_that_bit_would(rng):
    """Thresholds, and the bits that say which of them fall."""
    faults = _faults(_legal(curved, rng), 400)
    memory = next(one for one in faults.memories if one.kind == "thresholds" and one.layer.fall_bits > 1)
    layer, wide = memory.layer, memory.layer.source.bits + 1
    steps, x = layer.thresholds.shape[1], np.arange(layer.source.lo, layer.source.hi + 1, 7)
    own = np.concatenate([rng.integers(0, memory.count, 60), np.arange(memory.bits - steps, memory.bits)])
    for fault in own:
        element, bit = divmod(int(fault), memory.bits)
        row = memory.index.ravel()[[element]]
        thresholds, falls = threshold_words(layer), np.array(layer.falls)
        if bit < steps * wide:
            place = bit // wide
            thresholds[row, place] = wrap(thresholds[row, place] ^ (1 << bit % wide), wide, layer.source.signed)
        else:
            falls[row, bit - steps * wide] ^= True
        changed = dataclasses.replace(layer, thresholds=thresholds, falls=falls)
        good, bad = memory.levels_of(x, int(fault))
        assert np.array_equal(good, apply_step(layer, x, row)) and np.array_equal(bad, apply_step(changed, x, row))


def _search_files(memories, name, x, place, lane):
    """What ge_search finds for `x` in a lane, from its files, which hold `place` words of channels before."""
    j, stages = 0, len(memories) - 1
    for s in range(stages):
        rows, _ = memories[f"{name}_search_{s}.mem"]
        j = 2 * j + int(x >= rows[place * 2**s + j, lane])
    return int(memories[f"{name}_search_levels.mem"][0][place * 2**stages + j, lane])


def test_a_fault_of_a_search_gives_what_its_files_would(rng):
    """A threshold, which turns the search off its way, or a level."""
    graph = _legal(curved, rng)
    design = choose(require_network(graph), Limits.of(load_target(BOARD).device), Objective(400)).require_design()
    faults = MemoryFaults(graph, design.network, design.folding)
    layer = next(one.layer for one in faults.memories if one.kind == "search")
    good, pe = unit_of(layer, design.folding[layer.name]).memories(), design.folding[layer.name].pe
    x = np.unique(np.concatenate([rng.integers(layer.source.lo, layer.source.hi + 1, 60), layer.tree.thresholds[0]]))
    for memory in (one for one in faults.memories if one.layer is layer):
        for fault in rng.integers(0, memory.count, 12):
            word, bit = memory.locate(int(fault))
            lane, place = bit // memory.bits, int(memory.channel_of(np.array([fault]))[0]) // pe
            rows, bits = good[memory.file]
            changed, signed = rows.copy(), layer.result.signed if memory.kind == "levels" else layer.source.signed
            changed[word, lane] = wrap(changed[[word], lane] ^ (1 << bit % bits), bits, signed)[0]
            was, now = memory.levels_of(x, int(fault))
            assert was.tolist() == [_search_files(good, layer.name, v, place, lane) for v in x]
            bad = good | {memory.file: (changed, bits)}
            assert now.tolist() == [_search_files(bad, layer.name, v, place, lane) for v in x]
            assert set(x[was != now]) <= set(memory.list_touched(x, int(fault)))


def test_sets_are_added_value_by_value(rng):
    for _ in range(50):
        a, b = (np.unique(rng.integers(-9, 9, rng.integers(1, 8))) for _ in range(2))
        factor = int(rng.integers(-7, 8)) or 1
        assert list_values(add_sets(make_reach(a), make_reach(b), factor)).tolist() == sorted(
            {int(p) + factor * int(q) for p in a for q in b}
        )
        whole = (int(b[0]), (1 << len(b)) - 1)  # without gaps: the way by doubling
        assert list_values(add_sets(make_reach(a), whole, factor)).tolist() == sorted(
            {int(p) + factor * (int(b[0]) + k) for p in a for k in range(len(b))}
        )
        assert list_values(unite([make_reach(a), make_reach(b)])).tolist() == sorted({*a.tolist(), *b.tolist()})
        zeros = tuple(int(z) for z in rng.integers(-9, 9, 2))
        products = {(int(p) - zeros[0]) * (int(q) - zeros[1]) for p in a for q in b}
        assert list_values(multiply_sets(make_reach(a), make_reach(b), zeros)).tolist() == sorted(products)


def test_very_many_products_are_all_between_their_ends():
    wide = (-1500, (1 << 2501) - 1)  # -1500 … 1000
    low, mask = multiply_sets(wide, wide, (1000, -1500))
    assert (low, low + mask.bit_length() - 1) == (-2500 * 2500, 0) and mask + 1 == 1 << mask.bit_length()


@pytest.mark.parametrize("sketch", SKETCHES, ids=lambda sketch: sketch.__name__)
def test_no_value_comes_that_is_not_in_its_set(rng, sketch):
    graph = _legal(sketch, rng)
    faults = _faults(graph, 400)
    reach, state = find_reach(faults.network, faults.layers), faults.run(inputs(rng, graph, 60))
    for name, values in state.items():
        sets = reach[name]
        for c, one in enumerate(sets):
            known = set(list_values(one).tolist())
            assert set(np.unique(values[:, c :: len(sets)]).tolist()) <= known, (name, c)
