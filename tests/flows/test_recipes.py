"""Every recipe that ships: its folder reads, its network is quantised, trained a little, exported and lowered."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.export import export_stage
from greenedge.train import load_recipe, train_stage

REPO_RECIPES = ("digits-cnn", "digits-mlp", "jets-mlp")
SHORT = {"digits-mlp": {"train.epochs": "6", "model.hidden": "32"},
         "digits-cnn": {"train.epochs": "3", "model.channels": "8", "model.wide_channels": "16"},
         "jets-mlp": {"train.epochs": "2", "data.train": "3000", "data.test": "400"}}
LEARNT = {"digits-mlp": 0.85, "digits-cnn": 0.3, "jets-mlp": 0.5}  # after so few epochs


def test_every_recipe_folder_is_listed_here(repo):
    assert {path.parent.name for path in (repo / "flows").glob("*/flow.toml")} == set(REPO_RECIPES)


@pytest.mark.parametrize("name", REPO_RECIPES)
def test_a_recipe_is_whole(repo, name):
    recipe = load_recipe(repo / "flows" / name)
    text = (recipe.folder / "README.md").read_text()
    assert f"greenedge run {name}" in text and recipe.title
    assert recipe.digest == load_recipe(repo / "flows" / name).digest


@pytest.fixture(scope="module", params=sorted(SHORT))
def short_run(request, repo, tmp_path_factory):
    """(recipe, run folder, metrics) after a few epochs."""
    recipe = load_recipe(repo / "flows" / request.param, SHORT[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    metrics = train_stage(recipe, folder / "1-train")
    export_stage(recipe, folder / "1-train", folder / "2-export")
    return recipe, folder, metrics


def test_a_short_training_already_learns(short_run):
    recipe, _, metrics = short_run
    assert metrics["accuracy"] > LEARNT[recipe.name]


def test_the_integers_of_the_lowered_file_score_like_the_network(short_run):
    """The integer graph's outputs are torch's, but for samples whose float32 value fell on another side of a step."""
    from greenedge.graph import run_graph
    from greenedge.host import run_epilogue, run_prologue
    from greenedge.lower import lower_file

    recipe, folder, metrics = short_run
    inputs, labels, outputs = (np.load(folder / "2-export" / f"{name}.npy") for name in ("inputs", "labels", "torch"))
    lowered = lower_file(folder / "2-export" / "model.onnx")
    integers = run_graph(lowered.graph, run_prologue(lowered, inputs))
    floats = run_epilogue(lowered, integers)
    floats = next(iter(floats.values())) if isinstance(floats, dict) else floats
    step = 1e-4 * np.abs(outputs).max()  # float32 rounding of an output, far below one level
    assert (np.abs(floats - outputs) > step).any(axis=1).sum() <= 1
    assert recipe.score(floats, inputs, labels)["accuracy"] == pytest.approx(metrics["accuracy"], abs=1 / len(labels))


@pytest.mark.slow
@pytest.mark.parametrize("name, accuracy", [("digits-mlp", 0.97), ("digits-cnn", 0.98), ("jets-mlp", 0.71)])
def test_recipes_reach_what_their_readme_says(repo, tmp_path, name, accuracy):
    assert train_stage(load_recipe(repo / "flows" / name), tmp_path)["accuracy"] >= accuracy


def test_the_augmentation_of_digits_cnn_moves_whole_pixels(repo):
    import torch

    x = torch.zeros(64, 1, 8, 8)
    x[:, 0, 3, 4] = 7
    moved = load_recipe(repo / "flows" / "digits-cnn").augment(x, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape and (moved.flatten(1).sum(1) == 7).all()
    places = {divmod(int(place), 8) for place in moved.flatten(1).argmax(1)}
    assert places == {(row, column) for row in (2, 3, 4) for column in (3, 4, 5)}
