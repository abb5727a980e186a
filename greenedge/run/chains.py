"""The two chains of stages: of graphs, and of language models. Everything that depends on which of them a run has is
asked here; the loop, the folder, the manifest and the custody are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from greenedge.backends import load_backend
from greenedge.progress import ProgressFn
from greenedge.run import decoder_stages, plan_view, stages
from greenedge.run.custody import OpenRun, is_language_model, name_backend, require_built
from greenedge.run.decoder_custody import OpenDecoder
from greenedge.run.decoder_job import DecoderJob
from greenedge.run.folder import RunFolder
from greenedge.run.job import Job
from greenedge.run.keys import plan_record
from greenedge.run.manifest import Manifest, Record, load_manifest

AnyJob = Job | DecoderJob


@dataclass(frozen=True)
class Chain:
    """The stages of one job, in order, as the loop runs them.

    plan_record      what would go into a stage now, with its key
    work             does a stage; returns a note
    settle           the chain once what lies before the build is there: it may choose the back end
    expect_evidence  {stage: what must be compared} of the build that lies there
    """

    about: Mapping[str, Any]
    stages: tuple[str, ...]
    plan_record: Callable[[Manifest, str], Record]
    work: Callable[[str, RunFolder, ProgressFn], str]
    settle: Callable[[Path], Chain]
    expect_evidence: Callable[[RunFolder], dict[str, int]]


def bind_chain(job: AnyJob) -> Chain:
    """The chain of a job."""
    return _bind_decoder(job) if isinstance(job, DecoderJob) else _bind_graph(job)


def _bind_graph(job: Job) -> Chain:
    return Chain(
        job.about,
        job.stages,
        lambda manifest, name: plan_record(job, manifest, name),
        lambda name, run, progress: stages.STAGES[name](job, run, progress),
        lambda path: _bind_graph(job if job.is_chosen else choose_backend(job, path)),
        lambda run: _expect_evidence(job, run),
    )


def _expect_evidence(job: Job, run: RunFolder) -> dict[str, int]:
    from greenedge.lower import load_lowering
    from greenedge.verify.evidence import expect_evidence

    assert job.backend is not None, "a job that builds has a back end"
    return expect_evidence(run, load_lowering(run.lower), load_backend(job.backend))


def choose_backend(job: Job, run: Path) -> Job:
    """The job with the back end that its lowered graph asks for."""
    from greenedge.backends.select import select_backend
    from greenedge.lower import load_lowering

    assert job.target is not None, "a back end is chosen for a target"
    backend, reason = select_backend(load_lowering(RunFolder(run).lower).graph, job.target, job.options)
    return replace(job, backend=backend, reason=reason, is_chosen=True)


def _bind_decoder(job: DecoderJob) -> Chain:
    def expect(run: RunFolder) -> dict[str, int]:
        return decoder_stages.expect_evidence(OpenDecoder(run, load_manifest(run.path), job.target))

    return Chain(
        job.about,
        job.stages,
        lambda manifest, name: decoder_stages.plan_decoder_record(job, manifest, name),
        lambda name, run, progress: decoder_stages.STAGES[name](job, run, progress),
        lambda path: _bind_decoder(job),
        expect,
    )


def outline(job: AnyJob) -> dict[str, Any]:
    """What the build of a job would be, before anything is run (plan_view.outline)."""
    return decoder_stages.outline_decoder(job) if isinstance(job, DecoderJob) else plan_view.outline(job)


def compare_run(path: Path, manifest: Manifest, progress: ProgressFn) -> str:
    """Compares again what lies in a finished run; a note.

    Raises VerificationError on a difference, GreenedgeError where nothing has been built.
    """
    if is_language_model(manifest):
        require_built(path, manifest)
        return decoder_stages.compare_decoder(OpenDecoder(RunFolder(path), manifest), progress)
    name_backend(path, manifest)
    return stages.compare_stages(OpenRun(RunFolder(path), manifest), progress)
