"""A sweep for notebooks: a pandas table, and a plot by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenedge.errors import GreenedgeError, ToolError
from greenedge.sweep.figures import KINDS, comparable, require_known
from greenedge.sweep.front import as_costs, find_front
from greenedge.sweep.outputs import head, list_figures


def make_frame(found: Mapping[str, Any]) -> Any:
    """A DataFrame with a row a point; what is unknown is NaN. Raises ToolError without pandas."""
    try:
        import pandas
    except ImportError:
        raise ToolError("a frame is pandas' and pandas is not installed: pip install pandas.") from None
    keys = list_figures(found["rows"])
    return pandas.DataFrame(
        [
            {
                **row["settings"],
                **{key: row["figures"].get(key, {}).get("value") for key in keys},
                "status": row["status"],
                "on_front": "front" in row,
                "folder": row.get("folder"),
            }
            for row in found["rows"]
        ]
    )


def plot_front(found: Mapping[str, Any], x: str | None, y: str | None, axes: Any = None) -> Any:
    """Draws every row that has both figures; a front for each kind of evidence, estimates hollow. Returns the axes."""
    objectives = found["objectives"]
    across, upwards = x or objectives[min(1, len(objectives) - 1)], y or objectives[0]
    require_known([across, upwards])
    groups = comparable(found["rows"], [across, upwards])
    if not groups:
        raise GreenedgeError(
            f"no row has both {across} and {upwards}; rows have: {', '.join(list_figures(found['rows']))}."
        )
    if axes is None:
        from matplotlib.figure import Figure

        axes = Figure().add_subplot()
    hollow = KINDS[across].estimated or KINDS[upwards].estimated
    for group in groups:
        values = [[found["rows"][k]["figures"][key]["value"] for key in (across, upwards)] for k in group]
        larger = [KINDS[key].larger_is_better for key in (across, upwards)]
        front = sorted(pair for pair, stays in zip(values, find_front(as_costs(values, larger)), strict=True) if stays)
        axes.plot(*zip(*front, strict=True), color="C2", linewidth=1)
        axes.scatter(*zip(*values, strict=True), facecolors="none" if hollow else "C7", edgecolors="C7")
        axes.scatter(*zip(*front, strict=True), facecolors="none" if hollow else "C2", edgecolors="C2")
    axes.set_xlabel(head(across))
    axes.set_ylabel(head(upwards))
    return axes
