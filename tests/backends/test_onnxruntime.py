"""The ONNX Runtime back end as a whole: built, run, refused, damaged, doubted. Its operations are in
test_int8_ops.py."""

from __future__ import annotations

import json
import os

import numpy as np
import onnx
import pytest

from greenedge.backends.int8 import onnxruntime as backend
from greenedge.backends.int8.arithmetic import EMULATIONS
from greenedge.backends.int8.onnxruntime.selftest import self_test
from greenedge.errors import GreenedgeError
from greenedge.graph import Dense, Edge, Graph, Input, Requantise, Steps, freeze, run_graph, verify_graph
from greenedge.tools.run import execute
from tests.backends.graphs import Sketch
from tests.backends.nets import inputs, mlp


def written(graph, folder):
    """The plan's files alone."""
    folder.mkdir()
    for name, content in backend.plan(graph, None, {}).files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def convnet(rng):
    sketch = Sketch(rng, (2, 6, 6))
    a = sketch.step(sketch.conv("x", 4, (3, 3), pads=(1, 1, 1, 1)))
    b = sketch.step(sketch.sum_pool(sketch.step(sketch.add(a, a), per_channel=False), (6, 6)))
    return sketch.graph(sketch.step(sketch.dense(sketch.reshape(b, 4), 5), "s4"))


def test_the_built_file_gives_the_graphs_integers_at_every_layer(rng, tmp_path, convnet):
    assert backend.check(convnet, None, {}) == []
    assert backend.plan(convnet, None, {}).digest() == backend.plan(convnet, None, {}).digest()
    execute(backend.plan(convnet, None, {}), tmp_path / "build")
    x = inputs(rng, convnet, 130)
    keep = [op.output for op in convnet.ops if op.inputs]
    expected = run_graph(convnet, x, keep=keep)
    told = []
    got = backend.simulate(tmp_path / "build", x, keep, lambda *word: told.append(word))
    assert len(got) == 5 and told[-1] == (130, 130, "ONNX Runtime")
    assert all(np.array_equal(got[edge], expected[edge]) for edge in got)
    report = backend.report(tmp_path / "build")
    assert report["proved"] == "all 14 channels equal on every reachable accumulator (ONNX Runtime on CPU)"
    assert (
        report["edge"]["bytes"] == (tmp_path / "build" / "model.onnx").stat().st_size
        and report["edge"]["operators"]["QGemm"] == 1
    )


def test_the_file_is_plain_onnx(convnet):
    """Its standard operators check and infer shapes with onnx alone; QGemm is ONNX Runtime's own."""
    tree = onnx.load_model_from_string(backend.plan(convnet, None, {}).files["model.onnx"])
    assert {(o.domain, o.version) for o in tree.opset_import} == {
        ("", 13),
        ("com.microsoft", 1),
    } and tree.ir_version == 8
    assert {node.op_type for node in tree.graph.node if node.domain} == {"QGemm"}
    onnx.checker.check_model(tree)


def test_a_flipped_weight_is_seen_in_its_layer(rng, tmp_path, convnet):
    folder = written(convnet, tmp_path / "build")
    x, keep = inputs(rng, convnet, 20), [op.output for op in convnet.ops if op.inputs]
    good = backend.simulate(folder, x, keep)
    tree = onnx.load(folder / "model.onnx")
    tensor = next(t for t in tree.graph.initializer if t.name == "step2/weight")
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 0x40, *tensor.raw_data[1:]])
    onnx.save(tree, folder / "model.onnx")
    bad = backend.simulate(folder, x, keep)
    assert next(edge for edge in keep if edge in bad and not np.array_equal(good[edge], bad[edge])) == "step2"


