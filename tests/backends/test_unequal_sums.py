"""Branches of unlike scales added, as residual blocks from a converter have them: the same integers on every back
end."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from greenedge import api
from greenedge.backends import load_backend
from greenedge.backends.int8.onnxruntime.emit import write_file as write_onnx
from greenedge.backends.int8.tflite.emit import write_file as write_tflite
from greenedge.frontends.input_type import parse_input_type
from greenedge.graph import Steps, Table, freeze, run_graph
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file
from greenedge.runtimes import open_runtime
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.backends.graphs import Sketch
from tests.backends.test_int8_ops import check
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


@pytest.mark.parametrize(
    "runtime, kernels", [("litert", "xnnpack"), ("litert-reference", "reference"), ("onnxruntime", "mlas")]
)
@pytest.mark.parametrize("multipliers", [(577, -493), (1, 1), (590, 829), (90_001, 70_003)])
def test_every_pair_of_levels(rng, runtime, kernels, multipliers):
    """Whatever the ratio of the scales: by rounding where that is proved on the first kernel set, else by a table."""
    sketch = Sketch(rng, (32,), "s8")
    other = sketch.input("y", (32,), "u8")
    graph = sketch.graph(sketch.step(sketch.add("x", other, multipliers=multipliers), "s8", per_channel=False))
    x, y = (part.reshape(-1, 32) for part in np.meshgrid(np.arange(-128, 128), np.arange(256)))
    (want,) = run_graph(graph, {"x": x, "y": y}).values()
    (got,) = open_runtime(runtime, graph).run({"x": x, "y": y}).values()
    layers = (write_onnx if kernels == "mlas" else write_tflite)(graph).layers
    differing = sum(int(layer.solution.verdicts[kernels].differing.sum()) for layer in layers)
    assert len(np.unique(want)) > 200 and (kernels == "reference" or not differing)
    assert differing or np.array_equal(got, want)


@pytest.mark.parametrize("case", ["channels", "curve", "falling", "rows"])
def test_any_function_of_two_tensors(rng, tmp_path, case):
    sketch = Sketch(rng, (3, 5, 4), "u4")
    a = sketch.step(sketch.conv("x", 6, (3, 3), pads=(1, 1, 1, 1)), "s4")
    b = sketch.step(sketch.conv("x", 6, (1, 1)), "u4")
    if case == "rows":
        a, b = (sketch.transpose(edge, 1, 2, 0) for edge in (a, b))
    total = sketch.add(a, b, multipliers=(2, -3) if case == "curve" else (-9001, 70_001))
    outputs = [sketch.step(total, "s4", axis=2 if case == "rows" else 0, falling=case == "falling")]
    if case == "curve":
        step = sketch.ops.pop()
        bent = np.arange(int(step.x_hi[0] - step.x_lo[0]) + 1) // 3 % 7
        sketch.ops.append(dataclasses.replace(step, forms=Table(freeze(np.tile(bent, (6, 1))))))
    check(sketch, *outputs, tmp_path=tmp_path, all_certified=False)


@pytest.mark.parametrize("name", ["tflite", "onnxruntime"])
def test_a_table_takes_the_place_of_what_is_not_proved(rng, name):
    """Where one of 255 steps is off every line that the operators can have, and where the channels' tables would be
    too large: then the certificate counts what differs."""
    write = {"tflite": write_tflite, "onnxruntime": write_onnx}[name]
    sketch = Sketch(rng, (17,), "s8")
    step = sketch.step(sketch.add("x", sketch.input("y", (17,), "s8"), multipliers=(577, 493)), "s8", axis=0)
    thresholds = 1000 * np.arange(-127, 128) - 500
    thresholds[127] += 1  # a line that is exact at one slope alone, every step of it a tie
    for rows in (1, 17):
        about = sketch.ops[-1]
        ends = (freeze(part[:1].repeat(rows)) for part in (about.x_lo, about.x_hi))
        forms = Steps(freeze(np.ones(rows)), freeze(np.tile(thresholds, (rows, 1))), None)
        one = dataclasses.replace(about, forms=forms, **dict(zip(("x_lo", "x_hi"), ends, strict=True)))
        sketch.ops[-1] = one
        emitted = write(sketch.graph(step))
        differing = [next(iter(layer.solution.verdicts.values())).differing.any() for layer in emitted.layers]
        assert differing == ([] if rows == 1 else [True])


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
