"""Blocks of transformers from Brevitas layers, small and with random weights, as people write them."""

from __future__ import annotations

import math
import warnings

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas.quant import Uint8ActPerTensorFloat
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, LENGTH = 16, 2, 8


def _levels() -> nn.Module:
    return qnn.QuantIdentity(bit_width=8)


def _linear(fan_in: int, fan_out: int) -> nn.Module:
    return qnn.QuantLinear(fan_in, fan_out, bias=True, weight_bit_width=4)


def _split(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(len(x), LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)


def _join(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).reshape(len(x), LENGTH, WIDTH)


class Attention(nn.Module):
    """Written by hand, with a quantiser on everything; logits alone may go without."""

    def __init__(self, causal: bool = False, quantises_logits: bool = True) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (_linear(WIDTH, WIDTH) for _ in range(4))
        self.q, self.k, self.v, self.context = (_levels() for _ in range(4))
        self.logits = _levels() if quantises_logits else nn.Identity()
        self.shares = qnn.QuantIdentity(bit_width=8, act_quant=Uint8ActPerTensorFloat)
        self.causal = causal

    def forward(self, x):
        q, k, v = self.q(_split(self.query(x))), self.k(_split(self.key(x))), self.v(_split(self.value(x)))
        logits = self.logits(q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS))
        if self.causal:
            later = torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), 1)
            logits = logits.masked_fill(later, -math.inf)
        return self.output(self.context(_join(self.shares(torch.softmax(logits, -1)) @ v)))


class Rms(nn.Module):
    """RMSNorm as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.gain


class Block(nn.Module):
    def __init__(self, norm=lambda: nn.LayerNorm(WIDTH), activation=nn.GELU, **attention) -> None:
        super().__init__()
        self.first, self.second, self.attention = norm(), norm(), Attention(**attention)
        self.up, self.down, self.head = _linear(WIDTH, 2 * WIDTH), _linear(2 * WIDTH, WIDTH), _linear(WIDTH, 4)
        self.activation = activation()
        self.levels = nn.ModuleList(_levels() for _ in range(9))

    def forward(self, x):
        entry, normed, attended, joined, normed2, raised, gated, lowered, left = self.levels
        x = entry(x)
        x = joined(x + attended(self.attention(normed(self.first(x)))))
        hidden = gated(self.activation(raised(self.up(normed2(self.second(x))))))
        x = left(x + lowered(self.down(hidden)))
        return self.head(x[:, 0])


class Multihead(nn.Module):
    """Brevitas' own layer, which has the sequence first."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.entry, self.left, self.head = _levels(), _levels(), _linear(WIDTH, 4)
        self.m = qnn.QuantMultiheadAttention(WIDTH, HEADS, batch_first=True, packed_in_proj=packed)

    def forward(self, x):
        x = self.entry(x)
        return self.head(self.left(self.m(x, x, x)[0])[:, 0])


class DotProduct(nn.Module):
    """torch's function, or Brevitas' layer for it."""

    def __init__(self, quantised: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.entry, self.q, self.k, self.v, self.context = (_levels() for _ in range(5))
        self.query, self.key, self.value = (_linear(WIDTH, WIDTH) for _ in range(3))
        self.head, self.causal = _linear(WIDTH, 4), causal
        self.product = qnn.QuantScaledDotProductAttention() if quantised else F.scaled_dot_product_attention

    def forward(self, x):
        x = self.entry(x)
        q, k, v = (
            levels(_split(layer(x)))
            for levels, layer in ((self.q, self.query), (self.k, self.key), (self.v, self.value))
        )
        return self.head(self.context(_join(self.product(q, k, v, is_causal=self.causal)))[:, 0])


_MAKERS = {
    "layer-gelu": Block,
    "rms-silu-causal": lambda: Block(Rms, nn.SiLU, causal=True),
    "rmsnorm-relu": lambda: Block(lambda: nn.RMSNorm(WIDTH), nn.ReLU),
    "logits not quantised": lambda: Block(quantises_logits=False),
    "multihead": lambda: Multihead(packed=False),
    "dot product": DotProduct,
    "dot product, causal": lambda: DotProduct(causal=True),
    "quantised dot product": lambda: DotProduct(quantised=True),
    "quantised dot product, causal": lambda: DotProduct(quantised=True, causal=True),
    "packed": lambda: Multihead(packed=True),
}
BLOCKS = [name for name in _MAKERS if name != "packed"]


def make_block(name: str) -> tuple[nn.Module, np.ndarray]:
    """(the block, calibrated on its samples; the samples)."""
    torch.manual_seed(3)
    network, x = _MAKERS[name](), torch.randn(32, LENGTH, WIDTH)
    with torch.no_grad():
        network.train()(x)
        network(x)
    return network.eval(), x.numpy()


def export_block(name: str, path) -> np.ndarray:
    """Writes the block as QONNX; returns its samples."""
    from brevitas.export import export_qonnx

    network, x = make_block(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_qonnx(network, torch.from_numpy(x[:1]), str(path))
    return x
