"""A float decoder in torch: the logits of whole texts, and texts that it writes itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from greenedge.decoder.float_model import FloatDecoder, FloatLayer, Sizes, rotation_angles
from greenedge.progress import ProgressFn, no_progress

_BLOCK = 32  # positions
BEGIN = 1  # the token that begins a text in llama2.c and SentencePiece


@dataclass(frozen=True)
class Rotation:
    """cosine + i sine of every pair at every position, (context, head_dim / 2)."""

    turns: Tensor

    def turn(self, x: Tensor, start: int = 0) -> Tensor:
        """(..., length, head_dim) at positions start, start + 1, ...: adjacent pairs are turned."""
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * self.turns[start : start + x.shape[-2]]).flatten(-2)


def make_rotation(sizes: Sizes, base: float) -> Rotation:
    """The table in two float32."""
    angles = torch.from_numpy(rotation_angles(sizes, base))
    return Rotation(torch.complex(angles.cos().float(), angles.sin().float()))


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """(batch, length, heads * head_dim) → (batch, heads, length, head_dim)."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """The inverse of split_heads."""
    return x.transpose(1, 2).flatten(2)


class FloatNetwork:
    """Runs a float decoder; no gradients."""

    def __init__(self, model: FloatDecoder) -> None:
        self.sizes, self.epsilon = model.sizes, model.epsilon
        self.rotation = make_rotation(model.sizes, model.rotation_base)
        self.embedding, self.head, self.final_norm = map(
            torch.from_numpy, (model.embedding, model.head, model.final_norm)
        )
        self.layers = tuple(_to_torch(layer) for layer in model.layers)

    @torch.no_grad()
    def run(self, tokens: Tensor) -> Tensor:
        """(batch, length) → logits (batch, length, vocabulary)."""
        return self._run(tokens, None, 0)

    @torch.no_grad()
    def run_states(self, tokens: Tensor) -> Tensor:
        """(batch, length) → what goes into the head, (batch, length, dim); logits are these @ head.T."""
        return self._run_states(tokens, None, 0)

    @torch.no_grad()
    def write(self, texts: int, length: int, seed: int, progress: ProgressFn = no_progress, batch: int = 256) -> Tensor:
        """(texts, length) tokens that the model writes itself at temperature 1, each behind BEGIN."""
        generator = torch.Generator().manual_seed(seed)
        written = torch.full((texts, length), BEGIN)
        for first in range(0, texts, batch):
            rows = written[first : first + batch]
            cache = self._make_cache(len(rows), length)
            for place in range(length - 1):
                logits = self._run(rows[:, place : place + 1], cache, place)[:, 0]
                rows[:, place + 1] = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
                if place % 16 == 0:
                    done = f"token {place} of {length}, text {first + 1} to {first + len(rows)} of {texts}"
                    progress(first + len(rows) * place // length, texts, done)
        return written

    def _make_cache(self, batch: int, length: int) -> Tensor:
        sizes = self.sizes
        return torch.zeros(sizes.layers, 2, batch, sizes.kv_heads, length, sizes.head_dim)

    def _run(self, tokens: Tensor, cache: Tensor | None, start: int) -> Tensor:
        return self._run_states(tokens, cache, start) @ self.head.T

    def _run_states(self, tokens: Tensor, cache: Tensor | None, start: int) -> Tensor:
        sizes, x = self.sizes, self.embedding[tokens]
        for number, layer in enumerate(self.layers):
            h = self._normalise(x, layer["attention_norm"])
            query = self.rotation.turn(split_heads(h @ layer["query"].T, sizes.head_dim), start)
            key = self.rotation.turn(split_heads(h @ layer["key"].T, sizes.head_dim), start)
            value = split_heads(h @ layer["value"].T, sizes.head_dim)
            if cache is not None:
                end = start + tokens.shape[1]
                cache[number, 0, :, :, start:end], cache[number, 1, :, :, start:end] = key, value
                key, value = cache[number, 0, :, :, :end], cache[number, 1, :, :, :end]
            mixed = attend(query, key, value, is_causal=tokens.shape[1] > 1)
            x = x + join_heads(mixed) @ layer["output"].T
            h = self._normalise(x, layer["mlp_norm"])
            x = x + (F.silu(h @ layer["gate"].T) * (h @ layer["up"].T)) @ layer["down"].T
        return self._normalise(x, self.final_norm)

    def _normalise(self, x: Tensor, gain: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * gain


def attend(query: Tensor, key: Tensor, value: Tensor, is_causal: bool = True) -> Tensor:
    """Attention of (batch, heads, length, head_dim) to keys and values of fewer heads; a single query sees them all.

    Queries that share their keys are rows of one product, and a block of positions is multiplied with the keys that it
    reaches: heads of 8 numbers take a third less time so than by torch's own function.
    """
    group, length = query.shape[1] // key.shape[1], query.shape[2]
    rows = (query / math.sqrt(query.shape[3])).unflatten(1, (-1, group)).transpose(2, 3)
    mixed = []
    for first in range(0, length, _BLOCK):
        block = rows[:, :, first : first + _BLOCK].flatten(2, 3)
        reached = min(first + _BLOCK, length) if is_causal else key.shape[2]
        logits = block @ key[:, :, :reached].transpose(-1, -2)
        if is_causal:
            later = torch.full((reached - first, reached), -math.inf).triu(first + 1)
            logits = logits + later.repeat_interleave(group, 0)
        mixed.append((logits.softmax(-1) @ value[:, :, :reached]).unflatten(2, (-1, group)))
    return torch.cat(mixed, 2).transpose(2, 3).flatten(1, 2)


def _to_torch(layer: FloatLayer) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in vars(layer).items()}
