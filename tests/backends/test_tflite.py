"""The int8 file gives the graph's integers; what is proved about it holds; what is wrong with it is said."""

from __future__ import annotations

import json

import numpy as np
import pytest

from greenedge.backends import tflite
from greenedge.backends.tflite import chain
from greenedge.errors import GreenedgeError
from greenedge.graph import Dense, Edge, Graph, Input, Reshape, run_graph
from greenedge.tools import execute
from tests.backends.nets import inputs, mlp


@pytest.mark.parametrize("weight_bits, act_bits, in_signed", [(4, 4, False), (2, 2, True), (1, 3, False), (3, 8, True)])
@pytest.mark.parametrize("kernels", ["xnnpack", "reference"])
def test_the_file_gives_the_graphs_integers(rng, tmp_path, weight_bits, act_bits, in_signed, kernels):
    graph = mlp(rng, (20, 12, 5), weight_bits, act_bits, in_signed=in_signed)
    assert tflite.check(graph, None, {}) == []
    execute(tflite.plan(graph, None, {}), tmp_path / "build")
    x = inputs(rng, graph, 60)
    keep = [op.output for op in graph.ops if op.inputs]
    expected = run_graph(graph, x, keep=keep)
    got = tflite.simulate(tmp_path / "build", x, keep, kernels=kernels)
    assert set(got) == {"act1", "act2"}
    certificate = json.loads((tmp_path / "build" / "certificate.json").read_text())
    for layer in certificate["layers"]:
        if layer["kernels"][kernels]["certified"] == layer["channels"]:
            assert np.array_equal(got[layer["layer"]], expected[layer["layer"]])
        else:  # the proof counts what differs, by one level at most
            assert np.abs(got[layer["layer"]] - expected[layer["layer"]]).max() <= 1
            break
    assert act_bits > 4 or certificate["layers"][0]["kernels"]["xnnpack"]["certified"] == 12


def test_a_plan_is_pure(rng):
    graph = mlp(rng)
    assert tflite.plan(graph, None, {}).digest() == tflite.plan(graph, None, {}).digest()


def test_the_certificate_counts_what_differs(rng):
    """Where every accumulator can be tried, trying them all gives the certificate's number."""
    from greenedge.backends.tflite.certificate import Problem, emulated_levels
    from greenedge.backends.tflite.layout import encode
    from greenedge.backends.tflite.search import solve

    code = encode(-128, 127)
    k = np.arange(-127, 128)
    slopes = rng.uniform(0.05, 0.2, 20)
    thresholds = np.clip(np.ceil((k - 0.5) / slopes[:, None] + rng.uniform(-5, 5, (20, 1))).astype(np.int64), -4000, 4001)
    problem = Problem("FULLY_CONNECTED", thresholds, np.full(20, -4000), np.full(20, 4000), np.full(20, 1), -128, code.zero_level,
                      code.zero_point, code.bounds, 1.0, code.scale)
    solution = solve(problem)
    x = np.arange(-4000, 4001)
    for kernels, verdict in solution.verdicts.items():
        got = emulated_levels(problem.scaled(solution.factor), kernels, np.broadcast_to(x, (20, len(x))),
                              solution.weight_scale[:, None], solution.constant[:, None])
        wanted = np.stack([-128 + np.searchsorted(row, x, side="right") for row in thresholds])
        assert np.array_equal((got != wanted).sum(axis=1), verdict.differing)


def test_refusals_are_said_at_once():
    weight = np.ones((4, 2), np.int64)
    ops = (Input("x", (), "x"), Dense("fc", ("x",), "fc", weight))
    graph = Graph("g", ops, {"x": Edge("x", (4,), 0, 1000), "fc": Edge("fc", (2,), 0, 4000)}, ("fc",))
    assert [str(reason) for reason in tflite.check(graph, None, {})] == [
        "x: 1,001 levels; int8 holds 256 (cure: quantise to at most 8 bits).",
        "fc: an output of 12-bit accumulators; the output of an int8 file has 8 bits (cure: put a QuantIdentity(bit_width=8) on the "
        "model's output)."]


def test_a_flattened_input_is_the_same_numbers(rng, tmp_path):
    graph = mlp(rng, (12, 4))
    ops = (Input("image", (), "image"), Reshape("x", ("image",), "x", (12,)), *graph.ops[1:])
    shaped = Graph("g", ops, {"image": Edge("image", (3, 4), 0, 15), **graph.edges}, graph.outputs)
    execute(tflite.plan(shaped, None, {}), tmp_path / "build")
    x = rng.integers(0, 16, (9, 3, 4))
    assert np.array_equal(tflite.simulate(tmp_path / "build", x)["act1"], run_graph(shaped, x)["act1"])


@pytest.mark.parametrize("damage", ["magic", "empty", "cut"])
def test_a_damaged_file_is_one_sentence(rng, tmp_path, damage):
    graph = mlp(rng)
    execute(tflite.plan(graph, None, {}), tmp_path / "build")
    path = tmp_path / "build" / "model.tflite"
    content = path.read_bytes()
    path.write_bytes({"magic": b"GARB" * 9, "empty": b"", "cut": content[:len(content) // 3]}[damage])
    with pytest.raises(GreenedgeError) as error:
        tflite.simulate(tmp_path / "build", inputs(rng, graph, 2))
    assert "\n" not in str(error.value) and str(path) in str(error.value) and "run the build stage again" in str(error.value)


def test_weights_scaled_up_stay_in_int8(rng):
    content, layers = chain.write_chain(mlp(rng, (16, 6, 3), weight_bits=2))
    assert len(layers) == 2 and content[4:8] == b"TFL3"
