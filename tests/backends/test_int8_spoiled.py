"""What lies beside and in a built 8-bit file may come from anybody: one sentence, never a crash."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from greenedge.backends.int8 import onnxruntime, tflite
from greenedge.errors import GreenedgeError
from greenedge.runtimes import open_runtime
from greenedge.target import load_target
from tests.backends.nets import inputs, mlp

BACKENDS = {"onnxruntime": (onnxruntime, "model.onnx", "onnxruntime"), "tflite": (tflite, "model.tflite", "litert")}


@pytest.fixture(params=sorted(BACKENDS))
def built(request, rng, tmp_path):
    """(back end, its model file, runtime, graph) of a small network as planned, the self-test's record written by
    hand."""
    module, file, runtime = BACKENDS[request.param]
    graph = mlp(rng)
    for name, content in module.plan(graph, load_target("linux-x86"), {}).files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    counted = {"pairs": 9, "ties": 1, "mismatches": 0}
    record = {
        "runtime": "r",
        "version": "1",
        "kernels": dict.fromkeys(("mlas", "xnnpack", "reference"), counted),
        "left_to_builtins": {},
    }
    (tmp_path / "selftest.json").write_text(json.dumps(record))
    return module, tmp_path / file, runtime, graph


def sentence(call) -> str:
    with pytest.raises(GreenedgeError) as error:
        call()
    assert "\n" not in str(error.value) and str(error.value).endswith("; run the build stage again.")
    return str(error.value)


@pytest.mark.parametrize("keep", [(), ("act1",)])
def test_a_file_of_noise_never_takes_us_with_it(rng, built, keep):
    module, path, _, graph = built
    content = path.read_bytes()
    for k in range(5):
        noisy = bytearray(content)
        for at in rng.integers(0 if k % 2 else 8, len(content), (1, 40)[k % 2]):
            noisy[at] = rng.integers(256)
        path.write_bytes(noisy)
        try:
            module.simulate(path.parent, inputs(rng, graph, 2), keep)
        except GreenedgeError as error:
            assert "\n" not in str(error)


def test_the_runtime_in_our_own_process_says_it_too(rng, built):
    _, path, runtime, graph = built
    path.write_bytes(path.read_bytes()[:40])
    text = sentence(lambda: open_runtime(runtime, graph, path))
    assert text.startswith(f"{path} "), text


@pytest.mark.parametrize(
    "edges, says",
    [
        ([1], "edges.json is missing or damaged (it is no table)"),
        ("[[" * 3000, "edges.json is missing or damaged (its brackets are nested too deep"),
        ({"edges": 3}, "edges.json is damaged (it has no edges)"),
        ({"edges": {}}, "edges.json is damaged (its inputs are no edges)"),
        ({"outputs": 7}, "edges.json is damaged (its outputs are no edges)"),
        ({"format": 1}, "edges.json is damaged (its format is 1)"),
        ({"x": {"offset": "a"}}, "edges.json is damaged ('offset' of 'x' is no integer)"),
        ({"x": {"shape": [1 << 40]}}, "edges.json is damaged ('shape' of 'x' is no list of integers)"),
    ],
)
def test_damaged_edges_are_one_sentence(rng, built, edges, says):
    module, path, _, graph = built
    place = path.with_name("edges.json")
    good = json.loads(place.read_text())
    if isinstance(edges, dict):
        named = {"edges": {**good["edges"], "x": {**good["edges"]["x"], **edges.get("x", {})}}}
        edges = {**good, **named, **{key: value for key, value in edges.items() if key != "x"}}
    place.write_text(edges if isinstance(edges, str) else json.dumps(edges))
    assert says in sentence(lambda: module.simulate(path.parent, inputs(rng, graph, 2)))


@pytest.mark.parametrize("record", ["certificate.json", "selftest.json"])
def test_damaged_records_are_one_sentence(built, record):
    module, path, _, _ = built
    module.report(path.parent), module.proof(path.parent)
    for content in ("{}", '{"layers": [3], "kernels": 4}', "no JSON"):
        path.with_name(record).write_text(content)
        for call in (module.report, module.proof):
            assert " damaged (" in sentence(lambda call=call: call(path.parent))


@pytest.mark.parametrize(
    "more, says",
    [
        ({"x": {"order": [1]}}, "the shapes of 'x' do not go together"),
        ({"x": {"file": [1, 3]}}, "the shapes of 'x' do not go together"),
        (
            {"floats": {"y": {"tensor": 0, "edge": "nowhere", "softmax": True}}},
            "its float outputs are no tensors of edges",
        ),
        (
            {"floats": {"y": {"tensor": 1, "edge": "x", "softmax": True}}},
            "model.tflite does not hold 'y' as edges.json says",
        ),
    ],
)
def test_what_only_tflite_has_is_checked_too(rng, tmp_path, more, says):
    graph = mlp(rng)
    files = tflite.plan(graph, load_target("linux-x86"), {}).files
    good = json.loads(files["edges.json"])
    edges = {**good["edges"], "x": {**good["edges"]["x"], **more.get("x", {})}}
    (tmp_path / "model.tflite").write_bytes(files["model.tflite"])
    (tmp_path / "edges.json").write_text(json.dumps({**good, "edges": edges, "floats": more.get("floats", {})}))
    assert says in sentence(lambda: tflite.float_outputs(tmp_path, inputs(rng, graph, 2)))


def _behind(content: bytes, kind: int) -> bytes:
    """The file with its output cast to that kind."""
    tree = onnx.load_model_from_string(content)
    output = tree.graph.output[0]
    next(node for node in tree.graph.node if output.name in node.output).output[0] = "before"
    tree.graph.node.append(helper.make_node("Cast", ["before"], [output.name], to=kind))
    output.type.tensor_type.elem_type = kind
    return tree.SerializeToString()


def _elsewhere(content: bytes) -> bytes:
    """The file with a constant, in a node's attribute, whose bytes lie in another file."""
    tree, tensor = onnx.load_model_from_string(content), numpy_helper.from_array(np.zeros(3, np.float32), "c")
    onnx.external_data_helper.set_external_data(tensor, "/etc/hostname")
    tensor.ClearField("raw_data")
    tree.graph.node.append(helper.make_node("Constant", [], ["hidden"], value=tensor))
    return tree.SerializeToString()


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda content: content.replace(b"act2", b"\xff\xfe\xfd\xfc"), "model.onnx is no ONNX file"),
        (lambda content: content.replace(b"QGemm", b"\xff\xfe\xfd\xfc\xfb"), "model.onnx is no ONNX file"),
        (
            lambda content: _behind(content, TensorProto.STRING),
            "model.onnx cannot be run by ONNX Runtime (its outputs are not all numbers)",
        ),
        (lambda content: _behind(content, TensorProto.FLOAT), "model.onnx does not hold 'act2' as edges.json says"),
        (_elsewhere, "model.onnx keeps its weights in other files"),
    ],
)
def test_an_onnx_file_that_parses_and_is_none_of_ours(rng, tmp_path, spoil, says):
    graph = mlp(rng)
    for name, content in onnxruntime.plan(graph, None, {}).files.items():
        (tmp_path / name).write_bytes(spoil(content) if name == "model.onnx" else content)
    assert says in sentence(lambda: onnxruntime.simulate(tmp_path, inputs(rng, graph, 2)))
    assert sentence(lambda: open_runtime("onnxruntime", graph, tmp_path / "model.onnx").run(inputs(rng, graph, 2)))
