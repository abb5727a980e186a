"""Small integer graphs for back-end tests, built by hand."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from greenedge.graph import Dense, Edge, Graph, Input, Requantise, Steps, freeze
from greenedge.graph.affine import fit_affine


def requantise(rng, name: str, source: str, low, high, lo: int, hi: int) -> Requantise:
    """Rising steps that are rounded straight lines, one per channel, over accumulators low[c]…high[c]."""
    low, high = np.asarray(low), np.asarray(high)
    slope = (hi - lo) / np.maximum((high - low) * rng.uniform(0.3, 0.8, len(low)), 1)
    centre = (low + high) / 2 + rng.uniform(-3, 3, len(low))
    k = np.arange(lo + 1, hi + 1)
    thresholds = np.ceil(centre[:, None] + (k - 0.5 - (lo + hi) / 2) / slope[:, None]).astype(np.int64)
    thresholds = np.clip(thresholds, low[:, None], high[:, None] + 1)
    affine = fit_affine(thresholds, lo, hi, low, high)
    assert affine is not None
    affine = dataclasses.replace(affine, m=freeze(affine.m), b=freeze(affine.b), s=freeze(affine.s))
    return Requantise(
        name,
        (source,),
        name,
        0,
        lo,
        hi,
        Steps(freeze(np.ones(len(low))), freeze(thresholds), affine),
        freeze(low),
        freeze(high),
    )


def mlp(rng, sizes=(12, 8, 4), weight_bits=4, act_bits=4, out_bits=8, in_signed=False) -> Graph:
    """Dense and Requantise in turn; the last levels are signed."""
    in_lo, in_hi = (-(1 << (act_bits - 1)), (1 << (act_bits - 1)) - 1) if in_signed else (0, (1 << act_bits) - 1)
    ops, edges = [Input("x", (), "x")], {"x": Edge("x", (sizes[0],), in_lo, in_hi)}
    source, span = "x", (in_lo, in_hi)
    for k, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        top = max(1, (1 << (weight_bits - 1)) - 1)
        weight = (
            rng.choice([-1, 1], (fan_in, fan_out))
            if weight_bits == 1
            else rng.integers(-top, top + 1, (fan_in, fan_out))
        )
        products = np.stack([weight * span[0], weight * span[1]])
        low, high = products.min(0).sum(0), products.max(0).sum(0)
        name = f"fc{k + 1}"
        ops.append(Dense(name, (source,), name, freeze(weight)))
        edges[name] = Edge(name, (fan_out,), int(low.min()), int(high.max()))
        last = k == len(sizes) - 2
        lo, hi = (-(1 << (out_bits - 1)), (1 << (out_bits - 1)) - 1) if last else (0, (1 << act_bits) - 1)
        ops.append(requantise(rng, f"act{k + 1}", name, low, high, lo, hi))
        edges[f"act{k + 1}"] = Edge(f"act{k + 1}", (fan_out,), lo, hi)
        source, span = f"act{k + 1}", (lo, hi)
    return Graph("tiny", tuple(ops), edges, (source,))


def without_last_step(graph: Graph) -> Graph:
    """The same network with the accumulators of its last layer as output."""
    last = graph.ops[-1]
    edges = {name: edge for name, edge in graph.edges.items() if name != last.output}
    return Graph(graph.name, graph.ops[:-1], edges, last.inputs)


def inputs(rng, graph: Graph, samples: int) -> np.ndarray:
    """Random integers in the input's range, with both ends among them."""
    edge = graph.edges[graph.inputs[0]]
    x = rng.integers(edge.lo, edge.hi + 1, (samples, *edge.shape))
    x[0], x[1] = edge.lo, edge.hi
    return x
