"""The integer graph against exact rational numbers, worked out from the definitions by other code: no tolerance, no
excuse for float32."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenedge.errors import UnsupportedError
from greenedge.graph import run_graph
from greenedge.lower import lower_file
from greenedge.lower.expr import affine_of
from greenedge.lower.float_io import run_prologue
from tests.lower.models import Model
from tests.lower.networks import networks
from tests.lower.odd_networks import odd_networks
from tests.lower.spellings import spell_opset
from tests.oracle import Exact, evaluate

FAST, SLOW = 30, int(os.environ.get("GREENEDGE_NETWORKS", "2000"))


def compare_network(case, seed: int, path) -> str:
    """'refused', or 'equal' after every comparison."""
    model, inputs = case
    spelt = onnx.ModelProto()
    spelt.CopyFrom(model)
    spell_opset(spelt, np.random.default_rng(seed))  # an opset that has all of its operators
    onnx.save(spelt, str(path))
    try:
        lowered = lower_file(path)
    except UnsupportedError:
        return "refused"
    compare_graph(lowered, model, inputs)
    return "equal"


def compare_graph(lowered, model, inputs) -> None:
    """Every quantised edge and every output stands for the oracle's numbers."""
    ints = run_prologue(lowered, inputs)
    edges = [*(edge for edge in lowered.graph.edges if edge in lowered.trace.quantised), *lowered.graph.outputs]
    ours = run_graph(lowered.graph, ints, keep=edges)
    # the prologue rounds in float32, as the host does: the oracle starts from the integers that it gives
    starts = {lowered.trace.births[edge].tensor: read_exactly(lowered, edge, ints[edge]) for edge in ints}
    oracle = evaluate(model, {"x": inputs}, starts)
    compared = 0
    for edge in dict.fromkeys(edges):
        birth = lowered.trace.births.get(edge)
        if birth is None or birth.tensor not in oracle or affine_of(birth.expr) is None:
            continue
        want, got = oracle[birth.tensor], read_exactly(lowered, edge, ours[edge])
        same = got.move(lambda tops, want=want: tops.reshape(want.shape)) == want
        assert same.all(), (
            f"{edge} ({birth.tensor}): {np.count_nonzero(~same)} of {same.size} differ; "
            f"{got.floats().reshape(want.shape)[~same][:4]} is no {want.floats()[~same][:4]}"
        )
        compared += same.size
    assert compared


def read_exactly(lowered, edge: str, values) -> Exact:
    """What the integers on the edge stand for: alpha * q + beta, in the model's own float32 parameters."""
    alpha, beta = (Exact.of(np.asarray(part, object)) for part in affine_of(lowered.trace.births[edge].expr))
    return alpha * Exact.of(np.asarray(values, np.int64)) + beta


@settings(max_examples=FAST, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.one_of(networks(), odd_networks()), st.integers(0, 2**32))
def test_graph_equals_exact_fractions(tmp_path_factory, case, seed):
    compare_network(case, seed, tmp_path_factory.mktemp("net") / "net.onnx")


def _compare_many(folder, drawn) -> None:
    """SLOW / 2 networks of a kind, of which at least half must lower."""
    outcomes = Counter[str]()

    @settings(max_examples=SLOW // 2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(drawn, st.integers(0, 2**32))
    def compare(case, seed):
        path = folder / f"{outcomes.total()}.onnx"  # a name of its own: nothing read before is met again
        outcomes[compare_network(case, seed, path)] += 1
        path.unlink()

    compare()
    print(dict(outcomes))
    assert outcomes["equal"] >= SLOW // 4


@pytest.mark.slow
def test_many_graphs_equal_exact_fractions(tmp_path):
    _compare_many(tmp_path, networks())


@pytest.mark.slow
def test_many_odd_graphs_equal_exact_fractions(tmp_path):
    _compare_many(tmp_path, odd_networks())


def test_the_oracle_rejects_another_weight(tmp_path):
    samples = np.array([[1.0, -0.5], [0.75, 1.5]], np.float32)
    one, other = (two_inputs(weight) for weight in (0.25, 1.5))
    onnx.save(one, str(tmp_path / "net.onnx"))
    lowered = lower_file(tmp_path / "net.onnx")
    compare_graph(lowered, one, samples)
    with pytest.raises(AssertionError, match=r"2 of 4 differ; \[0\. 1\.\] is no \[1\. 2\.\]"):
        compare_graph(lowered, other, samples)


def two_inputs(weight: float) -> onnx.ModelProto:
    model = Model((1, 2)).quant(scale=0.25, bits=4)
    model.node("MatMul", model.weight(np.array([[weight, 0.25], [0.5, -0.25]]), scale=0.25, bits=4))
    return model.quant(scale=0.5, bits=4).proto()
