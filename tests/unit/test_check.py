"""Preflight: all reasons at once, from the model and from the back end, without a tool, torch or FINN+."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from greenedge.backends.int8 import preflight_estimate
from greenedge.backends.int8.preflight_estimate import Estimate
from greenedge.backends.preflight import check_model, count_weight_bits, widest_accumulator
from greenedge.errors import UnsupportedError
from greenedge.lower.snap import snap_file
from greenedge.target import load_target
from tests.lower.models import Model


def test_a_model_that_can_be_built(tmp_path):
    m = Model().quant().dense().quant(0.7, 8)
    found = check_model(m.save(tmp_path / "m.onnx"), load_target("linux-x86"), "tflite")
    assert (found.reasons, found.layers) == ((), 3 - 1)
    found.require()


def test_reasons_of_the_back_end_stand_beside(tmp_path):
    m = Model((1, 400)).quant(bits=12).dense(400, 3).quant()  # an input of more levels than int8 has
    found = check_model(m.save(tmp_path / "m.onnx"), load_target("linux-x86"), "tflite")
    assert [reason.node for reason in found.reasons] == ["x"]
    with pytest.raises(UnsupportedError) as error:
        found.require()
    assert error.value.exit_code == 4 and str(error.value).startswith(
        "m.onnx cannot be built for linux-x86 by tflite:\n  x: "
    )


def test_weights_and_accumulators_are_counted(tmp_path):
    from greenedge.lower import lower_file

    m = Model().quant()
    m.node("MatMul", m.weight(np.array([[1.0], [-2.0], [3.5], [0.0]]), 0.5, 4))
    graph = lower_file(m.save(tmp_path / "m.onnx")).graph
    assert count_weight_bits(graph) == 4 * 4  # levels 2, -4, 7, 0
    assert widest_accumulator(graph) == 8  # -13*8 … 13*8 at most


def test_preflight_imports_neither_torch_nor_finn(shared):
    script = (
        "import sys; from pathlib import Path; from greenedge.backends.preflight import check_model; from "
        "greenedge.target import load_target; "
        "found = check_model(Path(sys.argv[1]), load_target('ulx3s-25f'), 'finn'); assert found.reasons == (), "
        "found.reasons; "
        "print(sorted({'torch', 'finn', 'qonnx', 'onnxruntime', 'brevitas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(shared / "models" / "TFC_2W2A.onnx")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("backend", ["tflite", "onnxruntime"])
def test_a_float_bias_at_8_bits_is_told_with_what_may_help(tmp_path, backend):
    """Nothing stands against building it, but an int8 file cannot hold it exactly."""
    rng = np.random.default_rng(3)
    model = Model((1, 24))
    model.quant(scale=0.02, bits=8, signed=0)
    model.node("MatMul", model.weight(rng.integers(-127, 128, (24, 6)) * 0.01, scale=0.01, bits=8))
    model.node("Add", model.constant(rng.uniform(-0.5, 0.5, 6)))
    model.quant(scale=0.0613, bits=8)
    found = check_model(model.save(tmp_path / "w8a8.onnx"), load_target("linux-x86"), backend)
    (note,) = found.notes
    assert not found.reasons
    assert re.fullmatch(
        r"\d of 6 channels tried give another level at \d\.\de-0\d of their accumulators, by one level: "
        r"an 8-bit file holds whole biases and float32 scales only, so verify may end within its certificate instead "
        r"of exact\. `greenedge snap \S+/w8a8\.onnx -o SNAPPED\.onnx --bits 16` may make them fewer, and says what it "
        r"changes\.",
        note,
    )


def test_snap_is_not_advised_for_what_it_wrote(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    model = Model((1, 24))
    model.quant(scale=0.02, bits=8, signed=0)
    model.node("MatMul", model.weight(rng.integers(-127, 128, (24, 6)) * 0.01, scale=0.01, bits=8))
    model.node("Add", model.constant(rng.uniform(-0.5, 0.5, 6)))
    model.quant(scale=0.0613, bits=8)
    snap_file(model.save(tmp_path / "w8a8.onnx"), tmp_path / "snapped.onnx", 16)
    monkeypatch.setattr(preflight_estimate, "estimate", lambda graph, operators: Estimate(6, 3, 1000, 3, 1))
    (note,) = check_model(tmp_path / "snapped.onnx", load_target("linux-x86"), "tflite").notes
    assert note.endswith("instead of exact. Fewer activation bits would make them fewer.")


def test_a_4_bit_model_needs_no_note(tmp_path):
    model = Model((1, 8))
    model.quant()
    model.dense(8, 3)
    model.node("Add", model.constant([0.13, -0.4, 0.77]))
    model.quant(scale=0.5)
    assert check_model(model.save(tmp_path / "w4a4.onnx"), load_target("linux-x86"), "tflite").notes == ()
