"""What a training run used: samples, steps, seconds, arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Ledger:
    """Sums over a run, over all its resumptions.

    samples_seen    forward and backward passes of one sample
    samples_scored  forward passes alone (validation, importance scores, a teacher)
    steps           optimiser updates
    macs            multiply-accumulates: 3 per weight use for a trained sample (forward, gradient of the input,
                    gradient of the weight), 1 for a scored one
    seconds         wall time of the loop
    """

    samples_seen: int = 0
    samples_scored: int = 0
    steps: int = 0
    macs: int = 0
    seconds: float = 0.0

    def trained(self, samples: int, macs_per_sample: int) -> Ledger:
        """After one update on `samples` samples."""
        return replace(self, samples_seen=self.samples_seen + samples, steps=self.steps + 1,
                       macs=self.macs + 3 * macs_per_sample * samples)

    def scored(self, samples: int, macs_per_sample: int) -> Ledger:
        """After a forward pass of `samples` samples."""
        return replace(self, samples_scored=self.samples_scored + samples, macs=self.macs + macs_per_sample * samples)

    def took(self, seconds: float) -> Ledger:
        """After `seconds` more of wall time."""
        return replace(self, seconds=self.seconds + seconds)

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(self.samples_seen + other.samples_seen, self.samples_scored + other.samples_scored,
                      self.steps + other.steps, self.macs + other.macs, self.seconds + other.seconds)


def count_macs(model, sample_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward pass, counted at the dense and convolutional layers.

    sample_shape    without the batch axis
    """
    import torch
    from torch import nn

    total = 0

    def count(layer, _inputs, output):
        nonlocal total
        values = output.value if hasattr(output, "value") else output
        weight = layer.weight
        if isinstance(layer, nn.Linear):
            total += values.numel() * weight.shape[1]
        elif layer.transposed:
            inputs = _inputs[0].value if hasattr(_inputs[0], "value") else _inputs[0]
            total += inputs.numel() * weight[0].numel()
        else:
            total += values.numel() * weight[0].numel()

    layers = [layer for layer in model.modules()
              if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, *sample_shape))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return total
