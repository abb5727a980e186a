"""Runs a decoder on integers: one token at a time with a key/value cache, and whole sequences. Both give the same.

Everything is int64. Sums of products are matrix products of float64, whose partial sums are integers below 2^53.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.decoder.record import RESIDUAL_LIMIT, ROOT_LIMIT, Decoder, Layer, Projection
from greenedge.errors import GreenedgeError

Ints = NDArray[np.int64]
Tracer = Callable[[str, Ints], None]
_ROTATED = 2047  # the clip before a rotation: 12 bits with sign
_LEVELS = 127
_MASKED = -(1 << 40)  # a logit that no position reaches


class StepDecoder:
    """One token at a time. `position` tokens have been taken; keys and values of them are kept.

    `trace`, where given, is called with ("layer 0, query", integers) for every intermediate of every token.
    """

    def __init__(self, decoder: Decoder, trace: Tracer | None = None) -> None:
        self.decoder, self.trace, self.position = decoder, trace, 0
        cache = (len(decoder.layers), decoder.kv_heads, decoder.context, decoder.head_dim)
        self._keys, self._values = np.zeros(cache, np.int64), np.zeros(cache, np.int64)

    def step(self, token: int) -> Ints:
        """The logits, (vocabulary,), behind one more token. Raises GreenedgeError for a token that does not exist and
        where the context is full."""
        one = self.decoder
        check_tokens(one, np.array([token]), self.position)
        x = one.embedding[token].astype(np.int64) << one.residual_shift
        for number, layer in enumerate(one.layers):
            x = self._attend(number, layer, x)
            x = self._gate(number, layer, x)
        self.position += 1
        return multiply(self._show("norm", normalise(one, x, one.final_norm)), one.head)

    def _attend(self, number: int, layer: Layer, x: Ints) -> Ints:
        one, t, at = self.decoder, self.position, f"layer {number}, "
        cosine, sine = one.cosine[t : t + 1].astype(np.int64), one.sine[t : t + 1].astype(np.int64)
        h = self._show(at + "attention norm", normalise(one, x, layer.attention_norm))
        heads = (-1, 1, one.head_dim)
        query = rotate(requantise(layer.query, h, _ROTATED).reshape(heads), cosine, sine)[:, 0]
        key = rotate(requantise(layer.key, h, _ROTATED).reshape(heads), cosine, sine)[:, 0]
        self._keys[number, :, t] = self._show(at + "key", key)
        self._values[number, :, t] = self._show(at + "value", requantise(layer.value, h, _LEVELS).reshape(key.shape))
        self._show(at + "query", query)
        group = one.heads // one.kv_heads
        keys = np.repeat(self._keys[number, :, : t + 1], group, axis=0)
        values = np.repeat(self._values[number, :, : t + 1], group, axis=0)
        context = attend(one, layer, query[:, None], keys, values, np.ones((1, t + 1), bool))
        self._show(at + "context", context.ravel())
        return self._show(at + "attention", add(layer.output, x, context.ravel()))

    def _gate(self, number: int, layer: Layer, x: Ints) -> Ints:
        at = f"layer {number}, "
        h = self._show(at + "mlp norm", normalise(self.decoder, x, layer.mlp_norm))
        z = self._show(at + "gated", gate(layer, h))
        return self._show(at + "residual", add(layer.down, x, z))

    def _show(self, name: str, value: Ints) -> Ints:
        if self.trace is not None:
            self.trace(name, value)
        return value


def run_sequences(decoder: Decoder, tokens: NDArray[Any]) -> Ints:
    """The logits (batch, length, vocabulary) behind every token of whole sequences, (batch, length).

    Raises GreenedgeError for tokens that do not exist, and for sequences longer than the context.
    """
    check_tokens(decoder, tokens, 0)
    batch, length = tokens.shape
    cosine, sine = decoder.cosine[:length].astype(np.int64), decoder.sine[:length].astype(np.int64)
    group, reached = decoder.heads // decoder.kv_heads, np.tril(np.ones((length, length), bool))

    def split(u: Ints) -> Ints:
        return u.reshape(batch, length, -1, decoder.head_dim).swapaxes(1, 2)

    x = decoder.embedding[tokens].astype(np.int64) << decoder.residual_shift
    for layer in decoder.layers:
        h = normalise(decoder, x, layer.attention_norm)
        query = rotate(split(requantise(layer.query, h, _ROTATED)), cosine, sine)
        key = np.repeat(rotate(split(requantise(layer.key, h, _ROTATED)), cosine, sine), group, axis=1)
        value = np.repeat(split(requantise(layer.value, h, _LEVELS)), group, axis=1)
        context = attend(decoder, layer, query, key, value, reached).swapaxes(1, 2)
        x = add(layer.output, x, context.reshape(batch, length, -1))
        x = add(layer.down, x, gate(layer, normalise(decoder, x, layer.mlp_norm)))
    return multiply(normalise(decoder, x, decoder.final_norm), decoder.head)


def check_tokens(decoder: Decoder, tokens: NDArray[Any], position: int) -> None:
    """Raises GreenedgeError for tokens that do not exist, or that the context behind `position` has no room for."""
    if not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
        raise GreenedgeError("tokens are whole numbers, at least one.")
    if int(tokens.min()) < 0 or int(tokens.max()) >= decoder.vocabulary:
        raise GreenedgeError(
            f"tokens from {int(tokens.min())} to {int(tokens.max())}: the vocabulary is 0 to {decoder.vocabulary - 1}."
        )
    if position + tokens.shape[-1] > decoder.context:
        raise GreenedgeError(
            f"{position + tokens.shape[-1]} tokens: the context has {decoder.context}; give a shorter prompt or stop."
        )


def multiply(x: Ints, weights: NDArray[Any]) -> Ints:
    """(..., columns) times (rows, columns): (..., rows). int8 products of fewer than 2^39 columns stay exact."""
    return np.rint(x.astype(np.float64) @ weights.T.astype(np.float64)).astype(np.int64)


def clip(value: Ints, limit: int) -> Ints:
    """min(max(value, -limit), limit)."""
    return np.clip(value, -limit, limit)


def scale(projection: Projection, x: Ints) -> Ints:
    """(..., columns) → (..., rows): the sums of products times the multipliers, rounded half up at the shift."""
    product = multiply(x, projection.weights) * projection.multipliers.astype(np.int64)
    return (product + (1 << (projection.shift - 1))) >> projection.shift


def requantise(projection: Projection, x: Ints, limit: int) -> Ints:
    """scale(), clipped."""
    return clip(scale(projection, x), limit)


def add(projection: Projection, x: Ints, y: Ints) -> Ints:
    """The residual x plus the projection of y, saturating."""
    return clip(x + scale(projection, y), RESIDUAL_LIMIT)


def normalise(decoder: Decoder, x: Ints, constant: int) -> Ints:
    """(..., dim) int16 → levels; the two forms stand in the record's docstring."""
    squares = np.maximum((x * x).sum(-1, keepdims=True), 1)
    root = (_root if decoder.norm_form == "root" else _look_up_root)(squares, constant)
    return clip((x * root + (1 << 19)) >> 20, _LEVELS)


