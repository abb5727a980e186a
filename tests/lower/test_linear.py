"""Layers of products: what a zero point per channel contributes to each output."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.graph import run_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_epilogue, run_prologue
from tests.lower.models import Model


@pytest.mark.parametrize("groups, outputs", [(2, 4), (2, 6), (4, 8), (1, 3)])
def test_grouped_convolutions_of_channels_with_different_zero_points(rng, tmp_path, groups, outputs):
    """Every group subtracts the zero points of its own channels. All scales are powers of two, so float64 is exact."""
    zeros = np.array([0.0, 1.0, 3.0, 7.0]).reshape(1, 4, 1, 1)
    weight = rng.integers(-3, 4, (outputs, 4 // groups, 2, 2))
    assert len(set(np.ravel(weight.sum((1, 2, 3))))) > 1
    m = Model((1, 4, 3, 3)).quant(0.5, 4, signed=0, zero=zeros)
    m.node("Conv", m.weight(weight * 0.5), group=groups).quant(0.25, 8)
    m.nodes.sort(key=lambda node: not node.input[0].startswith("c"))
    lowered = lower_file(m.save(tmp_path / "m.onnx"))
    samples = rng.normal(0, 2, (30, 4, 3, 3)).astype(np.float32)
    (got,) = run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, samples))).values()
    x = 0.5 * (np.clip(np.rint(samples.astype(np.float64) / 0.5 + zeros), 0, 15) - zeros)
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(2, 3)).reshape(
        30, groups, 4 // groups, 2, 2, 2, 2
    )
    real = np.einsum("ngihwab,goiab->ngohw", windows, 0.5 * weight.reshape(groups, -1, 4 // groups, 2, 2))
    expected = 0.25 * np.clip(np.rint(real.reshape(30, outputs, 2, 2) / 0.25), -128, 127)
    assert np.array_equal(got, expected)
