"""Every activation that lowers, against qonnx's own execution over the whole range; and graphs as ONNX Runtime
quantises."""

from __future__ import annotations

import math

import numpy as np
import pytest

from greenedge.graph import run_graph
from greenedge.lower import lower_file, step_function
from greenedge.lower.expr import Undecidable, Var
from greenedge.lower.expr_functions import Magnitude, Smooth
from greenedge.lower.float_io import run_prologue
from greenedge.lower.float_ties.explain import explain
from greenedge.lower.rounding import quantiser
from greenedge.verify.reference import qonnx_integers
from tests.lower.models import Model

PLAIN = {
    "Relu": {},
    "LeakyRelu": {"alpha": 0.1},
    "Sigmoid": {},
    "Tanh": {},
    "HardSigmoid": {},
    "HardSwish": {},
    "Elu": {},
    "Softplus": {},
    "Erf": {},
    "Neg": {},
    "Abs": {},
    "Exp": {},
    "Gelu": {},
    "Identity": {},
}


def _agrees(model: Model, tmp_path, samples) -> None:
    path = model.save(tmp_path / "m.onnx")
    lowered = lower_file(path)
    given = qonnx_integers(lowered, path, samples, lambda *_: None)
    assert all(d.proven_tie for d in explain(lowered.graph, lowered.trace, given))
    edge = lowered.graph.outputs[0]
    ours = run_graph(lowered.graph, run_prologue(lowered, samples))[edge]
    assert len(np.unique(ours)) > 2 and (ours == given[edge]).mean() > 0.98


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("scale", [0.03125, float(np.float32(0.0437))])
def test_activation(tmp_path, name, scale):
    m = Model((1, 64), opset=20).quant(scale, 8).node(name, **PLAIN[name]).quant(float(np.float32(scale * 1.3)), 7)
    _agrees(m, tmp_path, (np.arange(-128, 128, dtype=np.float32) * np.float32(scale)).reshape(4, 64))


def test_parametric_ones_and_squares(tmp_path, rng):
    m = Model((1, 4, 8, 8)).quant(0.05, 8)
    m.node("PRelu", m.constant(np.float32([0.1, 0.25, 0.0, 0.9]).reshape(4, 1, 1))).quant(0.07, 8).node(
        "Pow", m.constant(2.0)
    ).node("Max", m.constant(0.5)).node("Min", m.constant(9.0)).quant(0.11, 7)
    _agrees(m, tmp_path, rng.uniform(-6, 6, (4, 4, 8, 8)).astype(np.float32))


def test_a_product_with_its_own_gate_is_a_function_of_one_integer(tmp_path):
    m = Model((1, 64)).quant(0.04, 8)
    source = m.tensor
    m.node("Sigmoid").node("Mul", source).quant(0.05, 7)
    _agrees(m, tmp_path, (np.arange(-128, 128, dtype=np.float32) * np.float32(0.04)).reshape(4, 64))


def test_a_model_as_onnx_runtime_quantises_it(tmp_path, rng):
    """QDQ with per-channel weights, int32 biases and asymmetric activations; the graph against onnxruntime, output by
    output."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    tensors = {
        "w1": rng.normal(0, 0.4, (6, 2, 3, 3)),
        "b1": rng.normal(0, 0.2, 6),
        "w2": rng.normal(0, 0.3, (96, 5)),
        "b2": rng.normal(0, 0.2, 5),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="conv"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Flatten", ["b"], ["c"], name="flat"),
        helper.make_node("Gemm", ["c", "w2", "b2"], ["y"], name="fc"),
    ]

    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "float",
        [value("x", [1, 2, 6, 6])],
        [value("y", [1, 5])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        str(tmp_path / "float.onnx"),
    )
    samples = rng.normal(0, 1, (30, 2, 6, 6)).astype(np.float32)

    class Reader(CalibrationDataReader):
        rows = iter([{"x": sample[None]} for sample in samples])

        def get_next(self):
            return next(self.rows, None)

    quantize_static(
        str(tmp_path / "float.onnx"),
        str(tmp_path / "q.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    lowered = lower_file(tmp_path / "q.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(tmp_path / "q.onnx"), options, providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"x": sample[None]})[0] for sample in samples])
    (output,) = lowered.outputs
    ours = run_graph(lowered.graph, run_prologue(lowered, samples))[output.edge]
    levels = np.rint(expected / output.scale + output.zero)
    assert np.abs(ours - levels).max() <= 1 and (ours == levels).mean() > 0.98  # onnxruntime executes in float32: ties


def test_values_beyond_float64_are_found_by_halving(monkeypatch):
    """exp(exp(|x|)) is beyond it from 7 on: 8 comparisons for each value, not one for each of 254 boundaries."""
    calls = []
    exactly = step_function._exactly_reaches
    monkeypatch.setattr(step_function, "_exactly_reaches", lambda *args: calls.append(args) or exactly(*args))
    y = Smooth((Smooth((Magnitude((Var(),)),), "exp"),), "exp")
    levels = quantiser("ROUND", -127, 127)
    found = step_function.step_function(y, levels, np.array([-9]), np.array([9]))
    expected = [round(min(math.exp(math.exp(abs(x))) if abs(x) < 6 else 127, 127)) for x in range(-9, 10)]
    assert found.levels.tolist() == [expected] and len(calls) <= 6 * 8
    monkeypatch.setattr(step_function, "MAX_OPEN", 5)
    with pytest.raises(Undecidable, match="6 of its values lie beyond float64 or within its error of a rounding bound"):
        step_function.step_function(y, levels, np.array([-9]), np.array([9]))
