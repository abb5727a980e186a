"""A .tflite in real arithmetic: every value is what the file's scales say, rounded to the nearest level, halves to
even."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from greenedge.errors import UnsupportedError
from greenedge.frontends.source import parse_normal, read_model, read_normal
from greenedge.frontends.tflite.file import read_file
from greenedge.frontends.tflite.network import REAL
from greenedge.lower import lower_source
from tests.lower.test_tflite import graph, litert
from tests.lower.tflite_files import NETWORKS, ONE_OPERATOR, Net, draw, one_operator

SEEDS = range(4)
LIMITS = {0: (None, None), 1: (0, None), 2: (-1, 1), 3: (0, 6)}  # the schema's numbers of fused activations


def fractions(values):
    """Whole numbers, or float32, as exact ones."""
    out = np.empty(np.shape(values), object)
    out[...] = np.vectorize(lambda v: Fraction(v), otypes=[object])(np.asarray(values).astype(object))
    return out


def reals(tensor, stored):
    """scale * (stored - zero), exact; scales along the tensor's axis."""
    spread = [1] * np.ndim(stored)
    if len(tensor.scales) > 1:
        spread[tensor.axis] = -1
    scales, zeros = (fractions(part).reshape(spread) for part in (tensor.scales, tensor.zeros))
    return scales * (fractions(stored) - zeros)


def store(tensor, values, activation=0):
    """The levels of exact numbers: clipped by the activation, rounded half to even, counted from the zero point."""
    low, high = LIMITS[activation]

    def level(value):
        value = value if low is None else max(value, Fraction(low))
        value = value if high is None else min(value, Fraction(high))
        return min(max(round(value / Fraction(tensor.scales[0].item())) + int(tensor.zeros[0]), -128), 127)

    return np.vectorize(level, otypes=[np.int64])(values)


def evaluate(file, xs):
    """The one operator of a file, in exact numbers."""
    *moves, operator = file.operators
    tensors = [file.tensors[number] for number in operator.inputs]
    given = dict(zip(file.inputs, xs, strict=True))
    if moves:
        number = operator.inputs[0]
        given[number] = xs[0].reshape(len(xs[0]), *file.tensors[number].shape[1:])
    args = [reals(t, t.values if t.is_constant else given[t.number]) if len(t.scales) else None for t in tensors]
    out, kind = file.tensors[operator.outputs[0]], operator.kind
    if kind == "FULLY_CONNECTED":
        x, weight, bias = args
        y = x.reshape(len(x), -1, weight.shape[1]).dot(weight.T) + bias
    elif kind == "CONV_2D":
        y = convolve(args[0], args[1], args[2], operator.options)
    elif kind == "MEAN":
        y = args[0].mean(axis=tuple(tensors[1].values.tolist()))
    else:
        y = {
            "ADD": lambda: args[0] + args[-1],
            "SUB": lambda: args[0] - args[1],
            "MUL": lambda: args[0] * args[1],
            "RELU": lambda: np.maximum(args[0], Fraction(0)),
            "RELU6": lambda: np.clip(args[0], Fraction(0), Fraction(6)),
            "LEAKY_RELU": lambda: np.where(
                args[0] > 0, args[0], args[0] * Fraction(np.float32(operator.options.get("alpha", 0)).item())
            ),
            "QUANTIZE": lambda: args[0],
        }[kind]()
    return store(out, y, operator.options.get("fusedActivationFunction", 0))


