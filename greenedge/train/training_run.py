"""What all phases of a recipe's training share: its data, its files, its meter and its ledgers.

Each phase has a seed of its own and a file of its own beside the checkpoint, written when the phase has ended; a killed
run loads those that are there and ends with the same weights, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.progress import ProgressFn, no_progress
from greenedge.train.checkpoint import load_state, save_state
from greenedge.train.coreset import SampleWatch
from greenedge.train.fit import FitOptions, add_time_since, fit, seed_torch
from greenedge.train.ledger import Ledger
from greenedge.train.recipe import Recipe
from greenedge.train.recipe_module import Data
from greenedge.train.training_energy import read_no_meter

if TYPE_CHECKING:
    from torch import nn

# Added to the recipe's seed: leaving a phase out must not change the random numbers of another.
PHASE_SEEDS = {"teacher": 101, "scores": 102, "float": 103}
_CHECKPOINT = "checkpoint-{}.pt"


@dataclass
class Clock:
    """The ledger of the time and energy that one piece of work took; set when it has ended."""

    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True)
class TrainingRun:
    """One training of a recipe. `phases` collects the ledger of every phase."""

    recipe: Recipe
    folder: Path
    data: Data
    progress: ProgressFn = no_progress
    meter: Callable[[], float | None] = read_no_meter
    phases: dict[str, Ledger] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample, without the batch axis."""
        return tuple(self.data.x_train.shape[1:])

    def fit_options(self) -> FitOptions:
        """The recipe's own loss and augmentation, the run's meter and key."""
        return FitOptions(loss=self.recipe.loss, augment=self.recipe.augment, meter=self.meter, key=self.recipe.digest)

    def label_progress(self, phase: str) -> ProgressFn:
        """The run's progress callback, its text preceded by the name of a phase."""
        return lambda done, total, text: self.progress(done, total, f"{phase}: {text}")

    def load_or_compute(self, phase: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The state in the phase's file, or what `compute` gives, which is saved there.

        A state has plain values and tensors, and its ledger as a dict under "ledger", which is added to `phases`.
        """
        path = self.folder / f"phase-{phase}.pt"
        state = load_state(path)
        if state is None or state["key"] != self.recipe.digest:
            state = {"key": self.recipe.digest, **compute()}
            save_state(path, state)
            (self.folder / _CHECKPOINT.format(phase)).unlink(missing_ok=True)
        self.phases[phase] = Ledger(**state["ledger"])
        return state

    def fit_phase(self, phase: str, model: nn.Module, epochs: int) -> Ledger:
        """Trains a phase's network in place on all training samples, without early stopping.

        The phase has a checkpoint of its own.
        """
        seed = self.recipe.train.seed + PHASE_SEEDS[phase]
        settings = replace(self.recipe.train, epochs=epochs, validation=0.0, patience=0, seed=seed)
        if phase == "teacher":  # smoothed labels erase a teacher's knowledge of alike classes (Müller et al., 2019)
            settings = replace(settings, label_smoothing=0.0)
        options = replace(self.fit_options(), checkpoint=self.folder / _CHECKPOINT.format(phase))
        data = self.data
        return fit(model, data.x_train, data.y_train, settings, options, self.label_progress(phase)).ledger

    def fit_scoring(self, model: nn.Module, x: np.ndarray, y: np.ndarray, epochs: int) -> tuple[SampleWatch, Ledger]:
        """Trains a network of the phase "scores" on x (N, *shape), y (N,) and scores these samples.

        It writes no checkpoint: it is short, and a checkpoint would lack the state of the watch.
        """
        seed = self.recipe.train.seed + PHASE_SEEDS["scores"]
        settings = replace(self.recipe.train, epochs=epochs, validation=0.0, patience=0, seed=seed)
        watch = SampleWatch(len(x))
        history = fit(model, x, y, settings, replace(self.fit_options(), watch=watch), self.label_progress("scores"))
        return watch, history.ledger

    def seed_phase(self, phase: str) -> AbstractContextManager[None]:
        """torch with the seed of a phase."""
        return seed_torch(self.recipe.train.seed + PHASE_SEEDS[phase], self.recipe.train.threads)

    def remove_phase_files(self) -> None:
        """Deletes the files of all phases, once the run is done."""
        for path in [*self.folder.glob("phase-*.pt"), *self.folder.glob("checkpoint*.pt")]:
            path.unlink(missing_ok=True)

    @contextmanager
    def measure(self) -> Iterator[Clock]:
        """Yields a Clock whose ledger holds, afterwards, the time and energy of what ran inside."""
        clock = Clock()
        started = time.monotonic(), time.process_time(), self.meter()
        yield clock
        clock.ledger = add_time_since(Ledger(), started, self.meter())
