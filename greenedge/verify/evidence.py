"""What a verification must have compared, recorded when a run is built, so that it cannot quietly become less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from greenedge.backends.interface import Backend
from greenedge.frontends.samples import count_samples, open_samples
from greenedge.lower import Lowered
from greenedge.run.folder import RunFolder
from greenedge.verify.built import PARTIAL_SAMPLES, count_board_samples
from greenedge.verify.compare import VerificationReport
from greenedge.verify.float_references import REFERENCES, is_comparable_with_outputs
from greenedge.verify.litert_reference import STAGES, find_origin


def expect_evidence(run: RunFolder, lowered: Lowered, backend: Backend) -> dict[str, int]:
    """{stage: samples that it must be compared on with the integer graph} of a run that has just been built."""
    samples = count_samples(open_samples(run.inputs, lowered.inputs))
    origin = find_origin(run)
    expected = {"qonnx" if origin is None else STAGES[origin.arithmetic]: samples}
    if is_comparable_with_outputs(lowered):
        expected |= {name: samples for name in REFERENCES if (run.export / f"{name}.npy").is_file()}
    if backend.why_not_runnable(run.build):
        return expected
    expected[backend.stage] = samples
    if backend.simulate_with_backpressure is not None:
        expected[f"{backend.stage}-stalls"] = samples
    expected |= {name: min(samples, PARTIAL_SAMPLES) for name in backend.partial_stages(run.build)}
    if (run.build / "board.json").is_file() and (count := count_board_samples(run.build, samples)):
        expected["board"] = count
    return expected


def find_missing(expected: Mapping[str, int], reports: Sequence[VerificationReport]) -> str | None:
    """What was compared on fewer samples than expected, as a predicate; None where nothing was."""
    compared: dict[str, int] = {}
    for report in reports:
        stage = report.reference if report.candidate == "graph" else report.candidate
        compared[stage] = max(compared.get(stage, 0), report.samples)
    for stage, samples in expected.items():
        if compared.get(stage, 0) < samples:
            return f"must be compared on {samples:,} samples in {stage}, and only {compared.get(stage, 0):,} could be"
    return None
