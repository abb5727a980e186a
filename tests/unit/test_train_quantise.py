"""Quantisers are placed where integers must be, shared where scales must agree, and refused with every reason."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.errors import UnsupportedError
from greenedge.train.fit import predict, seed_torch
from greenedge.train.quantise import quantise
from greenedge.train.recipe_config import LayerBits, QuantiseSettings

torch = pytest.importorskip("torch")
nn = torch.nn


class Residual(nn.Module):
    """A convolution with a bias and a batch norm, a reused ReLU, depthwise, an addition, two poolings, a bias."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.depth, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4)
        self.pool, self.mean, self.head = nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)

    def forward(self, x):
        x = self.relu(self.norm1(self.stem(x)))
        x = self.relu(self.norm2(self.depth(x)) + x)
        return self.head(self.mean(self.pool(x)).flatten(1))


def nodes(model) -> list[str]:
    return [str(node.target) if node.op == "call_module" else node.name for node in model.graph.nodes]


def bits_of(model, path: str) -> int:
    part = model.get_submodule(path)
    proxy = part.weight_quant if hasattr(part, "weight_quant") else part.act_quant
    return int(proxy.bit_width())


def test_where_the_quantisers_are():
    model = quantise(Residual(), QuantiseSettings())
    assert nodes(model) == [
        "x",
        "input_quant",
        "stem",
        "norm1",
        "relu_2",
        "depth",
        "norm2",
        "add_in_quant",
        "add_in_quant",
        "add",
        "relu",
        "pool",
        "mean",
        "mean_quant",
        "flatten",
        "head",
        "output_quant",
        "output",
    ]
    assert model.stem.bias is None and model.head.bias is not None
    assert model.relu_2.return_quant_tensor is False and model.mean_quant.return_quant_tensor is True
    signed = {
        path: bool(model.get_submodule(path).act_quant.is_signed)
        for path in ("input_quant", "relu_2", "add_in_quant", "mean_quant", "output_quant")
    }
    assert signed == {
        "input_quant": False,
        "relu_2": False,
        "add_in_quant": True,
        "mean_quant": False,
        "output_quant": True,
    }


def test_an_absorbed_bias_changes_nothing():
    layer, norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
    norm.running_mean.uniform_(-1, 1)
    float_model = nn.Sequential(layer, norm).eval()
    x = torch.randn(16, 3)
    expected = float_model(x).detach()
    from greenedge.train.quantise import absorb_bias

    absorb_bias(layer, norm)
    assert layer.bias is None and torch.allclose(float_model(x), expected, atol=1e-6)  # float32 sums in another order


@pytest.mark.parametrize("weights", range(1, 9))
def test_weights_of_every_width_are_narrow_range_integers(weights):
    with seed_torch(0, 1):
        model = quantise(nn.Sequential(nn.Linear(32, 16, bias=False)), QuantiseSettings(weight_bits=weights))
    model.eval()
    layer = model.get_submodule("0")
    levels = (layer.quant_weight().value / layer.weight_quant.scale()).round().unique().tolist()
    most = max(1, 2 ** (weights - 1) - 1)
    assert max(levels) == most and min(levels) >= -most
    assert set(levels) <= ({-1.0, 1.0} if weights == 1 else set(range(-most, most + 1)))


@pytest.mark.parametrize("activations", range(1, 9))
def test_activations_of_every_width(activations):
    with seed_torch(0, 1):
        model = quantise(nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU()), QuantiseSettings(act_bits=activations))
        model(torch.rand(64, 8))  # collects the scale
    outputs = predict(model, np.random.default_rng(0).random((64, 8), np.float32) * 9)
    levels = outputs / float(model.get_submodule("1").act_quant.scale())
    assert np.abs(levels - levels.round()).max() < 1e-4  # float32 products of whole levels and the scale
    assert levels.min() == 0 and round(float(levels.max())) == 2**activations - 1


