"""The loop over the stages: what it repeats and what it does not, and how it comes back from whatever stops it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import fakes
import pytest

from greenedge.errors import GreenedgeError, ToolError, VerificationError
from greenedge.frontends.import_onnx import ModelFile
from greenedge.run.jobs import jobs_for
from greenedge.run.loop import run_job, run_jobs
from greenedge.run.manifest import load_manifest, lock_run
from greenedge.run.runs import infer, verify_again

STAGES = ["export", "lower", "build", "verify", "report"]


class Recorder:
    """A display that remembers how each stage ended."""

    def __init__(self):
        self.ends = {}

    @contextmanager
    def stage(self, name):
        yield lambda done, total, text: None

    def end_stage(self, name, status, seconds, note):
        self.ends[name] = status


@pytest.fixture
def model(tmp_path) -> Path:
    return fakes.write_model(tmp_path / "small.onnx")


@pytest.fixture
def board(tmp_path) -> Path:
    return fakes.write_board(tmp_path)


@pytest.fixture
def job(model, board, monkeypatch):
    fakes.install(monkeypatch)
    return jobs_for(ModelFile(model), [str(board)])[0]


def _run(job, folder, **more):
    seen = Recorder()
    run_job(job, folder, display=seen, **more)
    return seen.ends


def test_every_stage_runs_once(job, tmp_path):
    run = tmp_path / "run"
    assert _run(job, run) == dict.fromkeys(STAGES, "done")
    assert _run(job, run) == dict.fromkeys(STAGES, "unchanged")
    summary = json.loads((run / "7-report" / "summary.json").read_text())
    assert [(e["reference"], e["candidate"], e["samples"], e["mismatches"]) for e in summary["verify"]] == [
        ("qonnx", "graph", 100, 0),
        ("graph", "fake", 100, 0),
    ]
    assert summary["edge"]["runtime"] == "fake"
    assert summary["energy"] == []
    assert list(summary["seconds"]) == ["export", "lower", "build", "verify"]
    assert "hardware" not in summary
    manifest = load_manifest(run)
    assert manifest.stages["build"].tools["fake"] == "1"
    assert manifest.stages["build"].inputs == manifest.stages["lower"].outputs


def test_a_changed_tool_builds_again_but_lowers_not(job, tmp_path, monkeypatch):
    _run(job, tmp_path / "run")
    fakes.install(monkeypatch, version="2")
    assert _run(job, tmp_path / "run") == {
        "export": "unchanged",
        "lower": "unchanged",
        "build": "done",
        "verify": "done",
        "report": "done",
    }


def test_a_changed_option_builds_again(job, board, model, tmp_path):
    _run(job, tmp_path / "run")
    faster = jobs_for(ModelFile(model), [str(board)], options={"fps": 1000})[0]
    assert _run(faster, tmp_path / "run")["build"] == "done"


def test_a_changed_model_starts_over(job, model, tmp_path):
    _run(job, tmp_path / "run")
    fakes.write_model(model, hidden=7)
    assert _run(
        jobs_for(ModelFile(model), [str(tmp_path / "boards" / "bench.toml")])[0], tmp_path / "run"
    ) == dict.fromkeys(STAGES, "done")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"other")])
def test_a_lost_or_changed_output_is_made_again(job, tmp_path, damage):
    run = tmp_path / "run"
    _run(job, run)
    damage(run / "4-build" / "model.fake")
    record = run / "4-build" / "build.json"
    record.write_text(record.read_text().replace('"seconds"', '"other seconds"'))
    ends = _run(job, run)
    assert ends.pop("report") in (
        "done",
        "unchanged",
    )  # it shows the seconds that the build took, which may be the same
    assert ends == {"export": "unchanged", "lower": "unchanged", "build": "done", "verify": "unchanged"}


def test_until(job, tmp_path):
    assert list(_run(job, tmp_path / "run", until="lower")) == ["export", "lower"]
    assert not (tmp_path / "run" / "4-build").exists()
    assert list(_run(job, tmp_path / "run")) == STAGES


def test_the_second_target_copies_what_the_first_has(model, board, tmp_path, monkeypatch):
    fakes.install(monkeypatch)
    other = board.with_name("other.toml")
    other.write_text(board.read_text().replace('"bench"', '"other"'))
    jobs = jobs_for(ModelFile(model), [str(board), str(other)])
    seen = [Recorder(), Recorder()]
    runs = run_jobs(jobs, tmp_path / "both", display=lambda job: seen[jobs.index(job)])
    assert runs == [tmp_path / "both" / "bench", tmp_path / "both" / "other"]
    assert seen[0].ends == dict.fromkeys(STAGES, "done")
    assert seen[1].ends == {"export": "copied", "lower": "copied", "build": "done", "verify": "done", "report": "done"}
    assert load_manifest(runs[1]).stages["lower"].reused_from == "bench"
    page = (tmp_path / "both" / "report.html").read_text()
    assert "One model, 2 targets" in page and 'id="bench"' in page and 'id="other"' in page


# -- what stops a run
# -----------------------------------------------------------------------------------------------------


def test_a_tool_killed_half_way(job, tmp_path, monkeypatch):
    run = tmp_path / "run"
    fakes.install(
        monkeypatch, "import os, signal; open('model.fake', 'w').write('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with pytest.raises(ToolError) as error:
        _run(job, run)
    assert "\n" not in str(error.value) and "fake" in str(error.value)
    assert not (run / "4-build").exists()
    record = load_manifest(run).stages["build"]
    assert (record.status, record.error) == ("failed", str(error.value))
    fakes.install(monkeypatch)
    assert _run(job, run) == {
        "export": "unchanged",
        "lower": "unchanged",
        "build": "done",
        "verify": "done",
        "report": "done",
    }
    assert not list(run.glob("*.part"))


def test_a_tool_that_gives_nothing(job, tmp_path, monkeypatch):
    fakes.install(monkeypatch, "pass")
    with pytest.raises(ToolError, match="model.fake"):
        _run(job, tmp_path / "run")


def test_ctrl_c(job, tmp_path, monkeypatch):
    def interrupted(*words):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("greenedge.verify.stage.verify_stage", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _run(job, tmp_path / "run")
    assert load_manifest(tmp_path / "run").stages["verify"].status == "interrupted"
    assert _run(job, tmp_path / "run")["verify"] == "done"


def test_killed_without_a_word(model, board, tmp_path):
    """SIGKILL in the middle of the build; the next run takes over the lock and finishes."""
    run, here = tmp_path / "run", Path(__file__).parent
    script = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(here)!r})
        import fakes, pytest
        from pathlib import Path
        from greenedge.run.jobs import jobs_for
        from greenedge.run.loop import run_job
        from greenedge.frontends.import_onnx import ModelFile
        with pytest.MonkeyPatch.context() as patch:
            fakes.install(patch, sys.argv[1])
            run_job(jobs_for(ModelFile(Path({str(model)!r})), [{str(board)!r}])[0], Path({str(run)!r}))
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    slow = "import time; open('begun', 'w').close(); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script, slow], env=environment, start_new_session=True)
    while not (run / "4-build.part" / "begun").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert load_manifest(run).stages["build"].status == "running"
    assert not (run / "4-build").exists()
    subprocess.run([sys.executable, "-c", script, fakes.COPY], env=environment, check=True)
    assert load_manifest(run).stages["report"].status == "done"


def test_a_full_disk(job, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", "inputs.npy")

    with monkeypatch.context() as patch:
        patch.setattr("greenedge.frontends.import_onnx.np.save", full)
        with pytest.raises(GreenedgeError) as error:
            _run(job, tmp_path / "run")
    assert str(error.value) == (
        f"{tmp_path / 'run'} could not be written: the disk is full; free some space and run the same command again."
    )
    assert not (tmp_path / "run" / "2-export").exists()
    assert _run(job, tmp_path / "run") == dict.fromkeys(STAGES, "done")


def test_a_folder_that_cannot_be_written(job, tmp_path):
    if os.geteuid() == 0:
        target = Path("/proc/greenedge")
    else:
        target = tmp_path / "closed" / "run"
        target.parent.mkdir(mode=0o500)
    with pytest.raises((GreenedgeError, OSError)) as error:
        _run(job, target)
    assert "\n" not in str(error.value)


def test_two_processes_on_one_run(job, tmp_path):
    with lock_run(tmp_path / "run"), pytest.raises(GreenedgeError) as error:
        _run(job, tmp_path / "run")
    assert str(error.value) == (
        f"{tmp_path / 'run'} is in use by process {os.getpid()}; wait for it, or choose another folder with -o."
    )


def test_a_folder_with_something_else_in_it(job, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    with pytest.raises(GreenedgeError) as error:
        _run(job, tmp_path / "run")
    assert str(error.value) == f"{tmp_path / 'run'} holds 'thesis.tex' and is no run; choose another folder with -o."


def test_a_folder_with_another_run_in_it(job, board, tmp_path):
    _run(job, tmp_path / "run", until="lower")
    other = fakes.write_model(tmp_path / "other.onnx")
    with pytest.raises(GreenedgeError) as error:
        _run(jobs_for(ModelFile(other), [str(board)])[0], tmp_path / "run")
    assert str(error.value) == (
        f"{tmp_path / 'run'} holds a run of source 'small', not 'other'; choose another folder with -o."
    )


# -- finished runs ---------------------------------------------------------------------------------------------------


def test_verify_again_finds_a_flipped_weight(job, tmp_path):
    run = tmp_path / "run"
    _run(job, run)
    assert [e["mismatches"] for e in verify_again(run, lambda *words: None)["verify"]] == [0, 0]
    fakes.flip_one_weight(run / "4-build")
    with pytest.raises(VerificationError) as error:
        verify_again(run, lambda *words: None)
    assert "fake differs from the integer graph on " in str(error.value) and "layer fc1" in str(error.value)
    assert json.loads((run / "5-verify" / "verify.json").read_text())["verify"][1]["mismatches"] > 0
    assert load_manifest(run).stages["verify"].status == "failed"
    assert _run(job, run) == {
        "export": "unchanged",
        "lower": "unchanged",
        "build": "done",
        "verify": "done",
        "report": "done",
    }


@pytest.mark.parametrize("name", ["3-lower/lower.json", "4-build/graph.json"])
def test_a_changed_file_that_no_sample_notices_is_found(job, tmp_path, name):
    run = tmp_path / "run"
    _run(job, run)
    with open(run / name, "a") as file:
        file.write("\n")
    with pytest.raises(VerificationError, match=f"{name} is not (the file that was|what greenedge writes)"):
        verify_again(run, lambda *words: None)
    with pytest.raises(VerificationError, match=f"{name} is not the file that was made, its sha256 differs; run "):
        infer(run, run / "2-export" / "inputs.npy", "build", lambda *words: None)
    _run(job, run)
    (run / "4-build" / "more.c").write_text("")
    with pytest.raises(VerificationError, match="more.c is no file that the run made; delete it.$"):
        verify_again(run, lambda *words: None)
    (run / "4-build" / "more.c").unlink()
    assert len(infer(run, run / "2-export" / "inputs.npy", "build", lambda *words: None)) == 1


def test_a_difference_stops_the_run(job, tmp_path, monkeypatch):
    run = tmp_path / "run"
    honest = fakes.install(monkeypatch).simulate
    fakes.install(
        monkeypatch,
        simulate=lambda folder, x, keep=(), progress=None: {k: v + 1 for k, v in honest(folder, x, keep).items()},
    )
    with pytest.raises(VerificationError):
        _run(job, run)
    assert not (run / "7-report").exists()
    assert json.loads((run / "5-verify" / "verify.json").read_text())["verify"][1]["mismatches"] == 100


def test_infer(job, tmp_path):
    _run(job, tmp_path / "run")
    samples = tmp_path / "run" / "2-export" / "inputs.npy"
    built, graph = (infer(tmp_path / "run", samples, stage, lambda *words: None) for stage in ("build", "graph"))
    assert list(built) == ["y"] and (built["y"] == graph["y"]).all() and built["y"].shape == (100, 3)


def test_nothing_built(job, tmp_path):
    _run(job, tmp_path / "run", until="lower")
    with pytest.raises(GreenedgeError) as error:
        verify_again(tmp_path / "run", lambda *words: None)
    assert (
        str(error.value)
        == f"{tmp_path / 'run'} has nothing built; run `greenedge run` or `greenedge build` for it to the end."
    )
