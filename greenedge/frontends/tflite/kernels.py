"""What LiteRT's operators compute, to the bit, as functions that the integer graph can hold.

Each kernel set has its own arithmetic, and a set is asked for by name: "xnnpack" is what LiteRT runs unless it is told
otherwise (XNNPACK where its delegate takes the operator, LiteRT's own kernels where it does not), "reference" its
reference kernels. Requantisations of one accumulator are in backends/int8/arithmetic.py; here are those of one stored
value (256 entries) and of two inputs. All of it was measured against ai-edge-litert 2.3.0 on x86-64; tests do it again.

In the formulas q is a stored value, s and z the scale and zero point, o the output, fl a rounding to float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from greenedge.backends.int8.arithmetic import (
    ADD_RATIOS,
    EMULATIONS,
    activation_bounds,
    multiply_twice,
    quantise_multiplier,
)
from greenedge.graph.ops.base import Array, Floats, Ints

KERNELS: tuple[str, str] = ("xnnpack", "reference")  # the default first
STORED = np.arange(-128, 128)  # every int8
MUL_RATIOS = (2.0**-16, 2.0**8)  # fl(fl(s1*s2)/so) of a product that XNNPACK takes
QUANTISE_RATIOS = (2.0**-8, 2.0**7)  # si/so of a QUANTIZE and of a LEAKY_RELU that XNNPACK takes
_LEAKY_RATIOS = (-127.99609375, 128.0)  # alpha*si/so of a LEAKY_RELU that XNNPACK takes
_PAIR_BITS = range(6, 25)  # of the factors that are tried for a sum that rounds in several steps
_NEAR = (0, 1, -1, 2, -2)

Bounds = tuple[int, int]
StepFunction = Callable[[Ints], Ints]  # accumulators (C, n) → stored values (C, n), rising along n


@dataclass(frozen=True)
class Code:
    """What a tensor's stored integers mean: real = scale * (stored - zero), the scale a float32."""

    scale: np.float32
    zero: int