def test_a_wrong_emulation_withholds_the_certificate(tmp_path, convnet):
    right = self_test()
    assert right["kernels"]["mlas"]["mismatches"] == 0 and right["kernels"]["mlas"]["ties"] > 200
    wrong = self_test({name: {"mlas": EMULATIONS["FULLY_CONNECTED"]["reference"]} for name in EMULATIONS})
    count, pairs = (wrong["kernels"]["mlas"][key] for key in ("mismatches", "pairs"))
    assert count > 0
    folder = written(convnet, tmp_path / "build")
    (folder / "selftest.json").write_text(json.dumps({**wrong, "version": "9.9", "left_to_builtins": {}}))
    assert backend.report(folder)["edge"]["certificate"]["mlas"] == {
        "withheld": f"the arithmetic of onnxruntime 9.9 is not the emulated one: {count:,} of {pairs:,} values "
        f"of the self-test differ"
    }
    assert backend.proof(folder) is None


@pytest.mark.parametrize(
    "damage, says",
    [
        ("noise", "is no ONNX file"),
        ("empty", "is no ONNX file"),
        ("absent", "cannot be read (no such file or directory)"),
        ("swapped", "does not hold "),
        ("operator", "cannot be run by ONNX Runtime ("),
    ],
)
def test_a_damaged_file_is_one_sentence(rng, tmp_path, damage, says):
    graph = mlp(rng)
    folder = written(graph, tmp_path / "build")
    path = folder / "model.onnx"
    content = path.read_bytes()
    other = backend.plan(mlp(rng, (12, 7, 3)), None, {}).files["model.onnx"]
    path.unlink()
    if damage != "absent":
        path.write_bytes(
            {"noise": b"GARB" * 9, "empty": b"", "swapped": other, "operator": content.replace(b"QGemm", b"QGezz")}[
                damage
            ]
        )
    with pytest.raises(GreenedgeError) as error:
        backend.simulate(folder, inputs(rng, graph, 2))
    text = str(error.value)
    assert (
        "\n" not in text
        and text.startswith(str(path))
        and says in text
        and text.endswith("; run the build stage again.")
    )


def test_weights_outside_the_file_are_not_read(rng, tmp_path):
    folder = written(mlp(rng), tmp_path / "build")
    tree = onnx.load(folder / "model.onnx")
    onnx.external_data_helper.set_external_data(tree.graph.initializer[0], "../../secret")
    (folder / "model.onnx").write_bytes(tree.SerializeToString())
    with pytest.raises(GreenedgeError) as error:
        backend.simulate(folder, inputs(rng, mlp(rng), 2))
    assert str(error.value) == f"{folder / 'model.onnx'} keeps its weights in other files; run the build stage again."


def test_refusals_are_said_at_once(rng):
    weight = freeze(np.ones((4, 2)))
    wide = Graph(
        "g",
        (Input("x", (), "x"), Dense("fc", ("x",), "fc", weight)),
        {"x": Edge("x", (4,), 0, 1000), "fc": Edge("fc", (2,), 0, 4000)},
        ("fc",),
    )
    assert [str(reason) for reason in backend.check(wide, None, {})] == [
        "x: 1,001 levels; int8 holds 256 (cure: quantise to at most 8 bits).",
    ]
    sketch = Sketch(rng, (4, 6, 6), "s8")
    heavy = sketch.add("x", "x", "x", multipliers=(40_000, 1, 1))
    joined = sketch.concat("x", sketch.input("wide", (4, 6, 6), "u8"))
    turned = sketch.conv_transpose(sketch.input("below", (4, 3, 3), "down"), 4, (2, 2), (2, 2), (0, 0, 0, 0), (0, 0))
    graph = sketch.graph(sketch.step(heavy, per_channel=False), joined, sketch.step(turned))
    assert [str(reason) for reason in backend.check(graph, None, {})] == [
        f"{heavy}: branches weighted (40000, 1, 1); together the weights of an addition are at most 32,768 (cure: "
        f"let both branches share one "
        "quantiser).",
        f"{joined}: inputs x -128…127 and wide 0…255; together they must fit 256 levels (cure: let both "
        f"branches share one quantiser).",
        f"{turned}: an input of -12…-3; the zeros between its samples are no int8 there (cure: let the "
        f"quantiser's levels include 0).",
    ]


