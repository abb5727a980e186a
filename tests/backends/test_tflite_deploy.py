"""The folder for a board runs by itself and finds a changed model."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from greenedge.backends.int8 import tflite
from greenedge.backends.int8.tflite.deploy import read_quantiser
from greenedge.backends.interface import FloatEpilogue
from greenedge.graph import run_graph
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.backends.graphs import Sketch


@pytest.fixture
def built(rng, tmp_path):
    net = Sketch(rng, (2, 5, 4), "s4")
    graph = net.graph(net.step(net.conv("x", 3, (3, 3)), "u4", axis=0))
    execute(tflite.plan(graph, load_target("raspberry-pi-4"), {}), tmp_path / "b")
    return graph, tmp_path / "b" / "deploy"


def ran(folder, *arguments):
    return subprocess.run(
        [sys.executable, "run.py", *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_it_tests_itself_on_both_kernel_sets_and_finds_a_changed_model(built):
    graph, folder = built
    for kernels in ("xnnpack", "reference"):
        done = ran(folder, "--selftest", "--kernels", kernels)
        assert done.returncode == 0 and done.stdout.startswith("576 output integers, 0 differ, sha256 "), (
            done.stdout,
            done.stderr,
        )
    content = bytearray((folder / "model.tflite").read_bytes())
    weights = graph.ops[1].weight.transpose(0, 2, 3, 1)
    factor = 127 // int(np.abs(weights).max())
    at = next(
        content.find((weights * k).astype(np.int8).tobytes())
        for k in range(factor, 0, -1)
        if (weights * k).astype(np.int8).tobytes() in content
    )
    content[at : at + 18] = bytes(18)
    (folder / "model.tflite").write_bytes(content)
    assert ran(folder, "--selftest").returncode == 1


def test_it_runs_samples_and_refuses_others(built, rng):
    graph, folder = built
    x = rng.integers(-8, 8, (5, 2, 5, 4))
    np.save(folder / "x.npy", x)
    assert ran(folder, "x.npy", "-o", "y.npy").returncode == 0
    assert np.array_equal(np.load(folder / "y.npy"), run_graph(graph, x)[graph.outputs[0]])
    np.save(folder / "x.npy", x + 8)
    assert ran(folder, "x.npy").stderr.strip().endswith("the input must be integers -8 to 7 of shape (N, 2, 5, 4)")


def test_it_takes_floats_where_one_quantiser_makes_the_integers(rng, tmp_path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    net = Sketch(rng, (6,), "s4")
    graph = net.graph(net.step(net.dense("x", 3), "u4"))
    constants = {"scale": 0.3, "zero": 1.0, "lo": -8.0, "hi": 7.0}

    def prologue(**changed):
        held = [
            numpy_helper.from_array(np.asarray(value, np.float32), name)
            for name, value in {**constants, **changed}.items()
        ]
        nodes = [
            helper.make_node(kind, inputs, [out], **more)
            for kind, inputs, out, more in (
                ("Div", ["f", "scale"], "a", {}),
                ("Add", ["a", "zero"], "b", {}),
                ("Clip", ["b", "lo", "hi"], "c", {}),
                ("Round", ["c"], "d", {}),
                ("Cast", ["d"], "x", {"to": TensorProto.INT64}),
            )
        ]
        ends = (
            helper.make_tensor_value_info("f", TensorProto.FLOAT, [1, 6]),
            helper.make_tensor_value_info("x", TensorProto.INT64, [1, 6]),
        )
        return helper.make_model(helper.make_graph(nodes, "prologue", *([end] for end in ends), held))

    assert read_quantiser(None) is None and read_quantiser(prologue(scale=np.full(6, 0.3))) is None
    found = read_quantiser(onnx.shape_inference.infer_shapes(prologue()))
    assert found == {**constants, "scale": float(np.float32(0.3))}
    execute(tflite.plan(graph, load_target("raspberry-pi-4"), {}, FloatEpilogue(quantiser=found)), tmp_path / "b")
    folder = tmp_path / "b" / "deploy"
    x = np.concatenate([rng.normal(size=(20, 6)), np.full((1, 6), 0.15), np.full((1, 6), 1e9)]).astype(np.float32)
    np.save(folder / "x.npy", x)
    assert ran(folder, "x.npy", "-o", "y.npy").returncode == 0
    levels = np.rint(np.clip(x / np.float32(0.3) + np.float32(1), -8, 7)).astype(np.int64)
    assert np.array_equal(np.load(folder / "y.npy"), run_graph(graph, levels)[graph.outputs[0]])
    np.save(folder / "x.npy", x * np.nan)
    assert (
        ran(folder, "x.npy")
        .stderr.strip()
        .endswith("the input must be integers -8 to 7 or finite floats of shape (N, 6)")
    )
