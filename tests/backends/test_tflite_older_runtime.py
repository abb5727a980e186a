"""A machine that has only tflite-runtime, or has it broken: what is taken, and what is said. The packages here are
stand-ins."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from greenedge.backends.int8 import tflite
from greenedge.backends.int8.tflite import worker
from greenedge.errors import ToolError
from greenedge.target import load_target
from tests.backends.nets import inputs, mlp

# Takes any model, one input of 12 and one output of 4; every output is the sample's first value.
WORKS = """
import numpy as np
class OpResolverType: AUTO, BUILTIN_REF = "auto", "ref"
class Interpreter:
    def __init__(self, model_path=None, model_content=None, **more): assert model_path or model_content
    def allocate_tensors(self): pass
    def get_input_details(self): return [{"index": 0, "shape": np.array([1, 12])}]
    def get_output_details(self): return [{"index": OUTPUT, "shape": np.array([1, 4]), "dtype": np.int8}]
    def set_tensor(self, index, x): self.x = x
    def invoke(self): pass
    def get_tensor(self, index): return np.repeat(self.x[:, :1], 4, axis=1)
"""
NUMPY_2 = "def Interpreter(**more):\n    raise SystemError('numpy.core.multiarray failed to import')\n"


@pytest.fixture
def built(rng, tmp_path):
    graph = mlp(rng, (12, 8, 4))
    for name, content in tflite.plan(graph, load_target("raspberry-pi-4"), {}).files.items():
        (tmp_path / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / name).write_bytes(content)
    return graph, tmp_path / "b"


@pytest.fixture
def installed(tmp_path, monkeypatch, built):
    """Puts stand-ins of both runtimes before the real ones, for programs that we start."""

    def put(litert: str, older: str) -> None:
        graph, folder = built
        tensor = tflite.read_edges(folder)["edges"][graph.outputs[0]]["tensor"]
        for name, body in (("ai_edge_litert", litert), ("tflite_runtime", older)):
            (tmp_path / "site" / name).mkdir(parents=True)
            (tmp_path / "site" / name / "__init__.py").write_text("")
            (tmp_path / "site" / name / "interpreter.py").write_text(body.replace("OUTPUT", str(tensor)))
        meta = tmp_path / "site" / "tflite_runtime-2.14.0.dist-info"
        meta.mkdir()
        (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: tflite-runtime\nVersion: 2.14.0\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))

    return put


def test_the_older_runtime_is_taken_where_litert_is_not_there(rng, built, installed):
    graph, folder = built
    installed("raise ImportError('no LiteRT')", WORKS)
    x = inputs(rng, graph, 3)
    edges = tflite.read_edges(folder)["edges"]
    first = x[:, 0] + edges[graph.inputs[0]]["offset"] - edges[graph.outputs[0]]["offset"]
    assert np.array_equal(tflite.simulate(folder, x)[graph.outputs[0]], np.repeat(first[:, None], 4, axis=1))
    probe = [sys.executable, worker.__file__, "--probe"]
    said = [
        subprocess.run([*probe, module], capture_output=True, text=True, timeout=60, check=False)
        for module, _ in worker.RUNTIMES
    ]
    assert [(done.returncode, done.stdout.strip()) for done in said] == [(worker.NO_RUNTIME, ""), (0, "2.14.0")]


def test_where_neither_works_every_reason_is_said(rng, built, installed):
    graph, folder = built
    installed("raise ImportError('no LiteRT')", NUMPY_2)
    with pytest.raises(ToolError) as error:
        tflite.simulate(folder, inputs(rng, graph, 2))
    assert str(error.value) == (
        "no TFLite runtime works here (ai-edge-litert: no LiteRT; tflite-runtime: numpy.core.multiarray failed "
        "to import): "
        "pip install ai-edge-litert."
    )


def test_the_board_falls_back_and_its_self_test_finds_other_integers(built, installed):
    _, folder = built
    installed("raise ImportError('no LiteRT')", WORKS)

    def ran():
        return subprocess.run(
            [sys.executable, "run.py", "--selftest"],
            cwd=folder / "deploy",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = ran()
    assert done.returncode == 1 and done.stderr.strip() == "ai_edge_litert.interpreter: no LiteRT"
    assert done.stdout.startswith("128 output integers, ") and " 0 differ" not in done.stdout
    assert "rounds otherwise" in (folder / "deploy" / "requirements.txt").read_text()


def test_a_board_without_a_runtime_is_told_what_to_install(built, installed):
    installed("raise ImportError('no LiteRT')", NUMPY_2)
    done = subprocess.run(
        [sys.executable, "run.py", "--selftest"],
        cwd=built[1] / "deploy",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (
        done.returncode == 1
        and done.stderr.splitlines()[-1] == "no runtime works here: pip install -r requirements.txt"
    )
