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
from greenedge.frontends import import_onnx
from greenedge.frontends.post_training import run_float
from greenedge.lower import lower_file
from greenedge.run.quantise import paired_loss, split_samples
from tests.lower.models import Model
from tests.lower.runtime_files import NETWORKS, make_float


def call(*words) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.output


def call_json(*words) -> dict:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


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


@pytest.mark.parametrize("words", [["4"], ["4", "--act-bits", "4"], ["mixed"], ["4", "--finetune"]], ids=" ".join)
def test_fewer_bits_go_the_whole_way(files, tmp_path, words):
    """Brevitas quantises, the file lowers with the bits that the table says, and the same words give the same file."""
    model, x, y = files
    found = []
    for name in ("q", "again"):
        out = tmp_path / f"{name}.onnx"
        given = ["quantise", model, "--calibrate", x, "--labels", y, "-o", out, "--json", "--bits", *words]
        found.append((call_json(*given), out.read_bytes()))
        if "--finetune" in words:  # seconds: once is enough
            break
    (told, content), last = found[0], found[-1]
    assert last[1] == content and told["by"] == "brevitas" and told["finetuned"] == ("--finetune" in words)
    assert told["same_class"] >= (26 if "--act-bits" in words else 32)  # of 40, on random weights
    lowered = lower_file(tmp_path / "q.onnx")
    table = {row["layer"]: row for row in told["sensitivity"]}
    assert {path: row["bits"] for path, row in table.items()} == told["weight_bits"]
    most = {2 ** (bits - 1) - 1 for bits in told["weight_bits"].values()}
    assert {int(np.abs(op.weight).max()) for op in lowered.graph.linears} <= most
    assert told["weight_bytes"] == sum(row["weights"] * row["bits"] for row in table.values()) / 8
    if words == ["mixed"]:
        assert told["weight_bytes"] <= 0.75 * sum(row["weights"] for row in table.values())
    else:
        assert sorted(set(told["weight_bits"].values())) in ([4, 8], [8])
    (ready,) = api.check(tmp_path / "q.onnx", "linux-x86", inputs=np.load(x))
    assert ready.reasons == ()


def test_a_budget_is_kept_or_refused(files, tmp_path):
    model, x, _ = files
    words = ["quantise", model, "--calibrate", x, "-o", tmp_path / "q.onnx", "--bits", "mixed", "--json"]
    told = call_json(*words)
    weights = sum(row["weights"] for row in told["sensitivity"])
    tight = call_json(*words, "--budget-bytes", round(0.6 * weights))
    assert weights / 2 <= tight["weight_bytes"] <= 0.6 * weights < told["weight_bytes"]
    for unit, most in (("bytes", weights // 3), ("luts", 10)):
        code, said = call(*words, f"--budget-{unit}", most)
        assert code != 0 and "is less than its weights take at 4 bits" in said and "Traceback" not in said
    for wrong, why in (
        (["--bits", "5x"], "weights have 2 to 8 bits; say 8, 4 or mixed"),
        (["--bits", "4", "--budget-bytes", "9"], "and --bits is 4; say --bits mixed"),
        (["--act-bits", "9"], "activations have 2 to 8 bits"),
        (["--budget-bytes", "9", "--budget-luts", "9"], "two budgets"),
    ):
        code, said = call(*words[:6], *(["--bits", "mixed"] if wrong[0] == "--budget-bytes" else []), *wrong)
        assert code != 0 and why in said, said


def test_a_float_file_is_built_in_one_go(files, tmp_path):
    """The quantised model lies in the run, a second call makes nothing anew, and other options another model."""
    model, x, y = files
    words = ["build", model, "--calibrate", x, "--bits", "4", "--target", "cortex-m4", "-o", tmp_path / "run"]
    code, told = call(*words)
    assert code == 0 and "samples equal in graph, qonnx, c99" in told, told
    kept = tmp_path / "run" / "2-export" / "model.onnx"
    assert {int(np.abs(op.weight).max()) for op in lower_file(kept).graph.linears} <= {7, 127}
    content = kept.read_bytes()
    code, told = call(*words)
    assert code == 0 and told.count("unchanged") == 5 and kept.read_bytes() == content, told
    code, told = call(*(word if word != "4" else "8" for word in words), "--until", "lower")
    assert code == 0 and kept.read_bytes() != content
    code, told = call("build", model, "--target", "cortex-m4", "--bits", "4")
    assert code != 0 and "gets no samples for that; say --calibrate X.npy" in told


def test_a_float_program_of_torch_goes_the_same_way(tmp_path, rng):
    """A .pt2 file and a module: ordinary PyTorch code, quantised to 4 bits and built."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU6(), nn.Flatten(), nn.Linear(96, 3)
    )
    network.eval()
    x = rng.normal(0, 1, (60, 2, 4, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    program = torch.export.export(network, (torch.from_numpy(x[:1]),))
    torch.export.save(program, tmp_path / "net.pt2")
    words = ["build", tmp_path / "net.pt2", "--calibrate", tmp_path / "x.npy", "--bits", "4", "--target", "cortex-m4"]
    code, told = call(*words, "-o", tmp_path / "run")
    assert code == 0 and "60 samples equal in graph, qonnx, c99" in told, told
    facts = api.quantise(network, x, tmp_path / "q.onnx", bits=4)
    with torch.no_grad():
        wanted = network(torch.from_numpy(x)).numpy().argmax(1)
    assert facts["by"] == "brevitas" and facts["same_class"] >= 50 and len(wanted) == 60


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


def test_a_float_model_that_mixes_samples_is_refused(tmp_path):
    """Its batch of two is read as one sample, and its mean goes over both."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], name="mean", axes=[0], keepdims=1)]
    kind, shapes = onnx.TensorProto.FLOAT, {"x": [2, 4], "y": [1, 4]}
    ends = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "f.onnx")
    np.save(tmp_path / "x.npy", np.ones((40, 4), np.float32))
    code, told = call("quantise", tmp_path / "f.onnx", "--calibrate", tmp_path / "x.npy", "-o", tmp_path / "q.onnx")
    assert code != 0 and "f.onnx cannot be quantised:" in told and "mean" in told and "Traceback" not in told
    assert not (tmp_path / "q.onnx").exists()


def write_transformer(path) -> np.ndarray:
    """A float transformer as torch exports it, with its projections packed and the batch merged; returns samples."""
    import warnings

    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True)
            self.first, self.place = nn.Linear(5, 8), nn.Parameter(0.3 * torch.randn(1, 6, 8))
            self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
            self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.norm(self.encoder(self.first(x) + self.place)).mean(1))

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Net().eval(), (torch.randn(1, 6, 5),), str(path), dynamo=True, verbose=False)
    return np.random.default_rng(1).normal(0, 1, (60, 6, 5)).astype(np.float32)


