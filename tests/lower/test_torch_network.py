"""A float ONNX file as a torch network: each operator against ONNX Runtime, and what is refused, all at once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from greenedge.errors import GreenedgeError, UnsupportedError
from greenedge.frontends.post_training import run_float
from greenedge.frontends.torch_network import read_network
from greenedge.frontends.torch_network.rules import RULES

IMAGE, ROWS, SERIES, PLACES = (1, 4, 6, 6), (1, 12), (1, 4, 9), (1, 6, 8)


def write(path, nodes, shape, out_shape, constants=None, opset=20):
    """A model of these nodes from x (shape) to y; constants by name."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out_shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def node(op, *inputs, out="y", **attributes):
    return helper.make_node(op, ["x", *inputs], [out], name=op.lower(), **attributes)


def draw(*shape):
    return np.random.default_rng(len(shape) + sum(shape)).normal(0, 0.5, shape).astype(np.float32)


def positive(*shape):
    return np.abs(draw(*shape)) + 0.5


def ints(*values):
    return np.array(values, np.int64)


# (nodes, shape of x, shape of y, constants); the axis of samples is 1 long in the file
CASES = {
    "Conv": ([node("Conv", "w", "b", pads=[1, 0, 1, 2], strides=[2, 1])], IMAGE, (1, 3, 3, 6),
             {"w": draw(3, 4, 3, 3), "b": draw(3)}),
    "Conv depthwise": ([node("Conv", "w", group=4, pads=[1] * 4)], IMAGE, IMAGE, {"w": draw(4, 1, 3, 3)}),
    "Conv dilated, one dimension": ([node("Conv", "w", dilations=[2])], SERIES, (1, 5, 5), {"w": draw(5, 4, 3)}),
    "ConvTranspose": ([node("ConvTranspose", "w", "b", strides=[2, 2], pads=[1] * 4, output_padding=[1, 1])],
                      IMAGE, (1, 3, 12, 12), {"w": draw(4, 3, 3, 3), "b": draw(3)}),
    "ConvTranspose in groups": ([node("ConvTranspose", "w", group=2)], IMAGE, (1, 6, 8, 8), {"w": draw(4, 3, 3, 3)}),
    "Gemm": ([node("Gemm", "w", "b", alpha=0.5, beta=2.0, transB=1)], ROWS, (1, 7), {"w": draw(7, 12), "b": draw(7)}),
    "Gemm, not turned": ([node("Gemm", "w")], ROWS, (1, 7), {"w": draw(12, 7)}),
    "MatMul": ([node("MatMul", "w")], ROWS, (1, 7), {"w": draw(12, 7)}),
    "MatMul, rows with a bias": ([node("MatMul", "w", out="r"), helper.make_node("Add", ["r", "b"], ["y"])],
                                 PLACES, (1, 6, 5), {"w": draw(8, 5), "b": draw(5)}),
    "MatMul, places of their own": ([node("MatMul", "w", out="r"), helper.make_node("Add", ["r", "b"], ["y"])],
                                    PLACES, (1, 6, 5), {"w": draw(8, 5), "b": draw(1, 6, 5)}),
    "MatMul, less a number": ([node("MatMul", "w", out="r"), helper.make_node("Sub", ["r", "b"], ["s"]),
                               helper.make_node("Div", ["s", "d"], ["y"])],
                              PLACES, (1, 6, 5), {"w": draw(8, 5), "b": draw(1), "d": np.float32(3)}),
    "MatMul of two activations": ([node("MatMul", "w", out="r"), helper.make_node("MatMul", ["r", "x"], ["y"])],
                                  (1, 6, 6), (1, 6, 6), {"w": draw(6, 6)}),
    "LayerNormalization": ([node("LayerNormalization", "g", "b", axis=-1, epsilon=1e-3)], PLACES, PLACES,
                           {"g": positive(8), "b": draw(8)}),
    "Softmax of rows": ([node("MatMul", "w", out="r"), helper.make_node("Softmax", ["r"], ["s"], axis=-1),
                         helper.make_node("Relu", ["s"], ["y"])], PLACES, PLACES, {"w": draw(8, 8)}),
    "Gather": ([node("Gather", "i", axis=1)], PLACES, (1, 8), {"i": np.int64(2)}),
    "Gather, the axis kept": ([node("Gather", "i", axis=2)], PLACES, (1, 6, 1), {"i": ints(3)}),
    "ReduceMean of places": ([node("ReduceMean", "axes", keepdims=0)], PLACES, (1, 8), {"axes": ints(1)}),
    "BatchNormalization": ([node("BatchNormalization", "s", "o", "m", "v")], IMAGE, IMAGE,
                           {"s": positive(4), "o": draw(4), "m": draw(4), "v": positive(4)}),
    "Add a channel's number": ([node("Add", "c")], IMAGE, IMAGE, {"c": draw(4, 1, 1)}),
    "Add two activations": ([node("Relu", out="r"), node("Add", "r")], IMAGE, IMAGE, {}),
    "Sub from a constant": ([helper.make_node("Sub", ["c", "x"], ["y"])], IMAGE, IMAGE, {"c": draw(4, 1, 1)}),
    "Sub": ([node("Sub", "c")], IMAGE, IMAGE, {"c": draw(1)}),
    "Mul": ([node("Mul", "c")], IMAGE, IMAGE, {"c": draw(4, 1, 1)}),
    "Mul two activations": ([node("Relu", out="r"), node("Mul", "r")], IMAGE, IMAGE, {}),
    "Mul, a gate of its own": ([node("Sigmoid", out="s"), node("Mul", "s")], IMAGE, IMAGE, {}),
    "Mul, a hard gate": ([node("HardSigmoid", out="s", alpha=1 / 6, beta=0.5), node("Mul", "s")], IMAGE, IMAGE, {}),
    "Div": ([node("Div", "c")], IMAGE, IMAGE, {"c": positive(4, 1, 1)}),
    "Clip": ([node("Clip", "low", "high")], IMAGE, IMAGE, {"low": np.float32(-0.4), "high": np.float32(0.7)}),
    "Clip at 6": ([node("Clip", "low", "high")], IMAGE, IMAGE, {"low": np.float32(0), "high": np.float32(6)}),
    "Clip below": ([node("Clip", "low")], IMAGE, IMAGE, {"low": np.float32(0)}),
    "Concat": ([node("Relu", out="r"), node("Concat", "r", axis=1)], IMAGE, (1, 8, 6, 6), {}),
    "Dropout": ([node("Dropout", out="d"), helper.make_node("Relu", ["d"], ["y"])], IMAGE, IMAGE, {}),
    "Elu": ([node("Elu", alpha=0.7)], IMAGE, IMAGE, {}),
    "Flatten": ([node("Flatten", axis=1)], IMAGE, (1, 144), {}),
    "Gelu": ([node("Gelu", approximate="tanh")], IMAGE, IMAGE, {}),
    "GlobalAveragePool": ([node("GlobalAveragePool")], IMAGE, (1, 4, 1, 1), {}),
    "GlobalMaxPool": ([node("GlobalMaxPool")], IMAGE, (1, 4, 1, 1), {}),
    "HardSigmoid": ([node("HardSigmoid", alpha=1 / 6, beta=0.5)], IMAGE, IMAGE, {}),
    "HardSwish": ([node("HardSwish")], IMAGE, IMAGE, {}),
    "Identity": ([node("Identity", out="i"), helper.make_node("Relu", ["i"], ["y"])], IMAGE, IMAGE, {}),
    "LeakyRelu": ([node("LeakyRelu", alpha=0.2)], IMAGE, IMAGE, {}),
    "LogSoftmax": ([node("LogSoftmax", axis=1)], ROWS, ROWS, {}),
    "Softmax": ([node("Softmax", axis=1)], ROWS, ROWS, {}),
    "MaxPool": ([node("MaxPool", kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])], IMAGE, (1, 4, 3, 3), {}),
    "AveragePool": ([node("AveragePool", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)], IMAGE, IMAGE, {}),
    "AveragePool, pads not counted": ([node("AveragePool", kernel_shape=[3, 3], pads=[1] * 4)], IMAGE, IMAGE, {}),
    "Pad": ([node("Pad", "p")], IMAGE, (1, 4, 9, 7), {"p": ints(0, 0, 1, 0, 0, 0, 2, 1)}),
    "ReduceMean": ([node("ReduceMean", "axes", keepdims=0)], IMAGE, (1, 4), {"axes": ints(2, 3)}),
    "ReduceMean, axes kept": ([node("ReduceMean", "axes")], IMAGE, (1, 4, 1, 1), {"axes": ints(-1, -2)}),
    "Relu": ([node("Relu")], IMAGE, IMAGE, {}),
    "Reshape": ([node("Reshape", "s")], IMAGE, (1, 8, 3, 6), {"s": ints(1, 8, 3, 6)}),
    "Resize": ([node("Resize", "", "f", mode="nearest", coordinate_transformation_mode="asymmetric",
                     nearest_mode="floor")], IMAGE, (1, 4, 12, 18), {"f": np.float32([1, 1, 2, 3])}),
    "Sigmoid": ([node("Sigmoid")], IMAGE, IMAGE, {}),
    "Squeeze": ([node("GlobalAveragePool", out="p"), helper.make_node("Squeeze", ["p", "axes"], ["y"])], IMAGE, (1, 4),
                {"axes": ints(2, 3)}),
    "Tanh": ([node("Tanh")], IMAGE, IMAGE, {}),
    "Transpose": ([node("Transpose", perm=[0, 2, 3, 1])], IMAGE, (1, 6, 6, 4), {}),
    "Unsqueeze": ([node("Unsqueeze", "axes")], ROWS, (1, 1, 12), {"axes": ints(1)}),
}  # fmt: skip


