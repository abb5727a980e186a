"""Random decoders of any shape, whose integers use their ranges."""

from __future__ import annotations

import math

import numpy as np

from greenedge.decoder.record import Decoder, Layer, NormForm, Projection

EXPONENTIAL = np.round(255 * np.exp(-np.arange(256) / 16)).astype(np.uint8)


def random_decoder(
    rng: np.random.Generator,
    *,
    vocabulary: int = 24,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 4,
    hidden: int = 20,
    layers: int = 2,
    context: int = 12,
    weight_bits: int = 4,
    norm_form: NormForm = "root",
) -> Decoder:
    """A decoder with random weights, and multipliers that spread its sums over the levels."""
    dim, narrow = heads * head_dim, kv_heads * head_dim
    most = 2 ** (weight_bits - 1) - 1

    def project(rows: int, columns: int, spread: float, shift: int) -> Projection:
        weights = rng.integers(-most, most + 1, (rows, columns)).astype(np.int8)
        gain = spread / (40 * max(1.0, float(weights.std())) * math.sqrt(columns))
        multipliers = gain * 2**shift * rng.uniform(0.7, 1.3, rows)
        return Projection(weights, np.clip(np.rint(multipliers), 1, 2**17 - 1).astype(np.int32), shift)

    def norm() -> int:
        # R = sqrt(C / sum x^2) gives levels of 40 in the mean: y = x R / 2^20
        return int(dim * (40 * 2.0**20) ** 2 * rng.uniform(0.8, 1.2))

    def layer() -> Layer:
        gates = np.arange(-127, 128) / 24
        return Layer(
            attention_norm=norm(),
            query=project(dim, dim, 700, 16),
            key=project(narrow, dim, 700, 16),
            value=project(narrow, dim, 50, 16),
            logit_shift=int(rng.integers(4, 8)),
            context_numerator=int(2**28 * rng.uniform(0.8, 1.6)),
            output=project(dim, dim, 500, 12),
            mlp_norm=norm(),
            gate=project(hidden, dim, 50, 16),
            up=project(hidden, dim, 50, 16),
            activation=np.rint(96 * gates / (1 + np.exp(-gates))).astype(np.int16),
            product_multiplier=int(rng.integers(300, 1500)),
            down=project(dim, hidden, 500, 12),
        )

    angle = np.outer(np.arange(context), 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim))
    decoder = Decoder(
        heads=heads,
        kv_heads=kv_heads,
        weight_bits=weight_bits,
        norm_form=norm_form,
        residual_shift=4,
        embedding=rng.integers(-127, 128, (vocabulary, dim)).astype(np.int8),
        layers=tuple(layer() for _ in range(layers)),
        final_norm=norm(),
        head=rng.integers(-127, 128, (vocabulary, dim)).astype(np.int8),
        cosine=np.round(np.cos(angle) * 2**14).astype(np.int16),
        sine=np.round(np.sin(angle) * 2**14).astype(np.int16),
        exponential=EXPONENTIAL,
        temperature_unit=int(rng.integers(1, 1000)),
    )
    decoder.check()
    return decoder
