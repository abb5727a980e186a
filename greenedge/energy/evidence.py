"""Evidence and scope of a number: how it was obtained, and what it covers. Of combined numbers the worst evidence
counts.

`measured`   read from an instrument that passed the liveness test in this session;
`derived`    measured, then a baseline subtracted or a unit changed;
`replayed`   computed from a recording of an instrument;
`simulated`  computed from a fake or a simulator;
`estimated`  a model is involved. The worst: whatever is computed with it is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from greenedge.errors import EvidenceError, GreenedgeError

EVIDENCE = ("measured", "derived", "replayed", "simulated", "estimated")
SCOPES = ("rail", "chip", "module", "board", "wall")

# Classes whose members may share a column and form a ratio.
_CLASS = {
    "measured": "measured",
    "derived": "measured",
    "replayed": "replayed",
    "simulated": "simulated",
    "estimated": "estimated",
}
# Part of the keys of a class: a program that reads energy_j never gets the number of a model.
_INFIX = {"measured": "", "replayed": "", "simulated": "simulated_", "estimated": "estimate_"}


def worst(labels: Iterable[str]) -> str:
    """The worst of at least one evidence label."""
    found = list(labels)
    assert found and all(label in EVIDENCE for label in found), found
    return max(found, key=EVIDENCE.index)


def evidence_class(label: str) -> str:
    """ "measured", "replayed", "simulated" or "estimated"."""
    return _CLASS[label]


def key_for(base: str, unit: str, evidence: str) -> str:
    """The JSON and CSV key of a number: energy_j, energy_simulated_j, energy_estimate_j."""
    return f"{base}_{_INFIX[_CLASS[evidence]]}{unit}"


@dataclass(frozen=True)
class Figure:
    """One number with unit, scope, evidence and uncertainty.

    `low`..`high` is the 95 % interval over repetitions (or the band of an estimate); `instrument` the standard
    uncertainty of the meter (GUM type B), separate because gain cancels in ratios of one meter. `covers` names what the
    scope refers to ("cpu package", "gpu", "whole board"). None is unknown.
    """

    value: float
    base: str
    unit: str
    scope: str
    evidence: str
    low: float | None = None
    high: float | None = None
    instrument: float | None = None
    covers: str = ""

    def __post_init__(self) -> None:
        assert self.scope in SCOPES and self.evidence in EVIDENCE, (self.scope, self.evidence)
        assert self.value == self.value, "NaN is not a figure"

    @property
    def key(self) -> str:
        """Its key in JSON and CSV."""
        return key_for(self.base, self.unit, self.evidence)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """(low, high), None where unknown."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def figure_json(figure: Figure) -> dict:
    """The figure as JSON; absent parts are absent."""
    parts = {figure.key: figure.value, "low": figure.low, "high": figure.high, "instrument_u": figure.instrument}
    data = {key: value for key, value in parts.items() if value is not None}
    return data | {"unit": figure.unit, "scope": figure.scope, "evidence": figure.evidence, "covers": figure.covers}


