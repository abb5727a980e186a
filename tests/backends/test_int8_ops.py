"""Every operation in the .tflite and .onnx files gives the graph's integers, on every kernel set, wherever the
certificate says so."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from greenedge.backends.int8.certificate import Problem, emulate_levels
from greenedge.backends.int8.layers import fit_at_lift
from greenedge.backends.int8.onnxruntime import emit as onnx_emit
from greenedge.backends.int8.onnxruntime.onnx_builder import SHIFT, find_stored_offset
from greenedge.backends.int8.onnxruntime.runtime import with_outputs as with_onnx_outputs
from greenedge.backends.int8.onnxruntime.worker import run as run_onnx
from greenedge.backends.int8.onnxruntime.worker import session_for
from greenedge.backends.int8.tflite import PASSES
from greenedge.backends.int8.tflite.emit import find_reasons, write_file
from greenedge.backends.int8.tflite.runtime import with_outputs
from greenedge.backends.int8.tflite.selftest import left_to_builtins
from greenedge.backends.int8.tflite.worker import RESOLVERS, load_runtime, run
from greenedge.graph import Conv, Dense, Edge, Requantise, Steps, freeze, run_graph
from greenedge.graph.lines import distance_from_line
from greenedge.legalise import legalise_graph
from tests.backends.graphs import RANGES, Sketch

SAMPLES = 24


def stored(emitted, graph, feeds, kernels, tmp_path):
    """{edge: integers} of every edge that the file stores, run in this process."""
    runtime, _, _ = load_runtime()
    tensors = {edge: placed.tensor for edge, placed in emitted.placed.items() if edge not in graph.inputs}
    content = with_outputs(emitted.content, list(tensors.values()), tmp_path)
    interpreter = runtime.Interpreter(
        model_content=content,
        num_threads=1,
        experimental_op_resolver_type=getattr(runtime.OpResolverType, RESOLVERS[kernels]),
    )
    interpreter.allocate_tensors()
    x = []
    for edge in graph.inputs:
        placed = emitted.placed[edge]
        x.append(placed.layout.to_file(feeds[edge] + placed.code.offset).astype(np.int8))
    values = run(interpreter, x, lambda done: None)
    return {
        edge: emitted.placed[edge].layout.to_graph(values[str(t)]).astype(np.int64) - emitted.placed[edge].code.offset
        for edge, t in tensors.items()
        if str(t) in values
    }


def check(sketch, *outputs, tmp_path, all_certified=True):
    """The file agrees with the graph on every stored edge, as long as what was proved says that it must."""
    graph = legalise_graph(sketch.graph(*outputs), PASSES)
    assert find_reasons(graph) == []
    emitted = write_file(graph)
    (tmp_path / "delegated.tflite").write_bytes(emitted.content)
    rounded = {layer.operator for layer in emitted.layers}
    assert not rounded & set(left_to_builtins(tmp_path / "delegated.tflite")), (
        "XNNPACK has to run what is certified for it"
    )
    feeds = sketch.values(graph, SAMPLES)
    expected = run_graph(graph, feeds, keep=list(emitted.placed))
    for kernels in RESOLVERS:
        exact = all(not layer.solution.verdicts[kernels].differing.any() for layer in emitted.layers)
        assert exact or kernels == "reference" or not all_certified
        if exact:
            got = stored(emitted, graph, feeds, kernels, tmp_path)
            assert set(outputs) <= set(got)
            for edge, values in got.items():
                assert np.array_equal(values, expected[edge]), (kernels, edge)
    check_onnx(graph, feeds, all_certified)
    return emitted


def check_onnx(graph, feeds, all_certified):
    """The same for the 8-bit ONNX file."""
    assert onnx_emit.find_reasons(graph) == []
    emitted = onnx_emit.write_file(graph)
    exact = all(not layer.solution.verdicts["mlas"].differing.any() for layer in emitted.layers)
    assert exact or not all_certified
    tree = onnx.load_model_from_string(emitted.content)
    names = with_onnx_outputs(
        tree, {edge: "int32" if code.is_wide else "uint8" for edge, code in emitted.codes.items()}
    )
    expected = run_graph(graph, feeds, keep=list(emitted.codes))
    shift = {edge: find_stored_offset(code) for edge, code in emitted.codes.items()}
    fed = [(feeds[edge] + shift[edge]).astype(np.uint8) for edge in graph.inputs]
    for edge, values in zip(names, run_onnx(session_for(tree.SerializeToString()), fed), strict=True):
        assert not exact or np.array_equal(values.astype(np.int64) - shift[edge], expected[edge]), edge


@pytest.fixture
def image(rng):
    return Sketch(rng, (3, 9, 8))


@pytest.mark.parametrize("levels", sorted(RANGES))
def test_every_range_of_levels(rng, tmp_path, levels):
    sketch = Sketch(rng, (14,), levels)
    hidden = sketch.step(sketch.dense("x", 12), levels)
    check(
        sketch,
        sketch.step(sketch.dense(hidden, 5), levels),
        tmp_path=tmp_path,
        all_certified=levels not in ("s8", "u8", "n8"),
    )


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_every_width_of_weights(rng, tmp_path, bits):
    sketch = Sketch(rng, (20,))
    check(sketch, sketch.step(sketch.dense("x", 16, bits)), tmp_path=tmp_path, all_certified=bits <= 4)


@pytest.mark.parametrize(
    "levels, all_sets",
    [
        pytest.param(
            levels, all_sets, marks=[pytest.mark.slow] * ((levels, all_sets) not in (("up", True), ("s4", False)))
        )
        for levels in ("u4", "s4", "up")
        for all_sets in (False, True)
    ],
)
def test_levels_are_multiplied_where_biases_must_be_finer(rng, tmp_path, levels, all_sets):
    """4-bit weights and activations into 8 bits: 255 steps leave a bias less room than a whole accumulator, 18 times
    finer or not. Two layers read one multiplied tensor, and its padding stands for the same level."""
    sketch = Sketch(rng, (5, 6, 6), levels)
    pad = max(0, RANGES[levels][0])
    a, b = (sketch.step(sketch.conv("x", 24, (3, 3), pads=(1, 1, 1, 1), pad_value=pad), "s8", axis=0) for _ in range(2))
    graph = sketch.graph(a, b)
    emitted = write_file(graph, all_sets=all_sets)
    assert [layer.name for layer in emitted.layers].count(f"{a}/input") == 1 and len(emitted.layers) == 3
    for kernels in ("xnnpack", "reference"):
        differing = sum(int(layer.solution.verdicts[kernels].differing.sum()) for layer in emitted.layers)
        assert differing == 0 if kernels == "xnnpack" else differing <= 3
        feeds = sketch.values(graph, SAMPLES)
        got, expected = stored(emitted, graph, feeds, kernels, tmp_path), run_graph(graph, feeds)
        assert differing or all(np.array_equal(got[edge], expected[edge]) for edge in (a, b))
    check_onnx(graph, feeds, True)
    conv, step = graph.ops[1], graph.ops[2]
    alone = fit_at_lift(
        "CONV_2D",
        conv.name,
        step,
        conv.weight.reshape(24, -1),
        emitted.placed["x"].code,
        emitted.placed[a].code,
        127,
        1,
    )
    assert alone.layer.solution.verdicts["xnnpack"].differing.any(), "the input need not have been multiplied"


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("kernels", sorted(RESOLVERS))
def test_what_is_not_certified_differs_just_where_the_emulation_says(rng, tmp_path, kind, kernels):
    """8-bit weights, activations and steps, and accumulators beside the thresholds: the runtime does what the
    emulation says."""
    sketch = Sketch(rng, (16, 1, 1), "s8")
    sums = sketch.conv("x", 40, (1, 1), bits=8)
    step = sketch.step(sums, "s8", axis=0)
    if kind == "dense":
        sketch.ops[1] = Dense(sums, ("x",), sums, freeze(sketch.ops[1].weight[:, :, 0, 0].T))
        sketch.edges = {name: Edge(name, edge.shape[:1], edge.lo, edge.hi) for name, edge in sketch.edges.items()}
    graph = sketch.graph(step)
    feeds = sketch.values(graph, 400)
    emitted = write_file(graph)
    (layer,) = emitted.layers
    expected = run_graph(graph, feeds, keep=[sums])
    about = sketch.ops[-1]
    code = emitted.placed[step].code
    problem = Problem(
        layer.operator,
        about.require_steps().thresholds,
        about.x_lo,
        about.x_hi,
        layer.solution.factor,
        about.lo,
        code.zero_level,
        code.zero_point,
        code.bounds,
        emitted.placed["x"].code.scale,
        code.scale,
    )
    told = emulate_levels(
        problem,
        kernels,
        expected[sums].reshape(400, 40).T,
        layer.solution.weight_scale[:, None],
        layer.solution.constant[:, None],
    ).T
    assert np.array_equal(stored(emitted, graph, feeds, kernels, tmp_path)[step].reshape(400, 40), told)
    assert layer.solution.verdicts[kernels].differing.any()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"pads": (1, 1, 1, 1)},
        {"pads": (1, 0, 0, 1)},
        {"strides": (2, 2), "pads": (1, 0, 1, 1)},
        {"strides": (2, 2), "pads": (1, 1, 1, 1)},
        {"dilations": (2, 1)},
        {"dilations": (2, 2), "pads": (2, 2, 2, 2)},
        {"pads": (1, 1, 1, 1), "pad_value": 5},
        {"groups": 3},
    ],
    ids=str,
)
def test_convolutions(image, tmp_path, more):
    check(image, image.step(image.conv("x", 6, (3, 3), **more)), tmp_path=tmp_path)


@pytest.mark.parametrize("levels", ["u4", "s4", "n4", "up", "skew"])
def test_padding_stands_for_its_level(rng, tmp_path, levels):
    sketch = Sketch(rng, (2, 5, 5), levels)
    hidden = sketch.step(sketch.conv("x", 4, (3, 3), pads=(1, 1, 1, 1), pad_value=max(0, RANGES[levels][0])), levels)
    check(
        sketch,
        sketch.step(sketch.conv(hidden, 3, (3, 3), pads=(1, 1, 1, 1), pad_value=max(0, RANGES[levels][0]))),
        tmp_path=tmp_path,
    )


@pytest.mark.parametrize("channels, groups, multiplier", [(4, 4, 1), (4, 4, 2), (6, 2, 1)])
def test_grouped_and_depthwise_convolutions(rng, tmp_path, channels, groups, multiplier):
    sketch = Sketch(rng, (channels, 6, 6))
    check(
        sketch,
        sketch.step(sketch.conv("x", channels * multiplier, (3, 3), pads=(1, 1, 1, 1), groups=groups)),
        tmp_path=tmp_path,
    )


def test_signals(rng, tmp_path):
    sketch = Sketch(rng, (4, 17))
    a = sketch.step(sketch.conv("x", 6, (5,), strides=(2,), pads=(2, 2)))
    b = sketch.step(sketch.conv(a, 6, (3,), pads=(1, 1), groups=6))
    c = sketch.max_pool(b, (2,))
    flat = sketch.reshape(c, 6 * 4)
    check(sketch, sketch.step(sketch.dense(flat, 5)), tmp_path=tmp_path)


@pytest.mark.parametrize(
    "kernel, strides, pads, extra, dilations, groups",
    [
        ((2, 2), (2, 2), (0, 0, 0, 0), (0, 0), None, 1),
        ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), None, 1),
        ((4, 4), (2, 2), (1, 1, 1, 1), (0, 0), None, 1),
        ((3, 3), (2, 2), (0, 0, 0, 0), (0, 0), None, 1),
        ((5, 3), (2, 1), (1, 0, 0, 1), (0, 0), None, 1),
        ((3, 3), (3, 3), (1, 1, 1, 1), (2, 2), None, 2),
        ((3, 2), (1, 2), (0, 0, 0, 0), (0, 0), (2, 1), 1),
        ((1, 1), (2, 2), (0, 0, 0, 0), (1, 1), None, 1),
        ((2, 1), (2, 2), (0, 0, 0, 0), (0, 0), None, 1),
        ((1, 2), (4, 3), (0, 1, 1, 2), (3, 2), None, 1),
        ((3,), (2,), (1, 1), (1,), None, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("levels", ["u4", "s8"])
def test_transposed_convolutions(rng, tmp_path, kernel, strides, pads, extra, dilations, groups, levels):
    sketch = Sketch(rng, (4, 5, 4)[: 1 + len(kernel)])
    turned = sketch.conv_transpose("x", 6, kernel, strides, pads, extra, dilations, groups)
    check(sketch, sketch.step(turned, levels), tmp_path=tmp_path, all_certified=levels == "u4")


@pytest.mark.parametrize("levels, zero", [("up", 3), ("down", -3), ("skew", -3)])
def test_a_transposed_convolution_wants_its_zero_point_at_level_0(rng, levels, zero):
    """What lies between the samples counts as the zero point in LiteRT; ONNX Runtime is given zeros, which stay as
    they are."""
    sketch = Sketch(rng, (5, 6, 6), levels)
    hidden = sketch.step(sketch.conv("x", 4, (1, 1)), levels)
    total = sketch.conv_transpose(hidden, 24, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    graph = sketch.graph(sketch.step(total, "s8", axis=0))
    lo, hi = RANGES[levels]
    (reason,) = find_reasons(graph)
    assert (reason.node, reason.value) == (total, f"an input of {lo}…{hi}, whose zero point stands for {zero}")
    if levels == "down":  # its zeros are no int8 either
        return
    emitted, feeds, edge = onnx_emit.write_file(graph), sketch.values(graph, SAMPLES), graph.outputs[0]
    fed = (feeds["x"] + emitted.codes["x"].offset + SHIFT).astype(np.uint8)
    got = run_onnx(session_for(emitted.content), [fed])[0].astype(np.int64) - SHIFT - emitted.codes[edge].offset
    apart = np.abs(got - run_graph(graph, feeds)[edge])
    most = max(int(layer.solution.verdicts["mlas"].largest.max()) for layer in emitted.layers)
    assert apart.max() <= most <= 1 and apart.mean() < 1e-3


@pytest.mark.parametrize(
    "kernel, strides, pads",
    [
        ((2, 2), None, None),
        ((3, 3), (2, 2), (1, 1, 1, 1)),
        ((3, 3), (2, 2), (0, 1, 1, 0)),
        ((2, 3), (1, 1), (0, 1, 1, 1)),
    ],
)
@pytest.mark.parametrize("levels", ["u4", "s4"])
def test_max_pools(rng, tmp_path, kernel, strides, pads, levels):
    sketch = Sketch(rng, (3, 7, 8), levels)
    pooled = sketch.max_pool("x", kernel, strides, pads)
    check(sketch, pooled, sketch.step(sketch.conv(pooled, 4, (1, 1))), tmp_path=tmp_path)


@pytest.mark.parametrize(
    "kernel, strides, pads", [((9, 8), None, None), ((3, 3), (2, 2), (1, 1, 1, 1)), ((2, 2), None, None)]
)
@pytest.mark.parametrize("per_channel", [True, False])
def test_average_pools(image, tmp_path, kernel, strides, pads, per_channel):
    check(
        image, image.step(image.sum_pool("x", kernel, strides, pads), "u4", per_channel=per_channel), tmp_path=tmp_path
    )


@pytest.mark.parametrize("levels, second", [("s8", "s8"), ("u4", "s4"), ("u4", "u4"), ("n4", "s4")])
@pytest.mark.parametrize("multipliers", [(1, 1), (3, -2)])
def test_residual_additions(rng, tmp_path, levels, second, multipliers):
    sketch = Sketch(rng, (4, 5, 5))
    a = sketch.step(sketch.conv("x", 6, (1, 1)), levels)
    b = sketch.step(sketch.conv("x", 6, (3, 3), pads=(1, 1, 1, 1)), second)
    check(
        sketch,
        sketch.step(sketch.add(a, b, multipliers=multipliers), "u4", per_channel=False),
        tmp_path=tmp_path,
        all_certified=levels != "s8",
    )


def test_additions_of_vectors_and_of_three(rng, tmp_path):
    sketch = Sketch(rng, (10,))
    a = sketch.step(sketch.dense("x", 6), "n4")
    b = sketch.step(sketch.dense("x", 6), "n4")
    total = sketch.add(a, b, a)
    check(sketch, sketch.step(total, "u4", axis=0), tmp_path=tmp_path)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("second", ["u4", "s4"])
def test_concatenations(rng, tmp_path, axis, second):
    sketch = Sketch(rng, (4, 5, 5))
    a = sketch.step(sketch.conv("x", 4, (1, 1)))
    b = sketch.step(sketch.conv("x", 4, (1, 1)), second)
    joined = sketch.concat(a, b, axis=axis)
    check(sketch, joined, sketch.step(sketch.conv(joined, 3, (2, 2))), tmp_path=tmp_path)


def test_an_input_that_is_an_output_too_has_one_layout(rng):
    """A sequence, which LiteRT gets as an image of one row."""
    sketch = Sketch(rng, (4, 5), "s4")
    pooled = sketch.step(sketch.sum_pool("x", (5,)))
    graph = legalise_graph(sketch.graph("x", pooled), PASSES)
    emitted = write_file(graph)
    runtime, _, _ = load_runtime()
    interpreter = runtime.Interpreter(model_content=emitted.content, num_threads=1)
    interpreter.allocate_tensors()
    feeds, placed = sketch.values(graph, SAMPLES), emitted.placed["x"]
    x = placed.layout.to_file(feeds["x"] + placed.code.offset).astype(np.int8)
    values = run(interpreter, [x], lambda done: None)
    got = placed.layout.to_graph(values[str(placed.tensor)]).astype(np.int64) - placed.code.offset
    assert np.array_equal(got, feeds["x"])


def test_an_input_seen_otherwise_is_no_tensor_of_its_own(rng):
    """A turned input is the input itself in another layout: no operator writes it, so no runtime can show it."""
    sketch = Sketch(rng, (4, 6), "s4")
    turned = sketch.transpose("x", 1, 0)
    graph = legalise_graph(sketch.graph(sketch.step(turned, axis=0)), PASSES)
    emitted = write_file(graph)
    inputs = {emitted.placed[edge].tensor for edge in graph.inputs}
    assert turned in graph.edges
    assert all(edge in graph.inputs or placed.tensor not in inputs for edge, placed in emitted.placed.items())


def test_concatenated_vectors_of_flattened_images(image, tmp_path):
    a = image.reshape(image.step(image.conv("x", 4, (2, 2))), 4 * 8 * 7)
    b = image.reshape(image.max_pool("x", (2, 2)), 3 * 4 * 4)
    check(image, image.step(image.dense(image.concat(a, b), 5)), tmp_path=tmp_path)


@pytest.mark.parametrize("per_channel", [True, False])
def test_flattened_images_keep_their_order(image, tmp_path, per_channel):
    flat = image.reshape(image.step(image.conv("x", 4, (2, 2))), 4 * 8 * 7)
    back = image.reshape(flat, 4, 8, 7)
    shaped = image.reshape(flat, 8, 28)
    again = image.step(flat, "s4", axis=0, per_channel=per_channel)
    check(
        image,
        flat,
        image.step(image.conv(back, 3, (3, 3))),
        image.step(image.dense(shaped, 5)),
        again,
        tmp_path=tmp_path,
    )


def test_transposes(image, tmp_path):
    turned = image.transpose("x", 1, 2, 0)
    rows = image.step(image.dense(turned, 5))
    columns = image.transpose(rows, 2, 1, 0)
    more = image.step(image.conv(columns, 4, (3, 3)))
    check(image, columns, image.reshape(image.transpose(more, 2, 0, 1), 6 * 4 * 7), tmp_path=tmp_path)


def test_resizing_and_padding(image, tmp_path):
    bigger = image.upsample("x", 1, 2, 3)
    padded = image.pad(bigger, (0, 1, 2, 1, 0, 1), 4)
    check(image, padded, image.step(image.conv(padded, 3, (3, 3), strides=(2, 2))), tmp_path=tmp_path)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(rng, tmp_path, mode):
    sketch = Sketch(rng, (8, 3, 4))
    check(sketch, sketch.depth_to_space("x", 2, mode), tmp_path=tmp_path)


@pytest.mark.parametrize("per_channel", [True, False])
def test_quantisers_behind_quantisers(image, tmp_path, per_channel):
    a = image.step("x", "s4", per_channel=per_channel)
    b = image.step(image.step(a, "u4", per_channel=per_channel, falling=True), "u1", per_channel=per_channel)
    check(image, b, tmp_path=tmp_path)


def test_small_accumulators_are_stored_as_they_are(rng, tmp_path):
    sketch = Sketch(rng, (6, 4, 4), "u1")
    total = sketch.add("x", sketch.step(sketch.conv("x", 6, (1, 1)), "u1"))
    check(sketch, sketch.conv(total, 3, (1, 1), bits=2), sketch.step(total, "u1", per_channel=False), tmp_path=tmp_path)


def test_falling_functions_of_sums(image, tmp_path):
    check(image, image.step(image.sum_pool("x", (3, 3)), falling=True), tmp_path=tmp_path)


def test_one_accumulator_read_by_two_quantisers(image, tmp_path):
    sums = image.conv("x", 4, (3, 3))
    check(image, image.step(sums, "u4", axis=0), image.step(sums, "s4", axis=0), tmp_path=tmp_path)


def test_two_inputs(rng, tmp_path):
    sketch = Sketch(rng, (3, 4, 4))
    other = sketch.input("second", (5,), "s4")
    a = sketch.reshape(sketch.step(sketch.conv("x", 4, (2, 2))), 36)
    b = sketch.step(sketch.dense(other, 6))
    check(sketch, sketch.step(sketch.dense(sketch.concat(a, b), 4)), tmp_path=tmp_path)


@pytest.mark.parametrize("trial", range(12))
def test_random_networks(rng, tmp_path, trial):
    """Blocks drawn at random, residual branches and concatenations among them."""
    sketch = Sketch(rng, (int(rng.integers(1, 5)), 8, 8), str(rng.choice(["u4", "s4", "n4"])))
    edge = "x"
    for _ in range(int(rng.integers(2, 6))):
        edge = _block(rng, sketch, edge)
    flat = sketch.reshape(edge, int(np.prod(sketch.edges[edge].shape)))
    check(sketch, sketch.step(sketch.dense(flat, 6), "s4"), tmp_path=tmp_path)


def _block(rng, sketch, edge):
    channels, height, width = sketch.edges[edge].shape
    levels = str(rng.choice(["u4", "s4", "n4", "u1"]))
    kind = rng.integers(0, 7)
    if kind == 0 and min(height, width) >= 4:
        return sketch.max_pool(edge, (2, 2))
    if kind == 1 and min(height, width) >= 4:
        return sketch.step(sketch.sum_pool(edge, (3, 3), (2, 2), (1, 1, 1, 1)), levels)
    if kind == 2:
        return sketch.step(sketch.conv(edge, channels, (3, 3), pads=(1, 1, 1, 1), groups=channels), levels)
    if kind == 3:
        other = sketch.step(sketch.conv(edge, channels, (3, 3), pads=(1, 1, 1, 1)), levels)
        return sketch.step(sketch.add(edge, other), levels, per_channel=bool(rng.integers(2)))
    if kind == 4:
        other = sketch.step(sketch.conv(edge, 3, (1, 1)), levels)
        return sketch.concat(edge, other)
    if kind == 5 and height <= 8:
        return sketch.step(sketch.conv_transpose(edge, 4, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)), levels)
    return sketch.step(
        sketch.conv(
            edge, int(rng.integers(2, 7)), (3, 3), strides=(2, 2) if min(height, width) > 3 else None, pads=(1, 1, 1, 1)
        ),
        levels,
    )


@pytest.mark.parametrize("ratio", [0.0731, 0.31, 0.5])
def test_residual_additions_through_zero_are_litert_additions(rng, tmp_path, ratio):
    """Two signed branches of one scale, then a quantiser without an offset: ADD where its rounding is right, else a
    convolution."""
    sketch = Sketch(rng, (4, 5, 5))
    a = sketch.step(sketch.conv("x", 6, (1, 1)), "s8")
    b = sketch.step(sketch.conv("x", 6, (3, 3), pads=(1, 1, 1, 1)), "s8")
    total = sketch.add(a, b)
    k = np.arange(1, 16)
    thresholds = np.ceil((k - 0.5) / ratio).astype(np.int64) + ((k - 0.5) / ratio % 1 == 0) * (
        k % 2
    )  # ties go to the even level
    sketch.ops.append(
        Requantise(
            "step",
            (total,),
            "step",
            0,
            0,
            15,
            Steps(freeze([1]), freeze(thresholds[None]), None),
            freeze([-256]),
            freeze([254]),
        )
    )
    sketch.edges["step"] = Edge("step", (6, 5, 5), 0, 15)
    layers = check(sketch, sketch.step(sketch.conv("step", 3, (3, 3))), tmp_path=tmp_path, all_certified=False).layers
    assert [layer.operator for layer in layers if layer.name == total] == [
        "DEPTHWISE_CONV_2D" if ratio == 0.5 else "ADD"
    ]


@pytest.mark.parametrize(
    "levels, ratio, operator", [("u4", 0.0173, "MEAN"), ("s8", 0.0173, "MEAN"), ("s4", 0.0173, "DEPTHWISE_CONV_2D")]
)
def test_pools_over_whole_images_are_means_where_they_are_exact(rng, tmp_path, levels, ratio, operator):
    """A clamp below int8's own, and it is a convolution again."""
    sketch = Sketch(rng, (3, 6, 6), levels)
    total = sketch.sum_pool("x", (6, 6))
    lo, hi = RANGES[levels]
    k = np.arange(lo + 1, hi + 1)
    thresholds = np.ceil((k - 0.5) / ratio / (3 if levels == "s4" else 1)).astype(np.int64)
    thresholds = thresholds + ((k - 0.5) / ratio % 1 == 0) * (k % 2)  # ties go to the even level
    low, high = sketch.reach[total]
    sketch.ops.append(
        Requantise(
            "step",
            (total,),
            "step",
            0,
            lo,
            hi,
            Steps(freeze([1]), freeze(thresholds[None]), None),
            freeze(low[:1]),
            freeze(high[:1]),
        )
    )
    sketch.edges["step"] = Edge("step", (3, 1, 1), lo, hi)
    emitted = check(
        sketch, sketch.step(sketch.dense(sketch.reshape("step", 3), 4)), tmp_path=tmp_path, all_certified=False
    )
    assert emitted.layers[0].operator == operator
    for layer in write_file(legalise_graph(sketch.graph(sketch.ops[-1].output), PASSES), all_sets=True).layers[
        :1
    ]:  # asked for, every kernel set counts
        assert layer.operator == "DEPTHWISE_CONV_2D" or not any(
            v.differing.any() for v in layer.solution.verdicts.values()
        )


