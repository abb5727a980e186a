"""The training loop: one network, one loss, one order of samples; a killed run resumes and reaches the same weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from greenedge.progress import ProgressFn, no_progress
from greenedge.train.checkpoint import load_state, model_state, save_state, set_model_state
from greenedge.train.layers import Augment, Loss, ModelState, SampleOrder
from greenedge.train.ledger import Ledger, count_macs
from greenedge.train.prune import Pruner
from greenedge.train.recipe_config import TrainSettings
from greenedge.train.training_energy import read_no_meter

if TYPE_CHECKING:
    import torch
    from torch import nn

SCORE_BATCH = 256
Teach: TypeAlias = "Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]"
Watch: TypeAlias = "Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]"


@dataclass(frozen=True)
class FitOptions:
    """What fit does besides the settings.

    loss        loss(outputs, x, y) → scalar; None for cross-entropy with the settings' label smoothing
    augment     augment(x, generator) → x on each training batch, or None
    order       order(epoch, samples, generator) → indices of that epoch's samples; None for a shuffle of all
    prune       a pruner (see prune.py): applied after each update, its state kept in the checkpoint
    teach       teach(loss, outputs, x, indices) → the loss with a teacher's term in it (see distil.py)
    watch       watch(outputs, y, indices) after each forward pass in training (see coreset.py)
    score       score(outputs, x, y) → a number on the validation samples after each epoch, for the curve
    meter       joules since it was opened, or None (see training_energy.py)
    checkpoint  the file for the state after each epoch; None writes none
    key         what the run depends on; a checkpoint with another key is ignored
    """

    loss: Loss | None = None
    augment: Augment | None = None
    order: SampleOrder | None = None
    prune: Pruner | None = None
    teach: Teach | None = None
    watch: Watch | None = None
    score: Callable[[np.ndarray, np.ndarray, np.ndarray], float] | None = None
    meter: Callable[[], float | None] = read_no_meter
    checkpoint: Path | None = None
    key: str = ""


@dataclass(frozen=True)
class History:
    """What happened: per epoch the mean training loss and, with validation samples, their loss and score.

    used        after each epoch (CPU seconds, joules or None) so far, against which the scores are drawn
    """

    ledger: Ledger
    epochs: int
    train_loss: tuple[float, ...] = ()
    validation_loss: tuple[float, ...] = ()
    best_epoch: int | None = None
    scores: tuple[float, ...] = ()
    used: tuple[tuple[float, float | None], ...] = ()


@dataclass
class _Progress:
    """The state of a training outside the network, the optimiser and the generator."""

    epoch: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    best_state: ModelState | None = None
    scores: list[float] = field(default_factory=list)
    used: list[tuple[float, float | None]] = field(default_factory=list)

    def history(self) -> History:
        return History(
            self.ledger,
            self.epoch,
            tuple(self.train_loss),
            tuple(self.validation_loss),
            self.best_epoch,
            tuple(self.scores),
            tuple(self.used),
        )


@dataclass(frozen=True)
class _Training:
    """The constants of one training. macs: multiply-accumulates of a forward pass of one sample."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    settings: TrainSettings
    options: FitOptions
    loss: Loss
    macs: int
    progress: ProgressFn


