"""A document as a self-contained HTML page: one table, the figures, the notes. No number is computed here."""

from __future__ import annotations

from html import escape

from greenedge.energy import plots
from greenedge.energy.carbon import ATTRIBUTION
from greenedge.energy.terminal import HEADERS, notes, result_cells

_STYLE = (
    "body{font:14px system-ui;margin:2em;max-width:75em}table{border-collapse:collapse}td,th{border:1px solid "
    "#ccc;padding:.3em .6em;text-align:left}tr.estimated td{color:#777;font-style:italic}figure{margin:1.5em 0}"
    ".hint{color:#777}"
)

_HINT = (
    "Hollow marks are estimated or simulated. An interval is the 95 % interval over repetitions, or the band of an "
    "estimate; “meter” is the standard uncertainty of the instrument beside it."
)


def table(data: dict) -> str:
    """The results as an HTML table without empty columns; the CSS class of a line is its evidence."""
    rows = [result_cells(row) for row in data["rows"]]
    used = [k for k in range(len(HEADERS)) if any(cells[k] for cells in rows)]
    head = "".join(f"<th>{escape(HEADERS[k])}</th>" for k in used)
    body = "".join(
        f'<tr class="{escape(row["evidence"])}">' + "".join(f"<td>{escape(cells[k])}</td>" for k in used) + "</tr>"
        for row, cells in zip(data["rows"], rows, strict=True)
    )
    return f'<table class="energy"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def figures(data: dict) -> list[str]:
    """SVG: energy against latency, the repetitions, power over time."""
    drawn = [plots.pareto_svg(data), plots.strip_svg(data), *(plots.power_svg(row) for row in data["rows"])]
    return [figure for figure in drawn if figure]


def section(data: dict) -> str:
    """The inner HTML, for `page` or for the report of a run."""
    drawn = "".join(f"<figure>{figure}</figure>" for figure in figures(data))
    drawn += f'<p class="hint">{escape(_HINT)}</p>' if drawn else ""
    return section_without_figures(data) + drawn


def section_without_figures(data: dict) -> str:
    """The table and its notes."""
    lines = "".join(f"<li>{escape(line)}</li>" for line in _lines(data))
    return f'<div class="scroll">{table(data)}</div><ul class="notes">{lines}</ul>'


def page(data: dict, title: str = "Energy") -> str:
    """The whole page."""
    return frame(title, section(data))


def frame(title: str, inner: str) -> str:
    """A page around `inner`, which is HTML."""
    return (
        f'<!doctype html><html lang="en"><meta '
        f'charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1>{inner}</html>\n"
    )


def _lines(data: dict) -> list[str]:
    lines = notes(data)
    if any("carbon" in row["figures"] for row in data["rows"]):
        lines.append(ATTRIBUTION)
    scopes = sorted({row["scope"] for row in data["rows"]})
    if len(scopes) > 1:
        lines.append(f"Scopes {', '.join(scopes)} stand in one table: they do not cover the same thing.")
    return lines
