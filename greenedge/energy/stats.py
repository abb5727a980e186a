"""Statistics over repetitions. Not over samples: a 95 % interval from correlated 10 Hz samples
contains the true value 16 % of the time (research/energy-measurement.md §0.6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from greenedge.errors import GreenedgeError

LEVEL = 0.95
Values = Sequence[float] | np.ndarray  # (n,)


@dataclass(frozen=True)
class Interval:
    """Mean, median and the t-interval of n repetitions; `low`/`high` are None for a single one."""

    mean: float
    median: float
    low: float | None
    high: float | None
    n: int
    sd: float | None

    @property
    def half_width_rel(self) -> float | None:
        """Half-width over |mean|; None where it is not defined."""
        if self.bounds is None or self.mean == 0:
            return None
        low, high = self.bounds
        return (high - low) / 2 / abs(self.mean)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """(low, high), None for a single repetition."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def mean_interval(values: Values, level: float = LEVEL) -> Interval:
    """mean ± t(level, n-1) · s/√n over repetition means. Raises GreenedgeError for none and for values not finite."""
    data = np.asarray(values, dtype=float)
    if not len(data) or not np.all(np.isfinite(data)):
        raise GreenedgeError(
            f"{len(data)} repetitions with {int(np.sum(~np.isfinite(data)))} not finite give no "
            "interval; measure again."
        )
    mean, median = float(np.mean(data)), float(np.median(data))
    if len(data) < 2:
        return Interval(mean, median, None, None, 1, None)
    sd = float(np.std(data, ddof=1))
    half = t_quantile((1 + level) / 2, len(data) - 1) * sd / math.sqrt(len(data))
    return Interval(mean, median, mean - half, mean + half, len(data), sd)


def estimate_paired_ratio(one: Values, other: Values, level: float = LEVEL) -> Interval:
    """Ratio one/other of paired repetitions: the t-interval of log ratios, exponentiated (mean is the geometric one).

    Raises GreenedgeError for unequal counts, fewer than two pairs, or a value that is not above zero.
    """
    a, b = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if len(a) != len(b) or len(a) < 2:
        raise GreenedgeError(
            f"a paired ratio takes the same number of repetitions on both sides, at least 2; there "
            f"are {len(a)} and {len(b)}: measure both in one interleaved session."
        )
    if np.any(~(a > 0)) or np.any(~(b > 0)):
        raise GreenedgeError(
            "a repetition is not above 0 J, so it has no log ratio; compare totals, or lengthen the window."
        )
    logs = mean_interval(np.log(a / b), level)
    low, high = logs.bounds or (logs.mean, logs.mean)  # two pairs at least, so there are bounds
    return Interval(math.exp(logs.mean), math.exp(logs.median), math.exp(low), math.exp(high), logs.n, logs.sd)


def estimate_unpaired_ratio(one: Values, other: Values, level: float = LEVEL) -> Interval:
    """Ratio of two separate sessions: Welch's interval on logs (degrees of freedom by Satterthwaite).

    Raises GreenedgeError for fewer than two repetitions on a side, or a value that is not above zero.
    """
    a, b = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if len(a) < 2 or len(b) < 2 or not (np.all(a > 0) and np.all(b > 0)):
        raise GreenedgeError(
            f"a ratio of sessions takes at least 2 repetitions above 0 J on both sides; there are "
            f"{len(a)} "
            f"and {len(b)}: measure more, or compare totals."
        )
    a, b = np.log(a), np.log(b)
    va, vb = float(np.var(a, ddof=1)) / len(a), float(np.var(b, ddof=1)) / len(b)
    spread = va + vb
    dof = spread**2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)) if spread > 0 else min(len(a), len(b)) - 1
    middle = float(np.mean(a) - np.mean(b))
    half = t_quantile((1 + level) / 2, dof) * math.sqrt(spread)
    return Interval(
        math.exp(middle),
        math.exp(float(np.median(a) - np.median(b))),
        math.exp(middle - half),
        math.exp(middle + half),
        min(len(a), len(b)),
        math.sqrt(spread),
    )


def verdict(ratio: Interval, one: str, other: str) -> str:
    """One sentence on a ratio with bounds; "not distinguishable" where the interval contains 1."""
    assert ratio.bounds is not None, "a ratio is of two repetitions at least"
    low, high = ratio.bounds
    numbers = f"ratio {ratio.mean:.3g}, 95 % {low:.3g}…{high:.3g}"
    if low <= 1 <= high:
        return f"{one} and {other} are not distinguishable: {numbers}."
    return f"{one} takes {'more' if ratio.mean > 1 else 'less'} than {other}: {numbers}."


def bootstrap_product(
    energy: Values, latency: Values, rng: np.random.Generator, draws: int = 4000, level: float = LEVEL
) -> Interval:
    """Mean energy · mean latency with its interval by percentile bootstrap over repetitions, both resampled
    together."""
    e, d = np.asarray(energy, dtype=float), np.asarray(latency, dtype=float)
    assert len(e) == len(d) and len(e) > 0
    if len(e) < 2:
        return Interval(float(e[0] * d[0]), float(e[0] * d[0]), None, None, 1, None)
    pick = rng.integers(0, len(e), size=(draws, len(e)))
    products = e[pick].mean(axis=1) * d[pick].mean(axis=1)
    low, high = np.quantile(products, [(1 - level) / 2, (1 + level) / 2])
    value = float(e.mean() * d.mean())
    return Interval(value, float(np.median(products)), float(low), float(high), len(e), float(np.std(products)))


def instrument_u(
    energy: float, seconds: float, gain_rel: float | None, offset_w: float | None, edge: float
) -> float | None:
    """Standard uncertainty of the meter, GUM type B: √((g·E)² + (o·T)² + edge²), in J. None where gain is unknown."""
    if gain_rel is None:
        return None
    return math.sqrt((gain_rel * energy) ** 2 + ((offset_w or 0.0) * seconds) ** 2 + edge**2)


def edge_u(resolution_s: float, power_w: float) -> float:
    """Two window edges, each uniform within `resolution_s`: resolution · P / √6, in J."""
    return resolution_s * abs(power_w) / math.sqrt(6)


@lru_cache(maxsize=256)
def t_quantile(p: float, dof: float) -> float:
    """Quantile of Student's t; p in (0.5, 1), dof > 0, which need not be whole."""
    from scipy.special import stdtrit  # a seventh of a second, which probing and help do not need

    assert 0.5 < p < 1 and dof > 0
    return float(stdtrit(dof, p))
