"""The keyword-spotting network 490-256-256-256-12 (3-bit weights and activations, 8-bit signed inputs) on an ECP5-85F."""

from __future__ import annotations

import dataclasses

import numpy as np

from greenedge.graph import Dense, Edge, Graph, Input, Requantise, frozen
from greenedge.graph.affine import fit_affine

SIZES, WEIGHT_BITS, ACT_BITS, INPUT_BITS = (490, 256, 256, 256, 12), 3, 3, 8


def keyword_graph(seed: int = 1) -> Graph:
    """Random weights; every layer's steps spread over the values that its accumulators take on random inputs."""
    rng = np.random.default_rng(seed)
    lo, hi = -(1 << (INPUT_BITS - 1)), (1 << (INPUT_BITS - 1)) - 1
    x = rng.integers(lo, hi + 1, (256, SIZES[0]))
    ops, edges, source = [Input("x", (), "x")], {"x": Edge("x", (SIZES[0],), lo, hi)}, "x"
    for k, (fan_in, fan_out) in enumerate(zip(SIZES, SIZES[1:]), 1):
        weight = np.clip(np.rint(rng.normal(0, 1.6, (fan_in, fan_out))), -(1 << (WEIGHT_BITS - 1)), (1 << (WEIGHT_BITS - 1)) - 1)
        weight = frozen(weight.astype(np.int64))
        ends = np.stack([weight * lo, weight * hi])
        low, high = ends.min(0).sum(0), ends.max(0).sum(0)
        ops.append(Dense(f"fc{k}", (source,), f"fc{k}", weight))
        edges[f"fc{k}"] = Edge(f"fc{k}", (fan_out,), int(low.min()), int(high.max()))
        source, x = f"fc{k}", x @ weight
        if fan_out == SIZES[-1]:
            break
        lo, hi = 0, (1 << ACT_BITS) - 1
        ops.append(_steps(rng, f"act{k}", source, x, low, high, hi))
        edges[f"act{k}"] = Edge(f"act{k}", (fan_out,), lo, hi)
        x = (x[:, :, None] >= ops[-1].thresholds).sum(2)
        source = f"act{k}"
    return Graph("keywords", tuple(ops), edges, (source,))


def _steps(rng, name: str, source: str, x: np.ndarray, low: np.ndarray, high: np.ndarray, top: int) -> Requantise:
    """Evenly spaced steps, as a ReLU with a scale of its own per channel gives them."""
    step = x.std(0) * rng.uniform(0.3, 0.5, x.shape[1])
    first = x.mean(0) + step * rng.uniform(-2, -1, x.shape[1])
    thresholds = np.ceil(first[:, None] + step[:, None] * np.arange(top)).astype(np.int64)
    thresholds = np.clip(thresholds, low[:, None], high[:, None] + 1)
    affine = fit_affine(thresholds, 0, top, low, high)
    assert affine is not None
    affine = dataclasses.replace(affine, m=frozen(affine.m), b=frozen(affine.b), s=frozen(affine.s))
    return Requantise(name, (source,), name, 0, 0, top, frozen(np.ones(len(low))), frozen(thresholds), affine, None, frozen(low), frozen(high))