def test_every_operator_has_a_case():
    assert {name.partition(" ")[0].rstrip(",") for name in CASES} == set(RULES)


@pytest.mark.parametrize("case", CASES)
def test_an_operator_is_what_onnxruntime_computes(rng, tmp_path, case):
    import torch

    nodes, shape, out_shape, constants = CASES[case]
    path = write(tmp_path / "net.onnx", nodes, shape, out_shape, constants)
    x = rng.normal(0, 2, (5, *shape[1:])).astype(np.float32)
    (want,) = run_float(path, {"x": x})
    with torch.no_grad():
        got = read_network(path)(torch.from_numpy(x)).numpy()
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)  # float32, summed in another order


def test_every_reason_is_given_at_once(tmp_path):
    nodes = [
        node("Erf", out="a"),
        node("MaxPool", out="b", kernel_shape=[3, 3], pads=[0, 0, 1, 1]),
        node("Div", "a", out="c"),
        node("HardSigmoid", out="d"),
        node("Clip", "low", out="e"),
        helper.make_node("Sum", ["c", "d", "e"], ["y"]),
    ]
    path = write(tmp_path / "net.onnx", nodes, IMAGE, IMAGE, {"low": np.float32(-1)})
    with pytest.raises(UnsupportedError) as caught:
        read_network(path)
    said = str(caught.value)
    for part in (
        "erf: Erf; no torch form is known",
        "pads [0, 0, 1, 1]; both sides",
        "alpha 0.2",
        "limits -1…inf; both are",
    ):
        assert part in said, said
    assert "Sum" not in said  # what follows a refused node has no reason of its own


