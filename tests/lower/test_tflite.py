"""Int8 .tflite files against LiteRT itself: every operator, in both kernel sets, with ==; and what is refused."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest

from greenedge.backends.int8.tflite import worker
from greenedge.errors import GreenedgeError, UnsupportedError
from greenedge.frontends.source import parse_normal, read_model, read_normal
from greenedge.frontends.tflite import RULES
from greenedge.frontends.tflite.kernels import (
    KERNELS,
    STORED,
    Code,
    add_by_reference,
    add_by_xnnpack,
    average,
    find_thresholds,
    order_levels,
)
from greenedge.graph import Requantise, run_graph
from greenedge.lower import lower_source
from tests.lower.tflite_files import NETWORKS, ONE_OPERATOR, Net, draw, one_operator

FEW, MANY = 2, 12  # files of a kind and set


def litert(path, xs, kernels, number):
    """LiteRT's stored values of an output."""
    runtime, _, _ = worker.load_runtime()
    return worker.run(worker.interpreter_for(runtime, path, kernels), xs, lambda done: None)[str(number)]


def graph(path, xs, kernels):
    """The integer graph's, of its one output."""
    lowered = lower_source(read_model(path, kernels))
    edges = lowered.graph.edges
    feeds = {
        e: x.astype(np.int64).reshape(len(x), *edges[e].shape) for e, x in zip(lowered.graph.inputs, xs, strict=True)
    }
    return run_graph(lowered.graph, feeds)[lowered.outputs[0].edge]


def compare(path, net, out, xs, kernels):
    expected, got = litert(path, xs, kernels, out), graph(path, xs, kernels)
    assert np.array_equal(got.reshape(len(got), -1), expected.reshape(len(expected), -1))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("kind", ONE_OPERATOR)
def test_an_operator_is_what_litert_computes(tmp_path, kind, kernels):
    for seed in range(FEW):
        net, out, xs = one_operator(kind, seed)
        compare(net.save(tmp_path / "f.tflite", out), net, out, xs, kernels)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ONE_OPERATOR)
def test_an_operator_is_what_litert_computes_on_many_files(tmp_path, kind):
    for seed in range(FEW, MANY):
        for kernels in KERNELS:
            net, out, xs = one_operator(kind, seed)
            compare(net.save(tmp_path / "f.tflite", out), net, out, xs, kernels)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_what_litert_computes(tmp_path, rng, name, kernels):
    net, logits, _ = NETWORKS[name](rng)
    compare(net.save(tmp_path / "f.tflite", logits), net, logits, draw(net, rng, 60), kernels)


def test_the_sets_are_different_functions(tmp_path, rng):
    """A comparison with the other set's results must fail."""
    net, logits, _ = NETWORKS["residual"](rng)
    path, xs = net.save(tmp_path / "f.tflite", logits), draw(net, rng, 60)
    assert not np.array_equal(graph(path, xs, "xnnpack"), graph(path, xs, "reference"))


def test_every_rule_has_a_file():
    ends = {"SQUEEZE", "EXPAND_DIMS", "DEQUANTIZE", "SOFTMAX"}
    assert set(RULES) - ends == {kind.partition(" ")[0] for kind in ONE_OPERATOR}


def test_a_bound_of_half_a_level_is_each_sets_own(tmp_path, rng):
    """RELU6 at a scale of 6 / 2.5: 2 1/2 levels above zero."""
    for zero in (0, -3, 7, -128):
        net = Net(rng, (1, 3, 3, 2))
        net.code = lambda zero=zero: (float(np.float32(2.4)), zero)
        out = net.conv(net.inputs[0], 3, act="RELU6")
        path, xs = net.save(tmp_path / "f.tflite", out), draw(net, rng, 50)
        for kernels in KERNELS:
            compare(path, net, out, xs, kernels)


