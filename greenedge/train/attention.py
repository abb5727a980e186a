"""Attention in a network that is trained: torch's layers spelled out, and a softmax that computes the integers it will
have in hardware.

The forward of IntSoftmax is the definition of graph/ops/softmax.py on integers; its gradient is the real softmax's.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greenedge.graph.ops.base import freeze
from greenedge.graph.ops.normalise import NORM_BITS, define_norm
from greenedge.graph.ops.softmax import define_softmax

if TYPE_CHECKING:
    from collections.abc import Callable

SHARE_LEVELS = 255  # of a share of attention: level / 255


class IntSoftmax(nn.Module):
    """softmax(logits) along the last axis as shares level / 255, for logits on the levels of `logits`, a Brevitas
    quantiser that returns a QuantTensor. `mask` is 1 where a logit counts; it broadcasts against them.

    An exporter finds a softmax between two quantisers, which is lowered to the same integers.
    """

    mask: Tensor | None

    def __init__(self, logits: nn.Module, shares: nn.Module, mask: Tensor | None = None) -> None:
        super().__init__()
        self.logits, self.shares = logits, shares
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        q = self.logits(x)
        values = getattr(q, "value", q)
        hidden = _hide(values, self.mask)
        real = torch.softmax(hidden, -1)
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or not _has_one_scale(q):
            shares: Tensor = self.shares(real)
            return shares
        exact = run_softmax(values.detach(), float(q.scale.detach()), q.bit_width, self.mask)
        return real + (exact - real).detach()


def _hide(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits with minus infinity where the mask is 0."""
    return logits if mask is None else logits.masked_fill(torch.eq(mask, 0), -math.inf)


def _has_one_scale(q: Any) -> bool:
    """Whether a quantiser gave levels of one scale; while it collects statistics it gives floats."""
    scale = getattr(q, "scale", None)
    return scale is not None and scale.numel() == 1


def run_softmax(values: Tensor, scale: float, bits: Any, mask: Tensor | None) -> Tensor:
    """The shares of logits (…, length) that are whole multiples of `scale`."""
    levels = np.rint(values.double().cpu().numpy() / scale).astype(np.int64)
    seen = None if mask is None else freeze(mask.cpu().numpy())
    op = define_softmax("p", "x", scale, 1 << int(bits), levels.shape[-1], SHARE_LEVELS, 1, SHARE_LEVELS, seen)
    return torch.from_numpy(op.execute([levels], None) / SHARE_LEVELS).to(values)


class IntNorm(nn.Module):
    """An nn.LayerNorm or nn.RMSNorm along the last axis, of levels that `levels` gives (a Brevitas quantiser that
    returns a QuantTensor), by the definition of graph/ops/normalise.py; its gradient is the real norm's."""

    def __init__(self, levels: nn.Module, norm: nn.LayerNorm | nn.RMSNorm) -> None:
        super().__init__()
        self.levels, self.norm = levels, norm

    def forward(self, x: Tensor) -> Tensor:
        q = self.levels(x)
        values = getattr(q, "value", q)
        real: Tensor = self.norm(values)
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or not _has_one_scale(q):
            return real
        scale, width, epsilon = float(q.scale.detach()), values.shape[-1], self.norm.eps
        if epsilon is None:  # torch's default of an RMSNorm
            epsilon = torch.finfo(values.dtype).eps
        kind = "layer" if isinstance(self.norm, nn.LayerNorm) else "rms"
        op = define_norm("z", "x", kind, width, Fraction(scale), 0, epsilon)
        levels = np.rint(values.detach().double().cpu().numpy() / scale).astype(np.int64)
        exact = torch.from_numpy(op.execute([levels], None) / 2.0**NORM_BITS).to(values)
        gain, bias = self.norm.weight, getattr(self.norm, "bias", None)
        exact = exact if gain is None else exact * gain
        return real + ((exact if bias is None else exact + bias) - real).detach()


