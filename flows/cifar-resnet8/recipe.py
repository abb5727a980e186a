"""CIFAR-10 from the binary archive as it is downloaded, and MLPerf Tiny's ResNet-8."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from greenedge.errors import TargetError
from greenedge.train import Data, setting

if TYPE_CHECKING:
    import torch
    from torch import nn

CLASSES = 10
_RECORD = 1 + 3 * 32 * 32  # a label, then red, green and blue, row by row
_MAX_RECORDS = 10_000  # in one file of the archive
_GET = "get cifar-10-binary.tar.gz anew"


@dataclass(frozen=True)
class DataSettings:
    """archive: cifar-10-binary.tar.gz, a path from where greenedge is started. test: how many of its test images."""

    archive: str = setting("cifar-10-binary.tar.gz")
    test: int = setting(10_000, least=1, most=10_000)


@dataclass(frozen=True)
class ModelSettings:
    """channels of the first stage; the next two have twice and four times as many."""

    channels: int = setting(16, least=1, most=512)


def data_files(settings: DataSettings) -> list[Path]:
    """The archive."""
    return [Path(settings.archive)]


def load_data(settings: DataSettings) -> Data:
    """Images (3, 32, 32) with values 0…255; the levels of the network's 8-bit input quantiser."""
    parts: dict[str, list[np.ndarray]] = {"data": [], "test": []}
    path = Path(settings.archive)
    hint = (
        "the archive for Python holds pickles, which are programs, and is not read; " if "python" in path.name else ""
    )
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in sorted((m for m in archive if m.isfile()), key=lambda m: m.name):
                name = member.name.rpartition("/")[2]
                kind = name.partition("_")[0]
                file = archive.extractfile(member)
                if kind in parts and name.endswith(".bin") and file is not None:
                    parts[kind].append(_read_records(file.read(_MAX_RECORDS * _RECORD + 1), name, path))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise TargetError(f"{path} is no tar.gz archive ({error}); {hint}{_GET}.") from None
    if not parts["data"] or not parts["test"]:
        raise TargetError(
            f"{path} holds {len(parts['data'])} files data_batch_N.bin and {len(parts['test'])} test_batch.bin; both "
            f"are needed: {hint}{_GET}."
        )
    train, test = np.concatenate(parts["data"]), np.concatenate(parts["test"])[: settings.test]
    return Data(*_split_records(train), *_split_records(test))


def _read_records(data: bytes, name: str, path: Path) -> np.ndarray:
    """(N, 3073) bytes of one file of the archive. Raises TargetError for a size or a label that it cannot have."""
    if not data or len(data) % _RECORD or len(data) > _MAX_RECORDS * _RECORD:
        raise TargetError(
            f"{path}: {name} has {len(data):,} bytes; a file has 1 to {_MAX_RECORDS:,} records of {_RECORD:,}: {_GET}."
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    if records[:, 0].max() >= CLASSES:
        raise TargetError(f"{path}: {name} has label {records[:, 0].max()}; labels are 0 to {CLASSES - 1}: {_GET}.")
    return records


def _split_records(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(images (N, 3, 32, 32) float32, labels (N,) int64)."""
    return records[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32), records[:, 0].astype(np.int64)


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Half of the images mirrored, each moved by up to four pixels along both axes, zeros moving in."""
    import torch

    size = x.shape[-1]
    flip = torch.rand(len(x), generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    rows, columns = torch.randint(0, 9, (2, len(x)), generator=generator)
    rows, columns = rows[:, None] + torch.arange(size), columns[:, None] + torch.arange(size)
    return padded[
        torch.arange(len(x))[:, None, None, None],
        torch.arange(3)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def make_model(settings: ModelSettings) -> nn.Module:
    """Convolution; three residual stages of two 3×3 convolutions, the last two at half the size; mean; dense."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.norm1, self.relu1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs), nn.ReLU()
            self.conv2, self.norm2, self.relu2 = _conv(outputs, outputs, 3, 1), nn.BatchNorm2d(outputs), nn.ReLU()
            self.narrow = None
            if stride > 1 or inputs != outputs:
                self.narrow = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            branch = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
            return self.relu2(branch + (x if self.narrow is None else self.narrow(x)))

    c = settings.channels
    return nn.Sequential(
        _conv(3, c, 3, 1),
        nn.BatchNorm2d(c),
        nn.ReLU(),
        Block(c, c, 1),
        Block(c, 2 * c, 2),
        Block(2 * c, 4 * c, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * c, CLASSES, bias=False),
    )


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    from torch import nn

    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
