"""Accumulators as outputs of the .tflite and .onnx files: int32, exact, and refused where that is not proved."""

from __future__ import annotations

import json

import numpy as np
import pytest

from greenedge import api
from greenedge.backends.int8 import onnxruntime, tflite
from greenedge.backends.int8.tflite.emit import write_file
from greenedge.backends.int8.tflite.runtime import weight_offsets
from greenedge.errors import GreenedgeError
from greenedge.graph import Dense, Edge, Graph, Input, freeze, run_graph
from greenedge.legalise import legalise_graph
from greenedge.runtimes import open_runtime
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.backends.graphs import Sketch
from tests.backends.test_int8_ops import check
from tests.lower.models import Model

CPU = load_target("linux-x86")


def dense_graph(weight, lo=0, hi=255) -> Graph:
    weight = freeze(weight)
    low, high = (np.minimum(weight * lo, weight * hi).sum(0), np.maximum(weight * lo, weight * hi).sum(0))
    edges = {
        "x": Edge("x", (len(weight),), lo, hi),
        "fc": Edge("fc", (weight.shape[1],), int(low.min()), int(high.max())),
    }
    return Graph("g", (Input("x", (), "x"), Dense("fc", ("x",), "fc", weight)), edges, ("fc",))


def reasons(graph, target="linux-x86", module=tflite):
    return [str(r) for r in module.check(legalise_graph(graph, module.BACKEND.passes), load_target(target), {})]


@pytest.mark.parametrize("levels", ["u4", "s8", "u8", "up", "down"])
def test_dense_layers_of_every_range(rng, tmp_path, levels):
    sketch = Sketch(rng, (40,), levels)
    emitted = check(sketch, sketch.dense("x", 7, bits=8), tmp_path=tmp_path)
    (layer,) = emitted.layers
    assert layer.operator == "float32 FULLY_CONNECTED" and len(layer.accumulators) == 7
    assert all(not verdict.differing.any() for verdict in layer.solution.verdicts.values())


@pytest.mark.parametrize("kind, more", [
    ("conv", {"pads": (1, 1, 1, 1), "pad_value": 5}),
    ("conv", {"pads": (1, 0, 0, 1), "strides": (2, 2), "pad_value": 2}),
    ("conv", {"groups": 2, "dilations": (2, 1)}),
    ("conv", {"groups": 4, "pads": (1, 1, 1, 1)}),
    ("turned", {"pads": (1, 1, 1, 1), "output_padding": (1, 1)}),
    ("turned", {"pads": (0, 0, 0, 0), "output_padding": (0, 0), "groups": 2}),
    ("pool", {}),
    ("sum", {}),
], ids=str)  # fmt: skip
def test_every_kind_of_sum(rng, tmp_path, kind, more):
    """Read by a quantiser too, which is written together with the sum."""
    sketch = Sketch(rng, (4, 7, 6))
    if kind == "conv":
        total = sketch.conv("x", 8, (3, 3), bits=8, **more)
    elif kind == "turned":
        total = sketch.conv_transpose("x", 6, (3, 3), (2, 2), **more)
    elif kind == "pool":
        total = sketch.sum_pool("x", (6, 5), (1, 1))
    else:
        total = sketch.add("x", sketch.step("x", "s4"), multipliers=(37, -1001))
    outputs = [total] if kind == "sum" else [total, sketch.step(total, axis=0)]
    emitted = check(sketch, *outputs, tmp_path=tmp_path)
    assert emitted.placed[total].code.is_wide and not any(emitted.placed[edge].code.is_wide for edge in outputs[1:])


