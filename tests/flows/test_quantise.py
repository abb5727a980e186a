"""A float file, quantised after training, goes the whole way."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper
from typer.testing import CliRunner

from greenedge import api
from greenedge.cli import app
from greenedge.frontends.post_training import run_float
from greenedge.lower import lower_file
from tests.lower.models import Model
from tests.lower.runtime_files import NETWORKS, make_float


def call(*words) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.output


@pytest.fixture
def files(request, tmp_path, rng):
    """(float file, samples, labels that are the float model's own classes)."""
    model = make_float(getattr(request, "param", "residual"), rng)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    onnx.save(model, str(tmp_path / "float.onnx"))
    x = rng.normal(0, 1, (40, *shape)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", run_float(tmp_path / "float.onnx", {"x": x})[0].argmax(axis=1))
    return tmp_path / "float.onnx", tmp_path / "x.npy", tmp_path / "y.npy"


@pytest.mark.parametrize("files", NETWORKS, indirect=True)
def test_the_integers_give_the_float_models_classes(files, tmp_path):
    model, x, y = files
    words = ["quantise", model, "--calibrate", x, "--labels", y, "-o", tmp_path / "q.onnx", "--json"]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["samples"] == 40 and told["float_correct"] == 40
    assert told["same_class"] == told["correct"] >= 36 and told["largest_error"] < 0.1
    assert told["layers"] == len(lower_file(tmp_path / "q.onnx").graph.linears) >= 2


def test_the_cure_of_a_float_model_works(files, tmp_path):
    """What `check` says of a float file is done as it says, and the result builds exactly."""
    model, x, _ = files
    code, told = call("check", model, "--target", "cortex-m4")
    assert code != 0 and "net: a float model, without any quantiser" in told and told.count("cure") == 1
    command = told.partition("run `greenedge ")[2].partition("`")[0]
    paths = {"FLOAT.onnx": model, "SAMPLES.npy": x, "OUT.onnx": tmp_path / "q.onnx"}
    code, told = call(*(paths.get(word, word) for word in command.split()))
    assert code == 0 and told.endswith("q.onnx: check, build and verify it as any other model\n")
    (found,) = api.check(tmp_path / "q.onnx", "cortex-m4", inputs=np.load(x))
    assert found.reasons == ()


def test_what_cannot_be_quantised_is_a_sentence_and_leaves_no_file(files, tmp_path):
    model, x, y = files
    out = tmp_path / "q.onnx"
    done = Model((1, 4)).quant().dense().quant().save(tmp_path / "done.onnx")
    code, told = call("quantise", done, "--calibrate", x, "-o", out)
    assert code != 0 and "done.onnx is quantised already (Quant_1: Quant)" in told
    np.save(tmp_path / "short.npy", np.load(y)[:3])
    code, told = call("quantise", model, "--calibrate", x, "--labels", tmp_path / "short.npy", "-o", out)
    assert code != 0 and "short.npy has 3 labels of type int64 for 40 samples; give one whole number for each." in told
    np.save(tmp_path / "wrong.npy", np.zeros((4, 5), np.float32))
    code, told = call("quantise", model, "--calibrate", tmp_path / "wrong.npy", "-o", out)
    assert code != 0 and "wrong.npy" in told and "Traceback" not in told
    recurrent = onnx.load(str(model))
    recurrent.graph.node.insert(0, helper.make_node("Det", ["x"], ["d"], name="det"))
    recurrent.graph.node[1].input[0] = "d"
    onnx.save(recurrent, str(tmp_path / "det.onnx"))
    code, told = call("quantise", tmp_path / "det.onnx", "--calibrate", x, "-o", out)
    assert code != 0 and "Traceback" not in told
    assert not out.exists() and not list(tmp_path.glob("*.part*"))
