"""Every shared pass keeps every output integer, edge and name, on random networks; each also fires, and leaves alone
what it must."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings

from greenedge.errors import UnsupportedError
from greenedge.graph import (
    Add,
    ArgMax,
    Conv,
    Graph,
    MaxPool,
    Requantise,
    Reshape,
    SumPool,
    Upsample,
    run_graph,
    verify_graph,
)
from greenedge.graph.lines import is_straight
from greenedge.legalise import (
    ALL_PASSES,
    ARGMAX_TO_HOST,
    CLAMP_AT_REACH,
    FOLD_LAYOUTS,
    REQUANTISE_EARLY,
    SPLIT_ADDITIONS,
    SUM_POOL_TO_DEPTHWISE,
    WIDEN_SEQUENCES,
    Pass,
    legalise,
    legalise_graph,
)
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_epilogue, run_prologue
from tests.backends.graphs import Sketch
from tests.lower.networks import networks

FAST, SLOW = 60, 400
GRAPH_PASSES = tuple(one for one in ALL_PASSES if isinstance(one, Pass))


def check_passes(case, path) -> None:
    model, inputs = case
    onnx.save(model, str(path))
    try:
        lowered = lower_file(path)
    except UnsupportedError:
        return
    ints = run_prologue(lowered, inputs)
    expected = run_graph(lowered.graph, ints)
    for passes in (*((one,) for one in GRAPH_PASSES), GRAPH_PASSES):
        graph = legalise_graph(lowered.graph, passes)
        assert graph.outputs == lowered.graph.outputs and graph.inputs == lowered.graph.inputs
        verify_graph(graph)
        got = run_graph(graph, ints)
        for edge in graph.outputs:
            assert np.array_equal(got[edge], expected[edge]), (edge, [one.name for one in passes])
        for one in passes:
            assert not [op for op in graph.ops if isinstance(op, one.removes)], one.name
    host = legalise(lowered, ALL_PASSES)
    floats, ours = run_epilogue(lowered, expected), run_epilogue(host, run_graph(host.graph, ints))
    for name, values in floats.items():
        assert np.array_equal(values, ours[name]), name


@settings(max_examples=FAST, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks())
def test_random_networks(tmp_path_factory, case):
    check_passes(case, tmp_path_factory.mktemp("net") / "net.onnx")


@pytest.mark.slow
@settings(max_examples=SLOW, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True)
@given(networks())
def test_many_random_networks(tmp_path_factory, case):
    check_passes(case, tmp_path_factory.mktemp("net") / "net.onnx")


def _same(sketch: Sketch, graph: Graph, one) -> Graph:
    legal = legalise_graph(graph, (one,))
    verify_graph(legal)
    x = sketch.values(graph, 20)
    before, after = run_graph(graph, x), run_graph(legal, x)
    assert list(before) == list(after)
    for edge, values in before.items():
        assert np.array_equal(values, after[edge])
    return legal


def _kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph.layers]


def test_a_quantiser_moves_in_front_of_a_maximum_and_a_reshape(rng):
    sketch = Sketch(rng, (3, 6, 6))
    pooled = sketch.max_pool(sketch.conv("x", 4, (3, 3)), (2, 2), (2, 2))
    step = sketch.step(sketch.reshape(pooled, 16), axis=0, per_channel=False)
    legal = _same(sketch, sketch.graph(step), REQUANTISE_EARLY)
    assert _kinds(legal) == ["Conv", "Requantise", "MaxPool", "Reshape"]


def test_a_falling_quantiser_stays_behind_a_maximum(rng):
    sketch = Sketch(rng, (3, 6, 6))
    step = sketch.step(sketch.max_pool(sketch.conv("x", 4, (3, 3)), (2, 2), (2, 2)), falling=True)
    graph = sketch.graph(step)
    assert legalise_graph(graph, (REQUANTISE_EARLY,)) is graph


def test_a_quantiser_stays_behind_what_somebody_else_reads(rng):
    sketch = Sketch(rng, (3, 4, 4))
    flat = sketch.reshape(sketch.conv("x", 2, (3, 3)), 8)
    graph = sketch.graph(sketch.step(flat, per_channel=False, axis=0), flat)
    assert legalise_graph(graph, (REQUANTISE_EARLY,)) is graph


def test_a_quantiser_stays_behind_what_another_layer_reads_too(rng):
    sketch = Sketch(rng, (3, 4, 4))
    flat = sketch.reshape(sketch.conv("x", 2, (3, 3)), 8)
    steps = [sketch.step(flat, per_channel=False, axis=0), sketch.step(sketch.dense(flat, 3))]
    graph = sketch.graph(*steps)
    assert legalise_graph(graph, (REQUANTISE_EARLY,)) is graph


def test_a_function_per_channel_follows_its_axis(rng):
    sketch = Sketch(rng, (3, 4, 4))
    turned = sketch.transpose(sketch.conv("x", 4, (3, 3)), 1, 2, 0)
    legal = _same(sketch, sketch.graph(sketch.step(turned, axis=2)), REQUANTISE_EARLY)
    assert _kinds(legal) == ["Conv", "Requantise", "Transpose"] and legal.requantisers[0].axis == 0


def test_a_function_per_row_stays_behind_the_rows_that_are_repeated(rng):
    sketch = Sketch(rng, (3, 4, 4))
    wide = sketch.upsample(sketch.conv("x", 4, (3, 3)), 1, 2, 2)
    graph = sketch.graph(sketch.step(wide, axis=1))
    assert legalise_graph(graph, (REQUANTISE_EARLY,)) is graph
    assert isinstance(graph.producer(graph.requantisers[0].inputs[0]), Upsample)


def test_transpositions_with_a_quantiser_between_them_go(rng):
    """As a file with channels last has them: the function per channel follows its axis."""
    sketch = Sketch(rng, (3, 4, 5))
    last = sketch.transpose(sketch.conv("x", 4, (3, 3)), 1, 2, 0)
    first = sketch.transpose(sketch.step(last, axis=2), 2, 0, 1)
    graph = sketch.graph(sketch.conv(first, 2, (1, 1)))
    legal = _same(sketch, graph, FOLD_LAYOUTS)
    assert _kinds(legal) == ["Conv", "Requantise", "Conv"] and legal.requantisers[0].axis == 0


def test_a_transposition_stays_where_its_quantiser_has_other_readers(rng):
    sketch = Sketch(rng, (3, 4, 5))
    step = sketch.step(sketch.transpose(sketch.conv("x", 4, (3, 3)), 1, 2, 0), axis=2)
    back = sketch.conv(sketch.transpose(step, 2, 0, 1), 2, (1, 1))
    for graph in (sketch.graph(back, step), sketch.graph(back, sketch.reshape(step, 24))):
        assert legalise_graph(graph, (FOLD_LAYOUTS,)) is graph


def test_three_branches_are_added_two_by_two(rng):
    sketch = Sketch(rng, (4,))
    branches = [sketch.step(sketch.dense("x", 4)) for _ in range(3)]
    total = sketch.add(*branches, multipliers=(1, 3, 2))
    legal = _same(sketch, sketch.graph(sketch.step(total)), SPLIT_ADDITIONS)
    added = [op for op in legal.ops if isinstance(op, Add)]
    assert [op.multipliers for op in added] == [(1, 3), (1, 2)] and added[0].output == f"{total}_of_2"
    sketch = Sketch(rng, (4,))
    two = sketch.graph(sketch.step(sketch.add("x", sketch.step(sketch.dense("x", 4)), multipliers=(1, 1))))
    assert legalise_graph(two, (SPLIT_ADDITIONS,)) is two


def test_a_sum_pool_becomes_ones(rng):
    sketch = Sketch(rng, (3, 6, 6))
    pooled = sketch.sum_pool("x", (2, 2), (2, 2), (1, 1, 1, 1), 3)
    legal = _same(sketch, sketch.graph(sketch.step(pooled)), SUM_POOL_TO_DEPTHWISE)
    conv = legal.producer(pooled)
    assert isinstance(conv, Conv) and conv.groups == 3 and (conv.weight == 1).all() and conv.pad_value == 3


def test_sequences_become_images_one_row_high(rng):
    sketch = Sketch(rng, (3, 9))
    x = sketch.step(sketch.conv("x", 4, (3,), (2,), (1, 1), (1,), pad_value=2))
    x = sketch.max_pool(x, (2,), (1,), (1, 0))
    x = sketch.step(sketch.sum_pool(x, (2,), (2,)))
    x = sketch.conv_transpose(x, 2, (3,), (2,), (1, 1), (1,))
    x = sketch.upsample(sketch.pad(sketch.step(x), (1, 2, 0, 1), value=1), 2, 3)
    legal = _same(sketch, sketch.graph(x), WIDEN_SEQUENCES)
    assert all(len(op.kernel) == 2 for op in legal.ops if isinstance(op, (Conv, MaxPool, SumPool)))
    assert sum(isinstance(op, Reshape) for op in legal.ops) == 12
    assert legal.ops[-5].pads == (1, 0, 2, 0, 0, 1) and legal.ops[-2].factors == (2, 1, 3)


def test_a_step_is_clamped_where_it_ends(rng):
    """ReLU6: levels above the clip are never reached, and with them the function is no line."""
    sketch = Sketch(rng, (4,))
    name = sketch.step(sketch.dense("x", 3), per_channel=False)
    step = sketch.ops.pop()
    thresholds = np.array(step.require_steps().thresholds)
    thresholds[:, 9:] = int(step.x_hi.max()) + 1  # levels from 10 on are out of reach
    thresholds[:, :9] = np.arange(1, 10) * 8
    thresholds.setflags(write=False)
    sketch.ops.append(step.with_steps(thresholds=thresholds))
    graph = sketch.graph(name)
    legal = _same(sketch, graph, CLAMP_AT_REACH)
    clamped = legal.requantisers[0]
    assert clamped.hi <= 9 and is_straight(clamped) and isinstance(clamped, Requantise)


def test_an_index_goes_to_the_host(rng):
    sketch = Sketch(rng, (5,))
    scores = sketch.step(sketch.dense("x", 4))
    graph = sketch.graph(sketch.arg_max(scores))
    kept = legalise_graph(graph, (ARGMAX_TO_HOST,))
    assert kept.outputs == (scores,) and not [op for op in kept.ops if isinstance(op, ArgMax)]
    assert legalise_graph(kept, (ARGMAX_TO_HOST,)) is kept


def test_changes_of_layout_that_undo_each_other_go(rng):
    sketch = Sketch(rng, (3, 4, 5))
    there = sketch.transpose("x", 1, 2, 0)
    further = sketch.transpose(there, 1, 0, 2)
    back = sketch.transpose(further, 2, 1, 0)
    legal = _same(sketch, sketch.graph(sketch.step(sketch.conv(back, 4, (3, 3)))), FOLD_LAYOUTS)
    assert _kinds(legal) == ["Conv", "Requantise"] and legal.layers[0].inputs == ("x",)


def test_two_transpositions_are_one_and_the_first_stays_for_its_other_reader(rng):
    sketch = Sketch(rng, (3, 4, 5))
    there = sketch.transpose("x", 1, 2, 0)
    turned = sketch.transpose(there, 0, 2, 1)
    legal = _same(sketch, sketch.graph(turned, sketch.max_pool(there, (1, 1), (1, 1))), FOLD_LAYOUTS)
    assert legal.producer(turned).inputs == ("x",) and legal.producer(turned).perm == (1, 0, 2)
    assert _kinds(legal) == ["Transpose", "Transpose", "MaxPool"]


def test_a_reshape_behind_a_reshape_is_the_last_one(rng):
    sketch = Sketch(rng, (3, 4, 5))
    flat = sketch.reshape(sketch.reshape("x", 12, 5), 60)
    legal = _same(sketch, sketch.graph(sketch.step(sketch.dense(flat, 3))), FOLD_LAYOUTS)
    assert _kinds(legal) == ["Reshape", "Dense", "Requantise"] and legal.layers[0].inputs == ("x",)
    sketch = Sketch(rng, (3, 4, 5))
    whole = sketch.reshape(sketch.reshape("x", 60), 3, 4, 5)
    legal = _same(sketch, sketch.graph(whole), FOLD_LAYOUTS)  # an output keeps its operation and its name
    assert _kinds(legal) == ["Reshape"] and legal.outputs == (whole,)
