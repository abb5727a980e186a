"""The residual of a decoder in another basis: the same function, whose numbers round better.

A norm without its gain does not see a rotation of the residual ("SliceGPT", Ashkboos et al., 2024; "QuaRot", Ashkboos
et al., 2024). So with gains folded into the matrices behind them, for any orthogonal Q what reads the residual becomes
W Q and what writes it Q' W, and every logit stays. Outliers of single channels are spread, and which Q rounds best is
found by trying.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from greenedge.decoder.float_model import FloatDecoder, FloatLayer
from greenedge.progress import ProgressFn, no_progress

CANDIDATES = 8  # rotations that are tried, and the model as it is
_MOST_DIM = 1024  # above it a trial takes minutes: the model stays as it is


def choose_rotation(
    model: FloatDecoder, judge: Callable[[FloatDecoder], float], progress: ProgressFn = no_progress
) -> FloatDecoder:
    """The model, as it is or rotated by one of CANDIDATES, for which `judge` (a loss) is least."""
    if model.sizes.dim > _MOST_DIM:
        return model
    best, least = model, judge(model)
    for seed in range(CANDIDATES):
        rotated = rotate_residual(model, draw_rotation(model.sizes.dim, seed))
        if (loss := judge(rotated)) < least:
            best, least = rotated, loss
        progress(seed + 1, CANDIDATES, f"rotation {seed + 1} of {CANDIDATES}")
    return best


def draw_rotation(dim: int, seed: int) -> NDArray[np.float64]:
    """A random orthogonal matrix (dim, dim)."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]


def rotate_residual(model: FloatDecoder, rotation: NDArray[np.float64]) -> FloatDecoder:
    """The same function with its residual multiplied by `rotation` (dim, dim), orthogonal; its gains become ones."""
    ones = np.ones(model.sizes.dim, np.float32)

    def read(matrix: NDArray[np.float32], gain: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray((matrix.astype(np.float64) * gain) @ rotation, np.float32)

    def write(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(rotation.T @ matrix.astype(np.float64), np.float32)

    def turn(layer: FloatLayer) -> FloatLayer:
        attention = {name: read(getattr(layer, name), layer.attention_norm) for name in ("query", "key", "value")}
        mlp = {name: read(getattr(layer, name), layer.mlp_norm) for name in ("gate", "up")}
        ends = {name: write(getattr(layer, name)) for name in ("output", "down")}
        return replace(layer, attention_norm=ones, mlp_norm=ones, **attention, **mlp, **ends)

    return replace(
        model,
        embedding=read(model.embedding, ones),
        layers=tuple(map(turn, model.layers)),
        final_norm=ones,
        head=read(model.head, model.final_norm),
    )
