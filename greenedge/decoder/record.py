"""A llama-shaped decoder in which every number is an integer: what it holds, and between which bounds.

`>>` is the arithmetic shift (floor), `clip(a, h)` is min(max(a, -h), h); a division of integers is floored. One token
at position t goes through

    embed       x = embedding[token] << residual_shift                     residual, int16
    per layer
      normalise h = norm(x, attention_norm)
      project   q, k = rotate(requantise(query, h, 2047), t), likewise key;  v = requantise(value, h, 127)
      attend    a_j = (q . k_j + 2^(logit_shift-1)) >> logit_shift         for every position j <= t, in 1/16 nat
                e_j = exponential[min(max a - a_j, 255)];  Z = sum e
                o   = clip(((context_numerator // Z) * sum e_j v_j + 2^27) >> 28, 127)       per head
      add       x = clip(x + requantise(output, o, no clip), 32767)
      normalise h = norm(x, mlp_norm)
      gate      z = clip((activation[requantise(gate, h, 127)] * requantise(up, h, 127) * product_multiplier + 2^15)
                         >> 16, 127)
      add       x = clip(x + requantise(down, z, no clip), 32767)
    head        logits = head . norm(x, final_norm)

    requantise(P, h, c) = clip(((P.weights . h) * P.multipliers + 2^(P.shift-1)) >> P.shift, c)
    rotate(u, t)        pairs (u0, u1) of adjacent elements of a head, c = cosine[t, i], s = sine[t, i], in 2^-14:
                        clip((u0 c - u1 s + 2^17) >> 18, 127), clip((u0 s + u1 c + 2^17) >> 18, 127)
    norm(x, C)          clip((x * R + 2^19) >> 20, 127), with s = max(sum x^2, 1) and R by `norm_form`:
      "root"            R = min(isqrt(C // s), 2^17-1)
      "table"           R = min(((root_table[m] * (isqrt(C) >> 12)) >> 8) >> half, 2^17-1), where half is the smallest
                        number with s >> 2*half < 1024 and m = max(s >> 2*half, 256);
                        root_table[m] = isqrt(2^40 // m), of which 768 entries (256..1023) occur

A query head h attends to the keys and values of head h * kv_heads // heads. Gains of the norms are folded into the
weights that follow them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import GreenedgeError

NormForm = Literal["root", "table"]
RESIDUAL_LIMIT = 32767
ROOT_LIMIT = (1 << 17) - 1
NORM_BITS = 60  # of attention_norm, mlp_norm and final_norm
CONTEXT_BITS = 30  # of context_numerator
MULTIPLIER_BITS = 18  # with sign; product_multiplier is unsigned and has 17


@dataclass(frozen=True)
class Projection:
    """A matrix with a multiplier for each row: requantise() of the module's docstring.

    weights      (rows, columns) int8
    multipliers  (rows,) int32, at most 18 bits with sign
    shift        1 to 24
    """

    weights: NDArray[np.int8]
    multipliers: NDArray[np.int32]
    shift: int

    @property
    def rows(self) -> int:
        """How many numbers come out."""
        return int(self.weights.shape[0])

    @property
    def columns(self) -> int:
        """How many numbers go in."""
        return int(self.weights.shape[1])


@dataclass(frozen=True)
class Layer:
    """One block: attention, then the gated perceptron. `activation` is (255,) int16, indexed by the gate + 127."""

    attention_norm: int
    query: Projection
    key: Projection
    value: Projection
    logit_shift: int
    context_numerator: int
    output: Projection
    mlp_norm: int
    gate: Projection
    up: Projection
    activation: NDArray[np.int16]
    product_multiplier: int
    down: Projection

    @property
    def projections(self) -> dict[str, Projection]:
        """The seven matrices by name, in the order in which a token uses them."""
        names = ("query", "key", "value", "output", "gate", "up", "down")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Decoder:
    """A whole model, without its tokenizer. `check` says what its fields must satisfy.

    heads, kv_heads   of queries; of keys and values (heads is a multiple of it)
    weight_bits       of every projection, 2 to 8; embedding and head have 8
    norm_form         how every norm is computed
    residual_shift    4 bits of fraction in the residual are usual
    embedding         (vocabulary, dim) int8
    layers            one Layer a block
    final_norm        the constant C of the last norm
    head              (vocabulary, dim) int8
    cosine, sine      (context, head_dim / 2) int16 in 2^-14; `context` positions exist
    exponential       (256,) uint8: 255 exp(-i / 16), rounded
    temperature_unit  logits * temperature_unit / 2^16 are in 1/16 nat at temperature 1
    """

    heads: int
    kv_heads: int
    weight_bits: int
    norm_form: NormForm
    residual_shift: int
    embedding: NDArray[np.int8]
    layers: tuple[Layer, ...]
    final_norm: int
    head: NDArray[np.int8]
    cosine: NDArray[np.int16]
    sine: NDArray[np.int16]
    exponential: NDArray[np.uint8]
    temperature_unit: int

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self.embedding.shape[0])

    @property
    def dim(self) -> int:
        """The width of the residual."""
        return int(self.embedding.shape[1])

    @property
    def hidden(self) -> int:
        """The width of the gated perceptron."""
        return self.layers[0].gate.rows

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return self.dim // self.heads

    @property
    def context(self) -> int:
        """How many positions there are."""
        return int(self.cosine.shape[0])

    @property
    def parameters(self) -> int:
        """Weights of embedding, head and projections."""
        inner = sum(one.weights.size for layer in self.layers for one in layer.projections.values())
        return int(self.embedding.size + self.head.size + inner)

    def check(self, shown: object = "the decoder") -> None:
        """Raises GreenedgeError with the first field, called after `shown`, that breaks a bound of this module."""
        for name, found, wanted in self._list_shapes():
            if found != wanted:
                raise GreenedgeError(f"{shown}: {name} has shape {found}, {wanted} is wanted.")
        for name, low, value, high in self._list_bounds():
            least, most = int(np.min(value)), int(np.max(value))
            if least < low or most > high:
                raise GreenedgeError(f"{shown}: {name} holds {least} to {most}; {low} to {high} is wanted.")

    def _list_shapes(self) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """(name, shape found, shape wanted); raises GreenedgeError where the sizes themselves contradict."""
        if self.embedding.ndim != 2 or not self.embedding.size or not self.layers or self.cosine.ndim != 2:
            raise GreenedgeError("a decoder has an embedding, at least one layer, and tables of cosines and sines.")
        if self.heads < 1 or self.kv_heads < 1 or self.heads % self.kv_heads or self.dim % (2 * self.heads):
            raise GreenedgeError(
                f"{self.heads} heads, {self.kv_heads} of keys and values, do not divide a width of {self.dim} into "
                "pairs; heads must be a multiple of those of keys, and the width of twice the heads."
            )
        dim, hidden, narrow = self.dim, self.hidden, self.kv_heads * self.head_dim
        sizes = {
            "query": (dim, dim),
            "key": (narrow, dim),
            "value": (narrow, dim),
            "output": (dim, dim),
            "gate": (hidden, dim),
            "up": (hidden, dim),
            "down": (dim, hidden),
        }
        yield "head", self.head.shape, (self.vocabulary, dim)
        yield "cosine", self.cosine.shape, (self.context, self.head_dim // 2)
        yield "sine", self.sine.shape, self.cosine.shape
        yield "exponential", self.exponential.shape, (256,)
        for number, layer in enumerate(self.layers):
            yield f"layer {number}, activation", layer.activation.shape, (255,)
            for name, one in layer.projections.items():
                yield f"layer {number}, {name}", one.weights.shape, sizes[name]
                yield f"layer {number}, multipliers of {name}", one.multipliers.shape, (sizes[name][0],)

    def _list_bounds(self) -> Iterator[tuple[str, int, Any, int]]:
        """(name, least, values, most)."""
        most, half = 2 ** (self.weight_bits - 1) - 1, 1 << (MULTIPLIER_BITS - 1)
        yield "weight_bits", 2, self.weight_bits, 8
        yield "norm_form", 1, int(self.norm_form in ("root", "table")), 1
        yield "residual_shift", 0, self.residual_shift, 8
        yield "vocabulary", 2, self.vocabulary, 1 << 17
        yield "context", 1, self.context, 1 << 16
        yield "embedding", -127, self.embedding, 127
        yield "head", -127, self.head, 127
        yield "cosine", -(1 << 14), self.cosine, 1 << 14
        yield "sine", -(1 << 14), self.sine, 1 << 14
        yield "exponential", 0, self.exponential, 255
        yield "the first of exponential", 1, self.exponential[0], 255  # a sum of zero would be divided by
        yield "final_norm", 1, self.final_norm, (1 << NORM_BITS) - 1
        yield "temperature_unit", 1, self.temperature_unit, (1 << 24) - 1
        for number, layer in enumerate(self.layers):
            at = f"layer {number}, "
            yield at + "attention_norm", 1, layer.attention_norm, (1 << NORM_BITS) - 1
            yield at + "mlp_norm", 1, layer.mlp_norm, (1 << NORM_BITS) - 1
            yield at + "logit_shift", 1, layer.logit_shift, 15
            yield at + "context_numerator", 1, layer.context_numerator, (1 << CONTEXT_BITS) - 1
            yield at + "activation", -511, layer.activation, 511
            yield at + "product_multiplier", 0, layer.product_multiplier, half - 1
            for name, one in layer.projections.items():
                yield at + name, -most, one.weights, most
                yield at + f"multipliers of {name}", -half, one.multipliers, half - 1
                yield at + f"shift of {name}", 1, one.shift, 24