def test_what_hands_accumulators_on(rng, tmp_path):
    """Heads of a network: joined, cut, turned, flattened, spread."""
    sketch = Sketch(rng, (4, 6, 6), "s8")
    a, b = sketch.conv("x", 4, (3, 3), bits=8), sketch.conv("x", 8, (3, 3), bits=8)
    joined = sketch.concat(a, b)
    taken = sketch.gather(joined, [9, 1, 2], slice(0, 3), [3, 0])
    turned = sketch.transpose(joined, 1, 2, 0)
    outputs = [taken, sketch.reshape(turned, 16, 12), sketch.upsample(a, 1, 2, 2), sketch.depth_to_space(b, 2)]
    outputs += [sketch.reshape(joined, 12 * 16), sketch.depth_to_space(a, 2, "CRD")]
    emitted = check(sketch, *outputs, tmp_path=tmp_path)
    assert all(emitted.placed[edge].code.is_wide for edge in (*outputs, joined))


@pytest.mark.parametrize("seed", range(4))
def test_random_networks(rng, tmp_path, seed):
    rng = np.random.default_rng(rng.integers(1 << 30) + seed)
    sketch = Sketch(rng, (int(rng.integers(2, 6)), 6, 6), str(rng.choice(["u4", "s8", "u8", "s4"])))
    hidden = sketch.step(sketch.conv("x", 4, (3, 3), pads=(1, 1, 1, 1)), "u4")
    flat = sketch.reshape(hidden, 4 * 36)
    bits = int(rng.integers(2, 9))
    ends = sketch.dense(flat, 5, bits), sketch.conv(hidden, 3, (1, 1), bits=bits)
    check(sketch, *ends, tmp_path=tmp_path, all_certified=False)


@pytest.mark.parametrize("weights, parts", [([127] * 518 + [7], 1), ([127] * 518 + [8], 2), ([-127] * 520, 2)])
def test_sums_are_split_where_float32_is_no_longer_exact(tmp_path, weights, parts):
    """255 * (518 * 127 + 7) is the last below 2**24."""
    total = 255 * sum(map(abs, weights))
    assert (total < 1 << 24) == (parts == 1)
    graph = dense_graph(np.array(weights)[:, None])
    assert reasons(graph) == []
    (tmp_path / "model.tflite").write_bytes(write_file(graph).content)
    assert len([name for name in weight_offsets(tmp_path / "model.tflite") if name.endswith("/weight")]) == parts
    x = np.full((4, len(weights)), 255)
    x[1, 0], x[2, 1:], x[3, ::2] = 254, 0, 253
    for name in ("litert", "litert-reference"):
        assert np.array_equal(open_runtime(name, graph).run(x)["fc"], x @ graph.ops[1].weight)


@pytest.mark.parametrize("count, is_refused", [(8224, False), (8225, True)])
def test_sums_beyond_two_parts_are_refused_with_their_size(count, is_refused):
    """127 is 8 * 16 - 1: 8224 * 8 * 255 = 2**24 - 256."""
    graph = dense_graph(np.full((count, 1), 127))
    expected = [
        "fc: an output of accumulators whose halves add up to 16,779,000; float32, in which LiteRT adds them up "
        "exactly, holds every integer below 16,777,216 (cure: give the file an output quantiser: `greenedge "
        "requantise MODEL.onnx --inputs X.npy -o OUT.onnx`)."
    ]
    assert reasons(graph) == (expected if is_refused else [])
    assert reasons(graph, module=onnxruntime) == []


def test_the_largest_sums_of_onnx_runtime(rng, tmp_path):
    """Weights and inputs at both ends, where fast products of 8 bits would saturate."""
    weight = rng.choice([-127, 127], (3000, 3))
    graph = dense_graph(weight)
    for name, content in onnxruntime.plan(graph, CPU, {}).files.items():
        (tmp_path / name).write_bytes(content)
    x = rng.choice([0, 255], (5, 3000))
    x[0] = np.where(weight[:, 0] > 0, 255, 0)
    got = onnxruntime.simulate(tmp_path, x)["fc"]
    assert np.array_equal(got, x @ weight) and got[0, 0] > 1 << 24
    assert onnxruntime.simulate(tmp_path, x[:0])["fc"].shape == (0, 3)


