"""SVG figures of a document: power over time, repetitions, and energy against latency. Estimates are hollow with a
bar."""

from __future__ import annotations

import io
from collections.abc import Callable

from greenedge.energy import results
from greenedge.energy.labels import evidence_class, key_for


def power_svg(row: dict) -> str | None:
    """Power over time, idle brackets and windows shaded; None without a trace."""
    trace = row.get("trace")
    if not trace:
        return None
    watts = trace[key_for("power", "w", row["evidence"] if row["evidence"] != "derived" else "measured")]

    def draw(axes) -> None:
        start = trace["t_s"][0]
        axes.plot([t - start for t in trace["t_s"]], watts, lw=0.8, color="#1f5f8b")
        for rep in row["repetitions"]:
            for a, b, kind in rep.get("spans", ()):
                axes.axvspan(a - start, b - start, color="#9ccc65" if kind == "idle" else "#ffb74d", alpha=0.35, lw=0)
        axes.set(
            xlabel="s",
            ylabel="W",
            title=f"{row['workload']}, {row['source']['covers']} ({row['evidence']}): green idle, orange window",
        )

    return _svg(draw)


def strip_svg(data: dict) -> str | None:
    """Every repetition of every row that has some."""
    rows = [row for row in data["rows"] if row.get("repetitions")]
    if not rows:
        return None

    def draw(axes) -> None:
        for place, row in enumerate(rows):
            key = key_for("energy", "j", row["evidence"])
            values = [rep[key] for rep in row["repetitions"]]
            axes.plot(
                values,
                [place + 0.08 * ((i % 5) - 2) for i in range(len(values))],
                "o",
                ms=4,
                mfc=_face(row),
                color="#1f5f8b",
            )
        axes.set(yticks=range(len(rows)), yticklabels=[_label(row) for row in rows], xlabel="J per inference, total")

    return _svg(draw, 1 + 0.5 * len(rows))


def pareto_svg(data: dict) -> str | None:
    """Energy against latency with intervals, accuracy beside the point; the front leaves estimates out."""
    rows = [row for row in data["rows"] if results.figure(row, "total") and row.get("latency_s", {}).get("value")]
    if not rows:
        return None

    def draw(axes) -> None:
        for row in rows:
            total, latency = results.figure(row, "total"), row["latency_s"]["value"]
            bars = None if total.low is None else [[total.value - total.low], [total.high - total.value]]
            axes.errorbar([latency], [total.value], yerr=bars, fmt="o", mfc=_face(row), color="#1f5f8b", capsize=3)
            accuracy = "" if row.get("accuracy") is None else f", accuracy {row['accuracy']:.3g}"
            axes.annotate(
                f"{_label(row)}{accuracy}",
                (latency, total.value),
                fontsize=7,
                xytext=(4, 4),
                textcoords="offset points",
            )
        points = front(rows)
        axes.plot([p[0] for p in points], [p[1] for p in points], "--", lw=0.8, color="#555")
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="latency, s",
            ylabel="J per inference, total",
            title="hollow: estimated or simulated, not on the front",
        )

    return _svg(draw)


def front(rows: list[dict]) -> list[tuple[float, float]]:
    """The (latency, energy) points that no measured or replayed row beats in both; estimates and simulations are not
    asked."""
    points = sorted(
        (row["latency_s"]["value"], results.figure(row, "total").value)
        for row in rows
        if evidence_class(row["evidence"]) in ("measured", "replayed")
    )
    best: list[tuple[float, float]] = []
    for point in points:
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def _face(row: dict) -> str:
    return "none" if evidence_class(row["evidence"]) in ("estimated", "simulated") else "#1f5f8b"


def _label(row: dict) -> str:
    return f"{row['workload']} [{row['evidence']}, {row['scope']}]"


def _svg(draw: Callable, height: float = 3.2) -> str:
    # A figure of its own, without pyplot: no state outside, no display.
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), layout="constrained")
    draw(figure.subplots())
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "greenedge", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