def test_constants_between_places_that_have_no_form(tmp_path):
    for op, constant, said in (("Mul", draw(5), "Mul by a constant of shape"), ("Add", draw(2, 6, 5), "widen")):
        nodes = [node("MatMul", "w", out="r"), helper.make_node(op, ["r", "c"], ["y"], name="odd")]
        path = write(
            tmp_path / "net.onnx", nodes, PLACES, (2 if op == "Add" else 1, 6, 5), {"w": draw(8, 5), "c": constant}
        )
        with pytest.raises(UnsupportedError, match=said):
            read_network(path)


def test_what_mixes_samples_is_refused(tmp_path):
    path = write(tmp_path / "net.onnx", [node("Reshape", "s")], IMAGE, (2, 72), {"s": ints(2, 72)})
    with pytest.raises((UnsupportedError, GreenedgeError), match="batch|samples"):
        read_network(path)


def test_a_file_that_onnxruntime_cannot_load_is_a_sentence(tmp_path):
    path = write(tmp_path / "net.onnx", [node("MatMul", "w")], ROWS, (1, 7), {"w": draw(5, 7)})
    with pytest.raises(GreenedgeError) as caught:
        read_network(path)
    assert str(caught.value).count("\n") == 0 and "net.onnx" in str(caught.value)
