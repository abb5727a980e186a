"""What may come before the training proper: a teacher, the choice of samples, epochs in float, the choice of widths.

Each is a phase with a seed of its own and a file of its own beside the checkpoint, written when it is done; a killed
run finds the finished ones there and ends with the same weights, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from greenedge.train.checkpoint import load_state, model_state, save_state, set_model_state
from greenedge.train.coreset import Watch, choose, easy_first
from greenedge.train.distil import Lesson, ask, onnx_teacher, torch_teacher
from greenedge.train.fit import Job, fit, predict, seeded, split
from greenedge.train.ledger import Ledger, count_macs
from greenedge.train.progress import Progress, silent
from greenedge.train.recipe import Data, Recipe
from greenedge.train.recipe_config import LayerBits
from greenedge.train.training_energy import unmetered

_SEEDS = {"teacher": 101, "scores": 102, "float": 103}  # added to the recipe's, so that no phase hangs on another
_CHECKPOINT = "checkpoint-{}.pt"


@dataclass(frozen=True)
class Work:
    """What every phase of a run shares; `phases` collects what each used."""

    recipe: Recipe
    folder: Path
    data: Data
    progress: Progress = silent
    meter: Callable[[], float | None] = unmetered
    phases: dict[str, Ledger] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample."""
        return tuple(self.data.x_train.shape[1:])

    def job(self, **more) -> Job:
        """The recipe's own loss and augmentation, the run's meter and key."""
        return Job(loss=self.recipe.loss, augment=self.recipe.augment, meter=self.meter, key=self.recipe.digest, **more)

    def told(self, name: str) -> Progress:
        """Progress that says which phase it is."""
        return lambda done, total, text: self.progress(done, total, f"{name}: {text}")

    def stored(self, name: str, compute: Callable[[], dict]) -> dict:
        """The state that a phase left, or what `compute` gives, saved; its "ledger" enters the books."""
        path = self.folder / f"phase-{name}.pt"
        state = load_state(path)
        if state is None or state["key"] != self.recipe.digest:
            state = {"key": self.recipe.digest, **compute()}
            save_state(path, state)
            (self.folder / _CHECKPOINT.format(name)).unlink(missing_ok=True)
        self.phases[name] = Ledger(**state["ledger"])
        return state

    def trained(self, name: str, model, x, y, epochs: int, **more) -> Ledger:
        """Trains a network of a phase in place, with a checkpoint of its own; without early stopping."""
        seed = self.recipe.train.seed + _SEEDS[name]
        settings = replace(self.recipe.train, epochs=epochs, validation=0.0, patience=0, seed=seed)
        if name == "teacher":  # smoothed labels wipe out what a teacher knows of alike classes (Müller et al., 2019)
            settings = replace(settings, label_smoothing=0.0)
        job = self.job(checkpoint=self.folder / _CHECKPOINT.format(name), **more)
        return fit(model, x, y, settings, job, self.told(name)).ledger

    def seeded(self, name: str):
        """torch with the seed of a phase."""
        return seeded(self.recipe.train.seed + _SEEDS[name], self.recipe.train.threads)

    def clean(self) -> None:
        """Takes away the phases' files; the run is done."""
        for path in [*self.folder.glob("phase-*.pt"), *self.folder.glob("checkpoint*.pt")]:
            path.unlink(missing_ok=True)

    @contextmanager
    def timed(self) -> Iterator[dict]:
        """A dict that holds, afterwards, the ledger of the time taken inside under "ledger"."""
        found: dict = {}
        started = time.monotonic(), time.process_time(), self.meter()
        yield found
        now = self.meter()
        joules = None if now is None or started[2] is None else now - started[2]
        found["ledger"] = Ledger().took(time.monotonic() - started[0], time.process_time() - started[1], joules)


def float_weights(work: Work) -> dict | None:
    """The network's state after [quantise] float_epochs without quantisers, or None where there are none."""
    quantise = work.recipe.options.get("quantise")
    if quantise is None or not quantise.float_epochs:
        return None

    def compute() -> dict:
        with work.seeded("float"):
            model = work.recipe.make_model()
            ledger = work.trained("float", model, work.data.x_train, work.data.y_train, quantise.float_epochs)
        return {"model": model_state(model), "ledger": asdict(ledger)}

    return work.stored("float", compute)["model"]


# -- teacher -----------------------------------------------------------------------------------------------------------


def make_lesson(work: Work, model) -> tuple[Lesson | None, dict]:
    """Job.teach for the student `model` and what is to be told of the teacher; (None, {}) without [distil]."""
    settings = work.recipe.options.get("distil")
    if settings is None:
        return None, {}
    features = [pair.split("=")[1] for pair in settings.features]
    teacher, about, macs = _teacher(work, settings, features)
    if work.recipe.augment is not None or settings.mix:  # asked on every batch as it comes
        return Lesson(model, teacher, settings, macs=macs), about
    with work.timed() as found:
        known = ask(teacher, work.data.x_train, features)
    asked = found["ledger"].scored(len(work.data.x_train), macs)
    work.phases["teacher"] = work.phases.get("teacher", Ledger()) + asked
    return Lesson(model, teacher, settings, known), about


