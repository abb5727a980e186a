"""What a model does behind its integers, read from the host's own model."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.graph import run_graph
from greenedge.lower import lower_file
from greenedge.lower.dequantise import read_epilogue
from greenedge.lower.float_io import run_epilogue, run_prologue
from tests.lower.models import Model


def lowered(model, folder):
    return lower_file(model.save(folder / "m.onnx"))


def scores(channels=3):
    return Model((1, 8)).quant().dense(8, channels).quant(0.3, 8)


@pytest.mark.parametrize("axis", [None, -1, 1])
def test_a_softmax_is_found_and_is_the_hosts(tmp_path, rng, axis):
    model = lowered(scores().node("Softmax", **({} if axis is None else {"axis": axis})), tmp_path)
    (end,), left = read_epilogue(model)
    assert (
        left == {} and end.softmax == 0 and end.edge == model.graph.outputs[0] and end.scale.item() == np.float32(0.3)
    )
    edges = run_graph(model.graph, run_prologue(model, rng.uniform(-2, 2, (20, 8)).astype(np.float32)))
    (host,) = run_epilogue(model, edges).values()
    assert np.abs(end.apply(edges[end.edge]) - host).max() < 2e-7


def test_scores_are_the_hosts_bit_for_bit(tmp_path, rng):
    model = lowered(scores(), tmp_path)
    (end,), left = read_epilogue(model)
    edges = run_graph(model.graph, run_prologue(model, rng.uniform(-2, 2, (20, 8)).astype(np.float32)))
    (host,) = run_epilogue(model, edges).values()
    assert (
        left == {}
        and end.softmax is None
        and np.array_equal(end.apply(edges[end.edge]), host)
        and host.dtype == np.float32
    )


def test_what_else_a_model_does_is_named(tmp_path):
    found, left = read_epilogue(lowered(scores().node("Sigmoid"), tmp_path))
    assert found == () and list(left.values()) == ["Sigmoid"]
    found, left = read_epilogue(lowered(scores().node("Softmax", axis=1).node("Neg").node("Exp"), tmp_path))
    assert found == () and list(left.values()) == ["Softmax, Neg, Exp"]
