"""The phases before the training itself: a teacher, the choice of samples, epochs in float, bit widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from greenedge.train.checkpoint import model_state, set_model_state
from greenedge.train.coreset import choose, easy_first
from greenedge.train.distil import Distillation, ask, onnx_teacher, torch_teacher
from greenedge.train.fit import cross_entropy, predict, split
from greenedge.train.layers import ModelState, SampleOrder, Teacher
from greenedge.train.ledger import Ledger, count_macs
from greenedge.train.recipe_config import DistilSettings, SubsetSettings
from greenedge.train.search import search_bits
from greenedge.train.training_run import TrainingRun

if TYPE_CHECKING:
    import torch
    from torch import nn


class SearchFacts(TypedDict):
    """The part "search" of metrics.json. options: [bits, cost, loss] for every width of a layer, by module path."""

    bits: dict[str, int]
    cost: float
    loss: float
    unit: str
    budget: float
    options: dict[str, list[list[float]]]
    evidence: str


def train_in_float(run: TrainingRun) -> ModelState | None:
    """The network's state after [quantise] float_epochs without quantisers, or None where there are none."""
    quantise = run.recipe.options.quantise
    if quantise is None or not quantise.float_epochs:
        return None

    def compute() -> dict[str, Any]:
        with run.seed_phase("float"):
            model = run.recipe.make_model()
            ledger = run.fit_phase("float", model, quantise.float_epochs)
        return {"model": model_state(model), "ledger": asdict(ledger)}

    return run.load_or_compute("float", compute)["model"]


# -- teacher -----------------------------------------------------------------------------------------------------------


def make_distillation(run: TrainingRun, model: nn.Module) -> tuple[Distillation | None, dict[str, Any]]:
    """(FitOptions.teach for the student `model`, facts about the teacher for metrics.json).

    (None, {}) without [distil].
    """
    settings = run.recipe.options.distil
    if settings is None:
        return None, {}
    features = [pair.split("=")[1] for pair in settings.features]
    teacher, facts, macs = _make_teacher(run, settings, features)
    if run.recipe.augment is not None or settings.mix:  # every batch is new: the teacher answers it as it comes
        return Distillation(model, teacher, settings, macs=macs), facts
    with run.measure() as clock:
        known = ask(teacher, run.data.x_train, features)
    ledger = clock.ledger.add_scoring(len(run.data.x_train), macs)
    run.phases["teacher"] = run.phases.get("teacher", Ledger()) + ledger
    return Distillation(model, teacher, settings, known), facts


def _make_teacher(
    run: TrainingRun, settings: DistilSettings, features: Sequence[str]
) -> tuple[Teacher, dict[str, Any], int]:
    """(teacher, facts about it, multiply-accumulates of a sample; 0 where these are not known)."""
    recipe = run.recipe
    if recipe.teacher_file is not None:
        return onnx_teacher(recipe.teacher_file, features), {"kind": "onnx", "name": settings.teacher}, 0
    if recipe.teacher is not None:
        return recipe.teacher(), {"kind": "callable", "name": "recipe.py's teacher"}, 0

    def compute() -> dict[str, Any]:
        with run.seed_phase("teacher"):
            model = recipe.make_teacher()
            ledger = run.fit_phase("teacher", model, settings.epochs or recipe.train.epochs)
        return {"model": model_state(model), "ledger": asdict(ledger)}

    state = run.load_or_compute("teacher", compute)
    with run.seed_phase("teacher"):
        model = recipe.make_teacher()
    set_model_state(model, state["model"])
    scores = recipe.score(predict(model, run.data.x_test), run.data.x_test, run.data.y_test)
    facts = {"kind": "trained here", "parameters": sum(item.numel() for item in model.parameters()), **scores}
    return torch_teacher(model, features), facts, count_macs(model, run.shape)


# -- samples -----------------------------------------------------------------------------------------------------------


def choose_sample_order(run: TrainingRun) -> tuple[SampleOrder | None, dict[str, Any]]:
    """(FitOptions.order, facts about the choice for metrics.json); (None, {}) without [subset]."""
    import torch

    settings, train = run.recipe.options.subset, run.recipe.train
    if settings is None:
        return None, {}
    members = split(len(run.data.x_train), train)[0].numpy()
    x, y = run.data.x_train[members], run.data.y_train[members]
    state = run.load_or_compute("scores", lambda: _choose_samples(run, settings, x, y))
    chosen: torch.Tensor = state["chosen"]
    facts = {
        "method": settings.method,
        "curriculum": settings.curriculum,
        "samples": len(chosen),
        "of": len(members),
        "epochs": train.epochs,
        "score_epochs": settings.score_epochs if settings.needs_scores else 0,
    }
    if settings.curriculum:
        pick = easy_first(state["scores"].numpy()[chosen.numpy()], train.epochs)
        return lambda epoch, _samples, generator: chosen[pick(epoch, len(chosen), generator)], facts
    return lambda _epoch, _samples, generator: chosen[torch.randperm(len(chosen), generator=generator)], facts


def _choose_samples(run: TrainingRun, settings: SubsetSettings, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """The state of the phase "scores": the chosen indices into x, and the score of every sample."""
    import torch

    scores, ledger = np.zeros(len(x)), Ledger()
    if settings.needs_scores:
        with run.seed_phase("scores"):
            watch, ledger = run.fit_scoring(run.recipe.make_model(), x, y, settings.score_epochs)
        scores = watch.scores(settings.method)
    with run.measure() as clock:
        chosen = choose(settings, x, y, scores, run.recipe.train.seed)
    return {
        "chosen": torch.from_numpy(chosen),
        "scores": torch.from_numpy(scores),
        "ledger": asdict(ledger + clock.ledger),
    }


# -- bit widths --------------------------------------------------------------------------------------------------------


def search_layer_bits(run: TrainingRun, model: nn.Module) -> SearchFacts | None:
    """What [search] chooses for a trained float network, or None without [search]."""
    settings, quantise = run.recipe.options.search, run.recipe.options.quantise
    if settings is None or quantise is None:  # a recipe with [search] has [quantise]
        return None
    loss = run.recipe.loss or cross_entropy(run.recipe.train)

    def compute() -> dict[str, Any]:
        with run.measure() as clock:
            choice = search_bits(model, run.data.x_train, run.data.y_train, settings, quantise, loss)
        options = {path: [[o.bits, o.cost, o.loss] for o in each] for path, each in choice.options.items()}
        scored = sum(map(len, options.values())) * min(settings.samples, len(run.data.x_train))
        facts = SearchFacts(
            bits=dict(choice.bits),
            cost=choice.cost,
            loss=choice.loss,
            unit=settings.unit,
            budget=settings.budget,
            options=options,
            evidence="counted" if settings.unit == "bytes" else "estimated",
        )
        return {"found": facts, "ledger": asdict(clock.ledger.add_scoring(scored, count_macs(model, run.shape)))}

    return run.load_or_compute("search", compute)["found"]
