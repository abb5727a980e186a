"""What training cost and saved, in words, and a plot of accuracy against training energy. Only positions in the plot
are computed here."""

from __future__ import annotations

from collections.abc import Sequence

from greenedge.report.format import count, duration, joules, percent

_WIDTH, _HEIGHT = 600.0, 220.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 14.0, 12.0, 34.0
_PHASES = {
    "scores": "choosing samples",
    "teacher": "teacher",
    "float": "epochs in float",
    "search": "bit width search",
    "train": "training",
    "calibration": "calibration",
}


def energy_of(entry: dict) -> dict | None:
    """{"value", "low", "high", "evidence", "estimated"} of a ledger's entry, None where it has no energy."""
    figure = entry.get("energy") or {}
    value = next((figure[key] for key in figure if key.startswith("energy_") and key.endswith("j")), None)
    if value is None:
        return None
    word = figure.get("evidence", "")
    return {
        "value": value,
        "low": figure.get("low"),
        "high": figure.get("high"),
        "evidence": word,
        "estimated": word in ("estimated", "simulated"),
        "covers": figure.get("covers", ""),
    }


def view(metrics: dict) -> dict | None:
    """What the page shows of a training's ledger; None for a run without one."""
    ledger = metrics.get("ledger")
    if not ledger:
        return None
    phases = [
        {
            "name": _PHASES.get(name, name),
            "samples": entry["samples_seen"],
            "scored": entry["samples_scored"],
            "seconds": duration(entry["seconds"]) if entry["seconds"] else "–",
            "energy": energy_of(entry),
        }
        for name, entry in ledger["phases"].items()
    ]
    total = ledger["total"]
    carbon = total.get("carbon")
    grams = next((carbon[key] for key in carbon if key.startswith("carbon_")), None) if carbon else None
    return {
        "phases": phases,
        "total": {
            "samples": total["samples_seen"],
            "scored": total["samples_scored"],
            "seconds": duration(total["seconds"]) if total["seconds"] else "–",
            "energy": energy_of(total),
        },
        "carbon": None
        if grams is None
        else {"value": grams, "low": carbon["low"], "high": carbon["high"], "country": ledger.get("country")},
        "estimate": ledger.get("estimate"),
        "unmeasured": ledger.get("unmeasured"),
        "source": ledger.get("source"),
        "saved": saving_sentences(metrics),
    }


def saving_sentences(metrics: dict) -> list[str]:
    """A sentence for each technique with what it removed or gained."""
    lines = []
    if prune := metrics.get("prune"):
        lines.append(
            f"Pruning ({prune['kind']}) left {count(prune['weights_after'])} of {count(prune['weights_before'])} "
            f"weights: compression ratio (M − M′)/M = {percent(prune['compression_ratio'])}."
            + "".join(
                f" {path}: {before} → {after} channels." for path, (before, after) in prune.get("channels", {}).items()
            )
        )
        if prune["kind"] != "structured":
            lines.append(
                "Single weights that are zero save no hardware where weights lie in memory; structured pruning does."
            )
    if subset := metrics.get("subset"):
        lines.append(
            f"Trained on {count(subset['samples'])} of {count(subset['of'])} samples ({subset['method']}"
            f"{', easy ones first' if subset['curriculum'] else ''})."
        )
    if taught := metrics.get("distil"):
        score = f", accuracy {percent(taught['accuracy'])}" if "accuracy" in taught else ""
        lines.append(f"Distilled from a teacher ({taught['kind']}{score}).")
    if found := metrics.get("search"):
        widths = ", ".join(f"{path} {bits}" for path, bits in found["bits"].items())
        lines.append(
            f"Bit widths searched under {found['budget']:g} {found['unit']}: {widths} bits; they take "
            f"{found['cost']:.4g} ({found['evidence']})."
        )
    return lines


def tradeoff(entries: Sequence[tuple[str, dict]]) -> dict | None:
    """Accuracy against training energy: a point for each (name, metrics), with its curve over the epochs if it has one.

    Positions in a box of 600 by 220; hollow points are estimates. None where no entry has both numbers.
    """
    marks = [mark for name, metrics in entries if (mark := _mark(name, metrics)) is not None]
    if not marks:
        return None
    xs = [x for mark in marks for x, _ in [*mark["path"], mark["at"]]]
    ys = [y for mark in marks for _, y in [*mark["path"], mark["at"]]]
    x_axis, y_axis = _axis(0.0, max(xs)), _axis(min(ys), max(ys))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = _LEFT + (point[0] - x_axis[0]) / (x_axis[-1] - x_axis[0]) * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - (point[1] - y_axis[0]) / (y_axis[-1] - y_axis[0]) * (_HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    places = [
        {
            "name": mark["name"],
            "estimated": mark["estimated"],
            "number": number,
            "label": mark["label"],
            "points": " ".join(f"{x},{y}" for x, y in map(place, mark["path"])),
            "x": place(mark["at"])[0],
            "y": place(mark["at"])[1],
        }
        for number, mark in enumerate(marks, 1)
    ]
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "marks": places,
        "metric": marks[0]["metric"],
        "left": _LEFT,
        "right": _WIDTH - _RIGHT,
        "bottom": _HEIGHT - _BOTTOM,
        "x_ticks": [{"at": place((tick, y_axis[0]))[0], "text": joules(tick)} for tick in x_axis],
        "y_ticks": [{"at": place((x_axis[0], tick))[1], "text": f"{tick:g}"} for tick in y_axis],
        "curves": any(mark["path"] for mark in marks),
        "estimated": any(mark["estimated"] for mark in marks),
    }


def _mark(name: str, metrics: dict) -> dict | None:
    energy = energy_of((metrics.get("ledger") or {}).get("total", {}))
    score = metrics.get(metrics.get("metric", ""))
    if energy is None or score is None:
        return None
    path = [tuple(point) for point in (metrics.get("curve") or {}).get("points", [])]
    return {
        "name": name,
        "at": (energy["value"], score),
        "path": path,
        "estimated": energy["estimated"],
        "metric": metrics["metric"],
        "label": f"{name}: {score:.4g} for {joules(energy['value'])} ({energy['evidence']})",
    }


def _axis(low: float, high: float) -> list[float]:
    """Four to seven round ticks that enclose the range."""
    span = (high - low) or abs(high) or 1.0
    step = next(
        base * 10.0**power for power in range(-18, 19) for base in (1, 2, 5) if span / (base * 10.0**power) <= 5
    )
    first, last = int(low // step), int(-(-high // step))
    last += first == last
    return [round(number * step, 12) for number in range(first, last + 1)]
