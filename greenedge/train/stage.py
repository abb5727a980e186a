"""The train stage: a recipe in, a folder with weights, metrics and test samples out."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

import greenedge
from greenedge.errors import GreenedgeError
from greenedge.files import write_aside
from greenedge.train.checkpoint import load_state, model_state, save_state, set_model_state, weights_sha256
from greenedge.train.fit import Job, fit, predict, seeded
from greenedge.train.progress import Progress, silent
from greenedge.train.quantise import quantise
from greenedge.train.recipe import Recipe


def tools() -> dict[str, str]:
    """Names and versions that the trained weights depend on beside the recipe."""
    return {"greenedge": greenedge.__version__, "torch": version("torch"), "brevitas": version("brevitas")}


def train_stage(recipe: Recipe, folder: Path, progress: Progress = silent) -> dict:
    """Trains, scores on the test samples and writes `folder`; returns what metrics.json says.

    Goes on from folder/checkpoint.pt where that is of the same recipe and settings.
    """
    folder = Path(folder)
    data = recipe.load_data()
    checkpoint = folder / "checkpoint.pt"
    with seeded(recipe.train.seed, recipe.train.threads):
        model = build_model(recipe)
        job = Job(loss=recipe.loss, augment=recipe.augment, checkpoint=checkpoint, key=recipe.digest)
        history = fit(model, data.x_train, data.y_train, recipe.train, job, progress)
        outputs = predict(model, data.x_test)
    scores = recipe.score(outputs, data.x_test, data.y_test)
    metrics = {"recipe": recipe.name, "digest": recipe.digest, "seed": recipe.train.seed, "epochs": history.epochs,
               "metric": next(iter(scores)), **scores, "seconds": round(history.ledger.seconds, 3),
               "samples_seen": history.ledger.samples_seen, "steps": history.ledger.steps, "macs": history.ledger.macs,
               "weights_sha256": weights_sha256(model), "parameters": sum(item.numel() for item in model.parameters()),
               "train_loss": list(history.train_loss), "validation_loss": list(history.validation_loss)}
    save_state(folder / "model.pt", {"key": recipe.digest, "model": model_state(model)})
    _save_array(folder / "x_test.npy", data.x_test)
    _save_array(folder / "y_test.npy", data.y_test)
    with write_aside(folder / "metrics.json") as aside:
        aside.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    checkpoint.unlink(missing_ok=True)
    return metrics


def build_model(recipe: Recipe):
    """The recipe's network, quantised where flow.toml says so; call it inside `seeded` for the weights of a seed."""
    model = recipe.make_model()
    settings = recipe.options.get("quantise")
    return quantise(model, settings, recipe.name) if settings is not None else model


def trained_model(recipe: Recipe, folder: Path):
    """The network with the weights that train_stage wrote, in eval mode; GreenedgeError where they do not fit."""
    state = load_state(Path(folder) / "model.pt")
    if state is None:
        raise GreenedgeError(f"{folder} has no model.pt; run the train stage first.")
    with seeded(recipe.train.seed, recipe.train.threads):
        model = build_model(recipe)
    set_model_state(model, state["model"])
    return model.eval()


def _save_array(path: Path, array: np.ndarray) -> None:
    with write_aside(path) as aside:
        with open(aside, "wb") as file:
            np.save(file, array)
