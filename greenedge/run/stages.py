"""What each stage does: it reads the folders before it and writes its own, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from greenedge.backends import load_backend
from greenedge.errors import TargetError, VerificationError
from greenedge.frontends.import_onnx import ModelFile, import_stage
from greenedge.legalise import legalise
from greenedge.lower import Lowered
from greenedge.progress import ProgressFn
from greenedge.run.custody import OpenRun, plan_again, require_planned
from greenedge.run.folder import RunFolder
from greenedge.run.job import Job
from greenedge.run.manifest import find_changed, load_manifest, require_unchanged, require_whole, staging_dir
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
            return import_stage(job.source, work, progress)
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
    return ", ".join([f"{deployed} {describe_size(run.build / deployed)}", *reached])


def _backend_of(job: Job) -> str:
    if job.backend is None:
        raise TargetError(f"{job.source.name} has no target; say --target NAME.")
    return job.backend


def plan_build(job: Job, lowered: Lowered) -> Plan:
    """The back end's plan for a lowered model. Raises UnsupportedError with every reason why it cannot."""
    backend = load_backend(_backend_of(job))
    assert job.target is not None, "a job with a back end has a target"
    return plan_again(backend, legalise(lowered, backend.passes), job.target, job.options, job.source.name)


def _verify(job: Job, run: RunFolder, progress: ProgressFn) -> str:
    return compare_stages(OpenRun(run, load_manifest(run.path), job.target), progress)


def compare_stages(opened: OpenRun, progress: ProgressFn) -> str:
    """Fills the folder of verify anew; what a comparison that found a difference wrote stays there.

    Nothing in the folder is compiled or simulated before it was planned again. Raises VerificationError on a
    difference, also where only a file's digest differs (a weight that no sample reaches), and where less was compared
    than the run recorded when it was built.
    """
    from greenedge.verify.stage import verify_stage

    run, difference = opened.folder, None
    require_whole(run.path, opened.manifest, "export", "lower", "build")
    differing = require_planned(opened.plan_again(), run.build, progress)
    with staging_dir(run.verify) as work:
        try:
            note = verify_stage(run, work, opened.backend, opened.evidence, progress)
        except VerificationError as error:
            difference = error
    if difference is not None:
        raise difference
    if changed := find_changed(run.path, opened.manifest.stages["build"]):
        raise VerificationError(
            f"{changed} is not the file that was built, its sha256 differs, although every sample gave the same "
            "integers; run the same `greenedge run` or `greenedge build` again to build it anew."
        )
    require_unchanged(run.path, opened.manifest, "export", "lower", "build")
    if differing:
        raise VerificationError(
            f"{differing[0]} is not what greenedge writes for the integer graph of this run, although every sample "
            "gave the same integers; run the same `greenedge run` or `greenedge build` again to build it anew."
        )
    return note


def _report(job: Job, run: RunFolder, progress: ProgressFn) -> str:
    return write_report(run)


def write_report(run: RunFolder) -> str:
    """Fills the folder of the report; the page's path below the run."""
    from greenedge.report import report_stage

    with staging_dir(run.report) as work:
        report_stage(run.path, work)
    return str(run.page.relative_to(run.path))


def describe_size(path: Path) -> str:
    """The bytes of a file, for a person."""
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
