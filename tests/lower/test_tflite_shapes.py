"""What converters write of shapes where the batch is open, and at the ends: folded, or refused by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from greenedge.errors import UnsupportedError
from greenedge.frontends.source import read_model
from greenedge.frontends.tflite.file import File, Operator, Tensor, read_file
from greenedge.frontends.tflite.kernels import KERNELS
from greenedge.frontends.tflite.shapes import fold_shapes
from greenedge.lower import lower_source
from tests.lower.test_tflite import compare
from tests.lower.tflite_files import Net, draw


def flatten(net, x):
    """As Keras' Flatten with an open batch is written: RESHAPE to [SHAPE[0], -1]."""
    shape = net.about[x][0]
    writer = net.writer
    whole, batch, rows, last = (
        writer.tensor(n, s, "INT32") for n, s in (("s", (4,)), ("b", ()), ("r", (2,)), ("l", ()))
    )
    writer.tensors[last] = (*writer.tensors[last][:4], len(writer.buffers))
    writer.buffers.append(np.array(-1, np.int32).tobytes())
    begin, end, one = (writer.constant(f"k{k}", np.array([k], np.int32)) for k in (0, 1, 1))
    writer.operator("SHAPE", [x], [whole], outType=2)
    writer.operator("STRIDED_SLICE", [whole, begin, end, one], [batch], 1, shrinkAxisMask=1)
    writer.operator("PACK", [batch, last], [rows], 1, valuesCount=2, axis=0)
    y = net.like(x, (1, int(np.prod(shape))))
    writer.operator("RESHAPE", [x, rows], [y])
    return y


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_flatten_with_an_open_batch_is_a_reshape(tmp_path, rng, kernels):
    net = Net(rng, (1, 4, 3, 2))
    out = net.dense(flatten(net, net.conv(net.inputs[0], 3)), 5)
    path = net.save(tmp_path / "f.tflite", out)
    assert [op.kind for op in fold_shapes(read_file(path)).operators] == ["CONV_2D", "RESHAPE", "FULLY_CONNECTED"]
    compare(path, net, out, draw(net, rng, 20), kernels)


def evaluate(kind, inputs, options, tensors=()):
    """What folding makes of one operator, or None."""
    empty = np.zeros(0, np.float32), np.zeros(0, np.int64)
    made = [
        Tensor(k, f"t{k}", np.shape(v), "INT32", *empty, 0, np.asarray(v, np.int32)) for k, v in enumerate(inputs)
    ] + list(tensors)
    out = Tensor(len(made), "out", (9,), "INT32", *empty, 0, None)
    operator = Operator(0, kind, tuple(range(len(made))), (len(made),), options)
    file = dataclasses.replace(FILE, tensors=(*made, out), operators=(operator,))
    folded = fold_shapes(file)
    return None if folded.operators else folded.tensors[-1].values.tolist()


FILE = File("f", (), (), (0,), (0,))


def test_vectors_are_sliced_packed_and_joined():
    vector = [7, 8, 9, 10]
    assert evaluate("STRIDED_SLICE", [vector, [1], [3], [1]], {}) == [8, 9]
    assert evaluate("STRIDED_SLICE", [vector, [1], [3], [1]], {"endMask": 1}) == [8, 9, 10]
    assert evaluate("STRIDED_SLICE", [vector, [1], [3], [1]], {"beginMask": 1}) == [7, 8, 9]
    assert evaluate("STRIDED_SLICE", [vector, [-1], [0], [1]], {"shrinkAxisMask": 1}) == 10
    assert evaluate("PACK", [3, 4], {}) == [3, 4]
    assert evaluate("CONCATENATION", [[1, 2], [3]], {}) == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "inputs", "options"),
    [
        ("STRIDED_SLICE", [[7, 8], [5], [6], [1]], {"shrinkAxisMask": 1}),  # beyond its end
        ("STRIDED_SLICE", [[7, 8], [0], [2], [0]], {}),  # a stride of 0
        ("STRIDED_SLICE", [[7, 8], [0], [2], [1]], {"newAxisMask": 1}),
        ("PACK", [[1, 2], [3, 4]], {}),
        ("PACK", [1, 2], {"axis": 1}),
        ("CONCATENATION", [[[1]], [[2]]], {"axis": 1}),
        ("CONCATENATION", [[1] * 40, [2]], {}),  # longer than any shape
        ("ADD", [[1], [2]], {}),
    ],
)
def test_other_arithmetic_is_left_alone(kind, inputs, options):
    assert evaluate(kind, inputs, options) is None