@contextmanager
def seed_torch(seed: int, threads: int) -> Iterator[None]:
    """torch with this seed and this many threads; restores the caller's generator and thread count afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)


def fit(
    model: nn.Module,
    x: np.ndarray,
    y: np.ndarray,
    settings: TrainSettings,
    options: FitOptions = FitOptions(),
    progress: ProgressFn = no_progress,
) -> History:
    """Trains `model` in place on x (N, *shape) and y (N, …) and leaves it in eval mode.

    Call it inside `seed_torch`. With validation samples the network ends with the weights of the best epoch; with a
    pruner, of the best epoch after pruning has ended.
    """
    import torch

    inputs, targets = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(y))
    train, validation = split(len(inputs), settings)
    training = _Training(
        model,
        make_optimiser(model, settings),
        torch.Generator().manual_seed(settings.seed),
        settings,
        options,
        options.loss or cross_entropy(settings),
        count_macs(model, tuple(inputs.shape[1:])),
        progress,
    )
    done = _resume(training) or _Progress()
    while done.epoch < settings.epochs and not _is_patience_over(done, settings):
        started = time.monotonic(), time.process_time(), options.meter()
        order = train[_order_samples(training, done.epoch, len(train))]
        done.train_loss.append(_train_epoch(training, done, inputs, targets, order))
        if len(validation):
            _validate(training, done, inputs[validation], targets[validation])
        done.epoch += 1
        done.ledger = add_time_since(done.ledger, started, options.meter())
        done.used.append((done.ledger.cpu_seconds, done.ledger.joules))
        if options.checkpoint is not None:
            save_state(options.checkpoint, _checkpoint(training, done))
    if done.best_state is not None:
        set_model_state(model, done.best_state)
    model.eval()
    return done.history()


def add_time_since(ledger: Ledger, started: tuple[float, float, float | None], joules: float | None) -> Ledger:
    """The ledger with the time and energy since `started`: (monotonic, CPU seconds, joules or None) at the start.

    joules      the meter's reading now, or None
    """
    wall, cpu, before = started
    spent = None if before is None or joules is None else joules - before
    return ledger.add_time(time.monotonic() - wall, time.process_time() - cpu, spent)


def split(samples: int, settings: TrainSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """(indices to train on, indices to validate on), each ascending; a function of the seed alone."""
    import torch

    if not settings.validation:
        return torch.arange(samples), torch.arange(0)
    shuffled = torch.randperm(samples, generator=torch.Generator().manual_seed(settings.seed + 1))
    count = max(1, round(samples * settings.validation))
    return shuffled[count:].sort().values, shuffled[:count].sort().values


def _order_samples(training: _Training, epoch: int, samples: int) -> torch.Tensor:
    import torch

    if training.options.order is not None:
        return training.options.order(epoch, samples, training.generator)
    return torch.randperm(samples, generator=training.generator)


def _train_epoch(training: _Training, done: _Progress, x: torch.Tensor, y: torch.Tensor, order: torch.Tensor) -> float:
    """One pass over `order`; the mean loss. A last batch of one sample is left out: batch norm cannot train on it."""
    model, optimiser, settings, options = training.model, training.optimiser, training.settings, training.options
    model.train()
    batches = [part for part in order.split(settings.batch) if len(part) > 1]
    steps = len(batches) * settings.epochs
    total = 0.0
    for position, part in enumerate(batches):
        step = done.epoch * len(batches) + position
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(settings.schedule, step, steps)
        inputs = options.augment(x[part], training.generator) if options.augment else x[part]
        optimiser.zero_grad(set_to_none=True)
        outputs = model(inputs)
        value = training.loss(outputs, inputs, y[part])
        if options.watch is not None:
            options.watch(outputs.detach(), y[part], part)
        if options.teach is not None:
            value = options.teach(value, outputs, inputs, part)
        value.backward()
        optimiser.step()
        if options.prune is not None:
            options.prune.after_step(model, step, steps)
        done.ledger = done.ledger.add_training(len(part), training.macs)
        total += value.item() * len(part)
        training.progress(step + 1, steps, f"epoch {done.epoch + 1}/{settings.epochs}  loss {value.item():.3f}")
    return total / sum(map(len, batches))


def _validate(training: _Training, done: _Progress, x: torch.Tensor, y: torch.Tensor) -> None:
    """Loss and score on the validation samples; keeps the weights where the loss is the least so far."""
    import torch

    options = training.options
    outputs = predict(training.model, x.numpy())
    done.validation_loss.append(float(training.loss(torch.from_numpy(outputs), x, y)))
    if options.score is not None:
        done.scores.append(float(options.score(outputs, x.numpy(), y.numpy())))
    done.ledger = done.ledger.add_scoring(len(x), training.macs)
    if options.prune is not None and (done.epoch + 1) / training.settings.epochs < options.prune.settings.end:
        return  # a network that is not yet pruned to its end must not count as the best
    if done.best_epoch is None or done.validation_loss[-1] < done.validation_loss[done.best_epoch]:
        done.best_epoch, done.best_state = done.epoch, model_state(training.model)


def _is_patience_over(done: _Progress, settings: TrainSettings) -> bool:
    return bool(settings.patience) and done.best_epoch is not None and done.epoch - done.best_epoch > settings.patience


def learning_rate_factor(schedule: str, step: int, steps: int) -> float:
    """Share of the peak learning rate at `step` of `steps`; a function of these alone, so that a run can resume.

    cosine      (1 + cos(π t)) / 2 (Loshchilov and Hutter, 2017, without restarts)
    onecycle    up from 1/25 over the first 30 % and down to 1/10000, both along a cosine (Smith and Topin, 2018)
    """
    position = step / max(1, steps)
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * position)) / 2
    assert schedule == "onecycle", schedule
    start, low, high, end = (0.0, 1 / 25, 1.0, 0.3) if position < 0.3 else (0.3, 1.0, 1e-4, 1.0)
    share = (1 - math.cos(math.pi * (position - start) / (end - start))) / 2
    return low + (high - low) * share


def make_optimiser(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser of the settings; no weight decay on parameters of one dimension or none, such as biases, scales."""
    import torch

    decayed = [item for item in model.parameters() if item.requires_grad and item.dim() > 1]
    spared = [item for item in model.parameters() if item.requires_grad and item.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    if settings.optimiser in ("sgd", "momentum"):
        momentum = settings.momentum if settings.optimiser == "momentum" else 0.0
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=momentum)
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.learning_rate)


