"""The verbs as a person or a program meets them: what they print, how they end, and the whole sentence for each
mistake."""

import json
import os
import subprocess
import sys

import fakes
import numpy as np
import pytest
from typer.testing import CliRunner

from greenedge.backends import BACKENDS
from greenedge.cli import app
from greenedge.run.jobs import list_recipes
from greenedge.target import list_targets


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Runs the command line in an empty folder; the board 'bench' with the fake back end lies beside it."""
    fakes.install(monkeypatch)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    fakes.write_board(tmp_path)

    def run(*words):
        return CliRunner().invoke(
            app, [str(word).replace("BENCH", str(tmp_path / "boards" / "bench.toml")) for word in words]
        )

    return run


@pytest.fixture
def model(cli):
    return fakes.write_model("small.onnx")


def test_build_verify_infer_report(cli, model):
    done = cli("build", "small.onnx", "--target", "BENCH", "-o", "run")
    assert (done.exit_code, done.stdout) == (0, "report: run/7-report/report.html\n"), done.output
    assert done.stderr.startswith("small → bench\n")
    again = cli("build", "small.onnx", "--target", "BENCH", "-o", "run")
    assert again.stderr.count("unchanged") == 5

    done = cli("verify", "run", "--json")
    assert done.exit_code == 0
    assert [entry["mismatches"] for entry in json.loads(done.stdout)[0]["verify"]] == [0, 0]

    done = cli("infer", "run", "--inputs", "run/2-export/inputs.npy", "-o", "y.npy")
    assert (done.exit_code, done.stdout) == (0, "y.npy: 100 × 3 from build\n")
    assert np.load("y.npy").shape == (100, 3)

    done = cli("report", "run", "-o", "page.html")
    assert (done.exit_code, done.stdout) == (0, "report: page.html\n")


def test_without_out_a_run_goes_below_runs(cli, model):
    assert cli("build", "small.onnx", "--target", "BENCH").stdout == "report: runs/small/report.html\n"
    assert os.path.isfile("runs/small/bench/7-report/summary.json")


def test_json_for_machines(cli, model):
    done = cli("build", "small.onnx", "-t", "BENCH", "-o", "run", "--json")
    document = json.loads(done.stdout)
    assert document["report"] == "run/7-report/report.html"
    assert document["runs"][0]["summary"]["edge"]["runtime"] == "fake"
    document = json.loads(cli("targets", "ulx3s-85f", "--json").stdout)
    assert (document["clock_pin"], document["device"]["resources"]["lut4"]) == ("G2", 83640)
    assert [target["name"] for target in json.loads(cli("targets", "--json").stdout)] == list_targets()
    done = cli("build", "nosuch.onnx", "-t", "BENCH", "--json")
    assert json.loads(done.stdout)["error"] == {
        "kind": "GreenedgeError",
        "exit_code": 1,
        "message": "nosuch.onnx does not exist; give the path of an ONNX file.",
    }


def test_check(cli, model):
    done = cli("check", "small.onnx", "--target", "BENCH")
    assert (done.exit_code, done.stdout) == (
        0,
        "small.onnx is a QONNX file.\n"
        "small.onnx can be built for bench by fake: 4 layers, 180 weight bits, accumulators of up to 9 bits.\n",
    )


def test_dry_run_prints_commands_and_runs_none(cli, model):
    done = cli("build", "small.onnx", "--target", "BENCH", "--dry-run")
    lines = done.stdout.splitlines()
    assert done.exit_code == 0 and lines[0].startswith("# bench: 2 files, plan ") and lines[-1] == "# gives model.fake"
    assert lines[1].startswith("'{python}' -c ")
    assert not os.path.exists("runs")


def test_a_flipped_weight(cli, model, tmp_path):
    cli("build", "small.onnx", "--target", "BENCH", "-o", "run")
    fakes.flip_one_weight(tmp_path / "work" / "run" / "4-build")
    done = cli("verify", "run")
    assert done.exit_code == 5
    assert (
        done.stderr.startswith("greenedge: fake differs from the integer graph on ")
        and "layer fc1: expected [" in done.stderr
    )


TARGETS = ", ".join(list_targets())


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["build", "nosuch.onnx", "-t", "BENCH"], 1, "nosuch.onnx does not exist; give the path of an ONNX file."),
        (["check", "nosuch.onnx", "-t", "BENCH"], 1, "nosuch.onnx does not exist; give the path of an ONNX file."),
        (
            ["build", "text.onnx", "-t", "BENCH"],
            1,
            "text.onnx is not an ONNX file; export one with brevitas.export.export_qonnx.",
        ),
        (
            ["check", "small.onnx", "-t", "ulx3s"],
            1,
            f"there is no target 'ulx3s' (did you mean 'ulx3s-85f'?); targets are: {TARGETS}.",
        ),
        (["targets", "ice"], 1, f"there is no target 'ice'; targets are: {TARGETS}."),
        (["targets", "nosuch.toml"], 1, "nosuch.toml: there is no such board file."),
        (
            ["build", "small.onnx"],
            1,
            "no target: say --target NAME (`greenedge targets` lists them), or --until lower to stop before the build.",
        ),
        (["check", "small.onnx"], 1, "no target: say --target NAME; `greenedge targets` lists them."),
        (
            ["build", "small.onnx", "-t", "BENCH", "--backend", "finn"],
            1,
            "bench cannot be built by 'finn'; its back ends are: fake.",
        ),
        (
            ["build", "small.onnx", "-t", "BENCH", "--backend", "nosuch"],
            1,
            f"there is no back end 'nosuch'; back ends are: {', '.join(sorted({*BACKENDS, 'fake'}))}.",
        ),
        (
            ["run", "digit-mlp", "-t", "BENCH"],
            1,
            "there is no recipe 'digit-mlp' (did you mean 'digits-mlp'?); recipes are: "
            f"{', '.join(list_recipes())}; a folder with a flow.toml is one too.",
        ),
        (
            ["run", "digits-mlp", "--set", "epochs"],
            1,
            "--set 'epochs' is not understood; write KEY=VALUE, such as train.epochs=20 or build.fps=100000.",
        ),
        (
            ["verify", "nosuch"],
            1,
            "nosuch is no run: it has no manifest.json; `greenedge run` and `greenedge build` make one.",
        ),
        (
            ["infer", "nosuch", "--inputs", "wide.npy"],
            1,
            "nosuch is no run: it has no manifest.json; `greenedge run` and `greenedge build` make one.",
        ),
        (
            ["report", "nosuch"],
            1,
            "nosuch is no run: it has no manifest.json; `greenedge run` and `greenedge build` make one.",
        ),
        (["build", "small.onnx", "-t", "BENCH", "--inputs", "nosuch.npy"], 1, "there is no file nosuch.npy."),
        (
            ["build", "small.onnx", "-t", "BENCH", "--inputs", "wide.npy"],
            1,
            "wide.npy has shape (4, 7); input 'x' wants ('samples', 6).",
        ),
        (
            ["build", "small.onnx", "-t", "BENCH", "--inputs", "objects.npy"],
            1,
            "objects.npy is no .npy file of numbers (it holds object); write it with numpy.save.",
        ),
        (
            ["build", "small.onnx", "-t", "BENCH", "--inputs", "x.npy", "--labels", "wide.npy"],
            1,
            "wide.npy has shape (4, 7) of float64; labels are 4 whole numbers, one a sample.",
        ),
    ],
)
def test_a_mistake_is_one_sentence(cli, model, words, code, message):
    with open("text.onnx", "w") as file:
        file.write("not a model")
    np.save("wide.npy", np.zeros((4, 7)))
    np.save("x.npy", np.zeros((4, 6)))
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    done = cli(*words)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (code, f"greenedge: {message}"), done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "words", [["nosuch"], ["build"], ["build", "small.onnx", "--nosuch"], ["run", "digits-mlp", "--until", "buld"]]
)
def test_wrong_usage_ends_with_2(cli, words):
    assert cli(*words).exit_code == 2


def test_a_path_out_of_the_flow_folder_is_no_recipe(cli):
    done = cli("run", "..", "-t", "BENCH")
    assert done.exit_code == 1
    assert "there is no recipe '..'" in done.stderr


def test_a_float_model_is_refused_with_the_cure_which_works(cli, shared, tmp_path, rng):
    model = shared / "models" / "mnist_conv_float.onnx"
    done = cli("check", model, "--target", "BENCH")
    assert done.exit_code == 4
    assert "CNTKGraph: a float model, without any quantiser" in done.stderr and "`greenedge quantise" in done.stderr
    done = cli("check", model, "--target", "BENCH", "--json")
    assert done.exit_code == 4 and len(json.loads(done.stdout)[0]["reasons"]) == 1
    np.save(tmp_path / "x.npy", rng.uniform(0, 255, (20, 1, 28, 28)).astype(np.float32))
    done = cli("quantise", model, "--calibrate", tmp_path / "x.npy", "-o", tmp_path / "q.onnx")
    assert done.exit_code == 0 and "3 layers with 8-bit weights" in done.stdout
    assert cli("check", tmp_path / "q.onnx", "--target", "cortex-m4").exit_code == 0


def test_ctrl_c(cli, model, monkeypatch):
    def interrupted(*words, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("greenedge.run.loop.run_job", interrupted)
    done = cli("build", "small.onnx", "-t", "BENCH", "-o", "run")
    assert (done.exit_code, done.stderr) == (
        130,
        "small → bench\ngreenedge: interrupted; the same command goes on from the last finished stage.\n",
    )


def test_a_defect_of_ours_is_a_sentence_too(cli, model, monkeypatch):
    def broken(*words, **more):
        raise ZeroDivisionError

    monkeypatch.setattr("greenedge.run.loop.run_job", broken)
    done = cli("build", "small.onnx", "-t", "BENCH", "-o", "run")
    assert done.exit_code == 70 and "ZeroDivisionError; this is a defect of greenedge" in done.stderr


def test_the_script_is_there():
    done = subprocess.run(
        [sys.executable, "-m", "greenedge.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("greenedge 0.")
