"""FINN+'s environment: made once, mended when damaged, whole or absent, one sentence when it cannot be had.

The Python here is a fake that can fail: `-m venv` copies it, `-m pip` and the worker's `--probe` do what a file says.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from greenedge.backends.finn.finnplus import environment
from greenedge.errors import ToolError
from greenedge.files import cache
from greenedge.tools import own_environment

FAKE = f"""#!{sys.executable}
import pathlib, shutil, sys
here = pathlib.Path(__file__).resolve()
modes = pathlib.Path("{{modes}}")
if sys.argv[1:3] == ["-m", "venv"]:
    (pathlib.Path(sys.argv[3]) / "bin").mkdir(parents=True)
    shutil.copy(here, pathlib.Path(sys.argv[3]) / "bin" / "python")
elif sys.argv[1:3] == ["-m", "pip"]:
    with open(modes / "installs", "a") as file: file.write("x")
    mode = (modes / "pip").read_text()
    if mode != "good":
        print(mode); sys.exit(1)
    (here.parent / "installed").write_text("finn")
else:
    sys.exit(print("ok") if (here.parent / "installed").exists() and (modes / "probe").read_text() == "good" else 1)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    modes = tmp_path / "modes"
    modes.mkdir()
    for name in ("pip", "probe"):
        (modes / name).write_text("good")
    python = tmp_path / "python"
    python.write_text(FAKE.replace("{modes}", str(modes)))
    python.chmod(0o755)
    monkeypatch.setattr(environment.sys, "executable", str(python))
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    return modes


def _installs(modes: Path) -> int:
    path = modes / "installs"
    return len(path.read_text()) if path.exists() else 0


def _refusal() -> str:
    with pytest.raises(ToolError) as caught:
        environment.finn_python(lambda line: None)
    folder = environment.environment_folder()
    assert [path.name for path in folder.parent.iterdir()] == [f"{folder.name}.lock"]
    return str(caught.value)


def test_it_is_made_once_and_says_so(fake):
    said = []
    python = environment.finn_python(said.append)
    assert python == environment.environment_folder() / "bin" / "python" and python.exists()
    assert said[0].startswith("making the FINN+ environment (first use")
    said.clear()
    assert environment.finn_python(said.append) == python
    assert said == [] and _installs(fake) == 1


def test_a_damaged_one_is_made_anew(fake):
    python = environment.finn_python(lambda line: None)
    (python.parent / "installed").unlink()
    said = []
    assert environment.finn_python(said.append) == python
    assert said[0] == "the FINN+ environment is damaged: making it anew" and _installs(fake) == 2


@pytest.mark.parametrize("name", ["installed", "sitecustomize.py"])
def test_a_changed_or_added_file_is_never_run(fake, name):
    python = environment.finn_python(lambda line: None)
    (python.parent / name).write_text("finn, and something else")
    said = []
    assert environment.finn_python(said.append) == python
    assert said[0] == "the FINN+ environment is damaged: making it anew" and _installs(fake) == 2
    assert (python.parent / "installed").read_text() == "finn" and not (python.parent / "sitecustomize.py").exists()


def test_every_pin_has_hashes():
    lines = environment.PINS.read_text().splitlines()
    follows = {line.split("==")[0]: after for line, after in zip(lines, [*lines[1:], ""], strict=True) if "==" in line}
    assert len(follows) == len(environment.pins())
    assert all(after.strip().startswith("--hash=sha256:") for after in follows.values()), follows


def test_other_pins_are_another_environment(fake, tmp_path, monkeypatch):
    before = environment.environment_folder()
    pins = tmp_path / "requirements.txt"
    pins.write_text(environment.PINS.read_text().replace("numpy==", "numpy==1"))
    monkeypatch.setattr(environment, "FINN", replace(environment.FINN, pins=pins))
    assert environment.environment_folder() != before


def test_without_an_index_it_is_one_sentence_and_running_again_recovers(fake):
    (fake / "pip").write_text("ERROR: Could not find a version that satisfies the requirement finn-plus==1.6.1")
    assert _refusal() == (
        "the FINN+ environment needs a package index once, and none could be reached; connect, then run "
        "the same command again."
    )
    (fake / "pip").write_text("good")
    assert environment.finn_python(lambda line: None).exists()


def test_a_full_disk_is_one_sentence(fake):
    (fake / "pip").write_text("OSError: [Errno 28] No space left on device")
    assert _refusal() == (
        f"{environment.environment_folder()} could not be written: the disk is full; free some space and "
        "run the same command again."
    )


def test_another_failure_of_pip_is_quoted(fake):
    (fake / "pip").write_text("ERROR: hash mismatch")
    assert _refusal() == "pip ended with exit status 1 while making the FINN+ environment: ERROR: hash mismatch."


def test_an_environment_that_cannot_import_finn_is_never_kept(fake):
    (fake / "probe").write_text("bad")
    assert _refusal() == (
        f"the FINN+ environment was installed but FINN+ cannot be imported by Python "
        f"{platform.python_version()}; use Python 3.11 to 3.13."
    )


def test_a_killed_installation_leaves_nothing_under_the_final_name(fake, monkeypatch):
    real = own_environment._call

    def interrupted(own, argv, what):
        if what == "pip":
            raise KeyboardInterrupt
        real(own, argv, what)

    monkeypatch.setattr(own_environment, "_call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        environment.finn_python(lambda line: None)
    folder = environment.environment_folder()
    assert [path.name for path in folder.parent.iterdir()] == [f"{folder.name}.lock"]
