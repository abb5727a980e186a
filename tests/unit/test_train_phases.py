"""The train stage with every technique in it: killed anywhere it ends with the same weights; each says what it cost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from greenedge.errors import GreenedgeError, TargetError
from greenedge.train import load_recipe, train_stage
from greenedge.train.trained_network import load_trained_network

pytest.importorskip("torch")
ALL = {
    "train.epochs": "4",
    "train.validation": "0.2",
    "train.patience": "3",
    "model.hidden": "16",
    "quantise.float_epochs": "2",
    "search.budget": "700",
    "search.samples": "64",
    "prune.kind": "structured",
    "prune.group": "4",
    "subset.method": "el2n",
    "subset.share": "0.5",
    "subset.curriculum": "true",
    "subset.score_epochs": "2",
    "distil.epochs": "2",
    "teacher.hidden": "32",
    "distil.features": '["relu1=relu1"]',
    "ledger.country": "FRA",
    "ledger.source": "none",
}
_KILLED = """
import os, signal, sys
from pathlib import Path
from greenedge.train import load_recipe, train_stage
def stop(done, total, text):
    if text.startswith({phase!r}) and done == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
train_stage(load_recipe(Path({recipe!r}), {settings!r}), Path({folder!r}), stop)
"""


@pytest.fixture(scope="module")
def whole(repo, tmp_path_factory):
    """(folder, metrics) of an uninterrupted run with all techniques."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train_stage(load_recipe(repo / "flows" / "digits-mlp", ALL), folder)


@pytest.mark.slow
def test_a_run_killed_in_several_phases_ends_with_the_same_weights(repo, tmp_path, whole):
    recipe = repo / "flows" / "digits-mlp"
    steps_left = {}
    for phase, step in (("teacher", 30), ("epoch", 25)):  # each within the second epoch of its phase
        code = _KILLED.format(phase=phase, step=step, recipe=str(recipe), settings=ALL, folder=str(tmp_path))
        killed = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300, cwd=repo
        )
        assert killed.returncode == -signal.SIGKILL, (phase, killed.stderr)
    assert {path.name for path in tmp_path.glob("phase-*.pt")} == {
        f"phase-{name}.pt" for name in ("scores", "float", "search", "teacher")
    }
    metrics = train_stage(
        load_recipe(recipe, ALL), tmp_path, lambda done, total, text: steps_left.setdefault(text.split()[0], done)
    )
    assert set(steps_left) == {"epoch"} and steps_left["epoch"] > 1  # what was done was not done again
    expected = whole[1]
    assert metrics["weights_sha256"] == expected["weights_sha256"]
    for key in (
        "accuracy",
        "train_loss",
        "validation_loss",
        "samples_seen",
        "macs",
        "prune",
        "subset",
        "search",
        "distil",
    ):
        assert metrics[key] == expected[key], key
    assert not list(tmp_path.glob("phase-*.pt")) and not list(tmp_path.glob("checkpoint*"))


def test_a_finished_run_is_built_again_from_its_file(repo, whole):
    from greenedge.train.fit import predict

    folder, metrics = whole
    recipe = load_recipe(repo / "flows" / "digits-mlp", ALL)
    model = load_trained_network(recipe, folder)
    x, y = np.load(folder / "x_test.npy"), np.load(folder / "y_test.npy")
    assert recipe.score(predict(model, x), x, y)["accuracy"] == metrics["accuracy"]
    assert tuple(model.get_submodule("fc1").weight.shape) == (8, 64)


def test_a_file_of_another_network_is_refused(repo, whole, tmp_path):
    from greenedge.train.checkpoint import load_state, save_state

    state = load_state(whole[0] / "model.pt")
    save_state(tmp_path / "model.pt", state | {"form": state["form"] | {"stays": state["form"]["stays"][:-1]}})
    recipe = load_recipe(repo / "flows" / "digits-mlp", ALL)
    with pytest.raises(GreenedgeError) as caught:
        load_trained_network(recipe, tmp_path)
    assert str(caught.value) == (
        "the pruned network had 89 channels and digits-mlp's has 90; train again, the recipe has changed since."
    )
    del state["form"]
    save_state(tmp_path / "model.pt", state)
    with pytest.raises(
        GreenedgeError, match="model.pt lacks the network's form or weights; run the train stage again.$"
    ):
        load_trained_network(recipe, tmp_path)


def test_the_facts_on_each_technique_in_metrics_json(whole):
    folder, metrics = whole
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert metrics["prune"] == {
        "kind": "structured",
        "weights_before": 16 * 74,
        "weights_after": 8 * 74,
        "compression_ratio": 0.5,
        "channels": {"fc1": [16, 8]},
    }
    assert metrics["subset"]["of"] == 1078 and 520 < metrics["subset"]["samples"] < 560
    assert metrics["search"]["cost"] <= 700 and metrics["search"]["evidence"] == "counted"
    assert set(metrics["search"]["bits"]) == {"fc1", "fc2"}
    assert metrics["distil"]["kind"] == "trained here" and metrics["distil"]["accuracy"] > 0.5


