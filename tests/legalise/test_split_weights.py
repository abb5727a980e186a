"""Layers with weights beyond int8 become sums of layers with less; every sum stays what it was."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.graph import Add, Linear, run_graph, verify_graph
from greenedge.legalise.split_weights import split_weights
from tests.backends.graphs import Sketch
from tests.backends.nets import inputs


@pytest.mark.parametrize("bits", [8, 9, 10])
@pytest.mark.parametrize("kind", ["dense", "conv", "conv_transpose"])
def test_the_sums_are_the_same(rng, kind, bits):
    s = Sketch(rng, (6,) if kind == "dense" else (2, 5, 5))
    if kind == "dense":
        layer = s.dense("x", 5, bits=bits)
    elif kind == "conv":
        layer = s.conv("x", 4, (3, 3), pads=(1, 1, 1, 1), bits=bits, pad_value=2)
    else:
        layer = s.conv_transpose("x", 3, (2, 2), (2, 2), (0, 0, 0, 0), (0, 0))
    graph = s.graph(s.step(layer, "u4"))
    short = split_weights(graph)
    verify_graph(short)
    layers = [op for op in short.ops if isinstance(op, Linear)]
    assert all(-128 <= op.weight.min() and op.weight.max() <= 127 for op in layers)
    if kind != "conv_transpose":
        assert sum(isinstance(op, Add) for op in short.ops) == (len(layers) > 1) == (bits > 8)
    else:
        assert short is graph, "4-bit weights stay"
    x = inputs(rng, graph, 50)
    assert all(np.array_equal(run_graph(graph, x)[e], run_graph(short, x)[e]) for e in graph.outputs)


def test_the_ends_of_the_range(rng):
    """255 takes three shares of int8, -256 two, -128 and 127 none."""
    s = Sketch(rng, (4,))
    graph = s.graph(s.step(s.dense("x", 3, bits=8)))
    (op,) = graph.linears
    for low, high, count in ((-128, 127, 1), (-129, 0, 2), (-256, 254, 2), (0, 255, 3), (-640, 0, 5), (-641, 0, 1)):
        weight = op.weight.copy()
        weight[0, 0], weight[0, 1] = low, high
        changed = graph.replace_ops(
            [type(op)(op.name, op.inputs, op.output, weight) if o is op else o for o in graph.ops]
        )
        assert len([o for o in split_weights(changed).ops if isinstance(o, Linear)]) == count, (low, high)
