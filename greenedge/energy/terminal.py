"""Tables for the terminal. Estimates have a column of their own, two digits and their band."""

from __future__ import annotations

from collections.abc import Iterable

from greenedge.energy import results
from greenedge.energy.estimate import digits
from greenedge.energy.labels import Figure, evidence_class
from greenedge.energy.measure import Probed

_PREFIX = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def number(value: float, unit: str, estimated: bool = False) -> str:
    """ "12.3 mJ"; an estimate "≈ 12 mJ"."""
    scale, prefix = next(((s, p) for s, p in _PREFIX if abs(value) >= s), _PREFIX[-1])
    scaled = value / scale
    text = digits(scaled) if estimated else f"{scaled:.4g}"
    return f"{'≈ ' if estimated else ''}{text} {prefix}{unit}"


def energy_text(figure: Figure | None, estimates: bool, unit: str = "J") -> str:
    """The cell of the column of estimates or of the other one; empty where the figure belongs to the other."""
    if figure is None or (evidence_class(figure.evidence) == "estimated") is not estimates:
        return ""
    if estimates:
        band = (
            ""
            if figure.low is None
            else f" ({number(figure.low, unit, True)[2:]}…{number(figure.high, unit, True)[2:]})"
        )
        return f"ESTIMATED {number(figure.value, unit, True)}{band}"
    half = (
        ""
        if figure.low is None
        else f" ±{(figure.high - figure.low) / 2 / abs(figure.value) * 100 if figure.value else 0:.2g} %"
    )
    meter = (
        ""
        if figure.instrument is None or not figure.value
        else f" meter {figure.instrument / abs(figure.value) * 100:.2g} %"
    )
    word = "" if figure.evidence in ("measured", "derived") else f" {figure.evidence.upper()}"
    return f"{number(figure.value, unit)}{half}{meter}{word}"


def result_cells(row: dict) -> list[str]:
    """Workload, source, scope, host, total, net, idle, estimate, evidence: one line of the table."""
    total, net, idle = (results.figure(row, name) for name in ("total", "net", "idle"))
    host = {True: "included", False: "not included", None: "not known"}[row.get("host_included")]
    latency = row.get("latency_s", {}).get("value")
    return [
        row["workload"],
        row["source"]["covers"],
        row["scope"],
        host,
        number(latency, "s") if latency else "",
        energy_text(total, False),
        energy_text(net, False),
        energy_text(idle, False, "W"),
        energy_text(total, True),
        row["evidence"],
    ]


HEADERS = (
    "workload",
    "source",
    "scope",
    "host",
    "latency",
    "total per inference",
    "net per inference",
    "idle",
    "estimate per inference",
    "evidence",
)


def result_table(data: dict):
    """A rich table of a document."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="energy")
    for header in HEADERS:
        table.add_column(header)
    for row in data["rows"]:
        table.add_row(*(Text(cell) for cell in result_cells(row)))
    return table


def notes(data: dict) -> list[str]:
    """Flags, carbon and what does not add up, a line each."""
    lines = [f"{row['workload']}: {flag}" for row in data["rows"] for flag in row["flags"]]
    for row in data["rows"]:
        carbon = results.figure(row, "carbon")
        if carbon:
            lines.append(
                f"{row['workload']}: ESTIMATED {number(carbon.value, 'g', True)} CO2e per inference "
                f"({number(carbon.low, 'g', True)[2:]}…{number(carbon.high, 'g', True)[2:]})."
            )
    lines += [f"{holder} holds {part}: do not add them." for holder, part in results.overlaps(data["rows"])]
    return list(dict.fromkeys(lines))


def probe_table(probed: Iterable[Probed]):
    from rich.table import Table
    from rich.text import Text

    table = Table(title="energy sources")
    for header in ("source", "scope", "covers", "state", "update", "rest", "load", "why, and the cure"):
        table.add_column(header, overflow="fold")
    for one in probed:
        live = one.live
        cells = (
            one.id,
            one.scope,
            one.covers,
            live.state,
            "" if live.period_s is None else number(live.period_s, "s"),
            "" if live.idle_w is None else number(live.idle_w, "W"),
            "" if live.load_w is None else number(live.load_w, "W"),
            f"{live.reason}; {live.fix}" if live.reason else "",
        )
        # Text, not markup: a cure may hold square brackets.
        table.add_row(*(Text(cell) for cell in cells))
    return table
