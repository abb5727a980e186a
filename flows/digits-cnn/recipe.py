"""UCI handwritten digits as 1×8×8 images, and a small network with every layer kind of a modern edge CNN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from greenedge.train import Data, setting

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class DataSettings:
    """test: images held out, a stratified share fixed by the seed."""

    test: int = setting(least=10, most=900)
    seed: int = setting(least=0)


@dataclass(frozen=True)
class ModelSettings:
    """channels of the residual block, wide_channels of the last convolution."""

    channels: int = setting(least=1, most=1024)
    wide_channels: int = setting(least=1, most=1024)


def load_data(settings: DataSettings) -> Data:
    """Images (1, 8, 8) of raw pixel values 0…16; the network's 4-bit input quantiser maps them to 0…15."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        images.astype(np.float32).reshape(-1, 1, 8, 8),
        labels.astype(np.int64),
        test_size=settings.test,
        random_state=settings.seed,
        stratify=labels,
    )
    return Data(x_train, y_train, x_test, y_test)


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by -1, 0 or 1 pixel along both axes, zeros moving in."""
    import torch

    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    rows, columns = torch.randint(0, 3, (2, len(x)), generator=generator)
    rows, columns = rows[:, None] + torch.arange(8), columns[:, None] + torch.arange(8)
    return padded[torch.arange(len(x))[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def make_model(settings: ModelSettings) -> nn.Module:
    """Convolution, residual depthwise-pointwise block, max pool, convolution, global average pool, dense."""
    from torch import nn

    class DigitsCnn(nn.Module):
        def __init__(self, narrow: int, wide: int) -> None:
            super().__init__()
            self.stem, self.stem_norm, self.stem_relu = _conv(1, narrow, 3), nn.BatchNorm2d(narrow), nn.ReLU()
            self.depth, self.depth_norm = _conv(narrow, narrow, 3, groups=narrow), nn.BatchNorm2d(narrow)
            self.depth_relu = nn.ReLU()
            self.point, self.point_norm, self.block_relu = _conv(narrow, narrow, 1), nn.BatchNorm2d(narrow), nn.ReLU()
            self.pool = nn.MaxPool2d(2)
            self.conv, self.conv_norm, self.conv_relu = _conv(narrow, wide, 3), nn.BatchNorm2d(wide), nn.ReLU()
            self.mean, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 10, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem_relu(self.stem_norm(self.stem(x)))
            branch = self.depth_relu(self.depth_norm(self.depth(x)))
            branch = self.point_norm(self.point(branch))
            x = self.pool(self.block_relu(x + branch))
            x = self.conv_relu(self.conv_norm(self.conv(x)))
            return self.head(self.flatten(self.mean(x)))

    return DigitsCnn(settings.channels, settings.wide_channels)


def _conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Conv2d:
    from torch import nn

    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
