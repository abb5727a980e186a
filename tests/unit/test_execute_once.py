"""What is kept in the cache and run from it: its owner's alone, and made anew where it is not what was made."""

from __future__ import annotations

import os

import pytest

from greenedge.errors import GreenedgeError
from greenedge.files import cache
from greenedge.files.cache import cache_folder
from greenedge.tools.plan import Command, Plan
from greenedge.tools.run import execute_once

PLAN = Plan(
    {"source.txt": b"1"},
    (Command(("{python}", "-c", "open('sim', 'w').write('the simulator')"), "log.txt", "compiling"),),
    ("sim",),
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    return tmp_path / "cache" / "greenedge"


def test_it_is_made_once(home):
    folder, record, kept = execute_once(PLAN, "verilated", "abc")
    assert (folder, kept) == (home / "verilated" / "abc", False) and (folder / "sim").read_text() == "the simulator"
    assert execute_once(PLAN, "verilated", "abc") == (folder, record, True)


@pytest.mark.parametrize("damage", ["replaced", "gone", "record gone", "record without products"])
def test_what_is_not_what_was_made_is_never_run(home, damage):
    folder, _, _ = execute_once(PLAN, "verilated", "abc")
    if damage == "replaced":
        (folder / "sim").write_text("another program")
    elif damage == "gone":
        (folder / "sim").unlink()
    elif damage == "record gone":
        (folder / "build.json").unlink()
    else:
        (folder / "build.json").write_text('{"plan": "", "tools": {}, "seconds": {}}')
    again, _, kept = execute_once(PLAN, "verilated", "abc")
    assert again == folder and not kept and (folder / "sim").read_text() == "the simulator"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_may_enter(home, umask):
    before = os.umask(umask)
    try:
        folder = cache_folder("verilated", "deep")
    finally:
        os.umask(before)
    assert folder == home / "verilated" / "deep"
    assert {path.stat().st_mode & 0o777 for path in (home, home / "verilated", folder)} == {0o700}


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o701])
def test_one_that_others_could_enter_is_closed(home, mode):
    home.mkdir(parents=True)
    home.chmod(mode)
    assert cache_folder().stat().st_mode & 0o777 == 0o700


def test_a_link_is_no_cache(home, tmp_path):
    home.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (home / "verilated").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GreenedgeError, match="verilated is no folder of yours; programs are kept and run there"):
        cache_folder("verilated")


def test_somebody_elses_folder_is_no_cache(home, monkeypatch):
    home.mkdir(parents=True)
    monkeypatch.setattr(cache.os, "geteuid", lambda: home.stat().st_uid + 1)
    with pytest.raises(GreenedgeError, match="is no folder of yours"):
        cache_folder("verilated")
