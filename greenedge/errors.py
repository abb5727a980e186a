"""The four kinds of error, by who must act. Imports nothing from greenedge.

Every message is for a person: place, value, rule, cure, in one sentence. The command line prints it without a
traceback; anything else that escapes is our own defect and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class GreenedgeError(Exception):
    """Something a user can put right; the message says how."""

    exit_code = 1


class TargetError(GreenedgeError):
    """A board, device or recipe file is not as it must be: fix the file."""


class ToolError(GreenedgeError):
    """An external program is missing or failed: install it, or read its log."""


class EvidenceError(GreenedgeError):
    """Evidence that was asked for (a measurement, a live sensor) cannot be had on this machine."""

    exit_code = 3


@dataclass(frozen=True)
class Reason:
    """One reason why a model cannot go a way: the node, what is there, the rule it breaks, what to change.

    `kind` is a short class name such as "unquantised", "unsupported-op" or "too-big"; `module` is the torch module
    path where the exporter left one.
    """

    node: str
    kind: str
    value: str
    rule: str
    cure: str
    module: str | None = None

    def __str__(self) -> str:
        where = f"{self.node} ({self.module})" if self.module else self.node
        return f"{where}: {self.value}; {self.rule} (cure: {self.cure})."


class UnsupportedError(GreenedgeError):
    """A model or a choice that this road cannot take; carries every reason, not the first alone."""

    exit_code = 4

    def __init__(self, subject: str, reasons: Sequence[Reason]):
        assert reasons, "a refusal without a reason"
        self.subject = subject
        self.reasons = tuple(reasons)
        super().__init__(f"{subject}\n" + "\n".join(f"  {reason}" for reason in self.reasons))


class VerificationError(GreenedgeError):
    """Two stages gave different integers: a defect, never a tolerance."""

    exit_code = 5