@pytest.mark.parametrize("falling", [False, True])
def test_quantisers_are_put_right_behind_their_sums(rng, tmp_path, falling):
    """Flatten, transpose, upsampling and max pooling between a layer and its quantiser: only a falling step may not
    pass a maximum."""
    sketch = Sketch(rng, (2, 8, 8))
    a, b, c = (sketch.conv("x", 4, (3, 3)) for _ in range(3))
    pooled = sketch.step(sketch.max_pool(a, (2, 2)), "u4", axis=0, falling=falling)
    flat = sketch.step(sketch.reshape(b, 4, 36), "u4", axis=0, falling=falling)
    turned = sketch.step(sketch.transpose(sketch.upsample(c, 1, 2, 1), 1, 2, 0), "u4", axis=2, falling=falling)
    graph = legalise_graph(sketch.graph(pooled, flat, turned), PASSES)
    order = [type(op).__name__ for op in graph.ops if not isinstance(op, Conv)]
    if falling and any(
        not op.require_steps().rises for op in sketch.ops if isinstance(op, Requantise) and op.output == pooled
    ):
        assert [r.node for r in find_reasons(graph)] == [a] and order.index("MaxPool") < order.index("Requantise")
        return
    assert order[1:3] == ["Requantise", "MaxPool"]
    check(sketch, pooled, flat, turned, tmp_path=tmp_path)


