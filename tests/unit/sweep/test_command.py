"""`greenedge sweep` as a person and a program meet it, and the same from Python."""

from __future__ import annotations

import json

import fakes
import pytest
from test_rows import install
from typer.testing import CliRunner

from greenedge import api
from greenedge.cli import app
from greenedge.errors import GreenedgeError, TargetError, ToolError


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """The command line in a folder with small.onnx and a board."""
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    fakes.write_model(tmp_path / "small.onnx")
    board = fakes.write_board(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["sweep", *[word.replace("BENCH", str(board)) for word in words]])


def test_a_table_a_page_and_a_status(cli, tmp_path):
    done = cli("small.onnx", "--vary", "build.fps=1,3", "-t", "BENCH", "--study", "s")
    assert done.exit_code == 5, done.output
    assert done.stdout.splitlines()[-1] == "report: s/sweep.html" and "differs: fake differs from" in done.stdout
    assert done.stderr.splitlines()[0] == "1 of 2  fps=1: done"
    again = cli("small.onnx", "--vary", "build.fps=1,3", "-t", "BENCH", "-o", "s", "--json")
    assert again.exit_code == 5 and not again.stderr
    assert [row["status"] for row in json.loads(again.stdout)["rows"]] == ["done", "differs"]


def test_a_model_file_without_a_target_is_lowered(cli):
    done = cli("small.onnx", "--vary", "build.fps=1,2", "--study", "s", "--json")
    rows = json.loads(done.stdout)["rows"]
    assert done.exit_code == 0 and [(row["stage"], row["status"]) for row in rows] == [("lower", "done")] * 2
    assert list(rows[0]["figures"]) == ["weight_bits"]


def test_every_point_refused_is_the_preflights_status(cli):
    assert cli("small.onnx", "--vary", "build.fps=4", "-t", "BENCH").exit_code == 4
    assert cli("small.onnx", "--vary", "build.fps=5", "-t", "BENCH", "--study", "s").exit_code == 1


def test_a_file_with_the_space(cli, tmp_path):
    (tmp_path / "space.toml").write_text('objectives = ["bytes"]\n[vary]\nbuild.fps = [1, 2]\n')
    done = cli("small.onnx", "--space", "space.toml", "-t", "BENCH", "--dry-run")
    assert (done.exit_code, done.stdout) == (0, "fps=1\nfps=2\n2 points\n")
    done = cli("small.onnx", "--space", "space.toml", "-t", "BENCH", "--trials", "1", "--dry-run")
    assert done.stdout == "1 of 2 points, chosen by tpe\n"


def test_a_worker_joins(cli):
    assert cli("small.onnx", "--vary", "build.fps=1,2", "-t", "BENCH", "--study", "s", "--slurm", "--jobs", "1").stdout.startswith("2 points wait in s; 1 workers start with: sbatch ")  # fmt: skip  # noqa: E501
    done = cli("small.onnx", "--study", "s", "--worker")
    assert done.exit_code == 0 and done.stderr.splitlines() == ["1 of 2  fps=1: done", "2 of 2  fps=2: done"]


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["other.onnx", "--study", "s", "--worker"], "s holds a study of '{}/small.onnx', not 'other.onnx'; say that one."),  # noqa: E501
        (["small.onnx", "--study", "t", "--worker"], "t is no study: it has no study.json; begin one with `greenedge sweep SOURCE --space FILE --study t`."),  # noqa: E501
        (["small.onnx", "--worker"], "--worker joins a study; say which with --study DIR."),
        (["small.onnx", "--worker", "--study", "s", "--vary", "a=1"], "--worker takes the space from the study; leave --vary and --space out."),  # noqa: E501
        (["small.onnx", "--worker", "--slurm", "--study", "s"], "--worker and --slurm are different ways to start workers; choose one."),  # noqa: E501
        (["none.onnx", "--vary", "build.fps=1"], "there is no file {}/none.onnx; give a recipe, or the path of a model file."),  # noqa: E501
    ],
)  # fmt: skip
def test_mistakes(cli, tmp_path, words, sentence):
    cli("small.onnx", "--vary", "build.fps=1", "-t", "BENCH", "--study", "s")
    done = cli(*words)
    assert done.exit_code == 1 and done.stderr == f"greenedge: {sentence.format(tmp_path)}\n"


def test_a_study_that_was_damaged(cli, tmp_path):
    cli("small.onnx", "--vary", "build.fps=1", "-t", "BENCH", "--study", "s")
    path = tmp_path / "s" / "study.json"
    path.write_text(path.read_text().replace('"axes": {', '"axes": 3, "x": {'))
    done = cli("small.onnx", "--study", "s", "--worker")
    assert done.exit_code == 1 and "s/study.json is damaged (" in done.stderr and done.stderr.count("\n") == 1


def test_from_python(cli, tmp_path):
    stages = []
    board = str(tmp_path / "boards" / "bench.toml")
    table = api.sweep(
        "small.onnx",
        {"build.fps": [1, 2, 4]},
        board,
        study="s",
        objectives=["weight_bits", "bytes"],
        on_stage=lambda run, summary: stages.append((run.name, summary["stage"])),
        progress=False,
    )
    assert [row["status"] for row in table.rows] == ["done", "done", "refused"] and len(table.front) == 2
    assert table.report.is_file() and ("0000", "build") in stages and stages[-1] == ("0002", "trial")
    assert table._repr_html_().count("<tr>") == 4
    axes = table.plot()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("file (bytes)", "weights (bits)")
    assert sum(len(drawn.get_offsets()) for drawn in axes.collections) == 4  # two points, and the same on the front
    with pytest.raises(GreenedgeError, match=r"^no row has both lut4 and weight_bits; rows have: weight_bits, bytes.$"):
        table.plot(x="lut4")
    with pytest.raises(TargetError, match=r"^build.fps varies over 3; give a list of values, such as \[2, 4, 8\].$"):
        api.sweep("small.onnx", {"build.fps": 3}, board)


def test_a_frame(cli, tmp_path, monkeypatch):
    import sys
    import types

    board = str(tmp_path / "boards" / "bench.toml")
    table = api.sweep("small.onnx", {"build.fps": [1, 4]}, board, study="s", progress=False)
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=list))
    rows = table.to_frame()
    assert [(row["build.fps"], row["status"], row["on_front"]) for row in rows] == [("1", "done", True), ("4", "refused", False)]  # fmt: skip  # noqa: E501
    assert rows[0]["bytes"] > 0 and rows[1]["bytes"] is None
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ToolError, match=r"^a frame is pandas' and pandas is not installed: pip install pandas.$"):
        table.to_frame()
