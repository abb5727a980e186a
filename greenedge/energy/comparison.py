"""Ratios of two rows: the paired log-ratio interval for one interleaved session, else Welch's."""

from __future__ import annotations

from dataclasses import dataclass

from greenedge.energy import results, stats
from greenedge.energy.evidence import check_comparable, key_for, worst
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


def compare(
    one: dict,
    other: dict,
    quantity: str = "total",
    same_session: bool = False,
    allow_scope: bool = False,
    allow_evidence: bool = False,
) -> Comparison:
    """The ratio of the energy (`quantity` total or net) of two rows.

    Raises GreenedgeError: scopes or evidence classes differ and are not allowed explicitly; a row without ranking (an
    estimate from CPU time); no repetitions.
    """
    a, b = results.figure(one, quantity), results.figure(other, quantity)
    names = _name(one), _name(other)
    for row, name in zip((one, other), names, strict=True):
        if row.get("ranking") is False:
            raise GreenedgeError(
                f"{name} is estimated from CPU time, which says nothing that its latency does not; "
                "compare latencies, or measure it."
            )
    if a is None or b is None:
        missing = names[0] if a is None else names[1]
        raise GreenedgeError(f"{missing} has no {quantity} energy; compare --quantity total, or measure it.")
    check_comparable(a, b, allow_scope, allow_evidence)
    first, second = _values(one, quantity), _values(other, quantity)
    if not first or not second:
        raise GreenedgeError(
            f"{names[0] if not first else names[1]} has no repetitions, so no interval; measure it, "
            "or read both numbers side by side."
        )
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
