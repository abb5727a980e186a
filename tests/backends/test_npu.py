"""Ethos-U and Edge TPU: what goes into their compilers is the verified file, what comes out is told as their word."""

from __future__ import annotations

import stat

import numpy as np
import pytest

from greenedge.backends.int8 import tflite
from greenedge.backends.int8.tflite import edgetpu, vela
from greenedge.errors import GreenedgeError, ToolError
from greenedge.graph import run_graph
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.backends.graphs import Sketch


def network(rng):
    net = Sketch(rng, (3, 8, 8))
    image = net.step(net.conv("x", 8, (3, 3), pads=(1, 1, 1, 1)), "u4", axis=0)
    image = net.max_pool(net.step(net.conv(image, 8, (3, 3), groups=8), "u4", axis=0), (2, 2))
    return net, net.graph(net.step(net.dense(net.reshape(image, 72), 5), "s8"))


@pytest.mark.tool("vela")
@pytest.mark.parametrize("name", ["ethos-u55-128", "ethos-u65-256", "ethos-u85-256"])
def test_vela_compiles_the_verified_file(rng, tmp_path, name):
    net, graph = network(rng)
    target = load_target(name)
    assert tflite.check(graph, target, {}) == []
    execute(tflite.plan(graph, target, {}), tmp_path / "b")
    feeds = net.values(graph, 20)
    assert np.array_equal(
        tflite.simulate(tmp_path / "b", feeds)[graph.outputs[0]], run_graph(graph, feeds)[graph.outputs[0]]
    )
    told = tflite.report(tmp_path / "b")
    edge, evidence = told["edge"], told["evidence"]
    assert (
        edge["estimated_cycles"] > 100
        and edge["estimated_latency_s"] == edge["estimated_cycles"] / edge["estimated_clock_hz"]
    )
    assert edge["estimated_sram_bytes"] > 0 and edge["npu_bytes"] > 0 and edge["left_to_the_cpu"] == "no layer"
    assert {word for key, word in evidence.items() if key.startswith("estimated_")} == {"estimated by Vela"}
    assert "latency_s" not in edge  # what was not measured has no measured name


@pytest.mark.tool("vela")
def test_layers_left_to_the_cpu_are_named(rng, tmp_path):
    net, graph = network(rng)
    execute(tflite.plan(graph, load_target("ethos-u55-128"), {}), tmp_path / "b")
    layers = tmp_path / "b" / vela.LAYERS
    lines = layers.read_text().splitlines()
    name = lines[-1].split(",")[-1]
    layers.write_text("\n".join([*lines[:-1], lines[-1].replace(",NPU,", ",CPU,")]) + "\n")
    assert tflite.report(tmp_path / "b")["edge"]["left_to_the_cpu"] == f"{name} (FullyConnected)"
    (tmp_path / "b" / vela.LAYERS).unlink()
    with pytest.raises(GreenedgeError, match="per-layer.csv is missing or damaged .*; run the build stage again"):
        tflite.report(tmp_path / "b")


def fake_compiler(folder, text, writes=True, status=0):
    """An edgetpu_compiler that says `text` and writes its product, or fails."""
    path = folder / "edgetpu_compiler"
    product = "cp model.tflite model_edgetpu.tflite" if writes else ":"
    path.write_text(f"#!/bin/sh\n{product}\necho '{text}'\nexit {status}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_without_the_compiler_the_file_is_exact_and_the_report_says_what_is_missing(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(edgetpu.shutil, "which", lambda name: None)
    net, graph = network(rng)
    target = load_target("coral-edge-tpu")
    assert tflite.check(graph, target, {}) == []
    execute(tflite.plan(graph, target, {}), tmp_path / "b")
    feeds = net.values(graph, 20)
    assert np.array_equal(
        tflite.simulate(tmp_path / "b", feeds)[graph.outputs[0]], run_graph(graph, feeds)[graph.outputs[0]]
    )
    told = tflite.report(tmp_path / "b")
    assert (
        told["notes"][0].startswith("edgetpu_compiler is not on PATH: model.tflite is exact")
        and "npu_bytes" not in told["edge"]
    )


def test_the_compiler_is_run_where_it_is(rng, tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    _, graph = network(rng)
    plan = tflite.plan(graph, load_target("coral-edge-tpu"), {})
    fake_compiler(tools, "Number of operations that will run on CPU: 2")
    execute(plan, tmp_path / "b")
    told = tflite.report(tmp_path / "b")
    assert told["edge"]["left_to_the_cpu"] == "2 operators" and told["edge"]["npu_bytes"] > 0
    fake_compiler(tools, "done", writes=False)
    with pytest.raises(ToolError, match="edgetpu_compiler ended with exit status 0 and left no model_edgetpu.tflite"):
        execute(plan, tmp_path / "c")
    fake_compiler(tools, "ERROR: bad model", writes=False, status=1)
    with pytest.raises(ToolError, match="compiling for the Edge TPU ended with exit status 1: ERROR: bad model"):
        execute(plan, tmp_path / "d")


def test_what_the_edge_tpu_cannot(rng):
    net = Sketch(rng, (4, 12, 12))
    image = net.step(net.conv("x", 4, (3, 3), groups=4, dilations=(2, 2)), "u4", axis=0)
    image = net.step(net.conv(net.pad(image, (1, 0, 0, 0, 0, 0)), 4, (3, 3), dilations=(2, 1)), "u4", axis=0)
    graph = net.graph(net.dense(image, 3))
    said = [f"{r.value}; {r.rule} ({r.cure})" for r in tflite.check(graph, load_target("coral-edge-tpu"), {})]
    assert said[-4:] == [
        "a dilated convolution in groups; the Edge TPU has none (use a dilation of 1)",
        "padding of channels; the Edge TPU pads rows and columns (add the channels in the layer before)",
        "dilations (2, 1); the Edge TPU wants the same along both axes (use equal dilations)",
        f"outputs of shape {graph.edges[graph.outputs[0]].shape}; the Edge TPU's dense layer writes one vector "
        f"(use a 1x1 convolution)",
    ]


def test_the_record_of_the_compiler_may_be_damaged(rng, tmp_path):
    _, graph = network(rng)
    execute(tflite.plan(graph, load_target("coral-edge-tpu"), {}), tmp_path / "b")
    (tmp_path / "b" / edgetpu.RECORD).write_text("{")
    with pytest.raises(GreenedgeError, match="edgetpu.json is missing or damaged"):
        tflite.report(tmp_path / "b")
