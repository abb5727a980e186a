"""The folder for a board runs by itself and finds a changed model."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from greenedge.backends import tflite
from greenedge.graph import run_graph
from greenedge.target import load_target
from greenedge.tools import execute
from tests.backends.graphs import Sketch


@pytest.fixture
def built(rng, tmp_path):
    net = Sketch(rng, (2, 5, 4), "s4")
    graph = net.graph(net.step(net.conv("x", 3, (3, 3)), "u4", axis=0))
    execute(tflite.plan(graph, load_target("raspberry-pi-4"), {}), tmp_path / "b")
    return graph, tmp_path / "b" / "deploy"


def ran(folder, *arguments):
    return subprocess.run([sys.executable, "run.py", *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_it_tests_itself_on_both_kernel_sets_and_finds_a_changed_model(built):
    graph, folder = built
    for kernels in ("xnnpack", "reference"):
        done = ran(folder, "--selftest", "--kernels", kernels)
        assert done.returncode == 0 and done.stdout.startswith("576 output integers, 0 differ, sha256 "), (done.stdout, done.stderr)
    content = bytearray((folder / "model.tflite").read_bytes())
    weights = graph.ops[1].weight.transpose(0, 2, 3, 1)
    factor = 127 // int(np.abs(weights).max())
    at = next(content.find((weights * k).astype(np.int8).tobytes()) for k in range(factor, 0, -1)
              if (weights * k).astype(np.int8).tobytes() in content)
    content[at:at + 18] = bytes(18)
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
