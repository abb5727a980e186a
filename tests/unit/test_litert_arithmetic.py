"""LiteRT's roundings against their definitions in exact arithmetic; where they step up, they step up once."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from greenedge.backends.int8.arithmetic import EMULATIONS, activation_bounds, mean_emulations, requantise
from greenedge.backends.int8.quant_params import encode


def nearest(value: Fraction, halves: str) -> int:
    floor = value.numerator // value.denominator
    part = value - floor
    if part != Fraction(1, 2):
        return floor + (part > Fraction(1, 2))
    return {"even": floor + floor % 2, "away": floor + (value > 0), "up": floor + 1}[halves]


@pytest.fixture
def pairs(rng):
    """Accumulators and scales, exact ties among them."""
    acc = np.concatenate([rng.integers(-(1 << 20), 1 << 20, 300), rng.integers(-400, 400, 300)])
    scale = np.concatenate(
        [np.exp(rng.uniform(-14, -1, 300)), (2 * rng.integers(0, 9, 300) + 1) * 2.0 ** -rng.integers(1, 9, 300)]
    )
    return acc, scale.astype(np.float32)


def test_xnnpack_multiplies_once_in_float32_and_rounds_halves_to_even(pairs):
    acc, scale = pairs
    got = requantise(EMULATIONS["CONV_2D"]["xnnpack"], acc, 1.0, scale, 1.0, 0, (-(1 << 31), 1 << 31))
    product = [np.float32(np.float32(a) * s) for a, s in zip(acc, scale, strict=True)]
    assert got.tolist() == [nearest(Fraction(float(p)), "even") for p in product]


def test_reference_dense_rounds_the_double_product_away_from_zero(pairs):
    acc, scale = pairs
    got = requantise(EMULATIONS["FULLY_CONNECTED"]["reference"], acc, 1.0, scale, 1.0, 0, (-(1 << 31), 1 << 31))
    assert got.tolist() == [nearest(Fraction(float(a) * float(s)), "away") for a, s in zip(acc, scale, strict=True)]


def test_reference_convolutions_round_twice(pairs):
    acc, scale = pairs
    got = requantise(EMULATIONS["CONV_2D"]["reference"], acc, 1.0, scale, 1.0, 0, (-(1 << 31), 1 << 31))
    for a, s, value in zip(acc.tolist(), scale, got.tolist(), strict=True):
        fraction, exponent = math.frexp(float(s))
        multiplier = nearest(Fraction(float(fraction)) * (1 << 31), "up")
        high = nearest(Fraction(a * multiplier * 2 ** max(exponent, 0), 1 << 31), "up")
        assert value == nearest(Fraction(high, 2 ** max(-exponent, 0)), "away")


def test_scales_are_multiplied_and_divided_in_the_kernels_own_precision():
    si, sw, so = 0.1, np.float32([0.3]), 0.7
    (single,) = EMULATIONS["CONV_2D"]["xnnpack"].prepare(si, sw, so)
    (double,) = EMULATIONS["FULLY_CONNECTED"]["reference"].prepare(si, sw, so)
    assert single[0] == np.float32(np.float32(np.float32(0.1) * np.float32(0.3)) / np.float32(0.7))
    assert double[0] == float(np.float32(0.1)) * float(np.float32(0.3)) / float(np.float32(0.7)) != float(single[0])


@pytest.mark.parametrize("operator", EMULATIONS)
def test_every_rounding_rises(rng, operator):
    acc = np.arange(-510, 511) if operator == "ADD" else np.arange(-20_000, 20_000)
    for kernels, emulation in EMULATIONS[operator].items():
        scale = np.exp(rng.uniform(-9, -1, (12, 1))).astype(np.float32)
        assert (np.diff(requantise(emulation, acc, 0.3, scale, 0.9, 5), axis=1) >= 0).all(), kernels


@pytest.mark.parametrize("kernels", ["xnnpack", "reference"])
def test_activations_clamp_just_where_the_encoding_says(kernels):
    for lo in range(-128, 1):
        for hi in (-lo, -lo - 1, max(0, -lo - 2), 7, 0):
            if lo <= hi <= lo + 255:
                code = encode(lo, hi)
                low, high = activation_bounds(code.activation, code.scale, code.zero_point, kernels)
                assert high == 127 and (low == code.bounds[0] or hi - lo == 255), (lo, hi, code)


@pytest.mark.parametrize(
    ("zero", "xnnpack", "reference"), [(0, (0, 2), (0, 3)), (-127, (-127, -124), (-127, -124)), (1, (1, 4), (1, 4))]
)
def test_the_sets_round_a_bound_of_half_a_level_each_in_its_way(zero, xnnpack, reference):
    """6 / 2.4 is 2 1/2: XNNPACK rounds zero + 2 1/2 to even, the reference kernels 2 1/2 away from zero."""
    assert activation_bounds("RELU6", 2.4, zero, "xnnpack") == xnnpack
    assert activation_bounds("RELU6", 2.4, zero, "reference") == reference


def test_a_bound_below_zero_is_rounded_away_from_it():
    assert activation_bounds("RELU_N1_TO_1", 0.4, 0, "reference") == (-3, 3)
    assert activation_bounds("RELU_N1_TO_1", 0.4, 0, "xnnpack") == (-2, 2)


@pytest.mark.parametrize("count", [1, 7, 64, 125])
def test_means_rise_and_lie_within_half_a_step_of_the_real_ones(rng, count):
    zero_in, zero_out, si, so = int(rng.integers(-128, 128)), int(rng.integers(-60, 60)), 0.37, 0.71
    acc = np.arange(-128 * count, 127 * count + 1)
    real = (acc - zero_in * count) * (np.float32(si) / np.float32(so)) / count
    for kernels, emulation in mean_emulations(count, zero_in, zero_out).items():
        got = requantise(emulation, acc, si, np.ones(1, np.float32), so, zero_out, (-(1 << 31), 1 << 31)) - zero_out
        assert (np.diff(got) >= 0).all() and np.abs(got - real).max() < 0.501 + (kernels == "reference") / count, (
            kernels
        )
