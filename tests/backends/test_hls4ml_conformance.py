"""The twelve networks of the conformance benchmark, from QONNX to the C simulation: every integer equals the
graph's.
"""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.tool("g++")]
_NAMES = (
    "mlp w4a4",
    "mlp w4a4 powers of two",
    "mlp w4a4 per channel",
    "mlp w2a2",
    "mlp w8a8",
    "mlp ternary",
    "mlp binary",
    "cnn w4a4",
    "cnn w8a8 per channel",
    "depthwise w4a4",
    "residual w4a4",
    "sequence w4a4",
)


@pytest.fixture(scope="module")
def networks(repo):
    spec = importlib.util.spec_from_file_location("hls_networks", repo / "benchmarks" / "hls_networks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["hls_networks"] = module
    spec.loader.exec_module(module)
    yield {network.name: network for network in module.NETWORKS}, module.export
    del sys.modules["hls_networks"]


def test_every_network_is_named_here(networks):
    assert tuple(networks[0]) == _NAMES


@pytest.mark.parametrize("name", _NAMES)
def test_hls4ml_gives_the_graphs_integers(networks, tmp_path, name):
    from greenedge.backends import hls4ml
    from greenedge.graph import run_graph
    from greenedge.legalise import legalise
    from greenedge.lower import lower_file
    from greenedge.lower.float_io import run_prologue
    from greenedge.target import load_target
    from greenedge.tools.run import execute

    known, export = networks
    x = export(known[name], tmp_path / "model.onnx", 200)
    lowered = legalise(lower_file(tmp_path / "model.onnx"), hls4ml.BACKEND.passes)
    target = load_target("vcu118")
    assert hls4ml.check(lowered.graph, target, {}) == []
    execute(hls4ml.plan(lowered.graph, target, {"synthesis": "no"}), tmp_path / "build")
    integers = next(iter(run_prologue(lowered, x).values()))
    expected = run_graph(lowered.graph, integers)[lowered.graph.outputs[0]]
    assert len(np.unique(expected)) > 4  # the network does something
    assert np.array_equal(hls4ml.simulate(tmp_path / "build", integers)[lowered.graph.outputs[0]], expected)