def figure_from_json(data: dict, base: str) -> Figure:
    """The figure of that base name in `data`. Raises GreenedgeError where key and label disagree."""
    if not isinstance(data, dict):
        raise GreenedgeError(f"the figure {base!r} is {str(data)[:40]!r} and no table: measure it again.")
    evidence, unit = data.get("evidence"), data.get("unit")
    if evidence not in EVIDENCE or data.get("scope") not in SCOPES or not isinstance(unit, str):
        raise GreenedgeError(
            f"the figure {base!r} has evidence {evidence!r} and scope {data.get('scope')!r}; "
            "evidence is "
            f"one of {', '.join(EVIDENCE)} and scope one of {', '.join(SCOPES)}: measure it again."
        )
    key = key_for(base, unit, evidence)
    others = {key_for(base, unit, label) for label in EVIDENCE} - {key}
    if key not in data or others & set(data):
        held = ", ".join(sorted(set(data) & (others | {key}))) or "nothing"
        raise GreenedgeError(
            f"the figure {base!r} is {evidence} but stands under {held}; a {evidence} number stands "
            f"under {key} alone: measure it again."
        )
    parts = [data[key], *(data.get(part) for part in ("low", "high", "instrument_u") if data.get(part) is not None)]
    if (data.get("low") is None) != (data.get("high") is None):
        raise GreenedgeError(f"the figure {base!r} has one end of its interval and not the other: measure it again.")
    if not all(isinstance(part, (int, float)) and not isinstance(part, bool) for part in parts):
        raise GreenedgeError(f"the figure {base!r} holds {parts!r}, which are not all numbers: measure it again.")
    return Figure(
        value=float(data[key]),
        base=base,
        unit=unit,
        scope=data["scope"],
        evidence=evidence,
        low=data.get("low"),
        high=data.get("high"),
        instrument=data.get("instrument_u"),
        covers=data.get("covers", ""),
    )


def require(evidence: str, wanted: str, what: str, why: str) -> None:
    """Raises EvidenceError (exit 3) unless `evidence` is of the wanted class or better."""
    order = ("measured", "replayed", "simulated", "estimated")
    if order.index(_CLASS[evidence]) > order.index(_CLASS[wanted]):
        raise EvidenceError(f"{what} can only be had as {evidence} here, --require {wanted} was given: {why}")


def add(figures: Iterable[Figure], overlapping: Iterable[tuple[str, str]] = ()) -> Figure:
    """The sum of figures of one scope that do not overlap; half-widths of intervals add (as if fully correlated).

    `overlapping` lists pairs (container, part) of covers. Raises GreenedgeError for different scopes and for a figure
    that contains another (psys and a package).
    """
    parts = list(figures)
    assert parts and len({(part.base, part.unit) for part in parts}) == 1
    scopes = sorted({part.scope for part in parts})
    if len(scopes) > 1:
        raise GreenedgeError(
            f"figures of scope {' and '.join(scopes)} cannot be summed: one holds the other; report them side by side."
        )
    names = {part.covers for part in parts}
    for one, other in overlapping:
        if one in names and other in names:
            raise GreenedgeError(f"{one} holds {other}, so their sum counts it twice; take one of them.")
    if len(names) < len(parts):
        raise GreenedgeError(f"{parts[0].covers!r} stands twice in a sum; take it once.")
    bounds = [part.bounds for part in parts if part.bounds is not None]
    complete = len(bounds) == len(parts)
    instruments = [part.instrument for part in parts if part.instrument is not None]
    return Figure(
        sum(part.value for part in parts),
        parts[0].base,
        parts[0].unit,
        parts[0].scope,
        worst(["derived", *(part.evidence for part in parts)]),
        sum(low for low, _ in bounds) if complete else None,
        sum(high for _, high in bounds) if complete else None,
        sum(instruments) if len(instruments) == len(parts) else None,
        " + ".join(sorted(names)),
    )


def check_comparable(one: Figure, other: Figure, allow_scope: bool = False, allow_evidence: bool = False) -> None:
    """Raises GreenedgeError for a ratio across scopes or evidence classes that is not allowed explicitly."""
    reasons = []
    if one.scope != other.scope and not allow_scope:
        reasons.append(
            f"scope {one.scope} ({one.covers}) and scope {other.scope} ({other.covers}) do not cover the "
            "same thing: measure both at one scope, or say --allow-scope-mismatch."
        )
    first, second = evidence_class(one.evidence), evidence_class(other.evidence)
    if first != second and not allow_evidence:
        reasons.append(
            f"{one.evidence} and {other.evidence} numbers make no ratio: get the same evidence for both, or "
            "say --allow-evidence-mismatch."
        )
    if reasons:
        raise GreenedgeError("\n".join(reasons))
