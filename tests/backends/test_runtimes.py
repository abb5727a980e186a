"""Every runtime on the same graphs: exact ones give the graph's integers, float ones their values before rounding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from greenedge import runtimes
from greenedge.backends.int8.tflite import worker
from greenedge.errors import TargetError, ToolError, UnsupportedError
from greenedge.graph import Requantise, Table, freeze, run_graph
from greenedge.runtimes import Probe, open_runtime, probe_all, workload
from tests.backends.graphs import Sketch
from tests.backends.nets import inputs, mlp

EXACT = ("litert", "litert-reference", "onnxruntime")
FLOAT = ("onnxruntime-float", "torch")


@pytest.fixture
def convnet(rng):
    """Every kind of operation, 4-bit steps."""
    sketch = Sketch(rng, (2, 8, 8))
    a = sketch.step(sketch.conv("x", 4, (3, 3), pads=(1, 1, 1, 1)))
    b = sketch.step(sketch.conv(a, 4, (3, 3), pads=(1, 1, 1, 1), groups=4))
    c = sketch.max_pool(sketch.step(sketch.add(a, b), per_channel=False), (2, 2))
    d = sketch.step(sketch.conv_transpose(c, 4, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)))
    e = sketch.concat(sketch.upsample(c, 1, 4, 4), sketch.depth_to_space(d, 2))
    f = sketch.step(sketch.sum_pool(sketch.pad(e, (0, 1, 2, 0, 1, 0)), (2, 2)))
    g = sketch.step(sketch.sum_pool(f, (9, 9)))
    return sketch.graph(sketch.step(sketch.dense(sketch.reshape(g, 5), 6), "s8"))


@pytest.mark.parametrize("name", EXACT)
def test_exact_runtimes_give_the_graphs_integers(rng, convnet, name):
    x = inputs(rng, convnet, 40)
    runtime = open_runtime(name, convnet)
    got, expected = runtime.run(x), run_graph(convnet, x)
    assert runtime.kernels == {"litert": "xnnpack", "litert-reference": "reference", "onnxruntime": "mlas"}[name]
    assert runtime.exact and runtime.device == "cpu" and runtime.version
    assert got.keys() == expected.keys()
    assert all(got[edge].dtype == np.int64 and np.array_equal(got[edge], expected[edge]) for edge in got)


def test_the_float_network_is_the_line_before_rounding(rng):
    """One layer: its float output, rounded and clamped, is the graph's level but at ties."""
    sketch = Sketch(rng, (3, 6, 6), "s8")
    graph = sketch.graph(sketch.step(sketch.conv("x", 5, (3, 3), pads=(1, 0, 0, 1), bits=8), "u8"))
    x = inputs(rng, graph, 50)
    (edge,) = graph.outputs
    step = next(op for op in graph.ops if isinstance(op, Requantise))
    expected = run_graph(graph, x)[edge]
    for name in FLOAT:
        got = np.clip(np.rint(open_runtime(name, graph).run(x)[edge]), step.lo, step.hi)
        assert (got != expected).mean() < 0.02 and np.abs(got - expected).max() <= 1, name


def test_float_runtimes_agree_with_each_other(rng, convnet):
    x = inputs(rng, convnet, 30)
    a, b = (open_runtime(name, convnet).run(x)[convnet.outputs[0]] for name in FLOAT)
    assert np.allclose(a, b, atol=1e-3 * np.abs(a).max())  # float32 sums in another order


@pytest.mark.parametrize("name", FLOAT)
def test_a_sum_of_many_levels_at_the_output_is_no_layer_with_a_quantiser(rng, name):
    """128·64 levels a channel: more than the identity is written out for."""
    sketch = Sketch(rng, (2, 8, 8), "s8")
    graph = sketch.graph(sketch.sum_pool("x", (8, 8)))
    x = inputs(rng, graph, 5)
    (edge,) = graph.outputs
    assert np.abs(open_runtime(name, graph).run(x)[edge] - run_graph(graph, x)[edge]).max() < 0.01  # float32 means