def test_sums_beyond_int32_and_mixed_joins_are_refused(rng):
    sketch = Sketch(rng, (4, 4, 4), "s8")
    heavy = sketch.add("x", "x", multipliers=(1 << 23, 1 << 23))
    light = sketch.add("x", "x", multipliers=((1 << 23) - 1, 1 << 23))
    wide = sketch.conv("x", 4, (1, 1), bits=8)
    joined = sketch.concat(wide, "x")
    quantised = (
        "(cure: give the file an output quantiser: `greenedge requantise MODEL.onnx --inputs X.npy -o OUT.onnx`)."
    )
    for module, speaker in ((tflite, "LiteRT"), (onnxruntime, "ONNX Runtime")):
        assert reasons(sketch.graph(heavy, light, joined), module=module) == [
            f"{heavy}: an output of sums of up to 2,147,483,648; {speaker} adds up in 32 bits {quantised}",
            f"{joined}: accumulators joined with x, of 8 bits; what is joined has one type (cure: put a "
            "QuantIdentity(bit_width=8) after each branch).",
        ]


def test_accumulators_are_read_by_quantisers_alone(rng):
    sketch = Sketch(rng, (4, 6, 6))
    conv = sketch.conv("x", 4, (1, 1), bits=8)
    flat = sketch.reshape(conv, 4 * 36)
    dense = sketch.dense(flat, 3)
    for module in (tflite, onnxruntime):
        assert reasons(sketch.graph(dense, flat), module=module) == [
            f"{flat}: its accumulators are read by {dense}; a quantiser must follow every layer (cure: put a "
            "QuantIdentity(bit_width=8) after it)."
        ]
    sketch = Sketch(rng, (4, 6, 6))
    step = sketch.step(sketch.reshape(sketch.conv("x", 4, (1, 1), bits=8), 144), per_channel=False)
    (late,) = sketch.ops[-1].inputs
    (reason,) = reasons(sketch.graph(late, step), module=tflite)
    assert reason.startswith(f"{late}: its accumulators are read by {step};")


def test_onnxruntime_requantises_accumulators_that_are_handed_on(rng, tmp_path):
    """In integers: they are stored as int32, and one of two readers is an output."""
    sketch = Sketch(rng, (4, 6, 6))
    step = sketch.step(sketch.reshape(sketch.conv("x", 4, (1, 1), bits=8), 144), per_channel=False)
    (late,) = sketch.ops[-1].inputs
    graph = legalise_graph(sketch.graph(late, step), onnxruntime.BACKEND.passes)
    execute(onnxruntime.plan(graph, None, {}), tmp_path / "b")
    feeds = sketch.values(graph, 40)
    expected, got = run_graph(graph, feeds), onnxruntime.simulate(tmp_path / "b", feeds)
    assert {late, step} == set(got) and all(np.array_equal(got[edge], expected[edge]) for edge in got)
    assert len(np.unique(got[step])) > 4


@pytest.mark.parametrize("target", ["ethos-u55-128", "coral-edge-tpu"])
def test_accelerators_give_8_bits(rng, target):
    assert reasons(dense_graph(np.full((4, 3), 100)), target) == [
        "fc: an output of 17-bit accumulators; an accelerator's outputs have 8 bits (cure: give the file an output "
        "quantiser: `greenedge requantise MODEL.onnx --inputs X.npy -o OUT.onnx`)."
    ]


def write_classifier(path, rng, end=None):
    """x → conv → ReLU → u8 → dense with a float bias, and no quantiser behind it."""
    m = Model((1, 2, 6, 6)).quant(0.05, 8)
    m.node("Conv", m.weight(rng.integers(-7, 8, (4, 2, 3, 3)) * 0.25, 0.25), kernel_shape=[3, 3]).node("Relu")
    m.quant(0.07, 8, signed=0).node("Flatten")
    m.node("Gemm", m.weight(rng.integers(-127, 128, (64, 5)) * 0.01, 0.01, 8), m.constant(rng.normal(size=5)))
    return (m if end is None else m.node(end)).save(path)