def find_thresholds(step: StepFunction, bounds: Bounds, low: Ints, high: Ints) -> Ints:
    """(C, hi - lo) the smallest accumulator in low[c] … high[c] at which a rising function reaches lo + 1, …, hi; one
    above the range where it does not."""
    wanted = np.arange(bounds[0] + 1, bounds[1] + 1)[None, :]
    shape = (len(low), wanted.shape[1])
    below: Ints = np.broadcast_to(low[:, None] - 1, shape).astype(np.int64)
    reach: Ints = np.broadcast_to(high[:, None] + 1, shape).astype(np.int64)
    while (open_cases := reach - below > 1).any():
        middle: Ints = np.clip(below + (reach - below) // 2, low[:, None], high[:, None]).astype(np.int64)
        reached = step(middle) >= wanted
        reach[open_cases & reached] = middle[open_cases & reached]
        below[open_cases & ~reached] = middle[open_cases & ~reached]
    return reach


def clamp(activation: str, out: Code, kernels: str) -> Bounds:
    """The stored values that a fused activation leaves."""
    return activation_bounds(activation, float(out.scale), out.zero, kernels)


# -- one accumulator ---------------------------------------------------------------------------------------------------


def requantise_sum(operator: str, kernels: str, si: np.float32, sw: Array, out: Code, bounds: Bounds) -> StepFunction:
    """The step function of FULLY_CONNECTED, CONV_2D, DEPTHWISE_CONV_2D or TRANSPOSE_CONV; sw is (C,) or (1,)."""
    emulation = EMULATIONS[operator][kernels]
    parameters = emulation.prepare(float(si), np.asarray(sw, np.float32).reshape(-1, 1), float(out.scale))
    return lambda acc: np.clip(emulation.round(acc, *parameters) + out.zero, *bounds)


def average(total: Ints, count: int, bounds: Bounds) -> Ints:
    """AVERAGE_POOL_2D of `count` stored values that add up to `total`: halves away from zero."""
    size = (np.abs(total) + count // 2) // count
    return np.clip(np.where(total > 0, size, -size), *bounds)


def average_up(total: Ints, count: int, bounds: Bounds) -> Ints:
    """As `average`, of uint8: the stored values are not negative, so halves go up."""
    return np.clip((total + count // 2) // count, *bounds)


def multiply(kernels: str, a: Code, b: Code, out: Code, bounds: Bounds) -> StepFunction:
    """MUL as a function of (qa - za) * (qb - zb). The scales are multiplied and divided in float32 in both sets."""
    scale = product_ratio(a, b, out)
    if kernels == "xnnpack":
        return lambda acc: np.clip(
            np.rint((acc.astype(np.float32) * scale).astype(np.float64)).astype(np.int64) + out.zero, *bounds
        )
    multiplier, shift = quantise_multiplier(np.asarray(scale, np.float64))
    return lambda acc: np.clip(multiply_twice(acc, multiplier, shift) + out.zero, *bounds)


def product_ratio(a: Code, b: Code, out: Code) -> np.float32:
    """fl(fl(s1*s2)/so)."""
    return np.float32(np.float32(a.scale * b.scale) / out.scale)


# -- two inputs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PairForm:
    """stored = lo + count(m1*(qa - za) + m2*(qb - zb) >= thresholds), equal to the kernel on every pair of int8."""

    factors: tuple[int, int]
    thresholds: Ints


def add_by_xnnpack(a: Code, b: Code, out: Code, bounds: Bounds, sign: int) -> PairForm:
    """((m1*(qa - za) + m2*(qb - zb) + half) >> s) + zo, the larger factor in 2**20 … 2**21; halves up."""
    ratios = np.array([a.scale, b.scale], np.float32) / out.scale
    shift = 21 - int(np.frexp(ratios.max())[1])
    m1, m2 = (int(np.rint(np.ldexp(np.float64(ratio), shift))) for ratio in ratios)
    levels = np.arange(bounds[0] + 1, bounds[1] + 1, dtype=np.int64)
    return PairForm((m1, sign * m2), ((levels - out.zero) << shift) - (1 << (shift - 1)))


def is_add_delegated(a: Code, b: Code, out: Code) -> bool:
    """Whether XNNPACK takes an ADD or SUB."""
    return all(ADD_RATIOS[0] <= np.float32(one.scale / out.scale) < ADD_RATIOS[1] for one in (a, b))


def add_by_reference(a: Code, b: Code, out: Code, bounds: Bounds, sign: int) -> Ints:
    """(256, 256) stored values for every pair: both inputs 2**20 times as large, rounded onto twice the larger scale,
    added, and rounded onto the output's. 2**20 * so is a float32 product, the rest is double."""
    twice = 2 * np.float64(max(a.scale, b.scale))
    terms = []
    for one, factor in ((a, 1), (b, sign)):
        parts = quantise_multiplier(np.asarray(np.float64(one.scale) / twice))
        terms.append(factor * multiply_twice((STORED - one.zero) << 20, *parts))
    parts = quantise_multiplier(np.asarray(twice / np.float64(np.float32(1 << 20) * out.scale)))
    return np.clip(multiply_twice(terms[0][:, None] + terms[1][None, :], *parts) + out.zero, *bounds)


def fit_pairs(stored: Ints, a: Code, b: Code, bounds: Bounds, sign: int) -> PairForm | None:
    """Whole factors whose sum decides every level of a (256, 256) table, the shortest that are found; None where
    none are."""
    ratio = float(a.scale) / float(b.scale)
    for bits in _PAIR_BITS:
        top = 1 << bits
        m1, m2 = (top, round(top / ratio)) if ratio >= 1 else (round(top * ratio), top)
        for d1, d2 in ((d, 0) if ratio < 1 else (0, d) for d in _NEAR):
            factors = m1 + d1, sign * (m2 + d2)
            acc = factors[0] * (STORED - a.zero)[:, None] + factors[1] * (STORED - b.zero)[None, :]
            if min(m1 + d1, m2 + d2) >= 0 and (thresholds := order_levels(acc.ravel(), stored.ravel(), bounds)):
                return PairForm(factors, thresholds[0])
    return None


def order_levels(acc: Ints, stored: Ints, bounds: Bounds) -> tuple[Ints] | None:
    """The thresholds on `acc` that give every level, in a tuple; None where a larger sum has a smaller level, or equal
    ones have different levels."""
    order = np.argsort(acc, kind="stable")
    acc, stored = acc[order], stored[order]
    rise = np.diff(stored)
    if (rise < 0).any() or (rise[np.diff(acc) == 0] != 0).any():
        return None
    first = np.searchsorted(stored, np.arange(bounds[0] + 1, bounds[1] + 1))
    return (np.append(acc, acc[-1] + 1)[first],)


# -- one stored value: 256 entries -------------------------------------------------------------------------------------


def requantise_values(kernels: str, a: Code, out: Code) -> Ints:
    """QUANTIZE of int8."""
    ratio = np.float32(a.scale / out.scale)
    if kernels == "xnnpack" and not QUANTISE_RATIOS[0] <= ratio <= QUANTISE_RATIOS[1]:
        kernels = "reference"
    emulation = EMULATIONS["QUANTIZE"][kernels]
    value = emulation.round(STORED - a.zero, *emulation.prepare(float(a.scale), np.ones(1), float(out.scale)))
    return np.clip(value + out.zero, -128, 127)


def leaky_relu(kernels: str, a: Code, out: Code, alpha: float) -> Ints:
    """LEAKY_RELU: two factors, in 256ths for XNNPACK, of 31 bits for the reference kernels."""
    d = STORED - a.zero
    ratio = np.float32(a.scale / out.scale)
    below = np.float32(ratio * np.float32(alpha))
    taken = QUANTISE_RATIOS[0] <= ratio <= QUANTISE_RATIOS[1] and _LEAKY_RATIOS[0] <= below <= _LEAKY_RATIOS[1]
    if kernels == "xnnpack" and taken and abs(below) >= QUANTISE_RATIOS[0]:
        up, down = (int(np.rint(np.float64(np.float32(256) * one))) for one in (ratio, below))
        return np.clip(((d * np.where(d > 0, up, down) + 128) >> 8) + out.zero, -128, 127)
    slope = np.float64(np.float32(np.float32(a.scale * np.float32(alpha)) / out.scale))
    rise = multiply_twice(d, *quantise_multiplier(np.asarray(ratio, np.float64)))
    fall = int(np.sign(slope)) * multiply_twice(d, *quantise_multiplier(np.asarray(abs(slope))))
    return np.clip(np.where(d >= 0, rise, fall) + out.zero, -128, 127)


def rectify(a: Code, out: Code, activation: str) -> Ints:
    """RELU, RELU6 and RELU_N1_TO_1 as operators: LiteRT's own kernel in both sets."""
    parts = quantise_multiplier(np.asarray(np.float32(a.scale / out.scale), np.float64))
    return np.clip(multiply_twice(STORED - a.zero, *parts) + out.zero, *clamp(activation, out, "reference"))


def sigmoid_or_tanh(kernels: str, a: Code, out: Code, name: str, offset: int = 0) -> Ints:
    """LOGISTIC and TANH: a table made of the dequantised value in float32. `offset` is what the file's integers, with
    which the kernel rounds, are above those here."""
    if kernels == "xnnpack":
        x = ((STORED.astype(np.float32) - np.float32(a.zero)) * a.scale).astype(np.float64)
        y = _sigmoid(x) if name == "LOGISTIC" else np.tanh(x)
        level = np.rint((y.astype(np.float32) * (np.float32(1) / out.scale)) + np.float32(out.zero + offset))
        return np.clip(level - offset, -128, 127).astype(np.int64)
    x = (a.scale * (STORED - a.zero).astype(np.float32)).astype(np.float64)
    if name == "LOGISTIC":
        with np.errstate(over="ignore"):  # an infinity gives 0, as in the kernel
            y = np.float32(1) / (np.float32(1) + np.exp(-x).astype(np.float32))
    else:
        y = np.tanh(x).astype(np.float32)
    value = (y * (np.float32(1) / out.scale)).astype(np.float64)
    return np.clip(np.trunc(value + np.copysign(0.5, value)) + out.zero, -128, 127).astype(np.int64)


def _sigmoid(x: Floats) -> Floats:
    power = np.exp(np.clip(x, -101, 101))
    share: Floats = np.where(x > 100, 1.0, np.where(x < -100, 0.0, power / (1 + power)))
    return share


def hard_swish(a: Code, out: Code) -> Ints:
    """HARD_SWISH: 16-bit fixed point, LiteRT's own kernel in both sets."""
    fine = np.float32(np.float32(1 / 128) * a.scale)
    slope, slope_shift = _short_multiplier(np.float32(fine / out.scale))
    gate, gate_shift = _short_multiplier(np.float32(fine / np.float32(np.float32(3) / np.float32(32768))))
    high = (STORED - a.zero) << 7
    before = _high_product(high, slope)
    share = np.clip(high << (gate_shift - 1), -32768, 32767) if gate_shift > 0 else high
    share = _high_product(share, gate)
    if gate_shift > 0:
        share = np.clip(share << 1, -32768, 32767)
    elif gate_shift < 0:
        share = _shift_away(share, -gate_shift)
    product = ((share + (1 << 15)) >> 1) * before
    product = np.where(product >= 0, product >> 15, -((-product) >> 15))
    return np.clip(_shift_away(product, -slope_shift) + out.zero, -128, 127)


def _short_multiplier(scale: np.float32) -> tuple[int, int]:
    """(16-bit multiplier, shift)."""
    multiplier, shift = (int(part) for part in quantise_multiplier(np.asarray(scale, np.float64)))
    return min((multiplier + (1 << 15)) >> 16, 32767), shift


def _high_product(a: Ints, b: int) -> Ints:
    """The doubling high half of a 16-bit product, halves away from zero towards which it is cut."""
    product = a * b
    nudged = product + np.where(product >= 0, 1 << 14, 1 - (1 << 14))
    return np.where(nudged >= 0, nudged >> 15, -((-nudged) >> 15))


def _shift_away(x: Ints, by: int) -> Ints:
    """x / 2**by, halves away from zero; a negative `by` shifts to the left."""
    if by <= 0:
        return x << -by
    rest = x & ((1 << by) - 1)
    return (x >> by) + (rest > ((1 << by) - 1 >> 1) + (x < 0))
