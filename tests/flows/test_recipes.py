"""Every recipe that ships: its folder reads, its network is quantised, trained a little, exported and lowered."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.frontends.brevitas import export_stage
from greenedge.graph import run_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.runtimes import open_runtime
from greenedge.train import load_recipe, train_stage
from tests.flows.test_loaders import cifar_archive

REPO_RECIPES = (
    "anomaly-autoencoder",
    "cifar-resnet8",
    "digits-cnn",
    "digits-mlp",
    "jets-mlp",
    "keywords-dscnn",
    "vit-digits",
)
SHORT = {
    "digits-mlp": {"train.epochs": "6", "model.hidden": "32"},
    "digits-cnn": {"train.epochs": "3", "model.channels": "8", "model.wide_channels": "16"},
    "jets-mlp": {"train.epochs": "2", "data.train": "3000", "data.test": "400"},
    "keywords-dscnn": {
        "data.source": "tones",
        "data.each": "8",
        "model.channels": "8",
        "model.blocks": "1",
        "train.epochs": "20",
        "train.batch": "16",
        "train.validation": "0.0",
        "train.patience": "0",
        "train.learning_rate": "0.02",
    },
    "anomaly-autoencoder": {
        "data.source": "hum",
        "data.made": "24",
        "data.windows": "8",
        "model.width": "32",
        "train.epochs": "20",
        "train.batch": "16",
        "train.learning_rate": "0.01",
    },
    "vit-digits": {"train.epochs": "12", "model.width": "16", "model.hidden": "32"},
    "cifar-resnet8": {
        "data.archive": "ARCHIVE",
        "model.channels": "2",
        "train.epochs": "8",
        "train.batch": "16",
        "train.learning_rate": "0.05",
    },
}
OTHER_SOURCE = {"keywords-dscnn": "tones", "anomaly-autoencoder": "hum"}  # that need no archive
SLOW = ("anomaly-autoencoder", "cifar-resnet8", "digits-cnn", "digits-mlp", "keywords-dscnn", "vit-digits")
LEARNT = {
    "digits-mlp": 0.85,
    "digits-cnn": 0.3,
    "jets-mlp": 0.5,
    "keywords-dscnn": 0.3,
    "anomaly-autoencoder": 0.6,
    "cifar-resnet8": 0.15,
    "vit-digits": 0.3,
}


def test_every_recipe_folder_is_listed_here(repo):
    language = {"stories-lm"}  # tests/decoder/test_stories.py
    assert {path.parent.name for path in (repo / "flows").glob("*/flow.toml")} == set(REPO_RECIPES) | language


@pytest.mark.parametrize("name", REPO_RECIPES)
def test_a_recipe_is_whole(repo, name):
    recipe = load_recipe(repo / "flows" / name, {"data.source": OTHER_SOURCE[name]} if name in OTHER_SOURCE else {})
    text = (recipe.folder / "README.md").read_text()
    assert f"greenedge run {name}" in text and recipe.title
    if recipe.name != "cifar-resnet8":  # whose digest needs its archive
        again = load_recipe(repo / "flows" / name, {"data.source": OTHER_SOURCE[name]} if name in OTHER_SOURCE else {})
        assert recipe.digest == again.digest


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in sorted(SHORT)],
)
def short_run(request, repo, tmp_path_factory):
    """(recipe, run folder, metrics) after a few epochs."""
    folder = tmp_path_factory.mktemp(request.param)
    archive = cifar_archive(folder / "cifar-10-binary.tar.gz", 120, 40)
    recipe = load_recipe(
        repo / "flows" / request.param,
        {key: str(archive) if value == "ARCHIVE" else value for key, value in SHORT[request.param].items()},
    )
    metrics = train_stage(recipe, folder / "1-train")
    export_stage(recipe, folder / "1-train", folder / "2-export")
    return recipe, folder, metrics


def test_a_short_training_already_learns(short_run):
    recipe, _, metrics = short_run
    assert metrics[metrics["metric"]] > LEARNT[recipe.name]


def test_the_integers_of_the_lowered_file_score_like_the_network(short_run):
    """The integer graph's outputs are torch's, but for samples whose float32 value fell on another side of a step."""
    recipe, folder, metrics = short_run
    inputs, labels, outputs = (np.load(folder / "2-export" / f"{name}.npy") for name in ("inputs", "labels", "torch"))
    lowered = lower_file(folder / "2-export" / "model.onnx")
    integers = run_graph(lowered.graph, run_prologue(lowered, inputs))
    floats = run_epilogue(lowered, integers)
    floats = next(iter(floats.values())) if isinstance(floats, dict) else floats
    step = 1e-4 * np.abs(outputs).max()  # float32 rounding of an output, far below one level
    most = 0.02 * len(inputs) if recipe.name == "vit-digits" else 1  # whose 2,000 levels each have a boundary to lie at
    assert (np.abs(floats - outputs) > step).any(axis=1).sum() <= most
    metric = metrics["metric"]
    assert recipe.score(floats, inputs, labels)[metric] == pytest.approx(metrics[metric], abs=most / len(labels))


def test_the_8_bit_file_gives_the_same_integers(short_run):
    """As the recipe stands: a user's first edge binary is verified."""
    recipe, folder, _ = short_run
    runtime = "onnxruntime" if recipe.name == "vit-digits" else "litert"  # which has no rule for attention yet
    lowered = lower_file(folder / "2-export" / "model.onnx")
    levels = next(iter(run_prologue(lowered, np.load(folder / "2-export" / "inputs.npy")).values()))
    expected, got = run_graph(lowered.graph, levels), open_runtime(runtime, lowered.graph).run(levels)
    assert all(np.array_equal(got[edge], expected[edge]) for edge in lowered.graph.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name, accuracy", [("digits-mlp", 0.97), ("digits-cnn", 0.98), ("jets-mlp", 0.71)])
def test_recipes_reach_what_their_readme_says(repo, tmp_path, name, accuracy):
    assert train_stage(load_recipe(repo / "flows" / name), tmp_path)["accuracy"] >= accuracy


def test_jets_go_through_the_techniques(repo, tmp_path):
    settings = {
        "train.epochs": "2",
        "data.train": "800",
        "data.test": "200",
        "prune.kind": "structured",
        "prune.group": "8",
        "subset.method": "kcenter",
        "quantise.float_epochs": "1",
        "search.budget": "1500",
        "distil.epochs": "1",
        "quantise.per_channel": "true",
        "quantise.fold_batch_norm": "true",
    }
    metrics = train_stage(load_recipe(repo / "flows" / "jets-mlp", settings), tmp_path)
    assert metrics["prune"]["compression_ratio"] > 0.5 and metrics["search"]["cost"] <= 1500
    assert [left for _, left in metrics["prune"]["channels"].values()] == [32, 16, 16] and metrics["subset"][
        "samples"
    ] == 400


def test_the_augmentation_of_digits_cnn_moves_whole_pixels(repo):
    import torch

    x = torch.zeros(64, 1, 8, 8)
    x[:, 0, 3, 4] = 7
    moved = load_recipe(repo / "flows" / "digits-cnn").augment(x, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape and (moved.flatten(1).sum(1) == 7).all()
    places = {divmod(int(place), 8) for place in moved.flatten(1).argmax(1)}
    assert places == {(row, column) for row in (2, 3, 4) for column in (3, 4, 5)}
