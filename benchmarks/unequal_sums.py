"""Multipliers with which sums of two branches of unlike scales are exact: their bits, and whether one multiply, add and
shift requantises the sum.

    python benchmarks/unequal_sums.py [--combinations 180] [--bits 8 4]

Random float32 scales and zero points of two branches and of the quantiser behind their sum, as converters write them.
Every pair of levels is computed with the exact ratio of the scales and with the short multipliers, and compared with
==; `differ` must be 0.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from greenedge.graph import Add, Edge, Graph, Input, Requantise, Steps, freeze, run_graph
from greenedge.legalise.narrow_sums import narrow_sums
from greenedge.lower.expr import Const, Var
from greenedge.lower.rounding import quantiser_around_zero
from greenedge.lower.step_function import step_function


def make_sum(rng: np.random.Generator, bits: int) -> Graph:
    """clip(round((s1*(a - z1) + s2*(b - z2)) / s + z)) of two unsigned branches, with the exact ratio s1/s2."""
    top = (1 << bits) - 1
    first, second = (float(np.float32(scale)) for scale in rng.uniform(0.005, 0.05, 2))
    out = float(np.float32((first + second) * rng.uniform(0.5, 1.3)))
    z1, z2, zero = (int(value) for value in rng.integers(0, top, 3))
    (p, r), unit = _ratio(first, second)
    low, high = 0, (p + r) * top
    real = (Var() - Const.of(np.array(p * z1 + r * z2))) * Const.of(np.array(unit, dtype=object)) / Const.of(out)
    steps = step_function(
        real + Const.of(float(zero)), quantiser_around_zero(np.array([zero]), 0, top), freeze([low]), freeze([high])
    )
    assert isinstance(steps, Steps)
    edges = [Edge("a", (1,), 0, top), Edge("b", (1,), 0, top), Edge("sum", (1,), low, high), Edge("y", (1,), 0, top)]
    ops = (
        Input("a", (), "a"),
        Input("b", (), "b"),
        Add("sum", ("a", "b"), "sum", (p, r)),
        Requantise("y", ("sum",), "y", 0, 0, top, steps, freeze([low]), freeze([high])),
    )
    return Graph("sum", ops, {edge.name: edge for edge in edges}, ("y",))


def _ratio(first: float, second: float) -> tuple[tuple[int, int], object]:
    from fractions import Fraction

    ratio = Fraction(first) / Fraction(second)
    return (ratio.numerator, ratio.denominator), Fraction(first) / ratio.numerator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--combinations", type=int, default=180)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4])
    given = parser.parse_args()
    print("branches  combinations  differ  multiplier bits: before  after, median  after, most  affine  seconds each")
    for bits in given.bits:
        rng, before, after, affine, differ, seconds = np.random.default_rng(bits), [], [], 0, 0, 0.0
        a, b = (part.reshape(-1, 1) for part in np.meshgrid(*[np.arange(1 << bits)] * 2))
        for _ in range(given.combinations):
            wide = make_sum(rng, bits)
            start = time.perf_counter()
            short = narrow_sums(wide)
            seconds += time.perf_counter() - start
            feeds = {"a": a, "b": b}
            differ += int((run_graph(wide, feeds)["y"] != run_graph(short, feeds)["y"]).sum())
            for graph, found in ((wide, before), (short, after)):
                found.append(
                    max(abs(m).bit_length() for op in graph.ops if isinstance(op, Add) for m in op.multipliers)
                )
            affine += short.requantisers[0].affine is not None
        print(
            f"{bits:>3} bits {given.combinations:>14} {differ:>7} {np.median(before):>24.0f} {np.median(after):>14.0f} "
            f"{max(after):>12} {affine:>7} {seconds / given.combinations:>13.3f}"
        )


if __name__ == "__main__":
    main()
