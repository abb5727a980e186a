"""NumPy files from outside: their header is read and compared with the file's size before an array is made."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import GreenedgeError

MAX_BYTES = 8 << 30
_MAX_HEADER = 10_000  # bytes; the header of an array of numbers takes some 120
_MAX_AXES = 32
_MAX_MEMBERS = 1 << 10  # of an archive
_MAX_UNPACKED = 2 << 30  # bytes of what is compressed in an archive: it can be a thousand times its file
_MAX_RATIO = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}  # of what numpy writes: what says more is not true
_BROKEN = (  # what zipfile and zlib raise
    *(OSError, EOFError, ValueError, KeyError, IndexError, NotImplementedError, RuntimeError, MemoryError),
    *(OverflowError, zipfile.BadZipFile, zlib.error),
)
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
        if _is_archive(file):
            raise GreenedgeError(f"{path} holds several arrays; give a .npy file with one.")
        file.seek(0)
        _read_layout(file, path.stat().st_size, path)


def is_archive(path: Path) -> bool:
    """Whether the file is an .npz file, by its first bytes. Raises GreenedgeError for a file that is missing."""
    if not path.is_file():
        raise GreenedgeError(f"there is no file {path}.")
    with open(path, "rb") as file:
        return _is_archive(file)


def _is_archive(file: IO[bytes]) -> bool:
    return file.read(2) == b"PK"


def read_archive(path: Path) -> dict[str, NDArray[Any]]:
    """{name: array} of an .npz file, in its order. Raises GreenedgeError for a file that is missing, no .npz file, or
    that would unpack to too much; its index says how much before anything is unpacked."""
    if not is_archive(path):
        raise GreenedgeError(f"{path} is no .npz file; write it with numpy.savez.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, path)
            arrays: dict[str, NDArray[Any]] = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    arrays[name] = read_stream(file, member.file_size, f"{path}, array {name!r},")
            return arrays
    except _BROKEN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise GreenedgeError(f"{path} is a damaged .npz file ({reason}); write it with numpy.savez.") from None


def _check_members(members: list[zipfile.ZipInfo], path: Path) -> None:
    """Raises GreenedgeError for an index of which not every array can be read, and in bounded memory."""
    names = [member.filename for member in members]
    if not members or len(set(names)) < len(names) or not all(name.endswith(".npy") for name in names):
        raise GreenedgeError(f"{path} is no .npz file with a .npy file for each array; write it with numpy.savez.")
    if len(members) > _MAX_MEMBERS:
        raise GreenedgeError(f"{path} holds {len(members):,} arrays; at most {_MAX_MEMBERS:,} are read.")
    if any(member.compress_type not in _MAX_RATIO or member.flag_bits & 1 for member in members):
        raise GreenedgeError(f"{path} is encrypted, or compressed otherwise than by numpy; write it with numpy.savez.")
    if sum(member.compress_size for member in members) > path.stat().st_size or any(
        member.file_size > _MAX_RATIO[member.compress_type] * member.compress_size for member in members
    ):
        raise GreenedgeError(f"{path} is a damaged .npz file (its index does not fit it); write it with numpy.savez.")
    unpacked = sum(member.file_size for member in members if member.compress_type != zipfile.ZIP_STORED)
    if unpacked > _MAX_UNPACKED:
        raise GreenedgeError(
            f"{path} would unpack to {unpacked:,} bytes; at most {_MAX_UNPACKED:,} are accepted: write it with "
            "numpy.savez, which does not compress."
        )
    if (total := sum(member.file_size for member in members)) > MAX_BYTES:
        raise GreenedgeError(f"{path} has {total:,} bytes; at most {MAX_BYTES:,} are read.")


def write_archive(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes an .npz file as numpy.savez does, with arrays of any name; the same arrays give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


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
