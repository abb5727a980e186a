"""Nothing in a finished run can be changed without the verbs that use it noticing: every file, every kind of damage."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fakes
import numpy as np
import pytest

from greenedge.errors import GreenedgeError, VerificationError
from greenedge.files.arrays import write_archive
from greenedge.frontends.import_onnx import ModelFile
from greenedge.report import summarise, write_report
from greenedge.run.custody import open_run
from greenedge.run.jobs import jobs_for
from greenedge.run.loop import run_job
from greenedge.run.manifest import load_manifest, lock_run, staging_dir
from greenedge.run.runs import infer, verify_again
from tests.lower.several_inputs import CASES, draw

USED = {  # the stages that a verb uses
    "verify": ("2-export", "3-lower", "4-build"),
    "infer": ("3-lower", "4-build"),
    "infer graph": ("3-lower",),
    "report": ("2-export", "3-lower", "4-build", "5-verify"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[Path]:
    """A finished run of the small model by the fake back end."""
    folder = tmp_path_factory.mktemp("custody")
    with pytest.MonkeyPatch.context() as patch:
        fakes.install(patch)
        np.save(folder / "x.npy", np.random.default_rng(3).integers(0, 15, (20, 6)).astype(np.float32))
        np.save(folder / "y.npy", np.arange(20) % 3)
        source = ModelFile(fakes.write_model(folder / "small.onnx"), folder / "x.npy", folder / "y.npy")
        run_job(jobs_for(source, [str(fakes.write_board(folder))])[0], folder / "run")
        yield folder / "run"


@pytest.fixture
def run(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def _tell(done, total, text):
    """Nobody watches."""


def _notices(run: Path, verb: str) -> bool:
    """Whether the verb ends in one of our errors, or reports that something is not what was made."""
    try:
        if verb == "verify":
            verify_again(run, _tell)
        elif verb == "report":
            summary = summarise(run)
            page = write_report([run], run.parent / "page.html").read_text()
            assert bool(summary.get("changed")) == ('class="hero equal"' not in page)
            return bool(summary.get("changed"))
        else:
            x = np.load(run.parent / "x.npy") if (run.parent / "x.npy").exists() else np.zeros((2, 6), np.float32)
            np.save(run.parent / "x.npy", x)
            infer(run, run.parent / "x.npy", "graph" if verb == "infer graph" else "build", _tell)
    except GreenedgeError as error:
        assert str(error).endswith("."), str(error)
        return True
    return False


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def _link(path: Path) -> None:
    """The same content, but elsewhere: it can change after it was looked at."""
    aside = path.parent.parent.parent / f"aside-{path.name}"
    shutil.move(path, aside)
    path.symlink_to(aside)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": _flip,
    "cut": _cut,
    "longer": _append,
    "empty": lambda path: path.write_bytes(b""),
    "gone": os.unlink,
    "a link": _link,
}


def _files(run: Path) -> list[str]:
    return sorted(
        path.relative_to(run).as_posix()
        for path in run.rglob("*")
        if path.is_file() and "/" in str(path.relative_to(run))
    )


@pytest.mark.parametrize("damage", ["flipped", *(pytest.param(d, marks=pytest.mark.slow) for d in list(DAMAGES)[1:])])
def test_every_file_is_looked_at(made, tmp_path, damage):
    names = [name for name in _files(made) if not name.startswith("7-report") and (made / name).stat().st_size]
    assert len(names) >= 16
    missed, count = [], 0
    for number, name in enumerate(names):
        for verb in [verb for verb, stages in USED.items() if name.startswith(stages)]:
            run = tmp_path / f"{number}-{verb.replace(' ', '-')}" / "run"
            shutil.copytree(made, run)
            DAMAGES[damage](run / name)
            count += 1
            if not _notices(run, verb):
                missed.append((name, verb))
            shutil.rmtree(run.parent)
    assert not missed, f"{len(missed)} of {count}"


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Iterator[Path]:
    """A finished run of a model with two inputs by the fake back end."""
    folder = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        fakes.install(patch)
        model = CASES["alike"].model()
        write_archive(folder / "x.npz", draw(model, np.random.default_rng(3), 20))
        source = ModelFile(model.save(folder / "two.onnx"), folder / "x.npz")
        run_job(jobs_for(source, [str(fakes.write_board(folder))])[0], folder / "run")
        yield folder / "run"


@pytest.mark.parametrize("damage", DAMAGES)
def test_samples_of_several_inputs_are_looked_at(several, tmp_path, damage):
    shutil.copytree(several, tmp_path / "run")
    assert not _notices(tmp_path / "run", "verify") and not _notices(tmp_path / "run", "report")
    DAMAGES[damage](tmp_path / "run" / "2-export" / "inputs.npz")
    assert _notices(tmp_path / "run", "report") and _notices(tmp_path / "run", "verify")


def test_samples_of_several_inputs_beside_those_of_one_are_noticed(several, tmp_path):
    shutil.copytree(several, tmp_path / "run")
    np.save(tmp_path / "run" / "2-export" / "inputs.npy", np.zeros((20, 4), np.float32))
    assert _notices(tmp_path / "run", "verify")


def test_the_report_names_several_inputs(several):
    summary = summarise(several)
    assert summary["inputs"] == {"a": [4], "b": [4]}
    assert "The model has 2 inputs: a (4), b (4)." in summary["notes"]
    assert "The model has 2 inputs" in (several / "7-report" / "report.html").read_text()


@pytest.mark.parametrize("verb", USED)
def test_an_untouched_run_is_none_of_it(run, verb):
    assert not _notices(run, verb)


@pytest.mark.parametrize("verb", USED)
def test_a_file_more_is_noticed(run, verb):
    (run / USED[verb][-1] / "more.py").write_text("")
    assert _notices(run, verb)


def _empty_outputs(stages: dict) -> None:
    for record in stages.values():
        record["outputs"] = {}


def _forget_a_file(stages: dict) -> None:
    del stages["build"]["outputs"]["4-build/model.fake"]


def _other_digest(stages: dict) -> None:
    stages["lower"]["outputs"]["3-lower/epilogue.onnx"] = "0" * 64


def _other_input(stages: dict) -> None:
    stages["build"]["inputs"]["3-lower/graph.npz"] = "0" * 64


MANIFESTS: dict[str, Callable[[dict], object]] = {
    "outputs emptied": _empty_outputs,
    "a file less": _forget_a_file,
    "another digest": _other_digest,
    "made from another graph": _other_input,
    "lower interrupted": lambda stages: stages["lower"].update(status="interrupted"),
    "no lower": lambda stages: stages.pop("lower"),
}


@pytest.mark.parametrize("change", MANIFESTS)
def test_a_manifest_that_says_otherwise_is_noticed(run, change):
    data = json.loads((run / "manifest.json").read_text())
    MANIFESTS[change](data["stages"])
    (run / "manifest.json").write_text(json.dumps(data))
    assert _notices(run, "verify") and _notices(run, "infer")


WRONG = {
    "status": "perfect",
    "key": 3,
    "inputs": [],
    "options": 3,
    "tools": {"a": 1},
    "outputs": {"4-build/model.fake": 5},
    "started": 5,
    "seconds": "long",
    "note": {},
    "error": [1],
    "reused_from": 7,
    "more": 1,
}


@pytest.mark.parametrize("key", WRONG)
def test_a_record_of_another_form_is_one_sentence(run, key):
    data = json.loads((run / "manifest.json").read_text())
    data["stages"]["build"][key] = WRONG[key]
    (run / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(GreenedgeError, match="manifest.json is damaged"):
        load_manifest(run)


ABOUT = {
    "source": 3,
    "target": "bench",
    "backend": ["fake"],
    "options": "fps",
    "backend_reason": {},
    "evidence": [],
    "stages": [],
}


@pytest.mark.parametrize("key", ABOUT)
def test_what_a_run_is_about_in_another_form_is_one_sentence(run, key):
    data = json.loads((run / "manifest.json").read_text())
    data[key] = ABOUT[key]
    (run / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(GreenedgeError, match="manifest.json is damaged"):
        load_manifest(run)


def test_a_deep_manifest_is_one_sentence(run):
    (run / "manifest.json").write_text('{"format": ' + "[" * 100_000)
    with pytest.raises(GreenedgeError, match="manifest.json is damaged"):
        load_manifest(run)


def test_less_evidence_than_recorded_is_noticed(run):
    data = json.loads((run / "manifest.json").read_text())
    assert data["evidence"] == {"qonnx": 20, "fake": 20}
    data["evidence"]["netlist"] = 24
    (run / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(VerificationError, match="must be compared on 24 samples in netlist, and only 0 could be"):
        verify_again(run, _tell)
    del data["evidence"]
    (run / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(GreenedgeError, match="does not say what must be compared"):
        verify_again(run, _tell)


def test_a_consistent_forgery_is_planned_again(run):
    """Whoever makes a run can write any digest into its manifest; what greenedge would write is known all the same."""
    from greenedge.files.atomic_write import sha256_file

    graph = run / "4-build" / "graph.json"
    graph.write_text(graph.read_text().replace('"small"', '"large"'))
    data = json.loads((run / "manifest.json").read_text())
    data["stages"]["build"]["outputs"]["4-build/graph.json"] = sha256_file(graph)
    data["stages"]["verify"]["inputs"]["4-build/graph.json"] = sha256_file(graph)
    (run / "manifest.json").write_text(json.dumps(data))
    assert open_run(run, "build")
    with pytest.raises(
        VerificationError, match="graph.json is not what greenedge writes .*, so nothing of the build is run"
    ):
        verify_again(run, _tell)


def test_the_report_of_a_changed_build_says_so(run):
    _flip(run / "4-build" / "model.fake")
    summary = summarise(run)
    assert set(summary["changed"]) == {"build", "verify"} and summary["verify"] == [] and "edge" not in summary
    page = write_report([run], run.parent / "page.html").read_text()
    assert "changed since it was verified" in page and "20 of 20 equal" not in page and 'class="hero open"' in page


def test_forged_figures_are_not_shown(run):
    path = run / "5-verify" / "verify.json"
    data = json.loads(path.read_text())
    data["accuracy"] = dict.fromkeys(data["accuracy"], 1.0)
    path.write_text(json.dumps(data))
    assert summarise(run)["accuracy"] == {}


def test_no_link_is_written_through(run, tmp_path):
    precious, folder = tmp_path / "precious", tmp_path / "folder"
    precious.write_text("mine")
    folder.mkdir()
    (folder / "kept").write_text("mine")
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(precious)
    with pytest.raises(GreenedgeError, match=r"\.lock is no lock that greenedge made; delete it\.$"):
        verify_again(run, _tell)
    (run / ".lock").unlink()
    os.link(precious, run / ".lock")
    with pytest.raises(GreenedgeError, match=r"\.lock is no lock that greenedge made; delete it\.$"), lock_run(run):
        pass
    (run / ".lock").unlink()
    for name in ("5-verify.part", "5-verify.old.part"):
        (run / name).symlink_to(folder)
    verify_again(run, _tell)
    (run / "1-train.part").symlink_to(folder)
    with staging_dir(run / "1-train", keep=True) as work:
        (work / "checkpoint").write_text("new")
    assert precious.read_text() == "mine" and sorted(path.name for path in folder.iterdir()) == ["kept"]


@pytest.mark.parametrize("name", ["3-lower", "4-build", "5-verify"])
def test_no_stage_is_elsewhere(run, tmp_path, name):
    shutil.move(run / name, tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    before = {path: path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()}
    with pytest.raises(GreenedgeError, match="lies outside the run's folder"):
        verify_again(run, _tell)
    assert {path: path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()} == before


@pytest.fixture
def keys(tmp_path) -> tuple[Path, Path]:
    """The files of an SSH key pair, private and public."""
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    encodings = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    (tmp_path / "key").write_bytes(private.private_bytes(*encodings))
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (tmp_path / "key.pub").write_bytes(public + b" somebody@somewhere\n")
    return tmp_path / "key", tmp_path / "key.pub"


def test_a_signed_run_is_handed_on(run, keys, tmp_path):
    private, public = keys
    with pytest.raises(VerificationError, match="is not signed; ask its maker for `greenedge verify run --sign KEY`"):
        verify_again(run, _tell, trust=public)
    verify_again(run, _tell, sign_with=private)
    verify_again(run, _tell, trust=public)  # verifying leaves the signature valid
    verify_again(run, _tell, trust=public)
    data = json.loads((run / "manifest.json").read_text())
    data["stages"]["build"]["outputs"]["4-build/model.fake"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(VerificationError, match="it was changed after it was signed, or somebody else signed it"):
        verify_again(run, _tell, trust=public)
    with pytest.raises(VerificationError, match="model.fake is not the file that was built"):
        verify_again(run, _tell, sign_with=private)


def test_a_file_that_is_no_key_is_one_sentence(run, keys, tmp_path):
    private, public = keys
    with pytest.raises(GreenedgeError, match="key.pub is no Ed25519 private key without a passphrase; make one with"):
        verify_again(run, _tell, sign_with=public)
    assert not (run / "manifest.sig").exists()
    verify_again(run, _tell, sign_with=private)
    with pytest.raises(GreenedgeError, match="key is no Ed25519 public key; give the maker's .pub file"):
        verify_again(run, _tell, trust=private)
    (run / "manifest.sig").write_text("no base64 at all")
    with pytest.raises(VerificationError, match="somebody else signed it"):
        verify_again(run, _tell, trust=public)
