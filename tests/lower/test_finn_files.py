"""Files that FINN's own tools write: thresholds with every scale and bias; hardware graphs, which are refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from greenedge.errors import UnsupportedError
from greenedge.graph import run_graph, verify_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_epilogue, run_prologue
from tests.lower.models import QONNX, Model

WEIGHT = np.array([[1, -1], [1, 1], [-1, 1], [1, 1]])


# (thresholds of one row or one per channel, out_scale, out_bias, out_dtype)
FORMS = {
    "bipolar": ([[0.0]], 2.0, -1.0, "BIPOLAR"),
    "bipolar per channel": ([[0.5], [-3.0], [2.0], [-100.0]], 2.0, -1.0, "BIPOLAR"),
    "ternary": ([[-2.0, 3.0]], 1.0, -1.0, "TERNARY"),
    "halves": ([[-4.0, -1.0, 0.0, 5.0]], 0.5, -1.25, "FLOAT32"),
    "a quarter of the scale": ([[-4.0, 0.0, 5.0]], 1.0, 0.75, "FLOAT32"),
    "whole": ([[-4.0, 0.0, 5.0]], 3.0, -6.0, "INT4"),
}


@pytest.mark.parametrize("name", FORMS)
def test_thresholds_with_a_scale_and_a_bias(rng, tmp_path, name):
    """FINN: y = out_scale * count(x >= T) + out_bias; then weights of -1 and +1."""
    table, scale, bias, kind = FORMS[name]
    m = Model((1, 4))
    m.annotations = {"x": "INT8", "t1": kind}
    m.node("MultiThreshold", m.constant(table), domain=QONNX, out_scale=scale, out_bias=bias, out_dtype=kind)
    m.node("MatMul", m.constant(WEIGHT))
    m.annotations[m.constants[-1].name] = "BIPOLAR"
    lowered = lower_file(m.save(tmp_path / "m.onnx"))
    verify_graph(lowered.graph)
    x = rng.integers(-128, 128, (200, 4))
    x[:100] = rng.integers(-6, 7, (100, 4))
    counts = (x[:, :, None] >= np.broadcast_to(table, (4, len(table[0])))).sum(axis=2)
    expected = (scale * counts + bias) @ WEIGHT
    (got,) = run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, x))).values()
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("domain", ["finn.custom_op.fpgadataflow", "finn.custom_op.fpgadataflow.hls"])
def test_a_graph_of_hardware_layers(tmp_path, domain):
    """All its layers are one reason; an operator of another domain has its own."""
    m = Model((1, 4)).quant(0.25, 4)
    for k in range(3):
        m.node("MVAU_hls", m.constant(WEIGHT), domain=domain, name=f"MVAU_{k}", PE=1, SIMD=1)
    proto = m.node("Odd", domain="somebody.else", name="odd").proto()
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError) as refusal:
        lower_file(tmp_path / "m.onnx")
    assert list(map(str, refusal.value.reasons)) == [
        "MVAU_0: 3 hardware layers of FINN, the first MVAU_hls; they hold folded weights and streams, no longer the "
        "network (cure: give the file before the conversion to hardware layers).",
        "odd: operator somebody.else.Odd; it is no standard ONNX or QONNX operator (cure: replace the layer).",
    ]
