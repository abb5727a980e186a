"""A selection as layers of zeros and ones: the same integers for every rank, crop, stride, flip and repetition."""

from __future__ import annotations

import numpy as np

from greenedge.graph import Conv, Dense, Gather, run_graph, verify_graph
from greenedge.legalise import GATHER_TO_CONV, legalise_graph
from tests.backends.graphs import Sketch


def draw_places(rng, size: int) -> tuple[int, ...]:
    """All, a crop, a stride, a flip, or any places, some of them more than once."""
    kind = rng.integers(5)
    if kind == 0:
        return tuple(range(size))
    if kind == 1:
        first = int(rng.integers(0, size))
        return tuple(range(first, size))
    if kind == 2:
        return tuple(range(0, size, 2))
    if kind == 3:
        return tuple(reversed(range(size)))
    return tuple(int(place) for place in rng.integers(0, size, int(rng.integers(1, 6))))


def test_the_same_elements_are_picked(rng):
    cut = 0
    for number in range(120):
        shape = tuple(int(size) for size in rng.integers(1, 6, number % 5 + 1))
        s = Sketch(rng, shape, str(rng.choice(["u4", "s4", "u8"])))
        made = s.gather("x", *(draw_places(rng, size) for size in shape))
        graph = s.graph(made)
        legal = legalise_graph(graph, (GATHER_TO_CONV,))
        verify_graph(legal)
        assert not any(isinstance(op, Gather) for op in legal.ops)
        x = s.values(graph, 3)
        assert all(np.array_equal(run_graph(legal, x)[name], run_graph(graph, x)[name]) for name in graph.outputs)
        assert all(legal.edges[name] == one for name, one in graph.edges.items())
        assert [op.name for op in legal.ops if op.output == made] == [graph.producer(made).name]
        cut += any(isinstance(op, (Conv, Dense)) for op in legal.ops)
    assert 60 < cut < 120, "some leave everything where it is"


def test_channels_take_one_layer_and_rows_change_places(rng):
    s = Sketch(rng, (4, 3, 5))
    graph = s.graph(s.gather("x", (2, 0), (0, 1, 2), (0, 1, 2, 3, 4)))
    (layer,) = legalise_graph(graph, (GATHER_TO_CONV,)).layers
    assert isinstance(layer, Conv) and layer.weight.sum() == 2 and layer.kernel == (1, 1)
    s = Sketch(rng, (4, 3, 5))
    graph = s.graph(s.gather("x", (0, 1, 2, 3), (2, 1, 0), (0, 1, 2, 3, 4)))
    kinds = [type(op).__name__ for op in legalise_graph(graph, (GATHER_TO_CONV,)).layers]
    assert kinds == ["Transpose", "Conv", "Transpose"]


def test_a_graph_without_one_stays(rng):
    s = Sketch(rng, (4,))
    graph = s.graph(s.step(s.dense("x", 3)))
    assert legalise_graph(graph, (GATHER_TO_CONV,)) is graph