class SelfAttention(nn.Module):
    """nn.MultiheadAttention of a sequence with itself, batch first, spelled out; `mask` (length, length) is 1 where a
    place sees another, None for all."""

    def __init__(self, width: int, heads: int, mask: Tensor | None = None, bias: bool = True) -> None:
        super().__init__()
        assert width % heads == 0
        self.query, self.key, self.value, self.output = (nn.Linear(width, width, bias=bias) for _ in range(4))
        self.width, self.heads = width, heads
        self.core = AttentionCore(mask)

    def forward(self, x: Tensor) -> Tensor:
        batch, length = x.shape[0], x.shape[1]
        size = self.width // self.heads
        q, k, v = (
            layer(x).reshape(batch, length, self.heads, size).permute(0, 2, 1, 3)
            for layer in (self.query, self.key, self.value)
        )
        context = self.core(q, k, v)
        return self.output(context.permute(0, 2, 1, 3).reshape(batch, length, self.width))


class AttentionCore(nn.Module):
    """softmax(q kᵀ / √size) v of heads (batch, heads, length, size); one node of a traced network, for which quantisers
    have a form as a whole."""

    mask: Tensor | None

    def __init__(self, mask: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
        return torch.matmul(torch.softmax(_hide(logits, self.mask), -1), v)


class QuantisedCore(nn.Module):
    """The same of levels, with the shares of an IntSoftmax."""

    def __init__(self, softmax: IntSoftmax) -> None:
        super().__init__()
        self.softmax = softmax

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
        return torch.matmul(self.softmax(logits), v)


class EncoderLayer(nn.Module):
    """nn.TransformerEncoderLayer, batch first, spelled out: attention and a network of two layers, each beside a way
    around it, with its norm before it (norm_first) or behind the sum."""

    def __init__(
        self, attention: nn.Module, first: nn.Module, second: nn.Module, up: nn.Module, down: nn.Module,
        activation: nn.Module, norm_first: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.attention, self.first, self.second = attention, first, second
        self.up, self.down, self.activation, self.norm_first = up, down, activation, norm_first

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = x + self.attention(self.first(x))
            return x + self.down(self.activation(self.up(self.second(x))))
        x = self.first(x + self.attention(x))
        return self.second(x + self.down(self.activation(self.up(x))))


def spell_out(model: nn.Module) -> nn.Module:
    """The network with torch's attention layers spelled out, with the same weights; it shares its other modules.

    Raises ValueError for an attention of another form than a sequence with itself, batch first.
    """
    if isinstance(model, nn.TransformerEncoderLayer):
        return _spell_layer(model)
    if isinstance(model, nn.TransformerEncoder):
        layers: list[nn.Module] = [spell_out(layer) for layer in model.layers]
        return nn.Sequential(*layers, *([model.norm] if model.norm is not None else []))
    for name, child in model.named_children():
        fresh = spell_out(child)
        if fresh is not child:
            setattr(model, name, fresh)
    return model


def _spell_layer(layer: nn.TransformerEncoderLayer) -> EncoderLayer:
    curve: Callable[..., Tensor] | nn.Module = layer.activation
    known: dict[Any, Callable[[], nn.Module]] = {F.relu: nn.ReLU, F.gelu: nn.GELU, F.silu: nn.SiLU}
    activation = curve if isinstance(curve, nn.Module) else known[curve]()
    attention = spell_attention(layer.self_attn)
    return EncoderLayer(attention, layer.norm1, layer.norm2, layer.linear1, layer.linear2, activation, layer.norm_first)


def spell_attention(layer: nn.MultiheadAttention, mask: Tensor | None = None) -> SelfAttention:
    """The same attention of a sequence with itself, with its three projections apart."""
    if not layer.batch_first or not layer._qkv_same_embed_dim or layer.bias_k is not None or layer.add_zero_attn:
        raise ValueError("an attention is spelled out with batch_first=True, one width and no added keys")
    fresh = SelfAttention(layer.embed_dim, layer.num_heads, mask, bias=layer.in_proj_bias is not None)
    parts = (fresh.query, fresh.key, fresh.value)
    with torch.no_grad():
        for part, weight in zip(parts, layer.in_proj_weight.chunk(3), strict=True):
            part.weight.copy_(weight)
        if layer.in_proj_bias is not None:
            for part, bias in zip(parts, layer.in_proj_bias.chunk(3), strict=True):
                part.bias.copy_(bias)
        fresh.output.weight.copy_(layer.out_proj.weight)
        if layer.out_proj.bias is not None:
            fresh.output.bias.copy_(layer.out_proj.bias)
    return fresh.train(layer.training)
