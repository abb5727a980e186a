"""The training loop: one network, one loss, one order of samples; killed anywhere, it ends with the same weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from greenedge.train.checkpoint import load_state, model_state, save_state, set_model_state
from greenedge.train.ledger import Ledger, count_macs
from greenedge.train.progress import Progress, silent
from greenedge.train.recipe_config import TrainSettings
from greenedge.train.training_energy import unmetered

SCORE_BATCH = 256


@dataclass(frozen=True)
class Job:
    """What fit does besides the settings.

    loss        loss(outputs, x, y) → scalar; None for cross-entropy with the settings' label smoothing
    augment     augment(x, generator) → x on each training batch, or None
    order       order(epoch, samples, generator) → indices of that epoch's samples; None for a shuffle of all
    prune       a pruner (see prune.py): masks after each update, kept in the checkpoint
    teach       teach(loss, outputs, x, indices) → the loss with a teacher's part in it (see distil.py)
    watch       watch(outputs, y, indices) after each forward pass in training (see subset.py)
    score       score(outputs, x, y) → a number on the validation samples after each epoch, for the curve
    meter       joules since it was opened, or None (see power.py)
    checkpoint  where the state of every finished epoch goes; None keeps none
    key         what the run depends on; a checkpoint of another key is ignored
    """

    loss: Callable | None = None
    augment: Callable | None = None
    order: Callable | None = None
    prune: object | None = None
    teach: Callable | None = None
    watch: Callable | None = None
    score: Callable | None = None
    meter: Callable[[], float | None] = unmetered
    checkpoint: Path | None = None
    key: str = ""


@dataclass(frozen=True)
class History:
    """What happened: per epoch the mean training loss and, with validation samples, theirs and their score.

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
class _Run:
    """The part of the state that is no tensor of the network."""

    epoch: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    best_state: dict | None = None
    scores: list[float] = field(default_factory=list)
    used: list = field(default_factory=list)


@contextmanager
def seeded(seed: int, threads: int) -> Iterator[None]:
    """torch with this seed and this many threads; the caller's generator and thread count come back afterwards."""
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
    model, x: np.ndarray, y: np.ndarray, settings: TrainSettings, job: Job = Job(), progress: Progress = silent
) -> History:
    """Trains `model` in place on x (N, *shape) and y (N, …) and leaves it in eval mode.

    Call it inside `seeded`. With validation samples the weights of the best epoch are kept; of those after pruning has
    ended, where there is some.
    """
    import torch

    x, y = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(y))
    train, held = split(len(x), settings)
    generator = torch.Generator().manual_seed(settings.seed)
    optimiser = make_optimiser(model, settings)
    run = _resume(model, optimiser, generator, job) or _Run()
    macs = count_macs(model, tuple(x.shape[1:]))
    loss = job.loss or cross_entropy(settings)
    while run.epoch < settings.epochs and not _exhausted(run, settings):
        started = time.monotonic(), time.process_time(), job.meter()
        order = train[_order(job, run.epoch, len(train), generator)]
        mean = _epoch(model, x, y, order, optimiser, generator, settings, job, loss, run, macs, progress)
        run.train_loss.append(mean)
        if len(held):
            _validate(model, x[held], y[held], loss, run, macs, settings, job)
        run.epoch += 1
        run.ledger = _took(run.ledger, started, job.meter())
        run.used.append([run.ledger.cpu_seconds, run.ledger.joules])
        if job.checkpoint is not None:
            save_state(job.checkpoint, _state(model, optimiser, generator, run, job))
    if run.best_state is not None:
        set_model_state(model, run.best_state)
    model.eval()
    return History(
        run.ledger,
        run.epoch,
        tuple(run.train_loss),
        tuple(run.validation_loss),
        run.best_epoch,
        tuple(run.scores),
        tuple(map(tuple, run.used)),
    )


def _took(ledger: Ledger, started: tuple, joules: float | None) -> Ledger:
    wall, cpu, before = started
    spent = None if before is None or joules is None else joules - before
    return ledger.took(time.monotonic() - wall, time.process_time() - cpu, spent)


def split(samples: int, settings: TrainSettings):
    """Indices to train on and indices held out, a function of the seed alone."""
    import torch

    if not settings.validation:
        return torch.arange(samples), torch.arange(0)
    mixed = torch.randperm(samples, generator=torch.Generator().manual_seed(settings.seed + 1))
    held = max(1, round(samples * settings.validation))
    return mixed[held:].sort().values, mixed[:held].sort().values


def _order(job: Job, epoch: int, samples: int, generator):
    import torch

    if job.order is not None:
        return job.order(epoch, samples, generator)
    return torch.randperm(samples, generator=generator)


