"""The one loop that runs the stages of a job into a run's folder, in order (chains.py).

A stage is skipped when its inputs, options, tools and our own code for it are unchanged and its outputs still hash the
same; it is copied where a run beside this one has it under the same key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from greenedge.errors import GreenedgeError
from greenedge.run.chains import AnyJob, Chain, bind_chain
from greenedge.run.custody import is_language_model
from greenedge.run.folder import MANIFEST, STAGE_FOLDERS, RunFolder
from greenedge.run.job import Display, Silent
from greenedge.run.manifest import (
    Manifest,
    Record,
    copy_stage,
    digest_files,
    load_manifest,
    lock_run,
    os_errors_as_greenedge,
    outputs_match,
    save_manifest,
)


def run_job(
    job: AnyJob, run: Path, until: str = "report", reuse_from: Sequence[Path] = (), display: Display | None = None
) -> Manifest:
    """Runs the stages of `job` up to `until` in the folder `run`; returns the manifest.

    `reuse_from` are runs to copy finished stages from. A stage's error goes to the manifest and then up. Raises
    GreenedgeError where the folder holds another run or is in use.
    """
    display, chain = display or Silent(), bind_chain(job)
    with lock_run(run):
        manifest = _open_manifest(chain.about, run)
        for name in chain.stages[: chain.stages.index(until) + 1]:
            if name == "build":
                chain = chain.settle(run)
                manifest = replace(manifest, about={**manifest.about, **chain.about})
            manifest = _run_stage(chain, run, manifest, name, reuse_from, display)
            if name == "build":
                manifest = _record_evidence(chain, run, manifest)
    return manifest


def _record_evidence(chain: Chain, run: Path, manifest: Manifest) -> Manifest:
    """The manifest with what the build that lies there now must be compared on."""
    evidence = chain.expect_evidence(RunFolder(run))
    if evidence != manifest.about.get("evidence"):
        manifest = replace(manifest, about={**manifest.about, "evidence": evidence})
        save_manifest(manifest, run)
    return manifest


def run_jobs(
    jobs: Sequence[AnyJob],
    base: Path,
    until: str = "report",
    display: Callable[[AnyJob], Display] = lambda job: Silent(),
) -> list[Path]:
    """Runs each job in base/<target>; what one finished the next ones copy. Ends with one report over all in base."""
    runs = [base / (job.target.name if job.target else job.source.name) for job in jobs]
    with lock_run(base):
        for number, (job, run) in enumerate(zip(jobs, runs, strict=True)):
            run_job(job, run, until, [*runs[:number], *runs[number + 1 :], base], display(job))
        if until == "report":
            from greenedge.report import write_report

            write_report(runs, base / "report.html")
    return runs


def _open_manifest(ours: Mapping[str, Any], run: Path) -> Manifest:
    """The run's manifest, brought up to date with what the job is about."""
    if not (run / MANIFEST).is_file():
        strangers = sorted(path.name for path in run.iterdir() if path.name != ".lock")
        if strangers:
            raise GreenedgeError(f"{run} holds {strangers[0]!r} and is no run; choose another folder with -o.")
        return Manifest(ours)
    manifest = load_manifest(run)
    if is_language_model(manifest) != is_language_model(Manifest(ours)):
        raise GreenedgeError(
            f"{run} holds a run of {'a language model' if is_language_model(manifest) else 'a network'}; choose "
            "another folder with -o."
        )
    for key in ("source", "target"):
        wanted, there = (about.get(key) or {} for about in (ours, manifest.about))
        if wanted and there and wanted.get("name") != there.get("name"):
            raise GreenedgeError(
                f"{run} holds a run of {key} {there.get('name')!r}, not {wanted['name']!r}; "
                "choose another folder with -o."
            )
    return replace(manifest, about={**manifest.about, **ours})


def _run_stage(
    chain: Chain, run: Path, manifest: Manifest, name: str, reuse_from: Sequence[Path], display: Display
) -> Manifest:
    fresh = chain.plan_record(manifest, name)
    known = manifest.stages.get(name)
    if known and known.status == "done" and known.key == fresh.key and outputs_match(run, known.outputs):
        display.end_stage(name, "unchanged", known.seconds, known.note)
        return manifest
    for other in reuse_from:
        finished = _find_reusable(other, name, fresh.key)
        if finished:
            copy_stage(other, finished.outputs, run)
            return _write_record(manifest, run, name, replace(finished, reused_from=other.name), display)
    fresh = replace(fresh, started=datetime.now(UTC).isoformat(timespec="seconds"))
    save_manifest(manifest.with_stage(name, fresh), run)
    began = time.monotonic()
    try:
        with os_errors_as_greenedge(run), display.stage(name) as progress:
            note = chain.work(name, RunFolder(run), progress)
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        text = str(error) if isinstance(error, GreenedgeError) else f"{type(error).__name__}: {error}"
        if status == "failed":
            display.end_stage(name, status, time.monotonic() - began, "")
        _record_failure(manifest.with_stage(name, replace(fresh, status=status, error=text)), run, error)
        raise
    seconds = round(time.monotonic() - began, 2)
    outputs = digest_files(run, STAGE_FOLDERS[name])
    record = replace(fresh, status="done", outputs=outputs, seconds=seconds, note=note or "")
    return _write_record(manifest, run, name, record, display)


def _write_record(manifest: Manifest, run: Path, name: str, record: Record, display: Display) -> Manifest:
    manifest = manifest.with_stage(name, record)
    save_manifest(manifest, run)
    display.end_stage(name, "copied" if record.reused_from else "done", record.seconds, record.note)
    return manifest


def _record_failure(manifest: Manifest, run: Path, error: BaseException) -> None:
    """Keeps the stage's own error the one that is reported, also where the manifest cannot be written (a full disk)."""
    try:
        save_manifest(manifest, run)
    except GreenedgeError as second:
        error.add_note(str(second))


def _find_reusable(run: Path, name: str, key: str) -> Record | None:
    """That stage's record in another run, if it is done under this key and its files are unchanged."""
    if not (run / MANIFEST).is_file():
        return None
    record = load_manifest(run).stages.get(name)
    if record and record.status == "done" and record.key == key and outputs_match(run, record.outputs):
        return record
    return None
