"""What a training run used: samples, steps, arithmetic, seconds, joules."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Ledger:
    """Sums over a run, over all its resumptions.

    samples_seen    forward and backward passes of one sample
    samples_scored  forward passes alone (validation, importance scores, a teacher)
    steps           optimiser updates
    macs            multiply-accumulates: 3 per weight use for a trained sample (forward, gradient of the input,
                    gradient of the weight), 1 for a scored one; those of torch networks, an ONNX teacher's are not in
    seconds         wall time of the loop
    cpu_seconds     of all threads of the process in that time
    joules          what a live meter counted in it; None where there was none for any part of it
    """

    samples_seen: int = 0
    samples_scored: int = 0
    steps: int = 0
    macs: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    joules: float | None = 0.0

    def trained(self, samples: int, macs_per_sample: int) -> Ledger:
        """After one update on `samples` samples."""
        return replace(
            self,
            samples_seen=self.samples_seen + samples,
            steps=self.steps + 1,
            macs=self.macs + 3 * macs_per_sample * samples,
        )

    def scored(self, samples: int, macs_per_sample: int) -> Ledger:
        """After a forward pass of `samples` samples."""
        return replace(self, samples_scored=self.samples_scored + samples, macs=self.macs + macs_per_sample * samples)

    def took(self, seconds: float, cpu_seconds: float = 0.0, joules: float | None = None) -> Ledger:
        """After so much more of wall time, CPU time and metered energy."""
        return replace(
            self,
            seconds=self.seconds + seconds,
            cpu_seconds=self.cpu_seconds + cpu_seconds,
            joules=_sum(self.joules, joules),
        )

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            self.samples_seen + other.samples_seen,
            self.samples_scored + other.samples_scored,
            self.steps + other.steps,
            self.macs + other.macs,
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            _sum(self.joules, other.joules),
        )


def _sum(one: float | None, other: float | None) -> float | None:
    """None where either is unknown: a sum with absent terms says too little."""
    return None if one is None or other is None else one + other


def count_macs(model, sample_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward pass, counted at the dense and convolutional layers.

    sample_shape    without the batch axis
    """
    return sum(layer_macs(model, sample_shape).values())


def layer_macs(model, sample_shape: tuple[int, ...]) -> dict[str, int]:
    """The same layer by layer, by module path."""
    import torch
    from torch import nn

    found: dict[str, int] = {}

    def counter(path):
        def count(layer, inputs, output):
            tensor = inputs[0] if getattr(layer, "transposed", False) else output
            values = tensor.value if hasattr(tensor, "value") else tensor
            each = layer.weight.shape[1] if isinstance(layer, nn.Linear) else layer.weight[0].numel()
            found[path] = found.get(path, 0) + values.numel() * each

        return count

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
    hooks = [
        layer.register_forward_hook(counter(path)) for path, layer in model.named_modules() if isinstance(layer, kinds)
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, *sample_shape))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return found
