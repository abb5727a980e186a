"""Ratios of two rows: the paired log-ratio interval for one interleaved session, else Welch's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from greenedge.energy import results, stats
from greenedge.energy.evidence import SCOPES, check_comparable, evidence_class, key_for, worst
from greenedge.errors import GreenedgeError


@dataclass(frozen=True)
class Comparison:
    """`ratio` is one over other, from pairs of repetitions where `paired`; `verdict` is a sentence."""

    one: str
    other: str
    quantity: str
    ratio: stats.Interval
    paired: bool
    evidence: str
    verdict: str
    warnings: tuple[str, ...] = ()


class NoRatioError(GreenedgeError):
    """Two rows that make no ratio: the `reasons`, and the `measurements` that would allow one."""

    def __init__(self, reasons: Sequence[str], measurements: Sequence[str]):
        self.reasons, self.measurements = tuple(reasons), tuple(measurements)
        super().__init__("\n".join(reasons))


def list_measurements(one: dict, other: dict) -> list[str]:
    """What to measure so that the two rows make a ratio: an instrument for each estimate, one scope for both."""
    found = []
    for row in (one, other):
        if evidence_class(row["evidence"]) not in ("estimated", "simulated"):
            continue
        if row["source"]["id"] == "estimate:cpu":
            how = (
                "measure it where the processor has a live counter or its supply a meter, `greenedge energy measure "
                "RUN` (greenedge energy probe says what is alive)"
            )
        elif row["source"]["id"].startswith("estimate:"):
            how = (
                "put a meter into the supply of its board and measure there, `greenedge energy measure RUN --port DEV "
                "--source ID`, or --external FILE with a meter that records by itself"
            )
        else:
            how = "measure it on a live source (greenedge energy probe)"
        found.append(f"{row['workload']}: {how}.")
    if one["scope"] != other["scope"] or found:
        wide = max((one["scope"], other["scope"], "board"), key=SCOPES.index)
        found.append(
            f"Both at one scope: {wide} for both, with a meter in the supply of each, since a {one['scope']} and a "
            f"{other['scope']} figure do not hold the same parts."
            if one["scope"] != other["scope"]
            else f"Both at one scope, {one['scope']} or wider, and with repetitions."
        )
    return found


def compare(
    one: dict,
    other: dict,
    quantity: str = "total",
    same_session: bool = False,
    allow_scope: bool = False,
    allow_evidence: bool = False,
) -> Comparison:
    """The ratio of the energy (`quantity` total or net) of two rows.

    Raises NoRatioError with every reason: scopes or evidence classes differ and are not allowed explicitly; a row
    without ranking (an estimate from CPU time); no repetitions.
    """
    a, b = results.figure(one, quantity), results.figure(other, quantity)
    names = _name(one), _name(other)
    first, second = _values(one, quantity), _values(other, quantity)
    reasons = [
        f"{name} is estimated from CPU time, which says nothing that its latency does not; compare latencies, or "
        "measure it."
        for row, name in zip((one, other), names, strict=True)
        if row.get("ranking") is False
    ]
    missing = [name for figure, name in ((a, names[0]), (b, names[1])) if figure is None]
    reasons += [f"{name} has no {quantity} energy; compare --quantity total, or measure it." for name in missing]
    if a is not None and b is not None:
        try:
            check_comparable(a, b, allow_scope, allow_evidence)
        except GreenedgeError as error:
            reasons.append(str(error))
    if not missing:
        reasons += [
            f"{name} has no repetitions, so no interval; measure it, or read both numbers side by side."
            for values, name in ((first, names[0]), (second, names[1]))
            if not values
        ]
    if reasons or a is None or b is None:
        raise NoRatioError(reasons, list_measurements(one, other))
    paired = same_session and len(first) == len(second)
    ratio = stats.estimate_paired_ratio(first, second) if paired else stats.estimate_unpaired_ratio(first, second)
    warnings = []
    hosts = [row.get("host_included") for row in (one, other)]
    if hosts[0] != hosts[1]:
        words = {True: "includes", False: "leaves out", None: "does not say about"}
        warnings.append(f"{names[0]} {words[hosts[0]]} the host, {names[1]} {words[hosts[1]]} it.")
    if not paired:
        warnings.append("not measured in one interleaved session: drift between the sessions is in the ratio.")
    return Comparison(
        one=names[0],
        other=names[1],
        quantity=quantity,
        ratio=ratio,
        paired=paired,
        evidence=worst(("derived", a.evidence, b.evidence)),
        verdict=stats.verdict(ratio, *names),
        warnings=tuple(warnings),
    )


def _name(row: dict) -> str:
    return f"{row['workload']} ({row['source']['covers']})"


def _values(row: dict, quantity: str) -> list[float]:
    base = {"total": "energy", "net": "net_energy"}.get(quantity)
    if base is None:
        raise GreenedgeError(f"there is no quantity {quantity!r} to compare; take total or net.")
    key = key_for(base, "j", row["evidence"])
    return [rep[key] for rep in row.get("repetitions", ()) if key in rep]