def test_the_bill_covers_every_phase_and_says_how_it_knows(whole):
    ledger = whole[1]["ledger"]
    assert set(ledger["phases"]) == {"scores", "float", "search", "teacher", "train"}
    for entry in (*ledger["phases"].values(), ledger["total"]):
        energy = entry["energy"]
        assert energy["evidence"] == "estimated" and energy["scope"] == "chip" and "energy_j" not in energy
        assert energy["energy_estimate_j"] == pytest.approx(
            12 * entry["cpu_seconds"], abs=0.02
        )  # cpu_seconds is rounded
        assert energy["low"] < energy["energy_estimate_j"] < energy["high"] or energy["energy_estimate_j"] == 0
    assert ledger["total"]["samples_seen"] == sum(entry["samples_seen"] for entry in ledger["phases"].values())
    assert (
        ledger["phases"]["teacher"]["samples_seen"] == 2 * 1347
        and ledger["phases"]["teacher"]["samples_scored"] == 1347
    )
    carbon = ledger["total"]["carbon"]
    assert carbon["evidence"] == "estimated" and carbon["low"] < carbon["carbon_estimate_g"] < carbon["high"]
    assert (
        ledger["estimate"].startswith("12 W per core, Green Algorithms'")
        and ledger["unmeasured"] == '[ledger] source is "none"'
    )


def test_the_curve_is_of_validation_samples_after_each_epoch(whole):
    metrics = whole[1]
    points = metrics["curve"]["points"]
    assert len(points) == metrics["epochs"] and metrics["curve"]["on"] == "validation samples"
    joules = [joule for joule, _ in points]
    before = sum(
        metrics["ledger"]["phases"][name]["energy"]["energy_estimate_j"]
        for name in ("scores", "float", "search", "teacher")
    )
    assert joules == sorted(joules) and joules[0] > before
    assert all(0 <= score <= 1 for _, score in points)


@pytest.mark.parametrize(
    "changed, message",
    [
        (
            {"prune.kind": "magnitude", "quantise.weight_bits": "1"},
            "[prune] wants weights that can be zero, [quantise] has 1-bit ones; set weight_bits to 2 or more.",
        ),
        ({"teacher.hidden": "8"}, "[teacher] has no [distil] that uses it; add [distil], or take [teacher] away."),
        (
            {"search.budget": "9"},
            '[search] looks at a trained float network; set [quantise] float_epochs, or its method to "ptq".',
        ),
        (
            {"prune.kind": "structured", "prune.start": "0.9"},
            "[prune] starts at 0.9 and ends at 0.6 of the training; end comes after start.",
        ),
        ({"prune.kind": "n:m", "prune.n": "4"}, "[prune] keeps 4 of 4 weights; n must be below m."),
        (
            {"quantise.method": "ptq", "quantise.float_epochs": "3"},
            '[quantise] has float_epochs with method "ptq", which trains in float only; set float_epochs to 0.',
        ),
        ({"distil.features": '["relu1"]'}, "[distil] has features 'relu1'; write pairs such as \"relu1=relu1\"."),
        (
            {"search.budget": "9", "search.widths": "[]", "quantise.float_epochs": "2"},
            "[search] has no widths; give some of 2 to 8.",
        ),
    ],
)
def test_tables_that_contradict_each_other_are_refused(repo, changed, message):
    with pytest.raises(TargetError) as caught:
        load_recipe(repo / "flows" / "digits-mlp", changed)
    assert str(caught.value).partition(": ")[2] == message


def test_an_unknown_country_never_becomes_a_mean(repo):
    with pytest.raises(
        TargetError, match=r"ledger. country: there is no carbon intensity for 'Atlantis'; give one of ARG, AUS, "
    ):
        load_recipe(repo / "flows" / "digits-mlp", {"ledger.country": "Atlantis"})


def test_a_loss_of_the_recipes_own_has_no_classes_to_distil(repo):
    with pytest.raises(
        TargetError, match=r"\[distil\] compares classes, and recipe.py has a loss of its own; take \[distil\] away or"
    ):
        load_recipe(repo / "flows" / "anomaly-autoencoder", {"distil.share": "0.5"})


def test_a_teacher_file_stays_in_the_recipes_folder(repo):
    recipe = load_recipe(repo / "flows" / "digits-mlp", {"distil.teacher": "../digits-cnn/flow.toml"})
    with pytest.raises(TargetError) as caught:
        _ = recipe.digest
    assert str(caught.value) == (
        "digits-mlp: [distil] teacher is '../digits-cnn/flow.toml'; it must be an ONNX file in the recipe's folder."
    )


def test_a_teacher_that_answers_batch_by_batch_is_counted(repo, tmp_path):
    settings = {
        "train.epochs": "2",
        "model.hidden": "8",
        "distil.mix": "true",
        "distil.share": "1.0",
        "distil.epochs": "1",
    }
    metrics = train_stage(load_recipe(repo / "flows" / "digits-mlp", settings), tmp_path)
    train = metrics["ledger"]["phases"]["train"]
    assert train["samples_scored"] == train["samples_seen"] == 2 * 1347
    assert train["macs"] == 4 * train["samples_seen"] * 8 * 74  # 3 for the student's, 1 for a teacher of the same size


def test_post_training_quantisation_prunes_and_folds_too(repo, tmp_path):
    settings = {
        "train.epochs": "5",
        "model.hidden": "16",
        "quantise.method": "ptq",
        "quantise.weight_bits": "8",
        "quantise.act_bits": "8",
        "quantise.per_channel": "true",
        "quantise.fold_batch_norm": "true",
        "prune.kind": "structured",
        "prune.group": "4",
        "search.budget": "500",
    }
    recipe = load_recipe(repo / "flows" / "digits-mlp", settings)
    metrics = train_stage(recipe, tmp_path)
    assert (
        metrics["accuracy"] > 0.7
        and metrics["prune"]["channels"] == {"fc1": [16, 8]}
        and metrics["search"]["cost"] <= 500
    )
    assert set(metrics["ledger"]["phases"]) == {"train", "search", "calibration"}
    model = load_trained_network(recipe, tmp_path)
    assert not hasattr(model, "norm1") and tuple(model.fc1.weight.shape) == (8, 64) and model.fc1.bias is not None