@pytest.mark.parametrize(("first", "second", "total"), [(0.5, 0.5, 1.0), (0.31, 0.047, 0.4)])  # the first: all ties
def test_an_addition_by_xnnpack_is_its_formula_on_every_pair(first, second, total):
    a, b, out = Code(np.float32(first), 3), Code(np.float32(second), -11), Code(np.float32(total), 5)
    form = add_by_xnnpack(a, b, out, (-100, 90), -1)
    ratios = [np.float32(one.scale / out.scale) for one in (a, b)]
    shift = 21 - math.frexp(float(max(ratios)))[1]
    m1, m2 = (round(float(ratio) * 2**shift) for ratio in ratios)
    d1, d2 = STORED[:, None] - 3, STORED[None, :] + 11
    expected = np.clip(((m1 * d1 - m2 * d2 + (1 << (shift - 1))) >> shift) + 5, -100, 90)
    acc = form.factors[0] * d1 + form.factors[1] * d2
    assert np.array_equal(-100 + np.searchsorted(form.thresholds, acc, side="right"), expected)


def test_an_average_rounds_halves_away_from_zero():
    totals = np.arange(-30, 31)
    for count in (1, 2, 3, 4, 6):
        exact = [Fraction(int(total), count) for total in totals]
        wanted = [int(math.copysign(math.floor(abs(v) + Fraction(1, 2)), v)) for v in exact]
        assert average(totals, count, (-128, 127)).tolist() == wanted


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_function_that_falls_is_counted_from_the_other_end(tmp_path, rng, kernels):
    """A constant minus an activation, and products with constants of both signs and 0."""
    for kind in ("SUB", "MUL"):
        net = Net(rng, (1, 16, 16, 4))
        net.code = lambda: (0.5, -1)
        constant = net.writer.constant(
            "c", np.array([-90, -1, 3, 77], np.int8), net.writer.tensors[net.inputs[0]][3].__class__((0.25,), -1)
        )
        net.about[constant] = ((4,), 0.25, -1)
        out = net.binary(kind, constant, net.inputs[0])
        path = net.save(tmp_path / "f.tflite", out)
        compare(path, net, out, [np.arange(-128, 128).repeat(4).reshape(1, 16, 16, 4).astype(np.int8)], kernels)


