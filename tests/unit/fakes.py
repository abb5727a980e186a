"""A small model, a recipe-free way in, and a back end that really builds and runs it, and can be told to fail.

The fake's product is the graph's arrays, copied by a real command; what it simulates is what lies in the folder then.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np

from greenedge.backends import BACKENDS
from greenedge.backends.interface import Backend
from greenedge.legalise.rules import Rules
from greenedge.tools.plan import Plan

BOARD = """
name     = "bench"
title    = "A bench that computes"
kind     = "cpu"
device   = "x86-64"
backends = ["fake"]

[source]
device = "made up for tests"
"""
COPY = "import shutil; shutil.copyfile('graph.npz', 'model.fake')"


def write_model(path: Path, features: int = 6, hidden: int = 5, classes: int = 3) -> Path:
    """Dense-ReLU-Dense as QONNX: 4-bit inputs, weights and activations, 8-bit outputs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(7)
    nodes, constants = [], []

    def constant(name, values):
        constants.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def quant(source, name, scale, bits, signed):
        parameters = [constant(f"{name}_s", scale), constant(f"{name}_z", 0.0), constant(f"{name}_b", bits)]
        nodes.append(
            helper.make_node(
                "Quant",
                [source, *parameters],
                [name],
                name=name,
                domain="qonnx.custom_op.general",
                signed=signed,
                narrow=0,
                rounding_mode="ROUND",
            )
        )
        return name

    def dense(source, name, rows, columns):
        weight = quant(constant(f"{name}_w", rng.normal(0, 0.4, (rows, columns))), f"{name}_wq", 0.125, 4.0, 1)
        nodes.append(helper.make_node("MatMul", [source, weight], [name], name=name))
        return name

    x = quant("x", "x_q", 1.0, 4.0, 0)
    x = dense(x, "fc1", features, hidden)
    nodes.append(helper.make_node("Relu", [x], ["relu"], name="relu"))
    x = quant("relu", "act", 0.5, 4.0, 0)
    x = dense(x, "fc2", hidden, classes)
    x = quant(x, "y", 0.25, 8.0, 1)
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, features])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, classes])],
        constants,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("qonnx.custom_op.general", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def write_board(folder: Path) -> Path:
    """A board file whose only back end is the fake."""
    (folder / "boards").mkdir(parents=True, exist_ok=True)
    path = folder / "boards" / "bench.toml"
    path.write_text(BOARD)
    return path


def make_backend(**hooks) -> Backend:
    """A back end that refuses nothing and builds nothing, but for these hooks."""
    required = {
        "name": "fake",
        "stage": "fake",
        "options": ("fps",),
        "rules": Rules("fake", "the fake"),
        "check": lambda graph, target, options: [],
        "plan": lambda graph, target, options, epilogue=None: Plan({}, (), ()),
        "simulate": lambda folder, x, keep=(), progress=None: {},
        "report": lambda folder: {},
        "tools": lambda options: {},
    }
    return Backend(**{**required, **hooks})


def install(monkeypatch, command: str = COPY, version: str = "1", **hooks) -> Backend:
    """Puts the fake among the back ends. `command` is the Python that its one build command runs; `hooks` replace its
    own."""
    own = {
        "plan": lambda graph, target, options, epilogue=None: _plan(graph, command),
        "simulate": _simulate,
        "report": lambda folder: {
            "edge": {"bytes": (folder / "model.fake").stat().st_size, "runtime": "fake"},
            "evidence": {"bytes": "counted"},
        },
        "tools": lambda options: {"fake": version},
    }
    module = types.ModuleType("fake_backend")
    module.BACKEND = make_backend(**{**own, **hooks})
    monkeypatch.setitem(BACKENDS, "fake", "fake_backend")
    monkeypatch.setitem(sys.modules, "fake_backend", module)
    return module.BACKEND


def _plan(graph, command: str):
    import tempfile

    from greenedge.graph import save_graph
    from greenedge.tools.plan import Command, Plan

    with tempfile.TemporaryDirectory() as scratch:
        save_graph(graph, Path(scratch))
        files = {name: (Path(scratch) / name).read_bytes() for name in ("graph.json", "graph.npz")}
    return Plan(files, (Command(("{python}", "-c", command), "fake.log", "fake"),), ("model.fake",))


def _simulate(folder: Path, x, keep=(), progress=None):
    """Runs the graph with the arrays of the product."""
    import shutil
    import tempfile

    from greenedge.graph import load_graph, run_graph

    with tempfile.TemporaryDirectory() as scratch:
        shutil.copyfile(folder / "graph.json", Path(scratch) / "graph.json")
        shutil.copyfile(folder / "model.fake", Path(scratch) / "graph.npz")
        return run_graph(load_graph(Path(scratch)), x, keep)


def flip_one_weight(folder: Path) -> None:
    """Changes one weight of the first layer in the product."""
    with np.load(folder / "model.fake") as archive:
        arrays = {key: archive[key] for key in archive.files}
    key = next(key for key in sorted(arrays) if key.endswith(".weight"))
    arrays[key] = arrays[key].copy()
    arrays[key].flat[0] ^= 4
    with open(folder / "model.fake", "wb") as file:
        np.savez_compressed(file, **arrays)
