"""Results beside each other: the ratio where there may be one; else no number that could be read as one, the reasons,
and the measurement that would allow it. As lines, as JSON and as a page with bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from greenedge.energy import terminal
from greenedge.energy.comparison import Comparison, NoRatioError, compare
from greenedge.errors import GreenedgeError

if TYPE_CHECKING:
    from rich.console import Console

Weighed = Comparison | NoRatioError


def find_document(path: Path) -> Path:
    """The file itself; of a run the newest of its energy files. Raises GreenedgeError for a folder without one."""
    if not path.is_dir():
        return path
    found = sorted((path / "6-measure").glob("*.json"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise GreenedgeError(
            f"{path} holds no energy result: `greenedge energy measure {path}` makes one, with --source estimate where "
            "there is no meter."
        )
    return found[-1]


def weigh(
    one: dict, other: dict, quantity: str, same_session: bool, allow_scope: bool, allow_evidence: bool
) -> Weighed:
    """The comparison of two rows, or why there is none. Raises GreenedgeError for repetitions that have no ratio."""
    try:
        return compare(one, other, quantity, same_session, allow_scope, allow_evidence)
    except NoRatioError as error:
        return error


def as_json(found: Weighed) -> dict:
    """The ratio with its interval and verdict; null with the reasons where there is none."""
    if isinstance(found, NoRatioError):
        return {"ratio": None, "reasons": list(found.reasons), "measurements": list(found.measurements)}
    ratio = found.ratio
    numbers = {"ratio": ratio.mean, "low": ratio.low, "high": ratio.high, "n": ratio.n}
    return numbers | {key: value for key, value in asdict(found).items() if key != "ratio"}


def show(rows: Sequence[dict], found: Sequence[Weighed], screen: Console) -> None:
    """Prints the verdicts; the table of the results too where one has no ratio."""
    if any(isinstance(one, NoRatioError) for one in found):
        screen.print(terminal.result_view({"rows": list(rows)}, screen.width))
    for line in describe(found):
        screen.print(line, markup=False, soft_wrap=True)


def describe(found: Sequence[Weighed]) -> list[str]:
    """The lines of the comparisons, each once."""
    lines: list[str] = []
    for one in found:
        if isinstance(one, NoRatioError):
            lines += [f"No ratio: {line}" for reason in one.reasons for line in reason.splitlines()]
            lines += [f"It would take: {line}" for line in one.measurements]
        else:
            lines += [f"{one.verdict} [{one.evidence}]", *one.warnings]
    return list(dict.fromkeys(lines))


def page(rows: Sequence[dict], found: Sequence[Weighed]) -> str:
    """A self-contained page: the verdict, the bars, the table with its notes."""
    from greenedge.energy.html import frame, section_without_figures
    from greenedge.energy.plots import bars_svg

    data = {"rows": list(rows)}
    said = "".join(f"<li>{escape(line)}</li>" for line in describe(found))
    hint = (
        "A bar is filled where an instrument measured it and hollow where it is estimated or simulated; its whisker is "
        "the 95 % interval over repetitions, or the band of the estimate. Results of different scope or evidence have "
        "an axis of their own: their lengths make no ratio."
    )
    inner = f'<ul class="verdict">{said}</ul><figure>{bars_svg(data)}</figure><p class="hint">{escape(hint)}</p>'
    return frame("Energy per inference, side by side", inner + section_without_figures(data))