def test_thresholds_are_found_at_both_ends_of_the_range():
    low, high = np.array([-5, 3]), np.array([9, 3])
    got = find_thresholds(lambda acc: np.clip(acc // 4, -2, 2), (-2, 2), low, high)
    assert got.tolist() == [[-4, 0, 4, 8], [3, 3, 4, 4]]


def test_the_stored_integers_of_a_file_are_those_of_the_graph(tmp_path, rng):
    net, _, out = NETWORKS["residual"](rng)
    path = net.save(tmp_path / "f.tflite", out)
    lowered = lower_source(read_model(path))
    steps = [op for op in lowered.graph.ops if isinstance(op, Requantise)]
    zeros = {lowered.graph.edges[op.output].zero for op in steps}
    assert len(zeros) > 1 and all(-128 <= op.lo and op.hi <= 127 for op in steps)
    assert [node.op_type for node in lowered.epilogue.graph.node][-1] == "Softmax"


def test_a_float_input_and_output_are_the_hosts(tmp_path, rng):
    net = Net(rng, (1, 4, 4, 2), "FLOAT32")
    x = net.unary("QUANTIZE", net.inputs[0], code=(0.05, 3))
    y = net.conv(x, 3)
    net.count += 1
    real = net.writer.tensor("real", net.about[y][0], "FLOAT32")
    net.writer.operator("DEQUANTIZE", [y], [real], 2)
    lowered = lower_source(read_model(net.save(tmp_path / "f.tflite", real)))
    assert lowered.prologue is not None and lowered.inputs[0].kind is None
    assert lowered.outputs[0].dequantised and lowered.outputs[0].scale.item() == net.about[y][1]


def test_uint8_ends_of_a_converter_are_other_names(tmp_path, rng):
    net = Net(rng, (1, 4, 4, 2), "UINT8")
    shape, scale, _ = net.about[net.inputs[0]]
    net.writer.tensors[0] = (*net.writer.tensors[0][:3], type(net.writer.tensors[0][3])((scale,), 100), 0)
    x = net.tensor(shape, scale, -28)
    net.writer.operator("QUANTIZE", [net.inputs[0]], [x], 2)
    out = net.conv(x, 3)
    path = net.save(tmp_path / "f.tflite", out)
    levels = rng.integers(0, 256, (30, *shape[1:]))
    for kernels in KERNELS:
        expected = litert(path, [levels.astype(np.uint8)], kernels, out)
        assert np.array_equal(graph(path, [levels], kernels).ravel(), expected.ravel())


# -- what is refused ---------------------------------------------------------------------------------------------------


def refusals(path, kernels="xnnpack"):
    with pytest.raises(UnsupportedError) as caught:
        read_model(path, kernels)
    return [str(reason) for reason in caught.value.reasons]


def test_all_reasons_come_at_once(tmp_path, rng):
    net = Net(rng, (1, 5, 5, 2))
    x = net.pool("AVERAGE_POOL_2D", net.inputs[0], (2, 2), (2, 2), "SAME")
    x = net.unary("ABS", x)
    x = net.conv(x, 3)
    x = net.unary("CEIL", x)
    found = refusals(net.save(tmp_path / "f.tflite", x))
    assert [text.partition(":")[0] for text in found] == ["average_pool_2d_0", "abs_1", "ceil_3"]


@pytest.mark.parametrize(
    ("kind", "weights", "words"),
    [
        ("FLOAT32", "FLOAT32", "a float network"),
        ("FLOAT32", "INT8", "dynamic-range"),
        ("INT16", "INT8", "int16x8"),
    ],
)
def test_other_kinds_of_files_are_refused_by_name_with_a_cure(tmp_path, rng, kind, weights, words):
    net = Net(rng, (1, 6), kind)
    y = net.tensor((1, 4), kind=kind)
    values = rng.integers(-9, 9, (4, 6)).astype(weights.lower()).tobytes()
    w = net.writer.tensor("w", (4, 6), weights, None if weights == "FLOAT32" else net.writer.tensors[0][3], values)
    net.writer.operator("FULLY_CONNECTED", [net.inputs[0], w], [y], 5, fusedActivationFunction="NONE")
    (only,) = refusals(net.save(tmp_path / "f.tflite", y))
    assert words in only and "cure: " in only and "BUILTINS_INT8" in only


def test_what_xnnpack_leaves_to_other_kernels_is_refused_with_the_other_set_as_the_cure(tmp_path, rng):
    net = Net(rng, (1, 4, 4, 2))
    out = net.transposed(net.conv(net.inputs[0], 2, act="RELU"), 2, (1, 1), (2, 2))
    path = net.save(tmp_path / "f.tflite", out)
    (only,) = refusals(path)
    assert "shorter than its stride" in only and "--arithmetic reference" in only
    compare(path, net, out, draw(net, rng, 20), "reference")


def test_an_addition_that_rounds_in_several_steps_is_refused_where_no_sum_gives_it(monkeypatch, tmp_path):
    monkeypatch.setattr("greenedge.frontends.tflite.elementwise.fit_pairs", lambda *args: None)
    net, out, _ = one_operator("ADD", 0)
    (only,) = refusals(net.save(tmp_path / "f.tflite", out), "reference")
    assert "65,536" in only and "--arithmetic xnnpack" in only


def test_a_pad_between_two_zero_points_fails_to_load_under_xnnpack_alone(tmp_path, rng):
    net = Net(rng, (1, 4, 4, 2))
    shape, scale, zero = net.about[net.inputs[0]]
    out = net.tensor((1, 5, 4, 2), scale, zero - 1 if zero > 0 else zero + 1)
    widths = net.writer.constant("p", np.array([(0, 0), (0, 1), (0, 0), (0, 0)], np.int32))
    net.writer.operator("PAD", [net.inputs[0], widths], [out], 2)
    path = net.save(tmp_path / "two_zero_points.tflite", out)
    (only,) = refusals(path)
    assert "fails to load such a file with XNNPACK" in only
    compare(path, net, out, draw(net, rng, 20), "reference")


def test_equal_sums_with_unequal_levels_are_no_form():
    """Factors that give one sum to pairs of two levels are not taken, whatever the order."""
    acc, stored = np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1])
    assert order_levels(acc, stored, (0, 1)) is None
    (thresholds,) = order_levels(np.array([0, 1, 2, 3]), stored, (0, 2))
    assert thresholds.tolist() == [2, 4]


