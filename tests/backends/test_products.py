"""Products of two activations, as gates have them: exact in the graph, in LiteRT, in ONNX Runtime and in C."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest

from greenedge import api
from greenedge.backends import BACKENDS, load_backend
from greenedge.backends.int8.onnxruntime.emit import write_file
from greenedge.errors import ReasonKind, UnsupportedError, VerificationError
from greenedge.frontends.input_type import parse_input_type
from greenedge.graph import Multiply, Table, freeze, load_graph, run_graph, save_graph, verify_graph
from greenedge.graph.lines import is_straight
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.run.board_verbs import infer_on_board
from greenedge.run.runs import verify_again
from greenedge.runtimes import open_runtime
from greenedge.target import load_target
from tests.backends.graphs import RANGES, Sketch
from tests.backends.test_int8_ops import check
from tests.lower.models import Model

SCALES, ZEROS, OUT = (0.0371, 0.0193), (3, 9), (0.0117, 8)


def write_pair(path):
    """Columns 0 and 1 of x, each with its scale and zero point, multiplied."""
    m = Model((1, 2))
    one, ends = m.constant([1], np.int64), []
    for k, (scale, zero) in enumerate(zip(SCALES, ZEROS, strict=True)):
        m.node("Slice", m.constant([k], np.int64), m.constant([k + 1], np.int64), one, source="x")
        m.node("Sub", m.constant(float(zero)))
        ends.append(m.node("Mul", m.constant(scale)).tensor)
    m.node("Mul", ends[1], source=ends[0])
    return m.quant(*OUT).save(path)


def write_gate(path, rng, bits=8):
    """Squeeze and excite: x → layer → u8 with a zero point; its mean → layer → sigmoid → u8; their product → s8."""
    m = Model((1, 3, 5, 5)).quant(0.05, bits, signed=0)
    m.node("Conv", m.weight(rng.integers(-7, 8, (4, 3, 3, 3)) * 0.25), kernel_shape=[3, 3], pads=[1] * 4)
    features = m.quant(0.07, bits, signed=0, zero=11.0).tensor
    m.node("GlobalAveragePool").quant(0.05, bits)
    m.node("Conv", m.weight(rng.integers(-7, 8, (4, 4, 1, 1)) * 0.25), kernel_shape=[1, 1]).quant(0.04, bits)
    gate = m.node("Sigmoid").quant(1 / 255, bits, signed=0).tensor
    return m.node("Mul", gate, source=features).quant(0.03, bits).save(path)


def test_every_pair_of_levels(tmp_path):
    """Against Fractions, from the definition of Quant; stored and loaded; ranges as they are reached."""
    lowered = lower_file(write_pair(tmp_path / "m.onnx"), {None: parse_input_type("uint4:1")})
    verify_graph(lowered.graph)
    (product,) = (op for op in lowered.graph.ops if isinstance(op, Multiply))
    a, b = (part.ravel() for part in np.meshgrid(np.arange(16), np.arange(16)))
    x = np.stack([a, b], axis=1)
    got = run_graph(lowered.graph, x, keep=[product.output])
    want = [
        min(max(round(Fraction(SCALES[0]) * (i - 3) * Fraction(SCALES[1]) * (j - 9) / Fraction(OUT[0])), -128), 127)
        for i, j in zip(a.tolist(), b.tolist(), strict=True)
    ]
    assert got[lowered.graph.outputs[0]].ravel().tolist() == want and len(set(want)) > 4
    edge = lowered.graph.edges[product.output]
    assert (edge.lo, edge.hi) == (int(got[product.output].min()), int(got[product.output].max())) == (-108, 72)
    save_graph(lowered.graph, tmp_path)
    assert np.array_equal(run_graph(load_graph(tmp_path), x)[lowered.graph.outputs[0]], got[lowered.graph.outputs[0]])


@pytest.mark.parametrize(
    "backend, target",
    [
        ("c99", "cortex-m4"),
        pytest.param("tflite", "linux-x86", marks=pytest.mark.slow),
        pytest.param("onnxruntime", "linux-x86", marks=pytest.mark.slow),
    ],
)
def test_a_gate_from_its_file_to_a_verified_binary(rng, tmp_path, backend, target):
    path = write_gate(tmp_path / "gate.onnx", rng)
    x = rng.uniform(-1, 13, (60, 3, 5, 5)).astype(np.float32)
    api.build(path, target, backend=backend, inputs=x, out=tmp_path / "run", progress=False)
    summary = json.loads((tmp_path / "run" / "7-report" / "summary.json").read_text())
    assert {entry["reference"] for entry in summary["verify"]} == {"graph", "qonnx"}
    assert all(entry["mismatches"] == 0 and entry["samples"] == 60 for entry in summary["verify"])
    assert all("within_certificate" not in entry for entry in summary["verify"])


@pytest.mark.slow
@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
@pytest.mark.tool("nextpnr-ecp5")
def test_a_gate_from_its_file_to_the_virtual_boards_answer(rng, tmp_path):
    """Bitstream, RTL with and without stalls, netlist, virtual board; the branch that waits for the gate has a queue
    of the whole frame."""
    path = write_gate(tmp_path / "gate.onnx", rng)
    x = rng.uniform(-1, 13, (60, 3, 5, 5)).astype(np.float32)
    run = api.build(path, "ulx3s-85f", backend="finn", inputs=x, out=tmp_path / "run", progress=False).folder
    summary = json.loads((run / "7-report" / "summary.json").read_text())
    entries = {entry["candidate"]: entry for entry in summary["verify"] if entry["reference"] == "graph"}
    assert {"rtl", "rtl-stalls", "board", "netlist"} <= set(entries)
    assert all(not entry["mismatches"] for entry in entries.values())
    queues = json.loads((run / "4-build" / "folding.json").read_text())["queues"]
    assert any(depth >= 4 * 5 * 5 for depth in queues.values())
    np.save(tmp_path / "x.npy", x)
    outputs, _ = infer_on_board(run, tmp_path / "x.npy", None, None, lambda *_: None)
    reference = lower_file(path)
    expected = run_epilogue(reference, run_graph(reference.graph, run_prologue(reference, x)))
    assert all(np.array_equal(outputs[name], values) for name, values in expected.items())
    unit = run / "4-build" / "rtl" / "ge_multiply.sv"
    unit.write_text(unit.read_text().replace("- X_BITS'(AZERO)", ""))
    with pytest.raises(VerificationError, match=r"ge_multiply\.sv is not what greenedge writes for the "):
        verify_again(run, lambda *_: None)


def test_a_gate_waits_in_a_queue_or_not_at_all(rng, tmp_path):
    """The branch beside the gate holds a frame; with queues that hold less the build is refused."""
    graph = lower_file(write_gate(tmp_path / "gate.onnx", rng)).graph
    module, target = load_backend("finn"), load_target("ulx3s-85f")
    legal = legalise_graph(graph, module.passes)
    assert module.check(legal, target, {}) == []
    queues = json.loads(module.plan(legal, target, {}).files["folding.json"])["queues"]
    assert max(queues.values()) >= 4 * 5 * 5
    (reason,) = module.check(legal, target, {"queue": 8})
    assert reason.kind is ReasonKind.DEADLOCK


def test_wide_factors_are_refused(rng):
    s = Sketch(rng, (4,), "s8")
    big = s.add("x", "x", multipliers=(1000, 1))
    graph = s.graph(s.step(s.multiply(big, "x"), "u4"))
    module = load_backend("finn")
    assert [str(reason) for reason in module.check(graph, load_target("ulx3s-85f"), {})] == [
        "product2: factors of up to 18 bits; finn computes with 1 to 16 bits (cure: quantise to at most 16 bits)."
    ]


def test_onnx_runtime_gives_the_graphs_integers(rng, tmp_path):
    graph = lower_file(write_gate(tmp_path / "gate.onnx", rng)).graph
    x = rng.integers(0, 256, (40, 3, 5, 5))
    legal = legalise_graph(graph, load_backend("onnxruntime").passes)
    expected = run_graph(graph, x)[graph.outputs[0]]
    assert len(np.unique(expected)) > 20
    assert np.array_equal(open_runtime("onnxruntime", legal).run(x)[graph.outputs[0]], expected)


@pytest.mark.parametrize("kernels", ["litert", "litert-reference", "onnxruntime"])
@pytest.mark.parametrize("ranges, zeros", [(("u8", "s8"), (11, -128)), (("s8", "s8"), (0, 0)), (("u4", "up"), (3, 20))])
def test_runtimes_give_every_pair(rng, kernels, ranges, zeros):
    """All pairs of levels, also those of an encoding whose zero point is another, beside a broadcast column."""
    sketch = Sketch(rng, (RANGES[ranges[0]][1] - RANGES[ranges[0]][0] + 1, 1), ranges[0])
    other = sketch.input("y", (1, RANGES[ranges[1]][1] - RANGES[ranges[1]][0] + 1), ranges[1])
    graph = sketch.graph(sketch.step(sketch.multiply("x", other, zeros), "s8", per_channel=False))
    feeds = {
        "x": np.arange(graph.edges["x"].lo, graph.edges["x"].hi + 1).reshape(1, -1, 1),
        "y": np.arange(graph.edges["y"].lo, graph.edges["y"].hi + 1).reshape(1, 1, -1),
    }
    (want,) = run_graph(graph, feeds).values()
    (got,) = open_runtime(kernels, graph).run(feeds).values()
    assert want.shape[1:] == got.shape[1:] and len(np.unique(want)) > 50 and np.array_equal(got, want)


@pytest.mark.parametrize("case", ["gate", "channels", "falling", "square", "curve", "stored", "wide", "row"])
def test_products_in_networks(rng, tmp_path, case):
    """Squeeze and excite, a function for each channel, x * x, a function that rises and falls, products stored."""
    sketch = Sketch(rng, (4, 5, 3), "s4")
    features = sketch.step(sketch.conv("x", 6, (3, 3), pads=(1, 1, 1, 1)), "u4")
    pooled = sketch.step(sketch.sum_pool(features, (5, 3)), "u4")
    gate = sketch.step(sketch.conv(pooled, 6, (1, 1)), "skew")
    if case == "gate":
        end = sketch.step(sketch.multiply(features, gate, (2, -3)), "s8", per_channel=False)
        outputs = [sketch.step(sketch.conv(end, 3, (1, 1)))]
    elif case in ("channels", "falling"):
        outputs = [sketch.step(sketch.multiply(gate, features, (1, 0)), "s4", axis=0, falling=case == "falling")]
    elif case == "square":
        outputs = [sketch.step(sketch.multiply(features, features, (7, 7)), "u4", per_channel=False)]
    elif case == "curve":
        outputs = [sketch.step(sketch.multiply(features, gate, (2, -3)), "u4", per_channel=False)]
        step = sketch.ops.pop()
        bent = freeze(np.abs(np.arange(int(step.x_hi[0] - step.x_lo[0]) + 1) % 30 - 15)[None])
        sketch.ops.append(dataclasses.replace(step, forms=Table(bent)))
    elif case == "stored":
        narrow = sketch.step(gate, "s2", per_channel=False)
        product = sketch.multiply(sketch.reshape(features, 6, 15), sketch.reshape(narrow, 6, 1), (0, 1))
        outputs = [product, sketch.step(product, "u4", axis=0)]
    elif case == "wide":
        product = sketch.multiply(sketch.step(features, "u8"), gate, (0, -3))
        outputs = [sketch.reshape(product, 90), sketch.step(product, "s4", axis=0)]
    else:
        rows = sketch.step(sketch.dense(sketch.transpose(features, 1, 2, 0), 4), "s4")
        outputs = [sketch.step(sketch.multiply(rows, sketch.step(rows, "u4"), (1, 2)), "s4", axis=2)]
    check(sketch, *outputs, tmp_path=tmp_path, all_certified=False)


@pytest.mark.parametrize("odd", [False, True])
def test_onnx_runtime_looks_up_where_rounding_is_not_proved(rng, odd):
    """A line that is exact at one slope alone, where every step is a tie: all of them up, but the one to 0 down."""
    sketch = Sketch(rng, (32,), "s8")
    other = sketch.input("y", (32,), "u8")
    name = sketch.step(sketch.multiply("x", other), "s8", per_channel=False)
    thresholds = 256 * np.arange(-127, 128) - 128
    thresholds[127] += odd
    sketch.ops[-1] = sketch.ops[-1].with_steps(thresholds=freeze(thresholds[None]))
    graph = sketch.graph(name)
    emitted = write_file(graph)
    assert is_straight(graph.requantisers[0]) and (b"Gather" in emitted.content) == odd
    assert all(not v.differing.any() for layer in emitted.layers for v in layer.solution.verdicts.values())
    x, y = (part.reshape(-1, 32) for part in np.meshgrid(np.arange(-128, 128), np.arange(256)))
    (want,) = run_graph(graph, {"x": x, "y": y}).values()
    (got,) = open_runtime("onnxruntime", graph).run({"x": x, "y": y}).values()
    assert np.array_equal(got, want)


def test_tables_are_not_endless(rng):
    sketch = Sketch(rng, (17, 2), "s8")
    product = sketch.multiply("x", "x")
    graph = sketch.graph(sketch.step(product, "s8", axis=0))
    assert [str(r) for r in load_backend("tflite").check(graph, load_target("linux-x86"), {})] == [
        f"{graph.outputs[0]}: a step function for each of 17 channels behind two tensors, 1,114,112 pairs of levels in "
        "all; a table of pairs has at most 1,048,576 (cure: quantise per tensor, or its two inputs to fewer bits)."
    ]


def test_the_float_baseline_is_the_product_before_rounding(rng, tmp_path):
    graph = lower_file(write_pair(tmp_path / "m.onnx"), {None: parse_input_type("uint4:1")}).graph
    x = rng.integers(0, 16, (100, 2))
    expected = run_graph(graph, x)[graph.outputs[0]]
    for name in ("onnxruntime-float", "torch"):
        assert np.abs(open_runtime(name, graph).run(x)[graph.outputs[0]] - expected).max() <= 0.51, name


def test_who_takes_it(rng, tmp_path):
    graph = lower_file(write_gate(tmp_path / "gate.onnx", rng)).graph
    for name in sorted(BACKENDS):
        module = load_backend(name)
        target = load_target(
            {"onnxruntime": "linux-x86", "tflite": "linux-x86", "c99": "cortex-m4"}.get(name, "pynq-z1")
        )
        reasons = module.check(legalise_graph(graph, module.passes), target, {})
        if name in ("c99", "finn", "onnxruntime", "tflite"):
            assert reasons == []
        else:
            assert any(reason.node == "Mul_18" or "Multiply" in reason.value for reason in reasons), name


def test_what_is_no_product_is_refused(tmp_path):
    def divide(m):
        start = m.quant(0.25, 4).tensor
        return m.quant(0.5, 4, source=start).node("Div", start)

    def shifted(m):
        start = m.quant(0.25, 4).tensor
        m.node("Add", m.constant(0.1))
        return m.node("Mul", m.quant(0.3, 4, source=start).tensor, source=m.nodes[1].output[0])

    for build, kind in ((divide, ReasonKind.TWO_ACTIVATIONS), (shifted, ReasonKind.UNSUPPORTED_SCALE)):
        with pytest.raises(UnsupportedError) as error:
            lower_file(build(Model()).quant(0.5, 4).save(tmp_path / "m.onnx"))
        assert [reason.kind for reason in error.value.reasons] == [kind]
