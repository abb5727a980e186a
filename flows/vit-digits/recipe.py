"""UCI handwritten digits as 16 patches of 2×2 pixels, and a vision transformer of one or more layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from greenedge.train import Data, setting

if TYPE_CHECKING:
    import torch
    from torch import nn

SIDE, PATCH = 8, 2
PATCHES = (SIDE // PATCH) ** 2


@dataclass(frozen=True)
class DataSettings:
    """test: images held out, a stratified share fixed by the seed."""

    test: int = setting(least=10, most=900)
    seed: int = setting(least=0)


@dataclass(frozen=True)
class ModelSettings:
    """width of a patch's vector, heads of attention that share it, hidden units of a layer's network."""

    width: int = setting(least=2, most=512)
    heads: int = setting(least=1, most=16)
    hidden: int = setting(least=1, most=2048)
    layers: int = setting(least=1, most=12)


def load_data(settings: DataSettings) -> Data:
    """Images as patches (16, 4) of pixels from 0 to 1 in sixteenths, which the network's 4-bit input quantiser takes as
    0…15."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        cut_patches(images.astype(np.float32).reshape(-1, SIDE, SIDE) / 16),
        labels.astype(np.int64),
        test_size=settings.test,
        random_state=settings.seed,
        stratify=labels,
    )
    return Data(x_train, y_train, x_test, y_test)


def cut_patches(images: np.ndarray) -> np.ndarray:
    """(N, 8, 8) → (N, 16, 4), row by row."""
    across = SIDE // PATCH
    parts = images.reshape(len(images), across, PATCH, across, PATCH).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(parts.reshape(len(images), PATCHES, PATCH * PATCH))


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by -1, 0 or 1 pixel along both axes, zeros moving in."""
    import torch

    across = SIDE // PATCH
    images = x.reshape(len(x), across, across, PATCH, PATCH).permute(0, 1, 3, 2, 4).reshape(len(x), SIDE, SIDE)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    rows, columns = torch.randint(0, 3, (2, len(x)), generator=generator)
    rows, columns = rows[:, None] + torch.arange(SIDE), columns[:, None] + torch.arange(SIDE)
    moved = padded[torch.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]]
    parts = moved.reshape(len(x), across, PATCH, across, PATCH).permute(0, 1, 3, 2, 4)
    return parts.reshape(len(x), PATCHES, PATCH * PATCH)


def make_model(settings: ModelSettings) -> nn.Module:
    """Patches with a learned position each, encoder layers with their norms first, and the mean of all places."""
    import torch
    from torch import nn

    class DigitsTransformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Linear(PATCH * PATCH, settings.width)
            self.place = nn.Parameter(0.1 * torch.randn(1, PATCHES, settings.width))
            layer = nn.TransformerEncoderLayer(
                settings.width, settings.heads, settings.hidden, dropout=0.0, activation="relu",
                batch_first=True, norm_first=True,
            )  # fmt: skip
            self.encoder = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)
            self.norm, self.head = nn.LayerNorm(settings.width), nn.Linear(settings.width, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.encoder(self.patch(x) + self.place)).mean(1))

    return DigitsTransformer()
