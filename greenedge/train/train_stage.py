"""The train stage: a recipe in, a folder with weights, metrics and test samples out."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import greenedge
from greenedge.files.atomic_write import atomic_write
from greenedge.progress import ProgressFn, no_progress
from greenedge.train.calibrate import calibrate
from greenedge.train.channels import Channels, find_channels, slice_state
from greenedge.train.checkpoint import model_state, save_state, set_model_state, weights_sha256
from greenedge.train.distil import Distillation, mix_inputs
from greenedge.train.fit import FitOptions, History, fit, predict, seed_torch
from greenedge.train.fold_bn import fold_batch_norms
from greenedge.train.ledger import Ledger
from greenedge.train.pipeline import (
    SearchFacts,
    choose_sample_order,
    make_distillation,
    search_layer_bits,
    train_in_float,
)
from greenedge.train.prune import ChannelPruner, Compression, Pruner, count_weights, make_pruner
from greenedge.train.quantise import quantise
from greenedge.train.recipe import Recipe
from greenedge.train.recipe_config import PruneSettings, QuantiseSettings
from greenedge.train.trained_network import NetworkForm, make_float_network
from greenedge.train.training_energy import Power, bill, energy_of, open_power
from greenedge.train.training_run import TrainingRun

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class _Trained:
    """The network as it is exported, its form, its history, and the parts of metrics.json on each technique."""

    model: nn.Module
    form: NetworkForm
    history: History
    techniques: dict[str, Any]


def tools() -> dict[str, str]:
    """Names and versions that the trained weights depend on besides the recipe."""
    return {"greenedge": greenedge.__version__, "torch": version("torch"), "brevitas": version("brevitas")}


def train_stage(recipe: Recipe, folder: Path, progress: ProgressFn = no_progress) -> dict[str, Any]:
    """Trains, scores on the test samples and writes `folder`; returns the content of metrics.json.

    Resumes from the files in the folder where they are of the same recipe and settings.
    """
    folder = Path(folder)
    with open_power(recipe.ledger) as power:
        run = TrainingRun(recipe, folder, recipe.load_data(), progress, power.read)
        trained = _train_network(run)
    data = run.data
    with seed_torch(recipe.train.seed, recipe.train.threads):
        outputs = predict(trained.model, data.x_test)
    metrics = _collect_metrics(run, trained, outputs, power) | trained.techniques
    weights = {"key": recipe.digest, "model": model_state(trained.model), "form": trained.form.state()}
    save_state(folder / "model.pt", weights)
    _save_array(folder / "x_test.npy", data.x_test)
    _save_array(folder / "y_test.npy", data.y_test)
    with atomic_write(folder / "metrics.json") as aside:
        aside.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    run.remove_phase_files()
    return metrics


def _train_network(run: TrainingRun) -> _Trained:
    """All phases up to the network that is exported."""
    recipe = run.recipe
    settings, prune = recipe.options.quantise, recipe.options.prune
    order, subset_facts = choose_sample_order(run)
    float_state = train_in_float(run)
    with seed_torch(recipe.train.seed, recipe.train.threads):
        model = recipe.make_model()
        if float_state is not None:
            set_model_state(model, float_state)
        channels = None
        found = None
        if settings is not None and settings.method == "qat":
            found = search_layer_bits(run, model.eval())
        if prune is not None and prune.kind == "structured":
            channels = find_channels(model, run.shape)
        if settings is not None and settings.method == "qat":
            model = quantise(model, _apply_search(settings, found), recipe.name)
        before = count_weights(model)
        pruner = None if prune is None else make_pruner(model, prune, channels)
        distillation, distil_facts = make_distillation(run, model)
        options = replace(
            _fit_options(run, distillation), order=order, prune=pruner, checkpoint=run.folder / "checkpoint.pt"
        )
        history = fit(model, run.data.x_train, run.data.y_train, recipe.train, options, run.progress)
        run.phases["train"] = history.ledger
        if distillation is not None and distillation.known is None:  # the teacher answered every batch
            run.phases["train"] = history.ledger.add_scoring(history.ledger.samples_seen, distillation.macs)
        model, form, found = _finish_network(run, model, pruner, channels, found)
    techniques: dict[str, Any] = {"subset": subset_facts, "distil": distil_facts, "search": found or {}}
    if prune is not None and pruner is not None:
        techniques["prune"] = _describe_pruning(prune, before, count_weights(model), pruner)
    return _Trained(model, form, history, {name: part for name, part in techniques.items() if part})


def _fit_options(run: TrainingRun, distillation: Distillation | None) -> FitOptions:
    """The recipe's own, its score for the curve, and the teacher's part in the loss and the inputs."""
    options = replace(run.fit_options(), score=run.recipe.first_score, teach=distillation)
    if distillation is not None and distillation.settings.mix:
        return replace(options, augment=mix_inputs(run.recipe.augment))
    return options


def _apply_search(settings: QuantiseSettings, found: SearchFacts | None) -> QuantiseSettings:
    return settings if found is None else settings.with_weight_bits(found["bits"])


def _finish_network(
    run: TrainingRun, model: nn.Module, pruner: Pruner | None, channels: Channels | None, found: SearchFacts | None
) -> tuple[nn.Module, NetworkForm, SearchFacts | None]:
    """Removes pruned channels; quantises now where that comes after training; folds the batch norms."""
    from torch import fx

    recipe, settings = run.recipe, run.recipe.options.quantise
    form = NetworkForm(run.shape, bits=None if found is None else found["bits"])
    if isinstance(pruner, ChannelPruner) and channels is not None:
        form = replace(form, stays=pruner.stays)
        state = model_state(model)
        state["tensors"] = slice_state(state["tensors"], channels, pruner.stays)
        model = make_float_network(recipe, form)
        if settings is not None and settings.method == "qat":
            model = quantise(model, _apply_search(settings, found), recipe.name)
        set_model_state(model, state)
    if settings is None:
        return model.eval(), form, found
    if settings.method == "ptq":
        found = search_layer_bits(run, model.eval())
        form = replace(form, bits=None if found is None else found["bits"])
        with run.measure() as clock:
            quantised = quantise(model, _apply_search(settings, found), recipe.name)
            model = calibrate(quantised, run.data.x_train[: settings.calibration])
        run.phases["calibration"] = clock.ledger
    if settings.fold_batch_norm:
        assert isinstance(model, fx.GraphModule)  # quantise made it
        form = replace(form, folded=True)
        model = fold_batch_norms(model, _apply_search(settings, found))
    return model.eval(), form, found


def _collect_metrics(run: TrainingRun, trained: _Trained, outputs: np.ndarray, power: Power) -> dict[str, Any]:
    recipe, data, history = run.recipe, run.data, trained.history
    scores = recipe.score(outputs, data.x_test, data.y_test)
    total = sum(run.phases.values(), Ledger())
    return {
        "recipe": recipe.name,
        "digest": recipe.digest,
        "seed": recipe.train.seed,
        "epochs": history.epochs,
        "metric": next(iter(scores)),
        **scores,
        "seconds": round(total.seconds, 3),
        "samples_seen": total.samples_seen,
        "steps": total.steps,
        "macs": total.macs,
        "weights_sha256": weights_sha256(trained.model),
        "parameters": sum(item.numel() for item in trained.model.parameters()),
        "train_loss": list(history.train_loss),
        "validation_loss": list(history.validation_loss),
        "ledger": bill(run.phases, recipe.ledger, power),
        **_make_curve(run, history, power),
    }


def _make_curve(run: TrainingRun, history: History, power: Power) -> dict[str, Any]:
    """Joules after each epoch, with those of earlier phases, and the validation scores against them, if any."""
    before = sum((ledger for name, ledger in run.phases.items() if name not in ("train", "calibration")), Ledger())
    figures = [
        energy_of(before + Ledger(cpu_seconds=cpu, joules=joules), run.recipe.ledger, power)
        for cpu, joules in history.used
    ]
    spent = {figures[-1].key: [round(figure.value, 6) for figure in figures]}
    if not history.scores:
        return {"spent": spent}
    points = [[figure.value, score] for figure, score in zip(figures, history.scores, strict=True)]
    return {"spent": spent, "curve": {"points": points, "evidence": figures[-1].evidence, "on": "validation samples"}}


def _describe_pruning(prune: PruneSettings, before: int, after: int, pruner: Pruner) -> dict[str, Any]:
    """The part "prune" of metrics.json; channels: [before, after] by module path."""
    facts: dict[str, Any] = {
        "kind": prune.kind,
        "weights_before": before,
        "weights_after": after,
        "compression_ratio": round(Compression(before, after).ratio, 6),
    }
    if isinstance(pruner, ChannelPruner):
        facts["channels"] = {
            path: [len(labels), int(pruner.stays[labels].sum())] for path, labels in pruner.spaces.items()
        }
    return facts


def _save_array(path: Path, array: np.ndarray) -> None:
    with atomic_write(path) as aside, open(aside, "wb") as file:
        np.save(file, array)
