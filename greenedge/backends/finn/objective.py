"""What the search for a folding is to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenedge.backends.finn.fifos import Schedule


@dataclass(frozen=True)
class Objective:
    """At most so many cycles between inferences, or from first input to last output; queues of so many beats."""

    interval: int | None = None
    latency: int | None = None
    most_beats: int | None = None

    def is_met_by(self, schedule: Schedule) -> bool:
        """Whether the schedule is as fast as asked."""
        return (self.interval is None or schedule.interval <= self.interval) and (
            self.latency is None or schedule.latency <= self.latency
        )
