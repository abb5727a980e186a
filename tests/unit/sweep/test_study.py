"""Claims: each point is finished once, whoever is killed, frozen or late, and the journal outlives all of them."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import studies

from greenedge.errors import GreenedgeError, ToolError
from greenedge.files import locks
from greenedge.sweep import study as study_module
from greenedge.sweep.engine import run_workers, work
from greenedge.sweep.study import POINTS, Sampling, Worker, cut_torn_line

KILLS = int(os.environ.get("GREENEDGE_KILLS", "30"))


def run_alone(folder: Path, points: int):
    study = studies.make_study(folder, points)
    work(studies.make_sweep(points), study, evaluate=studies.make_row)
    return study


def test_each_point_once(tmp_path):
    study = run_alone(tmp_path / "s", 13)
    assert [row["name"] for row in study.rows()] == [f"a={k}" for k in range(13)]
    assert studies.describe_front(study) and study.unfinished() == 0
    assert {trial.state.name for trial in study.trials()} == {"COMPLETE"}
    assert list((tmp_path / "s" / "workers").iterdir()) == []


def test_a_trial_of_a_worker_that_is_gone_is_another_workers(tmp_path):
    study = studies.make_study(tmp_path / "s", 2)
    with Worker(study.workers) as lost:
        claim = study.claim(lost)
    lost.path.touch()  # as one that was killed leaves it: the file is there, its lock is not
    with Worker(study.workers) as worker:
        numbers = [study.claim(worker), study.claim(worker)]
        assert [c.point for c in numbers] == [{"a": "1"}, {"a": "0"}] and study.claim(worker) is None
        assert numbers[1].before == (claim.number,)  # whose folder may hold finished stages
        assert not study.finish(lost, claim, studies.make_row(claim), [1.0, 1.0])  # it comes back: too late
        assert study.finish(worker, numbers[1], studies.make_row(numbers[1]), [1.0, 1.0])
        assert not study.finish(worker, numbers[1], studies.make_row(numbers[1]), [1.0, 1.0])
        assert [row["number"] for row in study.rows()] == [numbers[1].number]


def test_a_worker_that_lives_keeps_its_trial(tmp_path):
    study = studies.make_study(tmp_path / "s", 1)
    with Worker(study.workers) as one, Worker(study.workers) as other:
        claim = study.claim(one)
        assert study.claim(other) is None and study.unfinished() == 1
        assert study.finish(one, claim, studies.make_row(claim), [1.0, 1.0])


def test_a_frozen_worker_loses_its_lease(tmp_path, monkeypatch):
    study = studies.make_study(tmp_path / "s", 1)
    with Worker(study.workers) as frozen, Worker(study.workers) as other:
        study.claim(frozen)
        old = time.time() - study_module.LEASE_S - 1
        os.utime(frozen.path, (old, old))
        assert study.claim(other).point == {"a": "0"}


def test_an_interrupted_trial_is_given_back(tmp_path):
    study = studies.make_study(tmp_path / "s", 2)

    def interrupt(claim):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(studies.make_sweep(2), study, evaluate=interrupt)
    assert sorted(trial.state.name for trial in study.trials()) == ["FAIL", "WAITING", "WAITING"]
    assert [row["name"] for row in run_alone(tmp_path / "s", 2).rows()] == ["a=1", "a=0"]


def test_a_point_that_kills_its_workers_becomes_a_row(tmp_path):
    study = studies.make_study(tmp_path / "s", 1)
    for _ in range(study_module.MAX_ATTEMPTS):
        with Worker(study.workers) as worker:
            assert study.claim(worker) is not None
        worker.path.touch()
    with Worker(study.workers) as worker:
        assert study.claim(worker) is None and study.unfinished() == 0
    row = study.rows()[0]
    assert row["status"] == "failed" and row["sentence"] == (
        "its worker was killed 10 times, as systems do where memory ends; try fewer --jobs."
    )


def test_a_row_that_was_written_before_the_kill_counts(tmp_path):
    study = studies.make_study(tmp_path / "s", 1)
    with Worker(study.workers) as worker:
        claim = study.claim(worker)
        trial = study.trials()[0]
        row = studies.make_row(claim) | {"objectives": [0.5, 2.0]}
        study._queues[POINTS]._storage.set_trial_user_attr(trial._trial_id, "row", row)  # killed before the state
    with Worker(study.workers) as other:
        assert study.claim(other) is None
    assert study.rows() == [row] and study.trials()[0].values == [0.5, 2.0]


def test_a_torn_line_is_cut_off(tmp_path):
    run_alone(tmp_path / "s", 3)
    path = tmp_path / "s" / "journal.log"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 6, "worker')
    study = studies.make_study(tmp_path / "s", 3)
    study.enqueue(POINTS, [{"a": "1"}], again=True)  # writes behind it
    assert path.read_bytes().startswith(whole + b'{"op_code"') and all(map(json.loads, path.read_text().splitlines()))
    assert len(studies.make_study(tmp_path / "s", 3).rows()) == 3
    path.write_bytes(b"")
    cut_torn_line(path)
    assert path.read_bytes() == b""


def test_a_damaged_journal(tmp_path):
    run_alone(tmp_path / "s", 2)
    path = tmp_path / "s" / "journal.log"
    path.write_text("{\n" + path.read_text())
    with pytest.raises(GreenedgeError, match=r"journal.log is damaged \(.*\); restore it, or choose another folder wi"):
        studies.make_study(tmp_path / "s", 2)


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "random"])
def test_a_sampler_never_runs_a_point_twice(tmp_path, sampler):
    larger = (True,) if sampler == "tpe" else (True, False)
    study = studies.make_study(tmp_path / "s", 12, Sampling(sampler, 10, 3, larger))
    sweep = studies.make_sweep(12)
    if sampler == "tpe":
        sweep = type(sweep)(sweep.source, type(sweep.space)(sweep.space.axes, (), ("accuracy",)))
    work(sweep, study, evaluate=studies.make_row)
    names = [row["name"] for row in study.rows()]
    assert len(names) == len(set(names)) == 10
    again = Counter(trial.params["a"] for trial in study.trials() if "row" in trial.user_attrs)
    assert max(again.values()) == 1


def test_a_sampler_that_has_seen_all_ends(tmp_path):
    study = studies.make_study(tmp_path / "s", 3, Sampling("nsga2", 40, 3, (True, False)))
    work(studies.make_sweep(3), study, evaluate=studies.make_row)
    assert len(study.rows()) == 3 == study.total()


def kill_at_random(folder: Path, points: int, workers: int, kills: int, seconds: float) -> None:
    """Works on the study with processes of which one is killed at random, again and again, until `kills` are."""
    draw = random.Random(kills)
    studies.make_study(folder, points)
    running = [studies.start_worker(folder, points, seconds) for _ in range(workers)]
    killed = 0
    deadline = time.monotonic() + 240
    while any(process.poll() is None for process in running) and time.monotonic() < deadline:
        time.sleep(draw.uniform(0.05, 4 * seconds))
        victim = draw.choice(running)
        if killed < kills and victim.poll() is None:
            killed += 1
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            running[running.index(victim)] = studies.start_worker(folder, points, seconds)
    assert all(process.wait(60) == 0 for process in running) and killed == kills


def check_nothing_lost(folder: Path, points: int, alone: Path) -> None:
    study = studies.make_study(folder, points)
    assert sorted(row["name"] for row in study.rows()) == sorted(f"a={k}" for k in range(points))
    assert Counter(t.params["a"] for t in study.trials() if "row" in t.user_attrs) == {str(k): 1 for k in range(points)}
    assert not any(trial.state.name in ("RUNNING", "WAITING") for trial in study.trials())
    assert studies.describe_front(study) == studies.describe_front(run_alone(alone, points))
    written = json.loads((folder / "sweep.json").read_text())
    assert len(written["rows"]) == points


def test_a_killed_worker_is_replaced_and_its_trial_done(tmp_path):
    folder = tmp_path / "s"
    study = studies.make_study(folder, 8)
    run_workers(studies.make_sweep(8), study, 1, studies.worker_script(folder, 8, 0.02, kills_itself_at=3))
    check_nothing_lost(folder, 8, tmp_path / "alone")
    begun = Counter(line.split()[2] for line in (folder / "events.log").read_text().splitlines() if "begin" in line)
    assert begun == {**{str(k): 1 for k in range(8)}, "3": 2}


def test_workers_that_all_fail_are_told_of(tmp_path):
    study = studies.make_study(tmp_path / "s", 2)
    with pytest.raises(ToolError) as caught:
        run_workers(studies.make_sweep(2), study, 2, [sys.executable, "-c", "raise SystemExit(7)"])
    assert str(caught.value) == (
        f"the workers of {tmp_path / 's'} ended with status 7 and left 2 trials; what they said stands above, and the "
        "same command goes on from here."
    )


@pytest.mark.slow
def test_kill_9_thirty_times(tmp_path):
    kill_at_random(tmp_path / "s", 150, 3, KILLS, 0.25)
    check_nothing_lost(tmp_path / "s", 150, tmp_path / "alone")
    begun = Counter(
        line.split()[2] for line in (tmp_path / "s" / "events.log").read_text().splitlines() if "begin" in line
    )
    assert max(begun.values()) > 1  # some were interrupted, or the test shows nothing


# -- locks -------------------------------------------------------------------------------------------------------------


def test_locks_keep_others_out(tmp_path, monkeypatch):
    locks.require_locks(tmp_path)
    monkeypatch.setattr(locks, "_TRY", "")  # the other process enters
    with pytest.raises(GreenedgeError) as caught:
        locks.require_locks(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} has file locks that keep no other process out; choose a folder on a file system with locks: a "
        "local disk, or NFS mounted without `nolock` and `local_lock=flock`."
    )


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(handle, flags):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(
        GreenedgeError, match=r"has no file locks \(Operation not supported\); choose a folder on a file"
    ):
        locks.require_locks(tmp_path)


def test_who_holds_a_lock(tmp_path):
    path = tmp_path / "lock"
    assert not locks.is_held(path)
    with locks.hold_lock(path):
        assert locks.is_held(path)
    assert not locks.is_held(path)
    waited = []
    with locks.hold_lock(path, lambda: waited.append(1)):
        assert not waited
