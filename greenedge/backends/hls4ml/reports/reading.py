"""Shared by the readers of reports: text within a size limit, numbers, JSON, and the error for a damaged report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from greenedge.errors import ToolError

ESTIMATED = "estimated by the HLS compiler"
ASKED = "asked for"
BRAM18_BITS = 18 * 1024
_MOST_BYTES = 64 << 20  # Intel's hold the sources too


@dataclass(frozen=True)
class Reading:
    """Numbers with one kind of evidence; None for what the report does not contain."""

    evidence: str
    numbers: Mapping[str, float | int | None]

    def drop_unknown(self) -> dict[str, float | int]:
        """The numbers that are not None, whole ones as integers."""
        return {
            key: int(value) if isinstance(value, float) and value.is_integer() else value
            for key, value in self.numbers.items()
            if value is not None
        }


def text_of(path: Path) -> str:
    """The report's text. Raises ToolError where it is too long to be one or cannot be read."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ToolError(f"{path} has {path.stat().st_size:,} bytes; a report has at most {_MOST_BYTES:,}.")
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ToolError(f"{path} cannot be read ({error.strerror}); run the synthesis again.") from None


def damage_error(path: Path, why: object) -> ToolError:
    """The error for a report that does not have its tool's structure."""
    return ToolError(f"{path} is damaged ({why}); run the synthesis again.")


def json_of(path: Path, text: str) -> object:
    """The JSON value at the beginning of `text`; nothing is evaluated. Raises ToolError where there is none."""
    try:
        return json.JSONDecoder(parse_constant=_no_constant).raw_decode(text)[0]
    except (ValueError, RecursionError) as error:
        raise damage_error(path, str(error) or type(error).__name__) from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of a report")


def number(value: object) -> float | None:
    """A count, a time or a frequency as a tool writes it ("1,526", "4520.5"); None for "N/A", "TBD", "undef", "?"."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if abs(value) < 1e15 and math.isfinite(value) else None
    plain = str(value).strip().replace(",", "")
    return float(plain) if re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?", plain) else None


def count(value: object) -> float | None:
    """As `number`, but None for negative values: tools write -1 for a count that they do not know."""
    found = number(value)
    return found if found is not None and found >= 0 else None


def derive_pace(cycles: float | None, interval: float | None, period_ns: float | None) -> dict[str, float | None]:
    """Latency and throughput from cycles and the clock's period; None where one of them is unknown."""
    return {
        "latency_cycles": cycles,
        "cycles_per_inference": interval,
        "latency_s": cycles * period_ns * 1e-9 if cycles is not None and period_ns else None,
        "ips": 1e9 / (period_ns * interval) if period_ns and interval else None,
    }
