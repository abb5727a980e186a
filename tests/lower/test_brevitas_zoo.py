"""Every shape of Brevitas network: lowered, equal to qonnx's execution, equal in its saved form."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest

from greenedge.graph import run_graph, verify_graph
from greenedge.graph.qonnx import to_qonnx
from greenedge.lower import load_lowering, lower_file, proof, save_lowering
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.lower.float_ties.explain import explain
from greenedge.verify.reference import qonnx_integers
from tests.lower.zoo import ZOO, make

# not monotone, so tabulated: no affine form can exist
WITHOUT_AFFINE = {"curves"}
# what every change is tried on; the others have the same layers in other forms
FAST = ("mlp", "cnn", "depthwise", "residual", "per-channel", "curves", "classes")


def export(name: str, path) -> np.ndarray:
    """Writes the network as QONNX; returns its samples."""
    from brevitas.export import export_qonnx

    network, samples = make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_qonnx(network, samples[:1], str(path))
    return samples.numpy()


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in ZOO])
def test_network(tmp_path, name, capfd):
    samples = export(name, tmp_path / "model.onnx")
    lowered = lower_file(tmp_path / "model.onnx")
    verify_graph(lowered.graph)
    ints = run_prologue(lowered, samples)
    edges = [op.output for op in lowered.graph.ops if op.inputs]
    ours = run_graph(lowered.graph, ints, keep=edges)
    observed = qonnx_integers(lowered, tmp_path / "model.onnx", samples, lambda *_: None)
    differences = explain(lowered.graph, lowered.trace, observed)
    assert all(d.proven_tie for d in differences), differences[:3]
    for op in lowered.graph.requantisers:
        assert len(np.unique(ours[op.output])) > 1, f"{op.name} is constant: the network tests nothing"
        assert name in WITHOUT_AFFINE or proof(op)["proved"]
    _check_saved_form(lowered, ints, ours)
    save_lowering(lowered, tmp_path / "lower")
    loaded = load_lowering(tmp_path / "lower")
    outputs = run_epilogue(loaded, {edge: ours[edge] for edge in loaded.graph.outputs})
    assert all(np.isfinite(values).all() and len(values) == len(samples) for values in outputs.values())


def _check_saved_form(lowered, ints, ours) -> None:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    saved = to_qonnx(lowered.graph)
    assert all(v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for v in saved.graph.input)
    model = ModelWrapper(saved)
    for k in (0, 5):
        context = execute_onnx(
            model,
            {edge: part[k : k + 1].astype(np.float32) for edge, part in ints.items()},
            return_full_exec_context=True,
        )
        for edge, values in ours.items():
            assert np.array_equal(context[edge], values[k : k + 1]), f"{edge} differs in the saved QONNX form"


@pytest.mark.parametrize(
    "name", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cnn", "inception", "classes"))]
)
def test_the_saved_form_lowers_to_the_same_integers(tmp_path, name):
    """graph.onnx is QONNX with integer types noted on it: lowering it again gives a graph that computes the same."""
    samples = export(name, tmp_path / "model.onnx")
    lowered = lower_file(tmp_path / "model.onnx")
    save_lowering(lowered, tmp_path / "lower")
    again = lower_file(tmp_path / "lower" / "graph.onnx")
    ints = run_prologue(lowered, samples)
    first = run_graph(lowered.graph, ints)[lowered.graph.outputs[0]]
    (edge,) = again.graph.inputs
    verify_graph(again.graph)
    second = run_graph(again.graph, {edge: next(iter(ints.values()))})[again.graph.outputs[0]]
    assert np.array_equal(first, second)
