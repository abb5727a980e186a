"""Random networks: the integer graph equals qonnx's execution but for proven float32 ties, and its QONNX form equals
it."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings

from greenedge.errors import UnsupportedError
from greenedge.graph import run_graph, verify_graph
from greenedge.graph.qonnx import to_qonnx
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_prologue
from greenedge.lower.float_ties.explain import explain
from greenedge.verify.reference import read_integers
from tests.lower.networks import networks

FAST, SLOW = 120, 600
# Reasons that a random network may earn: its own shape asks for them, and each is tested by its full text elsewhere.
_EXPECTED = {
    "too-wide",
    "no-step-function",
    "unsupported-scale",
    "unsupported-order",
    "unsupported-zero-point",
    "unsupported-op",
    "unquantised",
    "unsupported-shape",
}


def _execute(model: onnx.ModelProto, feeds):
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return execute_onnx(ModelWrapper(model).transform(InferShapes()), feeds, return_full_exec_context=True)


def check_network(case, path) -> str:
    """One network through both executions; returns its outcome: 'refused', 'equal' or 'tie'."""
    model, inputs = case
    onnx.save(model, str(path))
    try:
        lowered = lower_file(path)
    except UnsupportedError as refusal:
        assert {reason.kind for reason in refusal.reasons} <= _EXPECTED, str(refusal)
        return "refused"
    verify_graph(lowered.graph)
    ints = run_prologue(lowered, inputs)
    edges = [op.output for op in lowered.graph.ops if op.inputs]
    ours = run_graph(lowered.graph, ints, keep=edges)
    for edge in edges:
        span = lowered.graph.edges[edge]
        assert ours[edge].min() >= span.lo and ours[edge].max() <= span.hi, f"{edge} leaves its proved range"
    by_qonnx = read_integers(lowered, _execute(model, {"x": inputs}))
    differences = explain(lowered.graph, lowered.trace, by_qonnx)
    assert all(d.proven_tie for d in differences), [d for d in differences if not d.proven_tie][:3]
    _check_saved_form(lowered, ints, ours)
    return "tie" if differences else "equal"


def _check_saved_form(lowered, ints, ours) -> None:
    saved = to_qonnx(lowered.graph)
    if any(value.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE for value in saved.graph.input):
        return  # wider than float32: qonnx's runtime has no float64 convolution
    for k in (0, 3):
        context = _execute(saved, {edge: values[k : k + 1].astype(np.float32) for edge, values in ints.items()})
        for edge in lowered.graph.outputs:
            assert np.array_equal(context[edge], ours[edge][k : k + 1]), f"{edge} differs in the saved QONNX form"


@settings(max_examples=FAST, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks())
def test_random_networks(tmp_path_factory, case):
    check_network(case, tmp_path_factory.mktemp("net") / "net.onnx")


@pytest.mark.slow
@settings(max_examples=SLOW, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True)
@given(networks())
def test_many_random_networks(tmp_path_factory, case):
    check_network(case, tmp_path_factory.mktemp("net") / "net.onnx")
