"""A decoder with quantisers in float32 torch, in the form that `export` turns into integers.

Every quantiser has a scale s, kept as its logarithm, and gives s * clip(round(x / s), -limit, limit); gradients reach
x inside the clip, and s as in "Learned Step Size Quantization" (Esser et al., 2020). Weights have a scale for each row,
activations one each: of both norms, key, value, context, gate, up and gated product in every layer, and of the last
norm. The query's scale follows from the key's, since a logit must be a power of two away from 1/16 nat:
query * key / sqrt(head_dim) * 16 = 2^-logit_shift.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greenedge.decoder.float_model import FloatDecoder
from greenedge.decoder.record import RESIDUAL_LIMIT, ROOT_LIMIT, NormForm
from greenedge.train.decoder.float_network import attend, join_heads, make_rotation, split_heads

LEVELS = 127
MATRICES = ("query", "key", "value", "output", "gate", "up", "down")
ACTIVATIONS = ("attention_norm", "key", "value", "context", "mlp_norm", "gate", "up", "product")
Observer = Callable[[str, int, Tensor], None]  # (activation, layer, values)


class _Quantise(torch.autograd.Function):
    """(x, log scale, limit) → the nearest level times its scale."""

    @staticmethod
    def forward(context: Any, x: Tensor, log_scale: Tensor, limit: int) -> Tensor:
        scale = log_scale.exp()
        ratio = x / scale
        level = ratio.round().clamp_(-limit, limit)
        context.save_for_backward(ratio, level, scale)
        context.limit = limit
        return level * scale

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        ratio, level, scale = context.saved_tensors
        to_x = torch.where(ratio.abs() > context.limit, 0.0, gradients[0])
        if scale.ndim:
            to_scale = _multiply_rows(gradients[0], level) - _multiply_rows(to_x, ratio)
        else:
            to_scale = torch.dot(gradients[0].flatten(), level.flatten()) - torch.dot(to_x.flatten(), ratio.flatten())
        return to_x, to_scale * scale, None


def _multiply_rows(x: Tensor, y: Tensor) -> Tensor:
    """(rows, columns) twice → (rows, 1): the sum of products of each row."""
    return torch.einsum("ri,ri->r", x, y)[:, None]


def quantise(x: Tensor, log_scale: Tensor, limit: int) -> Tensor:
    """x on its levels; log_scale is a scalar, or (rows, 1) for a matrix."""
    return _Quantise.apply(x, log_scale, limit)


class QuantisedNetwork(nn.Module):
    """Parameters by name: `weights.query` (layers, rows, columns), `row_scales.query` (layers, rows, 1),
    `scales.key` (layers,), embedding, head (vocabulary, dim) and their scales. Gains are folded into the weights."""

    embedding_scale: nn.Parameter
    head_scale: nn.Parameter
    final_scale: nn.Parameter
    logit_shifts: Tensor
    residual_shift: Tensor

    def __init__(self, model: FloatDecoder, weight_bits: int, norm_form: NormForm) -> None:
        super().__init__()
        self.sizes, self.weight_bits, self.norm_form = model.sizes, weight_bits, norm_form
        self.epsilon = model.epsilon
        self.rotation, self.rotation_base = make_rotation(model.sizes, model.rotation_base), model.rotation_base
        stacks = _fold_gains(model)
        self.weights = nn.ParameterDict({name: nn.Parameter(stack) for name, stack in stacks.items()})
        self.row_scales = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(*stack.shape[:2], 1)) for name, stack in stacks.items()}
        )
        self.scales = nn.ParameterDict({name: nn.Parameter(torch.zeros(model.sizes.layers)) for name in ACTIVATIONS})
        self.embedding = nn.Parameter(torch.from_numpy(model.embedding).clone())
        self.head = nn.Parameter(torch.from_numpy(model.head * model.final_norm))
        for name in ("embedding_scale", "head_scale", "final_scale"):
            setattr(self, name, nn.Parameter(torch.zeros(())))
        self.register_buffer("logit_shifts", torch.full((model.sizes.layers,), 4))
        self.register_buffer("residual_shift", torch.tensor(4))

    @property
    def weight_limit(self) -> int:
        """The largest level of a weight."""
        return int(2 ** (self.weight_bits - 1) - 1)

    def query_scale(self, number: int) -> Tensor:
        """The logarithm of the query's scale in a layer."""
        wanted = math.log(math.sqrt(self.sizes.head_dim) / 16) - float(self.logit_shifts[number]) * math.log(2)
        return wanted - self.scales["key"][number]

    def forward(self, tokens: Tensor, observe: Observer | None = None) -> Tensor:
        """(batch, length) → logits (batch, length, vocabulary). With `observe` nothing is quantised: it is called with
        what each quantiser would take, and "query" and "final" besides."""

        def level(name: str, number: int, x: Tensor) -> Tensor:
            if observe is None:
                scale = self.query_scale(number) if name == "query" else self.scales[name][number]
                return quantise(x, scale, LEVELS)
            observe(name, number, x)
            return x

        def project(name: str, number: int, x: Tensor) -> Tensor:
            weight = self.weights[name][number]
            if observe is None:
                weight = quantise(weight, self.row_scales[name][number], self.weight_limit)
            return x @ weight.T

        return self._run(tokens, level, project, observe)

    def _run(
        self,
        tokens: Tensor,
        level: Callable[[str, int, Tensor], Tensor],
        project: Callable[[str, int, Tensor], Tensor],
        observe: Observer | None,
    ) -> Tensor:
        width, turn = self.sizes.head_dim, self.rotation.turn
        embedding: Tensor = self.embedding
        head: Tensor = self.head
        if observe is None:
            embedding = quantise(embedding, self.embedding_scale, LEVELS)
            head = quantise(head, self.head_scale, LEVELS)
        x = F.embedding(tokens, embedding)
        for number in range(self.sizes.layers):
            h = level(
                "attention_norm", number, self._normalise(x, self.scales["attention_norm"][number], observe is None)
            )
            query = level("query", number, turn(split_heads(project("query", number, h), width)))
            key = level("key", number, turn(split_heads(project("key", number, h), width)))
            value = level("value", number, split_heads(project("value", number, h), width))
            context = level("context", number, join_heads(attend(query, key, value)))
            x = self._saturate(x + project("output", number, context), observe is None)
            h = level("mlp_norm", number, self._normalise(x, self.scales["mlp_norm"][number], observe is None))
            gate = F.silu(level("gate", number, project("gate", number, h)))
            product = level("product", number, gate * level("up", number, project("up", number, h)))
            x = self._saturate(x + project("down", number, product), observe is None)
        y = self._normalise(x, self.final_scale, observe is None)
        if observe is not None:
            observe("final", 0, y)
            return y @ head.T
        return quantise(y, self.final_scale, LEVELS) @ head.T

    def _residual_unit(self) -> Tensor:
        return (self.embedding_scale - self.residual_shift * math.log(2)).exp()

    def _saturate(self, x: Tensor, as_integers: bool) -> Tensor:
        if not as_integers:
            return x
        largest = RESIDUAL_LIMIT * float(self._residual_unit().detach())
        return x.clamp(-largest, largest)

    def _normalise(self, x: Tensor, log_scale: Tensor, as_integers: bool) -> Tensor:
        """x / rms(x), the epsilon of the float model in it. As integers: without epsilon, but R of decoder/record.py
        ends at ROOT_LIMIT, which caps what a short x is multiplied by, and a table's R has a 10-bit mantissa."""
        squares = x.pow(2).sum(-1, keepdim=True)
        if not as_integers:
            return x * torch.rsqrt(squares / x.shape[-1] + self.epsilon)
        gain = torch.rsqrt((squares + 1e-12) / x.shape[-1])
        with torch.no_grad():
            unit = self._residual_unit()
            largest = ROOT_LIMIT / 2**20 * log_scale.exp() / unit
            error = torch.ones_like(gain) if self.norm_form == "root" else _table_error(squares / unit**2)
            error *= (largest / (gain * error)).clamp(max=1)
        return x * (gain * error)


def _table_error(squares: Tensor) -> Tensor:
    """What the mantissa of a table's entry makes of a root's inverse; squares are those of integers."""
    whole = squares.double().floor().clamp(min=1)
    half = (whole.log2().floor() / 2 - 4).floor().clamp(min=0)  # the smallest with whole / 4^half < 1024
    mantissa = (whole / 4.0**half).floor().clamp(min=256)
    return (whole / (mantissa * 4.0**half)).sqrt().float()


def _fold_gains(model: FloatDecoder) -> dict[str, Tensor]:
    """{matrix: (layers, rows, columns)} with the gains of the norms before them."""
    gains = {"query": "attention_norm", "key": "attention_norm", "value": "attention_norm"}
    gains |= {"gate": "mlp_norm", "up": "mlp_norm"}

    def fold(name: str) -> Tensor:
        matrices = [torch.from_numpy(getattr(layer, name)) for layer in model.layers]
        if name in gains:
            norms = [torch.from_numpy(getattr(layer, gains[name])) for layer in model.layers]
            matrices = [matrix * norm for matrix, norm in zip(matrices, norms, strict=True)]
        return torch.stack(matrices).clone()

    return {name: fold(name) for name in MATRICES}
