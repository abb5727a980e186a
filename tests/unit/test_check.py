"""Preflight: all reasons at once, from the model and from the back end, without a tool, torch or FINN+."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from greenedge.check import check_model, weight_bits, widest_accumulator
from greenedge.errors import UnsupportedError
from greenedge.target import load_target
from tests.lower.models import Model


def test_a_model_that_can_be_built(tmp_path):
    m = Model().quant().dense().quant(0.7, 8)
    found = check_model(m.save(tmp_path / "m.onnx"), load_target("linux-x86"), "tflite")
    assert (found.reasons, found.layers) == ((), 3 - 1)
    found.require()


def test_reasons_of_the_back_end_stand_beside(tmp_path):
    m = Model((1, 400)).quant().dense(400, 3)  # accumulators wider than an int8 file's output
    found = check_model(m.save(tmp_path / "m.onnx"), load_target("linux-x86"), "tflite")
    assert [reason.node for reason in found.reasons] == ["MatMul_3"]
    with pytest.raises(UnsupportedError) as error:
        found.require()
    assert error.value.exit_code == 4 and str(error.value).startswith("m.onnx cannot be built for linux-x86 by tflite:\n  MatMul_3: ")


def test_weights_and_accumulators_are_counted(tmp_path):
    from greenedge.lower import lower_file

    m = Model().quant()
    m.node("MatMul", m.weight(np.array([[1.0], [-2.0], [3.5], [0.0]]), 0.5, 4))
    graph = lower_file(m.save(tmp_path / "m.onnx")).graph
    assert weight_bits(graph) == 4 * 4  # levels 2, -4, 7, 0
    assert widest_accumulator(graph) == 8  # -13*8 … 13*8 at most


def test_preflight_imports_neither_torch_nor_finn(shared):
    script = ("import sys; from pathlib import Path; from greenedge.check import check_model; from greenedge.target import load_target; "
              "found = check_model(Path(sys.argv[1]), load_target('ulx3s-25f'), 'finn'); assert found.reasons == (), found.reasons; "
              "print(sorted({'torch', 'finn', 'qonnx', 'onnxruntime', 'brevitas'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", script, str(shared / "models" / "TFC_2W2A.onnx")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
