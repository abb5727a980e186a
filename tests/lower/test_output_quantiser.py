"""Output quantisers that are put onto a file: what they compute, where they go, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import onnx
import pytest

from greenedge.backends import load_backend
from greenedge.errors import GreenedgeError
from greenedge.graph import Requantise, run_graph
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.lower.output_quantiser import quantise_outputs
from greenedge.run.requantise import requantise_model
from greenedge.target import load_target
from tests.lower.models import Model


def classifier(rng, bias=False, bits=8, per_channel=False):
    """x → dense → ReLU → u8 → dense."""
    m = Model((1, 6)).quant(0.05, 8)
    m.node("MatMul", m.weight(rng.integers(-7, 8, (6, 8)) * 0.25, 0.25)).node("Relu").quant(0.07, 8, signed=0)
    scale = rng.uniform(0.01, 0.05, (1, 4)) if per_channel else 0.0137
    top = (1 << (bits - 1)) - 1
    weight = m.weight(rng.integers(-top, top + 1, (8, 4)) * scale, scale, bits)
    return m.node("Gemm", weight, m.constant(rng.normal(size=4))) if bias else m.node("MatMul", weight)


def quantised(m, folder, rng, samples=60, outputs=None, **more):
    """(the model before, the model after, samples, what was added)."""
    path, target = m.save(folder / "m.onnx", outputs), folder / "q.onnx"
    x = {"x": rng.uniform(-2, 2, (samples, *m.inputs["x"][1:])).astype(np.float32)}
    added = quantise_outputs(path, target, lambda lowered: x, **more)
    return lower_file(path), lower_file(target), x, added


def run(lowered, x):
    return run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, x)))


def level(value: Fraction, scale: float, bits: int) -> int:
    low = -(1 << (bits - 1))
    return min(max(round(value / Fraction(float(np.float32(scale)))), low), -low - 1)


@pytest.mark.parametrize(
    "bits, power_of_two, bias", [(8, False, False), (8, True, True), (4, False, True), (2, True, False)]
)
def test_the_integers_are_those_of_the_definition(rng, tmp_path, bits, power_of_two, bias):
    before, after, x, (one,) = quantised(classifier(rng, bias), tmp_path, rng, bits=bits, power_of_two=power_of_two)
    levels = run_prologue(before, x)
    sums, got = run_graph(before.graph, levels), run_graph(after.graph, levels)
    (end,), (edge,) = before.outputs, after.graph.outputs
    offset = next(t for t in onnx.load(tmp_path / "m.onnx").graph.initializer if t.dims == [4]) if bias else None
    biases = onnx.numpy_helper.to_array(offset) if bias else np.zeros(4, np.float32)
    unit = Fraction(float(np.float32(0.07))) * Fraction(float(np.float32(0.0137)))
    assert float(unit) == pytest.approx(float(np.ravel(end.scale)[0]))
    for row, integers in zip(sums[end.edge].tolist(), got[edge].tolist(), strict=True):
        reals = [acc * unit + Fraction(float(b)) for acc, b in zip(row, biases, strict=True)]
        assert integers == [level(real, one.scale, bits) for real in reals]
    assert (one.bits, one.signed) == (bits, True) and got[edge].min() >= -(1 << (bits - 1))
    assert max(-one.low / (1 << (bits - 1)), one.high / ((1 << (bits - 1)) - 1)) <= one.scale * (1 + 1e-6)
    assert not power_of_two or math.log2(one.scale).is_integer()


@pytest.mark.parametrize("seed", range(3))
def test_steps_of_whole_accumulators_are_exact_on_every_back_end(rng, tmp_path, seed):
    """Without biases between the accumulators, at 8 bits in weights and activations: every channel is proved."""
    rng = np.random.default_rng(rng.integers(1 << 30) + seed)
    _, after, x, (one,) = quantised(classifier(rng), tmp_path, rng)
    multiple = one.scale / (np.float64(np.float32(0.07)) * np.float64(np.float32(0.0137)))
    assert round(multiple) % 2 == 1 and abs(multiple - round(multiple)) < 1e-4
    for name, target in (("tflite", "linux-x86"), ("onnxruntime", "linux-x86"), ("c99", "cortex-m4")):
        module = load_backend(name)
        graph = legalise_graph(after.graph, module.passes)
        assert module.check(graph, load_target(target), {}) == []
        if name != "c99":
            from greenedge.backends.int8.onnxruntime.emit import write_file as write_onnx
            from greenedge.backends.int8.tflite.emit import write_file as write_tflite

            *_, last = (write_tflite if name == "tflite" else write_onnx)(graph).layers
            assert not next(iter(last.solution.verdicts.values())).differing.any(), name


def test_accelerators_that_wanted_it_take_the_file(rng, tmp_path):
    target = load_target("ethos-u55-128")
    before, after, _, _ = quantised(classifier(rng, bias=True), tmp_path, rng)
    tflite = load_backend("tflite")
    refused, taken = (tflite.check(legalise_graph(one.graph, tflite.passes), target, {}) for one in (before, after))
    assert "`greenedge requantise MODEL.onnx --inputs X.npy -o OUT.onnx`" in refused[0].cure and taken == []


@pytest.mark.parametrize("end", ["Softmax", "ArgMax", "Sigmoid", "Identity"])
def test_scores_are_quantised_before_what_is_made_of_them(rng, tmp_path, end):
    m = classifier(rng, per_channel=True)
    scores = m.tensor
    m.node(end, **({"axis": -1} if end in ("Softmax", "ArgMax") else {}))
    before, after, x, (one,) = quantised(m, tmp_path, rng)
    assert one.tensor == (m.tensor if end == "Identity" else scores)
    names = [value.name for value in onnx.load(tmp_path / "q.onnx").graph.output]
    assert names == [m.tensor] == list(run(after, x))
    (step,) = [op for op in after.graph.ops if isinstance(op, Requantise)][1:]
    assert (step.hi - step.lo, step.channels) == (255, 4)
    (was,), (now,) = run(before, x).values(), run(after, x).values()
    assert (was == now).mean() > 0.8 if end == "ArgMax" else np.abs(was - now).max() <= one.scale


def test_what_reads_an_output_inside_the_model_reads_it_as_it_was(rng, tmp_path):
    """An output that a layer reads too, behind a quantiser of its own, and a second that is quantised already."""
    m = classifier(rng)
    scores = m.tensor
    m.quant(0.5, 4)
    m.node("MatMul", m.weight(rng.integers(-7, 8, (4, 2)) * 0.5)).quant(0.4, 8)
    before, after, x, added = quantised(m, tmp_path, rng, outputs=[scores, m.tensor])
    assert [one.tensor for one in added] == [scores]
    was, now = run(before, x), run(after, x)
    assert list(was) == list(now) and np.array_equal(was[m.tensor], now[m.tensor])
    assert not np.array_equal(was[scores], now[scores])
    with pytest.raises(
        GreenedgeError, match=r"q.onnx: its outputs 't\d+', 't\d+' are quantised already; build the file"
    ):
        quantise_outputs(tmp_path / "q.onnx", tmp_path / "r.onnx", lambda lowered: x)
    assert not (tmp_path / "r.onnx").exists()


@pytest.mark.parametrize("bits, operators", [(8, {"QuantizeLinear": 2}), (4, {"QuantizeLinear": 1, "Quant": 1})])
def test_a_file_of_onnx_quantisers_gets_one_of_them(rng, tmp_path, bits, operators):
    m = Model((1, 6))
    s, z = m.constant(0.05), m.constant(0, np.int8)
    m.node("QuantizeLinear", s, z).node("DequantizeLinear", s, z)
    weight = m.constant(rng.integers(-127, 128, (6, 3)), np.int8)
    start = m.tensor
    m.node("DequantizeLinear", m.constant(0.02), m.constant(0, np.int8), source=weight)
    m.node("MatMul", m.tensor, source=start)
    before, after, x, (one,) = quantised(m, tmp_path, rng, bits=bits)
    found = [node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node]
    assert {name: found.count(name) for name in operators} == operators
    (was,), (now,) = run(before, x).values(), run(after, x).values()
    assert np.abs(was - now).max() <= 0.51 * one.scale + 1e-6 and len(np.unique(now)) <= 1 << bits


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda x: x[:, :5], "has shape (9, 5); input 'x' wants ('samples', 6)."),
        (lambda x: np.where(x == x.max(), np.nan, x), "a sample is finite numbers: leave that one out."),
        (lambda x: x[:0], "give at least one"),
        (lambda x: 0 * x, "is 0 on every sample; give samples on which it is not."),
        (None, "there is no file "),
    ],
)
def test_bad_samples_are_one_sentence(rng, tmp_path, change, says):
    path = classifier(rng).save(tmp_path / "m.onnx")
    if change is not None:
        np.save(tmp_path / "x.npy", change(rng.uniform(-2, 2, (9, 6)).astype(np.float32)).astype(np.float32))
    with pytest.raises(GreenedgeError) as error:
        requantise_model(path, tmp_path / "q.onnx", tmp_path / "x.npy", 8, False, False, {})
    assert says in str(error.value) and "\n" not in str(error.value) and not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize("bits", [1, 9])
def test_other_widths_are_refused(rng, tmp_path, bits):
    with pytest.raises(GreenedgeError) as error:
        quantised(classifier(rng), tmp_path, rng, bits=bits)
    assert str(error.value) == f"{bits} bits; a quantiser has 2 to 8."


def test_the_verb_says_what_it_did(rng, tmp_path):
    from typer.testing import CliRunner

    from greenedge.cli import app

    path = classifier(rng, bias=True).save(tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", rng.uniform(-2, 2, (30, 6)).astype(np.float32))
    words = ["requantise", str(path), "--inputs", str(tmp_path / "x.npy"), "--output", str(tmp_path / "q.onnx")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "INT8" in done.output and "of 30 samples have another class" in done.output
    assert (tmp_path / "q.onnx").stat().st_size > 100
