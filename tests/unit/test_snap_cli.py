"""The verb snap, as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np

from tests.lower.models import Model


def _greenedge(*words) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "greenedge.cli", *map(str, words)], capture_output=True, text=True, check=False
    )


def test_snap_says_what_changed_and_what_it_cost(tmp_path, rng):
    m = Model((1, 8)).quant(float(np.float32(0.21)), 4)
    m.node("MatMul", m.weight(rng.integers(-7, 8, (8, 3)) * 0.5)).quant(float(np.float32(0.4)), 8)
    m.nodes.sort(key=lambda node: not node.input[0].startswith("c"))
    m.save(tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", rng.normal(0, 1, (20, 8)).astype(np.float32))
    np.save(tmp_path / "y.npy", rng.integers(0, 3, 20))
    words = ("snap", tmp_path / "m.onnx", "-o", tmp_path / "s.onnx", "--bits", "5", "--inputs", tmp_path / "x.npy")
    done = _greenedge(*words, "--labels", tmp_path / "y.npy", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["accuracy"]["samples"] == 20 and result["requantisers"][0]["multiplier_bits"] <= 5
    assert (tmp_path / "s.onnx").stat().st_size > 100
    alone = _greenedge(*words)
    assert (alone.returncode, alone.stderr) == (
        1,
        "greenedge: --inputs and --labels belong together: samples and their classes.\n",
    )
