"""qonnx's execution in batches gives what it gives sample by sample."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from greenedge.frontends.source import read_normal
from greenedge.lower import lower_file
from greenedge.verify import reference
from tests.lower.models import Model


def save_normal(model: Model, folder):
    model.save(folder / "given.onnx")
    onnx.save(read_normal(folder / "given.onnx").proto, str(folder / "model.onnx"))
    return folder / "model.onnx"


@pytest.mark.parametrize("samples", [1, 5, 8, 11])
def test_batches_equal_single_samples(samples, tmp_path, rng, monkeypatch):
    model = Model((1, 3, 4)).quant(scale=0.1, bits=8)
    model.node("Reshape", model.constant([1, 12], np.int64)).dense(12, 5)
    path = save_normal(model.quant(scale=0.7, bits=5), tmp_path)
    x, told = rng.normal(0, 1, (samples, 3, 4)).astype(np.float32), []

    def execute(batch: int):
        monkeypatch.setattr(reference, "_BATCH", batch)
        return reference.qonnx_integers(lower_file(path), path, x, lambda *step: told.append(step))

    at_once, one_by_one = execute(4), execute(1)
    assert at_once.keys() == one_by_one.keys()
    for edge, values in one_by_one.items():
        assert len(values) == samples
        assert np.array_equal(at_once[edge], values)
    steps = [*dict.fromkeys([*range(4, samples, 4), samples])]
    assert told[: len(steps)] == [(step, samples, "qonnx") for step in steps]


def test_a_model_whose_tensors_hold_other_things_runs_sample_by_sample(tmp_path):
    """A constant of one sample beside the input cannot be joined to a batch."""
    nodes = [helper.make_node("Concat", ["x", "c"], ["y"], axis=1)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n]) for name, n in (("x", 2), ("y", 4))]
    constant = numpy_helper.from_array(np.ones((1, 2), np.float32), "c")
    graph = helper.make_graph(nodes, "joined", values[:1], values[1:], [constant])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), str(tmp_path / "m.onnx"))
    execute, names, batch = reference._executor(tmp_path / "m.onnx", 10)
    assert (names, batch) == (["x"], 1)
    assert execute({"x": np.zeros((1, 2), np.float32)})["y"].tolist() == [[0, 0, 1, 1]]


def test_a_batch_stays_within_its_memory(tmp_path, monkeypatch):
    path = save_normal(Model((1, 4)).quant().dense().quant(), tmp_path)
    _, _, free = reference._executor(path, 100)
    monkeypatch.setattr(reference, "_BATCH_ELEMENTS", 80)
    _, _, bounded = reference._executor(path, 100)
    assert (free, bounded) == (64, 80 // 14)