def test_the_reference_addition_takes_three_roundings():
    """Against its definition in exact arithmetic: each input onto twice the larger scale, the sum onto the output's."""
    a, b, out = Code(np.float32(0.3137), 3), Code(np.float32(0.04719), -11), Code(np.float32(0.40117), 5)
    table = add_by_reference(a, b, out, (-128, 127), 1)
    terms = []
    for one in (a, b):
        ratio = Fraction(float(np.float64(one.scale) / (2 * np.float64(a.scale))))
        terms.append([scale_twice((q - one.zero) << 20, ratio) for q in range(-128, 128)])
    last = Fraction(float(2 * np.float64(a.scale) / np.float64(np.float32(1 << 20) * out.scale)))
    for i in range(256):
        for j in range(0, 256, 3):
            level = scale_twice(terms[0][i] + terms[1][j], last) + out.zero
            assert table[i, j] == min(max(level, -128), 127)


def scale_twice(x, ratio):
    """x * ratio with a multiplier of 31 bits: a high product, halves up, and a shift, halves away from zero."""
    fraction, exponent = math.frexp(float(ratio))
    multiplier = math.floor(Fraction(fraction) * 2**31 + Fraction(1, 2))
    high = math.floor(Fraction(x * 2 ** max(exponent, 0) * multiplier, 2**31) + Fraction(1, 2))
    value = Fraction(high, 2 ** max(-exponent, 0))
    size = math.floor(abs(value) + Fraction(1, 2))
    return size if value >= 0 else -size


def test_an_output_that_no_layer_computes_is_refused(tmp_path, rng):
    net = Net(rng, (1, 4, 4, 2))
    out, constant = net.conv(net.inputs[0], 3), net.constant((1, 3))
    (only,) = refusals(net.save(tmp_path / "f.tflite", out, constant))
    assert "is no integer that the network computes" in only


def test_an_unknown_arithmetic_is_named(tmp_path):
    net, out, _ = one_operator("ADD", 0)
    with pytest.raises(GreenedgeError, match="xnnpack, reference"):
        read_model(net.save(tmp_path / "f.tflite", out), "ruy")


def mutate(content, rng):
    """A damaged copy: bytes changed, words made huge, cut short, or a stretch repeated."""
    data = bytearray(content)
    pick = rng.integers(4)
    if pick == 0:
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(8, len(data)))] = int(rng.integers(256))
    elif pick == 1:
        at = int(rng.integers(2, len(data) // 4)) * 4
        data[at : at + 4] = rng.choice(np.array([0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x10000], np.uint32)).tobytes()
    elif pick == 2:
        del data[int(rng.integers(9, len(data))) :]
    else:
        first, at = rng.integers(8, len(data) - 64, 2)
        data[at : at + 64] = data[first : first + 64]
    return bytes(data)


def read_damaged(tmp_path, rng, name, count, read):
    """How many of `count` damaged copies are refused; anything but one of our errors goes up."""
    net, _, out = NETWORKS[name](rng)
    content = net.save(tmp_path / "f.tflite", out).read_bytes()
    path, refused = tmp_path / "damaged.tflite", 0
    for _ in range(count):
        path.write_bytes(mutate(content, rng))
        try:
            read(path)
        except GreenedgeError as error:
            refused += 1
            assert str(error).startswith((str(path), "damaged")) and "Traceback" not in str(error)
    return refused


def test_200_damaged_files_give_one_sentence_each(tmp_path, rng):
    assert read_damaged(tmp_path, rng, "mobile", 200, read_normal) > 60


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_damaged_files_that_can_be_read_are_lowered_or_refused(tmp_path, rng, name):
    assert read_damaged(tmp_path, rng, name, 70, lambda path: lower_source(parse_normal(read_normal(path), "m"))) > 20


def test_a_file_that_says_it_is_huge_is_refused_before_memory_is_spent(tmp_path, rng):
    net = Net(rng, (1, 1 << 20, 1 << 20, 3))
    out = net.pool("MAX_POOL_2D", net.inputs[0], (1, 1), (1, 1))
    with pytest.raises(GreenedgeError, match="damaged .tensor 0 has shape"):
        read_model(net.save(tmp_path / "f.tflite", out))


def test_a_tflite_by_name_alone_is_told_so(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(GreenedgeError, match="lacks the mark TFL3"):
        read_model(path)


def test_the_model_says_which_tensor_of_the_file_it_holds(tmp_path, rng):
    net, logits, out = NETWORKS["residual"](rng)
    normal = read_normal(net.save(tmp_path / "f.tflite", out), "reference")
    (entry,) = normal.proto.metadata_props
    facts = json.loads(entry.value)
    assert facts["arithmetic"] == "reference" and logits in facts["tensors"].values()