def test_a_clamp_inside_the_quantisers_range_is_a_clamp_in_the_file(rng, tmp_path):
    """ReLU6 and its like: a line over 0...83, and the levels up to 255 never reached."""
    sketch = Sketch(rng, (4,))
    sums = sketch.dense("x", 3)
    low, high = sketch.reach[sums]
    thresholds = np.ceil((np.arange(1, 256) - 0.5) / np.array([[0.9], [1.7], [2.6]])).astype(np.int64)
    thresholds = np.where(np.arange(1, 256) > 83, high[:, None] + 1, thresholds)
    sketch.ops.append(
        Requantise(
            "step",
            (sums,),
            "step",
            0,
            0,
            255,
            Steps(freeze([1, 1, 1]), freeze(thresholds), None),
            freeze(low),
            freeze(high),
        )
    )
    sketch.edges["step"] = Edge("step", (3,), 0, 83)
    assert distance_from_line(sketch.ops[-1]).max() > 1
    check(sketch, "step", tmp_path=tmp_path)


def test_dense_weights_in_half_a_byte(rng, tmp_path):
    """The option halves the weights; the self-test of its kernels and the certificate stand for it as for int8. No
    weight has room for a factor, but the levels of the input have."""
    from greenedge.backends.int8.tflite.selftest import self_test

    sketch = Sketch(rng, (134,))
    graph = sketch.graph(sketch.step(sketch.dense(sketch.step(sketch.dense("x", 140)), 5)))
    wide, narrow = write_file(graph), write_file(graph, int4=True)
    assert len(wide.content) - len(narrow.content) >= (134 * 140 + 140 * 5) // 2 - 1024  # two QUANTIZE
    assert not any(layer.solution.verdicts["xnnpack"].differing.any() for layer in narrow.layers)
    odd = Sketch(rng, (133,))
    odd = odd.graph(odd.step(odd.dense("x", 7)))
    assert write_file(odd, int4=True).content == write_file(odd).content, "XNNPACK takes odd rows of int4 wrongly"
    feeds = sketch.values(graph, SAMPLES)
    expected = run_graph(graph, feeds, keep=list(narrow.placed))
    for kernels in RESOLVERS:
        assert self_test(int4=True)["kernels"][kernels]["mismatches"] == 0
        got = stored(narrow, graph, feeds, kernels, tmp_path)
        if all(not layer.solution.verdicts[kernels].differing.any() for layer in narrow.layers):
            assert all(np.array_equal(values, expected[edge]) for edge, values in got.items())


@pytest.mark.parametrize("pad_value", [0, 3])
def test_a_transposed_convolution_behind_joined_branches_wants_their_zero_point_at_level_0(rng, tmp_path, pad_value):
    """Branches that are padded with level 3 have their zero point there, and so has what joins them."""
    sketch = Sketch(rng, (3, 5, 5))
    a, b = (sketch.step(sketch.conv("x", 4, (1, 1)), "s4") for _ in range(2))
    padded = [sketch.step(sketch.conv(edge, 3, (3, 3), pads=(1, 1, 1, 1), pad_value=pad_value)) for edge in (a, b)]
    total = sketch.conv_transpose(sketch.concat(a, b), 4, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    last = sketch.step(total)
    if pad_value == 0:
        check(sketch, *padded, last, tmp_path=tmp_path)
        return
    graph = legalise_graph(sketch.graph(*padded, last), PASSES)
    (reason,) = find_reasons(graph)
    assert (reason.node, reason.value) == (total, "an input of -8…7, whose zero point stands for 3")
