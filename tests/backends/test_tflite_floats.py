"""A model's float end inside the .tflite: probabilities and scores behind the exact integers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from greenedge.backends.int8 import tflite
from greenedge.backends.interface import Alternate, FloatEpilogue
from greenedge.errors import VerificationError
from greenedge.graph import run_graph
from greenedge.lower import lower_file
from greenedge.lower.dequantise import Dequantise, read_epilogue
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.target import load_target
from greenedge.verify.compare import compare_floats
from tests.backends.graphs import Sketch
from tests.lower.models import Model


def model(scale=0.3, **more):
    return Model((1, 8)).quant().dense(8, 3).quant(scale, 8, **more)


def written(lowered, folder, **options):
    target = load_target("linux-x86")
    assert tflite.check(lowered.graph, target, options) == []
    plan = tflite.plan(lowered.graph, target, options, tflite.float_epilogue(lowered, target, options))
    for name, content in plan.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def soft(tmp_path, rng):
    """(lowered, samples, folder) of a small network that ends in a softmax."""
    lowered = lower_file(model().node("Softmax").save(tmp_path / "m.onnx"))
    return lowered, rng.uniform(-2, 2, (70, 8)).astype(np.float32), written(lowered, tmp_path / "b")


@pytest.mark.parametrize("kernels", ["xnnpack", "reference"])
def test_the_file_gives_integers_first_and_then_the_models_softmax(soft, kernels):
    lowered, x, folder = soft
    levels = run_prologue(lowered, x)
    edges = run_graph(lowered.graph, levels)
    ((name, expected),) = run_epilogue(lowered, edges).items()
    (x,) = levels.values()
    assert np.array_equal(
        tflite.simulate(folder, x, kernels=kernels)[lowered.graph.outputs[0]], edges[lowered.graph.outputs[0]]
    )
    ((got_name, (got, within)),) = tflite.float_outputs(folder, x, kernels=kernels).items()
    assert got_name == name and got.dtype == np.float32 and within == 1e-6
    assert compare_floats("epilogue", "tflite", expected, got, within, layer=name).mismatches == 0


def test_operators_are_those_of_the_older_runtime(soft):
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.ModelT.InitFromPackedBuf((soft[2] / "model.tflite").read_bytes(), 0)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    versions = {names[code.builtinCode]: code.version for code in tree.operatorCodes}
    assert versions == {"FULLY_CONNECTED": 5, "DEQUANTIZE": 2, "MUL": 1, "SOFTMAX": 1}
    tensors = [tree.subgraphs[0].tensors[k] for k in tree.subgraphs[0].outputs]
    assert [t.type for t in tensors] == [schema.TensorType.INT8, schema.TensorType.FLOAT32]
    assert tensors[1].name.decode() == soft[0].epilogue.graph.output[0].name


@pytest.mark.parametrize("kernels", ["xnnpack", "reference"])
@pytest.mark.parametrize("narrow, bits, signed", [(0, 8, 1), (1, 8, 1), (1, 4, 1), (0, 8, 0), (0, 3, 0)])
def test_scores_are_the_hosts_bit_for_bit(tmp_path, rng, kernels, narrow, bits, signed):
    made = Model((1, 8)).quant().dense(8, 5).quant(float(np.float32(0.0713)), bits, narrow=narrow, signed=signed)
    lowered = lower_file(made.save(tmp_path / "m.onnx"))
    folder = written(lowered, tmp_path / "b", outputs="float")
    (x,) = run_prologue(lowered, rng.uniform(-2, 2, (300, 8)).astype(np.float32)).values()
    (expected,) = run_epilogue(
        lowered, tflite.simulate(folder, x, kernels=kernels)
    ).values()  # of the file's integers: they are not the matter here
    ((got, within),) = tflite.float_outputs(folder, x, kernels=kernels).values()
    assert within == 0 and np.array_equal(got, expected) and len(np.unique(got)) > 2


def test_scales_per_channel_and_images_with_their_channels_last(tmp_path, rng):
    net = Sketch(rng, (2, 5, 4), "s4")
    graph = net.graph(net.step(net.conv("x", 3, (3, 3)), "s8", axis=0))
    edge = graph.outputs[0]
    scale = np.float32(rng.uniform(0.01, 0.3, (1, 3, 1, 1)))
    carried = (
        Dequantise("scores", edge, scale, np.float32([[[[0.5]], [[-7.25]], [[3]]]])),
        Dequantise("probs", edge, scale, np.float32(0), 0),
    )
    plan = tflite.plan(graph, load_target("linux-x86"), {}, FloatEpilogue(carried))
    for name, content in plan.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    x = rng.integers(-8, 8, (50, 2, 5, 4))
    levels, got = run_graph(graph, x)[edge], tflite.float_outputs(tmp_path, x)
    assert np.array_equal(got["scores"][0], carried[0].apply(levels)) and got["scores"][0].shape == (50, 3, 3, 2)
    assert np.abs(got["probs"][0] - carried[1].apply(levels)).max() < 1e-6
    assert np.array_equal(tflite.simulate(tmp_path, x)[edge], levels)


@pytest.mark.parametrize(
    "options, target, names, says",
    [
        ({}, "linux-x86", 1, []),
        ({"outputs": "integers"}, "linux-x86", 0, []),
        ({"outputs": "float"}, "raspberry-pi-4", 1, []),
        (
            {},
            "ethos-u55-128",
            0,
            ["model.tflite ends at the integers: an accelerator takes no floats, so '{name}' is the host's."],
        ),
    ],
)
def test_which_floats_the_file_carries(soft, options, target, names, says):
    found = tflite.float_epilogue(soft[0], load_target(target), options)
    carried, notes = found.carried, list(found.notes)
    name = soft[0].epilogue.graph.output[0].name
    assert len(carried) == names and notes == [text.format(name=name) for text in says]


def test_what_stays_with_the_host_is_said_beforehand(tmp_path):
    from greenedge.backends.preflight import check_model

    path = model().node("Sigmoid", name="s").save(tmp_path / "m.onnx")
    name = lower_file(path).epilogue.graph.output[0].name
    told = check_model(path, load_target("linux-x86"), "tflite")
    assert told.reasons == () and told.notes[-1] == (
        f"model.tflite ends at the integers of which {name!r} is made; what makes it runs on the host: Sigmoid."
    )


def test_a_softmax_along_another_axis_stays_with_the_host(tmp_path, rng):
    net = Sketch(rng, (4, 6), "u4")
    graph = net.graph(net.step(net.dense("x", 3), "s8"))
    end = Dequantise("probs", graph.outputs[0], np.float32(0.1), np.float32(0), 0)
    from greenedge.backends.int8.tflite.epilogue import is_last_axis

    assert not is_last_axis(graph, end.edge, end.softmax) and is_last_axis(graph, end.edge, 1)


def test_an_unknown_choice_of_outputs_is_refused(soft):
    assert [str(r) for r in tflite.check(soft[0].graph, load_target("linux-x86"), {"outputs": "all"})] == [
        f"{soft[0].graph.name}: build.outputs is 'all'; it is one of softmax, float, integers (cure: leave it "
        f"out for softmax)."
    ]


@pytest.fixture
def run(tmp_path):
    from greenedge.frontends.import_onnx import ModelFile
    from greenedge.run.job import Silent
    from greenedge.run.jobs import jobs_for, run_all

    path = model().node("Softmax").save(tmp_path / "soft.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(1).uniform(-2, 2, (12, 8)).astype(np.float32))
    (run,), _ = run_all(
        jobs_for(ModelFile(path, tmp_path / "x.npy"), ["linux-x86"], "tflite"),
        tmp_path / "run",
        "report",
        lambda job: Silent(),
    )
    return run


def test_a_whole_run_says_what_was_compared_how(run, tmp_path):
    from greenedge.run.runs import infer

    summary = json.loads((run / "7-report" / "summary.json").read_text())
    name = "tflite " + lower_file(tmp_path / "soft.onnx").epilogue.graph.output[0].name
    floats = next(entry for entry in summary["verify"] if entry["candidate"] == name)
    assert (floats["reference"], floats["candidate"], floats["samples"], floats["outputs"]) == ("epilogue", name, 12, 3)
    assert floats["mismatches"] == 0 and floats["within"] == 1e-6 and 0 <= floats["largest"] <= 1e-6
    assert all(entry["within"] is None for entry in summary["verify"] if entry is not floats)
    assert any("behind the exact integers (output 0)" in note for note in summary["notes"])
    page = (run / "7-report" / "report.html").read_text()
    assert "12 of 12 within 1e-06" in page and "behind those integers" in page
    (shown,), (host,) = (
        infer(run, tmp_path / "x.npy", stage, lambda *_: None).values() for stage in ("tflite", "graph")
    )
    assert shown.shape == (12, 3) and shown.dtype == np.float32 and np.abs(shown - host).max() < 1e-6


def test_a_wrong_scale_before_the_softmax_is_rejected_although_every_integer_is_equal(run):
    from greenedge.run.runs import verify_again

    path = run / "4-build" / "model.tflite"
    content, scale = path.read_bytes(), np.float32(0.3).tobytes()
    assert content.count(scale) == 1
    path.write_bytes(content.replace(scale, np.float32(0.31).tobytes()))
    with pytest.raises(VerificationError) as error:
        verify_again(run, lambda *_: None)
    text = str(error.value)
    assert (
        text.startswith("tflite ")
        and " differs from the host's epilogue by more than 1e-06 on " in text
        and "first at sample " in text
    )
    entries = json.loads((run / "5-verify" / "verify.json").read_text())["verify"]
    assert [entry["candidate"] for entry in entries if entry["mismatches"]] == [text.partition(" differs")[0]]


def test_both_kernel_sets_are_compared_and_said(run):
    summary = json.loads((run / "7-report" / "summary.json").read_text())
    told = {entry["candidate"]: entry["proved"] for entry in summary["verify"] if entry["reference"] == "graph"}
    assert told == {
        "tflite": "all 3 channels equal on every reachable accumulator (XNNPACK)",
        "tflite-reference": "all 3 channels equal on every reachable accumulator (the reference kernels)",
    }
    assert summary["beside"] == []
    page = (run / "7-report" / "report.html").read_text()
    assert "Epilogue (host)</b>" not in page  # a tolerance is no link in the chain of equal integers
    assert "TFLite (XNNPACK)" in page and "TFLite (reference kernels)" in page


@pytest.mark.parametrize("claimed", [True, False])
def test_other_kernels_that_differ_stop_a_run_only_where_they_are_proved_equal(run, monkeypatch, claimed):
    from greenedge.run.runs import verify_again

    def wrong(x, progress):
        return {edge: values + 1 for edge, values in tflite.simulate(run / "4-build", x).items()}

    others = {"tflite-reference": Alternate(wrong, None, claimed)}
    monkeypatch.setattr(tflite, "BACKEND", replace(tflite.BACKEND, alternate_runtimes=lambda folder: others))
    if claimed:
        with pytest.raises(
            VerificationError,
            match="tflite-reference differs from the integer graph on 12 of 12 samples; first at sample 0, layer ",
        ):
            verify_again(run, lambda *_: None)
        return
    content = verify_again(run, lambda *_: None)
    assert [(entry["candidate"], entry["mismatches"]) for entry in content["beside"]] == [("tflite-reference", 12)]
    assert not any(entry["mismatches"] for entry in content["verify"])
    assert json.loads((run / "manifest.json").read_text())["stages"]["verify"]["note"].endswith(
        "; tflite-reference differs on 12 of 12"
    )


def test_a_proof_of_another_runtime_is_not_claimed(run):
    path = run / "4-build" / "selftest.json"
    tested = json.loads(path.read_text())
    assert tflite.proof(run / "4-build") is not None
    path.write_text(json.dumps({**tested, "version": "2.0.0"}))
    assert tflite.proof(run / "4-build") is None
    (alternate,) = tflite.alternate_runtimes(run / "4-build").values()
    assert alternate.proof is None and not alternate.must_be_equal


def test_the_board_folder_tests_and_gives_the_softmax(soft):
    lowered, x, folder = soft
    deploy = folder / "deploy"

    def ran(*words):
        argv = [sys.executable, "run.py", *words]
        return subprocess.run(argv, cwd=deploy, capture_output=True, text=True, timeout=120, check=False)

    (end,), _ = read_epilogue(lowered)
    for kernels in ("xnnpack", "reference"):
        done = ran("--selftest", "--kernels", kernels)
        assert done.returncode == 0 and done.stdout.splitlines()[1].startswith(f"{end.output}: floats at most "), (
            done.stdout,
            done.stderr,
        )
    (levels,) = run_prologue(lowered, x).values()
    np.save(deploy / "x.npy", levels)
    assert ran("x.npy", "-o", "p.npy", "--output", end.output).returncode == 0
    assert np.abs(np.load(deploy / "p.npy") - end.apply(run_graph(lowered.graph, levels)[end.edge])).max() < 1e-6
    assert ran().stderr.strip().endswith("error: give samples, X.npy, or --selftest")
    content = (deploy / "model.tflite").read_bytes()
    (deploy / "model.tflite").write_bytes(content.replace(np.float32(0.3).tobytes(), np.float32(0.31).tobytes()))
    assert ran("--selftest").returncode == 1


def test_floats_that_are_none_are_no_pass():
    ones = np.ones((2, 3))
    for got, says in [
        (
            ones[:, :2],
            "tflite gave floats of shape (2, 2), the host's epilogue (2, 3); they must be the same, and of at "
            "least one sample.",
        ),
        (ones * np.nan, "tflite gave NaN or infinity in y; only numbers are compared."),
    ]:
        with pytest.raises(VerificationError) as error:
            compare_floats("epilogue", "tflite", ones, got, 1e-6, layer="y")
        assert str(error.value) == says
    report = compare_floats("epilogue", "tflite", ones, ones + [[0, 0, 0], [0, 2e-6, 0]], 1e-6, layer="y")
    assert report.mismatches == 1 and report.first.sample == 1 and report.first.expected == [1, 1]