@pytest.mark.tool("g++")
@pytest.mark.parametrize("bits", ["8", pytest.param("4", marks=pytest.mark.slow)])
def test_a_float_transformer_goes_the_whole_way(tmp_path, bits):
    x = write_transformer(tmp_path / "float.onnx")
    np.save(tmp_path / "x.npy", x)
    words = ["--calibrate", tmp_path / "x.npy", "--bits", bits, "-o", tmp_path / "q.onnx"]
    told = call_json("quantise", tmp_path / "float.onnx", *words, "--json")
    assert told["same_class"] >= 0.8 * told["samples"]
    run = api.build(tmp_path / "q.onnx", "cortex-m4", inputs=x, out=tmp_path / "run", progress=False)
    summary = json.loads((run.folder / "7-report" / "summary.json").read_text())
    assert all(entry["mismatches"] == 0 for entry in summary["verify"])
    kinds = {layer["op"] for layer in json.loads((run.folder / "3-lower" / "lower.json").read_text())["layers"]}
    assert {"MatMul", "Softmax", "Normalise"} <= kinds


def test_points_lost_have_an_interval_that_holds_them(rng):
    """Of two answers to the same questions; drawn again and again, the interval holds the truth as often as it says."""
    before, after = (np.array(bits, bool) for bits in ([1, 1, 1, 0, 0, 1, 1, 1], [1, 0, 0, 1, 0, 1, 1, 1]))
    found = paired_loss(before, after)
    assert found["points"] == pytest.approx(100 / 8) and found["low"] < 0 < found["high"]
    held = 0
    for _ in range(1000):
        draws = rng.choice(3, 400, p=[0.03, 0.01, 0.96])  # right before alone, right after alone, alike
        one = paired_loss(draws != 1, draws != 0)
        held += one["low"] <= 100 * (0.03 - 0.01) <= one["high"]
    assert 0.93 <= held / 1000 <= 0.985
    same = paired_loss(np.ones(900, bool), np.ones(900, bool))
    assert same["points"] == 0 and -0.3 < same["low"] < 0 < same["high"] < 0.3


def test_half_of_many_samples_are_held_back():
    seen, unseen = split_samples(1797)
    assert len(seen) == 898 and len(unseen) == 899 and not np.intersect1d(seen, unseen).size
    assert all(np.array_equal(part, np.arange(150)) for part in split_samples(150))


def test_many_samples_are_spread_over_all():
    """Data may come class by class."""
    assert np.array_equal(import_onnx._spread(7), np.arange(7))
    chosen = import_onnx._spread(5000)
    assert len(chosen) == import_onnx.MOST_CALIBRATED and (chosen[0], chosen[-1]) == (0, 4999)
    assert np.diff(chosen).max() <= 6