def cross_entropy(settings: TrainSettings) -> Loss:
    """loss(outputs, x, y) of a classifier."""
    from torch.nn import functional

    return lambda outputs, _x, y: functional.cross_entropy(outputs, y, label_smoothing=settings.label_smoothing)


def predict(model: nn.Module, x: np.ndarray, batch: int = SCORE_BATCH) -> np.ndarray:
    """The network's float32 outputs on x (N, *shape) in eval mode, in batches; restores the mode afterwards."""
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            parts = [model(part).numpy() for part in torch.from_numpy(np.ascontiguousarray(x)).split(batch)]
    finally:
        model.train(was_training)
    return np.concatenate(parts)


def _checkpoint(training: _Training, done: _Progress) -> dict[str, Any]:
    """What the checkpoint file holds."""
    import torch

    prune = training.options.prune
    return {
        "key": training.options.key,
        "model": model_state(training.model),
        "optimiser": training.optimiser.state_dict(),
        "order": training.generator.get_state(),
        "rng": torch.get_rng_state(),
        "epoch": done.epoch,
        "ledger": asdict(done.ledger),
        "train_loss": done.train_loss,
        "validation_loss": done.validation_loss,
        "best_epoch": done.best_epoch,
        "best_state": done.best_state,
        "scores": done.scores,
        "used": [list(pair) for pair in done.used],
        "prune": prune.state() if prune is not None else None,
    }


def _resume(training: _Training) -> _Progress | None:
    """Restores everything from the checkpoint; None where there is none with this run's key."""
    import torch

    options = training.options
    state = load_state(options.checkpoint) if options.checkpoint is not None else None
    if state is None or state.get("key") != options.key:
        return None
    set_model_state(training.model, state["model"])
    training.optimiser.load_state_dict(state["optimiser"])
    training.generator.set_state(state["order"])
    torch.set_rng_state(state["rng"])
    if options.prune is not None:
        options.prune.restore(state["prune"])
    return _Progress(
        state["epoch"],
        Ledger(**state["ledger"]),
        state["train_loss"],
        state["validation_loss"],
        state["best_epoch"],
        state["best_state"],
        state["scores"],
        [(cpu, joules) for cpu, joules in state["used"]],
    )
