"""Twelve small networks of the kinds that users bring to hls4ml, quantised with Brevitas and exported to QONNX.

They are trained for nothing: weights are random, the quantisers' scales and the batch norms have seen random data. What
is compared is whether two programs compute the same numbers.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from greenedge.train.recipe_config import QuantiseSettings

_SCALE, _BATCH, _STEPS = 0.0625, 32, 120


@dataclass(frozen=True)
class Network:
    """A name, the input's shape, what builds its layers, and how it is quantised."""

    name: str
    shape: tuple[int, ...]
    kind: str
    settings: dict = field(default_factory=dict)


NETWORKS = (
    Network("mlp w4a4", (16,), "mlp"),
    Network("mlp w4a4 powers of two", (16,), "mlp", {"power_of_two": True}),
    Network("mlp w4a4 per channel", (16,), "mlp", {"per_channel": True}),
    Network("mlp w2a2", (16,), "mlp", {"weight_bits": 2, "act_bits": 2}),
    Network("mlp w8a8", (16,), "mlp", {"weight_bits": 8, "act_bits": 8}),
    Network("mlp ternary", (16,), "mlp", {"weight_bits": 2, "act_bits": 4}),
    Network("mlp binary", (16,), "mlp", {"weight_bits": 1, "act_bits": 4}),
    Network("cnn w4a4", (1, 8, 8), "cnn"),
    Network("cnn w8a8 per channel", (1, 8, 8), "cnn", {"weight_bits": 8, "act_bits": 8, "per_channel": True}),
    Network("depthwise w4a4", (2, 8, 8), "depthwise"),
    Network("residual w4a4", (2, 6, 6), "residual"),
    Network("sequence w4a4", (2, 16), "sequence"),
)


def _model(kind: str, shape: tuple[int, ...]):
    from torch import nn

    def block(name, layer, norm, channels):
        return {name: layer, f"{name}_norm": norm(channels), f"{name}_relu": nn.ReLU()}

    if kind == "mlp":
        return nn.Sequential(
            OrderedDict(
                **block("fc1", nn.Linear(shape[0], 12, bias=False), nn.BatchNorm1d, 12),
                **block("fc2", nn.Linear(12, 8, bias=False), nn.BatchNorm1d, 8),
                out=nn.Linear(8, 5, bias=False),
            )
        )
    if kind == "cnn":
        return nn.Sequential(
            OrderedDict(
                **block("conv1", nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d, 4),
                pool=nn.MaxPool2d(2),
                **block("conv2", nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d, 4),
                flat=nn.Flatten(),
                out=nn.Linear(16, 5, bias=False),
            )
        )
    if kind == "depthwise":
        return nn.Sequential(
            OrderedDict(
                **block("wise", nn.Conv2d(2, 2, 3, groups=2, bias=False), nn.BatchNorm2d, 2),
                **block("point", nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d, 4),
                pool=nn.MaxPool2d(3),
                flat=nn.Flatten(),
                out=nn.Linear(16, 5, bias=False),
            )
        )
    if kind == "sequence":
        return nn.Sequential(
            OrderedDict(
                **block("conv1", nn.Conv1d(2, 4, 3, padding=1, bias=False), nn.BatchNorm1d, 4),
                pool=nn.MaxPool1d(4),
                flat=nn.Flatten(),
                out=nn.Linear(16, 5, bias=False),
            )
        )
    return _residual()


def _residual():
    from torch import nn

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
            self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
            self.relu1, self.relu2, self.pool = nn.ReLU(), nn.ReLU(), nn.MaxPool2d(3)
            self.flat, self.out = nn.Flatten(), nn.Linear(16, 5, bias=False)

        def forward(self, x):
            x = self.relu1(self.norm1(self.conv1(x)))
            x = self.relu2(self.norm2(self.conv2(x)) + x)
            return self.out(self.flat(self.pool(x)))

    return Residual()


def export(network: Network, path: Path, samples: int, seed: int = 1) -> np.ndarray:
    """Writes the network as QONNX; returns float32 samples (samples, *shape) on the input quantiser's grid."""
    import torch

    from greenedge.frontends.brevitas import export_model
    from greenedge.train.quantise import quantise

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    settings = QuantiseSettings(
        **{
            "input_bits": 8,
            "input_signed": True,
            "input_scale": _SCALE,
            "output_bits": 8,
            "add_bits": 4,
            **network.settings,
        }
    )
    model = quantise(_model(network.kind, network.shape), settings, network.name)

    def draw(count: int) -> np.ndarray:
        return (rng.integers(-48, 48, (count, *network.shape)) * _SCALE).astype(np.float32)

    with torch.no_grad():
        model.train()
        for _ in range(_STEPS):
            model(torch.from_numpy(draw(_BATCH)))
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.5)
    model.eval()
    x = draw(samples)
    export_model(model, x[:4], path)
    return x
