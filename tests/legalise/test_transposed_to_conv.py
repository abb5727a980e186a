"""A transposed convolution as a convolution whose channels become pixels: the same integers for every kernel, stride,
padding and number of groups."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.backends import load_backend
from greenedge.graph import Conv, ConvTranspose, Gather, run_graph, verify_graph
from greenedge.legalise import TRANSPOSED_TO_CONV, legalise_graph
from tests.backends.graphs import Sketch


def _draw(rng, dims):
    """A transposed convolution that gives at least one pixel along every axis; all that ONNX allows."""
    while True:
        kernel, strides, dilations = (
            tuple(int(v) for v in rng.integers(1, high, dims)) for high in (5, 5, 1 + int(rng.integers(1, 4)))
        )
        pads = tuple(int(v) for v in rng.integers(0, 4, 2 * dims))
        more = tuple(int(rng.integers(0, max(s, d))) for s, d in zip(strides, dilations, strict=True))
        size, groups = tuple(int(v) for v in rng.integers(1, 6, dims)), int(rng.integers(1, 4))
        out = [
            (size[i] - 1) * strides[i] - pads[i] - pads[dims + i] + dilations[i] * (kernel[i] - 1) + more[i] + 1
            for i in range(dims)
        ]
        if min(out) >= 1:
            s = Sketch(rng, (2 * groups, *size), str(rng.choice(["u4", "s4", "up"])))
            made = s.conv_transpose("x", 3 * groups, kernel, strides, pads, more, dilations, groups)
            return s, s.graph(s.step(made))


@pytest.mark.parametrize("dims, count", [(1, 60), (2, 60), pytest.param(2, 600, marks=pytest.mark.slow)])
def test_the_pixels_are_the_same(rng, dims, count):
    cut = 0
    for _ in range(count):
        s, graph = _draw(rng, dims)
        legal = legalise_graph(graph, (TRANSPOSED_TO_CONV,))
        verify_graph(legal)
        assert not any(isinstance(op, ConvTranspose) for op in legal.ops)
        x, edge = s.values(graph, 4), graph.layers[0].output
        before, after = run_graph(graph, x, keep=[edge]), run_graph(legal, x, keep=[edge])
        assert all(np.array_equal(before[name], after[name]) for name in (edge, *graph.outputs))
        assert all(legal.edges[name] == one for name, one in graph.edges.items())
        cut += any(isinstance(op, Gather) for op in legal.ops)
    assert 0 < cut < count, "some outputs are no multiple of the stride, and some are"


def test_its_size_is_what_the_phases_need(rng):
    """2×2 with stride 2 has one tap a phase, 4×4 with stride 2 two within a window of three, 3×3 with stride 1 all."""
    for kernel, stride, pad, window in ((2, 2, 0, 1), (4, 2, 1, 3), (3, 2, 1, 2), (3, 1, 1, 3)):
        s = Sketch(rng, (2, 4, 4))
        graph = s.graph(s.conv_transpose("x", 3, (kernel,) * 2, (stride,) * 2, (pad,) * 4, (0, 0)))
        (conv,) = (op for op in legalise_graph(graph, (TRANSPOSED_TO_CONV,)).ops if isinstance(op, Conv))
        assert conv.kernel == (window, window) and conv.channels == 3 * stride * stride
        assert conv.name == graph.layers[0].name, "what a back end says of it names the model's layer"


def test_a_graph_without_one_stays(rng):
    s = Sketch(rng, (2, 4, 4))
    graph = s.graph(s.conv("x", 3, (3, 3)))
    assert legalise_graph(graph, (TRANSPOSED_TO_CONV,)) is graph


def test_who_wants_it():
    assert [name for name in ("c99", "da4ml", "finn") if TRANSPOSED_TO_CONV in load_backend(name).passes] == ["finn"]
    assert all(ConvTranspose in load_backend(name).rules for name in ("c99", "da4ml")), "they have it themselves"
