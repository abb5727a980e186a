"""Temporary folders go, also those of processes that were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from greenedge.files import scratch
from greenedge.files.scratch import scratch_folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    scratch._sweep.cache_clear()
    yield tmp_path / "tmp"
    scratch._sweep.cache_clear()


def test_it_is_empty_and_gone_afterwards(place):
    with scratch_folder("test") as folder:
        assert folder.is_dir() and not list(folder.iterdir()) and folder.is_relative_to(place)
        assert folder.parent.stat().st_mode & 0o777 == 0o700
        (folder / "file").write_text("x")
    assert not list(place.iterdir())


def test_it_is_gone_after_an_error(place):
    with pytest.raises(KeyError), scratch_folder("test"):
        raise KeyError
    assert not list(place.iterdir())


HOLD = """
import sys, tempfile
from greenedge.files.scratch import scratch_folder
tempfile.tempdir = sys.argv[1]
with scratch_folder("held") as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(place):
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    killed, living = processes
    folders = [process.stdout.readline().decode().strip() for process in processes]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert all(map(os.path.isdir, folders))
    with scratch_folder("test"):
        assert [os.path.isdir(folder) for folder in folders] == [False, True]
    living.communicate()
    assert not list(place.iterdir())


def test_what_is_none_of_ours_stays(place, tmp_path):
    (place / "greenedge-own").mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / ".lock").write_text("")
    (place / "greenedge-link").symlink_to(tmp_path / "precious")
    with scratch_folder("test"):
        pass
    assert (place / "greenedge-own").is_dir() and (tmp_path / "precious" / ".lock").exists()
