"""Real functions of an integer: the float bound holds, directions are true, exact means exact."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from greenedge.lower.expr import U32, BatchNorm, Clip, Const, Magnitude, Slope, Smooth, Var, affine_of
from greenedge.lower.rounding import quantiser
from greenedge.lower.step import Undecidable, step_function


def _random(rng, depth: int = 3):
    """A random expression of one integer with float32 constants."""
    c = lambda: Const.of(float(np.float32(rng.normal())))
    if depth == 0:
        return Var()
    inner = _random(rng, depth - 1)
    make = [lambda: inner + c(), lambda: inner * c(), lambda: inner / Const.of(float(np.float32(rng.uniform(0.2, 3)))), lambda: inner - c(),
            lambda: Slope((inner, Const.of(float(np.float32(rng.uniform(0, 1)))))), lambda: Clip((inner, Const.of(-1.5), Const.of(2.5))),
            lambda: Magnitude((inner,)), lambda: Smooth((inner / Const.of(8.0),), str(rng.choice(["sigmoid", "tanh", "erf", "softplus"]))),
            lambda: BatchNorm((inner, c(), c(), c(), Const.of(float(np.float32(rng.uniform(0.1, 4)))))),
            lambda: inner * Smooth((inner / Const.of(4.0),), "sigmoid")]
    return make[int(rng.integers(len(make)))]()


def test_the_float64_bound_is_never_exceeded(rng):
    for _ in range(300):
        expr = _random(rng)
        x = int(rng.integers(-200, 200))
        value, error = (float(np.asarray(part).reshape(-1)[0]) for part in expr.approximate(np.array([float(x)])))
        low, high = expr.exactly(x, 0, 200)
        assert Fraction(value) - Fraction(error) <= high and low <= Fraction(value) + Fraction(error)
        assert high - low < Fraction(1, 1 << 100)


def test_the_float32_bound_covers_a_float32_execution(rng):
    """A chain as a runtime executes it, every operation rounded to float32."""
    for _ in range(300):
        scale, bias, mean, var, gamma = (np.float32(v) for v in (rng.uniform(0.001, 1), rng.normal(), rng.normal(), rng.uniform(0.1, 4), rng.normal()))
        x = int(rng.integers(-5000, 5000))
        expr = BatchNorm((Var() * Const.of(float(scale)), *(Const.of(float(v)) for v in (gamma, bias, mean, var))))
        exact, bound = (float(np.asarray(part).reshape(-1)[0]) for part in expr.approximate(np.array([float(x)]), U32))
        executed = (np.float32(x) * scale - mean) / np.sqrt(var) * gamma + bias
        k = gamma / np.sqrt(var)
        fused = np.float32(x) * scale * k + (bias - mean * k)
        assert abs(float(executed) - exact) <= bound and abs(float(fused) - exact) <= bound


def test_directions_are_true(rng):
    x = np.arange(-60.0, 61.0)
    for _ in range(300):
        expr = _random(rng)
        direction = float(np.asarray(expr.direction()).reshape(-1)[0])
        steps = np.diff(expr.approximate(x)[0] * np.ones_like(x))
        if direction == 1:
            assert (steps >= -1e-12).all()
        elif direction == -1:
            assert (steps <= 1e-12).all()
        elif direction == 0:
            assert np.abs(steps).max() < 1e-12


def test_affine_functions_are_recognised_exactly():
    third = Const.of(3.0)
    alpha, beta = affine_of((Var() * Const.of(0.1) - Const.of(0.5)) / third)
    assert (alpha, beta) == (Fraction(0.1) / 3, -Fraction(1, 6))
    assert affine_of(Slope((Var(), Const.of(0.0)))) is None


def test_a_square_root_that_is_rational_is_exact():
    expr = BatchNorm((Var(), Const.of(1.0), Const.of(0.5), Const.of(0.0), Const.of(4.0)))
    assert expr.exactly(2, 0, 64) == (Fraction(3, 2), Fraction(3, 2))


def test_steps_are_those_of_brute_force(rng):
    levels = quantiser("HALF_EVEN", -3, 4)
    for _ in range(120):
        y = _random(rng) * Const.of(float(np.float32(rng.normal())))
        step = step_function(y, levels, np.array([-70]), np.array([70]))
        x = np.arange(-70, 71)
        brute = [min(max(_round(y.exactly(int(v), 0, 200)), -3), 4) for v in x]
        got = step.table[0] if step.table is not None else -3 + (step.sign[0] * x[:, None] >= step.thresholds[0]).sum(axis=1)
        assert np.array_equal(got, brute)


def _round(bounds) -> int:
    from greenedge.lower.rounding import round_exact

    low, high = (round_exact("HALF_EVEN", b) for b in bounds)
    assert low == high
    return low


def test_ties_go_to_even_exactly():
    """0.5, 1.5, 2.5 … exactly: float64 alone cannot tell, rationals can."""
    step = step_function(Var() / Const.of(2.0), quantiser("ROUND", 0, 4), np.array([0]), np.array([9]))
    assert step.thresholds.tolist() == [[2, 3, 6, 7]]  # 1/2→0, 3/2→2, 5/2→2, 7/2→4


def test_a_wide_range_of_a_function_that_turns_is_refused():
    with pytest.raises(Undecidable) as error:
        step_function(Magnitude((Var(),)), quantiser("ROUND", 0, 3), np.array([-200_000]), np.array([200_000]))
    assert str(error.value) == ("the function is not monotone and its input takes 400,001 values; at most 262,144 are tabulated")
