"""Layouts from the file to the back ends: channels last as QONNX writes them, and heads that end in a permutation."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from greenedge.backends import load_backend
from greenedge.backends.finn.dialect.lower import require_network
from greenedge.backends.finn.dialect.ops import Reorder
from greenedge.backends.preflight import check_model
from greenedge.frontends.domains import CHANNELS_LAST
from greenedge.graph import Gather, Reshape, Transpose, run_graph, verify_graph
from greenedge.legalise import legalise, legalise_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.target import load_target
from tests.lower.models import Model

BOARDS = {
    "finn": "ulx3s-85f",
    "hls4ml": "pynq-z2",
    "c99": "cortex-m4",
    "tflite": "linux-x86",
    "onnxruntime": "linux-x86",
}


def clip(values, low, high):
    return np.clip(np.rint(values), low, high)


def save_channels_last(path, weight, gamma, outer):
    """quantiser → Conv → BatchNormalization → quantiser → MaxPool → Flatten → MatMul → quantiser, all channels last."""
    m = Model((1, 6, 4, 2)).quant(0.25, 4)
    m.node("Conv", m.weight(weight * 0.5), domain=CHANNELS_LAST, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    params = [m.constant(v) for v in (gamma, np.full(3, 0.3), np.zeros(3), np.ones(3))]
    m.node("BatchNormalization", *params, domain=CHANNELS_LAST, epsilon=0.0).quant(0.5, 4, signed=0)
    m.node("MaxPool", domain=CHANNELS_LAST, kernel_shape=[2, 2], strides=[2, 2])
    m.node("Flatten", axis=1).node("MatMul", m.weight(outer * 0.5)).quant(2.1, 6)
    proto = m.proto()
    proto.opset_import.append(helper.make_opsetid(CHANNELS_LAST, 1))
    onnx.save(proto, path)
    return path


def expect_channels_last(x, weight, gamma, outer):
    levels = np.pad(clip(x / 0.25, -8, 7) * 0.25, ((0, 0), (1, 1), (1, 1), (0, 0)))
    sums = np.zeros((len(x), 6, 4, 3))
    for row in range(3):
        for column in range(3):  # QONNX: weights are (out, row, column, in)
            sums += levels[:, row : row + 6, column : column + 4] @ (weight[:, row, column] * 0.5).T
    acts = clip((sums * gamma + float(np.float32(0.3))) / 0.5, 0, 15) * 0.5
    pooled = acts.reshape(-1, 3, 2, 2, 2, 3).max(axis=(2, 4)).reshape(len(x), -1)
    return clip(pooled @ (outer * 0.5) / float(np.float32(2.1)), -32, 31)


def test_channels_last_from_the_input_to_the_dense_layer(rng, tmp_path):
    """The integers of QONNX's definition; finn needs no layer that puts anything in order."""
    weight, gamma = rng.integers(-3, 4, (3, 3, 3, 2)), np.array([0.7, -1.1, 0.4], np.float32)
    outer = rng.integers(-3, 4, (18, 4))
    path = save_channels_last(tmp_path / "m.onnx", weight, gamma, outer)
    lowered, x = lower_file(path), rng.normal(0, 1, (30, 6, 4, 2)).astype(np.float32)
    (got,) = run_graph(lowered.graph, run_prologue(lowered, x)).values()
    assert np.array_equal(got, expect_channels_last(x, weight, gamma.astype(float), outer))
    network = require_network(legalise_graph(lowered.graph, load_backend("finn").passes))
    assert not any(isinstance(layer, Reorder) for layer in network.layers)
    for name in ("finn", "c99", "tflite", "onnxruntime"):
        assert check_model(path, load_target(BOARDS[name]), name).reasons == ()


def save_head(path, weight):
    """A detector's head: anchors and classes apart, moved behind the pixels; then half of the anchors."""
    m = Model((1, 3, 4, 5)).quant(0.25, 4)
    m.node("Conv", m.weight(weight * 0.5), kernel_shape=[1, 1]).quant(1.1, 6)
    m.node("Reshape", m.constant([-1, 2, 4, 4, 5], np.int64)).node("Transpose", perm=[0, 1, 3, 4, 2])
    return m.node("Gather", m.constant(1, np.int64), axis=1).save(path)


@pytest.mark.parametrize("backend", sorted(BOARDS))
def test_a_head_that_ends_in_a_permutation(rng, tmp_path, backend):
    weight = rng.integers(-3, 4, (8, 3, 1, 1))
    path = save_head(tmp_path / "m.onnx", weight)
    lowered, x = lower_file(path), rng.normal(0, 1, (30, 3, 4, 5)).astype(np.float32)
    legal = legalise(lowered, load_backend(backend).passes)
    verify_graph(legal.graph)
    assert check_model(path, load_target(BOARDS[backend]), backend).reasons == ()
    moved = any(isinstance(op, (Gather, Reshape, Transpose)) for op in legal.graph.ops)
    assert moved == (backend not in ("finn", "hls4ml"))
    sums = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0] * 0.5, clip(x / 0.25, -8, 7) * 0.25)
    levels = clip(sums / float(np.float32(1.1)), -32, 31).astype(np.float32) * np.float32(1.1)
    (got,) = run_epilogue(legal, run_graph(legal.graph, run_prologue(lowered, x))).values()
    assert np.array_equal(got, levels.reshape(30, 2, 4, 4, 5).transpose(0, 1, 3, 4, 2)[:, 1])