def test_a_plain_classifier_is_built_by_the_targets_first(rng, tmp_path):
    from greenedge.backends.preflight import check_model

    found = check_model(write_classifier(tmp_path / "m.onnx", rng), CPU, None)
    assert (found.backend, found.reasons) == ("tflite", ())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tflite", "onnxruntime"])
def test_a_plain_classifier_from_its_file_to_a_verified_binary(rng, tmp_path, backend):
    path = write_classifier(tmp_path / "m.onnx", rng, "Softmax")
    x = rng.uniform(-2, 2, (80, 2, 6, 6)).astype(np.float32)
    named = None if backend == "tflite" else backend
    api.build(path, "linux-x86", backend=named, inputs=x, out=tmp_path / "run", progress=False)
    summary = json.loads((tmp_path / "run" / "7-report" / "summary.json").read_text())
    stages = {entry["candidate"]: entry for entry in summary["verify"]}
    assert backend in stages and all(entry["mismatches"] == 0 for entry in summary["verify"])
    assert "channels equal on every reachable accumulator" in stages[backend]["proved"]
    assert any(name.startswith("tflite ") for name in stages) == (backend == "tflite")


@pytest.mark.parametrize("kernels", ["xnnpack", pytest.param("reference", marks=pytest.mark.slow)])
def test_scores_are_the_hosts_bit_for_bit(rng, tmp_path, kernels):
    from greenedge.lower import lower_file
    from greenedge.lower.float_io import run_epilogue, run_prologue

    lowered = lower_file(write_classifier(tmp_path / "m.onnx", rng))
    options = {"outputs": "float"}
    plan = tflite.plan(
        legalise_graph(lowered.graph, tflite.PASSES), CPU, options, tflite.float_epilogue(lowered, CPU, options)
    )
    for name, content in plan.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (levels,) = run_prologue(lowered, rng.uniform(-2, 2, (50, 2, 6, 6)).astype(np.float32)).values()
    integers = tflite.simulate(tmp_path, levels, kernels=kernels)
    assert all(np.array_equal(integers[edge], v) for edge, v in run_graph(lowered.graph, levels).items())
    (expected,) = run_epilogue(lowered, integers).values()
    ((got, within),) = tflite.float_outputs(tmp_path, levels, kernels=kernels).values()
    assert within == 0 and np.array_equal(got, expected) and len(np.unique(got)) > 100


@pytest.mark.parametrize("module", [tflite, onnxruntime])
def test_an_edge_of_another_type_is_damage(tmp_path, module):
    graph = dense_graph(np.full((9, 2), 100))
    for name, content in module.plan(graph, CPU, {}).files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    about = json.loads((tmp_path / "edges.json").read_text())
    for kind, says in (("float64", "'fc' is stored as neither"), (module.NARROW, "does not hold 'fc' as edges.json")):
        about["edges"]["fc"]["type"] = kind
        (tmp_path / "edges.json").write_text(json.dumps(about))
        with pytest.raises(GreenedgeError, match=says):
            module.simulate(tmp_path, np.zeros((1, 9), np.int64))


@pytest.mark.slow
def test_a_flipped_weight_is_seen(rng, tmp_path):
    graph = dense_graph(rng.integers(-127, 128, (20, 3)))
    for name, content in tflite.plan(graph, CPU, {}).files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    x = rng.integers(0, 256, (6, 20))
    good = tflite.simulate(tmp_path, x)["fc"]
    begin, _ = weight_offsets(tmp_path / "model.tflite")["fc/weight"]
    content = bytearray((tmp_path / "model.tflite").read_bytes())
    content[begin] ^= 1
    (tmp_path / "model.tflite").write_bytes(content)
    assert not np.array_equal(tflite.simulate(tmp_path, x)["fc"], good)
