"""What each stage does: it reads the folders before it and writes its own, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from greenedge.backends import load_backend
from greenedge.errors import TargetError, UnsupportedError, VerificationError
from greenedge.frontends.import_onnx import ModelFile, import_stage
from greenedge.lower import Lowered
from greenedge.progress import ProgressFn
from greenedge.run.folder import RunFolder
from greenedge.run.job import Job
from greenedge.run.manifest import staging_dir
from greenedge.tools.plan import Plan

_DEPLOYED = (".bit", ".bin", ".fs", ".tflite", ".onnx")  # what goes onto a machine, among the products of a build


def _train(job: Job, run: RunFolder, progress: ProgressFn) -> str:
    from greenedge.train import train_stage

    assert not isinstance(job.source, ModelFile), "a model file is not trained"
    with staging_dir(run.train, keep=True) as work:  # a killed training goes on from its checkpoint
        metrics = train_stage(job.source, work, progress)
    metric = metrics.get("metric", "accuracy")
    return f"{metric} {metrics[metric]:.4f}" if metric in metrics else ""


def _export(job: Job, run: RunFolder, progress: ProgressFn) -> str:
    with staging_dir(run.export) as work:
        if isinstance(job.source, ModelFile):
            return import_stage(job.source, work)
        from greenedge.frontends.brevitas import export_stage

        facts = export_stage(job.source, run.train, work)
    return f"{facts['nodes']} nodes, {facts['samples']} test samples"


def _lower(job: Job, run: RunFolder, progress: ProgressFn) -> str:
    from greenedge.lower import lower_file, save_lowering

    declared = job.source.input_types() if isinstance(job.source, ModelFile) else None
    lowered = lower_file(run.model, declared)
    with staging_dir(run.lower) as work:
        save_lowering(lowered, work)
    return f"{len(lowered.graph.ops)} integer operations"


def _build(job: Job, run: RunFolder, progress: ProgressFn) -> str:
    from greenedge.lower import load_lowering
    from greenedge.report.summary import hardware_phrases
    from greenedge.tools.run import execute

    plan = plan_build(job, load_lowering(run.lower))
    execute(plan, run.build, lambda line: progress(0, 0, line), job.docker)
    deployed = max(plan.products, key=lambda name: name.endswith(_DEPLOYED))
    reached = hardware_phrases(load_backend(_backend_of(job)).report(run.build).get("hardware", {}))
    return ", ".join([f"{deployed} {_size(run.build / deployed)}", *reached])


def _backend_of(job: Job) -> str:
    if job.backend is None:
        raise TargetError(f"{job.source.name} has no target; say --target NAME.")
    return job.backend


def plan_build(job: Job, lowered: Lowered) -> Plan:
    """The back end's plan for a lowered model. Raises UnsupportedError with every reason why it cannot."""
    from greenedge.legalise import legalise

    backend = load_backend(_backend_of(job))
    assert job.target is not None, "a job with a back end has a target"
    legal = legalise(lowered, backend.passes)
    reasons = backend.check(legal.graph, job.target, job.options)
    if reasons:
        raise UnsupportedError(f"{job.source.name} cannot be built for {job.target.name} by {job.backend}:", reasons)
    epilogue = backend.float_epilogue(legal, job.target, job.options)
    return backend.plan(legal.graph, job.target, job.options, epilogue)


def _verify(job: Job, run: RunFolder, progress: ProgressFn) -> str:
    return compare_stages(run, _backend_of(job), progress)


def compare_stages(run: RunFolder, backend: str, progress: ProgressFn) -> str:
    """Fills the folder of verify anew; what a comparison that found a difference wrote stays there.

    Raises VerificationError.
    """
    from greenedge.verify.stage import verify_stage

    difference = None
    with staging_dir(run.verify) as work:
        try:
            note = verify_stage(run, work, backend, progress)
        except VerificationError as error:
            difference = error
    if difference is not None:
        raise difference
    return note


def _report(job: Job, run: RunFolder, progress: ProgressFn) -> str:
    from greenedge.report import report_stage

    with staging_dir(run.report) as work:
        report_stage(run.path, work)
    return str(run.page.relative_to(run.path))


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


STAGES: dict[str, Callable[[Job, RunFolder, ProgressFn], str]] = {
    "train": _train,
    "export": _export,
    "lower": _lower,
    "build": _build,
    "verify": _verify,
    "report": _report,
}
