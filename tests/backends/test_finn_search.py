"""The search for a folding and the schedule in time: faster means larger, limits hold, queues are as deep as needed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from greenedge.backends.finn import fifos
from greenedge.backends.finn.design import Limits, read_design, to_plain
from greenedge.backends.finn.dialect.layer import Fold, divisors
from greenedge.backends.finn.dialect.ops import Fork, Step
from greenedge.backends.finn.fifos import Deadlock, add_queues, place_queues, schedule
from greenedge.backends.finn.folding import least_cycles
from greenedge.backends.finn.objective import Objective
from greenedge.backends.finn.resources import Cost, blocks_of
from greenedge.backends.finn.search import Search, choose
from greenedge.backends.finn.stitch import stitch
from greenedge.target import load_target
from tests.backends.finn_sketches import SKETCHES, digits_like, finn_network, joined, residual, shortcut, vectors
from tests.backends.graphs import Sketch
from tests.backends.nets import mlp


@pytest.fixture(scope="module")
def limits() -> Limits:
    return Limits.of(load_target("ulx3s-25f").device)


@pytest.mark.parametrize("sketch", SKETCHES, ids=lambda sketch: sketch.__name__)
def test_faster_is_never_smaller(limits, sketch):
    search = Search(finn_network(sketch(np.random.default_rng(2))), limits)
    designs = [search.design(index) for index in range(0, len(search.candidates), max(1, len(search.candidates) // 4))]
    shares = [limits.share(design.cost) for design in designs]
    assert all(a >= 0.85 * b for a, b in zip(shares[:-1], shares[1:], strict=True)), (
        shares
    )  # queues may grow on the way
    every = search.candidates[:: max(1, len(search.candidates) // 4)]
    for design, most in zip(designs, every, strict=True):
        slowest = max(
            layer.cycles(design.folding[layer.name]) for layer in design.network.layers if layer.name in design.folding
        )
        assert slowest <= most and design.schedule.interval >= max(slowest, least_cycles(search.network)) * 0.999


def test_wishes_are_met_with_the_smallest_design(limits):
    network = finn_network(digits_like(np.random.default_rng(2)))
    fastest = choose(network, limits, Objective()).design
    for wish in (
        Objective(interval=5000),
        Objective(latency=4 * fastest.schedule.latency),
        Objective(interval=5000, latency=6000),
    ):
        design = choose(network, limits, wish).design
        assert wish.interval is None or design.schedule.interval <= wish.interval
        assert wish.latency is None or design.schedule.latency <= wish.latency
        assert limits.share(design.cost) < limits.share(fastest.cost)
    assert choose(network, limits, Objective(interval=10)).refused == "too-slow"


def test_a_small_device_is_filled_no_further_than_planned(limits):
    network = finn_network(mlp(np.random.default_rng(2), (256, 128, 128, 10)))
    small, large = (
        choose(network, limits, Objective()).design,
        choose(network, Limits.of(load_target("ulx3s-85f").device), Objective()).design,
    )
    assert limits.hold(small.cost) and small.schedule.interval > large.schedule.interval
    assert not limits.hold(large.cost)


def test_queues_are_as_deep_as_needed(limits):
    network = finn_network(residual(np.random.default_rng(2)))
    design = choose(network, limits, Objective(interval=400)).design
    queues = {queue.source.name: queue.depth for queue in design.network.queues}
    assert queues, "the bare branch waits for the deep one"
    beats = least_cycles(network)
    deepest = max(queues, key=queues.get)
    with pytest.raises(Deadlock) as stopped:
        schedule(network, design.folding, {**dict.fromkeys(design.schedule.held, 0), **queues, deepest: 1}, beats)
    assert stopped.value.full[0] == deepest and stopped.value.empty
    with pytest.raises(Deadlock):
        add_queues(network, design.folding, beats, most_beats=1)
    assert schedule(network, design.folding, {}, beats).interval == pytest.approx(design.schedule.interval)


def test_a_queue_is_as_wide_as_the_layer_that_takes_turns(limits):
    """Channels of two branches in turn: made wider behind the queue only, each branch would come at half the pace."""
    s = Sketch(np.random.default_rng(2), (2, 4, 4))
    a = s.step(s.conv("x", 8, (1, 1)), "u4")
    network = finn_network(s.graph(s.concat(a, s.step(s.conv(a, 8, (3, 3), pads=(1, 1, 1, 1)), "u4"))))
    design = choose(network, limits, Objective(interval=1000)).design
    names = {type(layer).__name__: layer.name for layer in network.layers}
    steps = [layer.name for layer in network.layers if isinstance(layer, Step)]
    for wide, narrow, expected in ((8, 2, 8), (8, 4, 8), (2, 4, 4)):
        folding = {
            **design.folding,
            **{name: dataclasses.replace(design.folding[name], pe=narrow) for name in steps},
            names["Concat"]: Fold(wide),
        }
        queued, _ = add_queues(network, folding, least_cycles(network))
        queues = [one for one in stitch(queued, folding).instances if one.unit and one.unit.module == "ge_queue"]
        assert queues and {one.ports["m"].elements for one in queues} == {expected}
        assert all(one.unit.parameters["WIDTH"] == 4 * expected for one in queues)


def test_a_bare_branch_holds_what_the_other_one_needs_whole(limits):
    """A fork holds one beat for both: two beats that a matrix unit must have before it gives anything take a queue."""
    network = finn_network(shortcut(np.random.default_rng(2)))
    design = choose(network, limits, Objective(interval=400)).design
    queues = {queue.source.name: queue.depth for queue in design.network.queues}
    (bare,) = (wire.name for layer in network.layers if isinstance(layer, Fork) for wire in layer.results[:1])
    assert design.schedule.held[bare] == 2 and queues == {bare: 10}


def test_a_global_pool_at_the_end_answers_after_all_its_pixels(limits):
    """Its firings before the last give nothing, and none of them is the end of a sample."""
    s = Sketch(np.random.default_rng(3), (2, 8, 8))
    network = finn_network(s.graph(s.sum_pool(s.step(s.conv("x", 4, (3, 3), pads=(1, 1, 1, 1)), "u4"), (8, 8))))
    design = choose(network, limits, Objective()).design
    assert design.schedule.latency >= 64 and design.schedule.latency >= design.schedule.interval
    wished = choose(network, limits, Objective(latency=design.schedule.latency // 2))
    assert wished.refused == "too-slow"


def test_a_small_network_is_simulated_until_it_is_full(limits):
    """Many samples are in it at once; its pace is that of its slowest layer, and not of the first few samples."""
    for sketch in (vectors, shortcut):
        design = choose(finn_network(sketch(np.random.default_rng(2))), limits, Objective()).design
        slowest = max(
            layer.cycles(design.folding[layer.name]) for layer in design.network.layers if layer.name in design.folding
        )
        assert design.schedule.interval == slowest and design.schedule.latency > 15 * slowest


def test_a_schedule_that_repeats_itself_is_the_simulated_one(limits, monkeypatch):
    """Also with queues, which change no time where they are deep enough, and do where they are not."""

    def list_schedules():
        found = []
        for sketch in (vectors, shortcut):
            search = Search(finn_network(sketch(np.random.default_rng(2))), limits)
            for index in (0, len(search.candidates) // 2, len(search.candidates) - 1):
                network, folding = search.network, search.design(index).folding
                for most_beats in (None, 4):
                    try:
                        found.append(add_queues(network, folding, search.least, most_beats)[1])
                    except Deadlock as stopped:
                        found.append(stopped.args)
        return found

    quick, looked_at = list_schedules(), []
    monkeypatch.setattr(fifos, "_find_period", lambda actors: looked_at.append(actors))
    monkeypatch.setattr(fifos._Timing, "is_same_with", lambda self, depths: False)
    assert quick == list_schedules() and looked_at


def test_a_design_is_read_back_as_it_was_written(limits, tmp_path):
    import json

    graph = vectors(np.random.default_rng(2))
    design = choose(finn_network(graph), limits, Objective(interval=200)).design
    (tmp_path / "folding.json").write_text(json.dumps(to_plain(design)))
    network, folding = read_design(graph, tmp_path)
    assert folding == dict(design.folding)
    assert [layer.name for layer in network.layers] == [layer.name for layer in design.network.layers]
    assert [layer.name for layer in place_queues(finn_network(graph), {}).layers] == [
        layer.name for layer in finn_network(graph).layers
    ]


def test_names_of_a_model_meet_no_names_of_ours(limits):
    """A model may call its nodes what the stitcher would call a converter, an instance or a queue."""
    import re

    from greenedge.backends.finn.stitch import rtl_files, stitch

    graph = residual(np.random.default_rng(2))
    first = [op.name for op in graph.ops if op.inputs]
    clash = dict(
        zip(
            first[1:],
            [f"{first[0]}{end}" for end in ("_in", "_unit", "_wide", "_in_width", "_to", "_to_queued", "_window_unit")],
            strict=False,  # the first few layers take the names that there are
        )
    )
    renamed = dataclasses.replace(
        graph, ops=tuple(dataclasses.replace(op, name=clash.get(op.name, op.name)) for op in graph.ops)
    )
    design = choose(finn_network(renamed), limits, Objective(interval=400)).design
    text = rtl_files("clash", stitch(design.network, design.folding))["top.sv"].decode()
    names = re.findall(r"^    logic \[.*\] (\w+);|^    ge_\w+ #\(.*\) (\w+) \($", text, re.MULTILINE)
    names = [a or b for a, b in names]
    assert len(names) > 20 and len(set(names)) == len(names)


def test_arithmetic_of_costs():
    assert divisors(12) == [1, 2, 3, 4, 6, 12] and divisors(1) == [1]
    assert (blocks_of(512, 36), blocks_of(513, 36), blocks_of(16384, 1), blocks_of(448, 840)) == (1, 2, 1, 24)
    assert blocks_of(256, 16, "ice40") == 1
    assert Cost(1, 2, 3, 4, 5) + Cost(1, 1, 1, 1, 1) == Cost(2, 3, 4, 5, 6)


def test_a_faster_design_is_taken_where_the_slow_one_is_larger(rng):
    """Of `joined` on a device with five blocks, the design of the middle needs seven, its neighbours five."""
    network = finn_network(joined(np.random.default_rng(1)))
    limits = dataclasses.replace(Limits.of(load_target("ulx3s-25f").device), blocks=5)
    search = Search(network, limits)
    slow = next(
        index
        for index in range(1, len(search.candidates))
        if not search.design(index).fits and search.design(index - 1).fits
    )
    wish = Objective(interval=int(search.design(slow).schedule.interval))
    found = choose(network, limits, wish)
    assert found.refused is None and found.design.fits and found.design.schedule.interval <= wish.interval


def test_on_ice40_adders_are_counted_among_the_luts():
    from greenedge.backends.finn.board_report import compare_estimates

    design = {"interval_cycles": 256.0, "estimate": {"lut4": 300, "ccu2c": 50, "ram16": 2, "blocks": 1}}
    assert compare_estimates(design, {"lut4": 400}, "ice40")["estimated_lut4_error"] == "+0%"
    assert compare_estimates(design, {"lut4": 400}, "ecp5")["estimated_lut4_error"] == "-25%"
