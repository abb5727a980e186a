"""Rounding modes: as boundaries, as exact numbers and as QONNX executes them, the same."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from greenedge.lower.rounding import MODES, bipolar, quantiser, round_exact, round_floats, truncation

HALVES = [Fraction(n, 4) for n in range(-22, 23)]


def _by_boundaries(levels, y: Fraction) -> int:
    reached = sum(
        y > Fraction(float(b)) or (y == Fraction(float(b)) and inclusive)
        for b, inclusive in zip(levels.boundary, levels.inclusive, strict=True)
    )
    return levels.lo + reached


@pytest.mark.parametrize("mode", MODES)
def test_boundaries_exact_and_qonnx_agree(mode):
    from qonnx.custom_op.general.quant import resolve_rounding_mode

    levels, executed = quantiser(mode, -4, 4), resolve_rounding_mode(mode)
    for y in HALVES:
        wanted = int(executed(np.float64(y)))
        assert round_exact(mode, y) == wanted, (mode, y)
        assert round_floats(mode, np.array([float(y)]))[0] == wanted
        assert _by_boundaries(levels, y) == min(max(wanted, -4), 4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_truncation_is_two_roundings(mode, shift):
    levels = truncation(mode, shift, -6, 6)
    for y in [Fraction(n, 2) for n in range(-90, 91)]:
        wanted = round_exact(mode, Fraction(round_exact("HALF_EVEN", y), 1 << shift))
        assert _by_boundaries(levels, y) == min(max(wanted, -6), 6), (mode, shift, y)


def test_bipolar_has_no_zero():
    assert [_by_boundaries(bipolar(), y) for y in (Fraction(-1), Fraction(-1, 9), Fraction(0), Fraction(2))] == [
        -1,
        -1,
        1,
        1,
    ]
