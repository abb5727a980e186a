"""Checks of a result before it is written or used: the shape of its rows, keys that agree with the evidence."""

from __future__ import annotations

import math
import re
from typing import Any

from greenedge.energy.evidence import EVIDENCE, evidence_class, figure_from_json, key_for, worst
from greenedge.errors import GreenedgeError

# Keys that evidence renames: base and unit.
LABELLED = (
    ("energy", "j"),
    ("net_energy", "j"),
    ("window_energy", "j"),
    ("power", "w"),
    ("idle_power", "w"),
    ("idle_before", "w"),
    ("idle_after", "w"),
    ("edp", "js"),
    ("carbon", "g"),
)
FIGURES = {
    "total": ("energy", "j"),
    "net": ("energy", "j"),
    "idle": ("power", "w"),
    "power": ("power", "w"),
    "edp": ("edp", "js"),
    "carbon": ("carbon", "g"),
}
_KEY = re.compile(
    "|".join(f"(?P<k{i}>{base}_(?:simulated_|estimate_)?{unit})" for i, (base, unit) in enumerate(LABELLED))
)

# What is read of a row: type by key, "?" after the key where it may be absent.
Shape = type | tuple[type, ...] | dict[str, Any] | list[Any]  # of dicts and lists: the shapes of their items
_NUMBER = (int, float)
_SHAPE: Shape = {
    "workload": str,
    "kind": str,
    "scope": str,
    "evidence": str,
    "source": {"id": str, "covers": str, "notes?": [str], "overlaps?": [str]},
    "figures": dict,
    "flags": [str],
    "batch?": int,
    "accuracy?": (*_NUMBER, type(None)),
    "host_included?": (bool, type(None)),
    "latency_s?": {"value": _NUMBER, "low?": _NUMBER, "high?": _NUMBER},
    "repetitions?": [{"spans?": [list]}],
    "trace?": {"t_s": [_NUMBER]},
}


def find_error(value: object, where: str, shape: Shape = _SHAPE) -> str | None:
    """The first part of a row from a file that has another type than `shape`, or a number that is not finite; None
    where there is none. `where` names the row."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where} is {value}"
    if isinstance(shape, dict) and isinstance(value, dict):
        missing = [key for key in shape if not key.endswith("?") and key not in value]
        if missing:
            return f"{where} has no {missing[0]!r}"
        known = {key.removesuffix("?"): part for key, part in shape.items()}
        # Keys with an evidence class hold a number; beside t_s, where they are over time, a list of numbers.
        labelled = {key: [_NUMBER] if "t_s" in value else _NUMBER for key in value if _KEY.fullmatch(key)}
        found = (
            find_error(part, f"{where}, {key}", {**labelled, **known}.get(key, object)) for key, part in value.items()
        )
        return next(filter(None, found), None)
    if isinstance(shape, list) and isinstance(value, list):
        return next(filter(None, (find_error(part, f"{where}[{k}]", shape[0]) for k, part in enumerate(value))), None)
    kinds: type | tuple[type, ...]
    kinds = dict if isinstance(shape, dict) else list if isinstance(shape, list) else shape
    numeric = isinstance(kinds, tuple) and int in kinds
    if not isinstance(value, kinds) or (numeric and isinstance(value, bool)):
        return f"{where} is {type(value).__name__} {str(value)[:40]!r}"
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next(filter(None, (find_error(part, f"{where}, {key}", object) for key, part in inner)), None)


def check_labels(data: dict) -> None:
    """Raises GreenedgeError for a number whose key and evidence disagree, and for a row whose label is better than the
    evidence of its figures."""
    for row in data["rows"]:
        if set(row["figures"]) - set(FIGURES):
            unknown = sorted(set(row["figures"]) - set(FIGURES))[0]
            raise GreenedgeError(f"{row['workload']} has a figure {unknown!r}; figures are {', '.join(FIGURES)}.")
        figures = {name: figure_from_json(part, FIGURES[name][0]) for name, part in row["figures"].items()}
        labels = [figure.evidence for name, figure in figures.items() if name != "carbon"]
        if row.get("evidence") not in EVIDENCE or (
            labels and evidence_class(row["evidence"]) != evidence_class(worst(labels))
        ):
            raise GreenedgeError(
                f"the row {row['workload']!r} says {row.get('evidence')!r}, its figures are "
                f"{worst(labels)}; the worst label wins: measure again."
            )
        if "carbon" in figures and figures["carbon"].evidence != "estimated":
            raise GreenedgeError(
                f"the carbon of {row['workload']!r} says {figures['carbon'].evidence}; carbon is always estimated."
            )
        _walk(row, row["evidence"], row["workload"])


def _walk(part: object, evidence: str, where: str) -> None:
    """Raises GreenedgeError for a labelled key that disagrees with the evidence of the innermost table around it."""
    if isinstance(part, list):
        for item in part:
            _walk(item, evidence, where)
    if not isinstance(part, dict):
        return
    evidence = part.get("evidence", evidence)
    for key, value in part.items():
        match = _KEY.fullmatch(key)
        if match and match.lastgroup:
            base, unit = LABELLED[int(match.lastgroup[1:])]
            wanted = key_for(base, unit, evidence)
            if key != wanted:
                raise GreenedgeError(
                    f"{where}: {key} holds a number that is {evidence}; it stands under {wanted}: measure again."
                )
        _walk(value, evidence, where)
