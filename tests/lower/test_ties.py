"""Float32 ties as qonnx really makes them: found, proven, counted; and what only looks like one is a defect."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.frontends.input_type import parse_input_type
from greenedge.graph import Requantise, run_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_prologue
from greenedge.lower.float_ties.explain import explain
from greenedge.lower.float_ties.outputs_only import reachable_by_ties
from greenedge.verify.reference import qonnx_integers, read_integers
from tests.lower.models import Model

CHANNELS = 96


def _at_boundaries(m: Model, rng, fan_in: int, x: np.ndarray, unit: float, zero: int = 0) -> Model:
    """A dense layer and per-channel scales that put sample 0 of every channel within float32 noise of a rounding
    boundary.

    `x` are the integers of sample 0, `unit` the real value of one of them.
    """
    weight = rng.integers(-7, 8, (fan_in, CHANNELS))
    acc = (x - zero) @ weight
    scale = rng.uniform(0.01, 0.1, CHANNELS).astype(np.float32)
    now = m.tensor
    m.quant(scale.reshape(1, -1), 4, source=m.constant(weight * scale.astype(np.float64)))
    m.node("MatMul", m.tensor, source=now)
    level = rng.integers(2, 60, CHANNELS) * np.where(acc < 0, -1, 1) + 0.5
    out = np.where(acc == 0, 1, acc * scale.astype(np.float64) * unit / level).astype(np.float32)
    return m.quant(np.abs(out).reshape(1, -1), 8)


def _run(path, samples, declared=None):
    lowered = lower_file(path, declared)
    ints = run_prologue(lowered, samples)
    ours = run_graph(lowered.graph, ints)[lowered.graph.outputs[0]]
    given = qonnx_integers(lowered, path, samples, lambda *_: None)
    return lowered, ints, ours, given


def _all_proven(lowered, ours, given, least: int) -> None:
    (output,) = lowered.graph.outputs
    differences = explain(lowered.graph, lowered.trace, given)
    assert len(differences) >= least, "the model makes too few ties to test anything"
    assert all(d.proven_tie for d in differences), [d for d in differences if not d.proven_tie][:3]
    assert int((ours != given[output]).sum()) == len(differences)
    forged = {edge: values.copy() for edge, values in given.items()}
    at = differences[0]
    forged[output][at.sample][at.index] = at.got + np.sign(at.got - at.expected)  # a level further
    assert [
        d.proven_tie
        for d in explain(lowered.graph, lowered.trace, forged)
        if (d.sample, d.index) == (at.sample, at.index)
    ] == [False]
    elsewhere = next(i for i in range(CHANNELS) if i not in {d.index[0] for d in differences if d.sample == 1})
    forged = {edge: values.copy() for edge, values in given.items()}
    forged[output][1, elsewhere] += 1  # a sample away from every boundary
    assert not all(d.proven_tie for d in explain(lowered.graph, lowered.trace, forged))


def test_sums_at_a_boundary(rng, tmp_path):
    fan_in, scale = 40, np.float32(0.0731)
    x = rng.integers(-8, 8, (2, fan_in))
    m = _at_boundaries(Model((1, fan_in)).quant(float(scale), 4), rng, fan_in, x[0], float(scale))
    lowered, ints, ours, given = _run(m.save(tmp_path / "m.onnx"), (x * scale).astype(np.float32))
    _all_proven(lowered, ours, given, 10)


def test_two_quantisers_in_a_row(rng, tmp_path):
    """The tie lies in the first of them."""
    fan_in, scale = 40, np.float32(0.0731)
    x = rng.integers(-8, 8, (2, fan_in))
    m = _at_boundaries(Model((1, fan_in)).quant(float(scale), 4), rng, fan_in, x[0], float(scale))
    first = m.constants[-3]
    m.nodes[-1].attribute[0].i = 1
    from onnx import numpy_helper

    m.quant(numpy_helper.to_array(first) * np.float32(0.75), 7)
    lowered, ints, ours, given = _run(m.save(tmp_path / "m.onnx"), (x * scale).astype(np.float32))
    early, _ = (op for op in lowered.graph.ops if isinstance(op, Requantise))
    differences = explain(lowered.graph, lowered.trace, given)
    assert len(differences) >= 10 and all(d.proven_tie for d in differences)
    assert {d.layer for d in differences} == {early.name}
    forged, at = {edge: values.copy() for edge, values in given.items()}, differences[0]
    forged[early.output][at.sample][at.index] = at.got + np.sign(at.got - at.expected)  # a level further
    again = explain(lowered.graph, lowered.trace, forged)
    assert not all(d.proven_tie for d in again if (d.layer, d.sample, d.index) == (early.name, at.sample, at.index))


def test_a_declared_input_that_the_model_centres(rng, tmp_path):
    """x/255 - 128/255 near zero is all cancellation: its error is that of the large numbers, not of the small
    result."""
    fan_in, step = 40, np.float32(1 / 255)
    x = np.stack([128 + rng.integers(-3, 4, fan_in), rng.integers(0, 256, fan_in)])
    m = Model((1, fan_in)).node("Mul", "step").node("Sub", "centre")
    m.nodes[0].input[1], m.nodes[1].input[1] = m.constant(step), m.constant(np.float32(128) * step)
    m = _at_boundaries(m, rng, fan_in, x[0], float(step), zero=128)
    lowered, ints, ours, given = _run(m.save(tmp_path / "m.onnx"), x, {None: parse_input_type("uint8")})
    _all_proven(lowered, ours, given, 10)


def _wide(rng, tmp_path):
    """A last layer whose accumulators float32 cannot hold: 4,096 products of 8-bit numbers of one sign."""
    fan_in = 4096
    m = Model((1, fan_in)).quant(float(np.float32(0.0113)), 8, signed=0)
    now = m.tensor
    m.quant(float(np.float32(0.0127)), 8, source=m.constant(rng.integers(60, 128, (fan_in, 8)) * 0.0127))
    m.node("MatMul", m.tensor, source=now)
    return m.save(tmp_path / "m.onnx"), (rng.integers(150, 256, (6, fan_in)) * 0.0113).astype(np.float32)


def test_accumulators_beyond_float32_are_explained_by_their_sums(rng, tmp_path):
    path, samples = _wide(rng, tmp_path)
    lowered, ints, ours, given = _run(path, samples)
    (output,) = lowered.graph.outputs
    assert (ours != given[output]).any(), "float32 held every sum: nothing is tested"
    differences = explain(lowered.graph, lowered.trace, given)
    assert len(differences) == int((ours != given[output]).sum()) and all(d.proven_tie for d in differences)
    sample = {edge: values[:1] for edge, values in ints.items()}
    assert reachable_by_ties(lowered, sample, given[output][:1])
    wrong = {**given, output: ours + 100_000_000}
    assert not any(d.proven_tie for d in explain(lowered.graph, lowered.trace, wrong))
    assert not reachable_by_ties(lowered, sample, wrong[output][:1])


def test_a_difference_of_an_output_accumulator_is_not_hidden_by_a_tie_before_it(rng, tmp_path):
    m = Model((1, 4)).quant(0.5, 4).dense(4, 3)
    lowered, ints, ours, given = _run(m.save(tmp_path / "m.onnx"), rng.normal(0, 2, (8, 4)).astype(np.float32))
    assert explain(lowered.graph, lowered.trace, given) == []
    (output,) = lowered.graph.outputs
    given[output][5, 1] += 1
    (difference,) = explain(lowered.graph, lowered.trace, given)
    assert (difference.sample, difference.layer, difference.index, difference.proven_tie) == (
        5,
        lowered.graph.producer(output).name,
        (1,),
        False,
    )


def test_a_value_between_levels_is_no_execution_of_this_model(tmp_path):
    from greenedge.errors import VerificationError

    lowered = lower_file(Model().quant(0.5, 4).save(tmp_path / "m.onnx"))
    with pytest.raises(VerificationError) as error:
        read_integers(lowered, {lowered.outputs[0].tensor: np.array([[0.5, 0.7, 0, 0]])}, first=7)
    assert str(error.value) == "qonnx gave values on tensor 't1' from sample 7 on that are no multiples of its scale."
