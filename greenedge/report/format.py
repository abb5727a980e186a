"""Numbers as texts for the report, with narrow spaces before units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def count(value: float) -> str:
    """12 345 with narrow spaces; a fraction keeps four digits."""
    return f"{value:,.0f}".replace(",", "\u202f") if float(value).is_integer() or abs(value) >= 1000 else f"{value:.4g}"


def _with_prefix(value: float, unit: str, steps: Sequence[tuple[float, str]]) -> str:
    """Four digits with the first prefix whose factor is not above the value; `steps` fall."""
    for factor, prefix in steps:
        if abs(value) >= factor:
            return f"{value / factor:.4g}\u202f{prefix}{unit}"
    factor, prefix = steps[-1]
    return f"{value / factor:.4g}\u202f{prefix}{unit}"


def hertz(value: float) -> str:
    """With MHz, kHz or Hz."""
    return _with_prefix(value, "Hz", ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")))


def duration(value: float) -> str:
    """With s, ms, µs or ns."""
    return _with_prefix(value, "s", ((1, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")))


def size(value: float) -> str:
    """With MB, kB or bytes."""
    return f"{value:,.0f} bytes" if value < 1000 else _with_prefix(value, "B", ((1e9, "G"), (1e6, "M"), (1e3, "k")))


def coverage(counts: Mapping[str, int]) -> str:
    """How many memory faults are seen or proved unseen, rounded down: 100 % means every bit."""
    total = counts["total"]
    share = (counts["seen"] + counts["proved_unseen"]) / total if total else 1.0
    return f"coverage {math.floor(10_000 * share) / 100:g} % of {total:,} memory bits"


def percent(value: float) -> str:
    """A fraction as 97.78 %."""
    return f"{100 * value:.2f}\u202f%"


def joules(value: float) -> str:
    """With kJ, J, mJ, µJ or nJ, three digits: no energy here is known to more."""
    for factor, prefix in ((1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}\u202f{prefix}J"
    return f"{value:.3g}\u202fJ"
