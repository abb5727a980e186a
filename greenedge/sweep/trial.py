"""One trial: a point becomes a run, and the run a row. Whatever goes wrong with it is the row's sentence.

What many points share is done once: stages up to the integer graph lie in trainings/KEY, where KEY is what they depend
on; who comes second waits for the first, and goes on from what it left if it was killed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenedge.errors import GreenedgeError, TargetError, UnsupportedError, VerificationError
from greenedge.files.atomic_write import atomic_write
from greenedge.files.json_file import read_table
from greenedge.files.locks import hold_lock, is_held
from greenedge.frontends.import_onnx import ModelFile
from greenedge.progress import ProgressFn, no_progress
from greenedge.run.folder import RunFolder
from greenedge.run.job import ORDER, Job
from greenedge.run.loop import run_job
from greenedge.run.manifest import digest_of, load_manifest
from greenedge.sweep.figures import Figures, of_run
from greenedge.sweep.space import name_point
from greenedge.sweep.study import Claim, Row
from greenedge.sweep.sweep import PLAN, STOPS, Sweep

TRAININGS, TRIALS = "trainings", "trials"
FAILED = ".failed.json"  # beside a training: how it ended
OnStage = Callable[[Path, Mapping[str, Any]], None]  # (a trial's run, what is known of it), after each stage
_MAX_SENTENCE = 2000


@dataclass
class Trial:
    """A claimed point in its study, and what became of it so far."""

    sweep: Sweep
    study: Path
    claim: Claim
    folder: str
    on_stage: OnStage
    progress: ProgressFn = no_progress
    stage: str = ""
    figures: Figures | None = None
    facts: dict[str, Any] | None = None

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.study / self.folder

    @contextmanager
    def stage_progress(self, name: str) -> Iterator[ProgressFn]:
        """Shows what a stage tells, behind the stage's name."""
        self.stage = name
        yield lambda done, total, text: self.progress(done, total, f"{name}: {text}" if text else name)

    def tell(self, name: str, status: str, seconds: float | None) -> None:
        """Calls `on_stage`. What goes wrong there is noted in the row: a tracker that is away ends no run."""
        summary = {
            "name": name_point(self.claim.point),
            "settings": dict(self.claim.point),
            "stage": name,
            "status": status,
            "seconds": seconds,
            "figures": self.figures or {},
        }
        try:
            self.on_stage(self.run, summary)
        except Exception as error:
            said = (str(error).splitlines() or [""])[0][:200]
            self.facts = {**(self.facts or {}), "untracked": f"{name}: {type(error).__name__}: {said}"}


class _Display:
    """Passes a run's stages on to its trial."""

    def __init__(self, trial: Trial):
        self.trial = trial

    def stage(self, name: str):
        """Yields what the stage's progress is told."""
        return self.trial.stage_progress(name)

    def end_stage(self, name: str, status: str, seconds: float | None, note: str) -> None:
        """Notes what the stage found, and passes it on."""
        self.trial.stage = name
        self.trial.tell(name, status, seconds)


def run_trial(
    sweep: Sweep,
    study: Path,
    claim: Claim,
    on_stage: OnStage = lambda run, summary: None,
    progress: ProgressFn = no_progress,
) -> Row:
    """Runs a point as far as the sweep wants; its row. Only an interruption gets out of it."""
    trial = Trial(sweep, study, claim, _choose_folder(study, claim), on_stage, progress, facts={})
    status, sentence, began = "done", "", time.monotonic()
    try:
        _advance(trial)
    except Exception as error:
        status, sentence = _describe_end(error)
    trial.figures = _read_figures(trial)
    trial.tell("trial", status, (trial.facts or {}).get("seconds"))
    row = {
        "number": claim.number,
        "name": name_point(claim.point),
        "settings": dict(claim.point),
        "status": status,
        "sentence": sentence[:_MAX_SENTENCE],
        "stage": trial.stage,
        "folder": trial.folder,
        "wall_s": round(time.monotonic() - began, 2),
        "figures": trial.figures,
        **(trial.facts or {}),
    }
    return {key: value for key, value in row.items() if value not in ("", None)}


class _KnownFailure(Exception):
    """What an earlier point with the same training ended by: (status, sentence)."""


def _describe_end(error: Exception) -> tuple[str, str]:
    """(status, sentence) of a row that did not end well."""
    if isinstance(error, _KnownFailure):
        return error.args
    if isinstance(error, (UnsupportedError, TargetError)):
        return "refused", str(error)
    if isinstance(error, VerificationError):
        return "differs", str(error)
    if isinstance(error, GreenedgeError):
        return "failed", str(error)
    from greenedge.run.defects import describe_defect

    return "failed", describe_defect(error, sys.argv)


def _choose_folder(study: Path, claim: Claim) -> str:
    """Where a trial's run lies: the build of a planned point goes on in the point's folder, unless a worker that was
    taken for lost still has it."""
    folder = claim.folder or f"{TRIALS}/{claim.number:04d}"
    return f"{folder}-{claim.number}" if is_held(study / folder / ".lock") else folder


