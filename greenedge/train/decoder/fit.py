"""Quantisation-aware training without data: the quantised network learns the float one's distributions on its texts.

The loss is the Kullback-Leibler divergence per token. On one machine, with the same number of torch's threads, the same
settings give the same bits, also when a run was interrupted: the texts of a step depend on seed and step alone, and a
checkpoint holds everything else.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from greenedge.progress import ProgressFn, no_progress
from greenedge.train.decoder.float_network import FloatNetwork
from greenedge.train.decoder.network import QuantisedNetwork
from greenedge.train.decoder.resume import Checkpoint, pick_texts

_WARM_UP = 20  # steps
_LAST_RATE = 0.01  # of the first, at the end of the cosine
_LARGEST_GRADIENT = 1.0
_HIGHEST_RATE, _HIGHEST_SCALE_RATE = 6e-4, 1e-3
_WAY = 0.48  # rate times steps; of 600, 2,400 and 4,800 steps this was the best rate of those tried on stories260K
_MOST_STATES = 1 << 28  # numbers of 4 bytes that are kept of the float model
_TEXTS_AT_ONCE = 16


@dataclass(frozen=True)
class FitSettings:
    """steps of `batch` texts; rates of Adam for weights, and for the logarithms of scales."""

    steps: int
    seed: int = 0
    batch: int = 4
    rate: float = _HIGHEST_RATE
    scale_rate: float = _HIGHEST_SCALE_RATE


def choose_settings(steps: int, seed: int = 0) -> FitSettings:
    """Settings whose rate falls with the number of steps: many at a high rate forget what the float model knew, few at
    a low one get nowhere."""
    rate = min(_HIGHEST_RATE, _WAY / max(1, steps))
    return FitSettings(steps, seed, rate=rate, scale_rate=min(_HIGHEST_SCALE_RATE, 3 * rate))


def fit(
    network: QuantisedNetwork,
    teacher: FloatNetwork,
    texts: Tensor,
    settings: FitSettings,
    checkpoint: Path | None = None,
    progress: ProgressFn = no_progress,
) -> None:
    """Trains in place on texts (count, length). With `checkpoint` the state is kept there, and a run that was cut off
    goes on. Raises GreenedgeError for a checkpoint of other settings, texts or weights."""
    optimiser = _make_optimiser(network, settings)
    key = _make_key(network, texts, settings)
    state = Checkpoint(checkpoint, key, settings.steps, {"network": network, "optimiser": optimiser})
    done, lesson = state.resume(), _Lesson(teacher, texts)
    for step in range(done, settings.steps):
        picked = pick_texts(len(texts), settings.batch, settings.seed, step)
        loss = _take_step(network, lesson, picked, optimiser, settings, step)
        progress(step + 1, settings.steps, f"step {step + 1} of {settings.steps}, {loss:.4f} bits from the float model")
        state.keep(step + 1)


def measure_step(network: QuantisedNetwork, teacher: FloatNetwork, texts: Tensor) -> float:
    """Seconds that a step takes here, of three that change nothing; texts (batch, length)."""
    lesson, everything = _Lesson(teacher, texts), torch.arange(len(texts))
    started = time.monotonic()
    for _ in range(3):
        lesson.loss(network, everything).backward()
    network.zero_grad()
    return (time.monotonic() - started) / 3


@torch.no_grad()
def measure_divergence(network: QuantisedNetwork, teacher: FloatNetwork, texts: Tensor) -> float:
    """The loss on texts (batch, length), in bits per token."""
    return _Lesson(teacher, texts).loss(network, torch.arange(len(texts))).item() / math.log(2)


class _Lesson:
    """Texts (count, length) and what the float model says to them: the states before its head, kept where they are
    few, since a text is trained on several times."""

    def __init__(self, teacher: FloatNetwork, texts: Tensor) -> None:
        self.teacher, self.texts = teacher, texts
        self.states: Tensor | None = None
        if texts.numel() * teacher.sizes.dim <= _MOST_STATES:
            self.states = torch.cat([teacher.run_states(part[:, :-1]) for part in texts.split(_TEXTS_AT_ONCE)])

    def loss(self, network: QuantisedNetwork, picked: Tensor) -> Tensor:
        """The divergence per token on the texts of these numbers, in nats."""
        inputs = self.texts[picked][:, :-1]
        states = self.teacher.run_states(inputs) if self.states is None else self.states[picked]
        wanted = F.log_softmax(states @ self.teacher.head.T, -1)
        found = F.log_softmax(network(inputs), -1)
        return F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1).mean()


def _take_step(
    network: QuantisedNetwork,
    lesson: _Lesson,
    picked: Tensor,
    optimiser: torch.optim.Adam,
    settings: FitSettings,
    step: int,
) -> float:
    """One step; the loss before it in bits per token."""
    share = min(1.0, (step + 1) / _WARM_UP) * _cosine(step / settings.steps)
    for group, rate in zip(optimiser.param_groups, (settings.rate, settings.scale_rate), strict=True):
        group["lr"] = rate * share
    loss = lesson.loss(network, picked)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
    optimiser.step()
    return loss.item() / math.log(2)


def _cosine(share: float) -> float:
    return _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * share)) / 2


def _make_optimiser(network: QuantisedNetwork, settings: FitSettings) -> torch.optim.Adam:
    named = list(network.named_parameters())
    scales = [one for name, one in named if "scale" in name]
    weights = [one for name, one in named if "scale" not in name]
    groups = [{"params": weights, "lr": settings.rate}, {"params": scales, "lr": settings.scale_rate}]
    return torch.optim.Adam(groups, betas=(0.9, 0.98))


def _make_key(network: QuantisedNetwork, texts: Tensor, settings: FitSettings) -> str:
    """A digest of everything that the result depends on."""
    form = (asdict(settings), network.weight_bits, network.norm_form, tuple(texts.shape))
    digest = hashlib.sha256(repr(form).encode())
    digest.update(texts.numpy().tobytes())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
