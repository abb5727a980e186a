"""The exported file: a single file, clean, equal to the network, or refused; the exporter prints nothing."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from greenedge.errors import GreenedgeError
from greenedge.frontends import brevitas
from greenedge.train.fit import seed_torch
from greenedge.train.quantise import quantise
from greenedge.train.recipe_config import QuantiseSettings

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def network():
    """A quantised network with a named layer of each kind the exporter has to name, its scales set by a few batches."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.relu = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
            self.pool, self.mean, self.head = nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)

        def forward(self, x):
            x = self.relu(self.norm(self.conv(x)))
            return self.head(self.mean(self.pool(x + x)).flatten(1))

    with seed_torch(1, 1):
        model = quantise(Net(), QuantiseSettings())
        for _ in range(4):
            model(torch.rand(8, 1, 8, 8))
    return model.eval()


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).random((5, 1, 8, 8), np.float32)


@pytest.fixture(scope="module")
def exported(network, samples, tmp_path_factory):
    """(folder, facts)"""
    folder = tmp_path_factory.mktemp("exported")
    return folder, brevitas.export_model(network, samples, folder / "model.onnx")


def test_one_file_that_stands_alone(exported):
    folder, facts = exported
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    assert not any(item.data_location == onnx.TensorProto.EXTERNAL for item in proto.graph.initializer)
    assert facts["input"] == {"name": "input", "shape": [1, 1, 8, 8]}
    assert facts["output"] == {"name": "output", "shape": [1, 3]}
    assert facts["opset"] == {"ai.onnx": 20, "qonnx.custom_op.general": 2}
    assert proto.opset_import[0].domain == ""
    assert [item.name for item in proto.graph.input] == ["input"]


def test_nodes_and_parameters_bear_the_names_of_the_modules(exported):
    graph = onnx.load(exported[0] / "model.onnx").graph
    assert {node.name: node.op_type for node in graph.node} == {
        "input_quant.act_quant": "Quant",
        "conv.weight_quant": "Quant",
        "conv": "Conv",
        "norm": "BatchNormalization",
        "relu": "Relu",
        "relu.act_quant": "Quant",
        "add_in_quant.act_quant": "Quant",
        "Add": "Add",
        "add_quant.act_quant": "Quant",
        "pool": "MaxPool",
        "mean": "ReduceMean",
        "mean_quant.act_quant": "Quant",
        "Reshape": "Reshape",
        "head.weight_quant": "Quant",
        "head.bias_quant": "Quant",
        "head": "Gemm",
        "output_quant.act_quant": "Quant",
    }
    modules = {node.name: item.value for node in graph.node for item in node.metadata_props}
    assert modules["conv"] == modules["conv.weight_quant"] == "conv" and modules["relu.act_quant"] == "relu"
    parameters = {item.name for item in graph.initializer}
    assert {
        "conv.weight",
        "conv.weight_quant.scale",
        "norm.running_var",
        "head.weight",
        "head.bias",
        "head.bias_quant.scale",
        "relu.act_quant.bits",
    } <= parameters


def test_nothing_of_the_machine_is_in_the_file(exported):
    text = (exported[0] / "model.onnx").read_bytes()
    assert not re.search(rb"site-packages|\.py\b|/tmp/|/home/|/root/", text)


def test_the_same_network_gives_the_same_bytes(network, samples, exported, tmp_path):
    facts = brevitas.export_model(network, samples, tmp_path / "again.onnx")
    assert facts["sha256"] == exported[1]["sha256"]


def test_nothing_is_printed(network, samples, tmp_path, capfd, recwarn):
    brevitas.export_model(network, samples, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "") and not list(recwarn)


def test_outputs_are_those_of_the_network(network, samples, exported):
    proto = onnx.load(exported[0] / "model.onnx")
    (got,), expected = brevitas.execute(proto, [samples]), brevitas.outputs_of(network, samples)
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()  # float32 sums in another order


def test_a_file_that_computes_something_else_is_refused(network, samples, tmp_path, monkeypatch):
    def corrupt(proto):
        clean(proto)
        weight = next(item for item in proto.graph.initializer if item.name == "conv.weight")
        weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))

    clean = brevitas.clean
    monkeypatch.setattr(brevitas, "clean", corrupt)
    with pytest.raises(GreenedgeError) as caught:
        brevitas.export_model(network, samples, tmp_path / "model.onnx")
    assert re.fullmatch(
        r"model.onnx computes something else than the network it came from: 5 of 5 samples differ, by up to [0-9.e-]+ "
        r"where [0-9.e-]+ is float rounding; the network has a layer that its exporter does not know\.",
        str(caught.value),
    )
    assert not list(tmp_path.iterdir())


def test_one_unsigned_bit_has_the_levels_0_and_1(tmp_path):
    """Brevitas writes every 1-bit quantiser as a BipolarQuant."""
    import torch
    from brevitas import nn as qnn

    model = torch.nn.Sequential(qnn.QuantLinear(4, 3, bias=False, weight_bit_width=4), qnn.QuantReLU(bit_width=1))
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    model(torch.from_numpy(x))
    brevitas.export_model(model.eval(), x, tmp_path / "bit.onnx")  # executes the file, and compares
    last = onnx.load(tmp_path / "bit.onnx").graph.node[-1]
    assert last.op_type == "Quant" and list(last.input)[2:] == ["1.act_quant.zero_point", "1.act_quant.bits"]
    assert len(np.unique(brevitas.outputs_of(model, x))) == 2 and brevitas.outputs_of(model, x).min() == 0


def test_what_torch_cannot_export_is_one_sentence(tmp_path):
    import torch

    class Sorting(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(GreenedgeError) as caught:
        brevitas.export_model(Sorting().eval(), np.ones((1, 4), np.float32), tmp_path / "model.onnx")
    rule = r"torch cannot export the network to ONNX: [^\n]+; replace the module it names by a supported one\."
    assert re.fullmatch(rule, str(caught.value))


def test_the_stage_writes_inputs_labels_and_float_outputs(repo, tmp_path):
    from greenedge.train import load_recipe, train_stage

    recipe = load_recipe(repo / "flows" / "digits-mlp", {"train.epochs": "2", "model.hidden": "16"})
    metrics = train_stage(recipe, tmp_path / "1-train")
    facts = brevitas.export_stage(recipe, tmp_path / "1-train", tmp_path / "2-export")
    assert sorted(path.name for path in (tmp_path / "2-export").iterdir()) == [
        "export.json",
        "inputs.npy",
        "labels.npy",
        "model.onnx",
        "torch.npy",
    ]
    assert json.loads((tmp_path / "2-export" / "export.json").read_text()) == facts
    inputs, outputs = (np.load(tmp_path / "2-export" / f"{name}.npy") for name in ("inputs", "torch"))
    assert inputs.shape == (450, 64) and inputs.dtype == outputs.dtype == np.float32 and outputs.shape == (450, 10)
    assert facts["scores"] == {"accuracy": metrics["accuracy"]} and facts["samples"] == 450


def test_the_stage_needs_a_trained_network(repo, tmp_path):
    from greenedge.train import load_recipe

    with pytest.raises(GreenedgeError, match=f"^{tmp_path} has no model.pt; run the train stage first.$"):
        brevitas.export_stage(load_recipe(repo / "flows" / "digits-mlp"), tmp_path, tmp_path / "out")
