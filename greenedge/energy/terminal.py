"""Tables for the terminal. Estimates have their own column, two digits and their band."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from greenedge.energy import results
from greenedge.energy.estimate import digits
from greenedge.energy.evidence import Figure, evidence_class
from greenedge.energy.measurement import ProbedSource

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_PREFIX = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))


def number(value: float, unit: str, estimated: bool = False) -> str:
    """ "12.3 mJ"; an estimate "≈ 12 mJ"."""
    scale, prefix = next(((s, p) for s, p in _PREFIX if abs(value) >= s), _PREFIX[-1])
    scaled = value / scale
    text = digits(scaled) if estimated else f"{scaled:.4g}"
    return f"{'≈ ' if estimated else ''}{text} {prefix}{unit}"


def energy_text(figure: Figure | None, estimates: bool, unit: str = "J") -> str:
    """The cell of a figure in the column of estimates (or in the other one); empty where it belongs to the other."""
    if figure is None or (evidence_class(figure.evidence) == "estimated") is not estimates:
        return ""
    if estimates:
        return f"ESTIMATED {number(figure.value, unit, True)}{_band_text(figure, unit)}"
    half = ""
    if figure.bounds is not None:
        low, high = figure.bounds
        half = f" ±{(high - low) / 2 / abs(figure.value) * 100 if figure.value else 0:.2g} %"
    meter = (
        ""
        if figure.instrument is None or not figure.value
        else f" meter {figure.instrument / abs(figure.value) * 100:.2g} %"
    )
    word = "" if figure.evidence in ("measured", "derived") else f" {figure.evidence.upper()}"
    return f"{number(figure.value, unit)}{half}{meter}{word}"


def _band_text(figure: Figure, unit: str) -> str:
    """ " (12…34 mJ)" of an estimate, "" without a band."""
    if figure.bounds is None:
        return ""
    low, high = (number(end, unit, True)[2:] for end in figure.bounds)
    return f" ({low}…{high})"


def result_cells(row: dict) -> list[str]:
    """One line of the table, a cell for each of HEADERS."""
    total, net, idle, power = (results.figure(row, name) for name in ("total", "net", "idle", "power"))
    host = {True: "included", False: "not included", None: "not known"}[row.get("host_included")]
    latency = row.get("latency_s", {}).get("value")
    return [
        row["workload"],
        results.source_text(row),
        row["scope"],
        host,
        number(latency, "s") if latency else "",
        energy_text(total, False),
        energy_text(net, False),
        energy_text(idle, False, "W"),
        energy_text(total, True),
        energy_text(power, True, "W"),
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
    "estimated power",
    "evidence",
)


_WIDE = 130  # below, a result is a block of lines instead of a row


def result_view(data: dict, width: int) -> Group | Table:
    """A document for a terminal of `width` columns: a table without empty columns, or a block of lines for each row."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = [result_cells(row) for row in data["rows"]]
    if width < _WIDE:
        return Group(*(_block(cells) for cells in rows))
    used = [k for k in range(len(HEADERS)) if any(cells[k] for cells in rows)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for k in used:
        table.add_column(HEADERS[k], overflow="fold")
    for cells in rows:
        table.add_row(*(Text(cells[k]) for k in used))
    return table


def _block(cells: list[str]) -> Table:
    """The cells below each other, each with its header."""
    from rich.table import Table
    from rich.text import Text

    block = Table(box=None, show_header=False, pad_edge=False, title=Text(cells[0], "bold"), title_justify="left")
    block.add_column(no_wrap=True)
    block.add_column(overflow="fold")
    for header, cell in zip(HEADERS[1:], cells[1:], strict=True):
        if cell:
            block.add_row(Text(f"  {header}", "dim"), Text(cell))
    return block


def notes(data: dict) -> list[str]:
    """Flags, carbon, notes on estimates and covers that may not be summed, a line each."""
    lines = [f"{row['workload']}: {flag}" for row in data["rows"] for flag in row["flags"]]
    for row in data["rows"]:
        carbon = results.figure(row, "carbon")
        if carbon:
            grams = number(carbon.value, "g", True)
            lines.append(f"{row['workload']}: ESTIMATED {grams} CO2e per inference{_band_text(carbon, 'g')}.")
    lines += [
        f"{row['workload']}: {note}"
        for row in data["rows"]
        if evidence_class(row["evidence"]) == "estimated"
        for note in row["source"].get("notes", ())
    ]
    lines += [f"{holder} holds {part}: do not add them." for holder, part in results.overlaps(data["rows"])]
    return list(dict.fromkeys(lines))


def probe_view(probed: Iterable[ProbedSource]) -> Group:
    """A table of the sources that are present, a line with the cure for each that is not alive, the next step."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    probed = list(probed)
    there = [one for one in probed if one.live.state != "absent"]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for header in ("source", "scope", "covers", "state", "update", "rest", "load"):
        table.add_column(header, overflow="fold")
    for one in there:
        live = one.live
        numbers = ((live.period_s, "s"), (live.idle_w, "W"), (live.load_w, "W"))
        # Text, not markup: a name or a cure may hold square brackets.
        cells = (one.id, one.scope, one.covers, live.state, *("" if v is None else number(v, u) for v, u in numbers))
        table.add_row(*(Text(cell) for cell in cells))
    lines = [
        Text.assemble((one.id, "bold"), f" {one.live.state}: {one.live.reason}; {one.live.fix}.")
        for one in probed
        if one.live.reason
    ]
    return Group(*([table] if there else []), *lines, Text(probe_verdict(probed)))


def probe_verdict(probed: Iterable[ProbedSource]) -> str:
    """The next step, in one sentence."""
    probed = list(probed)
    alive = [one.id for one in probed if one.live.ok]
    if alive:
        return f"{len(alive)} of {len(probed)} sources are alive: greenedge energy measure --source {alive[0]} …"
    if any(one.live.state == "unproven" for one in probed):
        return "Nothing is proved alive yet: give a load that what they cover feels, greenedge energy probe -- COMMAND."
    return (
        "Nothing here can measure energy: follow a cure above or plug in a meter; without one, "
        "`greenedge energy measure … --source estimate` gives estimates, marked as such."
    )