def _epoch(model, x, y, order, optimiser, generator, settings, job, loss, run, macs, progress) -> float:
    """One pass over `order`; the mean loss. A last batch of one sample is left out: batch norm cannot use it."""
    model.train()
    batches = [part for part in order.split(settings.batch) if len(part) > 1]
    steps = len(batches) * settings.epochs
    total = 0.0
    for position, part in enumerate(batches):
        step = run.epoch * len(batches) + position
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(settings.schedule, step, steps)
        inputs = job.augment(x[part], generator) if job.augment else x[part]
        optimiser.zero_grad(set_to_none=True)
        outputs = model(inputs)
        value = loss(outputs, inputs, y[part])
        if job.watch is not None:
            job.watch(outputs.detach(), y[part], part)
        if job.teach is not None:
            value = job.teach(value, outputs, inputs, part)
        value.backward()
        optimiser.step()
        if job.prune is not None:
            job.prune.after_step(model, step, steps)
        run.ledger = run.ledger.trained(len(part), macs)
        total += value.item() * len(part)
        progress(step + 1, steps, f"epoch {run.epoch + 1}/{settings.epochs}  loss {value.item():.3f}")
    return total / sum(map(len, batches))


def _validate(model, x, y, loss, run: _Run, macs: int, settings: TrainSettings, job: Job) -> None:
    import torch

    outputs = predict(model, x.numpy())
    run.validation_loss.append(float(loss(torch.from_numpy(outputs), x, y)))
    if job.score is not None:
        run.scores.append(float(job.score(outputs, x.numpy(), y.numpy())))
    run.ledger = run.ledger.scored(len(x), macs)
    if job.prune is not None and (run.epoch + 1) / settings.epochs < job.prune.settings.end:
        return  # the network is not yet as small as it is to be
    if run.best_epoch is None or run.validation_loss[-1] < run.validation_loss[run.best_epoch]:
        run.best_epoch, run.best_state = run.epoch, model_state(model)


def _exhausted(run: _Run, settings: TrainSettings) -> bool:
    return bool(settings.patience) and run.best_epoch is not None and run.epoch - run.best_epoch > settings.patience


def learning_rate_factor(schedule: str, step: int, steps: int) -> float:
    """Share of the peak learning rate at `step` of `steps`: a function of these alone, so that any run can resume.

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


def make_optimiser(model, settings: TrainSettings):
    """The optimiser of the settings; weight decay spares what has one dimension or none, as biases and scales."""
    import torch

    decayed = [item for item in model.parameters() if item.requires_grad and item.dim() > 1]
    spared = [item for item in model.parameters() if item.requires_grad and item.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    if settings.optimiser in ("sgd", "momentum"):
        momentum = settings.momentum if settings.optimiser == "momentum" else 0.0
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=momentum)
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.learning_rate)


def cross_entropy(settings: TrainSettings) -> Callable:
    """loss(outputs, x, y) of a classifier."""
    from torch.nn import functional

    return lambda outputs, _x, y: functional.cross_entropy(outputs, y, label_smoothing=settings.label_smoothing)


def predict(model, x: np.ndarray, batch: int = SCORE_BATCH) -> np.ndarray:
    """The network's float32 outputs in eval mode, in batches; the mode comes back afterwards."""
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            parts = [model(part).numpy() for part in torch.from_numpy(np.ascontiguousarray(x)).split(batch)]
    finally:
        model.train(was_training)
    return np.concatenate(parts)


def _state(model, optimiser, generator, run: _Run, job: Job) -> dict:
    import torch

    return {
        "key": job.key,
        "model": model_state(model),
        "optimiser": optimiser.state_dict(),
        "order": generator.get_state(),
        "rng": torch.get_rng_state(),
        "epoch": run.epoch,
        "ledger": asdict(run.ledger),
        "train_loss": run.train_loss,
        "validation_loss": run.validation_loss,
        "best_epoch": run.best_epoch,
        "best_state": run.best_state,
        "scores": run.scores,
        "used": run.used,
        "prune": job.prune.state() if job.prune is not None else None,
    }


def _resume(model, optimiser, generator, job: Job) -> _Run | None:
    """The state of the checkpoint written back everywhere, or None where there is none of this run."""
    import torch

    state = load_state(job.checkpoint) if job.checkpoint is not None else None
    if state is None or state.get("key") != job.key:
        return None
    set_model_state(model, state["model"])
    optimiser.load_state_dict(state["optimiser"])
    generator.set_state(state["order"])
    torch.set_rng_state(state["rng"])
    if job.prune is not None:
        job.prune.restore(state["prune"])
    return _Run(
        state["epoch"],
        Ledger(**state["ledger"]),
        state["train_loss"],
        state["validation_loss"],
        state["best_epoch"],
        state["best_state"],
        state["scores"],
        state["used"],
    )
