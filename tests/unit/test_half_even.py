"""Steps that round ties to even: found where they are, and by the back ends computed."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from greenedge.graph import Dense, Edge, Graph, Input, Requantise, Steps, freeze, run_graph, save_graph
from greenedge.graph.affine import fit_affine
from greenedge.graph.half_even import half_even


def rounded(x, b, s, lo, hi):
    return np.clip(np.rint((x + b) / 2.0**s), lo, hi).astype(np.int64)


def step(rng, b, s, lo, hi, x_lo, x_hi) -> Requantise:
    x = np.arange(x_lo, x_hi + 1)
    levels = rounded(x, b, s, lo, hi)
    thresholds = [int(x[levels >= k][0]) if (levels >= k).any() else x_hi + 1 for k in range(lo + 1, hi + 1)]
    ones = freeze([1])
    return Requantise(
        "act", ("fc",), "act", 0, lo, hi, Steps(ones, freeze([thresholds]), None), freeze([x_lo]), freeze([x_hi])
    )


@pytest.mark.parametrize("b, s, lo, hi", [(0, 2, 0, 15), (3, 1, -8, 7), (-5, 4, -7, 7), (100, 3, 0, 15), (8, 4, 0, 1)])
def test_the_steps_are_found_and_are_no_affine_ones(rng, b, s, lo, hi):
    op = step(rng, b, s, lo, hi, -200, 210)
    found = half_even(op)
    x = np.arange(-200, 211)
    m, offset, shift = (int(v[0]) for v in (found.m, found.b, found.s))
    assert np.array_equal(rounded(m * x, offset, shift, lo, hi), rounded(x, b, s, lo, hi))
    if s > 1 and hi - lo > 2:
        assert fit_affine(op.require_steps().thresholds, lo, hi, op.x_lo, op.x_hi) is None


@pytest.mark.parametrize("x_lo, x_hi", [(-20, 20), (3, 9), (-9, 2), (6, 57)])
def test_steps_that_no_accumulator_reaches_are_ignored(rng, x_lo, x_hi):
    """Levels 0…15 of round(x / 4): the range reaches some of them, and its ends lie on ties and beside them."""
    op = step(rng, 0, 2, 0, 15, x_lo, x_hi)
    form = half_even(op)
    x = np.arange(x_lo, x_hi + 1)
    assert np.array_equal(rounded(x, int(form.b[0]), int(form.s[0]), 0, 15), rounded(x, 0, 2, 0, 15))


@pytest.mark.parametrize("by", [1, -1])
def test_a_last_step_that_moved_is_no_tie(rng, by):
    """round(x / 4) over -20…20 reaches level 5 at 19 (18 is a tie, and goes to 4), the last step inside the range."""
    op = step(rng, 0, 2, 0, 15, -20, 20)
    thresholds = np.array(op.require_steps().thresholds)
    assert thresholds[0, 4] == 19 and thresholds[0, 5] == 21
    thresholds[0, 4] += by
    assert half_even(op.with_steps(thresholds=freeze(thresholds))) is None


def test_a_moved_step_is_not_taken_for_one(rng):
    op = step(rng, 0, 2, 0, 15, -20, 80)
    moved = np.array(op.require_steps().thresholds)
    moved[0, 7] += 1
    assert half_even(op.with_steps(thresholds=freeze(moved))) is None


def tied(rng) -> tuple[Graph, np.ndarray]:
    """A dense layer whose sums are rounded to even by powers of two, and another behind it."""
    weight = rng.integers(-7, 8, (6, 5))
    low, high = (weight * np.where(weight > 0, 0, 15)).sum(0), (weight * np.where(weight > 0, 15, 0)).sum(0)
    ends = int(low.min()), int(high.max())
    act = step(rng, 2, 3, 0, 15, *ends)
    edges = {
        "x": Edge("x", (6,), 0, 15),
        "fc": Edge("fc", (5,), *ends),
        "act": Edge("act", (5,), 0, 15),
        "y": Edge("y", (3,), -315, 315),
    }
    last = rng.integers(-4, 5, (5, 3))
    ops = (Input("x", (), "x"), Dense("fc", ("x",), "fc", freeze(weight)), act, Dense("y", ("act",), "y", freeze(last)))
    return Graph("tied", ops, edges, ("y",)), rng.integers(0, 16, (300, 6))


def test_hls4ml_gets_a_type_that_rounds_to_even(rng):
    from greenedge.backends import hls4ml
    from greenedge.backends.hls4ml.hand_over import hand_over
    from greenedge.target import load_target

    graph, _ = tied(rng)
    assert hls4ml.check(graph, load_target("vcu118"), {}) == []
    layer = next(layer for layer in hand_over(graph).layers if layer.edge == "act")
    assert layer.precision["result"] == "ufixed<4,4,RND_CONV,SAT>" and set(layer.attributes["scale_data"]) == {1 / 8}


_REPLAY = """
import sys
from pathlib import Path
import numpy as np
from greenedge.backends.da4ml.partition import cut_into_pieces
from greenedge.backends.da4ml.trace import full_span
from greenedge.backends.da4ml.unroll import unroll
from greenedge.graph import load_graph
from da4ml.trace import comb_trace

folder = Path(sys.argv[1])
graph, values = load_graph(folder), {"x": np.load(folder / "x.npy")}
for piece in cut_into_pieces(graph):
    sources, outputs = unroll(graph, piece, {source: full_span(graph.edges[source]) for source in piece.sources})
    circuit = comb_trace(np.concatenate(sources), outputs)
    rows = np.concatenate([values[source] for source in piece.sources], axis=1)
    values[piece.output] = np.array([[float(v) for v in circuit(list(row.astype(float)))] for row in rows])
np.save(folder / "y.npy", values["y"])
"""


def test_da4ml_rounds_to_even(rng, tmp_path, repo):
    """da4ml's own replay of the circuit, piece by piece, in a Python of its own that does not compile its solver."""
    pytest.importorskip("da4ml")
    graph, x = tied(rng)
    save_graph(graph, tmp_path)
    np.save(tmp_path / "x.npy", x[:40])
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(repo)}
    subprocess.run([sys.executable, "-c", _REPLAY, str(tmp_path)], env=env, check=True)
    assert np.array_equal(np.load(tmp_path / "y.npy"), run_graph(graph, x[:40])["y"])
