"""SVG figures of a document: energy against latency and accuracy, the repetitions, power over time. Estimates and
simulations have hollow marks and are not on the front."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenedge.energy import results
from greenedge.energy.evidence import evidence_class, key_for
from greenedge.energy.terminal import number

if TYPE_CHECKING:  # matplotlib is slow to import and is needed by `_svg` alone
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

_INK = "#1f5f8b"
_COLOURS = ("#1f5f8b", "#c2571a", "#2e7d32", "#7b3f98", "#a8323e", "#5d6b73")
_MARKERS = "osD^vPX<>"
_WINDOW, _IDLE = "#f6a93b", "#7fb77e"


def power_svg(row: dict) -> str | None:
    """Power over time, idle brackets and windows shaded; None without a trace."""
    trace = row.get("trace")
    if not trace:
        return None
    watts = trace[key_for("power", "w", row["evidence"] if row["evidence"] != "derived" else "measured")]

    def draw(axes: Axes) -> None:
        start = trace["t_s"][0]
        labels: set[str] = set()
        for rep in row["repetitions"]:
            for a, b, kind in rep.get("spans", ()):
                label = None if kind in labels else kind
                labels.add(kind)
                colour = _IDLE if kind == "idle" else _WINDOW
                axes.axvspan(a - start, b - start, color=colour, alpha=0.45, lw=0, label=label)
        axes.plot([t - start for t in trace["t_s"]], watts, lw=0.9, color=_INK)
        axes.set(
            xlabel="s", ylabel="W", title=_plain(f"{row['workload']}: {results.source_text(row)}, {row['evidence']}")
        )
        axes.set_ylim(0, 1.1 * max(watts))
        axes.margins(x=0.01)
        if labels:
            axes.legend(loc="lower right", ncols=2, fontsize=8)

    return _svg(draw, 2.6)


def strip_svg(data: dict) -> str | None:
    """The repetitions of every row that has several, in % from the row's mean, with a bar for the 95 % interval."""
    rows = [row for row in data["rows"] if len(row.get("repetitions", ())) > 1]
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        for place, row in enumerate(rows):
            total, colour = results.require_figure(row, "total"), _COLOURS[place % len(_COLOURS)]
            values = [rep[key_for("energy", "j", row["evidence"])] for rep in row["repetitions"]]
            away = [100 * (value / total.value - 1) for value in values]
            heights = [place + 0.07 * ((i % 5) - 2) for i in range(len(values))]
            if total.bounds is not None:
                low, high = (100 * (end / total.value - 1) for end in total.bounds)
                axes.barh(place, high - low, left=low, height=0.6, color=colour, alpha=0.2, lw=0)
            axes.plot(away, heights, "o", ms=4, mfc=colour if _solid(row) else "none", color=colour)
        widest = max(abs(end) for end in axes.get_xlim())
        axes.set_xlim(-max(widest, 0.01), max(widest, 0.01))
        axes.axvline(0, lw=0.6, color="#888")
        axes.set(yticks=range(len(rows)), yticklabels=[_label(row) for row in rows], ylim=(len(rows) - 0.4, -0.6))
        axes.set(xlabel="total energy, % from the mean of the repetitions;\nbar: 95 % interval of the mean")

    return _svg(draw, 1.1 + 0.45 * len(rows))


def pareto_svg(data: dict) -> str | None:
    """Energy against latency and, where known, against accuracy, with intervals; None for fewer than two points. The
    front excludes estimates; rows without ranking are not drawn."""
    rows = [row for row in data["rows"] if results.figure(row, "total") and row.get("latency_s", {}).get("value")]
    rows = [row for row in rows if row.get("ranking") is not False]
    if len(rows) < 2:
        return None
    accurate = [row for row in rows if row.get("accuracy") is not None]

    def draw(figure: MplFigure) -> None:
        panels = figure.subplots(1, 2 if accurate else 1, sharey=True, squeeze=False)[0]
        for place, row in enumerate(rows):
            style = {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}
            _point(panels[0], row, row["latency_s"]["value"], row["latency_s"], style, _label(row))
            if row in accurate:
                _point(panels[1], row, 100 * row["accuracy"], {}, style, None)
        points = front(rows)
        if len(points) > 1:
            panels[0].plot(*zip(*points, strict=True), "--", lw=0.8, color="#555", label="front (not estimates)")
        panels[0].set(xscale="log", yscale="log", xlabel="latency, s", ylabel="J per inference, total")
        if accurate:
            panels[1].set(xlabel="accuracy, %")
        for panel in panels:
            panel.grid(alpha=0.25, which="both", lw=0.5)
            panel.margins(0.15)
        figure.legend(loc="outside lower left", fontsize=8, frameon=False)

    return _svg(draw, 3.2 + 0.17 * (len(rows) + 1), whole=True)


