"""What onnxruntime.quantization writes lowers for every kind of target, and is what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from greenedge.errors import UnsupportedError
from greenedge.frontends.import_onnx import ModelFile
from greenedge.frontends.qoperator import RULES
from greenedge.graph import run_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_prologue
from greenedge.lower.float_ties.outputs_only import reachable_by_ties
from greenedge.run.jobs import jobs_for, preflight
from greenedge.run.loop import run_job
from greenedge.verify.float_references import read_levels
from tests.flows.warm_python import warm_python
from tests.lower.runtime_files import NETWORKS, VARIANTS, quantise

TARGETS = ("linux-x86", "cortex-m4", "ulx3s-85f")


def run_original(path, samples) -> np.ndarray:
    """ONNX Runtime on the file itself, its operators as they stand there."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": x[None]})[0] for x in samples])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("network", NETWORKS)
def test_lowers_and_equals_onnxruntime(network, variant, tmp_path):
    path, samples = quantise(network, variant, tmp_path)
    lowered = lower_file(path)
    ints = run_prologue(lowered, samples)
    (output,) = lowered.outputs
    ours = run_graph(lowered.graph, ints)[output.edge]
    theirs = read_levels(run_original(path, samples), output.scale, output.zero)
    assert theirs is not None
    theirs = theirs.reshape(ours.shape)
    for k in np.flatnonzero((ours != theirs).reshape(len(ours), -1).any(axis=1)):
        assert reachable_by_ties(lowered, {e: v[k : k + 1] for e, v in ints.items()}, theirs[k : k + 1]), k


# the first has weights beyond int8 in some channels alone, and a sum whose rounding a finer step would suit
FAST_BUILDS = (("bottleneck", "qdq-u8u8-pt"),)


@pytest.mark.parametrize(
    "network, variant",
    [
        pytest.param(network, variant, marks=[pytest.mark.slow] * ((network, variant) not in FAST_BUILDS))
        for network in NETWORKS
        for variant in VARIANTS
    ],
)
def test_check_accepts_for_every_target_and_what_it_accepts_is_built(network, variant, tmp_path):
    path, samples = quantise(network, variant, tmp_path)
    np.save(tmp_path / "x.npy", samples)
    given = ModelFile(path, tmp_path / "x.npy")
    for found in preflight(given, list(TARGETS), None, {}):
        assert not found.reasons, (found.target, found.reasons)
    (job,) = jobs_for(given, ["linux-x86"])
    with warm_python():
        assert run_job(job, tmp_path / "run", until="verify").stages["verify"].status == "done"


class QOperators:
    """A file of one operator on integers: QuantizeLinear, the operator, DequantizeLinear."""

    def __init__(self, op: str, rank: int = 2, domain: str = "com.microsoft", **attrs):
        self.op, self.shape, self.domain, self.attrs = op, (1, 2, 4, 4)[:rank], domain, attrs
        self.constants: list[onnx.TensorProto] = []
        self.quantiser = [self.constant(0.5, np.float32), self.constant(3, np.uint8)]

    def constant(self, values, kind) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def save(self, path, *inputs: str):
        nodes = [
            helper.make_node("QuantizeLinear", ["x", *self.quantiser], ["q"], name="first"),
            helper.make_node(
                self.op, ["q", *self.quantiser, *inputs], ["r"], name="one", domain=self.domain, **self.attrs
            ),
            helper.make_node("DequantizeLinear", ["r", *self.quantiser], ["y"], name="last"),
        ]
        value = helper.make_tensor_value_info
        ends = [value("x", TensorProto.FLOAT, self.shape)], [value("y", TensorProto.FLOAT, None)]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        graph = helper.make_graph(nodes, "one", *ends, self.constants)
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
        return path


def save_gemm(path, weights, bias, scale: float):
    """(sum + bias) * 0.5 * scale / 0.5 + 3."""
    file = QOperators("QGemm")
    parts = file.constant(weights, np.int8), file.constant(scale, np.float32), file.constant(0, np.int8)
    return file.save(path, *parts, file.constant(bias, np.int32), *file.quantiser)


