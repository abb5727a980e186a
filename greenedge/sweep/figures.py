"""What a point of a sweep is judged by: figures under the keys of summary.json, each with its evidence.

An estimate has a key of its own and never stands for what was built or measured; of figures under one key only those
of the same evidence are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenedge.energy.evidence import Figure as Physical
from greenedge.energy.evidence import figure_from_json
from greenedge.errors import TargetError
from greenedge.report.summary import read_json
from greenedge.run.folder import RunFolder
from greenedge.target import nearest

Figure = dict[str, Any]  # {"value", "evidence"}, and "low", "high", "scope" where known
Figures = dict[str, Figure]


@dataclass(frozen=True)
class Kind:
    """What a figure means: its label and unit, whether more is better, whether it is drawn hollow."""

    label: str
    unit: str = ""
    larger_is_better: bool = False
    estimated: bool = False


# key -> what it is, in the order of the table
KINDS = {
    "accuracy": Kind("accuracy", larger_is_better=True),
    "built_accuracy": Kind("accuracy as built", larger_is_better=True),
    "weight_bits": Kind("weights", "bits"),
    "parameters": Kind("parameters"),
    "bytes": Kind("file", "bytes"),
    "lut4": Kind("LUT4"),
    "estimated_lut4": Kind("LUT4 of the core", estimated=True),
    "ff": Kind("flip-flops"),
    "dsp": Kind("DSP blocks"),
    "bram_bits": Kind("block RAM", "bits"),
    "estimated_bram_bits": Kind("block RAM of the core", "bits", estimated=True),
    "cycles_per_inference": Kind("cycles per inference"),
    "estimated_cycles": Kind("cycles per inference", estimated=True),
    "latency_s": Kind("latency", "s"),
    "estimated_latency_s": Kind("latency", "s", estimated=True),
    "fmax_hz": Kind("highest clock", "Hz", larger_is_better=True),
    "energy_j": Kind("energy per inference", "J"),
    "energy_simulated_j": Kind("energy per inference", "J", estimated=True),
    "energy_estimate_j": Kind("energy per inference", "J", estimated=True),
    "carbon_estimate_g": Kind("carbon per inference", "g CO₂e", estimated=True),
    "training_energy_j": Kind("training energy", "J"),
    "training_energy_simulated_j": Kind("training energy", "J", estimated=True),
    "training_energy_estimate_j": Kind("training energy", "J", estimated=True),
    "training_carbon_estimate_g": Kind("training carbon", "g CO₂e", estimated=True),
}
BEFORE_BUILDS = tuple(
    key
    for key in KINDS
    if key in ("accuracy", "weight_bits", "parameters", "bytes")
    or key in ("estimated_cycles", "estimated_lut4", "estimated_bram_bits")
    or key.startswith("training_")
)
_SUMMARY = (
    *("bytes", "lut4", "ff", "dsp", "bram_bits", "cycles_per_inference", "latency_s", "fmax_hz"),
    *("estimated_lut4", "estimated_bram_bits", "estimated_cycles", "estimated_latency_s"),
)


def require_known(objectives: Sequence[str]) -> None:
    """Raises TargetError for a name that is no figure."""
    for name in objectives:
        if name not in KINDS:
            raise TargetError(
                f"there is no figure {name!r} to judge by{nearest(name, list(KINDS))}; figures are: {', '.join(KINDS)}."
            )


def comparable(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[list[int]]:
    """Groups of rows that have all these figures, by the evidence and scope of each: only within a group is one better
    than another. The largest first."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, row in enumerate(rows):
        figures = [row["figures"].get(key) for key in keys]
        if row["status"] == "done" and all(figure is not None for figure in figures):
            label = tuple(f"{figure['evidence']}, {figure.get('scope', '')}" for figure in figures if figure)
            groups.setdefault(label, []).append(number)
    return sorted(groups.values(), key=len, reverse=True)


def of_training(metrics: Mapping[str, Any]) -> Figures:
    """The figures in a training's metrics.json: the score of its test samples, parameters, joules, carbon."""
    found: Figures = {}
    if (score := metrics.get(metrics.get("metric", ""))) is not None:
        found["accuracy"] = {"value": score, "evidence": "test samples"}
    if (parameters := metrics.get("parameters")) is not None:
        found["parameters"] = {"value": parameters, "evidence": "counted"}
    total = (metrics.get("ledger") or {}).get("total") or {}
    for base in ("energy", "carbon"):
        if total.get(base):
            found |= _of_physical("training_", figure_from_json(total[base], base))
    return found


def _of_physical(before: str, figure: Physical) -> Figures:
    """A figure of greenedge.energy under the key of its kind of evidence, "energy_j" or "energy_estimate_j"."""
    parts = {"value": figure.value, "evidence": figure.evidence, "low": figure.low, "high": figure.high}
    parts |= {"scope": f"{figure.scope}, {figure.covers}" if figure.covers else figure.scope}
    return {before + figure.key: {name: part for name, part in parts.items() if part is not None}}


def of_run(run: Path) -> Figures:
    """The figures of a run as far as it got: training's, and those of its summary."""
    found = of_training(read_json(run, "train", "metrics.json") or {})
    summary = read_json(run, "report", "summary.json") if RunFolder(run).summary.is_file() else None
    return found | of_summary(summary or {})


def of_summary(summary: Mapping[str, Any]) -> Figures:
    """The figures of what was built and verified."""
    found: Figures = {}
    told = summary.get("evidence") or {}
    for part in ("hardware", "edge"):
        table = summary.get(part) or {}
        for key in _SUMMARY:
            if isinstance(table.get(key), (int, float)):
                word = "estimated" if key.startswith("estimated_") else told.get(key, "reported")
                found[key] = {"value": table[key], "evidence": word}
    if scores := summary.get("accuracy"):
        found["built_accuracy"] = {"value": list(scores.values())[-1], "evidence": "test samples"}
    return found | of_energy(summary.get("energy") or ())


def of_energy(rows: Sequence[Mapping[str, Any]]) -> Figures:
    """Joules per inference, of the last row that `greenedge energy measure` kept for each kind of evidence."""
    if not rows:
        return {}
    from greenedge.energy import results

    found: Figures = {}
    for row in rows:
        for name in ("total", "carbon"):
            if (figure := results.figure(dict(row), name)) is not None:
                found |= _of_physical("", figure)
    return found
