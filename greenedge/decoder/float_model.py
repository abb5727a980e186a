"""A llama-shaped decoder in float32, as it was trained: what the files of others become before they are quantised.

    x = embedding[token];  per layer
      h = rms(x) * attention_norm;  x += output . attention(rotate(query . h), rotate(key . h), value . h)
      h = rms(x) * mlp_norm;        x += down . (silu(gate . h) * (up . h))
    logits = head . (rms(x) * final_norm)

rms(x) = x / sqrt(mean x^2 + epsilon). Rotation turns adjacent pairs (2i, 2i + 1) of a head by position *
rotation_base^(-2i / head_dim). Files that pair (i, i + head_dim / 2) must have had their rows permuted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import GreenedgeError

Floats = NDArray[np.float32]
MAX_PARAMETERS = 1 << 28  # 1 GiB as float32
MAX_LAYERS = 1 << 10
MAX_WIDTH = 1 << 16
MAX_VOCABULARY = 1 << 17
MAX_CONTEXT = 1 << 16
_HUGE = 1e6  # no weight of a trained model comes near it, and squares of it stay finite in float32


@dataclass(frozen=True)
class Sizes:
    """What a file's header says: the widths of everything that follows."""

    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return self.dim // self.heads

    @property
    def narrow(self) -> int:
        """The width of all keys, and of all values, of a position."""
        return self.kv_heads * self.head_dim

    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """{field of FloatLayer: shape}."""
        return {
            "attention_norm": (self.dim,),
            "query": (self.dim, self.dim),
            "key": (self.narrow, self.dim),
            "value": (self.narrow, self.dim),
            "output": (self.dim, self.dim),
            "mlp_norm": (self.dim,),
            "gate": (self.hidden, self.dim),
            "up": (self.hidden, self.dim),
            "down": (self.dim, self.hidden),
        }

    def check(self, shown: object) -> None:
        """Raises GreenedgeError, begun with `shown`, for sizes that no decoder has or that are too large to read."""
        bounds = {
            "dim": (2, MAX_WIDTH),
            "hidden": (1, MAX_WIDTH),
            "layers": (1, MAX_LAYERS),
            "heads": (1, MAX_WIDTH),
            "kv_heads": (1, MAX_WIDTH),
            "vocabulary": (2, MAX_VOCABULARY),
            "context": (1, MAX_CONTEXT),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise GreenedgeError(f"{shown} says {name} {getattr(self, name):,}; {low} to {high:,} are read.")
        if self.heads % self.kv_heads or self.dim % (2 * self.heads):
            raise GreenedgeError(
                f"{shown} says {self.heads} heads, {self.kv_heads} of keys and values, at a width of {self.dim}; heads "
                "must be a multiple of those of keys, and the width of twice the heads."
            )
        inner = self.dim * (2 * self.dim + 2 * self.narrow + 3 * self.hidden)
        if (total := self.layers * inner + 2 * self.vocabulary * self.dim) > MAX_PARAMETERS:
            raise GreenedgeError(f"{shown} has {total:,} parameters; at most {MAX_PARAMETERS:,} are read.")


@dataclass(frozen=True)
class FloatLayer:
    """One block; norms (dim,), matrices (rows, columns) as in Sizes.layer_shapes."""

    attention_norm: Floats
    query: Floats
    key: Floats
    value: Floats
    output: Floats
    mlp_norm: Floats
    gate: Floats
    up: Floats
    down: Floats


@dataclass(frozen=True)
class FloatDecoder:
    """A whole model. embedding and head (vocabulary, dim), final_norm (dim,)."""

    sizes: Sizes
    embedding: Floats
    layers: tuple[FloatLayer, ...]
    final_norm: Floats
    head: Floats
    rotation_base: float = 10000.0
    epsilon: float = 1e-5

    def check(self, shown: object = "the model") -> None:
        """Raises GreenedgeError, begun with `shown`, for wrong shapes, and for numbers that are none or beyond 10^6."""
        self.sizes.check(shown)
        if not 1 <= self.rotation_base <= 1e9 or not 0 <= self.epsilon <= 1e-2:
            raise GreenedgeError(
                f"{shown} rotates with base {self.rotation_base:g} and divides with epsilon {self.epsilon:g}; 1 to "
                "10^9 and 0 to 0.01 are possible."
            )
        if len(self.layers) != self.sizes.layers:
            raise GreenedgeError(f"{shown} has {len(self.layers)} layers, {self.sizes.layers} are wanted.")
        for name, array, shape in self._list_arrays():
            if array.shape != shape or array.dtype != np.float32:
                raise GreenedgeError(f"{shown}: {name} is {array.dtype} {array.shape}, float32 {shape} is wanted.")
            if not (np.abs(array) < _HUGE).all():  # also false for what is not a number
                raise GreenedgeError(
                    f"{shown}: {name} holds numbers that are infinite, above 10^6 or none; the file is damaged."
                )

    def _list_arrays(self) -> Iterator[tuple[str, NDArray[Any], tuple[int, ...]]]:
        sizes = self.sizes
        yield "embedding", self.embedding, (sizes.vocabulary, sizes.dim)
        yield "head", self.head, (sizes.vocabulary, sizes.dim)
        yield "final_norm", self.final_norm, (sizes.dim,)
        for number, layer in enumerate(self.layers):
            for name, shape in sizes.layer_shapes().items():
                yield f"layer {number}, {name}", getattr(layer, name), shape


def rotation_angles(sizes: Sizes, base: float) -> NDArray[np.float64]:
    """(context, head_dim / 2): the angle of every pair at every position."""
    powers = np.arange(0, sizes.head_dim, 2) / sizes.head_dim
    return np.outer(np.arange(sizes.context), float(base) ** -powers)
