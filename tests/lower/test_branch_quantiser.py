"""Quantisers that a file lacks inside: where they go, what they compute, and what they do not cure."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import pytest

from greenedge.errors import GreenedgeError, UnsupportedError
from greenedge.frontends.normalise import Normal
from greenedge.frontends.source import parse_normal, read_normal
from greenedge.graph import run_graph
from greenedge.lower import lower_file, lower_source
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.lower.output_quantiser import quantise_outputs
from greenedge.lower.quantiser_nodes import cut_at
from greenedge.verify.reference import qonnx_integers
from tests.lower.models import Model


def layerwise(rng, relu=True, per_channel=True):
    """Every layer rounds its own input, as layer-wise quantisation leaves it; what the sum adds is float."""
    m = Model((1, 6)).quant(0.05, 8)
    scale = rng.uniform(0.02, 0.06, (1, 6)) if per_channel else 0.031
    m.node("MatMul", m.weight(rng.integers(-7, 8, (6, 6)) * scale, scale))
    if relu:
        m.node("Relu")
    branch = m.tensor
    m.quant(0.03, 8, signed=int(not relu)).node("MatMul", m.weight(rng.integers(-7, 8, (6, 6)) * 0.043, 0.043))
    m.node("Add", branch, name="sum")
    m.quant(0.11, 8).node("MatMul", m.weight(rng.integers(-7, 8, (6, 4)) * 0.25, 0.25))
    return m, branch


def mend(model, folder, rng, **more):
    path, target = model.save(folder / "m.onnx"), folder / "q.onnx"
    x = rng.uniform(-2, 2, (60, 6)).astype(np.float32)
    added = quantise_outputs(path, target, lambda lowered: {"x": x}, **more)
    return path, target, x, added


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_sum_of_float_branches_gets_one_scale(rng, tmp_path, relu, bits):
    model, branch = layerwise(rng, relu)
    path, target, x, added = mend(model, tmp_path, rng, bits=bits, keep_outputs=True)
    with pytest.raises(UnsupportedError, match="greenedge requantise MODEL.onnx --inputs X.npy -o OUT.onnx"):
        lower_file(path)
    proto = onnx.load(target)
    (total,) = [node for node in proto.graph.node if node.name == "sum"]
    assert len(added) == 2 and len({one.scale for one in added}) == 1 and {one.bits for one in added} == {bits}
    assert branch in {one.tensor for one in added}
    writers = {name: node.op_type for node in proto.graph.node for name in node.output}
    assert {writers[name] for name in total.input} == {"Quant"}
    # the new quantiser reads the branch, and the layer that rounded it itself does as before
    assert len([node for node in proto.graph.node if node.op_type == "Quant" and node.input[0] == branch]) == 2
    lowered = lower_file(target)
    levels = run_prologue(lowered, {"x": x})
    ours = run_graph(lowered.graph, levels)
    theirs = qonnx_integers(lowered, target, x, lambda *_: None)
    assert all((theirs[edge] == ours[edge]).all() for edge in lowered.graph.outputs)


def test_the_levels_hold_the_samples_and_are_the_nearest(rng, tmp_path):
    model, branch = layerwise(rng)
    path, target, x, added = mend(model, tmp_path, rng, keep_outputs=True)
    (one,) = [one for one in added if one.tensor == branch]
    normal = read_normal(path).proto
    before = lower_source(parse_normal(Normal(cut_at(normal, [branch])), "before"))
    real = run_epilogue(before, run_graph(before.graph, run_prologue(before, {"x": x})))[branch]
    assert one.low <= real.min() and real.max() <= one.high <= one.scale * ((1 << (7 if one.signed else 8)) - 1) * 1.001
    after = lower_file(target)
    step = next(op for op in after.graph.ops if op.name.startswith(branch) and op in after.graph.requantisers)
    got = run_graph(after.graph, run_prologue(after, {"x": x}), keep=[step.output])[step.output]
    wanted = [round(Fraction(float(value)) / Fraction(one.scale)) for value in real.ravel()]
    near = np.abs(real.ravel() / one.scale - np.floor(real.ravel() / one.scale) - 0.5) < 1e-4  # float32's own ties
    assert (got.ravel() == wanted)[~near].all() and (~near).sum() > 100


def test_outputs_are_quantised_as_well_unless_they_are_to_be_kept(rng, tmp_path):
    model, _ = layerwise(rng)
    _, _, _, kept = mend(model, tmp_path, rng, keep_outputs=True)
    _, target, _, both = mend(model, tmp_path, rng)
    assert [one.tensor for one in both] == [*[one.tensor for one in kept], model.tensor]
    lowered = lower_file(target)
    assert lowered.graph.producer(lowered.graph.outputs[0]) in lowered.graph.requantisers


def test_a_model_that_lacks_none_is_left_alone(rng, tmp_path):
    model = Model((1, 6)).quant(0.05, 8)
    model.node("MatMul", model.weight(rng.integers(-7, 8, (6, 4)) * 0.25, 0.25))
    with pytest.raises(GreenedgeError, match="no layer lacks a quantiser; build the file as it is"):
        mend(model, tmp_path, rng, keep_outputs=True)
    assert not (tmp_path / "q.onnx").exists()


def test_reasons_that_no_quantiser_cures_stay(rng, tmp_path):
    model, _ = layerwise(rng)
    model.quant(0.1, 8).node("MatMul", model.constant(rng.normal(size=(4, 3))), name="float_weights").quant(0.1, 8)
    with pytest.raises(UnsupportedError, match="float_weights"):
        mend(model, tmp_path, rng, keep_outputs=True)
    assert not (tmp_path / "q.onnx").exists()


def test_samples_of_zeros_say_nothing(rng, tmp_path):
    model, _ = layerwise(rng)
    path = model.save(tmp_path / "m.onnx")
    with pytest.raises(GreenedgeError, match="sum: its inputs are 0 on every sample"):
        quantise_outputs(path, tmp_path / "q.onnx", lambda lowered: {"x": np.zeros((3, 6), np.float32)})
