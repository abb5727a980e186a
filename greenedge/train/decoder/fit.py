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
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from greenedge.errors import GreenedgeError
from greenedge.progress import ProgressFn, no_progress
from greenedge.train.checkpoint import load_state, save_state
from greenedge.train.decoder.float_network import FloatNetwork
from greenedge.train.decoder.network import QuantisedNetwork

_WARM_UP = 20  # steps
_LAST_RATE = 0.01  # of the first, at the end of the cosine
_LARGEST_GRADIENT = 1.0
_SAVE_S = 30.0


@dataclass(frozen=True)
class FitSettings:
    """steps of `batch` texts; rates of Adam for weights, and for the logarithms of scales."""

    steps: int
    seed: int = 0
    batch: int = 4
    rate: float = 6e-4
    scale_rate: float = 1e-3


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
    done = _resume(checkpoint, key, network, optimiser)
    saved = time.monotonic()
    for step in range(done, settings.steps):
        loss = _take_step(network, teacher, _pick(texts, settings, step), optimiser, settings, step)
        progress(step + 1, settings.steps, f"step {step + 1} of {settings.steps}, {loss:.4f} bits from the float model")
        last = step + 1 == settings.steps
        if checkpoint is not None and (last or time.monotonic() - saved > _SAVE_S):
            state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
            save_state(checkpoint, {"key": key, "step": step + 1, "steps": settings.steps, **state})
            saved = time.monotonic()


def read_steps(checkpoint: Path) -> int | None:
    """How many steps the run of a checkpoint was to take; None where there is none. Raises GreenedgeError for a file
    that is no checkpoint."""
    state = load_state(checkpoint)
    if state is not None and not isinstance(state.get("steps"), int):
        raise GreenedgeError(f"{checkpoint} is a damaged training state; delete it and run the command again.")
    return None if state is None else int(state["steps"])


def measure_step(network: QuantisedNetwork, teacher: FloatNetwork, texts: Tensor) -> float:
    """Seconds that a step takes here, of three that change nothing; texts (batch, length)."""
    started = time.monotonic()
    for _ in range(3):
        _loss(network, teacher, texts).backward()
    network.zero_grad()
    return (time.monotonic() - started) / 3


def _take_step(
    network: QuantisedNetwork,
    teacher: FloatNetwork,
    tokens: Tensor,
    optimiser: torch.optim.Adam,
    settings: FitSettings,
    step: int,
) -> float:
    """One step; the loss before it in bits per token."""
    share = min(1.0, (step + 1) / _WARM_UP) * _cosine(step / settings.steps)
    for group, rate in zip(optimiser.param_groups, (settings.rate, settings.scale_rate), strict=True):
        group["lr"] = rate * share
    loss = _loss(network, teacher, tokens)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
    optimiser.step()
    return loss.item() / math.log(2)


def _loss(network: QuantisedNetwork, teacher: FloatNetwork, tokens: Tensor) -> Tensor:
    wanted = F.log_softmax(teacher.run(tokens[:, :-1]), -1)
    found = F.log_softmax(network(tokens[:, :-1]), -1)
    return F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1).mean()


def _cosine(share: float) -> float:
    return _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * share)) / 2


def _pick(texts: Tensor, settings: FitSettings, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    return texts[torch.randint(len(texts), (settings.batch,), generator=generator)]


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


def _resume(path: Path | None, key: str, network: QuantisedNetwork, optimiser: torch.optim.Adam) -> int:
    """Loads a checkpoint where there is one; how many steps it has seen."""
    state: dict[str, Any] | None = None if path is None else load_state(path)
    if state is None:
        return 0
    if state["key"] != key:
        raise GreenedgeError(
            f"{path} belongs to a training with other settings, texts or weights; delete it, or give the same ones."
        )
    try:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        return int(state["step"])
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError):
        raise GreenedgeError(f"{path} is a damaged training state; delete it and run the command again.") from None
