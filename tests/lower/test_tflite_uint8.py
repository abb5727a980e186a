"""uint8 .tflite files against LiteRT itself, in both kernel sets, with ==: weights with zero points of their own, and
every operator of int8."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.backends.int8.tflite.flatbuffer import Quantisation, Writer
from greenedge.errors import UnsupportedError
from greenedge.frontends.source import read_model
from greenedge.frontends.tflite.file import read_file
from greenedge.frontends.tflite.kernels import KERNELS, average_up
from greenedge.frontends.tflite.network import REAL
from greenedge.lower import lower_source
from tests.lower.test_tflite import graph, litert
from tests.lower.tflite_files import NETWORKS, ONE_OPERATOR, Net, PerTensor, draw, one_operator, turn_uint8

FEW, MANY = 3, 40  # files of a kind and set


def compare(path, out, xs, kernels):
    """How far LiteRT and the graph are apart at most: both count from their zero points."""
    samples = [(x.astype(np.int64) + 128).astype(np.uint8) for x in xs]
    expected = litert(path, samples, "xnnpack" if kernels == REAL else kernels, out)
    assert expected.dtype == np.uint8
    got = graph(path, samples, kernels)
    zeros = lower_source(read_model(path, kernels)).outputs[0].zero, read_file(path).tensors[out].zeros[0]
    return np.abs((got.reshape(len(got), -1) - zeros[0]) - (expected.reshape(len(got), -1).astype(np.int64) - zeros[1]))


def compare_kind(tmp_path, kind, seeds, kernels):
    for seed in seeds:
        net, out, xs = one_operator(kind, seed, PerTensor)
        path = turn_uint8(net.save(tmp_path / "f.tflite", out), np.random.default_rng(seed))
        assert compare(path, out, xs, kernels).max() <= (kernels == REAL), seed


@pytest.mark.parametrize("kernels", [*KERNELS, REAL])
@pytest.mark.parametrize("kind", ONE_OPERATOR)
def test_an_operator_of_uint8_is_what_litert_computes(tmp_path, kind, kernels):
    compare_kind(tmp_path, kind, range(FEW), kernels)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ONE_OPERATOR)
def test_an_operator_of_uint8_is_what_litert_computes_on_many_files(tmp_path, kind):
    for kernels in KERNELS:
        compare_kind(tmp_path, kind, range(FEW, MANY), kernels)


def test_a_uint8_average_rounds_halves_up():
    totals = np.arange(-10, 11)
    assert average_up(totals, 2, (-4, 4)).tolist() == [max(-4, min(4, int(np.floor(t / 2 + 0.5)))) for t in totals]


@pytest.mark.parametrize("kernels", KERNELS)
def test_an_average_of_two_is_litert_s_below_128_too(tmp_path, rng, kernels):
    net = PerTensor(rng, (1, 4, 6, 3))
    out = net.pool("AVERAGE_POOL_2D", net.inputs[0], (1, 2), (1, 2))
    path = turn_uint8(net.save(tmp_path / "f.tflite", out))
    assert compare(path, out, draw(net, rng, 30), kernels).max() == 0


@pytest.mark.parametrize("kernels", KERNELS)
def test_wide_depthwise_layers_round_as_litert_rounds_them(tmp_path, rng, kernels):
    """XNNPACK's delegate leaves them to LiteRT's own kernel, which works on many channels at once."""
    for channels, kernel, stride in ((40, 3, 1), (17, 5, 2), (64, 1, 1), (8, 3, 2)):
        net = PerTensor(rng, (1, 9, 8, channels))
        out = net.depthwise(net.inputs[0], 1, (kernel, kernel), (stride, stride))
        path = turn_uint8(net.save(tmp_path / "f.tflite", out), rng)
        assert compare(path, out, draw(net, rng, 10), kernels).max() == 0


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_uint8_network_is_what_litert_computes(tmp_path, rng, name, kernels):
    net, logits, _ = NETWORKS[name](rng, PerTensor)
    path = turn_uint8(net.save(tmp_path / "f.tflite", logits), rng)
    assert compare(path, logits, draw(net, rng, 60), kernels).max() == 0


def test_a_uint8_file_is_called_so(tmp_path, rng):
    net, _, out = NETWORKS["autoencoder"](rng, PerTensor)
    path = turn_uint8(net.save(tmp_path / "f.tflite", out))
    assert read_model(path).kind == "a uint8 .tflite file, read in the arithmetic xnnpack"


def refusal(path):
    with pytest.raises(UnsupportedError) as caught:
        read_model(path)
    (only,) = caught.value.reasons
    return str(only)


@pytest.mark.parametrize(
    ("weights", "scales", "words"),
    [("INT8", 1, "weights of int8 with an input of uint8"), ("UINT8", 4, "uint8 weights with 4 scales")],
)
def test_what_uint8_does_not_have_is_refused_by_name(tmp_path, weights, scales, words):
    writer = Writer("net")
    x, y = (
        writer.tensor(name, shape, "UINT8", Quantisation((0.5,), 3)) for name, shape in (("x", (1, 6)), ("y", (1, 4)))
    )
    w = writer.tensor("w", (4, 6), weights, Quantisation((0.5,) * scales), bytes(24))
    writer.operator("FULLY_CONNECTED", [x, w], [y], 5, fusedActivationFunction="NONE")
    path = tmp_path / "f.tflite"
    path.write_bytes(writer.finish([x], [y]))
    assert words in refusal(path)


def test_an_operator_between_both_kinds_is_refused(tmp_path, rng):
    net = Net(rng, (1, 4, 4, 2))
    shape = net.about[net.inputs[0]][0]
    y = net.tensor(shape, 1 / 256, 0, "UINT8")
    net.writer.operator("LOGISTIC", [net.inputs[0]], [y], 2)
    assert "int8 that becomes uint8" in refusal(net.save(tmp_path / "f.tflite", y))
