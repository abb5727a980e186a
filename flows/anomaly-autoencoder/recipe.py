"""MLPerf Tiny's anomaly detection in machine sounds: an autoencoder on log-mel frames of ToyADMOS.

It is trained on normal sounds alone; a sound that it reproduces badly is abnormal. `source` "hum" makes synthetic
sounds of a motor, for use without the archive.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from greenedge.errors import TargetError
from greenedge.train import Data, setting
from greenedge.train.audio import log_mel, read_wav

if TYPE_CHECKING:
    import torch
    from torch import nn

RATE, MELS, FRAMES = 16_000, 128, 5
_MAX_BYTES = 4 << 20  # of one recording of eleven seconds
_Recordings = list[tuple[np.ndarray, int]]  # (windows (N, 640), 1 if abnormal)
_NAME = re.compile(r"(?:^|/)(train|test)/(normal|anomaly)_id_(\d\d)_\d+\.wav$")


@dataclass(frozen=True)
class DataSettings:
    """source: "toyadmos" reads `archive`; "hum" makes `made` sounds. machine: the id of one toy car, 0 for all.

    windows: of five frames, at equal distances in each recording; a recording's score is the mean over them.
    """

    source: str = setting(choices=("toyadmos", "hum"))
    archive: str = setting("dev_data_ToyCar.zip")
    machine: int = setting(1, least=0, most=99)
    windows: int = setting(40, least=1, most=196)
    made: int = setting(60, least=8, most=2000)
    seed: int = setting(0, least=0)


@dataclass(frozen=True)
class ModelSettings:
    """width: neurons of the eight hidden layers; waist: of the layer in the middle. 128 and 8 in MLPerf Tiny."""

    width: int = setting(128, least=1, most=4096)
    waist: int = setting(8, least=1, most=4096)


def data_files(settings: DataSettings) -> list[Path]:
    """The archive, where `source` reads it."""
    return [Path(settings.archive)] if settings.source == "toyadmos" else []


def load_data(settings: DataSettings) -> Data:
    """Windows of 5×128 log-mel energies, standardised by the training ones; y (N, 2) is (1 if abnormal, recording)."""
    train, test = (_read_toyadmos if settings.source == "toyadmos" else _make_hum)(settings)
    x_train = np.concatenate([x for x, _ in train])
    x_test = np.concatenate([x for x, _ in test])
    mean, spread = x_train.mean(), x_train.std()
    return Data((x_train - mean) / spread, _label_windows(train), (x_test - mean) / spread, _label_windows(test))


def _label_windows(recordings: _Recordings) -> np.ndarray:
    """(windows, 2): (1 if abnormal, number of the recording)."""
    return np.array([(y, number) for number, (x, y) in enumerate(recordings) for _ in x], np.int64)


def make_model(settings: ModelSettings) -> nn.Module:
    """640 – 4 × width – waist – 4 × width – 640, batch norm and ReLU after all but the last."""
    from torch import nn

    sizes = [MELS * FRAMES, *[settings.width] * 4, settings.waist, *[settings.width] * 4]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], sizes[0], bias=False))


def loss(outputs: torch.Tensor, x: torch.Tensor, _y: torch.Tensor) -> torch.Tensor:
    """The mean squared error between outputs and inputs."""
    return ((outputs - x) ** 2).mean()


def score(outputs: np.ndarray, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """ "auc": the chance that an abnormal recording has a larger mean error than a normal one, ties counting half.

    Validation samples are all normal and have no AUC; their score is minus the mean error, so that larger is better.
    """
    errors = np.square(outputs - x).mean(axis=1)
    if y[:, 0].min() == y[:, 0].max():
        return {"minus_mean_error": -float(errors.mean())}
    from sklearn.metrics import roc_auc_score

    recordings, first, place = np.unique(y[:, 1], return_index=True, return_inverse=True)
    means = np.bincount(place, errors) / np.bincount(place)
    return {"auc": float(roc_auc_score(y[first, 0], means))}


def _cut_windows(samples: np.ndarray, settings: DataSettings) -> np.ndarray:
    """(windows, 640): log-mel frames of 64 ms every 32 ms."""
    mel = log_mel(samples, RATE, 1024, 512, MELS)
    if len(mel) < FRAMES:
        raise TargetError(f"a recording has {len(samples)} samples; {1024 + 512 * (FRAMES - 1)} are the fewest.")
    starts = np.linspace(0, len(mel) - FRAMES, settings.windows).round().astype(int)
    return np.stack([mel[start : start + FRAMES].ravel() for start in starts])


def _read_toyadmos(settings: DataSettings) -> tuple[_Recordings, _Recordings]:
    """train/normal_id_NN_*.wav and test/{normal,anomaly}_id_NN_*.wav of the zip archive, read in place."""
    path = Path(settings.archive)
    parts: dict[str, _Recordings] = {"train": [], "test": []}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in sorted(archive.infolist(), key=lambda entry: entry.filename):
                match = _NAME.search(info.filename)
                if not match or info.file_size > _MAX_BYTES or (settings.machine and int(match[3]) != settings.machine):
                    continue
                sound = read_wav(archive.read(info), info.filename, RATE)
                parts[match[1]].append((_cut_windows(sound, settings), int(match[2] == "anomaly")))
    except (zipfile.BadZipFile, OSError) as error:
        raise TargetError(f"{path} is no zip archive ({error}); get dev_data_ToyCar.zip anew.") from None
    abnormal = {label for _, label in parts["test"]}
    if not parts["train"] or abnormal != {0, 1} or any(label for _, label in parts["train"]):
        raise TargetError(
            f"{path} holds {len(parts['train'])} training and {len(parts['test'])} test recordings of machine "
            f"{settings.machine}; normal ones to train on and both kinds to test are needed."
        )
    return parts["train"], parts["test"]


def _make_hum(settings: DataSettings) -> tuple[_Recordings, _Recordings]:
    """A motor: harmonics of about 50 Hz in noise. An abnormal one rattles: a weak tone, on 7 times a second."""
    rng = np.random.default_rng(settings.seed)

    def make_recording(rattles: bool) -> np.ndarray:
        t = np.arange(3 * RATE) / RATE
        base = rng.uniform(48, 52)
        sound = sum((np.sin(2 * np.pi * base * k * t + rng.uniform(0, 7)) / k for k in range(1, 25)), np.zeros(1))
        sound = sound + rng.normal(0, 0.3, len(t))
        if rattles:
            sound += (
                rng.uniform(0.1, 0.25)
                * np.sin(2 * np.pi * rng.uniform(2500, 5000) * t)
                * (np.sin(2 * np.pi * 7 * t) > 0)
            )
        return _cut_windows((0.05 * sound).astype(np.float32), settings)

    test = settings.made // 4
    train = [(make_recording(False), 0) for _ in range(settings.made - test)]
    return train, [(make_recording(bool(k % 2)), k % 2) for k in range(2 * test)]
