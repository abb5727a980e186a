"""The train stage: a recipe in, a folder with weights, metrics and test samples out."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

import greenedge
from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.train.channels import find_channels, shrink, slice_state
from greenedge.train.checkpoint import load_state, model_state, save_state, set_model_state, weights_sha256
from greenedge.train.distil import mixed
from greenedge.train.fit import History, fit, predict, seeded
from greenedge.train.ledger import Ledger
from greenedge.train.pipeline import Work, float_weights, make_lesson, sample_order, searched_bits, with_bits
from greenedge.train.progress import Progress, silent
from greenedge.train.prune import Compression, count_weights, make_pruner
from greenedge.train.quantise import quantise
from greenedge.train.recipe import Recipe
from greenedge.train.training_energy import Power, bill, energy_of, metered


@dataclass(frozen=True)
class Form:
    """What training made of the recipe's network beside its weights: all that is needed to build it again.

    stays   which labels of channels.py are still there, None where nothing was taken out
    bits    weight bits by layer, as [search] found them
    folded  whether the batch norms are in the weights
    """

    shape: tuple[int, ...] = ()
    stays: np.ndarray | None = None
    bits: dict | None = None
    folded: bool = False

    def state(self) -> dict:
        """Plain values and tensors, for model.pt."""
        import torch

        stays = None if self.stays is None else torch.from_numpy(self.stays.copy())
        return {"shape": list(self.shape), "stays": stays, "bits": self.bits, "folded": self.folded}

    @classmethod
    def of(cls, state: dict) -> Form:
        """The form that `state` gave."""
        stays = None if state["stays"] is None else state["stays"].numpy().astype(bool)
        return cls(tuple(state["shape"]), stays, state["bits"], state["folded"])


def tools() -> dict[str, str]:
    """Names and versions that the trained weights depend on beside the recipe."""
    return {"greenedge": greenedge.__version__, "torch": version("torch"), "brevitas": version("brevitas")}


def train_stage(recipe: Recipe, folder: Path, progress: Progress = silent) -> dict:
    """Trains, scores on the test samples and writes `folder`; returns what metrics.json says.

    Goes on from what lies in the folder where that is of the same recipe and settings.
    """
    folder = Path(folder)
    with metered(recipe.ledger) as power:
        work = Work(recipe, folder, recipe.load_data(), progress, power.read)
        model, form, history, about = _trained(work)
    data = work.data
    with seeded(recipe.train.seed, recipe.train.threads):
        outputs = predict(model, data.x_test)
    metrics = _metrics(work, model, history, outputs, power) | about
    save_state(folder / "model.pt", {"key": recipe.digest, "model": model_state(model), "form": form.state()})
    _save_array(folder / "x_test.npy", data.x_test)
    _save_array(folder / "y_test.npy", data.y_test)
    with atomic_write(folder / "metrics.json") as aside:
        aside.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    work.clean()
    return metrics


def _trained(work: Work) -> tuple[object, Form, History, dict]:
    """The network as it goes on to the export, what was made of it, and what is to be told."""
    recipe = work.recipe
    settings, prune = recipe.options.get("quantise"), recipe.options.get("prune")
    order, chosen = sample_order(work)
    start = float_weights(work)
    aware = settings is not None and settings.method == "qat"
    with seeded(recipe.train.seed, recipe.train.threads):
        model = recipe.make_model()
        if start is not None:
            set_model_state(model, start)
        found = searched_bits(work, model.eval()) if aware else None
        channels = find_channels(model, work.shape) if prune is not None and prune.kind == "structured" else None
        model = quantise(model, with_bits(settings, found), recipe.name) if aware else model
        before = count_weights(model)
        pruner = None if prune is None else make_pruner(model, prune, channels)
        lesson, taught = make_lesson(work, model)
        job = work.job(
            order=order, prune=pruner, teach=lesson, score=recipe.first_score, checkpoint=work.folder / "checkpoint.pt"
        )
        if lesson is not None and lesson.settings.mix:
            job = replace(job, augment=mixed(recipe.augment))
        history = fit(model, work.data.x_train, work.data.y_train, recipe.train, job, work.progress)
        work.phases["train"] = history.ledger
        if lesson is not None and lesson.known is None:  # the teacher was asked on every sample of every batch
            work.phases["train"] = history.ledger.scored(history.ledger.samples_seen, lesson.macs)
        form = Form(work.shape, None if channels is None else pruner.stays, found and found["bits"])
        model, form, found = _finished(work, model, form, channels, found)
    about = {
        "subset": chosen,
        "distil": taught,
        "search": found or {},
        "prune": {} if prune is None else _told(prune, before, count_weights(model), channels, pruner),
    }
    return model, form, history, {name: part for name, part in about.items() if part}


def _finished(work: Work, model, form: Form, channels, found):
    """Takes out what was pruned; quantises now where that comes after training; folds the batch norms."""
    from greenedge.train.calibrate import calibrate
    from greenedge.train.fold_bn import fold_batch_norms

    recipe, settings = work.recipe, work.recipe.options.get("quantise")
    tensors = model_state(model)
    if form.stays is not None:
        tensors["tensors"] = slice_state(tensors["tensors"], channels, form.stays)
        model = _shrunk(recipe, form)
        if settings is not None and settings.method == "qat":
            model = quantise(model, with_bits(settings, found), recipe.name)
        set_model_state(model, tensors)
    if settings is not None and settings.method == "ptq":
        found = searched_bits(work, model.eval())
        form = replace(form, bits=found and found["bits"])
        with work.timed() as timing:
            model = quantise(model, with_bits(settings, found), recipe.name)
            model = calibrate(model, work.data.x_train[: settings.calibration])
        work.phases["calibration"] = timing["ledger"]
    if settings is not None and settings.fold_batch_norm:
        form = replace(form, folded=True)
        model = fold_batch_norms(model, with_bits(settings, found))
    return model.eval(), form, found


def _shrunk(recipe: Recipe, form: Form):
    model = recipe.make_model()
    if form.stays is None:
        return model
    channels = find_channels(model, form.shape)
    if form.stays.shape != (channels.count,):
        raise GreenedgeError(
            f"the pruned network had {form.stays.size} channels and {recipe.name}'s has {channels.count}; train "
            "again, the recipe has changed since."
        )
    return shrink(model, channels, form.stays)


def build_model(recipe: Recipe, form: Form = Form()):
    """The recipe's network in this form; call it inside `seeded` for the weights of a seed."""
    from greenedge.train.fold_bn import fold_batch_norms

    model = _shrunk(recipe, form)
    settings = with_bits(recipe.options.get("quantise"), form.bits and {"bits": form.bits})
    if settings is None:
        return model
    model = quantise(model, settings, recipe.name)
    return fold_batch_norms(model, settings) if form.folded else model