def test_widths_of_single_layers():
    settings = QuantiseSettings(
        weight_bits=4, act_bits=3, layers={"stem": LayerBits(weight_bits=8), "mean": LayerBits(act_bits=6)}
    )
    model = quantise(Residual(), settings)
    widths = {path: bits_of(model, path) for path in ("stem", "depth", "head", "relu_2", "mean_quant", "add_in_quant")}
    assert widths == {"stem": 8, "depth": 4, "head": 4, "relu_2": 3, "mean_quant": 6, "add_in_quant": 8}


def test_fixed_power_of_two_and_per_channel_scales():
    settings = QuantiseSettings(input_bits=4, input_scale=0.5, power_of_two=True, per_channel=True)
    model = quantise(nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU()), settings)
    model(torch.rand(8, 4))
    assert float(model.input_quant.act_quant.scale()) == 0.5
    weights = model.get_submodule("0").weight_quant.scale()
    assert weights.shape == (6, 1) and torch.equal(weights.log2(), weights.log2().round())
    assert float(model.get_submodule("1").act_quant.scale().log2()) % 1 == 0
    settings = QuantiseSettings(input_bits=8, input_signed=True, input_scale=0.25)
    signed = quantise(nn.Sequential(nn.Linear(4, 6)), settings)
    assert float(signed.input_quant.act_quant.scale()) == 0.25


def test_joined_tensors_share_one_unsigned_quantiser_where_nothing_is_negative():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 2)

        def forward(self, x):
            return self.c(torch.cat([torch.relu(self.a(x)), torch.relu(self.b(x))], dim=1))

    model = quantise(Joined(), QuantiseSettings(add_bits=5))
    assert nodes(model).count("cat_in_quant") == 2
    assert not model.cat_in_quant.act_quant.is_signed and bits_of(model, "cat_in_quant") == 5
    assert model(torch.rand(8, 4)).shape == (8, 2)


def test_layers_without_an_activation_between_get_a_signed_quantiser():
    model = quantise(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2), nn.Sigmoid()), QuantiseSettings(act_bits=4))
    assert nodes(model) == ["input_1", "input_quant", "0", "0_quant", "1", "2", "2_quant", "output"]
    assert model.get_submodule("0_quant").act_quant.is_signed and not model.get_submodule("2_quant").act_quant.is_signed


def test_a_tensor_that_is_returned_twice_has_one_output_quantiser():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            y = self.fc(x)
            return y, y

    assert nodes(quantise(Twice(), QuantiseSettings())) == ["x", "input_quant", "fc", "output_quant", "output"]


def test_every_reason_is_given_at_once():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(4, 4), nn.GroupNorm(1, 4)
            self.up = nn.Upsample(scale_factor=2, mode="bilinear")

        def forward(self, x):
            return self.up(torch.exp(self.norm(self.fc(x))))

    with pytest.raises(UnsupportedError) as caught:
        quantise(Odd(), QuantiseSettings(layers={"fc2": LayerBits(weight_bits=2)}), "odd")
    assert str(caught.value) == (
        "odd cannot be quantised:\n"
        "  norm: a GroupNorm; no quantised form is known for it (cure: use a supported layer, or write the network "
        "with brevitas.nn).\n"
        "  exp: a call of exp; no quantised form is known for it (cure: use a supported layer, or write the network "
        "with brevitas.nn).\n"
        "  up: interpolation mode 'bilinear'; only 'nearest' copies levels (cure: use mode='nearest').\n"
        "  fc2: [quantise.layers] names it; no quantised layer has that path (cure: use one of: fc, norm, up)."
    )


def test_a_network_that_cannot_be_traced_is_refused():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedError) as caught:
        quantise(Branching(), QuantiseSettings(), "branching")
    assert str(caught.value) == (
        "branching cannot be quantised:\n"
        "  Branching: its forward depends on values (symbolically traced variables cannot be used as inputs to control "
        "flow); a network is quantised from its graph (cure: compute with tensors alone in forward, or write the "
        "network with brevitas.nn and leave [quantise] out)."
    )
