"""Slices and gathers from the ONNX file to what the back ends build: the same elements as NumPy takes, everywhere with
==."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.backends import da4ml, load_backend
from greenedge.backends.preflight import check_model
from greenedge.errors import ReasonKind, UnsupportedError
from greenedge.graph import Edge, Graph, Input, graph_digest, load_graph, run_graph, save_graph, verify_graph
from greenedge.graph.ops import Gather, Reshape
from greenedge.graph.ops.gather import Run
from greenedge.graph.verifier import find_faults
from greenedge.legalise import legalise, legalise_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.runtimes import open_runtime
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.backends.affine_nets import fit_affine_forms
from tests.backends.graphs import Sketch
from tests.backends.nets import inputs
from tests.backends.test_da4ml import build_core
from tests.lower.models import Model

TARGETS = {"tflite": "linux-x86", "onnxruntime": "linux-x86", "c99": "cortex-m4"}
BOARDS = {"finn": "ulx3s-85f", "hls4ml": "pynq-z2"}
PLACES = ((3, 1), (0, 2, 1), (4, 3, 2, 1, 0))  # a step backwards, no step at all, a flip
# (shape, starts, ends, axes, steps) as ONNX has them, the batch counted
CASES = [
    ((1, 4, 6, 5), [1], [3], [1], None),
    ((1, 4, 6, 5), [0, 1], [2**31, 2**63 - 1], [2, 3], [2, 3]),
    ((1, 4, 6, 5), [-1], [-(2**63)], [1], [-1]),
    ((1, 4, 6, 5), [-2, 4], [-1, 0], [-3, 3], [1, -2]),
    ((1, 4, 7), [1, 5], [4, 0], [1, 2], [1, -1]),
    ((1, 9), [0, 2], [1, 8], None, [1, 2]),
]


def save(path, shape, starts, ends, axes, steps):
    """quantiser → Slice → MatMul along the last axis → quantiser."""
    m = Model(shape)
    m.quant(0.25, 4)
    axes = list(range(len(starts))) if axes is None and steps else axes
    constants = [m.constant(values, np.int64) for values in (starts, ends, axes, steps) if values is not None]
    m.node("Slice", *constants)
    width = len(range(shape[-1])[numpy_index(shape, starts, ends, axes, steps)[-1]])
    weight = np.arange(width * 3).reshape(width, 3) % 5 - 2
    m.node("MatMul", m.weight(weight)).quant(1.5, 4)
    m.nodes.sort(key=lambda node: not node.input[0].startswith("c"))
    return m.save(path), weight


def numpy_index(shape, starts, ends, axes, steps):
    index = [slice(None)] * len(shape)
    for start, end, axis, step in zip(
        starts, ends, axes or range(len(starts)), steps or [1] * len(starts), strict=True
    ):
        if axis:  # the batch is 1 in the file and any number here
            index[axis] = slice(start, None if step < 0 and end < -shape[axis] else end, step)
    return tuple(index)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[4]}")
def test_the_elements_that_numpy_takes(rng, tmp_path, case):
    path, weight = save(tmp_path / "m.onnx", *case)
    lowered = lower_file(path)
    verify_graph(lowered.graph)
    x = rng.normal(0, 1, (30, *case[0][1:])).astype(np.float32)
    levels = np.clip(np.rint(x / 0.25), -8, 7)
    sums = levels[numpy_index((30, *case[0][1:]), *case[1:])] @ weight * 0.25
    expected = np.clip(np.rint(sums / 1.5), -8, 7)
    ints = run_graph(lowered.graph, run_prologue(lowered, x))
    assert np.array_equal(next(iter(ints.values())), expected)
    assert any(isinstance(op, Gather) for op in lowered.graph.ops)
    (floats,) = run_epilogue(lowered, ints).values()
    assert np.array_equal(floats, (expected * 1.5).astype(np.float32))


def test_scales_per_channel_are_taken_along(rng, tmp_path):
    """A bias per channel behind the sum: channel 2 of the sum is channel 0 of what is left."""
    m = Model((1, 4, 5)).quant(0.5, 4)
    m.node("Mul", m.constant(np.array([[[1.0], [2.0], [4.0], [8.0]]])))
    bounds = (m.constant(v, np.int64) for v in ([3], [0], [1], [-1]))
    m.node("Slice", *bounds).quant(1.0, 6)
    lowered = lower_file(m.save(tmp_path / "m.onnx"))
    x = rng.normal(0, 2, (20, 4, 5)).astype(np.float32)
    levels = np.clip(np.rint(x / 0.5), -8, 7) * 0.5 * np.array([1.0, 2.0, 4.0, 8.0])[:, None]
    (got,) = run_graph(lowered.graph, run_prologue(lowered, x)).values()
    assert np.array_equal(got, np.clip(np.rint(levels[:, 3:0:-1]), -32, 31))


@pytest.mark.parametrize(
    "bounds, says",
    [
        (([0], [0], [1]), "a slice 0:0:1 that takes nothing of axis 1, which has 4; every tensor holds something"),
        (([0], [2], [1], [0]), "a slice from [0] to [2] along [1] in steps of [0]; it has a start, an end and a step"),
        (([1], [2], [0]), "axis 0; the batch axis stays where it is"),
    ],
)
def test_what_is_no_slice_of_a_tensor(tmp_path, bounds, says):
    m = Model((1, 4)).quant(0.5, 4)
    m.node("Slice", *(m.constant(v, np.int64) for v in bounds), name="cut").dense().quant(1.0, 4)
    m.nodes.sort(key=lambda node: not node.input[0].startswith("c"))
    with pytest.raises(UnsupportedError) as refusal:
        lower_file(m.save(tmp_path / "m.onnx"))
    assert f"cut: {says}" in str(refusal.value)


def test_its_own_onnx_form(rng):
    import onnxruntime

    from greenedge.graph.qonnx import to_qonnx

    op = Gather("y", ("x",), "y", PLACES)
    graph = Graph(
        "one", (Input("x", (), "x"), op), {"x": Edge("x", (4, 3, 5), 0, 9), "y": Edge("y", (2, 3, 5), 0, 9)}, ("y",)
    )
    verify_graph(graph)
    x = rng.integers(0, 10, (1, 4, 3, 5))
    (got,) = onnxruntime.InferenceSession(to_qonnx(graph).SerializeToString()).run(None, {"x": x.astype(np.float32)})
    assert np.array_equal(got, run_graph(graph, x)["y"]) and np.array_equal(got, x[:, 3::-2, [0, 2, 1], ::-1])


def sketch_of(rng):
    """Elements of an image before and behind sums: strides, flips, permutations, some twice; pixels that become
    channels; then elements of a vector."""
    sketch = Sketch(rng, (4, 6, 5))
    cut = sketch.gather("x", (3, 1), (1, 2, 3, 4), (0, 2, 4))
    mixed = sketch.gather("x", (1, 3), (5, 0, 0, 2), (0, 4, 3))
    a = sketch.step(sketch.conv(sketch.concat(cut, mixed), 4, (3, 2)))
    turned = sketch.transpose(sketch.reshape(a, 4, 1, 2, 1, 2), 0, 2, 4, 1, 3)
    a = sketch.reshape(sketch.transpose(sketch.reshape(turned, 4, 4, 1), 1, 0, 2), 4, 2, 2)
    b = sketch.gather(a, slice(2, None), slice(None), slice(None))
    flat = sketch.reshape(b, 8)
    tail = sketch.gather(flat, (7, 6, 5, 4, 3, 2, 0))
    return sketch.graph(sketch.step(sketch.dense(tail, 3)))


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
@pytest.mark.tool("make")
@pytest.mark.tool("perl")
def test_the_unrolled_network_takes_the_same(rng, tmp_path):
    graph = fit_affine_forms(sketch_of(rng))
    x = rng.integers(0, 16, (40, 4, 6, 5))
    got = da4ml.simulate(build_core(graph, tmp_path / "build"), x)
    assert np.array_equal(got[graph.outputs[0]], run_graph(graph, x)[graph.outputs[0]])


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_what_is_built_takes_the_same(rng, tmp_path, name):
    backend, target = load_backend(name), load_target(TARGETS[name])
    whole = sketch_of(rng)
    graph = legalise_graph(whole, backend.passes)
    verify_graph(graph)
    assert backend.check(graph, target, {}) == []
    execute(backend.plan(graph, target, {}), tmp_path / "build")
    x = rng.integers(0, 16, (40, 4, 6, 5))
    got = backend.simulate(tmp_path / "build", x)
    for edge, values in run_graph(whole, x).items():
        assert np.array_equal(got[edge], values)


def test_the_float_baseline_takes_the_same(rng):
    import onnxruntime

    from greenedge.runtimes.floats import float_model

    op = Gather("cut", ("x",), "cut", ((3, 1), (0, 2, 1)))
    graph = Graph(
        "one", (Input("x", (), "x"), op), {"x": Edge("x", (4, 3), 0, 9), "cut": Edge("cut", (2, 3), 0, 9)}, ("cut",)
    )
    x = rng.integers(0, 10, (7, 4, 3)).astype(np.float32)
    (got,) = onnxruntime.InferenceSession(float_model(graph).SerializeToString()).run(None, {"x": x})
    assert np.array_equal(got, x[:, 3::-2, [0, 2, 1]])


def save_with_a_slice_at_the_end(path):
    """quantiser → MatMul → quantiser → Slice → Reshape."""
    m = Model((1, 4)).quant(0.25, 4)
    m.node("MatMul", m.weight(np.arange(24).reshape(4, 6) % 5 - 2)).quant(1.7, 4)
    m.node("Slice", *(m.constant(v, np.int64) for v in ([4], [0], [1], [-2])))
    m.node("Reshape", m.constant([-1, 2, 1], np.int64))
    m.nodes.sort(key=lambda node: not node.input[0].startswith("c"))
    return m.save(path)


@pytest.mark.parametrize("backend", ["finn", "hls4ml"])
def test_at_the_end_it_runs_on_the_host_where_there_is_no_rule(rng, tmp_path, backend):
    lowered = lower_file(save_with_a_slice_at_the_end(tmp_path / "m.onnx"))
    assert any(isinstance(op, Gather) for op in lowered.graph.ops)
    legal = legalise(lowered, load_backend(backend).passes)
    verify_graph(legal.graph)
    assert not any(isinstance(op, (Gather, Reshape)) for op in legal.graph.ops)
    ints = run_prologue(lowered, rng.normal(0, 1, (30, 4)).astype(np.float32))
    (expected,) = run_epilogue(lowered, run_graph(lowered.graph, ints)).values()
    (got,) = run_epilogue(legal, run_graph(legal.graph, ints)).values()
    assert got.shape == (30, 2, 1) and np.array_equal(got, expected)
    found = check_model(tmp_path / "m.onnx", load_target(BOARDS[backend]), backend)
    assert found.reasons == ()
    assert f"runs on the host: {backend} gives the tensor that it rearranges." in " ".join(found.notes)


def test_in_the_middle_it_becomes_layers_where_there_is_no_rule(tmp_path):
    path, _ = save(tmp_path / "m.onnx", *CASES[-1])
    assert any(isinstance(op, Gather) for op in lower_file(path).graph.ops)
    found = check_model(path, load_target(BOARDS["hls4ml"]), "hls4ml")
    assert ReasonKind.UNSUPPORTED_OP not in [reason.kind for reason in found.reasons]


@pytest.mark.parametrize(
    "indices, says",
    [
        (((4,), (0,)), "it takes elements 4…4, 0…0 of (4, 3); they must lie inside its input"),
        (((0, -1), (0,)), "it takes elements -1…0, 0…0 of (4, 3); they must lie inside its input"),
        (((), (0,)), "it takes elements none, 0…0 of (4, 3); they must lie inside its input"),
        (((0,),), "it takes elements 0…0 of (4, 3); they must lie inside its input"),
    ],
)
def test_a_stored_graph_that_takes_what_is_not_there(indices, says):
    op, shape = Gather("y", ("x",), "y", indices), tuple(map(len, indices))
    graph = Graph("one", (Input("x", (), "x"), op), {"x": Edge("x", (4, 3), 0, 9), "y": Edge("y", shape, 0, 9)}, ("y",))
    assert find_faults(graph) == [f"y: {says}"]


def test_it_is_stored_and_read_back(rng, tmp_path):
    graph = sketch_of(rng)
    save_graph(graph, tmp_path)
    assert graph_digest(load_graph(tmp_path)) == graph_digest(graph)
    assert load_graph(tmp_path).ops[1].indices == graph.ops[1].indices


def test_runs_are_as_long_as_they_go():
    op = Gather("y", ("x",), "y", ((0, 2, 4, 3, 3, 3, 7),))
    assert op.split_runs(0) == [(0, 3, 2), (3, 3, 0), (7, 1, 1)]
    assert [run.end for run in (Run(4, 3, -2), Run(5, 3, -2), Run(1, 2, 3))] == [-(2**63), 0, 5]


def test_the_float_baselines_take_the_same(rng):
    """Slices forwards, backwards and with steps, and places in any order, on both float runtimes."""
    sketch = Sketch(rng, (4, 6, 5))
    taken = sketch.gather(sketch.step(sketch.conv("x", 4, (1, 1))), (3, 1, 0), slice(None, None, -2), (0, 1, 4, 4))
    graph = sketch.graph(taken)
    x = inputs(rng, graph, 20)
    first, second = (open_runtime(name, graph).run(x)[taken] for name in ("onnxruntime-float", "torch"))
    assert first.shape == (20, 3, 3, 4) and np.allclose(first, second, atol=1e-3)
    assert np.abs(np.clip(np.rint(first), 0, 15) - run_graph(graph, x)[taken]).max() <= 1
