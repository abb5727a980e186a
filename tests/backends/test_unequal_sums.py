"""Branches of unlike scales added, as residual blocks from a converter have them: the same integers on every back
end."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from greenedge import api
from greenedge.backends import load_backend
from greenedge.frontends.input_type import parse_input_type
from greenedge.graph import run_graph
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.lower.models import Model

SCALES = (0.0371, 0.1093)  # in no small ratio
VERILATOR = [pytest.mark.tool("verilator"), pytest.mark.tool("g++")]


def write_block(path, rng, bits=8, zero=3.0, image=False):
    """x → layer → u8, x → layer → s8, their sum → ReLU → u8 with a zero point → layer → s8."""
    m = Model((1, 3, 5, 5) if image else (1, 6)).quant(0.05, bits, signed=0)
    start, ends = m.tensor, []
    for k, scale in enumerate(SCALES):
        shape = (3, 3, 3, 3) if image else (6, 5)
        weight = m.weight(rng.integers(-7, 8, shape) * 0.25, 0.25, 4)
        more = {"pads": [1] * 4, "kernel_shape": [3, 3]} if image else {}
        m.node("Conv" if image else "MatMul", weight, source=start, **more)
        ends.append(m.quant(scale, bits, signed=k, zero=zero * (1 - k)).tensor)
    m.node("Add", ends[1], source=ends[0]).node("Relu").quant(0.113, bits, signed=0, zero=zero)
    if image:
        return m.save(path)
    return m.node("MatMul", m.weight(rng.integers(-7, 8, (5, 4)) * 0.25)).quant(0.4, bits).save(path)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "backend, target, image",
    [
        ("tflite", "linux-x86", False),
        ("c99", "cortex-m4", True),
        pytest.param("tflite", "linux-x86", True, marks=SLOW),
        pytest.param("onnxruntime", "linux-x86", False, marks=SLOW),
        pytest.param("onnxruntime", "linux-x86", True, marks=SLOW),
        pytest.param("c99", "cortex-m4", False, marks=SLOW),
    ],
)
def test_from_the_file_to_a_verified_binary(rng, tmp_path, backend, target, image):
    path = write_block(tmp_path / "block.onnx", rng, image=image)
    shape = (200, 3, 5, 5) if image else (200, 6)
    x = rng.uniform(-1, 13, shape).astype(np.float32)
    api.build(path, target, backend=backend, inputs=x, out=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "7-report" / "summary.json").read_text())
    entries = [entry for entry in summary["verify"] if entry["reference"] == "graph"]
    assert entries and all(entry["mismatches"] == 0 and entry["samples"] == 200 for entry in entries)


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend, target, bits, products",
    [
        pytest.param("finn", "ulx3s-85f", 8, 3, marks=VERILATOR),
        pytest.param("da4ml", "ulx3s-85f", 4, 4, marks=VERILATOR),
        pytest.param("hls4ml", "pynq-z1", 8, None, marks=pytest.mark.tool("g++")),
    ],
)
def test_in_hardware(rng, tmp_path, backend, target, bits, products):
    path = write_block(tmp_path / "block.onnx", rng, bits)
    lowered = lower_file(path, {None: parse_input_type("uint8:1")})
    module, device = load_backend(backend), load_target(target)
    graph = legalise_graph(lowered.graph, module.passes)
    assert module.check(graph, device, {}) == []
    plan = module.plan(graph, device, {})
    if products:  # as far as the simulation
        plan = dataclasses.replace(plan, commands=plan.commands[:2], products=plan.products[:products])
    execute(plan, tmp_path / "build")
    x = rng.integers(0, 1 << bits, (300, 6))
    got, want = module.simulate(tmp_path / "build", x), run_graph(lowered.graph, x)
    assert all(np.array_equal(got[edge], want[edge]) for edge in graph.outputs)
