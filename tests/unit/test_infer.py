"""`greenedge infer`: large inputs piece by piece, into .npy or .csv, and the sentence for each mistake."""

import json

import fakes
import numpy as np
import pytest
from typer.testing import CliRunner

from greenedge.cli import app
from greenedge.frontends.samples import ModelInput, open_samples
from greenedge.run import infer as inference
from greenedge.run.runs import infer


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """The command line in a folder with a finished run of the fake back end, and 100 samples in x.npy."""
    fakes.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    fakes.write_board(tmp_path)
    fakes.write_model("small.onnx")

    def run(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    assert run("build", "small.onnx", "--target", "boards/bench.toml", "-o", "run").exit_code == 0
    np.save("x.npy", np.load("run/2-export/inputs.npy"))
    return run


def test_pieces_give_what_the_whole_gives(cli, monkeypatch):
    whole = infer(cli_path("run"), cli_path("x.npy"), "graph", lambda *_: None)
    told = []
    monkeypatch.setattr(inference, "PIECE_SAMPLES", 7)
    (name,) = whole
    for stage in ("build", "graph"):
        written = infer(
            cli_path("run"),
            cli_path("x.npy"),
            stage,
            lambda done, total, text: told.append((done, total)),
            cli_path(f"{stage}.npy"),
        )
        assert np.array_equal(np.load(f"{stage}.npy"), whole[name]) and (written.samples, written.shape) == (100, (3,))
        assert np.load(f"{stage}.npy").dtype == whole[name].dtype
    assert (
        (7, 100) in told
        and told[-1] == (100, 100)
        and told == sorted(told[: len(told) // 2]) + sorted(told[len(told) // 2 :])
    )


def cli_path(name):
    from pathlib import Path

    return Path(name)


def test_only_a_piece_is_in_memory(cli, monkeypatch):
    """The samples are mapped, not read: the array that comes in knows its file."""
    samples = open_samples(cli_path("x.npy"), [ModelInput("x", (6,))])
    assert isinstance(samples["x"], np.memmap)
    monkeypatch.setattr(inference, "PIECE_BYTES", samples["x"][:1].nbytes * 9)
    sizes = [len(piece["x"]) for _, piece in inference.pieces(samples)]
    assert sizes == [9] * 11 + [1] and not isinstance(next(inference.pieces(samples))[1]["x"], np.memmap)


def test_csv_has_a_row_for_each_sample_and_gives_every_float_back(cli, monkeypatch):
    monkeypatch.setattr(inference, "PIECE_SAMPLES", 33)
    done = cli("infer", "run", "--inputs", "x.npy", "-o", "y.csv", "--stage", "graph")
    assert (done.exit_code, done.stdout) == (0, "y.csv: 100 × 3 from graph\n"), done.output
    rows = open("y.csv").read().splitlines()
    (expected,) = infer(cli_path("run"), cli_path("x.npy"), "graph", lambda *_: None).values()
    (name,) = infer(cli_path("run"), cli_path("x.npy"), "graph", lambda *_: None)
    assert rows[0] == f"{name}_0,{name}_1,{name}_2" and len(rows) == 101
    assert np.array_equal(np.array([row.split(",") for row in rows[1:]], np.float32), expected.astype(np.float32))


def test_json(cli):
    document = json.loads(cli("infer", "run", "--inputs", "x.npy", "-o", "y.npy", "--json").stdout)
    assert document == {"file": "y.npy", "samples": 100, "shape": [3], "stage": "build"}
    (values,) = json.loads(cli("infer", "run", "--inputs", "x.npy", "--json").stdout).values()
    assert np.array_equal(np.array(values, np.float32), np.load("y.npy").astype(np.float32))


def _samples(kind):
    if kind == "npz":
        np.savez("bad.npy.npz", a=np.zeros(3), b=np.ones(3))
        import os

        os.rename("bad.npy.npz", "bad.npy")
    elif kind == "text":
        open("bad.npy", "w").write("hello")
    elif kind == "long":  # a header that promises more than there is
        with open("bad.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 64)})
    else:
        np.save("bad.npy", {"scalar": np.float32(3), "none": np.zeros((0, 6)), "words": np.array(["a"])}[kind])


@pytest.mark.parametrize(
    "kind, says",
    [
        ("npz", "bad.npy holds the arrays 'a', 'b', and the model has the input 'x' ('samples', 6); give one array "),
        ("text", "bad.npy is no .npy file of numbers; write it with numpy.save."),
        ("long", "bad.npy says shape (1099511627776, 64) of float32, 281,474,976,710,656 bytes, and holds 0; write"),
        ("scalar", "bad.npy holds one number; give at least one sample, as numbers."),
        ("none", "bad.npy holds 0 samples of float64; give at least one sample, as numbers."),
        ("words", "bad.npy holds 1 samples of <U1; give at least one sample, as numbers."),
    ],
)
def test_samples_that_are_none(cli, kind, says):
    _samples(kind)
    done = cli("infer", "run", "--inputs", "bad.npy", "-o", "y.npy")
    assert done.exit_code == 1 and done.stderr.startswith(f"greenedge: {says}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words, says",
    [
        (("--inputs", "no.npy"), "there is no file no.npy."),
        (
            ("--inputs", "x.npy", "-o", "y.txt"),
            "y.txt does not say how to write; its name must end in .npy, .npz, .csv.",
        ),
        (
            ("--inputs", "x.npy", "--stage", "biuld"),
            "run has no stage 'biuld' to infer with (did you mean 'build'?); it has: build, fake, graph.",
        ),
    ],
)
def test_mistakes(cli, words, says):
    done = cli("infer", "run", *words)
    assert (done.exit_code, done.stderr) == (1, f"greenedge: {says}\n")


def test_several_outputs_go_into_an_archive_or_a_csv_file(tmp_path):
    def parts():
        return iter([{"a": np.ones((2, 2), np.float32), "b": np.zeros((2, 1), np.float32)}] * 2)

    from greenedge.errors import GreenedgeError

    with pytest.raises(GreenedgeError) as error:
        inference.write(tmp_path / "y.npy", 4, parts())
    assert str(error.value) == (
        "an .npy file holds one array and the model has the outputs a, b; name an .npz or a .csv file."
    )
    inference.write(tmp_path / "y.csv", 4, parts())
    assert (tmp_path / "y.csv").read_text() == "a_0,a_1,b_0\n" + "1,1,0\n" * 4
    written = inference.write(tmp_path / "y.npz", 4, parts())
    assert (written.samples, written.shapes) == (4, {"a": (2,), "b": (1,)})
    with np.load(tmp_path / "y.npz") as found:
        assert {name: array.tolist() for name, array in found.items()} == {"a": [[1, 1]] * 4, "b": [[0]] * 4}
        assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


def test_an_error_on_the_way_leaves_no_file(tmp_path):
    def parts():
        yield {"a": np.ones((2, 2), np.float32)}
        raise ValueError("the second piece")

    with pytest.raises(ValueError):
        inference.write(tmp_path / "y.npy", 4, parts())
    assert list(tmp_path.iterdir()) == []
