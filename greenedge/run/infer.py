"""Samples through a model, as many as there are: read piece by piece, written piece by piece, to .npy or .csv."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import GreenedgeError
from greenedge.files.arrays import check_array
from greenedge.files.atomic_write import atomic_write
from greenedge.graph.ops.base import Ints
from greenedge.lower import Lowered
from greenedge.lower.float_io import run_prologue
from greenedge.progress import ProgressFn

Array = NDArray[Any]
Outputs = Mapping[str, Array]  # model output -> (samples, …)
WritePart = Callable[[Outputs], None]
Model = Callable[[Mapping[str, Ints], ProgressFn], Outputs]  # integers of the input edges -> the model's float outputs

PIECE_BYTES = 32 << 20  # of samples read at once
PIECE_SAMPLES = 4096
KINDS = (".npy", ".csv")


@dataclass(frozen=True)
class Written:
    """A file of outputs: how many samples, and the shape of one."""

    path: Path
    samples: int
    shape: tuple[int, ...]


def open_samples(path: Path) -> Array:
    """The array of an .npy file, left on disk. Raises GreenedgeError for a file that is missing, none, or of no
    numbers."""
    check_array(path)
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim == 0 or not len(array) or array.dtype.kind not in "fiub":
        shape = "one number" if array.ndim == 0 else f"{len(array)} samples of {array.dtype}"
        raise GreenedgeError(f"{path} holds {shape}; give at least one sample, as numbers.")
    return array


def pieces(samples: Array) -> Iterator[tuple[int, Array]]:
    """(first sample, some samples in memory), in order."""
    step = max(1, min(PIECE_SAMPLES, PIECE_BYTES // max(1, samples[:1].nbytes)))
    for first in range(0, len(samples), step):
        yield first, np.array(samples[first : first + step])


def run_model(lowered: Lowered, samples: Array, model: Model, progress: ProgressFn) -> Iterator[Outputs]:
    """The model's float outputs, piece by piece; `progress` is called for every sample."""
    total = len(samples)
    for first, piece in pieces(samples):
        levels = run_prologue(lowered, piece)
        yield model(levels, _offset_progress(progress, first, total))
        progress(first + len(piece), total, "")


def _offset_progress(progress: ProgressFn, first: int, total: int) -> ProgressFn:
    """Progress within a piece as progress over all samples."""
    return lambda done, of, text: progress(first + done if of else first, total, text)


def write(path: Path, total: int, parts: Iterator[Outputs]) -> Written:
    """Writes the outputs of `total` samples as they come: an .npy file holds one output, a .csv file all side by side.

    The file appears when it is whole. Raises GreenedgeError for another ending, and for several outputs in an .npy
    file.
    """
    if path.suffix not in KINDS:
        raise GreenedgeError(f"{path} does not say how to write; its name must end in {' or '.join(KINDS)}.")
    first = next(parts)
    if path.suffix == ".npy" and len(first) > 1:
        raise GreenedgeError(
            f"an .npy file holds one array and the model has the outputs {', '.join(first)}; name a .csv file."
        )
    shape = next(iter(first.values())).shape[1:]
    with atomic_write(path) as aside, (_npy if path.suffix == ".npy" else _csv)(aside, total, first) as write_part:
        write_part(first)
        for part in parts:
            write_part(part)
    return Written(path, total, shape)


@contextmanager
def _npy(path: Path, total: int, first: Outputs) -> Iterator[WritePart]:
    (one,) = first.values()
    with open(path, "wb") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(one.dtype),
            "fortran_order": False,
            "shape": (total, *one.shape[1:]),
        }
        np.lib.format.write_array_header_1_0(file, header)

        def write_part(part: Outputs) -> None:
            file.write(np.ascontiguousarray(next(iter(part.values()))).tobytes())

        yield write_part


@contextmanager
def _csv(path: Path, total: int, first: Outputs) -> Iterator[WritePart]:
    """One row a sample, with names in the first; nine digits give back every float32."""
    names = [f"{name}_{k}" for name, values in first.items() for k in range(int(np.prod(values.shape[1:])))]
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(",".join(name.replace(",", "_").replace("\n", "_") for name in names) + "\n")
        yield lambda part: np.savetxt(
            file, np.concatenate([v.reshape(len(v), -1) for v in part.values()], axis=1), "%.9g", ","
        )