def test_the_shape_of_an_open_tensor_is_not_known():
    empty = np.zeros(0, np.float32), np.zeros(0, np.int64)
    source = Tensor(0, "x", (1, 4, 2), "INT8", *empty, 0, None)
    assert evaluate("SHAPE", [], {}, [source]) == [1, 4, 2]
    assert evaluate("SHAPE", [], {}, [dataclasses.replace(source, is_open=True)]) is None


def test_an_output_of_open_size_is_refused(tmp_path, rng, monkeypatch):
    net = Net(rng, (1, 4, 4, 2))
    out = net.conv(net.inputs[0], 3)
    path = net.save(tmp_path / "f.tflite", out)
    file = read_file(path)
    tensors = [dataclasses.replace(one, is_open=one.number == out) for one in file.tensors]
    monkeypatch.setattr(
        "greenedge.frontends.tflite.read_file", lambda _: dataclasses.replace(file, tensors=tuple(tensors))
    )
    with pytest.raises(UnsupportedError, match="known at run time alone"):
        read_model(path)


def test_a_softmax_that_becomes_uint8_at_the_end_is_the_hosts(tmp_path, rng):
    net = Net(rng, (1, 6))
    soft = net.softmax(net.dense(net.inputs[0], 4))
    last = net.tensor((1, 4), 1 / 256, 0, "UINT8")
    net.writer.operator("QUANTIZE", [soft], [last], 2)
    lowered = lower_source(read_model(net.save(tmp_path / "f.tflite", last)))
    assert lowered.epilogue.graph.node[-1].op_type == "Softmax"


def test_a_softmax_that_goes_on_as_uint8_is_refused(tmp_path, rng):
    net = Net(rng, (1, 4, 4, 2))
    soft = net.softmax(net.conv(net.inputs[0], 4))
    wide = net.tensor(net.about[soft][0], 1 / 256, 0, "UINT8")
    net.writer.operator("QUANTIZE", [soft], [wide], 2)
    out = net.tensor((1, 1, 1, 4), 1 / 256, 0, "UINT8")
    axes = net.writer.constant("axes", np.array([1, 2], np.int32))
    net.writer.operator("MEAN", [wide, axes], [out], 2, keepDims=True)
    with pytest.raises(UnsupportedError, match="a softmax that QUANTIZE reads"):
        read_model(net.save(tmp_path / "f.tflite", out))


def test_the_operators_that_are_read_are_listed_once(tmp_path, rng):
    net = Net(rng, (1, 5, 5, 2))
    out = net.unary("CEIL", net.unary("ABS", net.inputs[0]))
    with pytest.raises(UnsupportedError) as caught:
        read_model(net.save(tmp_path / "f.tflite", out))
    first, second = map(str, caught.value.reasons)
    assert "CONV_2D, " in first and "CEIL; it is none of the operators that are read" in second


@pytest.mark.parametrize("counts", [(1, 65, 1, 1), (2, 1, 1, 1)])
def test_copies_beyond_a_sample_are_refused(tmp_path, rng, counts):
    net = Net(rng, (1, 4, 4, 2))
    shape = net.about[net.inputs[0]][0]
    out = net.tile(net.inputs[0], counts)
    assert shape == (1, 4, 4, 2)
    with pytest.raises(UnsupportedError, match="copies of a sample|fixed size"):
        read_model(net.save(tmp_path / "f.tflite", out))
