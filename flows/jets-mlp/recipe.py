"""Five kinds of jets (gluon, light quark, W, Z, top) from 16 substructure observables: the real file, or made data that
resembles it.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from greenedge.errors import TargetError
from greenedge.train import Data, setting

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from torch import nn

CLASSES = ("g", "q", "w", "z", "t")
FEATURES = (
    "zlogz",
    "c1_b0_mmdt",
    "c1_b1_mmdt",
    "c1_b2_mmdt",
    "c2_b1_mmdt",
    "c2_b2_mmdt",
    "d2_b1_mmdt",
    "d2_b2_mmdt",
    "d2_a1_b1_mmdt",
    "d2_a1_b2_mmdt",
    "m2_b1_mmdt",
    "m2_b2_mmdt",
    "n2_b1_mmdt",
    "n2_b2_mmdt",
    "mass_mmdt",
    "multiplicity",
)
_LABEL = "class"
_MAX_BYTES = 1 << 30  # the real file has about 300 MB


@dataclass(frozen=True)
class DataSettings:
    """file: OpenML 42468 on this machine, or "" for made data; train, test: samples of each, drawn by the seed."""

    file: str = setting("")
    train: int = setting(20_000, least=100, most=1_000_000)
    test: int = setting(10_000, least=10, most=500_000)
    seed: int = setting(0, least=0)


@dataclass(frozen=True)
class ModelSettings:
    """hidden: neurons of each hidden layer."""

    hidden: tuple[int, ...] = setting((64, 32, 32))


def data_files(settings: DataSettings) -> list[Path]:
    """The real file, where one is named."""
    return [Path(settings.file)] if settings.file else []


def load_data(settings: DataSettings) -> Data:
    """Observables with mean 0 and deviation 1 over the training samples; a stratified test set."""
    from sklearn.model_selection import train_test_split

    if settings.file:
        x, y = read_file(Path(settings.file))
        if len(x) < settings.train + settings.test:
            raise TargetError(
                f"{settings.file} has {len(x):,} jets; data.train and data.test ask for "
                f"{settings.train + settings.test:,}."
            )
    else:
        x, y = make_jets(np.random.default_rng(settings.seed), settings.train + settings.test)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, train_size=settings.train, test_size=settings.test, random_state=settings.seed, stratify=y
    )
    mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)
    deviation[deviation == 0] = 1.0
    return Data(
        *(
            ((part - mean) / deviation).astype(np.float32) if part.ndim == 2 else part
            for part in (x_train, y_train, x_test, y_test)
        )
    )


def read_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(observables (N, 16) float64, classes (N,) int64) of an ARFF or CSV file, also gzipped.

    Raises TargetError for a file that is too large, lacks a column, or has a row that is no jet of a known class.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise TargetError(f"{path} has {path.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read.")
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
    try:
        with opened as raw:
            text = io.TextIOWrapper(io.BufferedReader(_SizeLimit(raw, path)), encoding="utf-8", newline="")
            return _read_rows(text, path)
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise TargetError(f"{path} cannot be read ({error}); get data set 42468 from OpenML again.") from None


class _SizeLimit(io.RawIOBase):
    """A file that raises TargetError after _MAX_BYTES: a small compressed file can unpack to any size."""

    def __init__(self, raw: gzip.GzipFile | io.BufferedReader, path: Path) -> None:
        self._raw, self._path, self._read = raw, path, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        data = self._raw.read(len(view))
        self._read += len(data)
        if self._read > _MAX_BYTES:
            raise TargetError(f"{self._path} unpacks to more than {_MAX_BYTES:,} bytes; no more are read.")
        view[: len(data)] = data
        return len(data)


def _read_rows(text: io.TextIOBase, path: Path) -> tuple[np.ndarray, np.ndarray]:
    columns = _read_columns(text, path)
    missing = [name for name in (*FEATURES, _LABEL) if name not in columns]
    if missing:
        raise TargetError(f"{path} has no column {missing[0]!r}; data set 42468 has: {', '.join((*FEATURES, _LABEL))}.")
    order, label = [columns.index(name) for name in FEATURES], columns.index(_LABEL)
    x, y = [], []
    for number, row in enumerate(csv.reader(text), 1):
        if not row or row[0].startswith("%"):
            continue
        try:
            values = np.array([float(row[k]) for k in order])
            kind = CLASSES.index(row[label].strip().strip("'\""))
        except (ValueError, IndexError):
            raise TargetError(
                f"{path}: row {number} of the data is {','.join(row)[:60]!r}; a jet has {len(FEATURES)} "
                f"numbers and one of the classes {', '.join(CLASSES)}."
            ) from None
        if not np.isfinite(values).all():
            raise TargetError(f"{path}: row {number} of the data holds a number that is not finite.")
        x.append(values)
        y.append(kind)
    if not x:
        raise TargetError(f"{path} has no rows; get data set 42468 from OpenML again.")
    return np.array(x), np.array(y, np.int64)


def _read_columns(text: io.TextIOBase, path: Path) -> list[str]:
    """The names of the columns; leaves `text` at the first row."""
    columns: list[str] = []
    while line := text.readline():
        words = line.split()
        if not words or words[0].startswith("%"):
            continue
        if not words[0].startswith("@"):
            if columns:
                break
            return [name.strip().strip("'\"") for name in line.strip().split(",")]  # a CSV file's head
        if words[0].lower() == "@attribute" and len(words) > 1:
            columns.append(words[1].strip("'\""))
        if words[0].lower() == "@data":
            return columns
    raise TargetError(f"{path} is neither ARFF (no @data) nor CSV; get data set 42468 from OpenML again.")


def make_jets(rng: np.random.Generator, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """(observables (N, 16), classes (N,)): look-alikes without physics.

    Each class has a mass peak, a number of prongs and a number of particles; the 16 observables are noisy, skewed
    functions of these. W against Z and gluon against quark are hard to tell apart on purpose.
    """
    y = rng.integers(0, len(CLASSES), samples)
    peak, prongs = np.array([0, 0, 80.4, 91.2, 172.8])[y], np.array([1, 1, 2, 2, 3])[y]
    falling = rng.gamma(2.0, np.array([32.0, 24.0, 1, 1, 1])[y])
    tail = rng.random(samples) < 0.15  # a boson or top that lost a prong looks like a quark
    mass = np.where((peak == 0) | tail, falling + 8, peak * (1 + 0.07 * rng.standard_normal(samples)))
    prongs = np.where(tail, 1, prongs) + 0.35 * rng.standard_normal(samples)
    multiplicity = rng.gamma(9.0, np.array([6.3, 4.3, 4.8, 4.9, 6.6])[y])
    noise = rng.standard_normal((samples, 14))
    scale = np.log(mass / 80)
    spread = 0.5 * np.log(multiplicity / 40)
    c1 = [np.exp(0.5 * scale * (1 + beta) + 0.3 * spread + 0.2 * noise[:, beta]) for beta in range(3)]
    c2 = [np.exp(-0.5 * (prongs - 2) + 0.4 * spread * beta + 0.35 * noise[:, 2 + beta]) for beta in (1, 2)]
    d2 = [np.exp(-0.9 * (prongs - 1.5) + 0.5 * spread + 0.4 * noise[:, 4 + k]) for k in range(4)]
    m2 = [np.exp(-0.4 * (prongs - 2) ** 2 + 0.2 * scale + 0.3 * noise[:, 8 + k]) for k in range(2)]
    n2 = [np.tanh(0.5 * (2.2 - prongs) + 0.3 * noise[:, 10 + k]) for k in range(2)]
    zlogz = -np.log(multiplicity) + 0.25 * prongs + 0.2 * noise[:, 12]
    return np.stack([zlogz, *c1, *c2, *d2, *m2, *n2, mass, multiplicity], axis=1), y


def make_model(settings: ModelSettings) -> nn.Module:
    """Dense, batch norm and ReLU for each hidden layer, then Dense(5); quantised by [quantise] in flow.toml."""
    from torch import nn

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width = len(FEATURES)
    for k, hidden in enumerate(settings.hidden, 1):
        layers |= {
            f"fc{k}": nn.Linear(width, hidden, bias=False),
            f"norm{k}": nn.BatchNorm1d(hidden),
            f"relu{k}": nn.ReLU(),
        }
        width = hidden
    layers["out"] = nn.Linear(width, len(CLASSES), bias=False)
    return nn.Sequential(layers)
