"""Real functions of an integer: the float bound holds, directions are true, exact means exact."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from greenedge.graph import Table
from greenedge.lower.expr import U32, Const, Product, Quotient, Sum, Undecidable, Var, affine_of
from greenedge.lower.expr_functions import (
    BatchNorm,
    Clip,
    Magnitude,
    Slope,
    Smooth,
)
from greenedge.lower.rounding import quantiser
from greenedge.lower.step_function import step_function


def _random(rng, depth: int = 3):
    """A random expression of one integer with float32 constants."""

    def c():
        return Const.of(float(np.float32(rng.normal())))

    if depth == 0:
        return Var()
    inner = _random(rng, depth - 1)
    make = [
        lambda: inner + c(),
        lambda: inner * c(),
        lambda: inner / Const.of(float(np.float32(rng.uniform(0.2, 3)))),
        lambda: inner - c(),
        lambda: Slope((inner, Const.of(float(np.float32(rng.uniform(0, 1)))))),
        lambda: Clip((inner, Const.of(-1.5), Const.of(2.5))),
        lambda: Magnitude((inner,)),
        lambda: Smooth((inner / Const.of(8.0),), str(rng.choice(["sigmoid", "tanh", "erf", "softplus"]))),
        lambda: BatchNorm((inner, c(), c(), c(), Const.of(float(np.float32(rng.uniform(0.1, 4)))))),
        lambda: inner * Smooth((inner / Const.of(4.0),), "sigmoid"),
    ]
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
        scale, bias, mean, var, gamma = (
            np.float32(v)
            for v in (rng.uniform(0.001, 1), rng.normal(), rng.normal(), rng.uniform(0.1, 4), rng.normal())
        )
        x = int(rng.integers(-5000, 5000))
        expr = BatchNorm((Var() * Const.of(float(scale)), *(Const.of(float(v)) for v in (gamma, bias, mean, var))))
        exact, bound = (float(np.asarray(part).reshape(-1)[0]) for part in expr.approximate(np.array([float(x)]), U32))
        executed = (np.float32(x) * scale - mean) / np.sqrt(var) * gamma + bias
        k = gamma / np.sqrt(var)
        fused = np.float32(x) * scale * k + (bias - mean * k)
        assert abs(float(executed) - exact) <= bound and abs(float(fused) - exact) <= bound


def _executed(expr, x: np.ndarray) -> np.ndarray:
    """The expression as a float32 runtime computes it, node by node."""
    if isinstance(expr, Var):
        return x.astype(np.float32)
    if isinstance(expr, Const):
        return expr.values.astype(np.float32)
    args = [_executed(arg, x) for arg in expr.args]
    if isinstance(expr, BatchNorm):
        value, gamma, beta, mean, variance = args
        return (value - mean) * (gamma / np.sqrt(variance)) + beta
    if isinstance(expr, Slope):
        return np.where(args[0] >= 0, args[0], args[0] * args[1])
    if isinstance(expr, Smooth):
        one = np.float32(1)
        return {
            "sigmoid": lambda v: one / (one + np.exp(-v)),
            "tanh": np.tanh,
            "softplus": lambda v: np.logaddexp(np.float32(0), v),
            "erf": lambda v: np.vectorize(_erf)(v).astype(np.float32),
        }[expr.function](args[0])
    return {
        Sum: np.add,
        Product: np.multiply,
        Quotient: np.divide,
        Clip: lambda v, lo, hi: np.minimum(np.maximum(v, lo), hi),
        Magnitude: np.abs,
    }[type(expr)](*args)


def _erf(v) -> float:
    import math

    return math.erf(v)


def test_the_float32_bound_covers_every_node(rng):
    """Random chains, executed in float32: never further from float64 than the bound says, and mostly not far below
    it."""
    x, closest = np.arange(-300.0, 301.0), 0.0
    for _ in range(400):
        expr = _random(rng, depth=int(rng.integers(1, 6)))
        value, bound = (np.broadcast_to(part, x.shape) for part in expr.approximate(x, U32))
        with np.errstate(over="ignore"):
            apart = np.abs(_executed(expr, x).astype(np.float64) - value)
        assert (apart <= bound).all()
        closest = max(closest, float((apart[bound > 0] / bound[bound > 0]).max(initial=0)))
    assert closest > 0.3, "the bound is so loose that it explains anything"


def test_the_float32_bound_counts_what_cancels():
    """1e6 is added and taken away: what is left of a small x is rounding, and the bound says so."""
    expr = Var() * Const.of(0.001) + Const.of(1e6) - Const.of(1e6)
    x = np.arange(-500.0, 501.0)
    value, bound = expr.approximate(x, U32)
    apart = np.abs(_executed(expr, x) - value)
    assert apart.max() > 0.02 and (apart <= bound).all()


def test_constants_that_no_float32_holds_are_rounded_by_a_runtime():
    """A bias of 2**24 + 1 steps is exact in float64, but a float32 runtime adds 2**24."""
    expr = Var() + Const.of(2.0**24 + 1)
    value, bound = expr.approximate(np.array([-(2.0**24)]), U32)
    assert value[0] == 1 and np.float32(2.0**24 + 1) - np.float32(2.0**24) == 0 and bound[0] >= 1


def test_products_below_the_smallest_float_keep_a_bound():
    tiny = Const.of(1e-200)
    value, error = (Var() * tiny * tiny).approximate(np.array([1.0]))
    assert value[0] == 0 and error[0] > 0
    assert np.isnan((Var() * (tiny * tiny)).direction())  # neither rising nor constant as far as float64 can tell


@pytest.mark.parametrize("function", ["exp", "softplus"])
def test_an_exponential_beyond_every_number_is_refused_at_once(function):
    expr = Smooth((Var() * Const.of(1e30),), function)
    assert expr.exactly(-1, 0, 64)[1] < Fraction(1, 1 << 30)
    with pytest.raises(Undecidable) as error:
        expr.exactly(1, 0, 64)
    assert str(error.value) == f"{function} of 1e+30 is beyond any number that a model holds"


def test_a_tree_knows_its_depth_and_what_it_costs_to_evaluate():
    expr = Var()
    assert expr.extent == (1, 1)
    for _ in range(50):
        expr = expr + expr  # shared branches: 2**50 evaluations
    assert expr.extent == (51, 2**51 - 1)


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
        got = (
            step.levels[0]
            if isinstance(step, Table)
            else -3 + (step.sign[0] * x[:, None] >= step.thresholds[0]).sum(axis=1)
        )
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
    assert str(error.value) == (
        "the function is not monotone and its input takes 400,001 values; at most 262,144 are tabulated"
    )
