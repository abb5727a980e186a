"""What a training run used: samples, steps, arithmetic, seconds, joules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from greenedge.train.layers import has_swapped_weight, values_of, weight_layers

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Ledger:
    """Sums over a run, over all its resumptions.

    samples_seen    forward and backward passes of one sample
    samples_scored  forward passes alone (validation, importance scores, a teacher)
    steps           optimiser updates
    macs            multiply-accumulates: 3 per weight use for a trained sample (forward, gradient of the input,
                    gradient of the weight), 1 for a scored one; of torch networks, an ONNX teacher's are not counted
    seconds         wall time of the loop
    cpu_seconds     of all threads of the process in that time
    joules          read from a live meter; None where a part of that time had no meter
    """

    samples_seen: int = 0
    samples_scored: int = 0
    steps: int = 0
    macs: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    joules: float | None = 0.0

    def add_training(self, samples: int, macs_per_sample: int) -> Ledger:
        """The ledger after one update on `samples` samples."""
        return replace(
            self,
            samples_seen=self.samples_seen + samples,
            steps=self.steps + 1,
            macs=self.macs + 3 * macs_per_sample * samples,
        )

    def add_scoring(self, samples: int, macs_per_sample: int) -> Ledger:
        """The ledger after a forward pass of `samples` samples."""
        return replace(self, samples_scored=self.samples_scored + samples, macs=self.macs + macs_per_sample * samples)

    def add_time(self, seconds: float, cpu_seconds: float = 0.0, joules: float | None = None) -> Ledger:
        """The ledger after more wall time, CPU time and metered energy; joules None where no meter ran."""
        return replace(
            self,
            seconds=self.seconds + seconds,
            cpu_seconds=self.cpu_seconds + cpu_seconds,
            joules=_add_joules(self.joules, joules),
        )

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            self.samples_seen + other.samples_seen,
            self.samples_scored + other.samples_scored,
            self.steps + other.steps,
            self.macs + other.macs,
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            _add_joules(self.joules, other.joules),
        )


def _add_joules(one: float | None, other: float | None) -> float | None:
    """None where either is unknown: a sum without one of its terms would be too small."""
    return None if one is None or other is None else one + other


def count_macs(model: nn.Module, sample_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward pass, counted at the dense and convolutional layers.

    sample_shape    without the batch axis
    """
    return sum(layer_macs(model, sample_shape).values())


def layer_macs(model: nn.Module, sample_shape: tuple[int, ...]) -> dict[str, int]:
    """Multiply-accumulates of one forward pass by module path; a layer that is called twice counts twice."""
    import torch
    from torch import nn

    macs: dict[str, int] = {}

    def make_hook(path: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        layer = layers[path]

        def add_macs(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            values = values_of(inputs[0] if has_swapped_weight(layer) else output)
            each = layer.weight.shape[1] if isinstance(layer, nn.Linear) else layer.weight[0].numel()
            macs[path] = macs.get(path, 0) + values.numel() * each

        return add_macs

    layers = weight_layers(model)
    hooks = [layer.register_forward_hook(make_hook(path)) for path, layer in layers.items()]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, *sample_shape))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return macs
