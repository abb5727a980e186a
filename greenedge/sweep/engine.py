"""Runs a sweep: this process, or processes beside it, work on the study's trials until none is left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenedge.errors import GreenedgeError, ToolError
from greenedge.files.locks import require_locks
from greenedge.files.remove import remove
from greenedge.progress import ProgressFn, no_progress
from greenedge.run.manifest import os_errors_as_greenedge
from greenedge.sweep.outputs import mark_front, write_outputs
from greenedge.sweep.study import BUILDS, POINTS, Claim, Row, Study, Worker
from greenedge.sweep.sweep import DESCRIPTION, Sweep, save_description
from greenedge.sweep.trial import FAILED, TRAININGS, OnStage, run_trial
from greenedge.tools.capture import end_with_parent

Evaluate = Callable[[Claim], Row]
_POLL_S = 0.2  # between looks at what other workers do
_STOP_S = 20.0  # that workers have to end when they are told to


def _ignore(run: Path, summary: Mapping[str, Any]) -> None:
    """The callback of a caller who tracks nothing."""


@dataclass(frozen=True)
class Watch:
    """Who is told of what: of stages (`on_stage`), of what takes long (`progress`), of rows, a line each (`tell`)."""

    on_stage: OnStage = _ignore
    progress: ProgressFn = no_progress
    tell: Callable[[str], None] = lambda line: None


def begin_study(sweep: Sweep, folder: Path, retry: bool = False) -> Study:
    """Opens the study in `folder`, or makes it. With `retry` points that failed are run again.

    Raises GreenedgeError where the folder holds something else, or its file system has no locks.
    """
    with os_errors_as_greenedge(folder):
        folder.mkdir(parents=True, exist_ok=True)
        strangers = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if strangers and not (folder / DESCRIPTION).is_file():
        raise GreenedgeError(f"{folder} holds {strangers[0]!r} and is no study; choose another folder with --study.")
    with os_errors_as_greenedge(folder):
        require_locks(folder)
        save_description(sweep, folder)
        study = Study(folder, sweep.space, sweep.sampling()).open()
    if retry:
        for path in (folder / TRAININGS).glob(f"*{FAILED}"):
            remove(path)
        for queue in (POINTS, BUILDS):
            failed = [row["settings"] for row in study.rows(queue) if row["status"] == "failed"]
            study.enqueue(queue, failed, again=True)
    return study


def work(sweep: Sweep, study: Study, watch: Watch = Watch(), evaluate: Evaluate | None = None) -> None:
    """Works on trials until every one has ended, also those that others had and lost."""

    def run(claim: Claim) -> Row:
        return run_trial(sweep, study.folder, claim, watch.on_stage, watch.progress)

    with Worker(study.workers) as worker:
        _empty(sweep, study, worker, POINTS, watch, evaluate or run)
        if sweep.builds and sweep.build == "front":
            study.enqueue(BUILDS, choose_builds(study.rows(), sweep.space.objectives))
            _empty(sweep, study, worker, BUILDS, watch, evaluate or run)


def _empty(sweep: Sweep, study: Study, worker: Worker, queue: str, watch: Watch, evaluate: Evaluate) -> None:
    """Works on one queue until nothing in it waits or runs."""
    while True:
        claim = study.claim(worker, queue)
        if claim is None:
            if not study.unfinished(queue):
                return
            time.sleep(_POLL_S)
            continue
        try:
            row = evaluate(claim)
        except BaseException:
            study.give_back(worker, claim)
            raise
        values = objectives_of(row, sweep.space.objectives)
        done = {**row, **({"objectives": values} if values else {})}
        if study.finish(worker, claim, done, values if queue == POINTS else values and values[:1]):
            found = write_outputs(sweep, study)
            watch.tell(describe_row(row, len(found["rows"]), found["points"], queue))


def has_ended(sweep: Sweep, study: Study) -> bool:
    """Whether every point has its row, and every build that the front asks for."""
    points = study.rows()
    if study.unfinished(POINTS) or study.unfinished(BUILDS) or len(points) < study.total():
        return False
    if not (sweep.builds and sweep.build == "front"):
        return True
    built = [row["settings"] for row in study.rows(BUILDS)]
    return all(point in built for point in choose_builds(points, sweep.space.objectives))


def objectives_of(row: Row, names: Sequence[str]) -> list[float] | None:
    """The values of a row that a sampler may learn from; None where it did not end well or one is unknown."""
    figures = [row["figures"].get(name) for name in names]
    if row["status"] != "done" or not all(figures):
        return None
    return [float(figure["value"]) for figure in figures if figure]


def choose_builds(rows: Sequence[Row], objectives: Sequence[str]) -> list[dict[str, str]]:
    """The points on the front of what was estimated, one front for each kind of evidence."""
    return [row["settings"] for row in mark_front(rows, objectives) if "front" in row]


def describe_row(row: Row, number: int, total: int, queue: str) -> str:
    """A line for a person: n of N, the point, how it ended."""
    what = f"{number} of {total}" if queue == POINTS else "build"
    sentence = " ".join(row.get("sentence", "").split())
    return f"{what}  {row['name']}: {row['status']}{f': {sentence[:300]}' if sentence else ''}"


def run_sweep(
    sweep: Sweep, folder: Path, jobs: int = 1, watch: Watch = Watch(), retry: bool = False, track: Sequence[str] = ()
) -> dict[str, Any]:
    """Runs a planned sweep in `folder` to its end; what sweep.json then says. `jobs` processes work at once.

    Raises GreenedgeError where no worker can go on.
    """
    study = begin_study(sweep, folder, retry)
    write_outputs(sweep, study)
    if jobs == 1:
        work(sweep, study, watch)
    else:
        run_workers(sweep, study, jobs, worker_command(sweep, folder, track))
    return write_outputs(sweep, study, last=True)


def worker_command(sweep: Sweep, folder: Path, track: Sequence[str] = ()) -> list[str]:
    """What starts a worker of a study, here or on another host with the same folders."""
    tracked = [part for name in track for part in ("--track", name)]
    return [sys.executable, "-m", "greenedge.cli", "sweep", sweep.source, "--study", str(folder), "--worker", *tracked]


def run_workers(sweep: Sweep, study: Study, jobs: int, command: Sequence[str]) -> None:
    """Starts processes that work on the study and waits for its end; one that is killed is replaced.

    Raises ToolError where workers end although trials are left.
    """
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    running = [_start(command, environment) for _ in range(jobs)]
    codes: list[int] = []
    try:
        while running:
            time.sleep(_POLL_S)
            for process in [process for process in running if process.poll() is not None]:
                running.remove(process)
                codes.append(process.returncode)
                if process.returncode < 0 and not has_ended(sweep, study):
                    running.append(_start(command, environment))
    finally:
        for process in running:
            process.terminate()
        end = time.monotonic() + _STOP_S
        for process in running:
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if not has_ended(sweep, study):
        left = study.unfinished(POINTS) + study.unfinished(BUILDS)
        raise ToolError(
            f"the workers of {study.folder} ended with status {', '.join(map(str, sorted(set(codes))))} and left "
            f"{left} trials; what they said stands above, and the same command goes on from here."
        )


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=dict(environment),
        preexec_fn=end_with_parent,
    )
