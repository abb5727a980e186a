"""Quantisers one by one, against the runtimes that define them: qonnx for QONNX, ONNX Runtime for QuantizeLinear."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from greenedge.errors import UnsupportedError
from greenedge.graph import run_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.lower.float_ties.explain import explain
from greenedge.verify.reference import qonnx_integers
from tests.lower.models import QONNX, Model


def _ours(path, samples) -> np.ndarray:
    lowered = lower_file(path)
    return next(iter(run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, samples))).values()))


def _onnxruntime(path, samples) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )  # it merges quantisers, which rounds otherwise
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": row[None].astype(np.float32)})[0] for row in samples])


def _equals_qonnx(path, samples) -> None:
    lowered = lower_file(path)
    ints = run_prologue(lowered, samples)
    ours = run_graph(lowered.graph, ints)
    given = qonnx_integers(lowered, path, samples, lambda *_: None)
    for edge in (*lowered.graph.inputs, *lowered.graph.outputs):
        assert np.array_equal(given[edge], {**ints, **ours}[edge]), f"{edge} differs"
    assert explain(lowered.graph, lowered.trace, given) == []


def test_one_signed_bit_on_the_host_is_minus_one_or_one(rng, tmp_path):
    """Rounding would give 0 for everything below half a step."""
    samples = rng.normal(0, 0.2, (20, 4)).astype(np.float32)
    _equals_qonnx(Model().quant(0.5, 1).dense().quant(1.0, 4).save(tmp_path / "m.onnx"), samples)
    _equals_qonnx(Model().quant(0.5, 1, zero=0.25).quant(1.0, 4).save(tmp_path / "m.onnx"), samples)


def _linear(m: Model, scale, zero, kind=np.int8, **attrs) -> Model:
    s, z = m.constant(scale), m.constant(zero, kind)
    return m.node("QuantizeLinear", s, z, **attrs).node("DequantizeLinear", s, z, **attrs)


@pytest.mark.parametrize("zero", [0, 1, -3, 4])
def test_quantize_linear_rounds_before_it_adds_the_zero_point(tmp_path, zero):
    """At a tie, an odd zero point makes the level odd; the host, the graph and constants alike."""
    samples = np.arange(-40, 40, dtype=np.float32).reshape(-1, 4) / 2
    m = _linear(Model(), 1.0, zero)
    first = m.save(tmp_path / "host.onnx")
    assert np.array_equal(_ours(first, samples), _onnxruntime(first, samples))
    m = _linear(_linear(Model(), 0.5, 0), 1.0, zero)
    second = m.save(tmp_path / "graph.onnx")
    assert np.array_equal(_ours(second, samples), _onnxruntime(second, samples))
    m = _linear(Model(), 0.5, 0)
    now = m.tensor
    weights = m.constant(np.arange(-6, 6).reshape(4, 3) / 2)
    m.node("QuantizeLinear", m.constant(1.0), m.constant(zero, np.int8), source=weights)
    m.node("DequantizeLinear", m.constants[-2].name, m.constants[-1].name)
    m.node("MatMul", m.tensor, source=now)
    third = m.save(tmp_path / "constant.onnx")
    assert np.array_equal(_ours(third, samples), _onnxruntime(third, samples))


def test_quantize_linear_with_zero_points_per_channel(tmp_path):
    samples = np.arange(-36, 36, dtype=np.float32).reshape(-1, 3, 4) / 2
    m = _linear(_linear(Model((1, 3, 4)), 0.5, 0), np.array([1.0, 2.0, 0.5]), [0, 1, 7], axis=1)
    path = m.save(tmp_path / "m.onnx")
    assert np.array_equal(_ours(path, samples), _onnxruntime(path, samples))


@pytest.mark.parametrize("kind", ["int4", "uint4", "int16", "uint16"])
def test_quantize_linear_of_other_widths(rng, tmp_path, kind):
    import ml_dtypes
    from onnx import numpy_helper

    element = getattr(ml_dtypes, kind, None) or getattr(np, kind)
    m = Model(opset=21)
    m.constants.append(numpy_helper.from_array(np.array(1, element), "z"))
    s = m.constant(0.25)
    m.node("QuantizeLinear", s, "z").node("DequantizeLinear", s, "z")
    path = m.save(tmp_path / "m.onnx")
    samples = rng.normal(0, 3 if "4" in kind else 3000, (20, 4)).astype(np.float32)
    assert np.array_equal(_ours(path, samples), _onnxruntime(path, samples))


def _at_float32_ties(rng, count: int) -> tuple[np.float32, np.ndarray]:
    """Weights that float32 division puts exactly half-way between two levels while real arithmetic does not."""
    scale = np.float32(0.0373)
    half = rng.integers(-7, 7, 4000) + 0.5
    near = (half * float(scale)).astype(np.float32)
    candidates = np.concatenate([near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(-9))])
    ties = candidates[(candidates / scale) % 1 == 0.5]
    ties = ties[np.array([float(w) / float(scale) % 1 != 0.5 for w in ties])]
    assert len(ties) >= count
    return scale, rng.permutation(ties)[:count]


def test_weights_at_float32_ties_are_the_integers_that_every_runtime_has(rng, tmp_path):
    scale, weights = _at_float32_ties(rng, 64)
    m = Model((1, 16)).quant(1.0, 4)
    now = m.tensor
    m.quant(float(scale), 4, source=m.constant(weights.reshape(16, 4)))
    m.node("MatMul", m.tensor, source=now).quant(0.02, 8)
    _equals_qonnx(m.save(tmp_path / "m.onnx"), rng.integers(-8, 8, (30, 16)).astype(np.float32))


@pytest.mark.parametrize("mode", ["ROUND", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN", "HALF_EVEN"])
def test_weights_in_every_rounding_mode(rng, tmp_path, mode):
    m = Model().quant(1.0, 4)
    now = m.tensor
    m.quant(0.25, 5, source=m.constant(np.arange(-24, 24).reshape(4, 12) / 8), mode=mode)
    m.node("MatMul", m.tensor, source=now)
    _equals_qonnx(m.save(tmp_path / "m.onnx"), np.eye(4, dtype=np.float32))


@pytest.mark.parametrize("mode", ["FLOOR", "ROUND", "HALF_UP"])
@pytest.mark.parametrize("zero", [0.0, 4.0])
def test_trunc_of_both_versions(rng, tmp_path, mode, zero):
    samples = rng.normal(0, 20, (20, 4)).astype(np.float32)
    for extra in ((6.0, 4.0), (6.0, 0.25 * 4, 4.0)):
        m = Model().quant(0.25, 7, signed=1, zero=zero)
        m.node(
            "Trunc",
            m.constant(0.25),
            m.constant(zero),
            *(m.constant(v) for v in extra),
            domain=QONNX,
            rounding_mode=mode,
        )
        path = m.quant(1.0, 6).save(tmp_path / "m.onnx")
        if len(extra) == 3:
            proto = m.proto()
            proto.opset_import[1].version = 2
            onnx.save(proto, str(path))
        _equals_qonnx(path, samples)


def test_thresholds_in_any_order(tmp_path):
    m = Model().quant(1.0, 5)
    m.node("MultiThreshold", m.constant([[3.0, -2.0, 0.5]]), domain=QONNX, out_dtype="UINT2", out_scale=0.5)
    samples = np.arange(-16, 16, dtype=np.float32).reshape(-1, 4)
    _equals_qonnx(m.save(tmp_path / "m.onnx"), samples)


def _thresholds(shape, scale=1.0) -> Model:
    m = Model().quant(1.0, 5)
    return m.node(
        "MultiThreshold", m.constant(np.zeros(shape)), domain=QONNX, out_dtype="UINT2", out_scale=scale, name="mt"
    )


def _bits_per_channel() -> Model:
    m = Model()
    return m.node(
        "Quant",
        m.constant(0.5),
        m.constant(0.0),
        m.constant([[4.0, 4.0, 3.0, 4.0]]),
        domain=QONNX,
        signed=1,
        narrow=0,
        name="q",
    )


def _trunc_scales() -> Model:
    m = Model().quant(0.25, 7)
    return m.node(
        "Trunc",
        m.constant(0.25),
        m.constant(0.0),
        m.constant(6.0),
        m.constant([[1.0, 2.0, 1.0, 1.0]]),
        m.constant(4.0),
        domain=QONNX,
        name="cut",
    )


@pytest.mark.parametrize(
    "make, said",
    [
        (
            lambda: _thresholds((3, 2)),
            "mt: thresholds of shape (3, 2) for 4 channels; one row, or one row per channel (cure: export the model "
            "again).",
        ),
        (lambda: _thresholds((1, 2), 0.0), "mt: out_scale 0; scales must not be zero (cure: export the model again)."),
        (
            _bits_per_channel,
            "q: 2 bit widths in one quantiser; one bit width per tensor (cure: use one bit_width for all channels).",
        ),
        (
            _trunc_scales,
            "cut: Trunc by 2 different numbers of bits; all channels drop as many (cure: quantise with QuantIdentity "
            "instead).",
        ),
        (
            lambda: _linear(_linear(Model((1, 1)), 0.5, 0), np.full(4, 0.5), np.zeros(4, np.int8), axis=1),
            "QuantizeLinear_3: a scale of shape (4,) against a tensor of shape (1,); it may not widen the tensor "
            "(cure: give it one value per channel, or expand the tensor explicitly).",
        ),
    ],
)
def test_refusal(tmp_path, make, said):
    with pytest.raises(UnsupportedError) as error:
        lower_file(make().save(tmp_path / "m.onnx"))
    assert [str(reason) for reason in error.value.reasons] == [said]
