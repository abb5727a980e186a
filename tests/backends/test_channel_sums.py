"""Branches added whose ratio of scales differs by channel: the same integers on every back end, or a reason."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from greenedge.backends import load_backend
from greenedge.backends.int8.onnxruntime.emit import write_file as write_onnx
from greenedge.backends.int8.tflite.elementwise import split_weights
from greenedge.backends.int8.tflite.emit import write_file as write_tflite
from greenedge.graph import run_graph
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file
from greenedge.runtimes import open_runtime
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.backends.graphs import Sketch
from tests.backends.test_int8_ops import check
from tests.lower.models import Model

VERILATOR = [pytest.mark.tool("verilator"), pytest.mark.tool("g++")]


def write_block(path, rng, bits=4, image=True, wide=False):
    """x → layer → levels with a scale for each channel, x → layer → levels with one; their sum → ReLU → levels. With
    `wide` the first branch is the layer's accumulator, whose weights have a scale for each channel."""
    shape = (1, 3, 4, 4) if image else (1, 6)
    m = Model(shape).quant(0.05, bits, signed=0)
    start, spread, ends = m.tensor, (4, 1, 1) if image else (5,), []
    for k in range(2):
        scale = rng.uniform(0.02, 0.08, spread).astype(np.float32) if k else np.float32(0.0371)
        weight = rng.integers(-7, 8, (4, 3, 3, 3) if image else (6, 5)) * 0.25
        if wide and k:
            steps = rng.uniform(0.1, 0.3, (4, 1, 1, 1) if image else (1, 5)).astype(np.float32)
            weight = m.weight(weight * 4 * steps, steps)
        else:
            weight = m.weight(weight, 0.25)
        more = {"pads": [1] * 4, "kernel_shape": [3, 3]} if image else {}
        m.node("Conv" if image else "MatMul", weight, source=start, **more)
        ends.append(m.tensor if wide and k else m.quant(scale[None], bits, signed=k, zero=3.0 * (1 - k)).tensor)
    return m.node("Add", ends[1], source=ends[0], name="sum").node("Relu").quant(0.0731, bits, signed=0).save(path)


def build(backend, target, path, folder, rng, until=None):
    """The levels of the built thing, and of the graph."""
    lowered, module, device = lower_file(path), load_backend(backend), load_target(target)
    graph = legalise_graph(lowered.graph, module.passes)
    assert module.check(graph, device, {}) == []
    plan = module.plan(graph, device, {})
    if until:  # as far as the simulation
        plan = dataclasses.replace(plan, commands=plan.commands[:2], products=plan.products[:until])
    execute(plan, folder)
    (edge,) = graph.inputs
    x = rng.integers(0, lowered.graph.edges[edge].hi + 1, (200, *lowered.graph.edges[edge].shape))
    got, want = module.simulate(folder, x), run_graph(lowered.graph, x)
    return got[graph.outputs[0]], want[graph.outputs[0]]


@pytest.mark.parametrize(
    "backend, target, bits, image, wide, until",
    [
        pytest.param("c99", "cortex-m4", 4, True, False, None, marks=pytest.mark.slow),
        pytest.param("c99", "cortex-m4", 8, False, False, None, marks=pytest.mark.slow),
        pytest.param("c99", "cortex-m4", 8, True, True, None, marks=pytest.mark.slow),
        pytest.param("finn", "ulx3s-85f", 4, True, False, 3, marks=[*VERILATOR, pytest.mark.slow]),
        pytest.param("finn", "ulx3s-85f", 4, False, True, 3, marks=[*VERILATOR, pytest.mark.slow]),
        pytest.param("da4ml", "ulx3s-85f", 3, False, False, 4, marks=[*VERILATOR, pytest.mark.slow]),
        pytest.param("hls4ml", "pynq-z1", 4, True, False, None, marks=[pytest.mark.tool("g++"), pytest.mark.slow]),
    ],
)
def test_from_the_file_to_what_is_built(rng, tmp_path, backend, target, bits, image, wide, until):
    path = write_block(tmp_path / "block.onnx", rng, bits, image, wide)
    got, want = build(backend, target, path, tmp_path / "build", rng, until)
    assert len(np.unique(want)) > bits and np.array_equal(got, want)


