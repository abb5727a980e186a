"""Smooth and bent activations between quantisers: looked up level by level, the same on every back end."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from greenedge import api
from greenedge.backends import load_backend
from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.thresholding import MAX_TABLE
from greenedge.frontends.input_type import parse_input_type
from greenedge.graph import Requantise, run_graph
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.lower.models import Model

CURVES = ("SiLU", "HardSwish", "Gelu", "Sigmoid", "Tanh", "LeakyRelu", "PRelu", "Elu", "Mish")


def write_curve(path, rng, curve, bits, image=False):
    """x → layer → quantiser → curve → quantiser → layer → quantiser."""
    m = Model((1, 3, 4, 4) if image else (1, 6), opset=20).quant(0.05, 8)
    weights = [
        rng.integers(-7, 8, shape) * 0.25 for shape in ([(4, 3, 3, 3), (2, 4, 1, 1)] if image else [(6, 8), (8, 4)])
    ]
    m.node("Conv" if image else "MatMul", m.weight(weights[0]))
    m.quant(6.0 / 2**bits, bits)
    start = m.tensor
    if curve == "SiLU":
        m.node("Sigmoid").node("Mul", start)
    elif curve == "Mish":
        m.node("Softplus").node("Tanh").node("Mul", start)
    elif curve == "PRelu":
        channels = (4, 1, 1) if image else (8,)
        m.node("PRelu", m.constant(rng.uniform(-0.4, 0.4, channels)))
    else:
        m.node(curve)
    m.quant(4.0 / 2**bits, bits)
    m.node("Conv" if image else "MatMul", m.weight(weights[1]))
    return m.quant(0.1, bits).save(path)


@pytest.mark.parametrize("backend", ["tflite", "onnxruntime"])
@pytest.mark.parametrize("curve", CURVES)
def test_every_level_of_a_curve(rng, tmp_path, backend, curve):
    """All levels of an input, through the very file on its runtime."""
    bits = 8 if curve != "Elu" else 5
    m = Model((1, 4, 3), opset=20)
    start = m.node("Mul", m.constant(0.05), source="x").tensor
    if curve in ("SiLU", "Mish"):
        for op in ["Sigmoid"] if curve == "SiLU" else ["Softplus", "Tanh"]:
            m.node(op)
        m.node("Mul", start)
    else:
        m.node(curve, *([m.constant(rng.uniform(-0.4, 0.4, (4, 1)))] if curve == "PRelu" else []))
    path = m.quant(0.03, bits).save(tmp_path / "curve.onnx")
    lowered = lower_file(path, {None: parse_input_type("int8:1")})
    module, target = load_backend(backend), load_target("linux-x86")
    graph = legalise_graph(lowered.graph, module.passes)
    assert module.check(graph, target, {}) == []
    plan = module.plan(graph, target, {})
    execute(dataclasses.replace(plan, commands=(), products=()), tmp_path)
    x = np.repeat(np.arange(-128, 128), 12).reshape(-1, 4, 3)
    expected = run_graph(lowered.graph, x)
    assert len(np.unique(expected[graph.outputs[0]])) > 8
    got = module.simulate(tmp_path, x)
    assert all(np.array_equal(got[edge], expected[edge]) for edge in graph.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("curve, bits", [("SiLU", 8), ("Gelu", 5), ("HardSwish", 8)])
@pytest.mark.parametrize(
    "backend, target", [("tflite", "linux-x86"), ("onnxruntime", "linux-x86"), ("c99", "cortex-m4")]
)
def test_a_network_with_a_curve(rng, tmp_path, backend, target, curve, bits):
    path = write_curve(tmp_path / "net.onnx", rng, curve, bits, image=curve == "SiLU")
    x = rng.normal(0, 3, (100, 3, 4, 4) if curve == "SiLU" else (100, 6)).astype(np.float32)
    api.build(path, target, backend=backend, inputs=x, out=tmp_path / "run", progress=False)
    summary = json.loads((tmp_path / "run" / "7-report" / "summary.json").read_text())
    entries = [entry for entry in summary["verify"] if entry["reference"] == "graph"]
    assert entries and all(entry["mismatches"] == 0 for entry in entries)


@pytest.mark.parametrize(
    "backend, target",
    [("tflite", "linux-x86"), ("onnxruntime", "linux-x86"), ("c99", "cortex-m4"), ("finn", "ulx3s-85f")],
)
def test_who_takes_a_curve(rng, tmp_path, backend, target):
    for curve in CURVES:
        graph = lower_file(write_curve(tmp_path / "net.onnx", rng, curve, 8)).graph
        module = load_backend(backend)
        assert module.check(legalise_graph(graph, module.passes), load_target(target), {}) == [], curve


def write_curve_behind_sums(path, rng, curve, bits, channels=6):
    """x → convolution → curve → quantiser, twice: the curves' inputs are sums of more values than finn tabulates."""
    m = Model((1, 6, 4, 4), opset=20).quant(0.05, 8)
    for width, fan_in in ((channels, 6), (4, channels)):
        m.node("Conv", m.weight(rng.integers(-7, 8, (width, fan_in, 3, 3)) * 0.25), kernel_shape=[3, 3], pads=[1] * 4)
        start = m.tensor
        if curve == "SiLU":
            m.node("Sigmoid").node("Mul", start)
        else:
            m.node(curve)
        m.quant(4.0 / 2**bits, bits)
    return m.save(path)


