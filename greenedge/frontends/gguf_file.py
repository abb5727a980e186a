"""The container of GGUF, versions 2 and 3: metadata, and where each tensor lies. Everything is bounded by the file.

Layout and block formats: the GGUF specification of ggml (docs/gguf.md), and `ggml-quants.c` for Q4_0, Q4_1 and Q8_0.
Read here and not by the `gguf` package, since that one maps counts from the file to loops and arrays unchecked.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import GreenedgeError

MAGIC = b"GGUF"
Value = int | float | bool | str | bytes | list["Value"]
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MOST_KEYS, _MOST_TENSORS, _MOST_STRING, _MOST_ITEMS, _MOST_AXES = 1 << 14, 1 << 15, 1 << 24, 1 << 21, 4
# type number: (name, numbers of a block, bytes of a block)
_TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 8: ("Q8_0", 32, 34)}
_OTHERS = {6: "Q5_0", 7: "Q5_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 30: "BF16"}


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: shape (slowest axis first), type number of ggml, first byte in the file."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int

    @property
    def count(self) -> int:
        """Of its numbers."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Of its bytes."""
        _, numbers, size = _TYPES[self.kind]
        return self.count // numbers * size


@dataclass(frozen=True)
class GgufFile:
    """Metadata by key, tensors by name."""

    path: Path
    metadata: dict[str, Value]
    tensors: dict[str, Tensor]

    def read(self, tensor: Tensor) -> NDArray[np.float32]:
        """A tensor's numbers in float32."""
        content = np.fromfile(self.path, np.uint8, tensor.size, offset=tensor.start)
        if content.size != tensor.size:
            raise GreenedgeError(f"{self.path} has changed while it was read; run the command again.")
        return _dequantise(content, tensor.kind).reshape(tensor.shape)


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF does. Raises GreenedgeError where it is missing."""
    if not path.is_file():
        raise GreenedgeError(f"there is no file {path}.")
    with open(path, "rb") as file:
        return file.read(4) == MAGIC


def open_gguf(path: Path) -> GgufFile:
    """The index of a file. Raises GreenedgeError for one that is missing, of another kind, or damaged."""
    if not is_gguf(path):
        raise GreenedgeError(f"{path} is no GGUF file.")
    with open(path, "rb") as file:
        reader = _Reader(file, path, path.stat().st_size)
        file.seek(4)
        version = int(reader.scalar("<I"))
        if version not in (2, 3):
            raise GreenedgeError(f"{path} is GGUF of version {version}; 2 and 3 are read: convert the model again.")
        tensors, keys = reader.count(_MOST_TENSORS, 24), reader.count(_MOST_KEYS, 12)
        metadata = {reader.string(1 << 10): reader.value(int(reader.scalar("<I"))) for _ in range(keys)}
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 16 or alignment % 8:
            raise reader.describe_damage(f"an alignment of {alignment!r}")
        listed = [reader.tensor() for _ in range(tensors)]
        start = -(-file.tell() // alignment) * alignment
    return GgufFile(path, metadata, _place(listed, start, reader))


def _place(listed: list[Tensor], start: int, reader: _Reader) -> dict[str, Tensor]:
    """Tensors with their place in the file; each lies in it, and no name occurs twice."""
    placed = {one.name: Tensor(one.name, one.shape, one.kind, start + one.start) for one in listed}
    if len(placed) < len(listed):
        raise reader.describe_damage("a tensor twice")
    for one in placed.values():
        if one.start + one.size > reader.size:
            raise reader.describe_damage(f"{one.name} up to byte {one.start + one.size:,} of {reader.size:,}")
    return placed


class _Reader:
    """Reads values from a file whose size is known: nothing is taken that cannot lie in it."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file, self.path, self.size = file, path, size
        self.items = 0  # of all arrays: one of a byte in the file takes forty as an object

    def describe_damage(self, what: str) -> GreenedgeError:
        return GreenedgeError(f"{self.path} is a damaged GGUF file: it says {what}; get it again.")

    def take(self, size: int) -> bytes:
        content = self.file.read(size) if size <= self.size else b""
        if len(content) != size:
            raise GreenedgeError(f"{self.path} is a damaged GGUF file: it ends too early; get it again.")
        return content

    def scalar(self, form: str) -> int | float | bool:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        assert isinstance(value, (int, float))
        return value

    def count(self, most: int, least_bytes: int) -> int:
        """A number of things, each of at least so many bytes."""
        count = int(self.scalar("<Q"))
        if count > most or count * least_bytes > self.size - self.file.tell():
            raise self.describe_damage(f"{count:,} entries at byte {self.file.tell() - 8:,}")
        return count

    def string(self, most: int = _MOST_STRING) -> str:
        try:
            return self.take(self.count(most, 1)).decode()
        except UnicodeDecodeError:
            raise self.describe_damage(f"a text at byte {self.file.tell():,} that is no UTF-8") from None

    def value(self, kind: int) -> Value:
        if kind == _ARRAY:
            inner = int(self.scalar("<I"))
            if inner != _STRING and inner not in _SCALARS:
                raise self.describe_damage(f"an array of type {inner}")
            size = 8 if inner == _STRING else struct.calcsize(_SCALARS[inner])
            count = self.count(_MOST_ITEMS, size)
            self.items += count
            if self.items > _MOST_ITEMS:
                raise self.describe_damage(f"arrays of more than {_MOST_ITEMS:,} entries")
            return [self.value(inner) for _ in range(count)]
        if kind == _STRING:
            return self.string()
        if kind not in _SCALARS:
            raise self.describe_damage(f"a value of type {kind}")
        return self.scalar(_SCALARS[kind])

    def tensor(self) -> Tensor:
        name, axes = self.string(1 << 10), int(self.scalar("<I"))
        if not 1 <= axes <= _MOST_AXES:
            raise self.describe_damage(f"{axes} axes of {name}")
        shape = tuple(int(self.scalar("<Q")) for _ in range(axes))[::-1]
        kind, offset = int(self.scalar("<I")), int(self.scalar("<Q"))
        if kind not in _TYPES:
            found = _OTHERS.get(kind, f"type {kind}")
            known = ", ".join(entry[0] for entry in _TYPES.values())
            raise GreenedgeError(
                f"{self.path}: {name} is {found}; {known} are read: convert the model with llama.cpp's --outtype f16."
            )
        if not 0 < math.prod(shape) <= 1 << 32 or shape[-1] % _TYPES[kind][1]:
            raise self.describe_damage(f"shape {shape} of {name}")
        return Tensor(name, shape, kind, offset)


def _dequantise(content: NDArray[np.uint8], kind: int) -> NDArray[np.float32]:
    """Bytes of a tensor → its numbers."""
    name, _, size = _TYPES[kind]
    if name in ("F32", "F16"):
        return content.view("<f4" if name == "F32" else "<f2").astype(np.float32)
    blocks = content.reshape(-1, size)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    if name == "Q8_0":
        return (blocks[:, 2:].view(np.int8) * scale).ravel()
    packed = blocks[:, size - 16 :]
    levels = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)
    if name == "Q4_0":
        return ((levels - 8) * scale).ravel()
    return (levels * scale + blocks[:, 2:4].copy().view("<f2").astype(np.float32)).ravel()
