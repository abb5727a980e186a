"""What stands behind the last integers runs on the host, a quantiser too; what has no place in an integer network is
refused by its name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from greenedge.errors import UnsupportedError
from greenedge.graph import run_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import classes, run_epilogue, run_prologue
from tests.lower.models import QONNX, Model

WEIGHT = np.arange(12).reshape(4, 3) % 5 - 2


def classifier():
    m = Model((1, 4)).quant(0.25, 4)
    return m.dense().quant(1.0, 5)


def scores(x):
    sums = np.clip(np.rint(x / 0.25), -8, 7) * 0.25 @ WEIGHT
    return np.clip(np.rint(sums), -16, 15).astype(np.float32)


def run(path, rng):
    lowered = lower_file(path)
    x = rng.normal(0, 1, (40, 4)).astype(np.float32)
    return lowered, run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, x))), x


def softmax(values):
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("dequantised", [False, True], ids=["integers", "floats"])
def test_a_softmax_that_is_quantised(rng, tmp_path, dequantised):
    """As int8 classifiers of TFLite end: scale 1/256, zero point -128."""
    m = classifier().node("Softmax")
    ends = (m.constant(1 / 256), m.constant(-128, np.int8))
    m.node("QuantizeLinear", *ends)
    proto = m.proto()
    if dequantised:
        proto = m.node("DequantizeLinear", *ends).proto()
    else:
        proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    onnx.save(proto, tmp_path / "m.onnx")
    lowered, outputs, x = run(tmp_path / "m.onnx", rng)
    assert [op.kind for op in lowered.graph.ops] == ["Input", "Dense", "Requantise"]
    levels = np.clip(np.rint(softmax(scores(x)) * 256) - 128, -128, 127)
    (got,) = outputs.values()
    assert got.dtype == (np.float32 if dequantised else np.int8)
    assert np.array_equal(got, (levels + 128) / 256 if dequantised else levels)
    assert np.array_equal(classes(got), got.argmax(axis=1))


def test_a_softmax_behind_qonnx_quantisers(rng, tmp_path):
    m = classifier().node("Softmax").quant(1 / 64, 6, signed=0)
    _, outputs, x = run(m.save(tmp_path / "m.onnx"), rng)
    (got,) = outputs.values()
    assert np.array_equal(got, np.clip(np.rint(softmax(scores(x)) * 64), 0, 63) / 64)


@pytest.mark.parametrize("op", ["Sigmoid", "LogSoftmax"])
def test_a_function_at_the_end(rng, tmp_path, op):
    """In float32 by the host's reference evaluator: to within a few roundings."""
    _, outputs, x = run(classifier().node(op).save(tmp_path / "m.onnx"), rng)
    real = scores(x).astype(np.float64)
    expected = 1 / (1 + np.exp(-real)) if op == "Sigmoid" else np.log(softmax(real))
    assert np.allclose(next(iter(outputs.values())), expected, rtol=1e-5, atol=1e-6)


def test_the_best_two(rng, tmp_path):
    m = classifier()
    m.node("TopK", m.constant([2], np.int64))
    m.nodes[-1].output[:] = ["values", "places"]
    proto = m.proto(["values", "places"])
    proto.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(proto, tmp_path / "m.onnx")
    _, outputs, x = run(tmp_path / "m.onnx", rng)
    order = np.argsort(-scores(x), axis=1, kind="stable")[:, :2]
    assert np.array_equal(outputs["places"], order)
    assert np.array_equal(outputs["values"], np.take_along_axis(scores(x), order, 1))


def test_a_layer_behind_a_quantised_softmax(tmp_path):
    """It is a softmax of the network, not of the host."""
    m = classifier().node("Softmax", name="soft").quant(1 / 64, 6, signed=0)
    m.node("MatMul", m.weight(np.ones((3, 2))), name="last").quant(1.0, 4)
    graph = lower_file(m.save(tmp_path / "m.onnx")).graph
    assert [op.kind for op in graph.ops][-3:] == ["Softmax", "Dense", "Requantise"]


def test_a_threshold_behind_a_softmax_stays_refused(tmp_path):
    m = classifier().node("Softmax", name="soft")
    m.node("BipolarQuant", m.constant(1.0), domain=QONNX, name="sign")
    with pytest.raises(UnsupportedError, match=r"sign: its input passed through Softmax \(soft\)"):
        lower_file(m.save(tmp_path / "m.onnx"))


def test_dynamic_quantisation_by_its_name(tmp_path):
    m = Model((1, 4)).node("DynamicQuantizeLinear", name="dynamic")
    m.nodes[-1].output[:] = ["q", "scale", "zero"]
    m.node("MatMulInteger", m.constant(WEIGHT, np.int8), source="q").node("Cast", to=1)
    with pytest.raises(UnsupportedError) as refusal:
        lower_file(m.save(tmp_path / "m.onnx"))
    assert list(map(str, refusal.value.reasons)) == [
        "dynamic: DynamicQuantizeLinear, dynamic quantisation: its scale is computed from every input anew; scales are "
        "constant in an integer network (cure: use quantize_static of onnxruntime.quantization with calibration data, "
        "in the format QDQ)."
    ]


def test_a_branch_chosen_by_the_data(tmp_path):
    m = classifier()
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    branches = [
        helper.make_graph([helper.make_node(op, [m.tensor], ["y"])], op, [], [value]) for op in ("Relu", "Identity")
    ]
    m.node("ReduceMax", axes=[1], keepdims=0).node("Cast", to=TensorProto.BOOL)
    m.node("If", name="choose", then_branch=branches[0], else_branch=branches[1])
    with pytest.raises(UnsupportedError) as refusal:
        lower_file(m.save(tmp_path / "m.onnx"))
    assert (
        "If; one network computes every sample, whatever it holds (cure: export each branch as a file of its own)"
        in (str(refusal.value))
    )


def test_scores_that_are_masked_with_infinity(rng, tmp_path):
    """Behind the last integers a mask of -inf is the host's; an infinite summand before a quantiser is refused."""
    m = classifier()
    m.node("Where", m.tensor, m.constant(-np.inf), source=m.constant([[True, False, True]], bool)).node("Softmax")
    _, outputs, x = run(m.save(tmp_path / "m.onnx"), rng)
    expected = softmax(np.where([[True, False, True]], scores(x), -np.inf))
    assert np.allclose(next(iter(outputs.values())), expected, rtol=1e-5, atol=1e-7)
    m = Model((1, 4)).quant(0.25, 4)
    m.node("Add", m.constant([0, -np.inf, 0, 0]), name="mask").quant(1.0, 4)
    with pytest.raises(UnsupportedError) as refusal:
        lower_file(m.save(tmp_path / "m.onnx"))
    assert "mask: a constant of -inf; no quantiser has a level for infinity (cure: mask with a finite number" in str(
        refusal.value
    )


@pytest.mark.parametrize("op, limit", [("Max", -np.inf), ("Min", np.inf)])
def test_a_limit_at_infinity_is_none(rng, tmp_path, op, limit):
    m = Model((1, 4)).quant(0.25, 4)
    m.node(op, m.constant(limit)).quant(1.0, 4)
    lowered = lower_file(m.save(tmp_path / "m.onnx"))
    x = rng.normal(0, 1, (40, 4)).astype(np.float32)
    (got,) = run_graph(lowered.graph, run_prologue(lowered, x)).values()
    assert np.array_equal(got, np.clip(np.rint(np.clip(np.rint(x / 0.25), -8, 7) * 0.25), -8, 7))