def _advance(trial: Trial) -> None:
    sweep = trial.sweep
    stop = sweep.first_stop if trial.claim.queue == "points" else sweep.until
    job = sweep.job(trial.claim.point, runs_tools=STOPS.index(stop) > STOPS.index(PLAN))
    if sweep.energy_j:
        from greenedge.sweep.equal_energy import buy_epochs

        epochs = buy_epochs(sweep, job, trial.study, trial.progress)
        job, trial.facts = sweep.job(trial.claim.point, epochs=epochs), {"epochs": epochs}
    if sweep.plans:
        from greenedge.sweep.sketch import refuse_early

        trial.stage = "check"
        refuse_early(job, trial.study, _shared_folder(trial.study, job))
    shared = _share(trial, job)
    before = [trial.study / TRIALS / f"{number:04d}" for number in trial.claim.before]
    display = _Display(trial)
    last = stop if stop in ORDER[: ORDER.index("lower")] else "lower"
    reuse = [shared, *before]
    run_job(Job(job.source), trial.run, last, reuse, display)
    trial.figures = of_run(trial.run)
    if not sweep.plans:
        return
    job, planned = _plan(trial, job)
    trial.figures |= planned
    trial.facts = {**(trial.facts or {}), "backend": job.backend}
    if stop != PLAN:
        run_job(job, trial.run, stop, reuse, display)


def _shared_folder(study: Path, job: Job) -> Path:
    """Where the stages that many points share lie: their key is all that they depend on."""
    source = job.source
    key = digest_of([dict(source.inputs), source.kernels]) if isinstance(source, ModelFile) else source.digest
    return study / TRAININGS / key[:16]


def _share(trial: Trial, job: Job) -> Path:
    """The folder with the stages up to the integer graph, made by whoever comes first.

    Raises the error again by which an earlier point with the same key ended.
    """
    folder = _shared_folder(trial.study, job)
    folder.parent.mkdir(parents=True, exist_ok=True)
    stop = trial.sweep.until
    last = stop if stop in ORDER[: ORDER.index("lower")] else "lower"
    with hold_lock(
        folder.with_name(f".{folder.name}.lock"),
        lambda: trial.progress(0, 0, "waiting for the same training by another worker"),
    ):
        failed = folder.with_name(f"{folder.name}{FAILED}")
        if failed.is_file():
            told = read_table(failed)
            raise _KnownFailure(str(told["status"]), str(told["sentence"]))
        try:
            run_job(Job(job.source), folder, last, display=_Display(trial))
        except Exception as error:
            status, sentence = _describe_end(error)
            with atomic_write(failed) as aside:
                aside.write_text(json.dumps({"status": status, "sentence": sentence}) + "\n", encoding="utf-8")
            raise _KnownFailure(status, sentence) from error
    return folder


def _plan(trial: Trial, job: Job) -> tuple[Job, Figures]:
    """(the job with its back end chosen, figures of the plan). Raises UnsupportedError."""
    from greenedge.backends import load_backend
    from greenedge.lower import load_lowering
    from greenedge.run.chains import choose_backend
    from greenedge.run.stages import plan_build

    with trial.stage_progress(PLAN):
        job = job if job.is_chosen else choose_backend(job, trial.run)
        plan = plan_build(job, load_lowering(RunFolder(trial.run).lower))
        assert job.target is not None and job.backend is not None
        told = load_backend(job.backend).outline(plan, job.target).figures
    return job, {
        key: {
            "value": int(value) if float(value).is_integer() else value,
            "evidence": "estimated" if key.startswith("estimated_") else "counted",
        }
        for key, value in told.items()
    }


def _read_figures(trial: Trial) -> Figures:
    """What is known of a trial now: of its run, the integer graph, and the plan where it came so far."""
    found = dict(trial.figures or {})
    try:
        found = {**found, **of_run(trial.run)}
        lowered = RunFolder(trial.run).lower
        if lowered.is_dir():
            found |= _of_graph(trial, lowered)
        manifest = load_manifest(trial.run) if trial.run.is_dir() else None
    except GreenedgeError:
        return found
    if manifest is not None:
        stages = {name: record for name, record in manifest.stages.items() if record.seconds is not None}
        trial.facts = {
            **(trial.facts or {}),
            "seconds": round(sum(r.seconds or 0 for r in stages.values() if not r.reused_from), 2),
        }
    return found


def _of_graph(trial: Trial, folder: Path) -> Figures:
    """Bits of the weights; of a model file with labels the accuracy of its integers."""
    from greenedge.backends.preflight import count_weight_bits
    from greenedge.lower import load_lowering

    lowered = load_lowering(folder)
    found: Figures = {"weight_bits": {"value": count_weight_bits(lowered.graph), "evidence": "counted"}}
    run = RunFolder(trial.run)
    labels = run.export / "labels.npy"
    if trial.sweep.is_model and labels.is_file():
        from greenedge.files.arrays import read_array
        from greenedge.frontends.samples import read_samples
        from greenedge.run.snap import measure_accuracy

        value = measure_accuracy(lowered, read_samples(run.inputs, lowered.inputs), read_array(labels))
        found["accuracy"] = {"value": value, "evidence": "test samples"}
    return found
