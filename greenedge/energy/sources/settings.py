"""Settings behind a source's id: hwmon:hwmon0:1,scale=1000,sign=-1,take=product. In the id, so that the sampling
process, the training ledger and a result all have them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from greenedge.energy.source import SourceFault

_FIX = "ID,scale=1000 (a factor), ID,sign=-1, ID,take=power or ID,take=product; several one after the other"


@dataclass(frozen=True)
class Settings:
    """`scale` is what a reading is multiplied with, where a driver does not keep to its unit (1: it does); `sign` -1
    turns a sensor that is wired the other way round (None: not said); `take` says which of two figures that do not
    agree counts."""

    scale: float | None = None
    sign: int | None = None
    take: str | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was said, for the result."""
        said = [f"scaled by {self.scale:g}, as asked for"] if self.scale not in (None, 1) else []
        said += ["its sign is turned, as asked for"] if self.sign == -1 else []
        said += [f"its {self.take} counts, as asked for"] if self.take else []
        return tuple(said)


def split_settings(source_id: str) -> tuple[str, Settings]:
    """(the id alone, its settings). Raises SourceFault for a setting that there is not."""
    bare, *given = source_id.split(",")
    found: dict = {}
    for entry in given:
        key, _, text = (part.strip() for part in entry.partition("="))
        if key in found:
            raise SourceFault(source_id, "absent", f"{key!r} is said twice", "say it once")
        if key == "scale" and re.fullmatch(r"\d{1,9}(\.\d{1,9})?([eE][-+]?\d)?", text) and float(text) > 0:
            found[key] = float(text)
        elif key == "sign" and text in ("1", "+1", "-1"):
            found[key] = int(text)
        elif key == "take" and text in ("power", "product"):
            found[key] = text
        else:
            raise SourceFault(source_id, "absent", f"{entry!r} is no setting of a source", _FIX)
    return bare, Settings(**found)
