"""Snap redefines the model: the rewritten file lowers to the chosen lines, qonnx agrees, and the report counts
truly."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from greenedge.backends.int8.preflight_estimate import estimate
from greenedge.backends.int8.tflite import PASSES
from greenedge.errors import GreenedgeError
from greenedge.graph import Conv, Dense, Requantise, run_graph
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_prologue
from greenedge.lower.float_ties.explain import explain
from greenedge.lower.snap import snap_file
from greenedge.verify.reference import qonnx_integers
from tests.lower.models import Model


def _model(rng, path, bits: int = 8):
    """A w8a8 layer with a float batch norm, then another layer: negative, zero and positive factors."""
    m = Model((1, 16)).quant(float(np.float32(0.013)), bits)
    m.node("MatMul", m.weight(rng.integers(-127, 128, (16, 6)) * 0.5, bits=8))
    params = (
        np.array([1.1, -0.7, 0.0, 1.9, -1.2, 0.4]),
        rng.normal(0, 0.5, 6),
        rng.normal(0, 0.5, 6),
        rng.uniform(30, 90, 6),
    )
    m.node("BatchNormalization", *(m.constant(p) for p in params)).node("Relu").quant(
        float(np.float32(0.021)), bits, signed=0
    )
    m.node("MatMul", m.weight(rng.integers(-127, 128, (6, 3)) * 0.5, bits=8)).quant(float(np.float32(0.37)), bits)
    m.nodes.sort(key=lambda node: not node.input[0].startswith("c"))
    return m.save(path)


@pytest.mark.parametrize("bits", [6, 12])
def test_the_rewritten_model_is_the_chosen_one(rng, tmp_path, bits):
    source = _model(rng, tmp_path / "m.onnx")
    report = snap_file(source, tmp_path / "s.onnx", bits)
    assert all(entry.left is None and entry.multiplier_bits <= bits for entry in report)
    before, after = lower_file(source), lower_file(tmp_path / "s.onnx")
    steps = {op.name: op for op in before.graph.ops if isinstance(op, Requantise)}
    for op in after.graph.ops:
        if isinstance(op, Requantise):
            entry = next(e for e in report if e.layer == op.name)
            assert max(int(abs(int(m))).bit_length() for m in op.affine.m) <= max(bits, 1)
            # every reachable accumulator of a few channels, one by one
            counted = 0
            for c in range(op.channels):
                x = np.arange(op.x_lo[c], op.x_hi[c] + 1)
                old, new = (
                    np.searchsorted(step.require_steps().thresholds[c if step.channels > 1 else 0], x, side="right")
                    for step in (steps[op.name], op)
                )
                counted += int((old != new).sum())
            scale = 1 if steps[op.name].channels == op.channels else op.channels
            assert entry.changed * scale == counted
    assert report[0].share < (0.05 if bits == 6 else 0.002)
    samples = rng.normal(0, 0.8, (40, 16))
    given = qonnx_integers(after, tmp_path / "s.onnx", samples, lambda *_: None)
    ours = run_graph(after.graph, run_prologue(after, samples))[after.graph.outputs[0]]
    assert all(d.proven_tie for d in explain(after.graph, after.trace, given))
    assert (given[after.graph.outputs[0]] == ours).mean() > 0.99


@pytest.mark.parametrize("kind", ["Gemm", "Conv"])
def test_a_float_bias_of_the_layers_own_goes_onto_the_grid(rng, tmp_path, kind):
    """Brevitas' default: bias=True without a quantiser for it."""
    m = Model((1, 4, 5, 5) if kind == "Conv" else (1, 16)).quant(float(np.float32(0.013)), 8)
    shape = (6, 4, 3, 3) if kind == "Conv" else (16, 6)
    m.node(kind, m.weight(rng.integers(-127, 128, shape) * 0.5, bits=8), m.constant(rng.normal(0, 3, 6))).quant(
        float(np.float32(1.7)), 8
    )
    m.nodes.sort(key=lambda node: not node.input[0].startswith("c"))
    source = m.save(tmp_path / "m.onnx")
    (entry,) = snap_file(source, tmp_path / "s.onnx", 16)
    assert entry.left is None and 0 < entry.changed and entry.share < 1e-3 and entry.largest == 1
    before, after = (
        estimate(legalise_graph(lower_file(path).graph, PASSES), {Dense: "FULLY_CONNECTED", Conv: "CONV_2D"})
        for path in (source, tmp_path / "s.onnx")
    )
    assert before.differing_accumulators > 20 * after.differing_accumulators  # an int8 file can hold it now
    layer = next(node for node in onnx.load(str(tmp_path / "s.onnx")).graph.node if node.op_type == kind)
    assert (
        len(layer.input) == 2
        and len(next(n for n in onnx.load(str(source)).graph.node if n.op_type == kind).input) == 3
    )


def test_snapping_twice_changes_nothing_more(rng, tmp_path):
    snap_file(_model(rng, tmp_path / "m.onnx"), tmp_path / "once.onnx", 8)
    assert [entry.changed for entry in snap_file(tmp_path / "once.onnx", tmp_path / "twice.onnx", 8)] == [0, 0]


def test_what_cannot_be_snapped_is_left_and_said(tmp_path):
    m = Model().quant(0.25, 4)
    m.quant(0.31, 4)
    source = m.save(tmp_path / "m.onnx")
    report = snap_file(source, tmp_path / "s.onnx", 8)
    assert [(entry.layer, entry.left) for entry in report] == [("Quant_2", "it follows no layer of its own")]
    assert len(onnx.load(str(tmp_path / "s.onnx")).graph.node) == 2


def test_other_widths_are_errors(tmp_path):
    with pytest.raises(GreenedgeError) as error:
        snap_file(tmp_path / "m.onnx", tmp_path / "s.onnx", 40)
    assert str(error.value) == "40 multiplier bits; snap takes 2 to 24."
