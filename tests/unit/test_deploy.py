"""From a finished run onto a board: the bitstream that was built and no other, by the board's own file and no other."""

import stat

import pytest
from typer.testing import CliRunner

from greenedge.boards.programming import UDEV
from greenedge.cli import app
from greenedge.run.board_verbs import in_words
from greenedge.run.manifest import Manifest, Record, digest_files, save_manifest


def cli(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that was built for ulx3s-85f, as far as programming looks, and a loader that writes its argv down."""
    folder = tmp_path / "run"
    (folder / "4-build").mkdir(parents=True)
    (folder / "4-build" / "top.bit").write_bytes(b"bits")
    about = {"source": {"name": "m"}, "target": {"name": "ulx3s-85f"}, "backend": "finn"}
    built = Record("done", "key", outputs=digest_files(folder, "4-build"))
    save_manifest(Manifest(about).with_stage("build", built), folder)
    loader = tmp_path / "bin" / "openFPGALoader"
    loader.parent.mkdir()
    loader.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/argv\n')
    loader.chmod(loader.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{loader.parent}:/usr/bin:/bin")
    return folder


def test_program(run, tmp_path):
    done = cli("program", run)
    assert (done.exit_code, done.stdout) == (0, f"programmed: openFPGALoader -b ulx3s {run}/4-build/top.bit\n"), (
        done.stderr
    )
    assert (tmp_path / "argv").read_text() == f"-b ulx3s {run}/4-build/top.bit\n"


def test_a_dry_run_programs_nothing(run, tmp_path):
    (tmp_path / "argv").unlink(missing_ok=True)
    done = cli("program", run, "--dry-run")
    assert (done.exit_code, done.stdout) == (0, f"openFPGALoader -b ulx3s {run}/4-build/top.bit\n")
    done = cli("program", run, "--dry-run", "--docker")
    assert done.stdout.startswith("docker run --rm ") and done.stdout.endswith(
        f" openFPGALoader -b ulx3s {run}/4-build/top.bit\n"
    )
    assert not (tmp_path / "argv").exists()


def test_udev_rules_for_a_pipe():
    assert cli("program", "--udev").stdout == UDEV


def test_a_bitstream_that_was_not_built(run):
    (run / "4-build" / "top.bit").write_bytes(b"other")
    done = cli("program", run)
    assert (done.exit_code, done.stderr) == (
        5,
        f"greenedge: {run}/4-build/top.bit is not the file that was made, its sha256 differs; run "
        "the same `greenedge run` or `greenedge build` again to make it anew.\n",
    )


def test_a_board_that_it_was_not_built_for(run):
    done = cli("program", run, "--target", "icebreaker")
    assert (done.exit_code, done.stderr) == (
        1,
        f"greenedge: {run} was built for 'ulx3s-85f', not for 'icebreaker'; choose that board.\n",
    )


def test_a_run_folder_decides_on_no_command(run):
    """A run may come from anybody: its manifest names a board, and a name is no path."""
    manifest = (run / "manifest.json").read_text()
    (run / "manifest.json").write_text(manifest.replace('"ulx3s-85f"', '"../../evil"'))
    done = cli("program", run)
    assert done.exit_code == 1 and done.stderr.startswith("greenedge: there is no target '../../evil'")


def test_nothing_built(tmp_path):
    save_manifest(Manifest({"source": {"name": "m"}}), tmp_path)
    done = cli("program", tmp_path)
    assert (done.exit_code, done.stderr) == (
        1,
        f"greenedge: {tmp_path} has nothing built; run `greenedge run` or `greenedge build` for it to the end.\n",
    )


def test_wrong_usage(run):
    assert cli("program").exit_code == 2
    done = cli("infer", run, "--inputs", "x.npy", "--port", "/dev/x", "--virtual")
    assert done.exit_code == 2 and "a board is real or virtual" in done.stderr


def test_figures_in_words():
    figures = {
        "evidence": "measured",
        "samples": 450,
        "latency_s": 1.814e-05,
        "wall_s": 1.23,
        "requests_lost": 3,
        "resets": 1,
    }
    assert in_words(figures) == (
        "450 samples, every integer equal to the integer graph's; latency 18.14\u202fµs by the board's own counters "
        "(measured); 1.2 s for the host; 3 requests sent again, 1 resets."
    )
