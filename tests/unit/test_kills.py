"""A run that is killed at any moment goes on when it is run again, and leaves no process and no temporary folder."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import fakes
import pytest

from greenedge.files import scratch
from greenedge.frontends.import_onnx import ModelFile
from greenedge.run.jobs import jobs_for
from greenedge.run.loop import run_job
from greenedge.run.runs import verify_again

KILLS = int(os.environ.get("GREENEDGE_KILLS", "12"))
# a back end whose build takes a second in a process of its own
SLOW_COPY = f"import time; time.sleep(1); {fakes.COPY}"


def _script(model: Path, board: Path, run: Path) -> str:
    return textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        import fakes, pytest
        from pathlib import Path
        from greenedge.frontends.import_onnx import ModelFile
        from greenedge.run.jobs import jobs_for
        from greenedge.run.loop import run_job
        print("begun", flush=True)
        with pytest.MonkeyPatch.context() as patch:
            fakes.install(patch, {SLOW_COPY!r})
            run_job(jobs_for(ModelFile(Path({str(model)!r})), [{str(board)!r}])[0], Path({str(run)!r}))
    """)


def _living(mark: str) -> list[str]:
    """The command lines of processes that name `mark`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "cmdline").read_bytes().replace(b"\\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if mark in text and int(folder.name) != os.getpid():
            found.append(text)
    return found


@pytest.mark.slow
def test_a_killed_run_recovers_and_leaves_nothing(tmp_path, monkeypatch):
    model, board = fakes.write_model(tmp_path / "small.onnx"), fakes.write_board(tmp_path)
    places = tmp_path / "tmp"
    places.mkdir()
    draw, kinds = random.Random(7), (signal.SIGKILL, signal.SIGTERM)
    fakes.install(monkeypatch, SLOW_COPY)
    monkeypatch.setattr(tempfile, "tempdir", str(places))
    longest = 4.0
    for number in range(KILLS):
        run = tmp_path / f"run{number}"
        process = subprocess.Popen(
            [sys.executable, "-c", _script(model, board, run)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(places)},
        )
        process.stdout.readline()
        began = time.monotonic()
        try:
            process.wait(draw.uniform(0, longest))
            longest = max(0.5, min(longest, time.monotonic() - began))  # so that most are killed before they end
        except subprocess.TimeoutExpired:
            process.send_signal(kinds[number % 2])
            process.wait(30)
        process.stdout.close()
        end = time.monotonic() + 10
        while _living(str(run)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not _living(str(run)), number
        run_job(jobs_for(ModelFile(model), [str(board)])[0], run)
        assert all(entry["mismatches"] == 0 for entry in verify_again(run, lambda *words: None)["verify"]), number
        assert not [path for path in run.rglob("*") if path.name.endswith((".part", ".old"))], number
    scratch._sweep.cache_clear()
    with scratch.scratch_folder("last") as folder:
        assert list(places.glob("greenedge*")) == [folder.parent]  # what libraries put there is theirs