@pytest.mark.parametrize("bits", [5, 8])
@pytest.mark.parametrize("curve", ["SiLU", "Gelu", "HardSwish"])
def test_finn_counts_the_steps_of_a_curve_behind_a_sum(rng, tmp_path, curve, bits):
    """Steps up and down, as the unit counts them, against the graph's own table; no table is built."""
    graph = lower_file(write_curve_behind_sums(tmp_path / "net.onnx", rng, curve, bits)).graph
    module, target = load_backend("finn"), load_target("ulx3s-85f")
    legal = legalise_graph(graph, module.passes)
    assert module.check(legal, target, {}) == []
    plan = module.plan(legal, target, {})
    execute(dataclasses.replace(plan, commands=(), products=()), tmp_path / "build")
    faults = module.memory_faults(legal, tmp_path / "build")
    curves = [layer for layer in faults.layers if isinstance(layer, hw.Step)]
    assert sum(layer.source.hi - layer.source.lo >= MAX_TABLE for layer in curves) >= 1
    assert all(layer.fall_bits > 1 for layer in curves if layer.source.hi - layer.source.lo >= MAX_TABLE)
    x = rng.integers(-128, 128, (200, 6, 4, 4))
    result = faults.network.result
    expected = run_graph(legal, x)[legal.outputs[0]]
    assert len(np.unique(expected)) > 8 and expected.min() < 0
    assert np.array_equal(faults.run(x)[result.name], expected.reshape(200, -1)[:, result.order])


@pytest.mark.slow
@pytest.mark.tool("nextpnr-ecp5")
@pytest.mark.parametrize("curve, bits", [("SiLU", 8), ("Gelu", 5), ("HardSwish", 8)])
def test_curves_behind_sums_on_the_board(rng, tmp_path, curve, bits):
    """From the file to the virtual board."""
    path = write_curve_behind_sums(tmp_path / "net.onnx", rng, curve, bits, channels=4)
    x = rng.normal(0, 3, (40, 6, 4, 4)).astype(np.float32)
    api.build(path, "ulx3s-85f", backend="finn", inputs=x, out=tmp_path / "run", progress=False)
    summary = json.loads((tmp_path / "run" / "7-report" / "summary.json").read_text())
    entries = {entry["candidate"]: entry for entry in summary["verify"] if entry["reference"] == "graph"}
    assert {"rtl", "rtl-stalls", "board", "netlist"} <= set(entries)
    assert all(not entry["mismatches"] for entry in entries.values())


def test_a_curve_right_behind_a_sum_is_refused_with_its_cure(rng, tmp_path):
    m = Model((1, 6)).quant(0.05, 8)
    m.node("MatMul", m.weight(rng.integers(-7, 8, (6, 4)) * 0.25))
    start = m.tensor
    graph = lower_file(m.node("Sigmoid").node("Mul", start).quant(0.05, 8).save(tmp_path / "net.onnx")).graph
    module = load_backend("tflite")
    (reason,) = module.check(legalise_graph(graph, module.passes), load_target("linux-x86"), {})
    assert "quantiser" in str(reason) and "(cure: " in str(reason)
    assert any(isinstance(op, Requantise) for op in graph.ops)
