"""Attention in training: torch's layers spelled out, forwards that are the integers of hardware, quantisers placed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from greenedge.errors import UnsupportedError
from greenedge.frontends.brevitas import export_model
from greenedge.graph import Softmax, run_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_prologue
from greenedge.train.attention import IntNorm, IntSoftmax, SelfAttention, spell_attention, spell_out
from greenedge.train.quantise import quantise
from greenedge.train.recipe_config import QuantiseSettings
from greenedge.verify.float_references import compare_with_outputs

SETTINGS = QuantiseSettings(
    weight_bits=4, act_bits=8, add_bits=8, input_bits=8, input_signed=True, input_scale=0.03, output_bits=8
)
LENGTH, WIDTH = 6, 8


class Encoder(nn.Module):
    """An embedding of places, a layer of torch's own, a norm, the mean of all places."""

    def __init__(self, norm_first=True):
        super().__init__()
        self.place = nn.Parameter(0.3 * torch.randn(1, LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.0, batch_first=True, norm_first=norm_first)
        self.first, self.encoder = nn.Linear(WIDTH, WIDTH), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        return self.head(self.encoder(self.first(x) + self.place).mean(1))


class ByHand(nn.Module):
    """A head with matrix products, a mask and a softmax in its forward."""

    def __init__(self, way):
        super().__init__()
        self.q, self.k, self.v, self.head = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.register_buffer("seen", torch.tril(torch.ones(LENGTH, LENGTH)))
        self.register_buffer("added", torch.where(self.seen > 0, 0.0, -math.inf))
        self.way = way

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.way == "call":
            return self.head(F.scaled_dot_product_attention(q, k, v, attn_mask=self.added))
        logits = q @ k.transpose(-1, -2) / math.sqrt(WIDTH)
        if self.way == "fill":
            logits = logits.masked_fill(self.seen == 0, -math.inf)
        elif self.way == "add":
            logits = logits + self.added
        return self.head(torch.matmul(torch.softmax(logits, dim=-1), v))


def calibrated(network, x):
    with torch.no_grad():
        network.train()
        for _ in range(110):
            network(x[:16])
    return network.eval()


def samples(count=200):
    return torch.randn(count, LENGTH, WIDTH, generator=torch.Generator().manual_seed(5)).clip(-3, 3)


@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_layer_is_spelled_out_with_its_weights(norm_first):
    torch.manual_seed(1)
    network, x = Encoder(norm_first).eval(), samples(8)
    expected = network(x)
    spelled = spell_out(network)
    assert not any(isinstance(part, nn.MultiheadAttention) for part in spelled.modules())
    assert torch.allclose(spelled(x), expected, atol=1e-5)


def test_an_attention_of_another_form_is_refused():
    with pytest.raises(ValueError, match="batch_first=True"):
        spell_attention(nn.MultiheadAttention(WIDTH, 2))
    said = "an attention is spelled out with batch_first=True, one width and no added keys; other forms have no "
    with pytest.raises(UnsupportedError, match=said):
        quantise(nn.TransformerEncoderLayer(WIDTH, 2, 12), SETTINGS, "encoder")


@pytest.mark.parametrize("norm_first", [True, False])
def test_torch_gives_the_integers_of_the_graph(tmp_path, norm_first):
    """Every sample: the forwards of softmax and norms are the definitions, so float32 decides at ties alone."""
    torch.manual_seed(2)
    x = samples()
    network = calibrated(quantise(Encoder(norm_first), SETTINGS, "encoder"), x)
    parts = [type(part) for part in network.modules()]
    assert parts.count(IntSoftmax) == 1 and parts.count(IntNorm) == 2
    compare(network, x, tmp_path)


def compare(network, x, tmp_path):
    export_model(network, x[:4].numpy(), tmp_path / "m.onnx")
    lowered = lower_file(tmp_path / "m.onnx")
    ints = run_prologue(lowered, x.numpy())
    (values,) = run_graph(lowered.graph, ints).values()
    stages = {"graph": values.reshape(len(x), -1)}
    with torch.no_grad():
        (report,) = compare_with_outputs("torch", lowered, network(x).numpy(), ints, stages)
    assert report.mismatches == 0 and report.float_ties <= 0.02 * len(x) * (values.size // len(x))
    assert len(np.unique(values)) > 20
    return lowered


@pytest.mark.parametrize("way", ["fill", "add", "call", "none"])
def test_attention_by_hand(tmp_path, way):
    torch.manual_seed(3)
    x = samples()
    network = calibrated(quantise(ByHand(way), SETTINGS, "head"), x)
    lowered = compare(network, x, tmp_path)
    (softmax,) = (op for op in lowered.graph.ops if isinstance(op, Softmax))
    assert (softmax.mask is None) == (way == "none")
    if softmax.mask is not None:
        assert np.array_equal(softmax.mask.reshape(LENGTH, LENGTH), np.tril(np.ones((LENGTH, LENGTH))))


def test_gradients_are_those_of_the_real_softmax():
    """Where logits lie on their levels."""
    torch.manual_seed(4)
    network = calibrated(quantise(ByHand("none"), SETTINGS, "head"), samples())
    (softmax,) = (part for part in network.modules() if isinstance(part, IntSoftmax))
    logits = softmax.logits(torch.randn(3, LENGTH, LENGTH)).value.detach().requires_grad_()
    real = logits.detach().clone().requires_grad_()
    weights = torch.randn(3, LENGTH, LENGTH)
    (softmax(logits) * weights).sum().backward()
    (torch.softmax(real, -1) * weights).sum().backward()
    assert torch.allclose(logits.grad, real.grad, atol=1e-6)


@pytest.mark.parametrize(
    "build, said",
    [
        (lambda: Causal(), "scaled_dot_product_attention with a mask or a scale of its own"),
        (lambda: Rows(), "a softmax along 1; attention's softmax goes along the last axis"),
    ],
)
def test_refusals(build, said):
    with pytest.raises(UnsupportedError, match=said):
        quantise(build(), SETTINGS, "head")


class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        y = self.first(x)
        return self.last(F.scaled_dot_product_attention(y, y, y, is_causal=True))


class Rows(Causal):
    def forward(self, x):
        return self.last(torch.softmax(self.first(x), 1))


def test_a_mask_of_self_attention_hides_what_comes_later():
    layer = SelfAttention(WIDTH, 2, torch.tril(torch.ones(LENGTH, LENGTH)))
    x = samples(4)
    later = x.clone()
    later[:, -1] += 1
    assert torch.equal(layer(x)[:, :-1], layer(later)[:, :-1])
    assert not torch.equal(layer(x)[:, -1], layer(later)[:, -1])
