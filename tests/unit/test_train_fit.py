"""The training loop: the same seed gives the same weights, also through a kill; a budget is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from greenedge.errors import GreenedgeError
from greenedge.train.fit import FitOptions, fit, learning_rate_factor, make_optimiser, predict, seed_torch
from greenedge.train.ledger import Ledger, count_macs
from greenedge.train.recipe_config import QuantiseSettings, TrainSettings

SETTINGS = TrainSettings(epochs=3, batch=16, validation=0.25, patience=2, learning_rate=0.01)


def network():
    """A small network with all that a checkpoint must carry: batch norm, dropout, quantisers that still collect."""
    from torch import nn

    from greenedge.train.quantise import quantise

    return quantise(
        nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)),
        QuantiseSettings(),
    )


def samples():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(96, 6)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0.5)


def train(settings: TrainSettings, checkpoint: Path | None = None, key: str = "", progress=lambda *_: None):
    """(weights' digest, history) of a run from scratch, or from the checkpoint."""
    from greenedge.train.checkpoint import weights_sha256

    with seed_torch(settings.seed, 1):
        model = network()
        history = fit(model, *samples(), settings, FitOptions(checkpoint=checkpoint, key=key), progress)
    return weights_sha256(model), history


def test_a_seed_decides_every_bit():
    first, second, other = train(SETTINGS)[0], train(SETTINGS)[0], train(replace(SETTINGS, seed=1))[0]
    assert first == second != other


def test_the_callers_generator_and_threads_are_left_alone():
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    train(replace(SETTINGS, epochs=1))
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


def drop_times(history) -> Ledger:
    """The ledger without times, which differ from run to run."""
    return replace(history.ledger, seconds=0.0, cpu_seconds=0.0)


_KILLED = """
import os, signal, sys
sys.path[:0] = [{repo!r}, {tests!r}]
from pathlib import Path
import test_train_fit as t
def stop(done, total, text):
    if done == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
t.train(t.SETTINGS, Path({checkpoint!r}), "k", stop)
"""


@pytest.mark.parametrize(
    "step", [pytest.param(2, marks=pytest.mark.slow), 8]
)  # before the first checkpoint; in the middle of the second epoch
def test_a_run_killed_anywhere_ends_with_the_same_weights(tmp_path, repo, step):
    checkpoint = tmp_path / "checkpoint.pt"
    code = _KILLED.format(repo=str(repo), tests=str(Path(__file__).parent), step=step, checkpoint=str(checkpoint))
    killed = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert checkpoint.exists() == (step > 5)
    resumed = []
    digest, history = train(SETTINGS, checkpoint, "k", lambda done, total, text: resumed.append(done))
    whole, expected = train(SETTINGS)
    assert digest == whole
    assert resumed[0] == (6 if step > 5 else 1)
    assert drop_times(history) == drop_times(expected)
    assert (history.train_loss, history.validation_loss) == (expected.train_loss, expected.validation_loss)


def test_a_checkpoint_of_another_run_is_ignored(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    train(replace(SETTINGS, seed=9), checkpoint, "other")
    assert train(SETTINGS, checkpoint, "mine")[0] == train(SETTINGS)[0]


def test_a_file_that_is_no_checkpoint_is_refused_and_never_executed(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/exploded",)

    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(pickle.dumps({"model": Bomb()}, protocol=2))
    with pytest.raises(GreenedgeError) as caught:
        train(SETTINGS, checkpoint)
    assert str(caught.value).startswith(f"{checkpoint} is no training state (")
    assert str(caught.value).endswith("); delete it and run the command again.")
    assert not (tmp_path / "exploded").exists()
    checkpoint.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(GreenedgeError, match="is no training state"):
        train(SETTINGS, checkpoint)


def test_weights_of_another_network_are_refused():
    import torch

    from greenedge.train.checkpoint import model_state, set_model_state

    with pytest.raises(GreenedgeError) as caught:
        set_model_state(torch.nn.Linear(2, 3), model_state(torch.nn.Linear(2, 4)))
    assert str(caught.value) == (
        "the weights do not fit the network: bias, weight differ in name or shape; "
        "train again, the recipe has changed since they were written."
    )


def test_early_stopping_keeps_the_best_epoch():
    import torch

    with seed_torch(0, 1):
        model = torch.nn.Linear(2, 2)
        x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
        y = np.random.default_rng(1).integers(0, 2, 40)  # noise: validation soon gets worse
        history = fit(model, x, y, TrainSettings(epochs=50, batch=8, validation=0.5, patience=3, learning_rate=0.3))
    assert history.epochs == history.best_epoch + 4 < 50
    assert history.validation_loss[history.best_epoch] == min(history.validation_loss)


def test_the_ledger_counts_what_was_done():
    history = train(replace(SETTINGS, patience=0))[1]
    macs = 6 * 8 + 8 * 3
    expected = Ledger(
        samples_seen=3 * 72, samples_scored=3 * 24, steps=3 * 5, macs=macs * 3 * (3 * 72 + 24), joules=None
    )  # there was no meter
    assert drop_times(history) == expected
    assert history.ledger.seconds > 0 and history.ledger.cpu_seconds > 0


def test_macs_of_dense_and_convolutional_layers():
    from torch import nn

    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.ConvTranspose2d(4, 2, 2, stride=2),
        nn.Flatten(),
        nn.Linear(2 * 8 * 8, 5),
    )
    assert count_macs(model, (2, 8, 8)) == 4 * 16 * 9 + 4 * 16 * 2 * 4 + 128 * 5
    assert model.training


def test_schedules_are_functions_of_the_step():
    assert [learning_rate_factor("constant", step, 10) for step in (0, 9)] == [1, 1]
    assert [round(learning_rate_factor("cosine", step, 10), 6) for step in (0, 5, 10)] == [1, 0.5, 0]
    onecycle = [learning_rate_factor("onecycle", step, 10) for step in range(11)]
    assert onecycle[0] == pytest.approx(1 / 25) and onecycle[3] == 1 and onecycle[10] == pytest.approx(1e-4)
    assert onecycle.index(max(onecycle)) == 3


@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adam", "adamw"])
@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_every_optimiser_and_schedule_learns(optimiser, schedule):
    import torch

    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    rate = 0.5 if optimiser in ("sgd", "momentum") else 0.05
    settings = TrainSettings(epochs=12, batch=16, optimiser=optimiser, schedule=schedule, learning_rate=rate)
    with seed_torch(0, 1):
        model = torch.nn.Linear(3, 2)
        fit(model, x, (x[:, 0] > 0).astype(np.int64), settings)
    assert (predict(model, x).argmax(1) == (x[:, 0] > 0)).mean() > 0.9


def test_weight_decay_spares_biases_and_scales():
    groups = make_optimiser(network(), TrainSettings(epochs=1, weight_decay=0.1, optimiser="adamw")).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert {item.dim() for item in groups[0]["params"]} == {2}


def test_a_loss_and_an_augmentation_of_the_recipes_own():
    import torch

    seen = []

    def augment(x, generator):
        seen.append(len(x))
        return x + torch.randn(x.shape, generator=generator) * 0.01

    x = np.ones((8, 3), np.float32)
    with seed_torch(0, 1):
        model = torch.nn.Linear(3, 3)
        fit(
            model,
            x,
            x,
            TrainSettings(epochs=60, batch=4, learning_rate=0.1),
            FitOptions(loss=lambda outputs, inputs, y: ((outputs - y) ** 2).mean(), augment=augment),
        )
    assert seen == [4] * 120
    assert np.abs(predict(model, x) - 1).max() < 0.1


def test_metrics_are_plain_json(repo, tmp_path):
    from greenedge.train import load_recipe, train_stage

    recipe = load_recipe(repo / "flows" / "digits-mlp", {"train.epochs": "1", "model.hidden": "8"})
    metrics = train_stage(recipe, tmp_path / "1-train")
    assert json.loads((tmp_path / "1-train" / "metrics.json").read_text()) == metrics
    assert metrics["metric"] == "accuracy" and metrics["samples_seen"] == 1347 and metrics["recipe"] == "digits-mlp"
    assert sorted(path.name for path in (tmp_path / "1-train").iterdir()) == [
        "metrics.json",
        "model.pt",
        "x_test.npy",
        "y_test.npy",
    ]