def _root(squares: Ints, constant: int) -> Ints:
    return np.minimum(isqrt(np.minimum(constant // squares, 1 << 36)), ROOT_LIMIT)  # isqrt(2^36) is above the limit


def isqrt(value: Ints) -> Ints:
    """The integer square root of numbers from 0 to 2^52: float64's root is at most one off there."""
    root = np.sqrt(value.astype(np.float64)).astype(np.int64)
    root -= root * root > value
    return root + ((root + 1) * (root + 1) <= value)


ROOT_TABLE: Ints = isqrt((1 << 40) // np.maximum(np.arange(1024), 256))


def _look_up_root(squares: Ints, constant: int) -> Ints:
    half = np.zeros_like(squares)
    while (large := squares >> 2 * half >= 1024).any():
        half += large
    mantissa = np.maximum(squares >> 2 * half, 256)
    gain = math.isqrt(constant) >> 12
    return np.minimum((ROOT_TABLE[mantissa] * gain >> 8) >> half, ROOT_LIMIT)


def rotate(u: Ints, cosine: Ints, sine: Ints) -> Ints:
    """(..., length, head_dim) by tables (length, head_dim / 2): adjacent pairs are turned, and clipped to levels."""
    even, odd = u[..., 0::2], u[..., 1::2]
    half = 1 << 17
    first = (even * cosine - odd * sine + half) >> 18
    second = (even * sine + odd * cosine + half) >> 18
    return clip(np.stack([first, second], -1).reshape(u.shape), _LEVELS)


def attend(decoder: Decoder, layer: Layer, query: Ints, keys: Ints, values: Ints, reached: NDArray[np.bool_]) -> Ints:
    """Query (..., heads, m, head_dim), keys and values (..., heads, n, head_dim), reached (m, n): the context
    (..., heads, m, head_dim)."""
    sums = np.rint(query.astype(np.float64) @ keys.swapaxes(-1, -2).astype(np.float64)).astype(np.int64)
    logits = np.where(reached, (sums + (1 << (layer.logit_shift - 1))) >> layer.logit_shift, _MASKED)
    weights = weigh(decoder, logits, reached)
    total = weights.sum(-1, keepdims=True)
    mixed = np.rint(weights.astype(np.float64) @ values.astype(np.float64)).astype(np.int64)
    return clip((layer.context_numerator // total * mixed + (1 << 27)) >> 28, _LEVELS)


def weigh(decoder: Decoder, logits: Ints, reached: NDArray[np.bool_] | None = None) -> Ints:
    """exponential[min(max - logit, 255)] along the last axis; 0 where not reached."""
    distance = np.minimum(logits.max(-1, keepdims=True) - logits, 255)
    weights = decoder.exponential[distance].astype(np.int64)
    return weights if reached is None else np.where(reached, weights, 0)


def gate(layer: Layer, h: Ints) -> Ints:
    """The gated product of a block, as levels."""
    left = layer.activation[requantise(layer.gate, h, _LEVELS) + _LEVELS].astype(np.int64)
    product = left * requantise(layer.up, h, _LEVELS) * layer.product_multiplier
    return clip((product + (1 << 15)) >> 16, _LEVELS)
