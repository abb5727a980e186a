"""Samples through a model, as many as there are: read piece by piece, written piece by piece, to .npy, .npz or .csv."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.files.scratch import scratch_folder
from greenedge.frontends.samples import Samples, count_samples
from greenedge.graph.ops.base import Ints
from greenedge.lower import Lowered
from greenedge.lower.float_io import run_prologue
from greenedge.progress import ProgressFn

Array = NDArray[Any]
Outputs = Mapping[str, Array]  # model output -> (samples, …)
WritePart = Callable[[Outputs], object]
Model = Callable[[Mapping[str, Ints], ProgressFn], Outputs]  # integers of the input edges -> the model's float outputs

PIECE_BYTES = 32 << 20  # of samples read at once
PIECE_SAMPLES = 4096


@dataclass(frozen=True)
class Written:
    """A file of outputs: how many samples, and of every output the shape of one."""

    path: Path
    samples: int
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the first output."""
        return next(iter(self.shapes.values()))


def pieces(samples: Samples) -> Iterator[tuple[int, Samples]]:
    """(first sample, some samples of every input in memory), in order."""
    size = sum(array[:1].nbytes for array in samples.values())
    step = max(1, min(PIECE_SAMPLES, PIECE_BYTES // max(1, size)))
    for first in range(0, count_samples(samples), step):
        yield first, {name: np.array(array[first : first + step]) for name, array in samples.items()}


def run_model(lowered: Lowered, samples: Samples, model: Model, progress: ProgressFn) -> Iterator[Outputs]:
    """The model's float outputs, piece by piece; `progress` is called for every sample."""
    total = count_samples(samples)
    for first, piece in pieces(samples):
        levels = run_prologue(lowered, piece)
        yield model(levels, _offset_progress(progress, first, total))
        progress(first + count_samples(piece), total, "")


def _offset_progress(progress: ProgressFn, first: int, total: int) -> ProgressFn:
    """Progress within a piece as progress over all samples."""
    return lambda done, of, text: progress(first + done if of else first, total, text)


def write(path: Path, total: int, parts: Iterator[Outputs]) -> Written:
    """Writes the outputs of `total` samples as they come: an .npy file holds one output, an .npz file one array for
    each, a .csv file all side by side.

    The file appears when it is whole. Raises GreenedgeError for another ending, and for several outputs in an .npy
    file.
    """
    if path.suffix not in KINDS:
        raise GreenedgeError(f"{path} does not say how to write; its name must end in {', '.join(KINDS)}.")
    first = next(parts)
    if path.suffix == ".npy" and len(first) > 1:
        raise GreenedgeError(
            f"an .npy file holds one array and the model has the outputs {', '.join(first)}; name an .npz or a .csv "
            "file."
        )
    with atomic_write(path) as aside, KINDS[path.suffix](aside, total, first) as write_part:
        write_part(first)
        for part in parts:
            write_part(part)
    return Written(path, total, {name: values.shape[1:] for name, values in first.items()})


@contextmanager
def _npy(path: Path, total: int, first: Outputs) -> Iterator[WritePart]:
    ((name, one),) = first.items()
    with open(path, "wb") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(one.dtype),
            "fortran_order": False,
            "shape": (total, *one.shape[1:]),
        }
        np.lib.format.write_array_header_1_0(file, header)
        yield lambda part: file.write(np.ascontiguousarray(part[name]).tobytes())


@contextmanager
def _npz(path: Path, total: int, first: Outputs) -> Iterator[WritePart]:
    """Each output into a file of its own, which become one archive at the end."""
    with scratch_folder("outputs") as scratch:
        files = {name: Path(scratch) / f"{k}.npy" for k, name in enumerate(first)}
        with ExitStack() as opened:
            writers = {
                name: opened.enter_context(_npy(file, total, {name: first[name]})) for name, file in files.items()
            }

            def write_part(part: Outputs) -> None:
                for write_one in writers.values():
                    write_one(part)

            yield write_part
        with zipfile.ZipFile(path, "w") as archive:
            for name, file in files.items():
                archive.write(file, f"{name}.npy")


@contextmanager
def _csv(path: Path, total: int, first: Outputs) -> Iterator[WritePart]:
    """One row a sample, with names in the first; nine digits give back every float32."""
    names = [f"{name}_{k}" for name, values in first.items() for k in range(int(np.prod(values.shape[1:])))]
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(",".join(name.replace(",", "_").replace("\n", "_") for name in names) + "\n")
        yield lambda part: np.savetxt(
            file, np.concatenate([v.reshape(len(v), -1) for v in part.values()], axis=1), "%.9g", ","
        )


KINDS: dict[str, Callable[[Path, int, Outputs], AbstractContextManager[WritePart]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".csv": _csv,
}
