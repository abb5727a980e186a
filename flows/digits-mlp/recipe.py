"""UCI handwritten digits, as they ship inside scikit-learn: 1,797 images of 8×8 pixels with values 0…16."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from greenedge.train import Data, setting

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class DataSettings:
    """test: images held out, a stratified share fixed by the seed."""

    test: int = setting(least=10, most=900)
    seed: int = setting(least=0)


@dataclass(frozen=True)
class ModelSettings:
    """hidden: neurons of the first layer."""

    hidden: int = setting(least=1, most=65536)


def load_data(settings: DataSettings) -> Data:
    """Images as vectors of 64 raw pixel values; the network's 4-bit input quantiser maps them to 0…15."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        images.astype(np.float32),
        labels.astype(np.int64),
        test_size=settings.test,
        random_state=settings.seed,
        stratify=labels,
    )
    return Data(x_train, y_train, x_test, y_test)


def make_model(settings: ModelSettings) -> nn.Module:
    """Dense(hidden), batch norm, ReLU, Dense(10); quantised by [quantise] in flow.toml."""
    from torch import nn

    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(64, settings.hidden, bias=False),
            norm1=nn.BatchNorm1d(settings.hidden),
            relu1=nn.ReLU(),
            fc2=nn.Linear(settings.hidden, 10, bias=False),
        )
    )
