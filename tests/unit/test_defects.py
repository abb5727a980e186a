"""An error that nobody foresaw is one sentence, exit status 70 and a file with the trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from greenedge import cli
from greenedge.files import cache


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    return tmp_path / "cache" / "greenedge"


def _fall(monkeypatch):
    def targets():
        raise KeyError("a key\nthat nobody thought of")

    monkeypatch.setattr("greenedge.target.list_targets", targets)


def test_it_is_one_sentence_and_a_trace(home, monkeypatch):
    _fall(monkeypatch)
    result = CliRunner().invoke(cli.app, ["targets"])
    assert result.exit_code == 70 and "Traceback" not in result.output
    (trace,) = (home / "defects").iterdir()
    assert result.stderr == (
        "greenedge: KeyError: 'a key\\nthat nobody thought of'; this is a defect of greenedge and none of your model: "
        f"please send {trace} (the full trace) and, where you can, the model to its issues.\n"
    )
    assert "Traceback" in trace.read_text() and "KeyError" in trace.read_text()


def test_json_has_it_too(home, monkeypatch):
    _fall(monkeypatch)
    result = CliRunner().invoke(cli.app, ["targets", "--json"])
    error = json.loads(result.stdout)["error"]
    assert (error["kind"], error["exit_code"]) == ("Defect", 70) and "KeyError" in error["message"]


def test_a_reader_that_has_enough_is_no_defect(home, tmp_path):
    """`greenedge targets | head -1`: nothing on stderr, no trace."""
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", "from greenedge.cli import app; app()", "targets"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=environment, timeout=120)
    os.close(write)
    assert done.returncode == 1 and done.stderr == b""
    assert not list(tmp_path.rglob("defects"))


def test_few_traces_are_kept(home, monkeypatch):
    _fall(monkeypatch)
    (home / "defects").mkdir(parents=True)
    for number in range(30):
        (home / "defects" / f"2026010{number:02}.txt").write_text("old")
    CliRunner().invoke(cli.app, ["targets"])
    assert len(list((home / "defects").iterdir())) == 20


def test_without_a_cache_the_trace_is_a_temporary_file(home, monkeypatch, tmp_path):
    _fall(monkeypatch)
    home.parent.mkdir(parents=True)
    home.symlink_to(tmp_path / "nowhere")
    result = CliRunner().invoke(cli.app, ["targets"])
    assert result.exit_code == 70 and "greenedge-defect-" in result.stderr


def test_a_wrong_option_stays_what_it_is():
    assert CliRunner().invoke(cli.app, ["targets", "--no-such-option"]).exit_code == 2
