"""Whether a step function is a straight line rounded to the nearest level and clamped, and how far it is from one."""

from __future__ import annotations

import numpy as np

from greenedge.graph.ops import Edge, Requantise, Steps, freeze
from greenedge.graph.ops.base import Floats, Ints

STRAIGHT = 2e-6  # accumulators: what float64 makes of 0 for the largest accumulators
_HALVINGS = 80  # of the slope's interval, until float64 holds no more of it


def is_straight(step: Requantise) -> bool:
    """Whether every channel's step function is a straight line rounded to nearest and clamped; False for a table."""
    if not isinstance(step.forms, Steps):
        return False
    return step.forms.affine is not None or distance_from_line(step).max(initial=0) <= STRAIGHT


def is_straight_in_float32(step: Requantise) -> bool:
    """Whether every channel's steps may be those of a product in float32, rounded once: two roundings of 2**-24 each
    displace a step from the line by a part of its accumulator."""
    if not isinstance(step.forms, Steps):
        return False
    reach = np.maximum(np.abs(step.x_lo), np.abs(step.x_hi)).astype(np.float64)
    return bool((distance_from_line(step) <= STRAIGHT + reach * 2.0**-23).all())


def distance_from_line(step: Requantise) -> Floats:
    """(C,) how far, in accumulators, the steps lie from those of the nearest straight line; 0 where one has just these
    steps.

    Level k is reached at T_k, so the line crosses its height somewhere in T_k - 1 … T_k (both ends count: a tie may be
    rounded either way), which for the first level that x_lo has passed, or the last that x_hi does not reach, is open
    to one side. A line through all these intervals exists iff for some slope d the smallest of (high - d*k) is not
    below the largest of (low - d*k). Their distance is concave in d and found by bisection. Raises Refused for a table.
    """
    thresholds, (x_lo, x_hi) = step.require_steps().thresholds, step.reach
    clipped = np.clip(thresholds, x_lo[:, None], x_hi[:, None] + 1).astype(np.float64)
    low = np.where(clipped > x_lo[:, None], clipped - 1, -np.inf)
    high = np.where(clipped <= x_hi[:, None], clipped, np.inf)
    k = np.arange(thresholds.shape[1], dtype=np.float64)
    flat, steep = np.zeros(len(clipped)), x_hi - x_lo + 2.0
    best = np.full(len(clipped), -np.inf)
    for _ in range(_HALVINGS if len(k) else 0):
        d = (flat + steep) / 2
        above, below = high - d[:, None] * k, low - d[:, None] * k
        best = np.maximum(best, above.min(axis=1) - below.max(axis=1))
        rising = k[below.argmax(axis=1)] > k[above.argmin(axis=1)]
        flat, steep = np.where(rising, d, flat), np.where(rising, steep, d)
    distance: Floats = np.where(np.isfinite(best), np.maximum(0, -best) / 2, 0)
    return distance


def identity_step(edge: Edge, output: str) -> Requantise:
    """The quantiser that changes nothing."""
    return multiple_step(edge, output, 1)


def multiple_step(edge: Edge, output: str, m: int) -> Requantise:
    """The quantiser that makes m times each level of `edge`: level j is reached at the edge's level ceil(j / m)."""
    steps = -(-np.arange(m * edge.lo + 1, m * edge.hi + 1) // m)
    return _rising_step(edge, output, m * edge.lo, m * edge.hi, steps)


def shift_step(edge: Edge, output: str, shift: int) -> Requantise:
    """The quantiser that adds `shift` to each level of `edge`."""
    return _rising_step(edge, output, edge.lo + shift, edge.hi + shift, np.arange(edge.lo + 1, edge.hi + 1))


def _rising_step(edge: Edge, output: str, lo: int, hi: int, thresholds: Ints) -> Requantise:
    """The quantiser of a stored edge to lo … hi with one row of thresholds."""
    forms = Steps(freeze([1]), freeze([thresholds]), None)
    name = f"{edge.name}/stored"
    return Requantise(name, (edge.name,), output, 0, lo, hi, forms, freeze([edge.lo]), freeze([edge.hi]))