def _teacher(work: Work, settings, features: list[str]) -> tuple[Callable, dict, int]:
    """(teacher, what is told of it, multiply-accumulates of a sample where they are known)."""
    recipe = work.recipe
    if settings.teacher:
        return onnx_teacher(recipe.teacher_file, features), {"kind": "onnx", "name": settings.teacher}, 0
    if recipe.teacher is not None:
        return recipe.teacher(), {"kind": "callable", "name": "recipe.py's teacher"}, 0

    def compute() -> dict:
        with work.seeded("teacher"):
            model = recipe.make_teacher()
            ledger = work.trained(
                "teacher", model, work.data.x_train, work.data.y_train, settings.epochs or recipe.train.epochs
            )
        return {"model": model_state(model), "ledger": asdict(ledger)}

    state = work.stored("teacher", compute)
    with work.seeded("teacher"):
        model = recipe.make_teacher()
    set_model_state(model, state["model"])
    scores = recipe.score(predict(model, work.data.x_test), work.data.x_test, work.data.y_test)
    about = {"kind": "trained here", "parameters": sum(item.numel() for item in model.parameters()), **scores}
    return torch_teacher(model, features), about, count_macs(model, work.shape)


# -- samples -----------------------------------------------------------------------------------------------------------


def sample_order(work: Work) -> tuple[Callable | None, dict]:
    """Job.order and what is to be told of the choice; (None, {}) without [subset]."""
    import torch

    settings, train = work.recipe.options.get("subset"), work.recipe.train
    if settings is None:
        return None, {}
    members = split(len(work.data.x_train), train)[0].numpy()
    x, y = work.data.x_train[members], work.data.y_train[members]
    state = work.stored("scores", lambda: _choice(work, settings, x, y))
    chosen = state["chosen"]
    about = {
        "method": settings.method,
        "curriculum": settings.curriculum,
        "samples": len(chosen),
        "of": len(members),
        "epochs": train.epochs,
        "score_epochs": settings.score_epochs if settings.scored else 0,
    }
    if settings.curriculum:
        inner = easy_first(state["scores"].numpy()[chosen.numpy()], train.epochs)
        return lambda epoch, _samples, generator: chosen[inner(epoch, len(chosen), generator)], about
    return lambda _epoch, _samples, generator: chosen[torch.randperm(len(chosen), generator=generator)], about


def _choice(work: Work, settings, x: np.ndarray, y: np.ndarray) -> dict:
    import torch

    scores, ledger = np.zeros(len(x)), Ledger()
    if settings.scored:
        watch = Watch(len(x))
        with work.seeded("scores"):
            train = replace(
                work.recipe.train,
                epochs=settings.score_epochs,
                validation=0.0,
                patience=0,
                seed=work.recipe.train.seed + _SEEDS["scores"],
            )
            model = work.recipe.make_model()
            # without a checkpoint: it is short, and what `watch` has seen is no state of the network
            ledger = fit(model, x, y, train, work.job(watch=watch), work.told("scores")).ledger
        scores = watch.scores(settings.method)
    with work.timed() as found:
        chosen = choose(settings, x, y, scores, work.recipe.train.seed)
    return {
        "chosen": torch.from_numpy(chosen),
        "scores": torch.from_numpy(scores),
        "ledger": asdict(ledger + found["ledger"]),
    }


# -- widths ------------------------------------------------------------------------------------------------------------


def searched_bits(work: Work, model) -> dict | None:
    """What [search] found for a trained float network: {"bits": {layer: bits}, "cost", "loss", "options"}, or None."""
    from greenedge.train.fit import cross_entropy
    from greenedge.train.search import search_bits

    settings, quantise = work.recipe.options.get("search"), work.recipe.options.get("quantise")
    if settings is None:
        return None

    def compute() -> dict:
        with work.timed() as timing:
            found = search_bits(
                model,
                work.data.x_train,
                work.data.y_train,
                settings,
                quantise,
                work.recipe.loss or cross_entropy(work.recipe.train),
            )
        options = {path: [[o.bits, o.cost, o.loss] for o in each] for path, each in found.options.items()}
        tried = sum(map(len, options.values())) * min(settings.samples, len(work.data.x_train))
        ledger = timing["ledger"].scored(tried, count_macs(model, work.shape))
        return {
            "found": {
                "bits": dict(found.bits),
                "cost": found.cost,
                "loss": found.loss,
                "unit": settings.unit,
                "budget": settings.budget,
                "options": options,
                "evidence": "counted" if settings.unit == "bytes" else "estimated",
            },
            "ledger": asdict(ledger),
        }

    return work.stored("search", compute)["found"]


def with_bits(quantise, found: dict | None):
    """[quantise] with the widths that were found."""
    if quantise is None or not found:
        return quantise
    activations = {path: layer.act_bits for path, layer in quantise.layers.items()}
    layers = {path: LayerBits(bits, activations.get(path, 0)) for path, bits in found["bits"].items()}
    return replace(quantise, layers={**quantise.layers, **layers})
