"""A manifest comes back from disk as a stranger's file: whole, of our format, and with no path that leaves the run."""

import json

import pytest

from greenedge.errors import GreenedgeError, VerificationError
from greenedge.run.folder import inside
from greenedge.run.manifest import (
    Manifest,
    Record,
    digest_files,
    load_manifest,
    outputs_match,
    require_unchanged,
    save_manifest,
    staging_dir,
)

ABOUT = {"source": {"kind": "model", "name": "small"}}


def _write(folder, **changes):
    record = Record("done", "k", outputs={"2-export/model.onnx": "0" * 64})
    save_manifest(Manifest(ABOUT, {"export": record}), folder)
    data = json.loads((folder / "manifest.json").read_text())
    data.update(changes)
    (folder / "manifest.json").write_text(json.dumps(data))
    return data


def test_round_trip(tmp_path):
    manifest = Manifest(ABOUT, {"export": Record("done", "k", outputs={"2-export/x": "ab"}, seconds=1.5, note="n")})
    save_manifest(manifest, tmp_path)
    assert load_manifest(tmp_path) == manifest


def _message(folder):
    with pytest.raises(GreenedgeError) as error:
        load_manifest(folder)
    return str(error.value)


def test_no_run(tmp_path):
    assert _message(tmp_path) == (
        f"{tmp_path} is no run: it has no manifest.json; `greenedge run` and `greenedge build` make one."
    )


def test_damaged(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text('{"format": "greenedge-run/1", ')
    assert _message(tmp_path) == (
        f"{path} is damaged (Expecting property name enclosed in double quotes: line 1 column 31 "
        "(char 30)); delete it and run the same command again."
    )
    path.write_text("[]")
    assert _message(tmp_path) == f"{path} is damaged (it is no table); delete it and run the same command again."
    path.write_bytes(b"\xff\xfe")
    assert _message(tmp_path).startswith(f"{path} is damaged ('utf-8' codec can't decode byte 0xff")


def test_another_format(tmp_path):
    _write(tmp_path, format="greenedge-run/9")
    assert _message(tmp_path) == (
        f"{tmp_path / 'manifest.json'}: format is 'greenedge-run/9', this greenedge reads "
        "'greenedge-run/1'; use the greenedge that wrote it, or choose another folder with -o."
    )


@pytest.mark.parametrize(
    "stages, reason",
    [
        ({"export": {"status": "done", "key": "k", "colour": 1}}, "stage 'export' has unknown keys ['colour']"),
        ({"export": {"status": "fine", "key": "k"}}, "stage 'export' has status 'fine'"),
        ({"export": {"status": "done", "key": "k", "outputs": []}}, "outputs of stage 'export' is no table"),
    ],
)
def test_stages_that_are_none(tmp_path, stages, reason):
    _write(tmp_path, stages=stages)
    assert (
        _message(tmp_path)
        == f"{tmp_path / 'manifest.json'} is damaged ({reason}); delete it and run the same command again."
    )


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "2-export/../../secret", "2-export/../2-export/model.onnx", ""]
)
def test_a_path_that_leaves_the_run(tmp_path, name):
    _write(tmp_path, stages={"export": {"status": "done", "key": "k", "outputs": {name: "0" * 64}}})
    assert _message(tmp_path) == (
        f"{tmp_path / 'manifest.json'} names the file {name!r}, which lies outside the run's folder; "
        "use only runs that you or someone you trust made."
    )


def test_a_link_that_leaves_the_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "4-build").symlink_to(tmp_path)
    with pytest.raises(GreenedgeError, match="which lies outside the run's folder"):
        inside(tmp_path / "run", "4-build/x")


def test_a_stage_folder_is_whole_or_absent(tmp_path):
    final = tmp_path / "3-lower"
    with pytest.raises(ZeroDivisionError), staging_dir(final) as work:
        (work / "half").write_text("x")
        raise ZeroDivisionError
    assert not final.exists()
    with staging_dir(final) as work:
        assert not list(work.iterdir())
        (work / "whole").write_text("x")
    outputs = digest_files(tmp_path, "3-lower")
    assert list(outputs) == ["3-lower/whole"] and outputs_match(tmp_path, outputs)
    with staging_dir(final) as work:
        (work / "other").write_text("y")
    assert not outputs_match(tmp_path, outputs) and [path.name for path in tmp_path.iterdir()] == ["3-lower"]


def test_work_to_go_on_with_is_kept(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), staging_dir(tmp_path / "1-train", keep=True) as work:
            with open(work / "checkpoint", "a") as file:
                file.write("x")
            raise ZeroDivisionError
    assert (tmp_path / "1-train.part" / "checkpoint").read_text() == "xx"


def test_a_stage_holds_exactly_the_files_that_the_run_made(tmp_path):
    (tmp_path / "4-build").mkdir()
    made = tmp_path / "4-build" / "model.c"
    made.write_text("int x;")
    manifest = Manifest({}, {"build": Record("done", "k", outputs=digest_files(tmp_path, "4-build"))})
    require_unchanged(tmp_path, manifest, "build")
    added = tmp_path / "4-build" / "more.c"
    for put in (lambda: added.write_text(""), lambda: added.symlink_to("/nowhere")):
        put()
        with pytest.raises(VerificationError) as caught:
            require_unchanged(tmp_path, manifest, "build")
        assert str(caught.value) == f"{added} is no file that the run made; delete it."
        added.unlink()
    made.write_text("int y;")
    with pytest.raises(VerificationError, match=r"model.c is not the file that was made, its sha256 differs; run "):
        require_unchanged(tmp_path, manifest, "build")
    made.unlink()
    with pytest.raises(VerificationError, match=r"model.c is gone; run the same"):
        require_unchanged(tmp_path, manifest, "build")
    for record in (Record("done", "k"), Record("failed", "k", outputs={"4-build/model.c": "0"})):
        with pytest.raises(GreenedgeError, match="has no finished build stage; run the same `greenedge run` or "):
            require_unchanged(tmp_path, Manifest({}, {"build": record}), "build")


def test_no_files_at_all_match_nothing(tmp_path):
    assert not outputs_match(tmp_path, {})
