"""Where integers come in and go out: declared and annotated inputs, constant sub-graphs, several outputs, QCDQ,
Trunc."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.errors import GreenedgeError
from greenedge.frontends.input_type import parse_input_type
from greenedge.graph import Input, Requantise, run_graph
from greenedge.legalise.fuse_steps import fuse_steps
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.lower.float_ties.explain import explain
from greenedge.verify.reference import qonnx_integers
from tests.lower.models import QONNX, Model


def _equal(tmp_path, model: Model, samples, outputs=None, declared=None):
    """The lowered model, after every stage gave qonnx's integers."""
    path = model.save(tmp_path / "m.onnx", outputs)
    lowered = lower_file(path, declared)
    ints = run_prologue(lowered, samples)
    ours = run_graph(lowered.graph, ints, keep=[op.output for op in lowered.graph.ops])
    if declared is None:
        given = qonnx_integers(lowered, path, samples, lambda *_: None)
        assert all(d.proven_tie for d in explain(lowered.graph, lowered.trace, given))
        for edge in lowered.graph.outputs:
            assert np.array_equal(given[edge], ours[edge])
    return lowered, ints, ours


def test_a_declared_input_carries_through_an_affine_prologue(rng, tmp_path):
    """0…255 that the model maps to -1…1 stay integers on the device: the first quantiser becomes a step function of
    them."""
    m = Model()
    m.node("Mul", m.constant(2.0)).node("Sub", m.constant(1.0)).quant(0.25, 4).dense().quant(0.5, 8)
    samples = rng.integers(0, 256, (20, 4))
    lowered, _, ours = _equal(tmp_path, m, samples, declared={None: parse_input_type("uint8:1/255")})
    assert lowered.prologue is None and lowered.graph.edges[lowered.graph.inputs[0]].dtype == "UINT8"
    assert isinstance(lowered.graph.ops[1], Requantise)
    real = (samples / 255 * 2 - 1) / 0.25
    assert np.array_equal(ours[lowered.graph.ops[1].output], np.clip(np.round(real), -8, 7))


def test_a_declared_input_takes_reals_on_its_grid_only(tmp_path):
    m = Model().node("Relu").dense()
    lowered = lower_file(m.save(tmp_path / "m.onnx"), {"x": parse_input_type("int8:0.5")})
    assert run_prologue(lowered, np.array([[0.5, -1.0, 2.0, 0.0]]))["x"].tolist() == [[1, -2, 4, 0]]
    with pytest.raises(GreenedgeError) as error:
        run_prologue(lowered, np.array([[0.5, 0.6, 2.0, 0.0]]))
    assert str(error.value) == (
        "input 'x' holds 0.6, which is no multiple of its step 0.5; quantise the data or declare another input type."
    )


def test_an_unknown_input_is_an_error_with_its_name(tmp_path):
    with pytest.raises(GreenedgeError) as error:
        lower_file(Model().quant().save(tmp_path / "m.onnx"), {"y": parse_input_type("int8")})
    assert str(error.value) == "tiny has no input 'y'; its inputs are x."


def test_an_annotated_input_is_integer(rng, tmp_path):
    m = Model().dense()
    m.annotations["x"] = "UINT4"
    lowered, ints, _ = _equal(tmp_path, m, rng.integers(0, 16, (8, 4)).astype(np.float32))
    assert (
        lowered.prologue is None
        and isinstance(lowered.graph.ops[0], Input)
        and lowered.graph.edges["x"].dtype == "UINT4"
    )


@pytest.mark.parametrize(
    "x, said",
    [
        (np.zeros((2, 5)), "input 'x' has shape (2, 5); it must be ('batch', 4)."),
        (np.full((1, 4), np.nan), "input 'x' holds NaN or infinity; clean the data first."),
        ({"y": np.zeros((1, 4))}, "input 'x' is missing; it has shape ('batch', 4)."),
    ],
)
def test_wrong_float_inputs_are_errors_with_their_names(tmp_path, x, said):
    lowered = lower_file(Model().quant().dense().save(tmp_path / "m.onnx"))
    with pytest.raises(GreenedgeError) as error:
        run_prologue(lowered, x)
    assert str(error.value) == said