@pytest.mark.parametrize("name", (*EXACT, *FLOAT))
def test_a_prepared_call_can_be_measured(rng, name):
    graph = mlp(rng)
    load = workload(open_runtime(name, graph), inputs(rng, graph, 3))
    load.setup()
    load.infer(4, lambda: None)
    load.teardown()
    assert (load.name, load.batch, load.accuracy) == (f"{name} on cpu", 3, None)


@pytest.mark.slow
def test_the_compiled_network_is_the_eager_one(rng):
    graph = mlp(rng)
    x = inputs(rng, graph, 20)
    eager, compiled = (open_runtime(name, graph) for name in ("torch", "torch-compile"))
    a, b = eager.run(x)[graph.outputs[0]], compiled.run(x)[graph.outputs[0]]
    assert np.allclose(a, b, atol=1e-3 * np.abs(a).max())  # float32 sums in another order


def test_every_runtime_says_whether_it_works_here(monkeypatch):
    states = {state.name: state for state in probe_all()}
    assert list(states) == list(runtimes.RUNTIMES)
    assert states["litert"].version and states["onnxruntime"].version and states["torch"].version
    for state in states.values():
        assert bool(state.version) != bool(state.reason) and bool(state.version) != bool(state.cure)


def test_a_runtime_that_only_imports_is_not_there(rng, monkeypatch, tmp_path):
    """tflite_runtime can be imported under numpy 2 and crashes at its first interpreter: probed in another process."""
    from greenedge.runtimes import litert

    package = tmp_path / "tflite_runtime"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}")
    for body, reason in [
        (
            "def Interpreter(model_content):\n    raise SystemError('numpy.core.multiarray failed to import')\n",
            "tflite-runtime: numpy.core.multiarray failed to import",
        ),
        (
            "import os, signal\ndef Interpreter(model_content):\n    os.kill(os.getpid(), signal.SIGSEGV)\n",
            "it ended with status -11",
        ),
    ]:
        (package / "interpreter.py").write_text(body)
        litert._probe_package.cache_clear()
        state = litert.probe("tflite-runtime")
        assert state == Probe(
            "tflite-runtime", None, reason, 'an environment of its own with "tflite-runtime" and "numpy<2"'
        )
    with pytest.raises(ToolError) as error:
        open_runtime("tflite-runtime", mlp(rng))
    assert str(error.value) == (
        "tflite-runtime does not work here: it ended with status -11 (cure: an environment of its own with "
        '"tflite-runtime" and "numpy<2").'
    )
    litert._probe_package.cache_clear()
    assert worker.NO_RUNTIME == 3


def test_what_cannot_be_is_said(rng):
    with pytest.raises(TargetError) as error:
        open_runtime("litertt", mlp(rng))
    assert str(error.value) == (
        "there is no runtime 'litertt' (did you mean 'litert'?); runtimes are: litert, litert-reference, "
        "tflite-runtime, onnxruntime, onnxruntime-float, torch, torch-compile, torch-cuda, torch-compile-cuda."
    )
    sketch = Sketch(rng, (4,))
    graph = sketch.graph(sketch.dense(sketch.dense("x", 3), 2))
    for name, words in (
        ("litert", "sketch has no int8 file for litert:"),
        ("onnxruntime", "sketch has no 8-bit file for onnxruntime:"),
    ):
        with pytest.raises(UnsupportedError) as error:
            open_runtime(name, graph)
        assert str(error.value).splitlines()[0] == words


def test_a_curve_has_no_float_baseline(rng):
    """A function that rises and falls is looked up; the baseline has lines alone, and says so."""
    sketch = Sketch(rng, (3,))
    graph = sketch.graph(sketch.step(sketch.dense("x", 4)))
    step = graph.requantisers[0]
    bent = np.abs(np.arange(int((step.x_hi - step.x_lo).max()) + 1) % 30 - 15)
    forms = Table(freeze(np.tile(bent, (step.channels, 1))))
    curve = dataclasses.replace(step, forms=forms)
    graph = graph.replace_ops([curve if op is step else op for op in graph.ops])
    for name in FLOAT:
        with pytest.raises(UnsupportedError, match=r"has no float baseline:\n  .*: a function that rises and falls"):
            open_runtime(name, graph)
