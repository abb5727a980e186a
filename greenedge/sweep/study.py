"""A study: which points are waiting, running, finished; one journal that any number of processes on any hosts share.

Optuna keeps the trials (JournalStorage, one JSON line an operation) and proposes points where there is no grid. What
this adds are claims: all that changes who works on what happens under one lock, a worker holds the lock on a file of
its own while it lives and touches it as it works, and a trial whose worker is gone is given to another. Nothing is
waited for that the kernel does not end with the process that has it.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenedge.errors import GreenedgeError, ToolError
from greenedge.files.locks import hold_lock, is_held, open_lock, try_lock
from greenedge.sweep.space import Point, Space, name_point

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

Row = dict[str, Any]
SAMPLERS = ("grid", "nsga2", "tpe", "random")
POINTS, BUILDS = "points", "builds"  # the two queues of a study: every point, and builds of those on the front
MAX_ATTEMPTS = 10  # of a trial whose worker was killed each time: then it is taken for the cause
BEAT_S = 5.0  # how often a worker touches its file
LEASE_S = 60.0  # without a touch for so long a worker is taken for lost even where its lock is held (a frozen host)
_JOURNAL = "journal.log"
_LONG_AXIS = 32  # values
_MAX_TRIALS = 1000  # more than a sampler sees of one seed's trials before the next seed's begin
_MAX_DUPLICATES = 30  # proposals of points that are known before one is drawn at random


@dataclass(frozen=True)
class Claim:
    """A trial that this process may work on. `before`: the numbers of earlier trials of the point that were lost;
    `folder`: where the point was planned, of a build."""

    queue: str
    number: int
    point: Point
    before: tuple[int, ...] = ()
    folder: str = ""


@dataclass(frozen=True)
class Sampling:
    """How points are chosen: a name of SAMPLERS, how many (None: all of a grid), a seed, which objectives grow."""

    sampler: str
    trials: int | None
    seed: int
    larger_is_better: tuple[bool, ...]


class Worker:
    """This process in a study: its file is locked while it lives, and touched by a thread of its own."""

    def __init__(self, folder: Path):
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.path = folder / f"{self.id}.lock"
        self._ended = threading.Event()

    def __enter__(self) -> Worker:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._remove_left()
        self._handle = open_lock(self.path)
        try_lock(self._handle)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def _remove_left(self) -> None:
        """Removes the files of workers that were killed; a lease is kept, for a new one has no lock for a moment."""
        for left in self.path.parent.glob("*.lock"):
            if time.time() - left.stat().st_mtime > LEASE_S and not is_held(left):
                left.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                os.utime(self.path)
            except OSError:  # a folder that is away for a while: the lease may end, the work need not
                continue

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.path.unlink(missing_ok=True)
        self._handle.close()

    def lives(self, other: str) -> bool:
        """Whether the worker of that name still works: it holds its lock, and its file was touched within the lease."""
        if other == self.id:
            return True
        path = self.path.parent / f"{other}.lock"
        try:
            if not is_held(path):
                return False
            os.utime(self.path)  # the file system's own clock, which may not be this host's
            return self.path.stat().st_mtime - path.stat().st_mtime < LEASE_S
        except FileNotFoundError:
            return False


@dataclass
class Study:
    """The study in `folder`. Every method may be called by many processes at once."""

    folder: Path
    space: Space
    sampling: Sampling
    _queues: dict[str, optuna.Study] = field(default_factory=dict)

    @property
    def workers(self) -> Path:
        """Where workers have their files."""
        return self.folder / "workers"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in changing who works on what."""
        with hold_lock(self.folder / ".study.lock"):
            yield

    def open(self) -> Study:
        """Opens the journal, or begins it; the points of a grid are put into it. Raises ToolError without optuna,
        GreenedgeError for a journal that is damaged."""
        optuna = _import_optuna()
        path = self.folder / _JOURNAL
        with self.locked():
            storage = _open_storage(path)
            for name in (POINTS, BUILDS):
                directions = ["maximize" if larger else "minimize" for larger in self.sampling.larger_is_better]
                self._queues[name] = optuna.create_study(
                    storage=storage,
                    study_name=name,
                    directions=directions if name == POINTS else ["minimize"],
                    load_if_exists=True,
                )
            self._fill()
        return self

    def _make_sampler(self) -> Any:
        """The sampler for the next point. What it goes by lies in the journal; its seed follows from how many trials
        there are: two workers do not draw alike, and one alone draws the same every time."""
        optuna = _import_optuna()
        seed, trials = self.sampling.seed * _MAX_TRIALS + len(self.trials()), self.sampling.trials or 0
        if self.sampling.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=max(4, min(50, trials // 5)), seed=seed)
        if self.sampling.sampler == "tpe":
            return optuna.samplers.TPESampler(n_startup_trials=max(4, min(10, trials // 4)), seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)

    # -- what there is -------------------------------------------------------------------------------------------------

    def trials(self, queue: str = POINTS) -> list[FrozenTrial]:
        """All trials of a queue, as the journal has them now."""
        return self._queues[queue].get_trials(deepcopy=False)

    def rows(self, queue: str = POINTS) -> list[Row]:
        """The rows of finished trials, by their numbers; of a point that was tried again the last."""
        last = {key_of(trial.params): trial.user_attrs["row"] for trial in self.trials(queue) if _has_row(trial)}
        return sorted(last.values(), key=lambda row: row["number"])

    def unfinished(self, queue: str = POINTS) -> int:
        """How many trials wait or run."""
        return sum(not trial.state.is_finished() for trial in self.trials(queue))

    def total(self) -> int:
        """How many points the study will have when it has ended."""
        return min(self.sampling.trials or self.space.size, self.space.size)

    # -- who works on what ---------------------------------------------------------------------------------------------

    def claim(self, worker: Worker, queue: str = POINTS) -> Claim | None:
        """A trial for this worker; None where nothing waits now (others may still run)."""
        with self.locked():
            self._recover(worker, queue)
            trial = self._take_waiting(worker, queue)
            if trial is None and queue == POINTS and self.sampling.sampler != "grid":
                trial = self._propose(worker)
            if trial is None:
                return None
            lost = [other.number for other in self.trials(queue) if _is_lost(other) and other.params == trial.params]
            planned = {key_of(row["settings"]): row["folder"] for row in self.rows()} if queue == BUILDS else {}
            return Claim(queue, trial.number, dict(trial.params), tuple(lost), planned.get(key_of(trial.params), ""))

    def finish(self, worker: Worker, claim: Claim, row: Row, values: Sequence[float] | None) -> bool:
        """Ends a trial with its row; `values` are its objectives, None where they are not all known.

        False where the trial was given to another worker meanwhile: then nothing is recorded.
        """
        study = self._queues[claim.queue]
        with self.locked():
            trial = self.trials(claim.queue)[claim.number]
            if trial.state.name != "RUNNING" or trial.user_attrs.get("worker") != worker.id:
                return False
            study._storage.set_trial_user_attr(trial._trial_id, "row", row)
            self._end(study, trial, values)
            return True

    def give_back(self, worker: Worker, claim: Claim) -> None:
        """Lets others have a trial that this worker was interrupted in."""
        with self.locked():
            trial = self.trials(claim.queue)[claim.number]
            if trial.state.name == "RUNNING" and trial.user_attrs.get("worker") == worker.id:
                self._end(self._queues[claim.queue], trial, None)
                self._add(claim.queue, trial.params)

    def enqueue(self, queue: str, points: Iterable[Point], again: bool = False) -> None:
        """Puts points into a queue, each once; `again` also those that have a row."""
        with self.locked():
            known = {key_of(t.params) for t in self.trials(queue) if not (again and t.state.is_finished())}
            for point in points:
                if key_of(point) not in known:
                    self._add(queue, point)

    def recover(self, worker: Worker) -> None:
        """Gives the trials of workers that are gone to others."""
        with self.locked():
            for queue in (POINTS, BUILDS):
                self._recover(worker, queue)

    # -- under the lock ------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Puts the points of a grid that the journal does not have into it."""
        if self.sampling.sampler != "grid":
            return
        known = {key_of(trial.params) for trial in self.trials() if not _is_lost(trial)}
        for point in self.space.grid():
            if key_of(point) not in known:
                self._add(POINTS, point)

    def _add(self, queue: str, point: Point, **facts: Any) -> None:
        optuna = _import_optuna()
        # a long axis is not written with each of its trials, unless a sampler wants to know what else there was
        whole = self.sampling.sampler != "grid"
        choices = {
            axis.key: optuna.distributions.CategoricalDistribution(
                axis.values if whole or len(axis.values) <= _LONG_AXIS else (point[axis.key],)
            )
            for axis in self.space.axes
        }
        made = {"state": optuna.trial.TrialState.WAITING, "user_attrs": facts}
        if "row" in facts:
            made["state"] = optuna.trial.TrialState.FAIL
        self._queues[queue].add_trial(optuna.trial.create_trial(params=dict(point), distributions=choices, **made))

    def _take_waiting(self, worker: Worker, queue: str) -> FrozenTrial | None:
        study = self._queues[queue]
        waiting = next((trial for trial in self.trials(queue) if trial.state.name == "WAITING"), None)
        if waiting is None:
            return None
        study._storage.set_trial_user_attr(waiting._trial_id, "worker", worker.id)
        study._storage.set_trial_state_values(waiting._trial_id, _import_optuna().trial.TrialState.RUNNING)
        return self.trials(queue)[waiting.number]

    def _propose(self, worker: Worker) -> FrozenTrial | None:
        """A point that the sampler asks for and nobody has; None where there are as many as wanted.

        A proposal that is known tells the sampler what is known of it, and another is asked for.
        """
        optuna, study = _import_optuna(), self._queues[POINTS]
        known: dict[frozenset[tuple[str, str]], FrozenTrial] = {}
        for trial in self.trials():
            if not _is_lost(trial) and "same_as" not in trial.user_attrs:
                known.setdefault(key_of(trial.params), trial)
        if len(known) >= self.total():
            return None
        choices = {axis.key: optuna.distributions.CategoricalDistribution(axis.values) for axis in self.space.axes}
        for _ in range(_MAX_DUPLICATES):
            study.sampler = self._make_sampler()
            asked = study.ask(choices)
            same = known.get(key_of(asked.params))
            if same is None:
                study._storage.set_trial_user_attr(asked._trial_id, "worker", worker.id)
                return self.trials()[asked.number]
            study._storage.set_trial_user_attr(asked._trial_id, "same_as", same.number)
            self._end(study, self.trials()[asked.number], same.values)
        draw = random.Random(f"{self.sampling.seed} {len(self.trials())}")
        while key_of(point := self.space.point(draw.randrange(self.space.size))) in known:
            continue
        self._add(POINTS, point)
        return self._take_waiting(worker, POINTS)

    def _end(self, study: optuna.Study, trial: FrozenTrial, values: Sequence[float] | None) -> None:
        states = _import_optuna().trial.TrialState
        state = states.FAIL if values is None else states.COMPLETE
        study._storage.set_trial_state_values(trial._trial_id, state, values)

    def _recover(self, worker: Worker, queue: str) -> None:
        """Ends trials whose workers are gone, and puts their points back; too often, and that is the point's row."""
        study = self._queues[queue]
        for trial in self.trials(queue):
            if trial.state.name == "RUNNING" and not worker.lives(str(trial.user_attrs.get("worker"))):
                self._end(study, trial, trial.user_attrs.get("row", {}).get("objectives"))
        trials = self.trials(queue)
        if not any(map(_is_lost, trials)):
            return
        alive = {key_of(trial.params) for trial in trials if not _is_lost(trial) and trial.params}
        lost: dict[frozenset[tuple[str, str]], list[FrozenTrial]] = {}
        for trial in trials:
            if _is_lost(trial) and trial.params and set(trial.params) == {axis.key for axis in self.space.axes}:
                lost.setdefault(key_of(trial.params), []).append(trial)
        for key, before in lost.items():
            if key in alive:
                continue
            if len(before) < MAX_ATTEMPTS:
                self._add(queue, before[-1].params)
            else:
                self._add(queue, before[-1].params, row=_describe_lost(before[-1]))


def _describe_lost(trial: FrozenTrial) -> Row:
    """The row of a point whose workers were all lost."""
    return {
        "number": trial.number,
        "settings": dict(trial.params),
        "status": "failed",
        "name": name_point(trial.params),
        "sentence": f"its worker was killed {MAX_ATTEMPTS} times, as systems do where memory ends; try fewer --jobs.",
        "figures": {},
    }


def _has_row(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and "row" in trial.user_attrs


def _is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial ended without a row: its worker is gone, and its point is still to be done."""
    return trial.state.is_finished() and "row" not in trial.user_attrs and "same_as" not in trial.user_attrs


def key_of(point: Point) -> frozenset[tuple[str, str]]:
    """What a point is known by, whatever the order of its settings."""
    return frozenset(point.items())


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ToolError(
            'a sweep keeps its trials with optuna, which is not installed: pip install "greenedge[sweep]".'
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _open_storage(path: Path) -> Any:
    import warnings

    from optuna.storages import JournalStorage

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the storage is experimental
        try:
            return JournalStorage(_make_journal(path))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise GreenedgeError(
                f"{path} is damaged ({type(error).__name__}: {error}); restore it, or choose another folder with "
                "--study."
            ) from None


def _make_journal(path: Path) -> Any:
    """Optuna's journal under a lock that the kernel holds: those of optuna are files, which a killed process leaves.

    What a writer that was killed has left of its last line is cut off first. The end of a trial is on the disk before
    the next step, with all before it; a claim that the power takes away is claimed again.
    """
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    ended = [state for state in TrialState if state.is_finished()]

    class Journal(JournalFileBackend):
        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            lines = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs)
            with hold_lock(path.with_name(f".{path.name}.lock")):
                cut_torn_line(path)
                with open(path, "ab") as file:
                    file.write(lines.encode())
                    file.flush()
                    if any(log.get("state") in ended for log in logs):
                        os.fsync(file.fileno())

    return Journal(str(path))


def cut_torn_line(path: Path) -> None:
    """Removes what follows the last end of a line in a file."""
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if not end:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