def bars_svg(data: dict) -> str:
    """A bar of the total energy for each row that has one; rows of different scope or evidence class have an axis of
    their own, so that no length can be read as a ratio."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in data["rows"]:
        if results.figure(row, "total"):
            groups.setdefault((row["scope"], evidence_class(row["evidence"])), []).append(row)
    # Of estimates each its own axis too: of two bands of different models no ratio follows either.
    panels = [[row] for (_, word), rows in groups.items() if word == "estimated" for row in rows]
    panels += [rows for (_, word), rows in groups.items() if word != "estimated"]
    count = sum(map(len, panels))
    if not count:
        return ""

    def draw(figure: MplFigure) -> None:
        from matplotlib.ticker import EngFormatter

        axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": list(map(len, panels))})
        for panel, rows in zip(axes[:, 0], panels, strict=True):
            for place, row in enumerate(rows):
                _bar(panel, place, row, _COLOURS[place % len(_COLOURS)])
            panel.set(yticks=[], ylim=(len(rows) - 0.3, -0.75), xlabel="per inference, total", xlim=(0, None))
            panel.xaxis.set_major_formatter(EngFormatter("J"))
            panel.margins(x=0.12)
            for side in ("top", "right", "left"):
                panel.spines[side].set_visible(False)

    return _svg(draw, 0.3 + 1.05 * count + 0.25 * len(panels), whole=True)


def _bar(panel: Axes, place: int, row: dict, colour: str) -> None:
    total = results.require_figure(row, "total")
    face = colour if _solid(row) else "none"
    panel.barh(place, total.value, height=0.5, facecolor=face, edgecolor=colour, lw=1.6)
    if total.bounds is not None:
        sides = [[total.value - total.bounds[0]], [total.bounds[1] - total.value]]
        panel.errorbar([total.value], [place], xerr=sides, ls="none", color="#333", capsize=4, lw=1.2)
    estimated = evidence_class(total.evidence) == "estimated"
    text = ("" if _solid(row) else f"{total.evidence.upper()} ") + number(total.value, "J", estimated)
    panel.text(0, place - 0.42, f"{_label(row)}: {text}", fontsize=8.5, ha="left", va="center", clip_on=False)


def _point(axes: Axes, row: dict, x: float, interval: dict, style: dict, label: str | None) -> None:
    total = results.require_figure(row, "total")
    y = None if total.bounds is None else [[total.value - total.bounds[0]], [total.bounds[1] - total.value]]
    sides = None if interval.get("low") is None else [[x - interval["low"]], [interval["high"] - x]]
    face = style["color"] if _solid(row) else "none"
    axes.errorbar([x], [total.value], yerr=y, xerr=sides, mfc=face, ls="none", capsize=3, ms=7, label=label, **style)


def front(rows: list[dict]) -> list[tuple[float, float]]:
    """The Pareto-optimal (latency in s, energy in J) of the measured and replayed rows; empty where their scopes
    differ, since they do not cover the same thing."""
    rows = [row for row in rows if evidence_class(row["evidence"]) in ("measured", "replayed")]
    if len({row["scope"] for row in rows}) > 1:
        return []
    best: list[tuple[float, float]] = []
    for point in sorted((row["latency_s"]["value"], results.require_figure(row, "total").value) for row in rows):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def _solid(row: dict) -> bool:
    """Whether the row is drawn filled: its evidence is an instrument."""
    return evidence_class(row["evidence"]) not in ("estimated", "simulated")


def _label(row: dict) -> str:
    return _plain(f"{row['workload']} [{results.source_text(row)}; {row['evidence']}, {row['scope']}]")


def _plain(text: str) -> str:
    """The text with dollar signs escaped: matplotlib reads them as formulas."""
    return text.replace("$", r"\$")


def _svg(draw: Callable[[Any], None], height: float = 3.2, whole: bool = False) -> str:
    # Without pyplot, which keeps global state and may open a display.
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, height), layout="constrained")
    draw(figure if whole else figure.subplots())
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "greenedge", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
