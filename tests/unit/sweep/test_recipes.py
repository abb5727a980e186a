"""Sweeps of a recipe: trainings that points share, refusals before training, equal energy, a float model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from greenedge.errors import GreenedgeError, TargetError
from greenedge.sweep import trial as trial_module
from greenedge.sweep.engine import Watch, run_sweep
from greenedge.sweep.space import make_space, parse_vary
from greenedge.sweep.sweep import Given, Sweep, plan_sweep

SMALL = ("train.epochs=1", "model.hidden=16", "ledger.source=none")


def _plan(vary, targets=(), sets=SMALL, **facts) -> Sweep:
    return plan_sweep(Sweep("digits-mlp", make_space(parse_vary(vary), sets), **{"sampler": "auto", **facts}), targets)


@pytest.mark.slow
def test_points_with_the_same_training_share_it(tmp_path):
    stages: list[tuple[str, str]] = []
    watch = Watch(on_stage=lambda run, summary: stages.append((summary["stage"], summary["status"])))
    sweep = _plan(["quantise.weight_bits=2,4", "build.fps=1000,20000"], ["ulx3s-85f", "icebreaker"], until="plan")
    found = run_sweep(sweep, tmp_path / "s", watch=watch)
    assert len(found["rows"]) == 8 and {row["status"] for row in found["rows"]} == {"done"}
    assert (
        stages.count(("train", "done")) == 2 == len([p for p in (tmp_path / "s" / "trainings").iterdir() if p.is_dir()])
    )  # noqa: E501
    for row in found["rows"]:
        figures = row["figures"]
        assert {"accuracy", "weight_bits", "estimated_lut4", "estimated_cycles", "training_energy_estimate_j"} <= set(
            figures
        )  # noqa: E501
        assert all(figure["evidence"] == "estimated" for key, figure in figures.items() if "estimate" in key)
        bits = int(row["settings"]["quantise.weight_bits"])
        assert figures["weight_bits"]["value"] == bits * (64 * 16 + 16 * 10)


@pytest.mark.slow
def test_what_cannot_be_built_is_refused_before_anything_is_trained(tmp_path):
    sweep = _plan(["build.fps=50000000,60000000"], ["icebreaker"], until="plan")
    found = run_sweep(sweep, tmp_path / "s")
    assert [row["status"] for row in found["rows"]] == ["refused", "refused"]
    assert all("(judged before training, by a network of the same form):" in row["sentence"] for row in found["rows"])
    assert not (tmp_path / "s" / "trainings").exists()


@pytest.mark.slow
def test_trainings_at_equal_energy(tmp_path):
    sweep = _plan(["train.optimiser=sgd,adam"], energy_j=25.0, until="train")
    found = run_sweep(sweep, tmp_path / "s")
    for row in found["rows"]:
        assert row["status"] == "done" and row["epochs"] >= 1
        metrics = json.loads((tmp_path / "s" / row["folder"] / "1-train" / "metrics.json").read_text())
        assert metrics["epochs"] == row["epochs"]
    little = _plan(["train.optimiser=sgd"], energy_j=1e-6, until="train")
    row = run_sweep(little, tmp_path / "t")["rows"][0]
    assert row["status"] == "failed" and row["sentence"].startswith("1e-06 J buy no epoch; one takes about ")


@pytest.mark.slow
def test_workers_beside_each_other(tmp_path):
    found = run_sweep(_plan(["train.seed=1,2"], until="train"), tmp_path / "s", jobs=2)
    assert [row["status"] for row in found["rows"]] == ["done"] * 2


def test_settings_that_are_none_refuse_the_sweep():
    with pytest.raises(GreenedgeError) as caught:
        _plan(["train.optimiser=adam,adan", "quantise.weight_bits=2,99"], until="train")
    assert str(caught.value).splitlines() == [
        "--set: train.optimiser is 'adan'; it must be one of: sgd, momentum, adam, adamw.",
        "--set: quantise.weight_bits is 99; it must be a whole number from 1 to 8.",
    ]


def test_settings_that_do_not_go_together_are_rows(tmp_path):
    sweep = _plan(["train.patience=0,3", "train.validation=0,0.1"], until="train")
    assert sweep.sampler == "grid" and sweep.space.size == 4  # patience without validation is refused alone


def test_a_training_that_fails_is_not_tried_by_every_point(tmp_path, monkeypatch):
    import fakes

    tried: list[Path] = []

    def run(job, folder, *words, **more):
        tried.append(folder)
        raise GreenedgeError("the cable is loose.")

    fakes.install(monkeypatch)
    monkeypatch.setattr(trial_module, "run_job", run)
    model, board = str(fakes.write_model(tmp_path / "small.onnx")), str(fakes.write_board(tmp_path))
    sweep = plan_sweep(Sweep(model, make_space(parse_vary(["build.fps=1,2,3"])), sampler="auto"), [board])
    found = run_sweep(sweep, tmp_path / "s")
    assert [row["sentence"] for row in found["rows"]] == ["the cable is loose."] * 3 and len(tried) == 1
    run_sweep(sweep, tmp_path / "s", retry=True)
    assert len(tried) == 2


def write_float_model(path: Path) -> Path:
    """Dense-ReLU-Dense in float, as an ONNX file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(7)
    weights = [draw.normal(0, 0.5, shape).astype(np.float32) for shape in ((6, 8), (8, 3))]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="fc1"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("MatMul", ["b", "w1"], ["y"], name="fc2"),
    ]
    graph = helper.make_graph(
        nodes,
        "float",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(weight, f"w{k}") for k, weight in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.slow
def test_a_float_model_is_quantised_once_for_each_width(tmp_path, rng):
    np.save(tmp_path / "x.npy", rng.normal(0, 1, (40, 6)).astype(np.float32))
    np.save(tmp_path / "y.npy", rng.integers(0, 3, 40))
    x, y = str(tmp_path / "x.npy"), str(tmp_path / "y.npy")
    model = str(write_float_model(tmp_path / "float.onnx"))
    space = make_space(parse_vary(["target=linux-x86,cortex-m4", "quantise.bits=8,4"]))
    found = run_sweep(plan_sweep(Sweep(model, space, sampler="auto", given=Given(x, y, calibrate=x))), tmp_path / "s")
    assert [row["status"] for row in found["rows"]] == ["done"] * 4, found["rows"]
    assert len([path for path in (tmp_path / "s" / "trainings").iterdir() if path.is_dir()]) == 2
    assert all({"accuracy", "weight_bits"} <= set(row["figures"]) for row in found["rows"])
    with pytest.raises(TargetError, match="gets no samples for that; say --calibrate X.npy, or leave it out"):
        plan_sweep(Sweep(model, space, sampler="auto"))
    row = run_sweep(plan_sweep(Sweep(model, make_space(parse_vary(["target=linux-x86"])))), tmp_path / "t")["rows"][0]
    assert row["status"] == "refused" and "a float model, without any quantiser" in row["sentence"]


@pytest.mark.parametrize(
    "setting, why",
    [
        (
            "train.epochs=1",
            "train.epochs belongs to a recipe; of a model file vary build.KEY, target, backend, quantise.b",
        ),
        ("quantise.act_bits=x", "quantise.act_bits is 'x'; write a number."),
        ("quantise.finetune=1", "quantise.finetune is '1'; write true or false."),
        ("quantise.bits=9", "--bits 9: weights have 2 to 8 bits"),
    ],
)
def test_a_setting_that_a_model_file_does_not_have_is_refused(tmp_path, setting, why):
    model = str(write_float_model(tmp_path / "float.onnx"))
    with pytest.raises(GreenedgeError) as caught:
        plan_sweep(Sweep(model, make_space(parse_vary([setting])), given=Given(calibrate=model)))
    assert why in str(caught.value)
