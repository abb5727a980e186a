"""Which back end is taken where nobody names one, and the sentence that says why."""

from __future__ import annotations

import pytest

from greenedge.backends.select import select_backend
from greenedge.errors import TargetError
from greenedge.target import load_target
from tests.backends.affine_nets import fit_affine_forms, make_graph, residual, vectors
from tests.backends.graphs import Sketch
from tests.backends.nets import mlp


def test_a_small_network_is_unrolled(rng):
    graph, _ = make_graph(rng, vectors)
    backend, reason = select_backend(mlp(rng, (8, 6, 4), 3, 3), load_target("ulx3s-85f"), {})
    assert backend == "da4ml" and reason.startswith("da4ml was chosen because unrolled it is estimated at ")
    assert reason.endswith(
        "% of Lattice ECP5 LFE5U-85F, 381-ball caBGA, speed grade 6: small enough for a sample in "
        "every clock cycle (at most 20%)"
    )
    assert graph


def test_a_larger_one_is_folded(rng):
    backend, reason = select_backend(mlp(rng, (64, 24, 10)), load_target("ulx3s-85f"), {})
    assert backend == "finn" and reason.startswith("finn was chosen because unrolled it is estimated at ")
    assert reason.endswith(": more than the 20% up to which a network is unrolled by da4ml")


def test_inferences_per_second_are_finns(rng):
    assert select_backend(mlp(rng, (8, 6, 4), 3, 3), load_target("ulx3s-85f"), {"fps": 1000}) == (
        "finn",
        "finn was chosen because build.fps was asked for, which it takes as its goal",
    )
    assert select_backend(mlp(rng, (8, 6, 4), 3, 3), load_target("ulx3s-85f"), {"cutoff": 4})[0] == "da4ml"
    backend, reason = select_backend(mlp(rng, (8, 6, 4), 3, 3), load_target("ulx3s-85f"), {"latency": 1e-7})
    assert backend == "da4ml" and reason.startswith("da4ml was chosen because finn refuses the model (")


def test_an_option_that_one_of_them_has_decides(rng):
    graph = mlp(rng, (8, 6, 4), 3, 3)
    for options, name, reason in (
        ({"finn_plus": 0}, "finn", "build.finn_plus was set, which da4ml does not have"),
        ({"fps": 1e12, "queue": 4}, "finn", "build.queue was set, which da4ml does not have"),
        ({"cutoff": 4}, "da4ml", "build.cutoff was set, which finn does not have"),
    ):
        assert select_backend(graph, load_target("ulx3s-85f"), options) == (name, f"{name} was chosen because {reason}")


def test_an_option_that_neither_has_is_refused(rng):
    with pytest.raises(TargetError) as refused:
        select_backend(mlp(rng, (8, 6, 4), 3, 3), load_target("ulx3s-85f"), {"fsp": 1000})
    assert str(refused.value) == (
        "finn has no option build.fsp; it has: fps, latency, queue, finn_plus, clock_hz, baud, link, seed, "
        "seeds, synthesis."
    )


def test_a_back_end_that_refuses_gives_way(rng):
    sketch = Sketch(rng, (4,))
    steps = sketch.step(sketch.dense("x", 3))
    # thresholds without a multiply, add and shift
    backend, reason = select_backend(sketch.graph(steps), load_target("ulx3s-85f"), {})
    assert reason.startswith(f"{backend} was chosen because ") and " refuses the model (" in reason


def test_the_next_back_end_takes_what_the_first_refuses(rng, monkeypatch):
    """Weights beyond int8: ONNX Runtime has them in uint8 up to a span of 255, the C package in two layers."""
    sketch = Sketch(rng, (4,))
    graph = sketch.graph(sketch.step(sketch.dense("x", 3, bits=9)))
    taker, reason = select_backend(graph, load_target("linux-x86"), {})
    assert taker == "c99" and reason.startswith("c99 was chosen because tflite refuses the model (dense1: a weight of ")
    assert select_backend(graph, load_target("linux-x86"), {"storage": "int8"}) == ("tflite", None), "theirs alone"
    monkeypatch.setattr("greenedge.tools.needs.find_missing", lambda names: list(names))
    assert select_backend(graph, load_target("linux-x86"), {}) == ("tflite", None), "its compiler is missing"


def test_one_back_end_needs_no_reason(rng):
    graph, _ = make_graph(rng, residual, 2)
    assert select_backend(graph, load_target("vcu118"), {}) == ("hls4ml", None)
    assert fit_affine_forms(graph).outputs == graph.outputs


def test_the_reason_is_in_manifest_and_report(tmp_path, monkeypatch):
    import json

    import fakes

    from greenedge.frontends.import_onnx import ModelFile
    from greenedge.run.jobs import dry_plan, jobs_for
    from greenedge.run.loop import run_job

    fakes.install(monkeypatch)
    monkeypatch.setattr(
        "greenedge.backends.select.select_backend",
        lambda graph, target, options: ("fake", "fake was chosen because it is quick"),
    )
    model = fakes.write_model(tmp_path / "small.onnx")
    board = fakes.write_board(tmp_path)
    (job,) = jobs_for(ModelFile(model), [str(board)])
    assert dry_plan(job)[0] == "# fake was chosen because it is quick"
    run_job(job, tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert (manifest["backend"], manifest["backend_reason"]) == ("fake", "fake was chosen because it is quick")
    summary = json.loads((tmp_path / "run" / "7-report" / "summary.json").read_text())
    assert summary["notes"][0] == "The back end fake was chosen because it is quick."
    (named,) = jobs_for(ModelFile(model), [str(board)], "fake")
    run_job(named, tmp_path / "named")
    assert json.loads((tmp_path / "named" / "manifest.json").read_text())["backend_reason"] is None