@pytest.mark.parametrize("image, wide", [(True, False), (False, False), (True, True), (False, True)])
def test_finns_layers_compute_the_sum(rng, tmp_path, image, wide):
    """The layers in plain numbers, before any tool: factors in the order of the stream."""
    from greenedge.backends.finn.dialect.lower import require_network
    from greenedge.backends.finn.emulate import run_layers, source_of_graph

    lowered = lower_file(write_block(tmp_path / "block.onnx", rng, image=image, wide=wide))
    graph = legalise_graph(lowered.graph, load_backend("finn").passes)
    x = rng.integers(0, 16, (50, *lowered.graph.edges[graph.inputs[0]].shape))
    network = require_network(graph)
    assert sum(layer.name.startswith("sum_times") for layer in network.layers) == 2
    got = run_layers(network.layers, source_of_graph(network, x))[network.result.name] + np.resize(
        network.result.offset, network.result.total
    )
    want = run_graph(lowered.graph, x)[graph.outputs[0]].reshape(50, -1)
    assert np.array_equal(got, want[:, network.result.order])


@pytest.mark.parametrize("axis, shape", [(0, (6, 3, 2)), (1, (4, 6)), (0, (6,))])
@pytest.mark.parametrize("largest", [60, 900, 90_000])
@pytest.mark.parametrize(
    "runtime, kernels", [("litert", "xnnpack"), ("litert-reference", "reference"), ("onnxruntime", "mlas")]
)
def test_every_kernel_set(rng, runtime, kernels, largest, axis, shape):
    """By rounding where that is proved, else by a table of pairs for each channel."""
    sketch = Sketch(rng, shape, "s4")
    factors = rng.integers(1, largest, (2, 6)) * np.array([[1], [-1]])
    total = sketch.channel_add("x", sketch.input("y", shape, "u4"), factors, axis)
    graph = sketch.graph(sketch.step(total, "s8", axis=axis))
    pairs = [part.ravel() for part in np.meshgrid(np.arange(-8, 8), np.arange(16))]
    feeds = {
        name: np.broadcast_to(part.reshape(-1, *(1,) * len(shape)), (256, *shape)).copy()
        for name, part in zip(("x", "y"), pairs, strict=True)
    }
    (want,), (got,) = run_graph(graph, feeds).values(), open_runtime(runtime, graph).run(feeds).values()
    layers = (write_onnx if kernels == "mlas" else write_tflite)(graph).layers
    differing = sum(int(layer.solution.verdicts[kernels].differing.sum()) for layer in layers)
    assert len(np.unique(want)) > 50 and (kernels == "reference" or not differing)
    assert differing or np.array_equal(got, want)


def test_c99_takes_factors_along_any_axis(rng, tmp_path):
    """Along the middle one the channels come again for every plane."""
    module, target, sketch = load_backend("c99"), load_target("cortex-m4"), Sketch(rng, (2, 6, 3), "s4")
    factors = rng.integers(1, 90, (2, 6)) * np.array([[1], [-1]])
    total = sketch.channel_add("x", sketch.input("y", (2, 6, 3), "u4"), factors, 1)
    graph = sketch.graph(sketch.step(total, "s8", axis=1))
    assert module.check(graph, target, {}) == []
    execute(module.plan(graph, target, {}), tmp_path / "build")
    feeds = sketch.values(graph, 100)
    (got,), (want,) = module.simulate(tmp_path / "build", feeds).values(), run_graph(graph, feeds).values()
    assert len(np.unique(want)) > 20 and np.array_equal(got, want)


