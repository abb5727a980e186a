"""What `check` accepts is built and verified: random networks in random spellings, all the way through."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenedge.errors import UnsupportedError
from greenedge.frontends.import_onnx import ModelFile
from greenedge.run.jobs import jobs_for, preflight
from greenedge.run.loop import run_job
from tests.lower.networks import networks
from tests.lower.spellings import respell

FILES = int(os.environ.get("GREENEDGE_FILES", "15"))  # that are generated and checked for each target
WAYS = {"tflite": "linux-x86", "onnxruntime": "linux-x86", "c99": "cortex-m4"}


@pytest.mark.slow
@pytest.mark.tool("g++")
@pytest.mark.parametrize("backend", WAYS)
@settings(max_examples=FILES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(0, 2**32))
def test_what_check_accepts_is_built_and_verified(tmp_path_factory, backend, case, seed):
    model, inputs = case
    spelt, how = respell(model, np.random.default_rng(seed))
    folder = tmp_path_factory.mktemp("file")
    (folder / "m.onnx").write_bytes(spelt.SerializeToString())
    np.save(folder / "x.npy", inputs)
    source = ModelFile(folder / "m.onnx", folder / "x.npy")
    (found,) = preflight(source, [WAYS[backend]], backend, {})
    (job,) = jobs_for(source, [WAYS[backend]], backend)
    if found.reasons:
        with pytest.raises(UnsupportedError):
            run_job(job, folder / "run", until="build")
    else:
        manifest = run_job(job, folder / "run", until="verify")
        assert manifest.stages["verify"].status == "done", how
    shutil.rmtree(folder)
