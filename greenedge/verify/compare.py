"""One comparison: a candidate's values against a reference's, and what is said where they differ.

    report = compare("graph", "rtl", expected, got)     # arrays of integers, batch first; all outputs
    report.require()                                    # VerificationError names the first sample and layer

Zero samples, another shape, NaN: an error, never a pass. What was proved and what was sampled are two fields. Float
outputs that a built file computes itself, behind the integers, are another matter: `compare_floats` takes the largest
difference that is allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import VerificationError

FAULTS = "-faults"  # behind the name of a stage: compared on the vectors that see faults of its memories


@dataclass(frozen=True)
class FirstMismatch:
    """The first difference: which sample, which layer, and the values there (at most eight, from the first that
    differs)."""

    sample: int
    layer: str
    expected: list[int | float]
    got: list[int | float]


@dataclass(frozen=True)
class Coverage:
    """What the samples of a comparison show of `total` single-bit faults of the memories: `seen` change an output,
    `proved_unseen` change none for any input, `open` are neither; `open_places` names the first of these."""

    total: int
    seen: int
    proved_unseen: int
    open: int
    open_places: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The share of bits that are seen or proved unseen."""
        return (self.seen + self.proved_unseen) / self.total if self.total else 1.0

    @property
    def text(self) -> str:
        """The share in words, rounded down: 100 % means every bit."""
        return f"coverage {math.floor(10_000 * self.share) / 100:g} % of {self.total:,} memory bits"


@dataclass(frozen=True)
class VerificationReport:
    """Candidate against reference on the same inputs.

    `samples` were compared on all `outputs` integers of each; `mismatches` counts differing samples, `float_ties`
    those of a float reference in which every difference is a proven float32 tie, `within_certificate` those of a build
    in which every difference is one that its certificate allows (these are no mismatches). `proved` says what holds
    for every input, None where equality was sampled only. `within` is None for integers; for floats it is the largest
    absolute difference that is no mismatch (0: they are equal), and `largest` the one that was found. `coverage` says
    how many faults of the memories these samples would show; None where that was not worked out.
    """

    reference: str
    candidate: str
    samples: int
    outputs: int
    mismatches: int
    float_ties: int = 0
    proved: str | None = None
    first: FirstMismatch | None = None
    within: float | None = None
    largest: float | None = None
    coverage: Coverage | None = None
    within_certificate: int = 0

    def require(self, describe_deviation: str | None = None) -> None:
        """Raises VerificationError where anything differs; `describe_deviation` is what the build had said of that, and
        the cure."""
        if self.mismatches:
            first = self.first
            assert first is not None, "a report of a mismatch has its first one"
            raise VerificationError(
                f"{name_candidate(self.candidate)} differs from {name_stage(self.reference)} {self._by()}on "
                f"{self.mismatches} of "
                f"{self.samples} samples; first at sample "
                f"{first.sample}, layer {first.layer}: expected {_format_values(first.expected)}, got "
                f"{_format_values(first.got)}"
                f"{f'; {describe_deviation}' if describe_deviation else ''}."
            )

    def _by(self) -> str:
        return f"by more than {self.within:g} " if self.within else ""


def describe_certified(candidate: str, count: int, samples: int) -> str:
    """What is said of samples that differ as the build's certificate allows."""
    return f"{candidate} differs on {count:,} of {samples:,} samples, within its certificate"


def require_equal(candidate: str, certified: int, samples: int) -> None:
    """Raises VerificationError where samples differ within the build's certificate."""
    if certified:
        raise VerificationError(
            f"{describe_certified(candidate, certified, samples)}, and exact equality was required (cure: choose a "
            "back end that computes in integers alone, such as --backend c99, or let `greenedge snap` move a QONNX "
            "model's biases onto the accumulators' grid)."
        )


def name_stage(stage: str) -> str:
    """The stage in a sentence's words."""
    return {"graph": "the integer graph", "epilogue": "the host's epilogue"}.get(stage, stage)


def name_candidate(candidate: str) -> str:
    """The compared stage in a sentence's words."""
    return candidate.replace("-stalls", " with random stalls").replace(FAULTS, " on the vectors for memory faults")


def _format_values(values: list[int | float]) -> str:
    return f"[{', '.join(f'{v:.9g}' if isinstance(v, float) else str(v) for v in values)}]"


def compare(
    reference: str,
    candidate: str,
    expected: NDArray[Any],
    got: NDArray[Any],
    *,
    layer: str = "output",
    proved: str | None = None,
) -> VerificationReport:
    """Both arrays are integers with the batch first. Raises VerificationError for zero samples, other shapes or
    non-integers."""
    expected, got = np.asarray(expected), np.asarray(got)
    for stage, values in ((reference, expected), (candidate, got)):
        if values.dtype.kind not in "iu":
            raise VerificationError(f"{stage} gave {values.dtype} and not integers; only integers are compared.")
    if expected.shape != got.shape:
        raise VerificationError(
            f"{candidate} gave outputs of shape {got.shape}, {name_stage(reference)} {expected.shape}; they must be "
            "the same."
        )
    if not len(expected):
        raise VerificationError(
            f"{candidate} was compared with {name_stage(reference)} on zero samples; give at least one."
        )
    differs = (expected != got).reshape(len(expected), -1).any(axis=1)
    first = first_difference(layer, expected, got) if differs.any() else None
    return VerificationReport(
        reference, candidate, len(expected), int(expected[0].size), int(differs.sum()), 0, proved, first
    )


def compare_floats(
    reference: str, candidate: str, expected: NDArray[Any], got: NDArray[Any], within: float, *, layer: str
) -> VerificationReport:
    """Floats with the batch first, no two further apart than `within`. Raises VerificationError for zero samples,
    other shapes, NaN."""
    expected, got = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    if expected.shape != got.shape or not expected.size:
        raise VerificationError(
            f"{candidate} gave floats of shape {got.shape}, {name_stage(reference)} {expected.shape}; they must be "
            "the same, "
            "and of at least one sample."
        )
    for stage, values in ((reference, expected), (candidate, got)):
        if not np.isfinite(values).all():
            raise VerificationError(f"{stage} gave NaN or infinity in {layer}; only numbers are compared.")
    apart = np.abs(expected - got).reshape(len(expected), -1)
    far = (apart > within).any(axis=1)
    first = (
        first_difference(layer, expected, np.where(np.abs(expected - got) > within, got, expected))
        if far.any()
        else None
    )
    return VerificationReport(
        reference,
        candidate,
        len(expected),
        int(expected[0].size),
        int(far.sum()),
        first=first,
        within=within,
        largest=float(apart.max()),
    )


def first_difference(layer: str, expected: NDArray[Any], got: NDArray[Any]) -> FirstMismatch:
    """The first differing sample and up to eight integers from the first that differs."""
    sample = int((expected != got).reshape(len(expected), -1).any(axis=1).argmax())
    a, b = expected[sample].ravel(), got[sample].ravel()
    start = int((a != b).argmax())
    return FirstMismatch(sample, layer, a[start : start + 8].tolist(), b[start : start + 8].tolist())