def test_constant_sub_graphs_as_exporters_leave_them(rng, tmp_path):
    """Shape → Gather → Unsqueeze → Concat → Reshape."""
    m = Model((1, 2, 6, 6)).quant()
    tensor = m.tensor
    m.node("Shape").node("Gather", m.constant(0, np.int64), axis=0).node("Unsqueeze", m.constant([0], np.int64)).node(
        "Concat", m.constant([-1], np.int64), axis=0
    )
    m.node("Reshape", m.tensor, source=tensor).dense(72, 3).quant(0.7, 8)
    _equal(tmp_path, m, rng.normal(0, 1, (6, 2, 6, 6)))


def test_two_outputs_and_a_host_epilogue(rng, tmp_path):
    m = Model().quant().dense()
    body = m.tensor
    m.quant(0.5, 8)
    first = m.tensor
    m.node("Mul", m.constant(0.25), source=body).node("Softmax", axis=1)
    lowered, ints, ours = _equal(tmp_path, m, rng.normal(0, 1, (6, 4)), [first, m.tensor])
    assert len(lowered.graph.outputs) == 2
    outputs = run_epilogue(lowered, {edge: ours[edge] for edge in lowered.graph.outputs})
    assert np.allclose(outputs[m.tensor].sum(axis=1), 1, atol=1e-6)  # a softmax in float32: seven digits


def _qcdq(m: Model, scale, lo, hi) -> Model:
    """As Brevitas writes fewer than 8 bits: QuantizeLinear, Clip, DequantizeLinear."""
    s, z = m.constant(np.float32(scale)), m.constant(0, np.int8)
    return (
        m.node("QuantizeLinear", s, z)
        .node("Clip", m.constant(lo, np.int8), m.constant(hi, np.int8))
        .node("DequantizeLinear", s, z)
    )


def test_qcdq(rng, tmp_path):
    m = _qcdq(Model(), 0.21, -8, 7)
    weight = m.constant(rng.integers(-7, 8, (4, 3)), np.int8)
    now = m.tensor
    m.node(
        "DequantizeLinear",
        m.constant(rng.uniform(0.1, 0.4, 3)),
        m.constant(np.zeros(3), np.int8),
        source=weight,
        axis=1,
    )
    dequantised = m.tensor
    m.node("MatMul", dequantised, source=now).node("Relu")
    _qcdq(m, 0.37, 0, 15).dense(3, 2).quant(0.5, 8)
    lowered, ints, ours = _equal(tmp_path, m, rng.normal(0, 1, (40, 4)))
    assert [op.kind for op in fuse_steps(lowered.graph).ops] == [
        "Input",
        "Requantise",
        "Dense",
        "Requantise",
        "Dense",
        "Requantise",
    ]


def test_truncation_of_a_pool(rng, tmp_path):
    m = Model((1, 2, 6, 6)).quant(0.25, 4, signed=0).node("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
    m.node("Mul", m.constant(4.0))
    m.node(
        "Trunc",
        m.constant(0.25),
        m.constant(0.0),
        m.constant(6.0),
        m.constant(4.0),
        domain=QONNX,
        rounding_mode="FLOOR",
    )
    m.node("Flatten").dense(18, 3).quant(0.5, 8)
    _equal(tmp_path, m, rng.normal(0, 2, (10, 2, 6, 6)))


def test_everything_public_either_lowers_or_says_why(shared):
    from greenedge.errors import UnsupportedError

    found = {}
    for path in sorted((shared / "models").glob("*.onnx")):
        try:
            found[path.name] = len(lower_file(path).graph.ops)
        except UnsupportedError as refusal:
            found[path.name] = [reason.node for reason in refusal.reasons]
    assert found == {
        "TFC_2W2A.onnx": 8,
        # A file without one quantiser is refused whole, by the name of its graph.
        "mnist_conv_float.onnx": ["CNTKGraph"],
        "residual_block_clean.onnx": ["ResidualBlockGraph"],
    }