def test_branches_are_joined_by_what_they_reach(tmp_path, rng):
    """A quantiser's levels may be more than an int8 holds together with the other branch's, and never occur."""
    sketch = Sketch(rng, (4, 3, 3), "u4")
    low = sketch.step("x", "s2", per_channel=False)
    steps = Steps(freeze([1]), freeze([np.minimum(np.arange(1, 256), 16)]), None)
    sketch.ops.append(Requantise("high", ("x",), "high", 0, 0, 255, steps, freeze([0]), freeze([15])))
    sketch.edges["high"] = Edge("high", (4, 3, 3), 0, 15)
    graph = sketch.graph(sketch.concat(low, "high"))
    verify_graph(graph)
    assert backend.check(graph, None, {}) == []
    x = sketch.values(graph, 50)
    got = backend.simulate(written(graph, tmp_path / "build"), x)
    assert all(np.array_equal(got[edge], values) for edge, values in run_graph(graph, x).items())


def test_processors_whose_fast_products_saturate_are_asked_for_exact_ones(tmp_path, monkeypatch):
    from greenedge.backends.int8.onnxruntime import worker

    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(worker.platform, "machine", lambda: "x86_64")
    for text, answer in (
        ("flags\t: sse avx2 avx512f avx512_vnni\n", False),
        ("flags\t: sse avx2 avx_vnni\n", False),
        ("flags\t: sse avx2 avx512f\n", True),
        ("", True),
    ):
        file.write_text(text)
        assert worker.saturates(file) is answer
    assert worker.saturates(tmp_path / "nothing")
    monkeypatch.setattr(worker.platform, "machine", lambda: "aarch64")
    assert not worker.saturates(file)


def test_a_whole_run(tmp_path):
    """From a QONNX file with a softmax at its end to the report; the softmax is the host's."""
    from greenedge.frontends.import_onnx import ModelFile
    from greenedge.run.job import Silent
    from greenedge.run.jobs import jobs_for, run_all
    from greenedge.run.runs import infer
    from tests.lower.models import Model

    model = Model((1, 8)).quant().dense(8, 3).quant(0.3, 8).node("Softmax")
    path = model.save(tmp_path / "soft.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(1).uniform(-2, 2, (12, 8)).astype(np.float32))
    jobs = jobs_for(ModelFile(path, tmp_path / "x.npy"), ["linux-x86"], "onnxruntime")
    (run,), _ = run_all(jobs, tmp_path / "run", "report", lambda job: Silent())
    summary = json.loads((run / "7-report" / "summary.json").read_text())
    assert [entry["mismatches"] for entry in summary["verify"]] == [0, 0]
    assert (
        summary["verify"][-1]["proved"] == "all 3 channels equal on every reachable accumulator (ONNX Runtime on CPU)"
    )
    (shown,) = infer(run, tmp_path / "x.npy", "onnxruntime", lambda *_: None).values()
    assert shown.shape == (12, 3) and np.allclose(shown.sum(axis=1), 1, atol=1e-6)  # float32 softmax


def test_the_golden_file(repo):
    """The digest of one small plan; GOLDEN=1 writes it anew."""
    sketch = Sketch(np.random.default_rng(7), (2, 5, 5))
    a = sketch.step(sketch.conv("x", 3, (3, 3), pads=(1, 1, 1, 1)))
    graph = sketch.graph(sketch.step(sketch.dense(sketch.reshape(a, 75), 4), "s8"))
    golden = repo / "tests" / "golden" / "onnxruntime.txt"
    if os.environ.get("GOLDEN"):
        golden.write_text(backend.plan(graph, None, {}).digest() + "\n")
    assert golden.read_text() == backend.plan(graph, None, {}).digest() + "\n"
