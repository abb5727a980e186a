"""Small Brevitas networks of every shape, untrained but calibrated: what people really export."""

from __future__ import annotations

import torch
from brevitas import nn as qnn
from brevitas.quant import (
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFixedPoint,
    Int32Bias,
    ShiftedUint8ActPerTensorFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    SignedTernaryWeightPerTensorConst,
    Uint8ActPerTensorFixedPoint,
)
from torch import nn


class Act(qnn.QuantIdentity):
    """A signed 8-bit activation quantiser unless told otherwise."""

    def __init__(self, bits: int = 8, **more):
        super().__init__(bit_width=bits, return_quant_tensor=more.pop("carry", False), **more)


def relu(bits: int = 4, **more) -> nn.Module:
    return qnn.QuantReLU(bit_width=bits, **more)


def conv(i: int, o: int, k: int, bits: int = 4, **more) -> nn.Module:
    return qnn.QuantConv2d(i, o, k, bias=more.pop("bias", False), weight_bit_width=bits, **more)


def dense(i: int, o: int, bits: int = 4, **more) -> nn.Module:
    return qnn.QuantLinear(i, o, bias=more.pop("bias", False), weight_bit_width=bits, **more)


class Residual(nn.Module):
    """Both branches through one quantiser, then added."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(Act(4), conv(1, 6, 3, padding=1), nn.BatchNorm2d(6), relu())
        self.body = nn.Sequential(conv(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.shared, self.after = Act(), relu()
        self.end = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), dense(96, 5), Act())

    def forward(self, x):
        x = self.first(x)
        return self.end(self.after(self.shared(self.body(x)) + self.shared(x)))


class Inception(nn.Module):
    """Branches with scales of their own, joined along the channels."""

    def __init__(self):
        super().__init__()
        self.entry = nn.Sequential(Act(5), conv(1, 4, 1), relu(5))
        self.one = nn.Sequential(conv(4, 4, 1), nn.BatchNorm2d(4), Act(4))
        self.three = nn.Sequential(conv(4, 6, 3, padding=1), nn.BatchNorm2d(6), Act(6))
        self.after, self.end = relu(4), nn.Sequential(conv(10, 3, 3), nn.Flatten(), Act())

    def forward(self, x):
        x = self.entry(x)
        return self.end(self.after(torch.cat([self.one(x), self.three(x)], dim=1)))


class NegativeGammas(nn.Module):
    """Batch norms with negative and zero factors, then a max pool, then the quantiser."""

    def __init__(self):
        super().__init__()
        self.entry, self.conv, self.norm = Act(4), conv(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.pool, self.act = nn.MaxPool2d(2), relu(4)
        self.end = nn.Sequential(nn.Flatten(), dense(96, 5), Act())

    def forward(self, x):
        return self.end(self.act(self.pool(self.norm(self.conv(self.entry(x))))))

    def settle(self):
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.0, -0.7, 0.0, -1.3, 0.4, 2.0]))


class Index(nn.Module):
    """Where the largest value is."""

    def forward(self, x):
        return torch.argmax(x, dim=1)


def _two_heads() -> nn.Module:
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(Act(4), dense(10, 8), relu())
            self.left, self.right = nn.Sequential(dense(8, 3), Act()), dense(8, 2)

        def forward(self, x):
            x = self.body(x)
            return self.left(x), torch.softmax(self.right(x), dim=1)

    return TwoHeads()


IMAGE, VECTOR, SEQUENCE = (1, 8, 8), (12,), (3, 16)

# name -> (shape of one sample, how to make the network)
ZOO = {
    "mlp": (VECTOR, lambda: nn.Sequential(Act(4), dense(12, 10), nn.BatchNorm1d(10), relu(), dense(10, 5), Act())),
    "mlp-w8a8": (
        VECTOR,
        lambda: nn.Sequential(Act(), dense(12, 10, 8), nn.BatchNorm1d(10), relu(8), dense(10, 5, 8), Act()),
    ),
    "cnn": (
        IMAGE,
        lambda: nn.Sequential(
            Act(4),
            conv(1, 6, 3, padding=1, stride=2),
            nn.BatchNorm2d(6),
            relu(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            dense(24, 5),
            Act(),
        ),
    ),
    "depthwise": (
        IMAGE,
        lambda: nn.Sequential(
            Act(4),
            conv(1, 6, 3),
            relu(),
            conv(6, 6, 3, groups=6, padding=1),
            nn.BatchNorm2d(6),
            relu(),
            conv(6, 8, 1),
            relu(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            Act(6),
            dense(8, 5),
            Act(),
        ),
    ),
    "residual": (IMAGE, Residual),
    "inception": (IMAGE, Inception),
    "one-d": (
        SEQUENCE,
        lambda: nn.Sequential(
            Act(4),
            qnn.QuantConv1d(3, 5, 3, bias=False, weight_bit_width=4, dilation=2, padding=1),
            nn.BatchNorm1d(5),
            relu(),
            nn.Flatten(),
            dense(70, 4),
            Act(),
        ),
    ),
    "transposed": (
        IMAGE,
        lambda: nn.Sequential(
            Act(4),
            conv(1, 4, 3, stride=2),
            relu(),
            qnn.QuantConvTranspose2d(4, 2, 3, stride=2, bias=False, weight_bit_width=4),
            Act(),
        ),
    ),
    "binary": (
        VECTOR,
        lambda: nn.Sequential(
            qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst),
            qnn.QuantLinear(12, 10, bias=False, weight_quant=SignedBinaryWeightPerTensorConst),
            nn.BatchNorm1d(10),
            qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst),
            qnn.QuantLinear(10, 4, bias=False, weight_quant=SignedBinaryWeightPerTensorConst),
            Act(),
        ),
    ),
    "ternary": (
        VECTOR,
        lambda: nn.Sequential(
            Act(4),
            qnn.QuantLinear(12, 10, bias=False, weight_quant=SignedTernaryWeightPerTensorConst, weight_bit_width=2),
            relu(3),
            dense(10, 4, 2),
            Act(),
        ),
    ),
    "mixed": (
        IMAGE,
        lambda: nn.Sequential(
            Act(7),
            conv(1, 4, 3, 8),
            relu(2),
            conv(4, 6, 3, 3),
            nn.BatchNorm2d(6),
            relu(6),
            nn.Flatten(),
            dense(96, 4, 5),
            Act(5),
        ),
    ),
    "per-channel": (
        IMAGE,
        lambda: nn.Sequential(
            Act(4),
            conv(1, 6, 3, weight_quant=Int8WeightPerChannelFloat, bias=True),
            nn.BatchNorm2d(6),
            relu(),
            conv(6, 4, 3, weight_quant=Int8WeightPerChannelFloat),
            Act(),
        ),
    ),
    "autoencoder": (
        VECTOR,
        lambda: nn.Sequential(
            Act(8),
            dense(12, 8, 8),
            nn.BatchNorm1d(8),
            relu(8),
            dense(8, 3, 8),
            relu(8),
            dense(3, 8, 8),
            relu(8),
            dense(8, 12, 8),
            Act(8),
        ),
    ),
    "negative-gammas": (IMAGE, NegativeGammas),
    "int32-bias": (
        VECTOR,
        lambda: nn.Sequential(
            Act(8, carry=True),
            dense(12, 10, bias=True, bias_quant=Int32Bias),
            relu(4, return_quant_tensor=True),
            dense(10, 4, bias=True, bias_quant=Int32Bias),
            Act(),
        ),
    ),
    "asymmetric": (
        VECTOR,
        lambda: nn.Sequential(
            qnn.QuantIdentity(bit_width=6, act_quant=ShiftedUint8ActPerTensorFloat),
            dense(12, 10),
            qnn.QuantIdentity(bit_width=5, act_quant=ShiftedUint8ActPerTensorFloat),
            dense(10, 4),
            Act(),
        ),
    ),
    "powers-of-two": (
        VECTOR,
        lambda: nn.Sequential(
            Act(4),
            dense(12, 10, weight_quant=Int8WeightPerTensorFixedPoint),
            qnn.QuantReLU(bit_width=4, act_quant=Uint8ActPerTensorFixedPoint),
            dense(10, 4, weight_quant=Int8WeightPerTensorFixedPoint),
        ),
    ),
    "curves": (
        VECTOR,
        lambda: nn.Sequential(
            Act(6),
            dense(12, 8),
            nn.Sigmoid(),
            Act(5),
            dense(8, 8),
            nn.SiLU(),
            Act(5),
            dense(8, 8),
            nn.Tanh(),
            Act(4),
            dense(8, 4),
            nn.LeakyReLU(0.1),
            Act(),
        ),
    ),
    "upsampled": (
        IMAGE,
        lambda: nn.Sequential(
            Act(4),
            conv(1, 4, 3, stride=2),
            relu(),
            nn.Upsample(scale_factor=2),
            conv(4, 4, 3, padding=1),
            relu(),
            nn.PixelShuffle(2),
            conv(1, 2, 1),
            Act(),
        ),
    ),
    "two-heads": ((10,), _two_heads),
    # the index of raw sums: of equal ones float32 may find another, by its own rounding
    "classes": (VECTOR, lambda: nn.Sequential(Act(2), dense(12, 10, 2), relu(2), dense(10, 4, 2), Index())),
}


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    """(network in eval mode with settled quantisers and statistics, samples)."""
    torch.manual_seed(sum(map(ord, name)))
    shape, build = ZOO[name]
    network = build()
    samples = torch.randn(24, *shape)
    network.train()
    for _ in range(12):
        network(torch.randn(16, *shape))
    if hasattr(network, "settle"):
        network.settle()
    return network.eval(), samples