def convolve(x, weight, bias, options):
    """A convolution with windows one by one, SAME or VALID."""
    stride, dilation = (
        [options[f"{what}{axis}"] for axis in ends]
        for what, ends in (("stride", "HW"), ("dilation", ("HFactor", "WFactor")))
    )
    spans = [(k - 1) * d + 1 for k, d in zip(weight.shape[1:3], dilation, strict=True)]
    pads = [(0, 0), (0, 0)]
    if options["padding"] == 0:
        total = [
            max((math.ceil(n / s) - 1) * s + span - n, 0)
            for n, s, span in zip(x.shape[1:3], stride, spans, strict=True)
        ]
        pads = [(t // 2, t - t // 2) for t in total]
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=Fraction(0))
    sizes = [(n - span) // s + 1 for n, s, span in zip(x.shape[1:3], stride, spans, strict=True)]
    y = np.empty((len(x), *sizes, len(weight)), object)
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            at = [slice(p * s, p * s + span, d) for p, s, span, d in zip((i, j), stride, spans, dilation, strict=True)]
            y[:, i, j] = np.tensordot(x[:, at[0], at[1]], weight, ([1, 2, 3], [1, 2, 3])) + bias
    return y


@pytest.mark.parametrize(
    "kind",
    [
        "FULLY_CONNECTED", "CONV_2D", "MEAN", "ADD", "SUB", "MUL", "ADD constant", "SUB constant", "MUL constant",
        "ADD itself", "QUANTIZE", "RELU", "RELU6", "LEAKY_RELU",
    ],
)  # fmt: skip
def test_an_operator_is_its_real_function_rounded_half_to_even(tmp_path, kind):
    for seed in SEEDS:
        net, out, xs = one_operator(kind, seed)
        xs = [x[:3] for x in xs]
        path = net.save(tmp_path / "f.tflite", out)
        expected = evaluate(read_file(path), xs)
        assert np.array_equal(graph(path, xs, REAL).reshape(len(xs[0]), -1), expected.reshape(len(expected), -1)), seed


@pytest.mark.parametrize("kind", ONE_OPERATOR)
def test_litert_is_near_the_real_arithmetic(tmp_path, kind):
    """One level at most, of what moves values none: no bias, scale or zero point is another."""
    moves = ("RESHAPE", "TRANSPOSE", "PAD", "CONCATENATION", "RESIZE_NEAREST_NEIGHBOR")
    for seed in SEEDS:
        net, out, xs = one_operator(kind, seed)
        path = net.save(tmp_path / "f.tflite", out)
        ours, theirs = graph(path, xs, REAL), stored(path, xs, out)
        gap = np.abs(ours.reshape(len(ours), -1) - theirs)
        assert gap.max() <= (0 if kind in moves else 1)
        assert (gap > 0).mean() < 0.02 or kind not in ("CONV_2D", "TRANSPOSE_CONV", "ADD", "SUB", "MUL")


def stored(path, xs, out):
    values = litert(path, xs, "xnnpack", out)
    return values.reshape(len(values), -1).astype(np.int64)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_an_onnx_model_of_quantisers(tmp_path, rng, name):
    net, _, out = NETWORKS[name](rng)
    normal = read_normal(net.save(tmp_path / "f.tflite", out), REAL)
    kinds = {node.op_type for node in normal.proto.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds and "MultiThreshold" not in kinds
    lowered = lower_source(parse_normal(normal, "m"))
    assert lowered.graph.requantisers and (
        name == "autoencoder" or lowered.epilogue.graph.node[-1].op_type == "Softmax"
    )


def test_float_and_uint8_ends_are_real_numbers_too(tmp_path, rng):
    net = Net(rng, (1, 4, 4, 2), "UINT8")
    shape, scale, _ = net.about[net.inputs[0]]
    net.writer.tensors[0] = (*net.writer.tensors[0][:3], type(net.writer.tensors[0][3])((scale,), 100), 0)
    x = net.tensor(shape, scale, -28)
    net.writer.operator("QUANTIZE", [net.inputs[0]], [x], 2)
    out = net.conv(x, 3)
    path = net.save(tmp_path / "f.tflite", out)
    levels = rng.integers(0, 256, (30, *shape[1:]))
    ours = graph(path, [levels], REAL)
    assert np.abs(ours.reshape(30, -1) - stored(path, [levels.astype(np.uint8)], out)).max() <= 1

    net = Net(rng, (1, 4, 4, 2), "FLOAT32")
    y = net.conv(net.unary("QUANTIZE", net.inputs[0], code=(0.05, 3)), 3)
    real = net.writer.tensor("real", net.about[y][0], "FLOAT32")
    net.writer.operator("DEQUANTIZE", [y], [real], 2)
    lowered = lower_source(read_model(net.save(tmp_path / "g.tflite", real), REAL))
    assert lowered.prologue is not None and lowered.outputs[0].scale.item() == net.about[y][1]


def test_a_border_with_a_zero_point_that_no_layer_makes_is_refused(tmp_path, rng):
    net = Net(rng, (1, 4, 4, 2))
    net.code = lambda: (0.5, 7)
    net.inputs = [net.input((1, 4, 4, 2))]
    out = net.transposed(net.inputs[0], 2)
    with pytest.raises(UnsupportedError, match="zero point 7 that no layer computes"):
        read_model(net.save(tmp_path / "f.tflite", out), REAL)


def test_what_xnnpack_does_not_take_has_a_real_meaning(tmp_path, rng):
    net = Net(rng, (1, 4, 4, 2))
    out = net.transposed(net.conv(net.inputs[0], 2, act="RELU"), 2, (1, 1), (2, 2))
    path, xs = net.save(tmp_path / "f.tflite", out), draw(net, rng, 20)
    theirs = litert(path, xs, "reference", out)
    assert np.abs(graph(path, xs, REAL).reshape(20, -1) - theirs.reshape(20, -1)).max() <= 2
