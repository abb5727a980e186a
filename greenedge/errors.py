"""The four kinds of error, by who must act, and the reasons of a refusal. Imports nothing from greenedge.

Every message is for a person: place, value, rule, cure, in one sentence. The command line prints it without a
traceback; anything else that escapes is our own defect and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


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


class ReasonKind(StrEnum):
    """What sort of fault a reason names; programs may tell reasons apart by it."""

    BAD_SCALE = "bad-scale"
    CONSTANT = "constant"
    DEADLOCK = "deadlock"
    DYNAMIC_QUANTISER = "dynamic-quantiser"
    DYNAMIC_SHAPE = "dynamic-shape"
    FLOAT_ISLAND = "float-island"
    FLOAT_QUANTISER = "float-quantiser"
    MALFORMED = "malformed"
    NO_AFFINE_FORM = "no-affine-form"
    NO_STEP_FUNCTION = "no-step-function"
    NO_TOOLCHAIN = "no-toolchain"
    NOT_MONOTONE = "not-monotone"
    OPTION = "option"
    TOO_BIG = "too-big"
    TOO_DEEP = "too-deep"
    TOO_SLOW = "too-slow"
    TOO_WIDE = "too-wide"
    TWO_ACTIVATIONS = "two-activations"
    UNEQUAL_SCALES = "unequal-scales"
    UNKNOWN_LAYER = "unknown-layer"
    UNQUANTISED = "unquantised"
    UNSUPPORTED_BITS = "unsupported-bits"
    UNSUPPORTED_FUNCTION = "unsupported-function"
    UNSUPPORTED_GRAPH = "unsupported-graph"
    UNSUPPORTED_LAYER = "unsupported-layer"
    UNSUPPORTED_MODE = "unsupported-mode"
    UNSUPPORTED_OP = "unsupported-op"
    UNSUPPORTED_ORDER = "unsupported-order"
    UNSUPPORTED_ROUNDING = "unsupported-rounding"
    UNSUPPORTED_SCALE = "unsupported-scale"
    UNSUPPORTED_SHAPE = "unsupported-shape"
    UNSUPPORTED_TARGET = "unsupported-target"
    UNSUPPORTED_ZERO_POINT = "unsupported-zero-point"
    UNTRACEABLE = "untraceable"


@dataclass(frozen=True)
class Reason:
    """One reason why a model cannot go a way: the node, what is there, the rule it breaks, what to change.

    `module` is the torch module path where the exporter left one.
    """

    node: str
    kind: ReasonKind
    value: str
    rule: str
    cure: str
    module: str | None = None

    def __str__(self) -> str:
        where = f"{self.node} ({self.module})" if self.module else self.node
        return f"{where}: {self.value}; {self.rule} (cure: {self.cure})."


class Refused(Exception):
    """Raised inside a rule that cannot take its node or operation; the walk over the model turns it into a Reason.

    `place` is the node, and the module, that it is about, where that is another than the one whose rule raises it.
    """

    def __init__(
        self, kind: ReasonKind, value: str, rule: str, cure: str, place: tuple[str, str | None] | None = None
    ) -> None:
        self.kind, self.value, self.rule, self.cure, self.place = kind, value, rule, cure, place
        super().__init__(value)

    def about(self, node: str, module: str | None) -> Refused:
        """The same refusal as one about this node."""
        return Refused(self.kind, self.value, self.rule, self.cure, (node, module))

    def at(self, node: str, module: str | None = None) -> Reason:
        """This refusal as a reason: of its own place, else of this node."""
        node, module = self.place or (node, module)
        return Reason(node, self.kind, self.value, self.rule, self.cure, module)


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