@pytest.mark.parametrize("outputs", ["sum", "both"])
def test_a_sum_that_is_an_output(rng, tmp_path, outputs):
    sketch = Sketch(rng, (3, 5, 4), "u4")
    a, b = (sketch.step(sketch.conv("x", 6, (1, 1)), levels) for levels in ("s4", "u4"))
    total = sketch.channel_add(a, b, rng.integers(1, 99, (2, 6)))
    check(sketch, *([total] if outputs == "sum" else [total, sketch.step(total, "s8")]), tmp_path=tmp_path)


@pytest.mark.parametrize("name", ["tflite", "onnxruntime"])
def test_reasons_of_the_int8_runtimes(rng, name):
    """Eight bits with long factors in more channels than a table holds; factors along one axis, steps along another."""
    module, target = load_backend(name), load_target("linux-x86")
    sketch = Sketch(rng, (40,), "u8")
    sketch.step(sketch.channel_add("x", sketch.input("y", (40,), "u8"), rng.integers(1, 90_000, (2, 40))), "u8", axis=0)
    (reason,) = [r for r in module.check(sketch.graph(sketch.ops[-1].output), target, {}) if "pairs" in r.value]
    assert reason.value.endswith("2,621,440 pairs of levels in all") and "fewer bits" in reason.cure
    sketch = Sketch(rng, (4, 3), "u4")
    total = sketch.channel_add("x", sketch.input("y", (4, 3), "u4"), rng.integers(1, 9, (2, 4)))
    sketch.reach[total] = tuple(np.full(3, end) for end in (sketch.edges[total].lo, sketch.edges[total].hi))
    graph = sketch.graph(sketch.step(total, "u4", axis=1))
    assert any(
        r.value == "factors along axis 0 with step functions along another" for r in module.check(graph, target, {})
    )


def test_c99_refuses_sums_beyond_32_bits(rng):
    module, sketch = load_backend("c99"), Sketch(rng, (4,), "u8")
    total = sketch.channel_add("x", sketch.input("y", (4,), "u8"), np.array([[1 << 24] * 4, [-(1 << 24)] * 4]))
    (reason, *_) = module.check(sketch.graph(sketch.step(total, "u4", axis=0)), load_target("cortex-m4"), {})
    assert reason.value == "sums of up to 34 bits" or "values of" in reason.value


def test_finn_refuses_factors_that_are_too_long(rng):
    module, sketch = load_backend("finn"), Sketch(rng, (4,), "u4")
    total = sketch.channel_add("x", sketch.input("y", (4,), "u4"), np.array([[1 << 25, 3, 5, 7], [1, 2, 3, 4]]))
    reasons = module.check(sketch.graph(sketch.step(total, "u4", axis=0)), load_target("ulx3s-85f"), {})
    assert any(r.value == "factors of 27 bits for each channel" for r in reasons), reasons


def test_weights_beyond_int8_are_a_sum_of_some_that_it_holds(rng):
    for largest in (1, 127, 128, 1000):
        weights = rng.integers(-largest, largest + 1, 9)
        weights[0] = -largest
        parts = split_weights(weights)
        assert np.array_equal(parts.sum(axis=0), weights) and np.abs(parts).max() <= 127
        assert len(parts) == -(-largest // 127)


def test_very_long_factors_are_counted_before_they_are_split(rng):
    """Of 2^40 there would be 8 billion weights of 7 bits: the pairs are looked up, or refused where they are many."""
    module, target = load_backend("tflite"), load_target("linux-x86")
    for bits, channels, looked_up in (("u4", 4, True), ("u8", 40, False)):
        sketch = Sketch(rng, (channels,), bits)
        factors = np.array([[1 << 40] * channels, [3] * channels])
        total = sketch.channel_add("x", sketch.input("y", (channels,), bits), factors)
        reasons = module.check(sketch.graph(sketch.step(total, bits, axis=0)), target, {})
        assert (not reasons) == looked_up