def trained_model(recipe: Recipe, folder: Path):
    """The network with the weights that train_stage wrote, in eval mode; GreenedgeError where they do not fit."""
    state = load_state(Path(folder) / "model.pt")
    if state is None:
        raise GreenedgeError(f"{folder} has no model.pt; run the train stage first.")
    if "form" not in state or "model" not in state:
        raise GreenedgeError(f"{folder}/model.pt lacks the network's form or weights; run the train stage again.")
    with seeded(recipe.train.seed, recipe.train.threads):
        model = build_model(recipe, Form.of(state["form"]))
    set_model_state(model, state["model"])
    return model.eval()


def _metrics(work: Work, model, history: History, outputs: np.ndarray, power: Power) -> dict:
    recipe, data = work.recipe, work.data
    scores = recipe.score(outputs, data.x_test, data.y_test)
    total = sum(work.phases.values(), Ledger())
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
        "weights_sha256": weights_sha256(model),
        "parameters": sum(item.numel() for item in model.parameters()),
        "train_loss": list(history.train_loss),
        "validation_loss": list(history.validation_loss),
        "ledger": bill(work.phases, recipe.ledger, power),
        **_curve(work, history, power),
    }


def _curve(work: Work, history: History, power: Power) -> dict:
    """Joules after each epoch, what came before included, and against them the validation scores if there are some."""
    before = sum((ledger for name, ledger in work.phases.items() if name not in ("train", "calibration")), Ledger())
    figures = [
        energy_of(before + Ledger(cpu_seconds=cpu, joules=joules), work.recipe.ledger, power)
        for cpu, joules in history.used
    ]
    spent = {figures[-1].key: [round(figure.value, 6) for figure in figures]}
    if not history.scores:
        return {"spent": spent}
    points = [[figure.value, score] for figure, score in zip(figures, history.scores)]
    return {"spent": spent, "curve": {"points": points, "evidence": figures[-1].evidence, "on": "validation samples"}}


def _told(prune, before: int, after: int, channels, pruner) -> dict:
    ratio = Compression(before, after).ratio
    told = {"kind": prune.kind, "weights_before": before, "weights_after": after, "compression_ratio": round(ratio, 6)}
    if channels is not None:
        told["channels"] = {
            path: [len(labels), int(pruner.stays[labels].sum())] for path, labels in pruner.spaces.items()
        }
    return told


def _save_array(path: Path, array: np.ndarray) -> None:
    with atomic_write(path) as aside:
        with open(aside, "wb") as file:
            np.save(file, array)
