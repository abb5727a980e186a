"""NumPy files from outside: their header is read and compared with the file's size before an array is made."""

from __future__ import annotations

import math
import tokenize
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import GreenedgeError

MAX_BYTES = 8 << 30
_MAX_HEADER = 10_000  # bytes; the header of an array of numbers takes some 120
_MAX_AXES = 32
_DAMAGED = (  # what numpy's reader of headers, which are Python literals, raises
    *(ValueError, TypeError, KeyError, IndexError, OSError, SyntaxError, RecursionError, MemoryError, OverflowError),
    tokenize.TokenError,
)
_ADVICE = "write it with numpy.save"


def read_array(path: Path) -> NDArray[Any]:
    """The array in an .npy file. Raises GreenedgeError for a file that is missing, too large, or no .npy file."""
    check_array(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise GreenedgeError(f"{path} has {size:,} bytes; at most {MAX_BYTES:,} are read.")
    with open(path, "rb") as file:
        return read_stream(file, size, path)


def check_array(path: Path) -> None:
    """Raises GreenedgeError for a file that is missing, or whose header is none or does not fit its size."""
    if not path.is_file():
        raise GreenedgeError(f"there is no file {path}.")
    with open(path, "rb") as file:
        if file.read(2) == b"PK":
            raise GreenedgeError(f"{path} holds several arrays; give a .npy file with one.")
        file.seek(0)
        _read_layout(file, path.stat().st_size, path)


def read_stream(file: IO[bytes], size: int, shown: object) -> NDArray[Any]:
    """The array in an open .npy file of `size` bytes; `shown` names it in a message. Raises GreenedgeError."""
    shape, kind, is_fortran = _read_layout(file, size, shown)
    content = bytearray(size - file.tell())
    if len(content) != file.readinto(content):  # type: ignore[attr-defined]
        raise GreenedgeError(f"{shown} has changed while it was read; {_ADVICE}.")
    flat = np.frombuffer(content, kind) if content else np.empty(0, kind)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _read_layout(file: IO[bytes], size: int, shown: object) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """The header of an array of numbers that fills its file."""
    shape, kind, is_fortran = _read_header(file, shown)
    if kind.hasobject or kind.kind == "V":  # objects would be unpickled
        raise GreenedgeError(f"{shown} is no .npy file of numbers (it holds {kind}); {_ADVICE}.")
    count = math.prod(shape)
    left = size - file.tell()
    if count * kind.itemsize != left:
        raise GreenedgeError(
            f"{shown} says shape {shape} of {kind}, {count * kind.itemsize:,} bytes, and holds {left:,}; {_ADVICE}."
        )
    return shape, kind, is_fortran


def _read_header(file: IO[bytes], shown: object) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """(shape, type, whether the first axis is the fastest) of an .npy file, which stands at its data afterwards."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        shape, is_fortran, kind = readers[version](file, max_header_size=_MAX_HEADER)
        whole = all(isinstance(size, int) and 0 <= size < 1 << 48 for size in shape)
        if not whole or len(shape) > _MAX_AXES:
            raise ValueError("no shape")
        return shape, np.dtype(kind), bool(is_fortran)
    except _DAMAGED:
        # numpy's own message advises to trust the file or to unpickle it
        raise GreenedgeError(f"{shown} is no .npy file of numbers; {_ADVICE}.") from None
