"""What `check` accepts is planned, built and verified; what it refuses is refused by the build in the same words."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenedge import lower
from greenedge.errors import UnsupportedError, VerificationError
from greenedge.frontends import source
from greenedge.frontends.import_onnx import ModelFile
from greenedge.run.jobs import dry_plan, jobs_for, preflight
from greenedge.run.loop import run_job
from tests.flows.warm_python import warm_python
from tests.lower.networks import networks
from tests.lower.odd_networks import odd_networks
from tests.lower.spellings import respell

FILES = int(os.environ.get("GREENEDGE_FILES", "40"))  # a minute; 2,000 take an hour of a free core
BUILT = {"tflite": "linux-x86", "onnxruntime": "linux-x86", "c99": "cortex-m4"}
PLANNED = {"finn": "ulx3s-85f", "da4ml": "ulx3s-85f", "hls4ml": "pynq-z1"}


_lower_source = lower.lower_source


@contextmanager
def lowering_once() -> Iterator[None]:
    """While it is open, a file is read and lowered once for all back ends."""
    sources, known = cache(source.read_model), {}

    def lower_once(one, declared):
        if id(one) not in known:  # not by its name: every snapped copy is called alike
            known[id(one)] = one, _lower_source(one)
        return known[id(one)][1]

    with (
        mock.patch.object(source, "read_model", sources),
        mock.patch.object(lower, "read_model", sources),
        mock.patch.object(lower, "lower_source", lower_once),
    ):
        yield


def check_file(case, seed: int, folder: Path) -> Counter[str]:
    """Each back end on one network in one spelling; how many were refused, planned and built.

    `check` of every back end is asked; one of BUILT, by turns, builds and verifies the file, the others and one of
    PLANNED plan it.
    """
    model, inputs = case
    spelt, how = respell(model, np.random.default_rng(seed))
    (folder / "m.onnx").write_bytes(spelt.SerializeToString())
    np.save(folder / "x.npy", inputs)
    given = ModelFile(folder / "m.onnx", folder / "x.npy")
    ways = {**BUILT, **dict([list(PLANNED.items())[seed // 3 % len(PLANNED)]])}
    outcomes = Counter[str]()
    try:
        with lowering_once():
            found = {backend: compare_check(given, backend, target) for backend, target in ways.items()}
        built = list(BUILT)[seed % len(BUILT)]
        if found[built] == "planned":
            found[built] = build_file(given, built, BUILT[built], folder / "run")
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error} ({how})") from error
    outcomes.update(f"{backend} {outcome}" for backend, outcome in found.items())
    return outcomes


def compare_check(given: ModelFile, backend: str, target: str) -> str:
    """'refused' by `check` and by the plan, or 'planned'."""
    (found,) = preflight(given, [target], backend, {})
    (job,) = jobs_for(given, [target], backend)
    if not found.reasons:
        dry_plan(job)
        return "planned"
    with pytest.raises(UnsupportedError) as refusal:
        dry_plan(job)
    assert {str(reason) for reason in refusal.value.reasons} <= {str(reason) for reason in found.reasons}
    return "refused"


def build_file(given: ModelFile, backend: str, target: str, run: Path) -> str:
    """'verified', or 'foretold' by a note of `check` about what a runtime's rounding changes."""
    (job,) = jobs_for(given, [target], backend)
    try:
        with warm_python():
            manifest = run_job(job, run, until="verify")
    except VerificationError as error:
        (found,) = preflight(given, [target], backend, {})
        assert found.notes and "certificate" in str(error), f"{found.notes}: {error}"
        return "foretold"
    assert manifest.stages["verify"].status == "done"
    return "verified"


@pytest.mark.slow
@pytest.mark.tool("g++")
@settings(max_examples=FILES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.one_of(networks(), odd_networks()), st.integers(0, 2**32))
def test_what_check_accepts_is_built_and_verified(tmp_path_factory, case, seed):
    folder = tmp_path_factory.mktemp("file")
    check_file(case, seed, folder)
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.tool("g++")
@settings(max_examples=max(1, FILES // 30), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(odd_networks(), st.integers(0, 2**32))
def test_what_check_accepts_is_synthesisable_c(tmp_path_factory, case, seed):
    """hls4ml's C++ is compiled and run; the other FPGA back ends take minutes, and are planned only."""
    folder = tmp_path_factory.mktemp("file")
    model, inputs = case
    spelt, _ = respell(model, np.random.default_rng(seed))
    (folder / "m.onnx").write_bytes(spelt.SerializeToString())
    np.save(folder / "x.npy", inputs)
    given = ModelFile(folder / "m.onnx", folder / "x.npy")
    if compare_check(given, "hls4ml", PLANNED["hls4ml"]) == "planned":
        assert build_file(given, "hls4ml", PLANNED["hls4ml"], folder / "run") == "verified"
    shutil.rmtree(folder)