def test_a_bias_beyond_float32_is_added_whole(tmp_path):
    """(2**24 + 1) / 2**25 is above a half, and float32 has no 2**24 + 1."""
    bias = [(1 << 24) + 1, -(1 << 24) - 1, 5]
    path = save_gemm(tmp_path / "g.onnx", np.array([[1, 2, 3], [4, 5, 6]]), bias, 2.0**-25)
    lowered = lower_file(path)
    x = np.array([[3, 3], [4, 3], [0, 255], [17, 2]], np.uint8)
    (edge,) = lowered.graph.inputs
    (output,) = lowered.graph.outputs
    sums = (x.astype(np.int64) - 3) @ np.array([[1, 2, 3], [4, 5, 6]]) + bias
    want = np.clip(np.round(sums / 2.0**25) + 3, 0, 255)  # powers of two: float64 has every one of them
    assert np.array_equal(run_graph(lowered.graph, {edge: x})[output], want)


def test_weights_that_are_computed_and_channels_last_stay_as_they_are(tmp_path):
    pool = QOperators("QLinearGlobalAveragePool", rank=4, channels_last=1)
    with pytest.raises(UnsupportedError, match="operator com.microsoft.QLinearGlobalAveragePool"):
        lower_file(pool.save(tmp_path / "p.onnx", *pool.quantiser))
    older = QOperators("QLinearSoftmax", rank=4, axis=1, opset=12)
    with pytest.raises(UnsupportedError, match="operator com.microsoft.QLinearSoftmax"):
        lower_file(older.save(tmp_path / "o.onnx", *older.quantiser))
    short = QOperators("QLinearAdd")
    with pytest.raises(UnsupportedError, match="operator com.microsoft.QLinearAdd"):
        lower_file(short.save(tmp_path / "a.onnx", "q"))
    scaled = QOperators("QGemm", alpha=0.5)
    parts = scaled.constant(np.ones((2, 2)), np.int8), scaled.constant(1.0, np.float32), scaled.constant(0, np.int8)
    with pytest.raises(UnsupportedError, match="operator com.microsoft.QGemm"):
        lower_file(scaled.save(tmp_path / "s.onnx", *parts, scaled.constant([1, 2], np.int32), *scaled.quantiser))


@pytest.mark.parametrize("op", [op for op in RULES if op.startswith("QLinear") and RULES[op][0]])
def test_operators_of_onnxruntime_equal_it(op, tmp_path, rng):
    """Each is computed by ONNX Runtime's own kernel, which works in float32: ties are proved, nothing else allowed."""
    extra = {"QLinearConcat": {"axis": 1}, "QLinearAveragePool": {"kernel_shape": [2, 2]}}
    extra |= {"QLinearSoftmax": {"axis": 1, "opset": 13}}
    file = QOperators(op, rank=4, **extra.get(op, {}))
    scale, zero = file.constant(0.37, np.float32), file.constant(11, np.uint8)
    two = op in ("QLinearAdd", "QLinearMul")
    path = tmp_path / "one.onnx"
    if op == "QLinearConcat":
        file.save(path)
        model = onnx.load(str(path))
        model.graph.node[1].input[:] = [scale, zero, "q", *file.quantiser, "q", *file.quantiser]
    else:
        file.save(path, *(["q", *file.quantiser] if two else []), scale, zero)
        model = onnx.load(str(path))
    model.graph.node[2].input[1:] = [scale, zero]
    onnx.save(model, str(path))
    samples = rng.normal(0, 30, (16, 2, 4, 4)).astype(np.float32)
    lowered = lower_file(path)
    ints = run_prologue(lowered, samples)
    if not lowered.outputs[0].dequantised:
        assert op == "QLinearSoftmax"  # what follows the integers runs on the host
        return
    (output,) = lowered.outputs
    ours = run_graph(lowered.graph, ints)[output.edge]
    theirs = read_levels(run_original(path, samples), output.scale, output.zero)
    for k in np.flatnonzero((ours != theirs.reshape(ours.shape)).reshape(16, -1).any(axis=1)):
        assert reachable_by_ties(lowered, {e: v[k : k + 1] for e, v in ints.items()}, theirs[k : k + 1]), k
