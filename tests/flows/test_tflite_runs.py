"""A .tflite through a whole run: built, compared with LiteRT on the original file, and what must not pass."""

from __future__ import annotations

import json

import numpy as np
import pytest

from greenedge.backends.int8.tflite.runtime import weight_offsets
from greenedge.errors import VerificationError
from greenedge.frontends.import_onnx import ModelFile
from greenedge.graph import run_graph
from greenedge.lower.float_io import run_prologue
from greenedge.progress import no_progress
from greenedge.run.folder import RunFolder
from greenedge.run.jobs import jobs_for
from greenedge.run.loop import run_job
from greenedge.run.manifest import load_manifest
from greenedge.verify.litert_reference import compare_with_litert, find_origin
from greenedge.verify.stage import lower_again
from tests.lower.tflite_files import NETWORKS, PerTensor, turn_uint8


def run_file(tmp_path, rng, name, arithmetic, target):
    net, _, out = NETWORKS[name](rng)
    path = net.save(tmp_path / f"{name}.tflite", out)
    (job,) = jobs_for(ModelFile(path, arithmetic=arithmetic), [target])
    run_job(job, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.tool("g++")
@pytest.mark.parametrize("arithmetic", ["xnnpack", pytest.param("reference", marks=pytest.mark.slow)])
def test_a_run_is_compared_with_litert_on_the_original_file(tmp_path, rng, arithmetic):
    run = run_file(tmp_path, rng, "residual", arithmetic, "linux-x86")
    stage = {"xnnpack": "litert", "reference": "litert-reference"}[arithmetic]
    found = json.loads((RunFolder(run).verify / "verify.json").read_text())["verify"]
    first = next(entry for entry in found if entry["reference"] == stage)
    assert (first["candidate"], first["samples"], first["mismatches"], first["outputs"]) == ("graph", 100, 0, 10)
    words = {"xnnpack": "XNNPACK", "reference": "reference kernels"}[arithmetic]
    assert words in first["proved"] and not any(entry["reference"] == "qonnx" for entry in found)
    about = load_manifest(run).about
    assert about["source"]["arithmetic"] == arithmetic and stage in about["evidence"]
    assert about["backend"] == {"xnnpack": "tflite", "reference": "c99"}[arithmetic]
    assert all(entry["mismatches"] == 0 for entry in found)


@pytest.mark.tool("g++")
@pytest.mark.parametrize("ends", ["uint8", pytest.param("of int8", marks=pytest.mark.slow)])
def test_a_uint8_file_is_compared_with_litert_on_what_it_stores(tmp_path, rng, ends):
    """As one network of uint8, and as one of int8 that gives uint8."""
    net, logits, out = NETWORKS["residual"](rng, PerTensor)
    if ends == "uint8":
        path = turn_uint8(net.save(tmp_path / "u.tflite", out), rng)
    else:
        shape, scale, zero = net.about[logits]
        last = net.tensor(shape, scale, zero + 128, "UINT8")
        net.writer.operator("QUANTIZE", [logits], [last], 2)
        path = net.save(tmp_path / "u.tflite", last)
    (job,) = jobs_for(ModelFile(path), ["cortex-m4"])
    run_job(job, tmp_path / "run")
    found = json.loads((RunFolder(tmp_path / "run").verify / "verify.json").read_text())["verify"]
    assert (found[0]["reference"], found[0]["samples"]) == ("litert", 100)
    assert all(entry["mismatches"] == 0 for entry in found)


@pytest.mark.tool("g++")
def test_a_run_in_real_arithmetic_is_compared_with_its_quantisers_and_not_with_litert(tmp_path, rng):
    run = run_file(tmp_path, rng, "residual", "real", "cortex-m4")
    found = json.loads((RunFolder(run).verify / "verify.json").read_text())
    first = found["verify"][0]
    assert (first["reference"], first["candidate"], first["samples"]) == ("qonnx", "graph", 100)
    assert "litert" not in found["stages"] and all(entry["mismatches"] == 0 for entry in found["verify"])
    assert (
        "qonnx" in load_manifest(run).about["evidence"] and load_manifest(run).about["source"]["arithmetic"] == "real"
    )


@pytest.fixture(scope="module")
def lowered_run(tmp_path_factory):
    rng = np.random.default_rng(5)
    folder = tmp_path_factory.mktemp("run")
    net, _, out = NETWORKS["mobile"](rng)
    job = jobs_for(ModelFile(net.save(folder / "m.tflite", out)), [], until="lower")[0]
    run_job(job, folder / "run", "lower")
    return RunFolder(folder / "run")


def compare(run, original):
    lowered = lower_again(run)
    samples = {"t1": np.load(run.inputs)}
    expected = run_graph(lowered.graph, run_prologue(lowered, samples))
    return compare_with_litert(lowered, find_origin(run), original, samples, expected, {}, no_progress)


def test_another_file_than_the_runs_is_found_out(lowered_run, tmp_path):
    assert compare(lowered_run, lowered_run.original).mismatches == 0
    content = bytearray(lowered_run.original.read_bytes())
    at, size = max(weight_offsets(lowered_run.original).values(), key=lambda pair: pair[1])
    content[at : at + size] = bytes(byte ^ 0x40 for byte in content[at : at + size])
    other = tmp_path / "other.tflite"
    other.write_bytes(content)
    report = compare(lowered_run, other)
    assert report.mismatches > 0
    with pytest.raises(VerificationError, match="graph differs from litert"):
        report.require()


def test_the_other_kernel_set_is_another_function(lowered_run, monkeypatch):
    origin = find_origin(lowered_run)
    monkeypatch.setattr(
        "tests.flows.test_tflite_runs.find_origin", lambda run: type(origin)("reference", origin.tensors)
    )
    assert compare(lowered_run, lowered_run.original).mismatches > 0


def test_a_model_without_the_files_tensors_is_refused(lowered_run, monkeypatch):
    origin = find_origin(lowered_run)
    monkeypatch.setattr("tests.flows.test_tflite_runs.find_origin", lambda run: type(origin)(origin.arithmetic, {}))
    with pytest.raises(VerificationError, match="no tensor that holds the integers"):
        compare(lowered_run, lowered_run.original)
